"""Replay: the world looks the same, code that fits goes on, code that does not is blocked and loses nothing."""

from __future__ import annotations

import gc
import logging
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from msgspec.structs import replace

import durable
from durable.ports import Append, Commit, Want
from tests.waiting import SOON, until

if TYPE_CHECKING:
    from tests.product.conftest import Bench

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]
Flow = Callable[..., Any]


# ---- a world that replays


@pytest.mark.everywhere
def test_time_chance_and_identity_are_the_same_on_every_replay(bench: Bench) -> None:
    app = durable.Registry()
    seen: list[list[Any]] = []

    @app.activity
    def step() -> None: ...

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        mine: list[Any] = []
        seen.append(mine)
        for _ in range(4):
            mine += [ctx.current_utc_datetime, ctx.new_uuid(), ctx.random.random(), ctx.random.randrange(10**9)]
            yield ctx.call_activity(step)
        return [str(item) for item in mine]

    bench.serve(app)
    result = bench.run(flow)
    longest = max(seen, key=len)
    assert len(longest) == 16
    for mine in seen:
        assert mine == longest[: len(mine)]
    assert result == [str(item) for item in longest]
    assert len(seen) >= 5 if bench.cold else len(seen) == 1  # a hint may make it look once more
    clock, uuids, floats = longest[0::4], longest[1::4], longest[2::4]
    assert clock == sorted(clock)
    assert all(at.utcoffset() == timedelta(0) for at in clock)
    assert len(set(uuids)) == 4
    assert all(isinstance(u, UUID) for u in uuids)
    assert len(set(floats)) == 4


@pytest.mark.everywhere
def test_uuids_and_random_numbers_differ_between_instances_and_executions(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx, got: list[str]) -> list[str] | None:
        got = [*got, str(ctx.new_uuid()), str(ctx.random.random())]
        if len(got) == 6:
            return got
        ctx.continue_as_new(got)
        return None

    bench.serve(app)
    found = [item for _ in range(3) for item in bench.run(flow, [])]
    assert len(set(found)) == 18


def test_the_clock_is_that_of_the_turn(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        times = [ctx.current_utc_datetime, ctx.current_utc_datetime]
        yield ctx.create_timer(0.01)
        return [times[0] == times[1], ctx.current_utc_datetime >= times[0] + timedelta(seconds=0.01)]

    bench.serve(app)
    started = datetime.now(timezone.utc)
    handle = bench.start(flow)
    assert handle.result(SOON) == [True, True]
    turns = [e.timestamp for e in bench.client.history(handle.instance_id) if e.type == "OrchestratorStarted"]
    assert all(started - timedelta(seconds=1) < at <= datetime.now(timezone.utc) for at in turns)


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What orchestrators log."""
    handler, logger = Heard(), logging.getLogger("durable.orchestration")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.mark.everywhere
def test_the_logger_speaks_once_and_is_replaying_is_true_only_then(bench: Bench, heard: Heard) -> None:
    app = durable.Registry()
    replayed: list[tuple[int, bool]] = []

    @app.activity
    def step() -> None: ...

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        for number in range(3):
            ctx.logger.info("step %s", number)
            replayed.append((number, ctx.is_replaying))
            yield ctx.call_activity(step)
        ctx.logger.info("done", extra={"steps": 3})

    bench.serve(app)
    bench.run(flow, instance_id="i1")
    assert heard.texts == ["step 0", "step 1", "step 2", "done"]
    said = vars(heard.records[-1])
    assert (said["instance_id"], said["steps"]) == ("i1", 3)
    assert [number for number, replaying in replayed if not replaying] == [0, 1, 2]
    assert len(replayed) >= 9 if bench.cold else len(replayed) == 3


def test_code_that_is_put_aside_leaves_no_trace(bench: Bench, heard: Heard) -> None:
    """A suspended generator that is evicted runs its `finally:`; nothing in there may log, schedule, or complain."""
    app = durable.Registry()
    undone: list[str] = []

    @app.activity
    def step() -> None: ...

    @app.activity
    def undo() -> None:
        undone.append("once")

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        timer = ctx.create_timer(3600)
        try:
            for _ in range(3):
                yield ctx.call_activity(step)
        finally:
            ctx.logger.info("cleaning up, replaying: %s", ctx.is_replaying)
            timer.cancel()
            yield ctx.call_activity(undo)
        return "done"

    worker = bench.serve(app)
    assert bench.run(flow) == "done"
    waiting = bench.start(flow)
    worker.stop()
    gc.collect()
    bench.serve(app)
    assert waiting.result(SOON) == "done"
    assert undone == ["once"] * 2
    assert heard.texts == ["cleaning up, replaying: False"] * 2
    gc.collect()


def test_code_that_is_thrown_away_ends_at_once_and_on_its_own_thread(bench: Bench) -> None:
    """Not when and where the collector of garbage comes by: that thread may hold any lock."""
    app = durable.Registry()
    ended: dict[str, str] = {}

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        try:
            yield ctx.wait_for_external_event("go")
        finally:
            ended[ctx.instance_id] = threading.current_thread().name

    worker = bench.serve(app)
    handles = {name: bench.start(flow, instance_id=name) for name in ("terminated", "suspended", "left")}
    for handle in handles.values():
        bench.until_recorded(handle, "EventAwaited")
    gc.disable()
    try:
        handles["terminated"].terminate()
        handles["suspended"].suspend()
        until(lambda: {"terminated", "suspended"} <= ended.keys())
        worker.stop()
    finally:
        gc.enable()
    assert ended == dict.fromkeys(handles, "durable-engine")


def test_the_traceback_of_a_failure_begins_where_the_code_waited(bench: Bench) -> None:
    """With the engine's frames in it, an exception that is kept would keep what they know: all others of its batch."""
    app = durable.Registry()
    seen: list[list[str]] = []

    @app.activity
    def breaks() -> None:
        raise ValueError

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        task = ctx.call_activity(breaks)
        for _ in range(2):
            try:
                yield task
            except durable.TaskFailedError as error:
                seen.append([frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)])
        return len(seen)

    bench.serve(app)
    bench.run(flow)
    assert seen[-2:] == [["flow"], ["flow"]]


