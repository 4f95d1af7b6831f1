"""A short form of `make power-cut`: the program itself, and that it would notice what it looks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # some take 20 s, where the machine has nothing else to do

POWER_CUT = Path(__file__).with_name("power_cut.py")


def run(images: str, *, cwd: Path, program: Path = POWER_CUT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(program), "--images", images, "--seed", "3"]
    return subprocess.run(command, cwd=cwd, env={"TMPDIR": str(cwd)}, capture_output=True, text=True, timeout=280)


def test_what_was_confirmed_is_there_after_a_power_cut_and_goes_on(tmp_path: Path) -> None:
    done = run("24", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    kinds = "12 behind a frame, 4 within a frame, 4 with a frame missing, 4 within a checkpoint"
    found = rf"seed 3: 24 images \({kinds}\) of the lives of \d+ instances, \d+ s: all right\n"
    assert re.fullmatch(found, done.stdout), done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing is left behind when all is right"


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("self._before.log[end:], frames)", "self._before.log[end:], frames + 30)", "was confirmed, and is lost"),
        ("self._after.log[: self._end(frames)], frames", "b'', frames", "integrity_check|malformed"),
    ],
    ids=["confirmed before its frames are on the disk", "a checkpoint before the log is on the disk"],
)
def test_it_would_notice(tmp_path: Path, right: str, wrong: str, says: str) -> None:
    chaos = tmp_path / "tests" / "chaos"
    shutil.copytree(POWER_CUT.parent, chaos, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "waiting.py").symlink_to(POWER_CUT.parents[1] / "waiting.py")
    wal = chaos / "wal.py"
    text = wal.read_text()
    assert wrong in text.replace(right, wrong, 1) != text
    wal.write_text(text.replace(right, wrong, 1))
    done = run("24", cwd=tmp_path, program=chaos / "power_cut.py")
    assert done.returncode == 1, done
    assert re.search(says, done.stdout), done.stdout
