"""Starting, steering, reading and waiting; workers that come and go; processes that share one file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings.http import from_structured_event, to_structured_event

import durable
from durable.ports import Want
from tests.waiting import SOON, until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]


@pytest.fixture
def app() -> durable.Registry:
    """`echo` gives its input back; `wait` waits for the event `go`; `fail` raises; `family` has a child that waits."""
    app = durable.Registry()

    @app.orchestrator
    def echo(ctx: Ctx, value: Any) -> Any:
        return value

    @app.orchestrator
    def pair(ctx: Ctx, a: int, b: int = 0) -> list[int]:
        return [a, b]

    @app.orchestrator
    def wait(ctx: Ctx) -> Steps:
        return (yield ctx.wait_for_external_event("go"))

    @app.orchestrator
    def fail(ctx: Ctx) -> None:
        raise ValueError("broken")

    @app.orchestrator
    def family(ctx: Ctx, levels: int) -> Steps:
        if levels:
            return (yield ctx.call_sub_orchestrator(family, levels - 1, instance_id=f"level-{levels - 1}"))
        return (yield ctx.wait_for_external_event("go"))

    return app


def status_of(bench: Bench, instance_id: str) -> str:
    status = bench.client.get_status(instance_id)
    return "none" if status is None else str(status.runtime_status)


# ---- starting


def test_a_start_is_there_once_the_call_returns(bench: Bench) -> None:
    handle = bench.start("echo", 1)
    assert len(handle.instance_id) == 32
    status = bench.connect().get_status(handle.instance_id)
    assert status is not None
    assert (status.runtime_status, status.input, status.name) == (durable.RuntimeStatus.PENDING, 1, "echo")


def test_a_start_does_not_wait_for_code_that_does_not_yield(bench: Bench, app: durable.Registry) -> None:
    busy, free = threading.Event(), threading.Event()

    @app.orchestrator
    def hog(ctx: Ctx) -> bool:
        busy.set()
        return free.wait(SOON / 2)

    client = bench.connect(limits=durable.Limits(turn_seconds=SOON))
    with durable.Worker(client, registry=app), ThreadPoolExecutor(1) as starter:
        first = starter.submit(client.start_orchestration, "hog")
        assert busy.wait(SOON)
        second = client.start_orchestration("echo", 2)
        free.set()
        assert (first.result(SOON).result(SOON), second.result(SOON)) == (True, 2)
    assert len(list(client.list_orchestrations())) == 2


def test_a_start_beside_an_idle_worker_begins_with_the_commit_that_creates_it(
    bench: Bench, app: durable.Registry
) -> None:
    bench.serve(app)
    store = bench.client.backend.store

    def begun_at_once() -> bool:
        """Never where the creation is a commit of its own: then it is the first stored row."""
        handle = bench.start("wait")
        [record] = store.load([Want(handle.instance_id)])
        assert record is not None
        assert record.history
        return b"OrchestratorStarted" in record.history[0]

    until(lambda: begun_at_once() is not bench.cold)  # where nothing is kept warm each turn reads what is stored


def test_a_taken_id_is_refused_in_any_state_or_gives_a_handle(bench: Bench, app: durable.Registry) -> None:
    first = bench.start("echo", "first", instance_id="taken")
    for served in (False, True):
        if served:
            bench.serve(app)
            assert first.result(SOON) == "first"
        with pytest.raises(durable.InstanceExistsError, match="taken") as caught:
            bench.start("echo", "second", instance_id="taken")
        assert caught.value.existing == ["taken"]
        again = bench.start("echo", "third", instance_id="taken", if_exists="return")
        assert again.instance_id == "taken"
        assert again.status().input == "first"
    assert again.result(SOON) == "first"


def test_of_many_starts_at_once_one_wins(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)

    def start(number: int) -> bool:
        try:
            bench.start("echo", number, instance_id="the-one")
        except durable.InstanceExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(start, range(24)))
    assert won.count(True) == 1
    assert bench.client.handle("the-one").result(SOON) == won.index(True)


def test_start_many_gives_a_handle_for_each_input(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handles = bench.client.start_many("echo", range(30))
    assert [h.result(SOON) for h in handles] == list(range(30))
    named = bench.client.start_many("echo", iter(["a", "b"]), instance_ids=["i-a", "i-b"], tags={"k": "v"})
    assert [(h.instance_id, h.result(SOON), h.status().tags) for h in named] == [
        ("i-a", "a", {"k": "v"}),
        ("i-b", "b", {"k": "v"}),
    ]
    assert bench.client.start_many("echo", []) == []
    pairs = bench.client.start_many("pair", [[1, 2], [3], 4])
    assert [h.result(SOON) for h in pairs] == [[1, 2], [3, 0], [4, 0]]


def test_start_many_starts_the_rest_and_names_what_was_taken(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    bench.run("echo", "old", instance_id="b")
    with pytest.raises(durable.InstanceExistsError) as caught:
        bench.client.start_many("echo", [1, 2, 3], instance_ids=["a", "b", "c"])
    assert (caught.value.existing, caught.value.started) == (["b"], ["a", "c"])
    handles = bench.client.start_many("echo", [4, 5, 6], instance_ids=["b", "c", "d"], if_exists="return")
    assert [h.result(SOON) for h in handles] == ["old", 3, 6]
    for ids in (["x"], ["x", "x"]):
        with pytest.raises(ValueError, match="instance_ids"):
            bench.client.start_many("echo", [1, 2], instance_ids=ids)
    assert bench.client.get_status("x") is None


def test_misuse_of_a_start_is_refused_before_anything_is_stored(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def typed(ctx: Ctx, a: int) -> int:
        return a

    raw: Any = typed.fn
    attempts: list[tuple[type[Exception], Any]] = [
        (TypeError, lambda: bench.start(typed)),
        (TypeError, lambda: bench.start(typed, 1, 2)),
        (TypeError, lambda: bench.start(raw, 1)),
        (ValueError, lambda: bench.start("echo", 1, instance_id="")),
        (ValueError, lambda: bench.start("echo", 1, if_exists="ignore")),
        (durable.PayloadError, lambda: bench.start("echo", object())),
        (TypeError, lambda: bench.start("echo", 1, tags={"a": 1})),
    ]
    for error, attempt in attempts:
        with pytest.raises(error):
            attempt()
    assert bench.client.list_orchestrations().items == []


# ---- reading


@pytest.mark.on_dynamodb
def test_the_status_tells_the_whole_story(bench: Bench, app: durable.Registry) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    handle = bench.start("wait", instance_id="story", tags={"a": "b"})
    pending = handle.status()
    assert (pending.runtime_status, pending.completed_at, pending.output) == ("PENDING", None, None)
    bench.serve(app)
    running = handle.wait(SOON, until="started")
    assert (running.runtime_status, running.instance_id, running.execution_id) == (
        durable.RuntimeStatus.RUNNING,
        "story",
        pending.execution_id,
    )
    handle.raise_event("go", {"deep": [1]})
    done = handle.wait(SOON)
    assert (done.runtime_status, done.output, done.input) == ("COMPLETED", {"deep": [1]}, None)
    assert (done.failure, done.blocked_reason, done.parent_instance_id, done.version) == (None, None, None, None)
    assert done.completed_at is not None
    assert before < done.created_at <= running.last_updated_at <= done.last_updated_at
    assert done.created_at <= done.completed_at <= datetime.now(timezone.utc) + timedelta(seconds=1)
    assert done.history is None
    full = bench.client.get_status("story", history=True)
    assert full is not None
    assert full.history == bench.client.history("story")
    slim = bench.client.get_status("story", payloads=False)
    assert slim is not None
    assert (slim.input, slim.output, slim.runtime_status) == (None, None, "COMPLETED")


def test_the_history_is_numbered_and_complete(bench: Bench, app: durable.Registry) -> None:
    @app.activity
    def step(n: int) -> int:
        return n + 1

    @app.orchestrator(version="3")
    def flow(ctx: Ctx, n: int) -> Steps:
        return (yield ctx.call_activity(step, n))

    bench.serve(app)
    handle = bench.start(flow, 4, tags={"t": "u"})
    assert handle.result(SOON) == 5
    events = bench.client.history(handle.instance_id)
    assert [e.event_id for e in events] == list(range(len(events)))
    turns = [e.timestamp for e in events if e.type == "OrchestratorStarted"]
    assert turns == sorted(turns)
    started, scheduled, completed, ended = bench.history(handle)
    assert (started.type, started.name, started.input, started.version, started.tags) == (
        "ExecutionStarted",
        "flow",
        4,
        "3",
        {"t": "u"},
    )
    assert (started.execution_id, started.parent_instance_id) == (handle.status().execution_id, None)
    assert started.seed
    assert (scheduled.type, scheduled.task_id, scheduled.name, scheduled.input, scheduled.attempt) == (
        "TaskScheduled",
        1,
        "step",
        4,
        1,
    )
    assert (completed.type, completed.task_id, completed.result, completed.attempt) == ("TaskCompleted", 1, 5, 1)
    assert (ended.type, ended.result, ended.status, ended.failure) == ("ExecutionCompleted", 5, "COMPLETED", None)


# All but those of entities.
TYPES = """
    ExecutionStarted OrchestratorStarted TaskScheduled TaskCompleted TaskFailed TaskCanceled TimerCreated TimerFired
    TimerCanceled SubOrchestrationInstanceCreated SubOrchestrationInstanceCompleted SubOrchestrationInstanceFailed
    EventAwaited EventRaised EventSent PatchRecorded ExecutionSuspended ExecutionResumed ExecutionCanceled
    ExecutionTerminated ExecutionRewound ContinueAsNew ExecutionCompleted