@pytest.mark.everywhere
def test_only_so_many_instances_are_kept_warm(bench: Bench) -> None:
    app = durable.Registry()
    called: list[str] = []

    @app.orchestrator
    def flow(ctx: Ctx, number: int) -> Steps:
        called.append(ctx.instance_id)
        yield ctx.wait_for_external_event("go")
        return number

    bench.serve(app, max_cached_orchestrations=2)
    handles = bench.client.start_many(flow, range(8))
    for handle in handles:
        bench.until_recorded(handle, "EventAwaited")
    for handle in handles:
        handle.raise_event("go")
    assert [handle.result(SOON, on_blocked="raise") for handle in handles] == list(range(8))
    assert len([again for again in map(called.count, set(called)) if again > 1]) >= 6


@pytest.fixture
def stubborn() -> Iterator[None]:
    """Code swallows whatever is thrown into it, until the test is over."""
    _stubborn.set()
    yield
    _stubborn.clear()
    gc.collect()


_stubborn = threading.Event()


def _waiting_with_a_bare_except(event: str) -> durable.Registry:
    app = durable.Registry()

    @app.orchestrator
    def stubborn(ctx: Ctx) -> Steps:
        while True:
            try:
                return (yield ctx.wait_for_external_event(event))
            except:  # noqa: E722  # what users write
                if not _stubborn.is_set():
                    raise

    @app.orchestrator
    def leaving(ctx: Ctx) -> Steps:
        try:
            return (yield ctx.wait_for_external_event(event))
        except GeneratorExit:
            if _stubborn.is_set():
                raise SystemExit from None
            raise

    @app.orchestrator
    def well(ctx: Ctx) -> str:
        return "well"

    return app


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python says it where it frees them
@pytest.mark.usefixtures("stubborn")
@pytest.mark.parametrize("name", ["stubborn", "leaving"])
def test_code_that_does_not_want_to_be_put_aside_stops_nobody_else(bench: Bench, name: str) -> None:
    bench.serve(_waiting_with_a_bare_except("go"), **({} if bench.cold else {"max_cached_orchestrations": 1}))
    handles = [bench.start(name) for _ in range(3)]
    assert bench.run("well") == "well"
    for handle in handles:
        handle.raise_event("go", "done")
    assert [handle.result(SOON) for handle in handles] == ["done"] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.usefixtures("stubborn")
