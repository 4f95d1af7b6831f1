"""A short form of `make kill`: the program itself, as it is run by hand, and that it would notice what it looks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # some take 20 s, where the machine has nothing else to do

KILL = Path(__file__).with_name("kill.py")


def run(kills: str, *more: str, cwd: Path, program: Path = KILL) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(program), "--kills", kills, "--seed", "3", *more]
    return subprocess.run(command, cwd=cwd, env={"TMPDIR": str(cwd)}, capture_output=True, text=True, timeout=280)


def test_a_killed_worker_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    done = run("8", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    found = re.fullmatch(r"seed 3: 8 kills, (\d+) instances of 8 programs, (\d+) attempts.*: all right\n", done.stdout)
    assert found, done.stdout
    instances, attempts = map(int, found.groups())
    assert instances >= 3 * 8
    assert attempts > instances
    assert list(tmp_path.iterdir()) == [], "nothing is left behind when all is right"


@pytest.mark.slow
def test_with_payloads_outside_the_store(tmp_path: Path) -> None:
    done = run("4", "--blobs", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "4 kills" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("    for _ in range(times):\n", "    for _ in range(times - 1):\n", "but plain Python says"),
        ("/{ctx.attempt} ", "/x ", "has an outcome and never ran"),
        ('\\n".encode()', '\\n".encode() * 9', "times"),
    ],
    ids=["a wrong output", "an attempt that never ran", "one that ran too often"],
)
def test_it_would_notice(tmp_path: Path, right: str, wrong: str, says: str) -> None:
    chaos = tmp_path / "tests" / "chaos"
    shutil.copytree(KILL.parent, chaos, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "waiting.py").symlink_to(KILL.parents[1] / "waiting.py")
    programs = chaos / "programs.py"
    text = programs.read_text()
    assert wrong in text.replace(right, wrong, 1) != text
    programs.write_text(text.replace(right, wrong, 1))
    done = run("2", cwd=tmp_path, program=chaos / "kill.py")
    assert done.returncode == 1, done
    assert says in done.stdout
    assert "WRONG" in done.stdout
