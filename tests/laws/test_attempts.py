"""Attempts in the slots of a worker: each run has one outcome of its own, whatever becomes of the threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
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
from durable.runtime.event_loop import EventLoopThread
from durable.runtime.requests import Done, Stuck
from tests.waiting import SOON, until

Make = Callable[..., "Slots"]


def none_left(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class Slots:
    """Activities of these names, without a worker."""

    def __init__(self, size: int, **functions: Callable[..., Any]) -> None:
        self.reports: SimpleQueue[Done | Stuck] = SimpleQueue()
        codes = {
            name: ActivityCode(
                name, fn, Signature.of(fn, leading=1), wants_context=True, is_async=inspect.iscoroutinefunction(fn)
            )
            for name, fn in functions.items()
        }
        self.codes = codes
        self.now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
        self.activities = Activities(
            codes.get,
            self.reports.put,
            size=size,
            limits=Limits(),
            clock=lambda: self.now(),
            client=None,
        )

    def run(self, *names: str, **options: Any) -> None:
        """Each is the first attempt of a call of its own, named like the activity."""
        self.activities.run([Invocation("i", "x", 1, 1, name, Raw(b"[]"), f"{name}/1/1", **options) for name in names])

    def ended(self) -> tuple[str, str]:
        """What ends next, and how."""
        while isinstance(report := self.heard(), int):
            pass
        return report

    def heard(self) -> int | tuple[str, str]:
        """What is reported next: how many threads more hang, or what has ended, and how."""
        report = self.reports.get(timeout=SOON)
        return report.more if isinstance(report, Stuck) else (report.invocation.name, report.event.type)


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


def test_one_that_runs_already_holds_up_none_that_came_with_it(slots: Make) -> None:
    go = threading.Event()

    def hangs(ctx: ActivityContext) -> None:
        assert go.wait(SOON)

    def quick(ctx: ActivityContext) -> None: ...

    some = slots(2, hangs=hangs, quick=quick)
    some.run("hangs")
    some.run("hangs", "quick")
    assert some.ended() == ("quick", h.TASK_COMPLETED)
    go.set()
    assert some.ended() == ("hangs", h.TASK_COMPLETED)


# ---- when nobody waits any more


def test_one_that_has_ended_holds_up_no_cancellation_that_came_with_it(slots: Make) -> None:
    began = threading.Event()

    def until_told(ctx: ActivityContext) -> None:
        began.set()
        until(lambda: ctx.cancelled)

    def last(ctx: ActivityContext) -> None: ...

    some = slots(1, until_told=until_told, last=last)
    some.run("until_told", "last")
    assert began.wait(SOON)
    some.activities.cancel(["ended/1/1", "until_told/1/1"])
    assert [some.heard() for _ in range(3)] == [1, -1, ("last", h.TASK_COMPLETED)]


def test_what_was_cancelled_in_the_queue_never_begins(slots: Make) -> None:
    go, began = threading.Event(), list[str]()

    def hangs(ctx: ActivityContext) -> None:
        assert go.wait(SOON)

    def queued(ctx: ActivityContext) -> None:
        began.append("queued")

    async def waits(ctx: ActivityContext) -> None:
        while not go.is_set():
            await asyncio.sleep(0)

    async def awaited(ctx: ActivityContext) -> None:
        began.append("awaited")

    def last(ctx: ActivityContext) -> None: ...

    some = slots(1, hangs=hangs, queued=queued, waits=waits, awaited=awaited, last=last)
    some.run("hangs", "queued", "waits", "awaited", "last")
    some.activities.cancel(["queued/1/1", "awaited/1/1"])
    go.set()
    ended = {some.heard() for _ in range(3)}
    assert ended == {(name, h.TASK_COMPLETED) for name in ("hangs", "waits", "last")}  # and no thread is said to hang
    assert began == []


@pytest.mark.parametrize("how", ["cancelled", "late", "both"])
def test_a_thread_hangs_from_the_end_of_the_waiting_to_the_end_of_its_activity(slots: Make, how: str) -> None:
    go, began, asked = threading.Event(), threading.Event(), threading.Event()

    def hangs(ctx: ActivityContext) -> None:
        began.set()
        assert go.wait(SOON)

    def quick(ctx: ActivityContext) -> None: ...

    some = slots(1, hangs=hangs, quick=quick)

    def cancels_at_once() -> datetime:
        some.activities.cancel(["hangs/1/1"])
        asked.set()
        return datetime.now(timezone.utc)

    if how == "both":  # the clock is asked when it is late already
        some.now = cancels_at_once
    some.run("hangs", timeout=None if how == "cancelled" else 0.02)
    assert began.wait(SOON)
    if how == "cancelled":
        some.activities.cancel(["hangs/1/1"])
    assert some.heard() == 1
    if how == "late":
        assert some.heard() == ("hangs", h.TASK_FAILED)
    if how == "both":
        assert asked.wait(SOON)
    go.set()
    assert some.heard() == -1
    some.run("quick")
    assert some.heard() == ("quick", h.TASK_COMPLETED)


def test_an_async_one_that_nobody_waits_for_has_no_thread_that_could_hang(slots: Make) -> None:
    async def sleeps(ctx: ActivityContext) -> None:
        await asyncio.sleep(SOON)

    some = slots(1, sleeps=sleeps)
    some.run("sleeps", timeout=0.02)
    assert some.heard() == ("sleeps", h.TASK_FAILED)


def test_a_halt_forgets_what_has_not_begun_and_leaves_the_rest_alone(slots: Make) -> None:
    go, began = threading.Event(), SimpleQueue[str]()

    def hangs(ctx: ActivityContext) -> None:
        began.put("hangs")
        assert go.wait(SOON)
        assert not ctx.cancelled

    async def waits(ctx: ActivityContext) -> None:
        began.put("waits")
        while not go.is_set():
            await asyncio.sleep(0)
        assert not ctx.cancelled

    def queued(ctx: ActivityContext) -> None:
        began.put("queued")

    async def awaited(ctx: ActivityContext) -> None:
        began.put("awaited")

    some = slots(1, hangs=hangs, queued=queued, waits=waits, awaited=awaited)
    some.run("hangs", "waits")
    assert {began.get(timeout=SOON) for _ in range(2)} == {"hangs", "waits"}
    some.run("queued", "awaited")
    assert some.activities.halt() == ["queued/1/1", "awaited/1/1"]
    assert some.activities.halt() == []
    go.set()
    assert {some.heard() for _ in range(2)} == {("hangs", h.TASK_COMPLETED), ("waits", h.TASK_COMPLETED)}
    assert began.empty()
    some.run("queued", "awaited")  # they may come again
    assert {some.heard() for _ in range(2)} == {("queued", h.TASK_COMPLETED), ("awaited", h.TASK_COMPLETED)}


def test_what_is_closed_ends_its_async_ones_in_good_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if one of them is tidying up already when the loop is told to stop."""
    began, ended = threading.Semaphore(0), SimpleQueue[int]()
    tidying, stopping = threading.Event(), threading.Event()
    close = EventLoopThread.close

    def close_late(loop: EventLoopThread) -> None:
        assert tidying.wait(SOON)
        close(loop)
        stopping.set()

    monkeypatch.setattr(EventLoopThread, "close", close_late)

    async def tidies(ctx: ActivityContext, rounds: int) -> None:
        try:
            began.release()
            await asyncio.sleep(SOON)
        finally:
            if rounds:
                tidying.set()
                while not stopping.is_set():
                    await asyncio.sleep(0)
            for _ in range(rounds):
                await asyncio.sleep(0)
            ended.put(rounds)

    async def one(ctx: ActivityContext) -> None:
        await tidies(ctx, 0)

    async def other(ctx: ActivityContext) -> None:
        await tidies(ctx, 100)

    async def waits_for_a_slot(ctx: ActivityContext) -> None: ...

    some = Slots(2, one=one, other=other, third=waits_for_a_slot)
    some.run("one", "other", "third")
    for _ in range(2):
        assert began.acquire(timeout=SOON)
    some.activities.close()
    assert [ended.get(timeout=SOON) for _ in range(2)] == [0, 100]