""".split()


def test_each_type_of_event_is_recorded_under_its_name(bench: Bench, app: durable.Registry) -> None:
    app.activity(name="step")(lambda: None)
    broken = True

    @app.activity
    def breaks() -> None:
        if broken:
            raise ValueError("broken")

    @app.orchestrator
    def flow(ctx: Ctx, again: bool) -> Steps:
        if not again:
            yield ctx.call_activity("breaks")
            return
        try:
            yield ctx.wait_for_external_event("never")
        except durable.OrchestrationCancelledError:
            assert ctx.patched("change")
        for wait in (ctx.create_timer(60), ctx.wait_for_external_event("never")):
            wait.cancel()
        ctx.send_event("nobody", "hello")
        yield [ctx.call_activity("step"), ctx.create_timer(0), ctx.call_sub_orchestrator("echo", 1)]
        calls: list[Any] = [ctx.call_activity("breaks"), ctx.call_sub_orchestrator("fail")]
        yield ctx.task_all(calls, return_exceptions=True)
        yield ctx.wait_for_external_event("go")
        ctx.continue_as_new(False)

    handle = bench.start(flow, True)
    first = handle.status().execution_id
    handle.suspend()
    handle.resume()
    handle.raise_event("go")
    bench.serve(app)
    bench.until_recorded(handle, "EventAwaited")
    handle.cancel()
    with pytest.raises(durable.OrchestrationFailedError):
        handle.result(SOON)
    broken = False
    handle.rewind()
    assert handle.result(SOON) is None
    other = bench.start("wait")
    other.terminate()
    with pytest.raises(durable.OrchestrationTerminatedError):
        other.result(SOON)

    histories = [(handle, first), (handle, handle.status().execution_id), (other, other.status().execution_id)]
    seen: set[str] = set()
    for one, execution in histories:
        events = bench.client.history(one.instance_id, execution_id=execution)
        assert [event.event_id for event in events] == list(range(len(events)))
        wired = bench.client.history(one.instance_id, execution_id=execution, as_cloudevents=True)
        kebab = [re.sub("(?<!^)(?=[A-Z])", "-", event.type).lower() for event in events]
        assert [cloud.get_type() for cloud in wired] == [f"durable.{name}" for name in kebab]
        seen.update(event.type for event in events)
    assert seen == set(TYPES)


def test_a_history_travels_as_cloudevents(bench: Bench, app: durable.Registry) -> None:
    @app.activity
    def step(n: int) -> int:
        return n + 1

    @app.orchestrator
    def flow(ctx: Ctx, n: int) -> Steps:
        yield ctx.wait_for_external_event("go")
        return (yield ctx.call_activity(step, n))

    bench.serve(app)
    handle = bench.start(flow, 4, instance_id="über 1")
    handle.raise_event("go")
    handle.result(SOON)
    events = bench.client.history("über 1")
    wired = bench.client.history("über 1", as_cloudevents=True)
    execution = handle.status().execution_id
    assert len(wired) == len(events)
    assert len({e.get_id() for e in wired}) == len(wired)
    for event, cloud in zip(events, wired, strict=True):
        assert isinstance(cloud, durable.CloudEvent)
        assert cloud.get_specversion() == "1.0"
        assert cloud.get_source() == f"/workspaces/{bench.client.workspace}/orchestrations/flow"
        assert cloud.get_subject() == "über 1"
        assert cloud.get_time() == event.timestamp
        assert cloud.get_extension("partitionkey") == "%C3%BCber%201"
        assert str(cloud.get_extension("traceparent")).startswith(f"00-{execution}-")
        assert int(str(cloud.get_extension("sequence"))) == event.event_id
        again = from_structured_event(to_structured_event(cloud))
        assert again.get_attributes() == cloud.get_attributes()
        assert again.get_data() == cloud.get_data()
    types = [e.get_type() for e in wired]
    assert types[0] == "durable.execution-started"
    started: Any = wired[0].get_data()
    assert "child_instance_id" not in started, "it is no child of its own"
    assert {"durable.task-scheduled", "durable.event-raised", "durable.execution-completed"} < set(types)
    data: Any = wired[types.index("durable.task-scheduled")].get_data()
    shared = {"instance_id": "über 1", "execution_id": execution, "task_id": 2, "attempt": 1}
    assert data.items() >= (shared | {"name": "step", "input": 4}).items()
    completed = wired[types.index("durable.task-completed")]
    assert completed.get_id() == f"%C3%BCber%201/{execution}/2/1"
    data = completed.get_data()
    assert data.items() >= (shared | {"result": 5}).items()


def test_each_fact_that_waits_is_a_cloudevent_of_its_own(bench: Bench) -> None:
    handle = bench.start("wait")
    for name in ("go", "stay", "go"):
        handle.raise_event(name, name)
    wired, again = (bench.client.history(handle.instance_id, as_cloudevents=True, pending=True) for _ in range(2))
    ids = [cloud.get_id() for cloud in wired]
    assert len({*ids}) == len(ids) == 4
    assert ids == [cloud.get_id() for cloud in again]
    assert all("/pending/" in event_id for event_id in ids[1:])


@pytest.mark.on_dynamodb
def test_listing_is_newest_first_in_pages_without_duplicates(bench: Bench, app: durable.Registry) -> None:
    ids = [f"i-{number:02}" for number in range(25)]
    for instance_id in ids:
        bench.start("echo", instance_id, instance_id=instance_id)
    found: list[str] = []
    cursor = None
    for expected in (10, 10, 5):
        page = bench.client.list_orchestrations(limit=10, cursor=cursor)
        assert [s.input for s in page] == [s.instance_id for s in page.items]
        assert len(page.items) == expected
        found += [s.instance_id for s in page]
        cursor = page.cursor
        bench.start("echo", "newer", instance_id=f"newer than page {expected} {len(found)}")
    assert cursor is None
    assert found == ids[::-1]


@pytest.mark.parametrize("filter", ["name", "prefix"])
def test_a_filter_that_is_no_text_is_refused(bench: Bench, filter: str) -> None:
    wrong: dict[str, Any] = {filter: 3}
    for call in (bench.client.list_orchestrations, bench.client.purge_where):
        with pytest.raises(TypeError, match=f"{filter}= takes text, not int"):
            call(**wrong)


def test_filters_are_exact_and_hold_together(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    bench.run("echo", 1, instance_id="a-1", tags={"team": "red", "size": "s"})
    bench.run("echo", 1, instance_id="a-2", tags={"team": "redder"})
    bench.fails("fail", instance_id="b-1", tags={"team": "red"})
    bench.start("wait", instance_id="B-2")
    bench.client.wait("B-2", SOON, until="started")
    bench.start("nobody serves this", instance_id="b-3")

    def found(**filters: Any) -> list[str]:
        return sorted(s.instance_id for s in bench.client.list_orchestrations(**filters))

    assert found() == ["B-2", "a-1", "a-2", "b-1", "b-3"]
    assert found(status="FAILED") == ["b-1"]
    assert found(status=durable.RuntimeStatus.PENDING) == ["b-3"]
    assert found(status=["completed", durable.RuntimeStatus.RUNNING]) == ["B-2", "a-1", "a-2"]
    assert found(status=[]) == []
    assert found(name="echo") == ["a-1", "a-2"]
    assert found(name="ech") == []
    assert found(prefix="b-") == ["b-1", "b-3"]
    assert found(prefix="%") == []
    assert found(tags={"team": "red"}) == ["a-1", "b-1"]
    assert found(tags={"team": "red", "size": "s"}) == ["a-1"]
    assert found(tags={"team": "red"}, status="FAILED", prefix="b") == ["b-1"]
    assert found(tags={"Team": "red"}) == []
    middle = bench.client.handle("b-1").status().created_at
    assert found(created_before=middle) == ["a-1", "a-2"]
    assert found(created_after=middle + timedelta(microseconds=1)) == ["B-2", "b-3"]
    for wrong in ({"status": "DONE"}, {"limit": 0}, {"created_after": datetime(2030, 1, 1)}, {"cursor": "nonsense"}):
        with pytest.raises(ValueError, match=r"."):
            found(**wrong)


def test_nobody_knows_an_unknown_instance(bench: Bench) -> None:
    client = bench.client
    assert client.get_status("unknown") is None
    assert client.purge("unknown") == 0
    handle = client.handle("unknown")
    calls: list[tuple[str, Callable[[], object]]] = [
        ("raise_event('go')", lambda: client.raise_event("unknown", "go")),
        ("terminate", lambda: client.terminate("unknown")),
        ("suspend", lambda: client.suspend("unknown")),
        ("resume", lambda: client.resume("unknown")),
        ("cancel", lambda: client.cancel("unknown")),
        ("rewind", lambda: client.rewind("unknown")),
        ("restart", lambda: client.restart("unknown")),
        ("fork", lambda: client.fork("unknown", after=0)),
        ("history", lambda: client.history("unknown")),
        ("wait", lambda: client.wait("unknown", SOON)),
        ("wait", lambda: client.wait("unknown", SOON, until="started")),
        ("wait", lambda: handle.result(SOON)),
        ("status", handle.status),
        ("terminate", handle.terminate),
        ("raise_event('go')", lambda: handle.raise_event("go")),
    ]
    for operation, call in calls:
        with pytest.raises(durable.InstanceNotFoundError) as caught:
            call()
        assert str(caught.value).startswith(f"{operation}: no orchestration has the id 'unknown'")
        assert "check the id" in str(caught.value)
    bench.start("echo", 1, instance_id="known")
    bench.start("echo", 1, instance_id="other")
    with pytest.raises(durable.InstanceNotFoundError):
        client.history("known", execution_id="nonsense")


def test_of_a_history_too_long_to_be_looked_through_no_activity_is_said_to_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its beginning leaves open may have ended since."""
    own = durable.Registry()

    @own.activity
    def old() -> None: ...

    @own.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield ctx.call_activity("old")
        yield ctx.wait_for_external_event("go")

    worker = bench.serve(own)
    handle = bench.start(flow)
    bench.until_recorded(handle, "EventAwaited")
    worker.stop()
    newer = durable.Registry()
    newer.orchestrator(flow.fn)
    bench.serve(newer)
    until(lambda: handle.status().runtime_status == "RUNNING" and not handle.status().blocked_reason)
    monkeypatch.setattr("durable.app.diagnosis._TURNS_READ", 2)
    assert handle.status().blocked_reason is None
    assert not [finding for finding in bench.client.diagnose().findings if handle.instance_id in finding.what]


