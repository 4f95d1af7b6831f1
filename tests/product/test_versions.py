"""Several versions of one orchestrator, patches, and histories that grow: deploys lose nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.waiting import SOON

if TYPE_CHECKING:
    from tests.product.conftest import Bench


Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]

pytestmark = pytest.mark.everywhere


def app_with(*versions: str | None, group: str | None = None) -> durable.Registry:
    """A registry with these versions of `flow`: each waits for `go` and tells which code ran, and as what."""
    app = durable.Registry()
    for version in versions:
        register(app, version, group)
    return app


def register(app: durable.Registry, version: str | None, group: str | None = None, name: str = "flow") -> Any:
    @app.orchestrator(name=name, version=version, group=group)
    def flow(ctx: Ctx) -> Steps:
        yield ctx.wait_for_external_event("go")
        return [version, ctx.version]

    return flow


def begun(bench: Bench, *args: Any, **options: Any) -> durable.OrchestrationHandle[Any]:
    handle = bench.start(*args, **options)
    bench.until_recorded(handle, "EventAwaited")
    return handle


def finish(handle: durable.OrchestrationHandle[Any]) -> Any:
    handle.raise_event("go")
    return handle.result(SOON, on_blocked="raise")


# ---- which version runs


def test_by_function_it_is_its_version(bench: Bench) -> None:
    app = durable.Registry()
    flows = {version: register(app, version) for version in (None, "1.0", "2.0")}
    bench.serve(app)
    for version, flow in flows.items():
        assert finish(bench.start(flow)) == [version, version]
    assert finish(bench.start(flows["1.0"], version="2.0")) == ["2.0", "2.0"]
    assert finish(bench.start(flows["1.0"].options(version="2.0"))) == ["2.0", "2.0"]


def test_many_are_started_in_the_version_that_is_asked_for(bench: Bench) -> None:
    app = app_with(None, "2.0")
    flow = register(app, "1.0")
    bench.serve(app)
    for version in ("1.0", "2.0"):
        handles = bench.client.start_many("flow", [None, None], version=version)
        assert [finish(handle) for handle in handles] == [[version, version]] * 2
        assert [handle.status().version for handle in handles] == [version] * 2
    (handle,) = bench.client.start_many(flow, [None], version="2.0")
    assert finish(handle) == ["2.0", "2.0"]


def test_by_name_alone_it_is_the_unversioned_one_else_the_highest(bench: Bench) -> None:
    app = durable.Registry()
    cases: dict[str, tuple[tuple[str | None, ...], str | None]] = {
        "unversioned": ((None, "1.0", "9.0"), None),
        "numbers": (("1.9", "1.10"), "1.10"),
        "candidate": (("2.0", "2.0rc1"), "2.0"),
        "words": (("blue", "green"), "green"),
    }
    for name, (versions, _) in cases.items():
        for version in versions:
            register(app, version, name=name)
    bench.serve(app)
    for name, (_, expected) in cases.items():
        handle = begun(bench, name)
        assert (name, handle.status().version) == (name, expected)
        assert (name, finish(handle)) == (name, [expected, expected])


def test_the_version_that_the_first_turn_fixed_shows_and_stays(bench: Bench) -> None:
    app = app_with("1.0")
    bench.serve(app)
    handle = begun(bench, "flow")
    started, opening = bench.client.history(handle.instance_id)[:2]
    assert (started.type, started.version) == ("ExecutionStarted", None)
    assert (opening.type, opening.version) == ("OrchestratorStarted", "1.0")
    assert handle.status().version == "1.0"
    register(app, "2.0")
    register(app, None)
    assert finish(handle) == ["1.0", "1.0"]
    assert bench.client.list_orchestrations(name="flow").items[0].version == "1.0"
    assert finish(bench.start("flow")) == [None, None]


def test_it_is_fixed_also_where_the_first_turn_is_the_last(bench: Bench) -> None:
    app = durable.Registry()
    app.orchestrator(name="quick", version="3.1")(lambda ctx: ctx.version)
    bench.serve(app)
    handle = bench.start("quick")
    assert handle.result(SOON) == "3.1"
    assert handle.status().version == "3.1"


def test_a_version_that_is_not_there_runs_on_the_unversioned_one(bench: Bench) -> None:
    bench.serve(app_with(None, "1.0"))
    handle = bench.start("flow", version="7")
    assert finish(handle) == [None, "7"]
    assert handle.status().version == "7"


def test_children_do_not_inherit_a_version(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator(name="child")
    def plain(ctx: Ctx) -> str:
        return f"plain {ctx.version}"

    @app.orchestrator(name="child", version="5")
    def fifth(ctx: Ctx) -> str:
        return f"fifth {ctx.version}"

    @app.orchestrator(version="5")
    def parent(ctx: Ctx) -> Steps:
        return [
            (yield ctx.call_sub_orchestrator("child")),
            (yield ctx.call_sub_orchestrator("child", version="5")),
            (yield ctx.call_sub_orchestrator(fifth)),
            (yield ctx.call_sub_orchestrator(plain)),
            (yield ctx.call_sub_orchestrator(durable.orchestrator_ref("child", version="5"))),
            (yield ctx.call_sub_orchestrator(durable.orchestrator_ref("child", version="6"))),
            (yield ctx.map(fifth, [None])),
        ]

    bench.serve(app)
    expected = ["plain None", "fifth 5", "fifth 5", "plain None", "fifth 5", "plain 6", ["fifth 5"]]
    assert bench.run(parent) == expected


def test_continue_as_new_keeps_the_version_or_takes_another(bench: Bench) -> None:
    app = durable.Registry()

    def make(version: str | None) -> Callable[..., Any]:
        def flow(ctx: Ctx, went: list[Any], to: list[Any]) -> list[Any] | None:
            went = [*went, version, ctx.version]
            if not to:
                return went
            ctx.continue_as_new(went, to[1:], version=to[0])
            return None

        return flow

    for version in (None, "1.0", "2.0"):
        app.orchestrator(name="flow", version=version)(make(version))
    bench.serve(app)
    handle = bench.start("flow", [], [None, "1.0", None, "2.0", "nowhere"])
    ran = [(None, None), (None, None), ("1.0", "1.0"), ("1.0", "1.0"), ("2.0", "2.0"), (None, "nowhere")]
    assert handle.result(SOON, on_blocked="raise") == [item for pair in ran for item in pair]
    assert handle.status().version == "nowhere"


def test_another_version_may_take_other_arguments(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator(name="grows", version="1")
    def first(ctx: Ctx, item: str) -> Any:
        with pytest.raises(TypeError, match="takes 1 argument"):
            ctx.continue_as_new(item, 3)
        ctx.continue_as_new(item, 3, version="2")

    @app.orchestrator(name="grows", version="2")
    def second(ctx: Ctx, item: str, pieces: int, note: str = "") -> str:
        return f"{pieces} {item}{note}"

    bench.serve(app)
    assert bench.run(first, "books") == "3 books"


def test_the_version_of_a_continuation_obeys_the_rule_of_names(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> str:
        with pytest.raises(ValueError, match="version="):
            ctx.continue_as_new(version="a/b")
        return "went on"

    bench.serve(app)
    assert bench.run(flow) == "went on"


# ---- the registry


def test_another_function_under_a_taken_version_is_refused_and_says_so() -> None:
    app = app_with("1.0")
    with pytest.raises(durable.DuplicateNameError, match=r"'flow' in version '1\.0'.*version=\.\.\."):
        app.orchestrator(name="flow", version="1.0")(lambda ctx: None)
    register(app, "1.0")  # the same file and qualified name: a notebook cell that is run again
    app.orchestrator(name="flow", version="1.1")(lambda ctx: None)


def test_the_names_can_be_read_while_others_register() -> None:
    app, done = durable.Registry(), threading.Event()

    def read() -> int:
        """How many there are at the end."""
        while not done.is_set():
            app.names("orchestrator")
        return len(app.names("orchestrator"))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(read)
            for number in range(1_000):
                app.orchestrator(name=f"flow-{number}")(lambda ctx: None)
            done.set()
            assert found.result(SOON) == 1_000
    finally:
        done.set()
        sys.setswitchinterval(before)


# ---- deploys in mid-flight


def test_an_instance_waits_for_its_version_and_loses_nothing(bench: Bench) -> None:
    worker = bench.serve(app_with("1"))
    running = begun(bench, "flow", version="1")
    fixed = begun(bench, "flow")
    worker.stop()
    worker = bench.serve(app_with("2"))
    fresh = bench.start("flow", version="1")
    for handle in (running, fixed):
        handle.raise_event("go")
        assert "'flow' in version '1'; registered here: flow 2" in bench.blocked(handle)
        assert "EventRaised" not in bench.types(handle)
    assert finish(begun(bench, "flow")) == ["2", "2"]  # the worker is well meanwhile
    assert fresh.status().runtime_status is durable.RuntimeStatus.PENDING
    worker.stop()
    bench.serve(app_with("1", "2"))
    assert [handle.result(SOON) for handle in (running, fixed)] == [["1", "1"]] * 2
    assert finish(fresh) == ["1", "1"]


def test_an_instance_of_a_version_that_is_gone_goes_on_with_the_unversioned_one(bench: Bench) -> None:
    worker = bench.serve(app_with("1"))
    handle = begun(bench, "flow", version="1")
    worker.stop()
    bench.serve(app_with(None, "2"))
    assert finish(handle) == [None, "1"]


def test_what_the_unversioned_one_began_never_goes_on_with_a_version(bench: Bench) -> None:
    worker = bench.serve(app_with(None))
    handle = begun(bench, "flow")
    worker.stop()
    app = app_with("2")
    bench.serve(app)
    handle.raise_event("go")
    assert "'flow'; registered here: flow 2" in bench.blocked(handle)
    register(app, None)  # a running worker learns of it
    assert handle.result(SOON) == [None, None]


def test_two_versions_are_served_by_two_groups_at_once(bench: Bench) -> None:
    blue, green = app_with("1", group="blue"), app_with("2", group="green")
    if not bench.place.url.startswith("redis"):
        pytest.skip("one worker at a time works on this store")
    bench.serve(blue, groups=["blue"])
    old = begun(bench, durable.orchestrator_ref("flow", group="blue"))
    other = bench.connect()
    with durable.Worker(other, registry=green, groups=["green"], shutdown_grace=0):
        new = begun(bench, durable.orchestrator_ref("flow", group="green"))
        assert finish(new) == ["2", "2"]
        assert finish(old) == ["1", "1"]


# ---- patches


def before(ctx: Ctx) -> Steps:
    yield ctx.wait_for_external_event("one")
    yield ctx.wait_for_external_event("two")
    return ["old"]


def patched(ctx: Ctx) -> Steps:
    answers = []
    yield ctx.wait_for_external_event("one")
    answers.append(ctx.patched("fee"))
    if answers[-1]:
        answers.append((yield ctx.call_activity("charge")))
    yield ctx.wait_for_external_event("two")
    return [*answers, ctx.patched("fee")]


def unguarded(ctx: Ctx) -> Steps:
    yield ctx.wait_for_external_event("one")
    charged = yield ctx.call_activity("charge")
    yield ctx.wait_for_external_event("two")
    return ["unguarded", charged]


def app_of(fn: Callable[..., Any]) -> durable.Registry:
    app = durable.Registry()
    app.activity(name="charge")(lambda: "charged")
    app.orchestrator(name="flow")(fn)
    return app


def test_a_patch_is_for_what_has_not_come_so_far(bench: Bench) -> None:
    worker = bench.serve(app_of(before))
    past, ahead = bench.start("flow"), bench.start("flow")
    past.raise_event("one")
    bench.until_recorded(past, "EventAwaited", 2)
    bench.until_recorded(ahead, "EventAwaited")
    worker.stop()
    bench.serve(app_of(patched))
    fresh = bench.start("flow")
    for handle in (ahead, fresh):
        handle.raise_event("one")
    for handle in (past, ahead, fresh):
        handle.raise_event("two")
    assert past.result(SOON, on_blocked="raise") == [False, False]
    for handle in (ahead, fresh):
        assert handle.result(SOON, on_blocked="raise") == [True, "charged", True]
        (recorded,) = [e for e in bench.history(handle) if e.type == "PatchRecorded"]
        assert (recorded.name, recorded.task_id) == ("fee", None)
    assert "PatchRecorded" not in bench.types(past)


def test_the_guard_may_go_but_not_what_it_guards(bench: Bench) -> None:
    worker = bench.serve(app_of(patched))
    fits, differs = bench.start("flow"), bench.start("flow")
    for handle in (fits, differs):
        handle.raise_event("one")
        bench.until_recorded(handle, "EventAwaited", 2)
    worker.stop()
    worker = bench.serve(app_of(unguarded))
    fits.raise_event("two")
    assert fits.result(SOON, on_blocked="raise") == ["unguarded", "charged"]
    worker.stop()
    worker = bench.serve(app_of(before))
    differs.raise_event("two")
    assert "call_activity 'charge'" in bench.blocked(differs)
    worker.stop()
    bench.serve(app_of(patched))
    assert differs.result(SOON) == [True, "charged", True]


def test_a_patch_is_not_carried_over_continue_as_new(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx, rounds: int) -> Steps:
        assert ctx.patched("once")
        yield ctx.create_timer(0)
        assert ctx.patched("once")
        if rounds:
            ctx.continue_as_new(rounds - 1)
        return "done"

    bench.serve(app)
    handle = bench.start(flow, 2)
    assert handle.result(SOON) == "done"
    assert bench.types(handle).count("PatchRecorded") == 1  # in each execution


def test_the_id_of_a_patch_is_a_name(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> list[bool]:
        ask: Any = ctx.patched
        for wrong in ("", "a/b", "@x", "x" * 201):
            with pytest.raises(ValueError, match="change_id"):
                ask(wrong)
        with pytest.raises(TypeError, match="change_id"):
            ask(3)
        return [ctx.patched("straße 7")]

    bench.serve(app)
    assert bench.run(flow) == [True]


# ---- histories that grow


def polling(ctx: Ctx, rounds: int) -> Steps:
    """Starts over whenever it is told to, and counts how often."""
    turns = 0
    while not ctx.suggest_continue_as_new:
        turns += 1
        yield ctx.call_activity("poll", "x" * 100)
    if rounds == 2:
        return turns
    ctx.continue_as_new(rounds + 1)
    return None


@pytest.mark.parametrize(
    "limits", [durable.Limits(history_events=20), durable.Limits(history_bytes=2_000)], ids=["events", "bytes"]
)
def test_a_long_history_asks_to_be_left(bench: Bench, limits: durable.Limits) -> None:
    app = durable.Registry()
    app.activity(name="poll")(lambda text: text)
    flow = app.orchestrator(name="polling")(polling)
    client = bench.connect(limits=limits)
    with durable.Worker(client, registry=app, max_cached_orchestrations=0 if bench.cold else 10):
        handle = client.start_orchestration(flow, 0)
        turns = handle.result(SOON, on_blocked="raise")
        history = client.history(handle.instance_id)
    assert 3 <= turns <= 20
    flags = [e.suggest_continue_as_new for e in history if e.type == "OrchestratorStarted"]
    assert flags == [None] * (len(flags) - 1) + [True]
    if limits.history_events == 20:
        assert len(history) > 20
        assert next(e.event_id for e in history if e.suggest_continue_as_new) == 22 - 1  # 21 events before it


def test_what_was_suggested_stays_so_under_other_limits(bench: Bench) -> None:
    app = durable.Registry()
    app.activity(name="poll")(lambda: None)

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        for _ in range(4):
            yield ctx.call_activity("poll")
        first = ctx.suggest_continue_as_new
        if first:
            yield ctx.call_activity("poll")
        yield ctx.wait_for_external_event("go")
        return [first, ctx.suggest_continue_as_new]

    for lived, then in (
        (durable.Limits(history_events=3), durable.Limits()),
        (durable.Limits(), durable.Limits(history_events=3)),
    ):
        small = bench.connect(limits=lived)
        with durable.Worker(small, registry=app, shutdown_grace=0):
            handle = small.start_orchestration(flow)
            bench.until_recorded(handle, "EventAwaited")
        large = bench.connect(limits=then)
        with durable.Worker(large, registry=app, shutdown_grace=0):
            large.raise_event(handle.instance_id, "go")
            was_long = lived.history_events == 3
            assert large.handle(handle.instance_id).result(SOON, on_blocked="raise") == [was_long, not was_long]