def test_code_that_swallows_that_it_does_not_fit_is_blocked(bench: Bench) -> None:
    worker = bench.serve(_waiting_with_a_bare_except("go"))
    handle = bench.start("stubborn")
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    worker = bench.serve(_waiting_with_a_bare_except("went"))
    assert bench.run("well") == "well"
    handle.raise_event("go", "done")
    assert "wait_for_external_event 'went'" in bench.blocked(handle)
    worker.stop()
    bench.serve(_waiting_with_a_bare_except("go"))
    assert handle.result(SOON) == "done"


@pytest.mark.everywhere
def test_what_code_does_beside_its_tasks_may_change(bench: Bench) -> None:
    """Custom status, logs, outputs, tags and the case of an event's name are no part of what is compared."""

    def make(text: str) -> durable.Registry:
        app = durable.Registry()

        @app.orchestrator
        def flow(ctx: Ctx) -> Steps:
            ctx.set_custom_status(text)
            ctx.logger.info(text)
            yield ctx.wait_for_external_event("Straße" if text == "old" else "STRASSE")
            return text

        return app

    worker = bench.serve(make("old"))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    bench.serve(make("new"))
    handle.raise_event("strasse")
    assert handle.result(SOON, on_blocked="raise") == "new"
    assert handle.status().custom_status == "new"


def test_a_limit_that_the_code_caught_is_no_difference_on_replay(bench: Bench) -> None:
    app = durable.Registry()

    @app.activity
    def step() -> None: ...

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        timers = []
        try:
            for _ in range(9):
                timers.append(ctx.create_timer(0))
        except durable.LimitError:
            yield timers
        for _ in range(3):
            yield ctx.call_activity(step)
        return len(timers)

    with bench.place.connect(limits=durable.Limits(commands_per_turn=6)) as client:
        worker = durable.Worker(client, registry=app, max_cached_orchestrations=0 if bench.cold else 10)
        with worker:
            handle = client.start_orchestration(flow)
            assert handle.result(SOON, on_blocked="raise") == 6


# ---- today's types against yesterday's JSON


@dataclass
class OrderThen:
    item: str
    amount: int


@dataclass
class OrderNow:
    item: str
    amount: int
    note: str = ""


def test_a_field_with_a_default_may_be_added_to_an_input(bench: Bench) -> None:
    def make(order: Any, **more: Any) -> durable.Registry:
        app = durable.Registry()

        def charge(order: Any) -> int:
            return int(order.amount)

        charge.__annotations__["order"] = order
        activity = app.activity(charge)

        @app.orchestrator
        def flow(ctx: Ctx) -> Steps:
            charged = yield ctx.call_activity(activity, order("book", 3, **more))
            yield ctx.wait_for_external_event("go")
            return charged

        return app

    worker = bench.serve(make(OrderThen))
    fits, differs = bench.start("flow"), bench.start("flow")
    for handle in (fits, differs):
        bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    worker = bench.serve(make(OrderNow))
    fits.raise_event("go")
    assert fits.result(SOON, on_blocked="raise") == 3
    worker.stop()
    bench.serve(make(OrderNow, note="other"))
    differs.raise_event("go")
    assert "note" in bench.blocked(differs)


# ---- code that does not fit


def old(ctx: Ctx) -> Steps:
    """The code that wrote the history; each of the others below differs from it in one thing."""
    first = yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")
    ctx.send_event("somebody", "note", 1)
    ctx.start_orchestration("child", 8, instance_id=f"{ctx.instance_id}-free")
    yield ctx.wait_for_external_event("go")
    return first


def renamed(ctx: Ctx) -> Steps:
    yield ctx.call_activity("triple", 1)


def other_input(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 2)


def other_kind(ctx: Ctx) -> Steps:
    yield ctx.call_sub_orchestrator("double", 1)


def reordered(ctx: Ctx) -> Steps:
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_activity("double", 1)


