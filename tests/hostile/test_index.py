"""Each of the 118 hostile inputs is accounted for: tested here, tested elsewhere, or there is nothing to attack."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.index import ELSEWHERE, NO_SUCH_SURFACE, NUMBERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def collected() -> list[str]:
    """The ids of all tests here, and in the files that the index names."""
    files = {node.partition("::")[0] for nodes in ELSEWHERE.values() for node in nodes}
    collecting = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests/hostile"]
    done = subprocess.run([*collecting, *sorted(files)], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_every_number_is_accounted_for(collected: list[str]) -> None:
    ours = " ".join(node for node in collected if node.startswith("tests/hostile/"))
    here = {int(number) for number in re.findall(r"case[ _](\d+)", ours)}
    assert sorted(here | ELSEWHERE.keys() | NO_SUCH_SURFACE.keys()) == list(NUMBERS)
    assert not (here | ELSEWHERE.keys()) & NO_SUCH_SURFACE.keys()


@pytest.mark.parametrize("number", ELSEWHERE)
def test_what_is_tested_elsewhere_is_there(collected: list[str], number: int) -> None:
    for node in ELSEWHERE[number]:
        test, _, part = node.partition("[")
        assert any(found.startswith(test) and part in found for found in collected), node