# ---- threads


def test_no_activity_keeps_its_program_from_ending(slots: Make) -> None:
    daemons: list[bool] = []

    def sync(ctx: ActivityContext) -> None:
        daemons.append(threading.current_thread().daemon)

    async def coroutine(ctx: ActivityContext) -> None:
        daemons.append(threading.current_thread().daemon)

    some = slots(1, sync=sync, coroutine=coroutine)
    some.run("sync", "coroutine")
    assert {some.ended() for _ in range(2)} == {("sync", h.TASK_COMPLETED), ("coroutine", h.TASK_COMPLETED)}
    assert daemons == [True, True]


def test_there_is_a_thread_for_each_whatever_has_ended_before(slots: Make) -> None:
    go, together = threading.Event(), threading.Barrier(4, timeout=SOON)

    def first(ctx: ActivityContext) -> None:
        assert go.wait(SOON)

    def meets(ctx: ActivityContext) -> None:
        together.wait()

    four = ("a", "b", "c", "d")
    some = slots(4, first=first, **dict.fromkeys(four, meets))
    some.run("first", "a", "b")
    go.set()
    assert some.ended() == ("first", h.TASK_COMPLETED)
    some.run("c", "d")
    assert {some.ended() for _ in range(4)} == {(name, h.TASK_COMPLETED) for name in four}


