"""A short form of `make chaos`: two of its rounds, with one fault each; and what is no pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.fleet import Blow, takeovers
from tests.chaos.outcome import Outcome

PLAN = Path(__file__).with_name("plan.py")


def test_a_plan_ends_with_a_table_and_a_verdict(tmp_path: Path) -> None:
    command = [sys.executable, str(PLAN), "--minutes", "0", "--only", "13", "--only", "14"]
    done = subprocess.run(command, cwd=tmp_path, env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [row[:4] for row in rows] == [["sqlite", "sqlite-kill", "1", "1"], ["sqlite", "power-cut", "1", "1"]]
    assert {row[-1] for row in rows} == {"all right"}
    assert done.stdout.splitlines()[-1].startswith("2 faults (sqlite-kill 1, power-cut 1)"), done
    assert done.stdout.endswith("minutes: all right\n")


@pytest.mark.parametrize(
    ("reached", "started", "doctor_after", "wrong", "verdict"),
    [
        (9, 95, 29.9, [], "all right"),
        (8, 100, 1.0, [], "NOT RUN"),
        (10, 94, 1.0, [], "NOT RUN"),
        (10, 100, 30.1, [], "NOT RUN"),
        (0, 100, 1.0, ["a-1: lost"], "1 WRONG"),
    ],
)
def test_what_did_not_take_place_proves_nothing(
    reached: int, started: int, doctor_after: float, wrong: list[str], verdict: str
) -> None:
    outcome = Outcome({"redis-kill": 10}, {"redis-kill": reached}, 100, started, wrong, [], doctor_after)
    assert outcome.verdict == verdict


@pytest.mark.parametrize(
    ("hit_at", "turns", "counted"),
    [
        ([10.0, 20.0], [9.9, 12.5, 19.9, 24.0], [2.5, 4.0]),
        ([10.0, 13.0, 30.0], [9.9, 15.5, 31.0], [2.5, 1.0]),  # at 13 its successor, before that had done anything
        ([90.0, 94.0, 96.0], [89.9, 99.0], []),  # the last of them so late that nothing need come any more
        ([90.0], [89.9], []),
    ],
)
def test_a_takeover_counts_from_the_last_blow_before_a_turn(
    hit_at: list[float], turns: list[float], counted: list[float]
) -> None:
    blows = [Blow(at, "killed", 1, frozenset({3})) for at in hit_at]
    assert [seconds for _, seconds in takeovers(blows, turns, over_at=100.0)] == counted