def dropped(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")


def dropped_at_the_end(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")
    ctx.send_event("somebody", "note", 1)
    ctx.start_orchestration("child", 8, instance_id=f"{ctx.instance_id}-free")
    return "early"


def added(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    ctx.call_activity("double", 5)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))


def added_at_the_end_of_a_turn(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    timer = ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    ctx.call_activity("double", 5)
    yield timer


def other_timer(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2002, 2, 2, tzinfo=timezone.utc))


def other_child(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-other")


def other_target(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")
    ctx.send_event("somebody else", "note", 1)


def other_data(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")
    ctx.send_event("somebody", "note", 2)


def other_start(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")
    ctx.send_event("somebody", "note", 1)
    ctx.start_orchestration("child", 8, instance_id=f"{ctx.instance_id}-elsewhere")


def other_event(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")
    ctx.send_event("somebody", "note", 1)
    ctx.start_orchestration("child", 8, instance_id=f"{ctx.instance_id}-free")
    yield ctx.wait_for_external_event("stop")


def now_with_a_timeout(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    yield ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc))
    yield ctx.call_sub_orchestrator("child", 7, instance_id=f"{ctx.instance_id}-child")
    ctx.send_event("somebody", "note", 1)
    ctx.start_orchestration("child", 8, instance_id=f"{ctx.instance_id}-free")
    yield ctx.wait_for_external_event("go", timeout=60)


def raises(ctx: Ctx) -> Steps:
    yield ctx.call_activity("double", 1)
    raise ValueError("a bug in the new code")


def hides_it(ctx: Ctx) -> Steps:
    try:
        yield ctx.call_activity("triple", 1)
    except BaseException:
        return "hidden"


def serving(fn: Flow) -> durable.Registry:
    """A registry whose orchestrator `flow` is this function."""
    app = durable.Registry()

    @app.activity
    def double(n: int) -> int:
        return 2 * n

    @app.activity
    def triple(n: int) -> int:
        return 3 * n

    @app.orchestrator
    def child(ctx: Ctx, n: int) -> int:
        return n

    app.orchestrator(name="flow")(fn)
    return app


# Each with what the reason must say: what the history has, and what the code did.
DIFFERENCES: list[tuple[Flow, list[str]]] = [
    (renamed, ["call_activity 'double'", "call_activity 'triple'"]),
    (other_input, ["'double'", "input 1", "input 2"]),
    (other_kind, ["call_activity 'double'", "call_sub_orchestrator 'double'"]),
    (reordered, ["call_activity 'double'", "create_timer"]),
    (dropped, ["create_timer", "call_sub_orchestrator 'child'"]),
    (dropped_at_the_end, ["wait_for_external_event 'go'", "return"]),
    (added, ["create_timer", "call_activity 'double'", "input 5"]),
    (added_at_the_end_of_a_turn, ["call_activity 'double'", "input 5"]),
    (other_timer, ["2001-01-01", "2002-02-02"]),
    (other_child, ["-child", "-other"]),
    (other_target, ["'somebody'", "'somebody else'"]),
    (other_data, ["send_event 'note'", "input 1", "input 2"]),
    (other_start, ["start_orchestration 'child'", "-free", "-elsewhere"]),
    (other_event, ["wait_for_external_event 'go'", "wait_for_external_event 'stop'"]),
    (now_with_a_timeout, ["wait_for_external_event 'go'"]),
    (raises, ["create_timer"]),
    (hides_it, ["call_activity 'double'", "call_activity 'triple'"]),
]


@pytest.mark.parametrize(("new", "says"), DIFFERENCES, ids=[fn.__name__ for fn, _ in DIFFERENCES])
def test_code_that_does_not_fit_blocks_and_fitting_code_goes_on(bench: Bench, new: Flow, says: list[str]) -> None:
    worker = bench.serve(serving(old))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    before = bench.client.history(handle.instance_id)
    worker.stop()
    handle.raise_event("go", "while nobody was there")

    worker = bench.serve(serving(new))
    reason = bench.blocked(handle)
    for text in says:
        assert text in reason
    assert "in the history, event " in reason or "the history has no further command at event " in reason
    assert any(
        text in reason for text in ("; the code now asks for ", "; the code: ", "; the code did not ask for it ")
    )
    assert f"{__file__}:" in reason
    line = int(reason.partition(f"{__file__}:")[2].split(")")[0])
    assert new.__code__.co_firstlineno < line <= new.__code__.co_firstlineno + 7
    status = handle.status()
    assert status.runtime_status is durable.RuntimeStatus.BLOCKED
    assert status.blocked_reason == reason
    assert status.completed_at is None
    assert bench.client.history(handle.instance_id) == before
    assert bench.run("child", 5) == 5
    worker.stop()

    bench.serve(serving(old))
    assert handle.result(SOON) == 2
    assert handle.status().blocked_reason is None
    assert bench.client.history(handle.instance_id)[: len(before)] == before
    assert bench.types(handle).count("EventRaised") == 1


@pytest.mark.everywhere
def test_code_that_does_not_fit_adds_nothing_and_sends_nothing(bench: Bench) -> None:
    ran: list[str] = []

    def make(fits: bool) -> durable.Registry:
        app = durable.Registry()
        app.activity(name="effect")(ran.append)

        @app.orchestrator
        def child(ctx: Ctx) -> None:
            ran.append("child")

        @app.orchestrator
        def listener(ctx: Ctx) -> Steps:
            return (yield ctx.wait_for_external_event("note"))

        @app.orchestrator
        def flow(ctx: Ctx) -> Steps:
            yield ctx.wait_for_external_event("go")
            if not fits:
                ctx.call_activity("effect", "activity")
                ctx.call_sub_orchestrator(child)
                ctx.start_orchestration(child)
                ctx.send_event("listener", "note")
                ctx.set_custom_status("changed")
            yield ctx.wait_for_external_event("on")
            return "went on"

        return app

    worker = bench.serve(make(True))
    bench.start("listener", instance_id="listener")
    handle = bench.start("flow")
    handle.raise_event("go")
    bench.until_recorded(handle, "EventAwaited", 2)
    before = bench.client.history(handle.instance_id)
    worker.stop()
    handle.raise_event("on")
    bench.serve(make(False))
    assert "wait_for_external_event 'on'" in bench.blocked(handle)
    assert bench.client.history(handle.instance_id) == before
    assert handle.status().custom_status is None
    assert bench.run("child") is None  # whatever was sent would have come before that
    assert ran == ["child"]
    assert bench.types(bench.client.handle("listener")) == ["ExecutionStarted", "EventAwaited"]


@pytest.mark.everywhere
def test_a_type_of_a_later_version_is_kept_and_blocks(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield ctx.wait_for_external_event("go")

    handle = bench.start(flow)
    worker = bench.serve(app)
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    store = bench.client.backend.store
    [record] = store.load([Want(handle.instance_id)])
    assert record is not None
    assert record.history is not None
    before = bench.client.history(handle.instance_id)
    later = record.history[-1].replace(b"EventAwaited", b"WishGranted")  # a turn, as that version would have written it
    append = Append(record.summary.execution_id, len(before), later)
    summary = replace(record.summary, length=len(before) + 2)
    store.commit([Commit("later", handle.instance_id, 0, record.version, summary, (append,))])
    handle.raise_event("go")
    bench.serve(app)
    assert "event 4 has the type 'WishGranted', which this version does not know" in bench.blocked(handle)
    after = bench.client.history(handle.instance_id)
    assert [event.type for event in after] == [*(event.type for event in before), "OrchestratorStarted", "WishGranted"]
    handle.terminate("not here")
    with pytest.raises(durable.OrchestrationTerminatedError):
        handle.result(SOON)
    assert bench.client.history(handle.instance_id)[: len(after)] == after


@pytest.mark.everywhere
def test_facts_that_arrive_while_it_is_blocked_are_not_lost(bench: Bench) -> None:
    gate = threading.Event()

    def make(name: str) -> durable.Registry:
        app = durable.Registry()

        @app.activity
        def hold() -> str:
            assert gate.wait(SOON)
            return "held"

        @app.orchestrator
        def child(ctx: Ctx) -> Steps:
            return (yield ctx.wait_for_external_event("go"))

        @app.orchestrator
        def flow(ctx: Ctx) -> Steps:
            held = ctx.call_activity(hold)
            nested = ctx.call_sub_orchestrator(child, instance_id=f"{ctx.instance_id}-child")
            timer = ctx.create_timer(datetime(2001, 1, 1, tzinfo=timezone.utc) if name == "go" else 3600)
            yield timer
            yield ctx.wait_for_external_event(name)
            event = yield ctx.wait_for_external_event("last")
            return [*(yield [held, nested]), event]

        return app

    worker = bench.serve(make("go"))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    worker = bench.serve(make("other"))
    handle.raise_event("go")
    handle.raise_event("last", "event")
    bench.blocked(handle)
    bench.client.raise_event(f"{handle.instance_id}-child", "go", "nested")
    assert bench.client.handle(f"{handle.instance_id}-child").result(SOON) == "nested"
    gate.set()
    worker.stop()
    bench.serve(make("go"))
    assert handle.result(SOON) == ["held", "nested", "event"]


@pytest.mark.everywhere
def test_an_activity_that_ends_while_its_orchestration_is_blocked_runs_once(bench: Bench) -> None:
    ran: list[str] = []
    gate, started = threading.Event(), threading.Event()

    def make(amount: int) -> durable.Registry:
        app = durable.Registry()

        @app.activity
        def double(n: int) -> int:
            return 2 * n

        @app.activity
        def hold() -> str:
            started.set()
            assert gate.wait(SOON)
            ran.append("held")
            return "held"

        @app.orchestrator
        def flow(ctx: Ctx) -> Steps:
            yield ctx.call_activity(double, amount)
            held = ctx.call_activity(hold)
            yield ctx.wait_for_external_event("go")
            return (yield held)

        return app

    worker = bench.serve(make(1))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    assert started.wait(SOON)
    worker.stop()  # the activity's thread can't be killed; it is handed back and run again
    started.clear()
    worker = bench.serve(make(2))
    handle.raise_event("go")
    bench.blocked(handle)
    assert started.wait(SOON)
    gate.set()
    until(
        lambda: any(
            event.type == "TaskCompleted" and event.event_id is None
            for event in bench.client.history(handle.instance_id, pending=True)
        )
    )
    worker.stop()
    count = len(ran)
    bench.serve(make(1))
    assert handle.result(SOON) == "held"
    assert len(ran) == count


@pytest.mark.everywhere
def test_a_blocked_orchestration_can_be_terminated(bench: Bench) -> None:
    worker = bench.serve(serving(old))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    handle.raise_event("go")
    bench.serve(serving(renamed))
    bench.blocked(handle)
    handle.terminate("no use")
    with pytest.raises(durable.OrchestrationTerminatedError) as caught:
        handle.result(SOON)
    assert caught.value.reason == "no use"
    status = handle.status()
    assert (status.runtime_status, status.output, status.blocked_reason) == ("TERMINATED", "no use", None)
    assert bench.types(handle)[-2:] == ["ExecutionTerminated", "ExecutionCompleted"]


@pytest.mark.everywhere
def test_result_goes_on_waiting_for_a_blocked_one_unless_told_otherwise(bench: Bench) -> None:
    worker = bench.serve(serving(old))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    handle.raise_event("go")
    worker = bench.serve(serving(renamed))
    bench.blocked(handle)
    with pytest.raises(durable.TimeoutError):
        handle.result(0.05)
    with pytest.raises(durable.TimeoutError):
        bench.client.wait(handle.instance_id, 0.05)


def test_fitting_code_that_is_registered_while_the_worker_runs_is_taken_up(bench: Bench) -> None:
    app = durable.Registry()
    handle = bench.start("later", 4)
    bench.serve(app)
    with pytest.raises(durable.TimeoutError):
        handle.result(0.05)
    assert handle.status().runtime_status is durable.RuntimeStatus.PENDING

    @app.orchestrator
    def later(ctx: Ctx, n: int) -> Steps:
        return (yield ctx.call_activity("even_later", n))

    bench.until_recorded(handle, "TaskScheduled")
    with pytest.raises(durable.TimeoutError):
        handle.result(0.05, on_blocked="raise")

    @app.activity
    def even_later(n: int) -> int:
        return n + 1

    assert handle.result(SOON) == 5


@pytest.mark.everywhere
def test_an_orchestrator_that_nobody_serves_any_more_is_blocked_until_somebody_does(bench: Bench) -> None:
    worker = bench.serve(serving(old))
    handle = bench.start("flow")
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    handle.raise_event("go")
    worker = bench.serve(durable.Registry())
    assert "flow" in bench.blocked(handle)
    worker.stop()
    bench.serve(serving(old))
    assert handle.result(SOON) == 2