def test_there_is_a_thread_for_each_whatever_was_forgotten_before(slots: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=SOON)

    def meets(ctx: ActivityContext) -> None:
        together.wait()

    def never(ctx: ActivityContext) -> None: ...

    some = slots(3, a=meets, b=meets, c=meets, never=never)
    some.run("a", "b")
    until(lambda: together.n_waiting == 2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        some.run("never")
    assert some.activities.halt() == ["never/1/1"]
    some.run("c")
    assert {some.ended() for _ in range(3)} == {(name, h.TASK_COMPLETED) for name in ("a", "b", "c")}


# ---- time


@pytest.mark.parametrize("where", ["call", "function"])
@pytest.mark.parametrize("limit", ["timeout", "heartbeat_timeout"])
def test_a_limit_holds_wherever_it_was_given(slots: Make, where: str, limit: str) -> None:
    def hangs(ctx: ActivityContext) -> None:
        ctx.heartbeat()
        until(lambda: ctx.cancelled)

    some = slots(1, hangs=hangs)
    given: dict[str, Any] = {limit: 0.02}
    if where == "function":
        some.codes["hangs"] = some.codes["hangs"]._replace(**given)
        given = {}
    some.run("hangs", **given)
    assert some.ended() == ("hangs", h.TASK_FAILED)


def test_one_that_was_alive_for_long_may_fall_silent_later(slots: Make) -> None:
    def tires(ctx: ActivityContext) -> None:
        tired = time.monotonic() + 0.06

        def beats() -> bool:
            ctx.heartbeat()
            return ctx.cancelled or time.monotonic() > tired

        until(beats)
        until(lambda: ctx.cancelled)

    some = slots(1, tires=tires)
    some.run("tires", heartbeat_timeout=0.05)
    assert some.ended() == ("tires", h.TASK_FAILED)


def test_an_outcome_says_how_long_it_had_a_slot(slots: Make) -> None:
    inside: list[float] = []

    def measures(ctx: ActivityContext) -> None:
        began = time.monotonic()
        until(lambda: time.monotonic() > began)
        inside.append(time.monotonic() - began)

    some = slots(1, measures=measures)
    began = time.monotonic()
    some.run("measures", "unregistered")
    done, none = (some.reports.get(timeout=SOON) for _ in range(2))
    assert isinstance(done, Done)
    assert isinstance(none, Done)
    assert inside[0] <= done.seconds <= time.monotonic() - began
    assert (none.event.type, none.seconds) == (h.TASK_FAILED, 0.0)
