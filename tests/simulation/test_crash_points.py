"""Every crash point of small programs, and the proof that a broken law shows there.

The long form, with another worker taking over and with all pairs of points, is `make crash-points`.
"""

from __future__ import annotations

import pytest

from durable.runtime import requests as ask
from durable.testing.crash_points import FAULTS, ROADS, Total, command, every_point, main, run
from durable.testing.crash_programs import PROGRAMS
from durable.testing.planted import AT_CRASH_POINTS


def wrong(total: Total) -> list[tuple[str, str]]:
    return [(why, command(total, points)) for points, why in total.failed]


@pytest.mark.parametrize("road", ["alone", "by-mail"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_whatever_step_fails_the_outcome_is_the_same(name: str, road: str) -> None:
    total = every_point(name, road)
    assert wrong(total) == []
    assert total.runs > 2 * total.steps > 0


def test_whatever_two_steps_fail_the_outcome_is_the_same() -> None:
    total = every_point("event", "alone", pairs=True)
    assert wrong(total) == []
    assert total.runs > total.steps**2


@pytest.mark.parametrize("road", ROADS)
def test_the_programs_take_every_kind_of_step(road: str) -> None:
    taken = {step for program in PROGRAMS.values() for step in run(program, ROADS[road]).steps}
    by_mail = {ask.Publish, ask.Settle, ask.Declare, ask.Receive}
    assert taken >= {*FAULTS} - (set() if ROADS[road].mail else by_mail) - {ask.Declare}


def test_a_broken_law_shows_and_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--program", "late", "--road", "alone", "--bug", "starts-by-signal"]) == 1
    shown = capsys.readouterr().out.splitlines()
    again = next(line for line in shown if "--at " in line)
    prefix, _, words = again.strip().partition("python -m durable.testing.crash_points ")
    assert prefix == ""
    assert main(words.split()) == 1
    traced = capsys.readouterr().out
    assert "crashes" in traced
    assert "stuck" in traced.splitlines()[-1]
    right = [word for word in words.split() if word not in ("--bug", "starts-by-signal")]
    assert main(right) == 0


@pytest.mark.parametrize("bug", AT_CRASH_POINTS)
def test_planted_bugs_show(bug: str) -> None:
    assert every_point(AT_CRASH_POINTS[bug], "alone", bug=bug).failed
