"""Deadlines of what has ended in time are not kept until they would have been met."""

from __future__ import annotations

import gc
import math
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest

from durable.engine.instance import Invocation
from durable.model.history import Raw
from durable.model.limits import Limits
from durable.payload.signature import Signature
from durable.runtime.activities import Activities, ActivityCode
from durable.runtime.activity_context import ActivityContext
from durable.runtime.deadlines import Deadline, Deadlines


def kept() -> int:
    return sum(isinstance(item, Deadline) for item in gc.get_objects())


def test_what_ends_in_time_leaves_nothing_behind() -> None:
    with closing(Deadlines()) as deadlines:
        for _ in range(10_000):
            deadlines.drop(deadlines.at(time.monotonic() + 3_600, lambda: None))
        assert kept() < 5_000


def test_a_deadline_that_was_dropped_is_not_met_and_the_others_are_in_order() -> None:
    met: list[int] = []
    all_met = threading.Event()
    with closing(Deadlines()) as deadlines:
        begin = time.monotonic() + 0.02
        made = [deadlines.at(begin, lambda n=n: met.append(n)) for n in range(4_000)]  # type: ignore[misc]  # mypy infers no type for n
        deadlines.at(begin, all_met.set)  # the last of them
        for deadline in made[::2]:
            deadlines.drop(deadline)
            deadlines.drop(deadline)
        assert all_met.wait(20)
    assert [n for n in met if n % 2] == list(range(1, 4_000, 2))


@pytest.mark.parametrize("seconds", [1e10, timedelta.max.total_seconds(), 1e300, math.inf])
def test_one_that_is_hardly_ever_due_does_not_keep_the_others_from_being_met(seconds: float) -> None:
    with closing(Deadlines()) as deadlines:
        deadlines.at(time.monotonic() + seconds, lambda: None)
        for _ in range(3):  # between two it alone is waited for
            met = threading.Event()
            deadlines.at(time.monotonic() + 0.02, met.set)
            assert met.wait(20)


def test_after_a_great_many_the_next_one_is_met_in_time() -> None:
    met = threading.Event()
    with closing(Deadlines()) as deadlines:
        deadlines._count = 10**12
        deadlines.at(time.monotonic() + 0.02, met.set)
        assert met.wait(20)


def test_a_program_that_leaves_them_open_ends_all_the_same() -> None:
    before = set(threading.enumerate())
    with closing(Deadlines()) as deadlines:
        deadlines.at(math.inf, lambda: None)
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon


def test_where_there_is_no_thread_for_the_first_one_there_may_be_one_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    met = threading.Event()
    with closing(Deadlines()) as deadlines:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            with pytest.raises(RuntimeError, match="can't start"):
                deadlines.at(time.monotonic(), met.set)
        assert not met.is_set()
        deadlines.at(time.monotonic(), met.set)
        assert met.wait(20)


def test_activities_that_end_in_time_leave_no_deadlines_behind() -> None:
    def quick() -> None: ...

    many = 4_000
    ended = threading.Semaphore(0)
    code = ActivityCode("quick", quick, Signature.of(quick, leading=0), wants_context=False, is_async=False)
    activities = Activities(
        lambda name: code,
        lambda done: ended.release(),
        size=4,
        limits=Limits(),
        clock=lambda: datetime.now(timezone.utc),
        client=None,
    )
    with closing(activities):
        activities.run(
            [Invocation("i", "x", n, 1, "quick", Raw(b"[]"), f"x/{n}/1", timeout=3_600) for n in range(many)]
        )
        for _ in range(many):
            assert ended.acquire(timeout=20)
        assert kept() < many / 2


def test_however_many_heartbeats_one_deadline_watches_them() -> None:
    counted: list[int] = []
    ended = threading.Event()

    def lively(ctx: ActivityContext) -> None:
        before = kept()
        for _ in range(1_000):
            ctx.heartbeat()
        counted.append(kept() - before)

    code = ActivityCode("lively", lively, Signature.of(lively, leading=1), wants_context=True, is_async=False)
    activities = Activities(
        lambda name: code,
        lambda done: ended.set(),
        size=1,
        limits=Limits(),
        clock=lambda: datetime.now(timezone.utc),
        client=None,
    )
    with closing(activities):
        activities.run([Invocation("i", "x", 1, 1, "lively", Raw(b"[]"), "x/1/1", heartbeat_timeout=3_600)])
        assert ended.wait(20)
    assert counted[0] < 500
