"""Attempts in the slots of a worker: each run has one outcome of its own, whatever becomes of the threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from queue import SimpleQueue
from typing import Any

import pytest

from durable.engine.instance import Invocation
from durable.model import history as h
from durable.model.history import Raw
from durable.model.limits import Limits
from durable.payload.signature import Signature
from durable.runtime.activities import Activities, ActivityCode
from durable.runtime.activity_context import ActivityContext
from durable.runtime.requests import Done, Stuck
from tests.waiting import SOON

Make = Callable[..., "Slots"]


def none_left(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class Slots:
    """Activities of these names, without a worker."""

    def __init__(self, size: int, **functions: Callable[..., Any]) -> None:
        self.reports: SimpleQueue[Done | Stuck] = SimpleQueue()
        codes = {
            name: ActivityCode(name, fn, Signature.of(fn, leading=1), wants_context=True, is_async=False)
            for name, fn in functions.items()
        }
        self.activities = Activities(
            codes.get,
            self.reports.put,
            size=size,
            limits=Limits(),
            clock=lambda: datetime.now(timezone.utc),
            client=None,
        )

    def run(self, *names: str, **options: Any) -> None:
        """Each is the first attempt of a call of its own, named like the activity."""
        self.activities.run([Invocation("i", "x", 1, 1, name, Raw(b"[]"), f"{name}/1/1", **options) for name in names])

    def ended(self) -> tuple[str, str]:
        """What ends next, and how."""
        while not isinstance(report := self.reports.get(timeout=SOON), Done):
            pass
        return report.invocation.name, report.event.type


@pytest.fixture
def slots() -> Iterator[Make]:
    with ExitStack() as made:

        def make(size: int, **functions: Callable[..., Any]) -> Slots:
            some = Slots(size, **functions)
            made.callback(some.activities.close)
            return some

        yield make


def test_a_run_that_ends_late_takes_no_other_runs_outcome(slots: Make) -> None:
    """Its timeout was told, and that got lost: so the same attempt was sent here once more."""
    ways = [threading.Event(), threading.Event()]
    runs = iter(ways)

    def hangs(ctx: ActivityContext) -> None:
        assert next(runs).wait(SOON)

    def quick(ctx: ActivityContext) -> None: ...

    some = slots(2, hangs=hangs, quick=quick)
    some.run("hangs", timeout=0.05)
    assert some.ended() == ("hangs", h.TASK_FAILED)
    some.run("hangs")
    some.run("quick")  # waits for one of the two
    ways[0].set()
    assert some.ended() == ("quick", h.TASK_COMPLETED)  # on the thread of the first, which has quite ended
    ways[1].set()
    assert some.ended() == ("hangs", h.TASK_COMPLETED)


def test_a_deadline_of_a_run_that_was_cancelled_does_not_end_the_next_one(slots: Make) -> None:
    go, began = threading.Event(), threading.Semaphore(0)

    def hangs(ctx: ActivityContext) -> None:
        ctx.heartbeat()
        began.release()
        assert go.wait(SOON)

    some = slots(4, hangs=hangs, late=hangs)
    for options in ({"timeout": 0.05}, {"heartbeat_timeout": 0.05}, {}):
        some.run("hangs", **options)
        assert began.acquire(timeout=SOON)
        if options:
            some.activities.cancel(["hangs/1/1"])
    some.run("late", timeout=0.05)
    assert some.ended() == ("late", h.TASK_FAILED)  # and theirs were due before
    go.set()
    assert some.ended() == ("hangs", h.TASK_COMPLETED)


def test_where_there_are_no_more_threads_those_there_are_do_it_all(
    slots: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()

    def waits(ctx: ActivityContext) -> None:
        assert go.wait(SOON)

    some = slots(2, first=waits, second=waits, third=waits)
    some.run("first")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        some.run("second")
    assert "activities run on 1 of 2 threads: can't start new thread" in caplog.text
    go.set()
    assert [some.ended() for _ in range(2)] == [("first", h.TASK_COMPLETED), ("second", h.TASK_COMPLETED)]


def test_a_thread_that_was_not_to_be_had_is_asked_for_again(slots: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=SOON)

    def meets(ctx: ActivityContext) -> None:
        together.wait()

    some = slots(2, one=meets, other=meets)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="can't start"):  # not one: that is for the worker to say
            some.run("one")
    some.run("other")
    assert {some.ended() for _ in range(2)} == {("one", h.TASK_COMPLETED), ("other", h.TASK_COMPLETED)}
