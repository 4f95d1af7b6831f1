"""Who owns what: everybody computes the same from the same beats, and a change moves as little as it must."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.ports import Beat
from durable.runtime.membership import BEAT_EVERY, DEAD_AFTER, Peers, Seat, owned
from durable.runtime.requests import Assigned, Lost, News
from tests.waiting import until

_names = st.lists(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=1, max_size=6, unique=True)
_groups = st.lists(st.sampled_from(["default", "night", "gpu"]), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def _beats(draw: st.DrawFn) -> list[Beat]:
    return [Beat(name, groups=draw(_groups)) for name in draw(_names)]


@given(beats=_beats(), partitions=st.integers(1, 64))
def test_each_partition_of_each_served_group_has_one_owner(beats: list[Beat], partitions: int) -> None:
    shares = [owned(beat, beats, partitions) for beat in beats]
    everything = [pair for share in shares for pair in share]
    assert len(everything) == len(set(everything))
    served = {group for beat in beats for group in beat.groups}
    assert set(everything) == {(group, number) for group in served for number in range(partitions)}
    for beat, share in zip(beats, shares, strict=True):
        assert {group for group, _ in share} <= set(beat.groups)


@given(beats=_beats(), partitions=st.integers(1, 64))
def test_the_order_of_the_beats_does_not_matter(beats: list[Beat], partitions: int) -> None:
    for beat in beats:
        assert owned(beat, beats, partitions) == owned(beat, beats[::-1], partitions)


@given(beats=_beats(), partitions=st.integers(1, 64))
def test_who_leaves_moves_only_its_own_share(beats: list[Beat], partitions: int) -> None:
    gone, rest = beats[0], beats[1:]
    for beat in rest:
        assert owned(beat, beats, partitions) <= owned(beat, rest, partitions)
        assert owned(beat, rest, partitions) - owned(beat, beats, partitions) <= owned(gone, beats, partitions)


def test_a_share_is_fair() -> None:
    beats = [Beat(f"worker-{number}") for number in range(4)]
    shares = [len(owned(beat, beats, 4_000)) for beat in beats]
    assert all(850 < share < 1_150 for share in shares)


def test_a_peer_lives_while_its_counter_moves_on_the_watchers_clock() -> None:
    peers, me = Peers(), Beat("me", counter=1)

    def alive(counter: int, now: float) -> bool:
        return len(peers.alive([me, Beat("you", counter=counter)], "me", now)) == 2

    assert alive(7, 100.0)  # seen for the first time
    assert alive(7, 100.0 + DEAD_AFTER - 0.1)
    assert not alive(7, 100.0 + DEAD_AFTER)
    assert alive(8, 110.0)  # it was frozen, and goes on
    assert alive(3, 110.0 + DEAD_AFTER)  # any move counts: it may have begun again
    assert not peers.alive([], "me", 111.0)
    assert peers.alive([me], "me", 500.0) == [me]  # I do not declare myself dead


def test_who_has_died_need_not_be_remembered() -> None:
    peers = Peers()
    peers.alive([Beat("you", counter=1)], "me", 10.0)
    assert peers.dead(10.0 + DEAD_AFTER - 0.1) == []
    assert peers.dead(10.0 + DEAD_AFTER) == ["you"]


def test_a_silent_peer_is_looked_at_just_when_it_would_be_dead() -> None:
    peers, you = Peers(), Beat("you", counter=1)
    peers.alive([you], "me", 10.0)
    assert peers.look_in(10.0) == BEAT_EVERY
    assert peers.look_in(10.0 + DEAD_AFTER - 0.3) == pytest.approx(0.3)
    assert 0 < peers.look_in(10.0 + 2 * DEAD_AFTER) < 0.1


class _Place:
    """A membership in memory: what every worker sees."""

    exclusive = False

    def __init__(self) -> None:
        self.beats: dict[str, Beat] = {}

    def beat(self, me: Beat) -> list[Beat]:
        self.beats[me.incarnation] = me
        return list(self.beats.values())

    def members(self) -> list[Beat]:
        return list(self.beats.values())

    def leave(self, incarnation: str) -> None:
        self.beats.pop(incarnation, None)


def test_a_repair_is_heard_even_when_another_repairer_dies_in_the_same_moment() -> None:
    place, told = _Place(), list[News]()
    place.beats["old"] = Beat("old", repairs=5)
    seat = Seat(place, Beat("me"), 4, told.append, lambda kind: ())
    seat.take()
    try:
        assert not any(isinstance(news, Lost) for news in told)
        del place.beats["old"]
        place.beats["you"] = Beat("you", repairs=1)
        until(lambda: any(isinstance(news, Lost) for news in told), "it is told that it lost")
    finally:
        seat.leave()
    assert "me" not in place.beats


def test_news_that_come_while_a_beat_is_made_are_in_a_later_one() -> None:
    place, told = _Place(), list[News]()
    place.beats["you"] = Beat("you")

    def names(kind: str) -> tuple[str, ...]:
        if kind == "activity" and "me" in place.beats and not place.beats["me"].repairs:
            seat.repaired()
        return ()

    seat = Seat(place, Beat("me"), 4, told.append, names)
    seat.take()
    seat.retire()  # beats here and now, and hears of a repair on the way
    assert (place.beats["me"].repairs, place.beats["me"].groups) == (1, ())
    seat.leave()


def test_a_worker_that_drains_keeps_its_partitions_where_there_is_nobody_to_have_them() -> None:
    """Or what its activities still bring would be recorded by nobody."""
    place, told = _Place(), list[News]()
    seat = Seat(place, Beat("me", groups=("default",)), 4, told.append, lambda kind: ())
    seat.take()
    seat.retire()
    seat.leave()
    assert [len(news.owned) for news in told if isinstance(news, Assigned)] == [4]


def test_a_bug_in_the_membership_costs_a_beat_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    place = _Place()
    place.beats["other"] = Beat("other")
    seat = Seat(place, Beat("me"), 4, lambda news: None, lambda kind: ())
    seat.take()
    with patch.object(place, "beat", side_effect=RuntimeError("a bug")):
        seat.retire()  # beats here and now
    seat.leave()
    assert "a bug" in caplog.text
