"""The store of samples/third_party_store: green on the contract suite, found by its URL's scheme, and durable on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "third_party_store"
FLOW = """
import durable

@durable.activity
def step(number: int) -> int:
    return number + 1

@durable.orchestrator
def flow(ctx, number: int):
    number = yield ctx.call_activity(step, number)
    yield ctx.create_timer(0.01)
    return number + (yield ctx.wait_for_external_event("more"))

if __name__ == "__main__":
    with durable.Worker():
        handle = durable.start_orchestration(flow, 1, instance_id="f", if_exists="return")
        handle.raise_event("more", 40)
        print(handle.result(20))
"""


def test_the_store_is_green_on_the_contract_suite(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(SAMPLE),
    ]
    done = subprocess.run([*command, str(SAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert not [word for word in ("skipped", "failed", "warning") if word in done.stdout]


def test_an_installed_store_is_found_by_the_scheme_of_its_url(tmp_path: Path) -> None:
    # What `pip install` of the sample would leave behind.
    installed = tmp_path / "durable_folder_store-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: durable-folder-store\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[durable.stores]\nfolder = folder_store:open_folder\n")
    assert 'folder = "folder_store:open_folder"' in (SAMPLE / "pyproject.toml").read_text()
    (tmp_path / "flow.py").write_text(FLOW)
    path = os.pathsep.join([str(tmp_path), str(SAMPLE)])
    environment = os.environ | {"DURABLE_URL": "folder://data", "PYTHONPATH": path}

    def says(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    assert says("flow.py") == "42\n"
    assert (tmp_path / "data" / "default" / "durable.json").is_file()
    assert "COMPLETED" in says("-m", "durable", "list")
    assert "fits" in says("-m", "durable", "replay", "f", "--code", "flow.py")