# ---- waiting


def test_wait_returns_when_it_has_started_or_ended(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("wait")
    for goal in ("started", "finished"):
        with pytest.raises(durable.TimeoutError) as caught:
            bench.client.wait(handle.instance_id, 0.02, until=goal)
        assert isinstance(caught.value, TimeoutError)
        assert handle.instance_id in str(caught.value)
    bench.serve(app)
    assert bench.client.wait(handle.instance_id, SOON, until="started").runtime_status == "RUNNING"
    with pytest.raises(TimeoutError):
        handle.result(timedelta(milliseconds=20))
    handle.raise_event("go", 1)
    assert bench.client.wait(handle.instance_id, timedelta(seconds=SOON)).output == 1
    assert bench.client.wait(handle.instance_id, 0).output == 1
    assert handle.result(0) == 1


@pytest.mark.everywhere
def test_who_waits_by_id_sees_what_others_have_made_of_it(bench: Bench, app: durable.Registry) -> None:
    """The start was here and its end was told here; but the id is another life's by now, or nobody's."""
    bench.serve(app)
    client, other = bench.client, bench.connect()
    bench.start("echo", 1, instance_id="nightly")
    other.wait("nightly", SOON)
    other.start_orchestration("wait", instance_id="nightly", if_exists="replace")
    for still_running in (client.wait, lambda i, timeout: client.handle(i).result(timeout)):
        with pytest.raises(durable.TimeoutError):
            still_running("nightly", 0.02)
    other.raise_event("nightly", "go", "another life")
    assert client.handle("nightly").result(SOON) == "another life"
    bench.start("echo", 2, instance_id="gone")
    other.wait("gone", SOON)
    other.purge("gone")
    with pytest.raises(durable.InstanceNotFoundError):
        client.wait("gone", SOON)
    with pytest.raises(durable.InstanceNotFoundError):
        client.handle("gone").result(SOON)


def test_who_waits_is_told_and_need_not_ask(bench: Bench, app: durable.Registry) -> None:
    """Whoever is not told looks again after 5 seconds."""
    bench.serve(app)
    elsewhere = bench.connect()
    took: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(5):
            begun = time.monotonic()
            handle = bench.start("wait", start_at=0.02)
            theirs = pool.submit(elsewhere.wait, handle.instance_id, SOON)
            elsewhere.wait(handle.instance_id, SOON, until="started")
            handle.raise_event("go", 1)
            assert (handle.result(SOON), theirs.result().output) == (1, 1)
            took.append(time.monotonic() - begun)
    assert median(took) < 4.5


def test_who_waits_is_told_when_the_worker_dies_of_its_own_error(
    bench: Bench, app: durable.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(wants: Any) -> Any:
        raise ZeroDivisionError("a bug of ours")

    worker = bench.worker(app)
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool, worker:
        handle = bench.start("wait")
        bench.client.wait(handle.instance_id, SOON, until="started")
        waiting = pool.submit(handle.result, SOON)
        patch.setattr(bench.client.backend.store, "load", broken)
        handle.raise_event("go")
        with pytest.raises(durable.DurableError, match="Nothing is lost") as caught:
            waiting.result()
        assert not isinstance(caught.value, durable.TimeoutError)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    bench.serve(app)
    assert handle.result(SOON) is None


@pytest.mark.filterwarnings("ignore:Exception in thread durable-engine")
def test_who_waits_is_told_when_the_dead_worker_can_not_even_say_good_bye(
    bench: Bench, app: durable.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        monkeypatch.undo()
        raise ZeroDivisionError("another bug of ours")

    worker = bench.worker(app)
    with ThreadPoolExecutor(1) as pool, worker:
        handle = bench.start("wait")
        bench.client.wait(handle.instance_id, SOON, until="started")
        waiting = pool.submit(handle.result, SOON)
        monkeypatch.setattr(bench.client.backend.membership, "leave", broken)
        monkeypatch.setattr("durable.runtime.loop.Loop._sort", _broken)
        handle.raise_event("go")
        with pytest.raises(durable.DurableError, match="Nothing is lost"):
            waiting.result()


def _broken(*_: Any) -> Any:
    raise ZeroDivisionError("a bug of ours")


def test_results_are_decoded_to_the_orchestrators_type(bench: Bench) -> None:
    app = durable.Registry()

    @dataclass
    class Box:
        size: int

    def flow(ctx: Ctx) -> Any:
        return {"size": 3}

    flow.__annotations__["return"] = Box
    make: Any = app.orchestrator(flow)
    bench.serve(app)
    handle = bench.start(make, instance_id="box")
    assert handle.result(SOON) == Box(3)
    assert bench.client.handle("box").result(SOON) == {"size": 3}
    assert bench.run(durable.orchestrator_ref("flow", returns=Box)) == Box(3)


# ---- ending


def test_terminate_ends_what_waits_and_its_reason_is_the_output(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    for reason in (None, "enough", {"by": ["me"]}):
        handle = bench.start("wait")
        bench.client.wait(handle.instance_id, SOON, until="started")
        handle.terminate(reason)
        with pytest.raises(durable.OrchestrationTerminatedError) as caught:
            handle.result(SOON)
        assert caught.value.reason == reason
        status = handle.status()
        assert (status.runtime_status, status.output) == (durable.RuntimeStatus.TERMINATED, reason)
        assert status.completed_at is not None


def test_terminate_beats_everything_that_no_turn_has_taken(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("wait")
    handle.raise_event("go", "too late")
    handle.terminate("first")
    handle.terminate("second")
    bench.serve(app)
    with pytest.raises(durable.OrchestrationTerminatedError) as caught:
        handle.result(SOON)
    assert caught.value.reason == "first"


@pytest.mark.parametrize("recursive", [True, False])
def test_terminate_reaches_all_children_or_none(bench: Bench, app: durable.Registry, recursive: bool) -> None:
    bench.serve(app)
    handle = bench.start("family", 3, instance_id="level-3")
    until(lambda: status_of(bench, "level-0") == "RUNNING")
    handle.terminate({"why": "all"}, recursive=recursive)
    with pytest.raises(durable.OrchestrationTerminatedError):
        handle.result(SOON)
    below = [bench.client.handle(f"level-{level}") for level in (2, 1, 0)]
    if recursive:
        for child in below:
            with pytest.raises(durable.OrchestrationTerminatedError) as caught:
                child.result(SOON)
            assert caught.value.reason == {"why": "all"}
    else:
        below[-1].raise_event("go", "still there")
        assert [child.result(SOON) for child in below] == ["still there"] * 3


def test_what_a_call_does_depends_on_the_state(bench: Bench, app: durable.Registry) -> None:
    """Each call in each state: done, nothing at all, or an error that names instance, operation and remedy."""
    client, fits = bench.client, [True]

    @app.orchestrator
    def edited(ctx: Ctx) -> Steps:
        return (yield ctx.wait_for_external_event("go" if fits else "other"))

    def becomes(instance_id: str, status: str) -> None:
        until(lambda: status_of(bench, instance_id) == status)

    first = bench.serve(app)
    bench.start("wait", instance_id="PENDING", start_at=3_600)
    for running in ("RUNNING", "SUSPENDED", "CANCELED", "TERMINATED"):
        bench.start("wait", instance_id=running)
    blocked = bench.start(edited, instance_id="BLOCKED")
    bench.run("echo", 1, instance_id="COMPLETED")
    bench.fails("fail", instance_id="FAILED")
    for steer, instance_id in ((client.suspend, "SUSPENDED"), (client.cancel, "CANCELED")):
        steer(instance_id)
        becomes(instance_id, instance_id)
    client.terminate("TERMINATED")
    becomes("TERMINATED", "TERMINATED")
    becomes("BLOCKED", "RUNNING")
    becomes("RUNNING", "RUNNING")
    first.stop()
    fits.clear()
    blocked.raise_event("go")
    bench.serve(app)
    becomes("BLOCKED", "BLOCKED")

    def refused(error: type[Exception], instance_id: str, operation: str, remedy: str, *args: Any) -> None:
        before = client.get_status(instance_id)
        with pytest.raises(error) as caught:
            getattr(client, operation)(instance_id, *args)
        for part in (operation, repr(instance_id), remedy):
            assert part in str(caught.value), (part, caught.value)
        assert client.get_status(instance_id) == before

    for unfinished in ("PENDING", "RUNNING", "SUSPENDED", "BLOCKED"):
        for operation in ("purge", "restart"):
            refused(durable.InstanceNotFinishedError, unfinished, operation, "terminate it")
        refused(durable.InvalidStateError, unfinished, "rewind", "only a FAILED one is rewound")
        with pytest.raises(durable.InstanceExistsError, match=f"'{unfinished}'; wait for the end, terminate it"):
            bench.start("echo", 1, instance_id=unfinished, if_exists="replace")
    for ended in ("COMPLETED", "FAILED", "CANCELED", "TERMINATED"):
        before = client.history(ended)
        for ignored in (client.terminate, client.cancel, client.suspend, client.resume):
            ignored(ended, "too late")
        refused(durable.InstanceFinishedError, ended, "raise_event", "start another one, or restart it", "go")
        if ended != "FAILED":
            refused(durable.InvalidStateError, ended, "rewind", "only a FAILED one is rewound")
        assert client.history(ended, pending=True) == before
        assert status_of(bench, ended) == ended
    assert client.purge_where() == 4
    for unfinished in ("PENDING", "RUNNING", "SUSPENDED", "BLOCKED"):
        client.raise_event(unfinished, "news")
        client.terminate(unfinished, "enough")
        with pytest.raises(durable.OrchestrationTerminatedError, match="enough"):
            client.handle(unfinished).result(SOON)


# ---- workers come and go


@pytest.mark.on_dynamodb
def test_the_next_worker_goes_on_where_the_last_one_stopped(bench: Bench) -> None:
    app = durable.Registry()
    calls: list[int] = []

    @app.activity
    def step(n: int) -> int:
        calls.append(n)
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        total = 0
        for number in range(4):
            total += yield ctx.call_activity(step, number)
            yield ctx.wait_for_external_event("next")
        return total

    handle = bench.start(flow)
    for number in range(4):
        worker = bench.serve(app)
        bench.until_recorded(handle, "EventAwaited", number + 1)
        worker.stop()
        handle.raise_event("next")
    bench.serve(app)
    assert handle.result(SOON) == 6
    assert calls == [0, 1, 2, 3]


def test_a_stopping_worker_lets_an_activity_finish_within_its_grace(bench: Bench) -> None:
    app = durable.Registry()
    started, gate = threading.Event(), threading.Event()
    calls: list[int] = []

    @app.activity
    def step() -> str:
        calls.append(1)
        started.set()
        assert gate.wait(SOON)
        return "finished"

    @app.activity
    def after() -> str:
        return "after"

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        first = yield ctx.call_activity(step)
        return [first, (yield ctx.call_activity(after))]

    worker = bench.serve(app, shutdown_grace=SOON)
    handle = bench.start(flow)
    assert started.wait(SOON)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    began = time.monotonic()
    gate.set()
    stopping.join(SOON)
    assert not stopping.is_alive()
    assert time.monotonic() - began < 3, "the grace is for what runs: when that has ended, so has the worker"
    if bench.place.events is None:  # with a broker it is as safe in the queue, for the next worker
        assert "TaskCompleted" in bench.types(handle)
    assert handle.status().runtime_status is durable.RuntimeStatus.RUNNING
    bench.serve(app)
    assert handle.result(SOON) == ["finished", "after"]
    assert calls == [1]


def test_what_does_not_finish_within_the_grace_is_handed_back(bench: Bench) -> None:
    app = durable.Registry()
    gate, told = threading.Event(), threading.Event()
    started = threading.Semaphore(0)

    @app.activity
    def step(ctx: durable.ActivityContext, n: int) -> int:
        started.release()
        while not gate.is_set() and not ctx.cancelled:
            threading.Event().wait(0.002)
        if ctx.cancelled:
            told.set()
        return n

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        return (yield [ctx.call_activity(step, n) for n in range(5)])

    worker = bench.serve(app, max_concurrent_activities=2, shutdown_grace=0.02)
    handle = bench.start(flow)
    assert started.acquire(timeout=SOON)
    assert started.acquire(timeout=SOON)
    worker.stop()
    assert told.wait(SOON)
    gate.set()
    began = time.monotonic()
    bench.serve(app)
    assert handle.result(SOON) == [0, 1, 2, 3, 4]
    assert time.monotonic() - began < 10, "handed back means that nobody waits for a lease to run out"


def test_a_worker_is_used_once_and_stop_may_be_called_again(bench: Bench) -> None:
    worker = bench.worker(durable.Registry())
    with worker, pytest.raises(RuntimeError):
        worker.start()
    worker.stop()
    worker.stop()
    for wrong in ({"max_concurrent_activities": 0}, {"max_cached_orchestrations": -1}, {"shutdown_grace": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            bench.worker(durable.Registry(), **wrong)


@pytest.mark.embedded("on a server they share the work")
def test_a_second_worker_on_one_store_stands_by_until_the_first_has_stopped(
    bench: Bench, app: durable.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    first = bench.serve(app)
    idle = durable.Registry()  # without code: whatever it served would stay PENDING
    second = durable.Worker(bench.client, registry=idle, shutdown_grace=0)
    with second:
        assert f"pid {os.getpid()}" in caplog.text
        assert bench.run("echo", 1) == 1
        first.stop()
        idle.orchestrator(name="echo")(lambda ctx, value: ("second", value))
        assert bench.run("echo", 2) == ["second", 2]
    with durable.Worker(bench.client, registry=app):
        assert bench.run("echo", 3) == 3


@pytest.mark.not_on_dynamodb("it asks on sixteen threads, however many are parked")
def test_parked_orchestrations_need_no_thread_of_their_own(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handles = [bench.start("wait")]
    bench.client.wait(handles[0].instance_id, SOON, until="started")
    before = threading.active_count()
    handles += bench.client.start_many("wait", [None] * 200)
    until(lambda: not bench.client.list_orchestrations(status="PENDING", limit=1).items)
    assert threading.active_count() <= before + 1
    for number, handle in enumerate(handles):
        handle.raise_event("go", number)
    assert [handle.result(SOON) for handle in handles] == list(range(201))


# ---- other processes, one file

ELSEWHERE = """
import sys, time, durable
url, command, *args = sys.argv[1:]
with durable.connect(url) as client:
    if command == "start":
        client.start_orchestration("wait", instance_id=args[0])
    elif command == "raise":
        for number in range(5):
            client.raise_event(args[0], "go", number)
    elif command == "read":
        print(client.get_status(args[0]).runtime_status, len(client.history(args[0])) > 1)
    elif command == "wait":
        print("waiting", flush=True)
        client.wait(args[0], 20)
        print(time.time(), flush=True)
    elif command == "latency":
        client.start_orchestration("wait", instance_id="warm-up")
        client.raise_event("warm-up", "go")
        client.wait("warm-up", 20)
        took = []
        for number in range(20):
            handle = client.start_orchestration("echo", number)
            began = time.monotonic()
            assert handle.result(20) == number
            took.append(time.monotonic() - began)
        print(sorted(took)[10])
"""


@pytest.fixture
def shared(tmp_path: Path) -> str:
    """The URL of a file that several processes use."""
    return f"sqlite:///{tmp_path}/shared.db"


def elsewhere(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", ELSEWHERE, *args], stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output


def test_another_process_starts_raises_reads_and_waits(shared: str) -> None:
    served = durable.Registry()

    @served.orchestrator(name="wait")
    def five(ctx: Ctx) -> Steps:
        got = []
        for _ in range(5):
            got.append((yield ctx.wait_for_external_event("go")))
        yield ctx.wait_for_external_event("end")
        return got

    with durable.connect(shared) as client, durable.Worker(client, registry=served):
        said(elsewhere(shared, "start", "x"))
        assert client.wait("x", SOON, until="started").runtime_status == "RUNNING"
        said(elsewhere(shared, "raise", "x"))
        assert said(elsewhere(shared, "read", "x")).split() == ["RUNNING", "True"]
        waiting = elsewhere(shared, "wait", "x")
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        client.raise_event("x", "end")
        assert client.handle("x").result(SOON) == [0, 1, 2, 3, 4]
        ended = time.time()
        assert float(said(waiting)) - ended < 5, "far less than the wait's own timeout"


def test_other_processes_are_noticed_soon(shared: str, app: durable.Registry) -> None:
    """At most 50 ms late, says the contract: there and back may take twice that, and a busy machine adds its own."""
    with durable.Worker(shared, registry=app):
        assert float(said(elsewhere(shared, "latency"))) < 0.25


def test_a_worker_takes_over_from_another_process_that_is_killed(shared: str, app: durable.Registry) -> None:
    script = (
        "import sys, durable\nwith durable.Worker(sys.argv[1], registry=durable.Registry()):\n"
        "    print('serving', flush=True); input()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other, durable.connect(shared) as client:
        assert other.stdout is not None
        assert other.stdout.readline() == "serving\n"
        with durable.Worker(client, registry=app):
            handle = client.start_orchestration("echo", 1)
            with pytest.raises(durable.TimeoutError):
                handle.result(0.1)
            other.kill()
            assert handle.result(SOON) == 1


KILLED = """
import os, sys, durable
app = durable.Registry()

@app.activity
def step(n: int) -> int:
    with open(sys.argv[2], "a") as log:
        log.write(f"{n}\\n")
    if n == 2 and len(sys.argv) > 3:
        os._exit(9)
    return n

@app.orchestrator
def flow(ctx):
    total = 0
    for n in range(4):
        total += yield ctx.call_activity(step, n)
    return total

with durable.connect(sys.argv[1]) as client, durable.Worker(client, registry=app):
    print(client.start_orchestration(flow, instance_id="it", if_exists="return").result(20))
"""


def test_a_killed_process_loses_nothing_and_repeats_only_the_interrupted_step(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", KILLED, f"sqlite:///{tmp_path}/killed.db", str(log)]
    first = subprocess.run([*command, "die"], capture_output=True, text=True, timeout=60)
    assert first.returncode == 9
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (second.stdout, second.stderr) == ("6\n", "")
    assert log.read_text().split() == ["0", "1", "2", "2", "3"]
