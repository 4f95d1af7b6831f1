"""Whose rows are left alone: those of the living, and for a while those of somebody never heard of."""

from __future__ import annotations

import math

import pytest

from durable.runtime.roster import Roster

PATIENCE = 2.0


@pytest.fixture
def roster() -> Roster:
    roster = Roster("me")
    roster.update(["me", "you"], PATIENCE)
    return roster


def test_nobody_does_not_live(roster: Roster) -> None:
    assert not roster.lives("", 10.0)
    assert roster.next_doubt(10.0) == math.inf


def test_who_was_alive_and_is_no_more_is_dead_at_once(roster: Roster) -> None:
    assert roster.lives("you", 10.0)
    roster.update(["me"], PATIENCE)
    assert not roster.lives("you", 10.0)
    assert roster.next_doubt(10.0) == math.inf


def test_a_stranger_is_left_alone_until_the_doubt_ends_and_not_then(roster: Roster) -> None:
    assert roster.lives("stranger", 10.0)
    assert roster.next_doubt(11.0) == 10.0 + PATIENCE
    assert roster.lives("stranger", 11.0)
    assert not roster.lives("stranger", 10.0 + PATIENCE)
    assert roster.next_doubt(10.0 + PATIENCE) == math.inf


def test_a_stranger_that_is_heard_of_lives_as_long_as_it_is(roster: Roster) -> None:
    assert roster.lives("stranger", 10.0)
    roster.update(["me", "stranger"], PATIENCE)
    assert roster.lives("stranger", 100.0)
    roster.update(["me"], PATIENCE)
    assert not roster.lives("stranger", 101.0)


def test_where_nobody_can_come_a_stranger_is_dead() -> None:
    assert not Roster("me").lives("stranger", 10.0)
