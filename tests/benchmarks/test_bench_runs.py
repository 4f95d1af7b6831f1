"""The benchmark runs and shows every row; no figure is judged here. What it compares with writes the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What `run.py --quick` prints, and its JSON."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--json", "out.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert [path.name for path in folder.iterdir()] == ["out.json"]
    return done.stdout, json.loads((folder / "out.json").read_text())


def test_every_row_is_shown(quick: tuple[str, dict[str, Any]]) -> None:
    text, document = quick
    assert {result["row"] for result in document["results"]} == {
        "many",
        "single",
        "alone",
        "parallel-1000",
        "parallel-10000",
        "steps-1000",
        "steps-5000",
        "import",
        "import-all",
    }
    for result in document["results"]:
        assert result["label"] in text
        assert result["median"] > 0
        assert result["raw_median"] > 0
    assert "MISSED" not in text, "--quick judges nothing"
    assert max(map(len, text.splitlines())) <= 100


def test_raw_stores_what_the_product_stores(quick: tuple[str, dict[str, Any]]) -> None:
    for result in quick[1]["results"]:
        if result["stored_bytes"]:
            assert result["raw_stored_bytes"] == pytest.approx(result["stored_bytes"], rel=0.15), result["row"]
