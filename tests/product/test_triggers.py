"""Triggers, by their public names: what docs/triggers.md promises, on every store."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durable
import durable.testing
from durable import CloudEvent, EventPattern, actions, conditions
from tests.waiting import SOON, until

if TYPE_CHECKING:
    from tests.product.conftest import Bench

pytestmark = pytest.mark.everywhere

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]
NOBODY = "nobody-has-this-function"


def event(
    type: str = "t", data: Any = None, *, subject: str = "", id: str = "", source: str = "/test", **more: Any
) -> CloudEvent:
    given = {"type": type, "source": source, **({"subject": subject} if subject else {}), **({"id": id} if id else {})}
    return CloudEvent({**given, **more}, data)


@pytest.fixture
def app() -> durable.Registry:
    """`note` notes in the workspace's context which trigger saw which event; `flaky` raises until its trigger's context
    has another word."""
    app = durable.Registry()

    @app.action(name="note")
    def note(context: durable.TriggerContext, event: CloudEvent) -> None:
        context.workspace.setdefault("noted", []).append([context.trigger_id, event.get_id()])

    @app.action(name="sums")
    def sums(context: durable.TriggerContext, event: CloudEvent) -> None:
        context["sum"] = context.get("sum", 0) + event.get_data()
        context["subjects"] = [*context.get("subjects", []), event.get_subject()]

    @app.condition(name="is-large")
    def is_large(context: durable.TriggerContext, event: CloudEvent) -> bool:
        return bool(event.get_data() >= context["large"])

    @app.orchestrator(name="same")
    def same(ctx: Ctx, value: Any) -> Steps:
        yield ctx.create_timer(0)
        return value

    @app.orchestrator(name="waits")
    def waits(ctx: Ctx) -> Steps:
        return (yield ctx.wait_for_external_event("paid"))

    return app


def noted(bench: Bench) -> list[list[str]]:
    """[trigger, event] of each firing of `note`."""
    found: list[list[str]] = bench.client.get_workspace_context().get("noted", [])
    return found


def taken(bench: Bench, count: int) -> None:
    """Wait until so many events have counted."""
    until(lambda: bench.client.event_counts().taken >= count)
    assert bench.client.event_counts().taken == count


def publish(bench: Bench, *events: CloudEvent) -> None:
    for one in events:
        bench.client.publish(one)


# ---- matching


@pytest.mark.on_dynamodb
def test_events_are_matched_by_type_subject_and_source_exactly_or_by_pattern(
    bench: Bench, app: durable.Registry
) -> None:
    for trigger_id, on in {
        "all": EventPattern(),
        "type": EventPattern(type="com.shop.paid"),
        "types": EventPattern(type="com.shop.*"),
        "subject": EventPattern(subject="order-42"),
        "subjects": EventPattern(subject="order-*"),
        "source": EventPattern(source="/shop"),
        "no subject": EventPattern(subject=""),
        "three": EventPattern(type="com.shop.*", subject="order-42", source="/sh*"),
        "several": [EventPattern(type="com.mail.*"), EventPattern(type="com.*", subject="order-42")],
    }.items():
        bench.client.add_trigger(trigger_id, on=on, action="note", transient=False)
    bench.serve(app)
    publish(
        bench,
        event("com.shop.paid", subject="order-42", source="/shop", id="1"),
        event("com.shop.sent", subject="order-4", source="/shop/2", id="2"),
        event("com.mail.sent", source="/mail", id="3"),
    )
    taken(bench, 3)
    seen: dict[str, list[str]] = {}
    for trigger_id, event_id in noted(bench):
        seen.setdefault(event_id, []).append(trigger_id)
    assert seen == {
        "1": ["all", "type", "types", "subject", "subjects", "source", "three", "several"],
        "2": ["all", "types", "subjects"],
        "3": ["all", "no subject", "several"],
    }


def test_conditions_say_after_which_events(bench: Bench, app: durable.Registry) -> None:
    now = datetime.now(timezone.utc)
    for trigger_id, condition in {
        "always": conditions.always,
        "any": conditions.any,
        "join": conditions.join(2),
        "subjects": conditions.join_subjects(["a", "b"]),
        "counter": conditions.counter(3),
        "past": conditions.not_before(now),
        "future": conditions.not_before(now + timedelta(days=1)),
        "too late": conditions.not_after(now),
        "in time": conditions.not_after(now + timedelta(days=1)),
        "expression": conditions.expression("subject == 'a' && data >= `3` && context.large == `4`"),
        "function": "is-large",
        "either": conditions.any(conditions.join(3), "is-large"),
    }.items():
        bench.client.add_trigger(
            trigger_id,
            on=EventPattern(),
            condition=condition,
            action="note",
            context={"large": 4},
            transient=False,
        )
    bench.serve(app)
    publish(bench, *(event(data=n, subject="aabb"[n - 1], id=str(n)) for n in (1, 2, 3, 4)))
    taken(bench, 4)
    seen: dict[str, str] = {}
    for trigger_id, event_id in noted(bench):
        seen[trigger_id] = seen.get(trigger_id, "") + event_id
    assert seen == {
        "always": "1234",
        "any": "1234",
        "join": "24",
        "subjects": "3",
        "counter": "34",
        "past": "1234",
        "in time": "1234",
        "function": "4",
        "either": "34",
    }


def test_an_expression_sees_data_and_context(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger(
        "t",
        on=EventPattern(),
        condition=conditions.expression("data.amount > `100` && context.limit == 'on' && region == 'eu'"),
        action="note",
        context={"limit": "on"},
        transient=False,
    )
    bench.serve(app)
    publish(
        bench,
        event(data={"amount": 101}, id="1", region="eu"),
        event(data={"amount": 100}, id="2", region="eu"),
        event(data={"amount": 101}, id="3", region="us"),
        event(data="text", id="4", region="eu"),
    )
    taken(bench, 4)
    assert noted(bench) == [["t", "1"]]


# ---- counting once, and for ever


@pytest.mark.on_dynamodb
def test_four_transient_triggers_on_one_event_all_fire_and_stay_gone_after_a_restart(
    bench: Bench, app: durable.Registry
) -> None:
    for n in range(4):
        bench.client.add_trigger(f"t{n}", on=EventPattern(subject="x"), action="note")
    worker = bench.serve(app)
    publish(bench, event(subject="x", id="1"))
    for n in range(4):
        assert bench.client.wait_for_trigger(f"t{n}", SOON) is None
    worker.stop()
    bench.serve(app)
    publish(bench, event(subject="x", id="2"))
    taken(bench, 2)
    assert noted(bench) == [[f"t{n}", "1"] for n in range(4)]
    assert bench.client.list_triggers() == []
    assert bench.client.event_counts().unmatched == 1


def test_a_persistent_trigger_fires_again_and_again(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger("t", on=EventPattern(), condition=conditions.join(2), transient=False)
    bench.serve(app)
    publish(bench, *(event() for _ in range(7)))
    view = bench.client.wait_for_trigger("t", SOON, firings=3)
    assert view is not None
    assert view.firings == 3
    taken(bench, 7)
    view = bench.client.get_trigger("t")
    assert view is not None
    assert (view.firings, view.progress) == (3, {"count": 1})


@pytest.mark.on_dynamodb
def test_an_event_counts_once_also_after_a_restart(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    worker = bench.serve(app)
    publish(bench, event(id="1"), event(id="1"), event(id="1", source="/other"))
    taken(bench, 2)
    worker.stop()
    publish(bench, event(id="1"))
    bench.client.publish(event(id="1"), delay=0.001)
    bench.serve(app)
    publish(bench, event(id="last"))
    taken(bench, 3)
    assert noted(bench) == [["t", "1"], ["t", "1"], ["t", "last"]]


def test_events_of_one_subject_come_in_order(bench: Bench, app: durable.Registry) -> None:
    @app.action(name="in-order")
    def in_order(context: durable.TriggerContext, event: CloudEvent) -> None:
        context.setdefault("seen", []).append(event.get_data())

    subjects = ["a", "b", "c"]
    for subject in subjects:
        bench.client.add_trigger(subject, on=EventPattern(subject=subject), action=in_order, transient=False)
    bench.serve(app)

    def all_of(subject: str) -> None:
        for n in range(30):
            bench.client.publish(event(data=n, subject=subject))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(all_of, subjects))
    taken(bench, 90)
    for subject in subjects:
        view = bench.client.get_trigger(subject)
        assert view is not None
        assert view.context["seen"] == list(range(30))


def test_an_event_whose_time_is_over_fires_nothing(bench: Bench, app: durable.Registry) -> None:
    now = datetime.now(timezone.utc)
    bench.client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    bench.serve(app)
    for n, left in enumerate((-1, 3_600)):
        publish(bench, event(id=str(n), expirytime=(now + timedelta(seconds=left)).isoformat()))
    taken(bench, 2)
    assert noted(bench) == [["t", "1"]]
    assert bench.client.event_counts().expired == 1


@pytest.mark.on_dynamodb
def test_a_delayed_event_comes_after_a_restart_of_the_worker_and_once(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    worker = bench.serve(app)
    publish(bench, event(id="now"))
    bench.client.publish(event(id="first"), delay=0.5)
    bench.client.publish(event(id="first"), delay=0.2)  # the same one
    bench.client.publish(event(id="second"), delay=timedelta(seconds=1))
    until(lambda: bench.client.event_counts().taken >= 1)  # more, where it is slow
    worker.stop()
    bench.serve(app)
    taken(bench, 3)
    assert noted(bench) == [["t", "now"], ["t", "first"], ["t", "second"]]


def test_a_value_of_a_context_can_be_changed_in_place(env: durable.testing.Environment, app: durable.Registry) -> None:
    @app.action(name="in-place")
    def in_place(context: durable.TriggerContext, event: CloudEvent) -> None:
        context.setdefault("list", []).append(event.get_id())
        context["dict"]["n"] += 1
        context.workspace.setdefault("list", []).append(event.get_id())

    env.client.add_trigger("t", on=EventPattern(), action=in_place, context={"dict": {"n": 0}}, transient=False)
    for event_id in ("1", "2"):
        env.client.publish(event(id=event_id))
    env.advance(1)
    view = env.client.get_trigger("t")
    assert view is not None
    assert view.context == {"list": ["1", "2"], "dict": {"n": 2}}
    assert env.client.get_workspace_context() == {"list": ["1", "2"]}


def test_events_wait_for_a_worker(bench: Bench, app: durable.Registry) -> None:
    publish(bench, event(id="before the trigger"))
    bench.client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    publish(bench, event(id="after it"))
    bench.serve(app)
    taken(bench, 2)
    assert noted(bench) == [["t", "after it"]]


def test_events_that_fit_nothing_are_visible(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger("t", on=EventPattern(type="known"), transient=False)
    bench.serve(app)
    publish(bench, event("unknown", id="1"))
    taken(bench, 1)
    assert bench.client.unmatched_events() == []
    bench.client.keep_unmatched_events()
    publish(bench, event("unknown", "what was in it", subject="s", id="2"), event("known", id="3"))
    taken(bench, 3)
    (kept,) = bench.client.unmatched_events()
    assert (kept.get_id(), kept.get_data(), kept.get_subject()) == ("2", "what was in it", "s")
    bench.client.keep_unmatched_events(False)
    publish(bench, event("unknown", id="4"))
    taken(bench, 4)
    assert len(bench.client.unmatched_events()) == 1
    assert bench.client.event_counts().unmatched == 3


# ---- triggers that change


@pytest.mark.parametrize("by", ["client", "action", "function"])
def test_a_trigger_added_at_run_time_on_a_known_subject_fires(bench: Bench, app: durable.Registry, by: str) -> None:
    new: dict[str, Any] = {"on": EventPattern(subject="x"), "action": "note", "transient": False}

    @app.action(name="adds")
    def adds(context: durable.TriggerContext, event: CloudEvent) -> None:
        context.do(actions.add_trigger("new", **new))

    action = {"client": actions.pass_, "action": actions.add_trigger("new", **new), "function": adds}[by]
    bench.client.add_trigger("known", on=EventPattern(subject="x"), action=action)
    bench.serve(app)
    publish(bench, event(subject="x", id="1"))
    taken(bench, 1)
    if by == "client":
        bench.client.add_trigger("new", **new)
    publish(bench, event(subject="x", id="2"))
    taken(bench, 2)
    assert noted(bench) == [["new", "2"]]


def test_what_another_client_changes_holds_from_the_next_event_on(bench: Bench, app: durable.Registry) -> None:
    """While a worker runs: a trigger that is deleted, disabled, enabled, intercepted."""
    other = bench.connect()
    for trigger_id in ("deleted", "disabled", "intercepted"):
        bench.client.add_trigger(trigger_id, on=EventPattern(), action="note", transient=False)
    bench.serve(app)
    for n in range(10):
        publish(bench, event(id=f"before {n}"))
    other.delete_trigger("deleted")
    other.disable_trigger("disabled")
    other.intercept_trigger("intercepted", actions.pass_, when="instead")
    publish(bench, event(id="after"))
    other.enable_trigger("disabled")
    publish(bench, event(id="enabled"))
    taken(bench, 12)
    seen = noted(bench)
    for trigger_id in ("deleted", "disabled", "intercepted"):
        mine = [event_id for name, event_id in seen if name == trigger_id]
        assert mine[:10] == [f"before {n}" for n in range(10)]
        assert mine[10:] == (["enabled"] if trigger_id == "disabled" else [])
    assert other.get_trigger("deleted") is None


def test_an_action_deletes_and_changes_triggers_at_once(bench: Bench, app: durable.Registry) -> None:
    @app.action(name="changes")
    def changes(context: durable.TriggerContext, event: CloudEvent) -> None:
        context.do(actions.delete_trigger("deleted"))
        context.do(actions.change_trigger("disabled", enabled=False, context={"why": "so"}))
        context["saw"] = sorted(context.triggers)

    bench.client.add_trigger("changes", on=EventPattern(), action=changes, transient=False)
    bench.client.add_trigger("deleted", on=EventPattern(), action="note", transient=False)
    bench.client.add_trigger("disabled", on=EventPattern(), action="note", context={"k": 1}, transient=False)
    bench.serve(app)
    publish(bench, event(), event())
    taken(bench, 2)
    assert noted(bench) == []
    changed, disabled = bench.client.list_triggers()
    assert changed.context == {"saw": ["changes", "disabled"]}
    assert (disabled.id, disabled.enabled, disabled.context) == ("disabled", False, {"k": 1, "why": "so"})


def test_terminate_workspace_leaves_nothing(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger("ends", on=EventPattern(type="end"), action=actions.terminate_workspace)
    bench.client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    bench.client.publish(event("later"), delay=0.5)
    bench.serve(app)
    publish(bench, event("end"))
    taken(bench, 1)
    assert bench.client.list_triggers() == []
    bench.client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    bench.client.publish(event(id="new"), delay=0.6)
    taken(bench, 2)
    assert noted(bench) == [["t", "new"]]


@pytest.mark.on_dynamodb
def test_ten_threads_add_and_delete_triggers_at_once(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)

    def adds(n: int) -> list[str]:
        with bench.place.connect() as client:
            for m in range(5):
                client.add_trigger(f"{n}-{m}", on=EventPattern(subject=f"{m}"), action="note")
            try:
                client.add_trigger("same", on=EventPattern(subject="same"), action="note")
            except durable.TriggerExistsError:
                won = []
            else:
                won = ["same"]
            client.delete_trigger(f"{n}-0")
            return won

    with ThreadPoolExecutor(10) as pool:
        won = [name for names in pool.map(adds, range(10)) for name in names]
    assert won == ["same"]
    expected = {f"{n}-{m}" for n in range(10) for m in range(1, 5)} | {"same"}
    assert {view.id for view in bench.client.list_triggers()} == expected
    publish(bench, *(event(subject=f"{m}") for m in range(5)), event(subject="same"))
    taken(bench, 6)
    assert {name for name, _ in noted(bench)} == expected
    assert len(noted(bench)) == len(expected)


def test_add_triggers_refuses_each_on_its_own(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger("there", on=EventPattern(type="old"))
    added = bench.client.add_triggers(
        [
            {"trigger_id": "a", "on": EventPattern(type="t"), "action": "note"},
            {"trigger_id": "there", "on": EventPattern()},
            {"trigger_id": "no/name", "on": EventPattern()},
            {"trigger_id": "no pattern", "on": "com.shop.*"},
            {"trigger_id": "no condition", "on": EventPattern(), "condition": 3},
            {"trigger_id": "no json", "on": EventPattern(), "context": {"x": object()}},
            {"trigger_id": "no such argument", "on": EventPattern(), "when": 1},
            {"on": EventPattern()},
            {"trigger_id": "b", "on": [EventPattern(type="t")], "context": {"n": 1}, "transient": False},
            {"trigger_id": "a", "on": EventPattern()},
        ]
    )
    assert added.accepted == ["a", "b"]
    words = {
        "there": "delete it first",
        "no/name": "use - or : instead",
        "no pattern": "durable.EventPattern",
        "no condition": "durable.conditions",
        "no json": "context=",
        "no such argument": "when",
        "number 7": "trigger_id",
        "a": "already",
    }
    assert added.refused.keys() == words.keys()
    for trigger_id, word in words.items():
        assert word in added.refused[trigger_id]
    bench.serve(app)
    publish(bench, event(id="1"))
    taken(bench, 1)
    assert noted(bench) == [["a", "1"]]
    assert [view.id for view in bench.client.list_triggers()] == ["there", "b"]
    assert bench.client.add_triggers([]) == ([], {})


def test_what_is_known_of_triggers(bench: Bench, app: durable.Registry) -> None:
    client = bench.client
    assert (client.list_triggers(), client.get_trigger("t")) == ([], None)
    assert client.event_counts() == client.event_counts()
    client.add_trigger("z", on=EventPattern(type="a*"), condition=conditions.join(3), context={"k": [1]})
    client.add_trigger("a", on=[EventPattern(), EventPattern(subject="s")], action="note", transient=False)
    z, a = client.list_triggers()
    assert (z.id, a.id) == ("z", "a")
    assert (z.on, z.condition, z.action) == ((EventPattern(type="a*"),), conditions.join(3), actions.pass_)
    assert (z.context, z.transient, z.enabled, z.firings, z.progress) == ({"k": [1]}, True, True, 0, {})
    assert (a.on, a.transient) == ((EventPattern(), EventPattern(subject="s")), False)
    assert isinstance(a, durable.Trigger)
    bench.serve(app)
    publish(bench, event("ab"), event("b"))
    taken(bench, 2)
    assert [(view.id, view.firings, view.progress) for view in client.list_triggers()] == [
        ("z", 0, {"count": 1}),
        ("a", 2, {}),
    ]
    client.flush_triggers()
    assert client.list_triggers() == []
    publish(bench, event("ab"))
    taken(bench, 3)


def test_interceptions_come_before_the_action_or_instead_of_it(bench: Bench, app: durable.Registry) -> None:
    def said(word: str) -> CloudEvent:
        return event("said", word, source=f"/{word}")

    @app.action(name="hears")
    def hears(context: durable.TriggerContext, event: CloudEvent) -> None:
        context["words"] = [*context.get("words", []), event.get_data()]

    client = bench.client
    client.add_trigger("hears", on=EventPattern(type="said"), action=hears, transient=False)
    client.add_trigger("t", on=EventPattern(type="go"), action=actions.publish(said("own")), transient=False)
    bench.serve(app)
    client.intercept_trigger("t", actions.publish(said("first")))
    client.intercept_trigger("t", "note", when="before")
    publish(bench, event("go", id="1"))
    taken(bench, 3)
    client.intercept_trigger("t", actions.publish(said("instead")), when="instead")
    publish(bench, event("go", id="2"))
    taken(bench, 6)
    view = client.get_trigger("hears")
    assert view is not None
    assert view.context["words"] == ["first", "own", "first", "instead"]
    assert noted(bench) == [["t", "1"], ["t", "2"]]
    intercepted = client.get_trigger("t")
    assert intercepted is not None
    assert [interception.instead for interception in intercepted.interceptions] == [False, False, True]


def test_the_context_of_the_workspace_is_shared(bench: Bench, app: durable.Registry) -> None:
    @app.action(name="both")
    def both(context: durable.TriggerContext, event: CloudEvent) -> None:
        context["own"] = context.get("own", 0) + 1
        context.workspace["all"] = context.workspace["all"] + 1

    assert bench.client.get_workspace_context() == {}
    bench.client.set_workspace_context({"all": 10, "nested": {"a": [1, "ä"]}})
    for trigger_id in ("one", "two"):
        bench.client.add_trigger(trigger_id, on=EventPattern(), action=both, transient=False)
    bench.serve(app)
    publish(bench, event(), event())
    taken(bench, 2)
    assert bench.connect().get_workspace_context() == {"all": 14, "nested": {"a": [1, "ä"]}}
    assert [view.context for view in bench.client.list_triggers()] == [{"own": 2}, {"own": 2}]


# ---- what actions reach


@pytest.mark.on_dynamodb
def test_an_action_starts_an_orchestration_with_the_data_of_the_event(bench: Bench, app: durable.Registry) -> None:
    client = bench.client
    client.add_trigger("own id", on=EventPattern(type="a"), action=actions.start_orchestration("same"))
    client.add_trigger(
        "given",
        on=EventPattern(type="b"),
        action=actions.start_orchestration("same", {"x": 1}, instance_id="given-id", tags={"k": "v"}),
    )
    bench.serve(app)
    publish(bench, event("a", {"amount": 3}), event("b", "ignored"))
    until(lambda: len(client.list_orchestrations().items) == 2)
    by_id = {status.instance_id: status for status in client.list_orchestrations().items}
    own = next(instance_id for instance_id in by_id if instance_id != "given-id")
    assert own.startswith("own id")
    assert client.handle(own).result(SOON) == {"amount": 3}
    assert client.handle("given-id").result(SOON) == {"x": 1}
    assert by_id["given-id"].tags == {"k": "v"}


def test_an_action_raises_an_event_in_an_orchestration_also_one_that_is_not_there_yet(
    bench: Bench, app: durable.Registry
) -> None:
    client = bench.client
    client.add_trigger("paid", on=EventPattern(type="pay"), action=actions.raise_event("paid"), transient=False)
    bench.serve(app)
    there = client.start_orchestration("waits", instance_id="order-1")
    publish(bench, event("pay", {"n": 1}, subject="order-1"), event("pay", {"n": 2}, subject="order-2"))
    assert there.result(SOON) == {"n": 1}
    taken(bench, 2)
    assert client.start_orchestration("waits", instance_id="order-2").result(SOON) == {"n": 2}
    client.add_trigger("named", on=EventPattern(), action=actions.raise_event("paid", "given", instance_id="order-3"))
    publish(bench, event("other"))
    assert client.start_orchestration("waits", instance_id="order-3").result(SOON) == "given"


def test_an_event_without_a_subject_is_no_target(bench: Bench, app: durable.Registry) -> None:
    """Nor is one that could be no instance; what comes behind it goes on."""
    client = bench.client
    client.add_trigger("paid", on=EventPattern(type="pay"), action=actions.raise_event("paid"), transient=False)
    bench.serve(app)
    handle = client.start_orchestration("waits", instance_id="order-1")
    publish(bench, event("pay", 1), event("pay", 2, subject="@triggers"), event("pay", 3, subject="no/name"))
    publish(bench, event("pay", 4, subject="order-1"))
    assert handle.result(SOON) == 4
    until(lambda: len(client.dead_letters().items) == 3)
    for letter in client.dead_letters().items:
        assert letter.trigger_id == "paid"
        assert "subject" in letter.error


@pytest.mark.on_dynamodb
def test_an_activity_is_called_with_its_retries_and_how_it_ended_fires_another_trigger(
    bench: Bench, app: durable.Registry
) -> None:
    tries: list[int] = []
    retry = durable.RetryPolicy(max_attempts=3, first_interval=0.01)

    @app.activity(name="flaky", retry=retry)
    def flaky(order: dict[str, int]) -> str:
        tries.append(order["n"])
        if len(tries) < 3:
            raise ConnectionError("not now")
        return f"order {order['n']}"

    @app.activity(name="hopeless", retry=durable.RetryPolicy(max_attempts=2, first_interval=0.01))
    def hopeless(value: Any) -> None:
        raise ValueError("never")

    @app.action(name="hears")
    def hears(context: durable.TriggerContext, event: CloudEvent) -> None:
        context.workspace[event.get_type()] = [event.get_subject(), event.get_data()]

    client = bench.client
    client.add_trigger("hears", on=EventPattern(type="durable.activity-*"), action=hears, transient=False)
    client.add_trigger("calls", on=EventPattern(type="go"), action=actions.call_activity(flaky))
    client.add_trigger("fails", on=EventPattern(type="go"), action=actions.call_activity(hopeless, 1, subject="s-1"))
    bench.serve(app)
    publish(bench, event("go", {"n": 7}))
    taken(bench, 3)
    context = client.get_workspace_context()
    assert context["durable.activity-completed"] == ["calls", "order 7"]
    subject, failure = context["durable.activity-failed"]
    assert (subject, failure["message"]) == ("s-1", "never")
    assert tries == [7, 7, 7]


def test_what_an_action_publishes_fires_other_triggers(bench: Bench, app: durable.Registry) -> None:
    client = bench.client
    published = event("next", {"n": 1}, subject="s", id="n")
    client.add_trigger("a", on=EventPattern(type="go"), action=actions.publish(published), transient=False)
    later = event("later", id="l")
    client.add_trigger("b", on=EventPattern(type="go"), action=actions.publish(later, delay=0.2), transient=False)
    client.add_trigger("c", on=[EventPattern(type="next"), EventPattern(type="later")], action="note", transient=False)
    bench.serve(app)
    publish(bench, event("go"), event("go"))
    taken(bench, 6)
    assert sorted(event_id for _, event_id in noted(bench)) == ["l", "l-2", "n", "n-2"]


# ---- what goes wrong


def test_an_action_that_raises_loses_nothing(bench: Bench, app: durable.Registry) -> None:
    """Tried three times, then a dead letter; replayed, it is as if it had come for the first time."""
    healed = threading.Event()
    tries: list[str] = []

    @app.action(name="raises")
    def raises(context: durable.TriggerContext, event: CloudEvent) -> None:
        tries.append(event.get_id())
        context["n"] = context.get("n", 0) + 1
        context.workspace["w"] = 1
        context.do(actions.start_orchestration("same", instance_id="asked-for"))
        context.do(actions.delete_trigger("other"))
        if not healed.is_set():
            raise ValueError("not today")

    client = bench.client
    client.add_trigger("raises", on=EventPattern(type="go"), action=raises)
    client.add_trigger("other", on=EventPattern(), transient=False)
    worker = bench.serve(app)
    publish(bench, event("go", {"a": 1}, id="1"))
    until(lambda: client.dead_letters().items)
    (letter,) = client.dead_letters().items
    assert isinstance(letter.event, CloudEvent)
    assert (letter.trigger_id, letter.attempts, letter.event.get_data()) == ("raises", 3, {"a": 1})
    assert letter.error == "ValueError: not today"
    assert tries == ["1"] * 3
    view = client.get_trigger("raises")
    assert view is not None
    assert (view.context, view.firings, client.get_workspace_context()) == ({}, 0, {})
    assert client.get_trigger("other") is not None
    assert client.list_orchestrations().items == []
    publish(bench, event("go", id="2"))  # a transient one fires once, and that is not over
    taken(bench, 2)

    worker.stop()
    healed.set()
    bench.serve(app)
    client.replay_dead_letter(letter.id)
    assert client.wait_for_trigger("raises", SOON) is None
    assert client.dead_letters().items == []
    assert client.get_workspace_context() == {"w": 1}
    assert client.get_trigger("other") is None
    until(lambda: client.get_status("asked-for"))
    assert client.handle("asked-for").result(SOON) == {"a": 1}
    assert tries == ["1"] * 4


def test_a_worker_that_lacks_the_function_leaves_a_dead_letter_for_one_that_has_it(
    bench: Bench, app: durable.Registry
) -> None:
    client = bench.client
    client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    lacking = bench.serve(durable.Registry())
    publish(bench, event(id="1"))
    until(lambda: client.dead_letters().items)
    (letter,) = client.dead_letters().items
    assert "'note'" in letter.error
    assert "import the module that registers it" in letter.error
    lacking.stop()
    bench.serve(app)
    client.replay_dead_letter(letter.id)
    until(lambda: noted(bench))
    assert noted(bench) == [["t", "1"]]
    assert client.dead_letters().items == []


@pytest.fixture
def env(app: durable.Registry) -> Generator[durable.testing.Environment, None, None]:
    """Its clock is the test's."""
    with durable.testing.Environment(registry=app) as env:
        yield env


def test_attempts_come_after_one_second_and_two(env: durable.testing.Environment, app: durable.Registry) -> None:
    at: list[float] = []
    begin = env.now

    @app.condition(name="raises")
    def raises(context: durable.TriggerContext, event: CloudEvent) -> bool:
        at.append((context.now - begin).total_seconds())
        raise ValueError("never")

    env.client.add_trigger("t", on=EventPattern(), condition=raises)
    env.client.publish(event())
    env.advance(60)
    assert at == [0, 1, 3]
    (letter,) = env.client.dead_letters().items
    assert letter.at == begin + timedelta(seconds=3)
    env.client.delete_dead_letter(letter.id)
    assert env.client.dead_letters().items == []
    env.advance(60)
    assert len(at) == 3


@pytest.mark.parametrize("action", [actions.start_orchestration("same"), actions.call_activity("anything")])
def test_what_a_trigger_with_a_long_id_starts_has_an_id_that_is_one(
    env: durable.testing.Environment, action: Any
) -> None:
    env.replace("anything", 1)
    env.client.add_trigger("t" * 200, on=EventPattern(type="go"), action=action, transient=False)
    env.client.publish(event("go", 7))
    env.client.publish(event("go", 8))
    second, first = env.client.list_orchestrations()
    assert first.instance_id.startswith("t" * 150 + ":")
    assert first.instance_id != second.instance_id
    for started in (first, second):
        assert env.client.handle(started.instance_id).wait().runtime_status == "COMPLETED"
        assert env.client.purge(started.instance_id) == 1


def test_the_retry_policy_of_an_activity_travels_whole(env: durable.testing.Environment, app: durable.Registry) -> None:
    retry = durable.RetryPolicy(50, first_interval=2, backoff_coefficient=1, retry_timeout=20, jitter=0.5)

    @app.activity(retry=retry)
    def hopeless(value: Any) -> None:
        raise ValueError("never")

    env.client.add_trigger("t", on=EventPattern(type="go"), action=actions.call_activity(hopeless))
    env.client.publish(event("go"))
    env.advance(3600)
    at = [(call.at - env.calls(hopeless)[0].at).total_seconds() for call in env.calls(hopeless)]
    gaps = {round(after - before, 3) for before, after in pairwise(at)}
    assert at[-1] <= 20
    assert len(gaps) > 1, "jitter makes no two waits alike"
    assert all(1 <= gap <= 3 for gap in gaps)


def test_the_timeouts_of_a_call_travel_too(env: durable.testing.Environment, app: durable.Registry) -> None:
    @app.activity
    def quick(value: Any) -> None: ...

    call = actions.call_activity(quick.options(timeout=3, heartbeat_timeout=2))
    env.client.add_trigger("t", on=EventPattern(type="go"), action=call)
    env.client.publish(event("go"))
    (made,) = env.calls(quick)
    (scheduled,) = [e for e in env.client.history(made.instance_id) if e.type == "TaskScheduled"]
    assert (scheduled.timeout, scheduled.heartbeat_timeout) == (3, 2)


def test_an_activity_gets_what_is_given_else_the_data_of_the_event(env: durable.testing.Environment) -> None:
    env.replace("ship")
    for number, action in enumerate((actions.call_activity("ship"), actions.call_activity("ship", 7))):
        env.client.add_trigger(f"t{number}", on=EventPattern(), action=action)
    env.client.publish(event("go", {"amount": 3}))
    assert [call.args for call in env.calls("ship")] == [({"amount": 3},), (7,)]


def test_what_one_firing_starts_twice_are_two(env: durable.testing.Environment, app: durable.Registry) -> None:
    @app.action(name="twice")
    def twice(context: durable.TriggerContext, event: CloudEvent) -> None:
        for number in (1, 2):
            context.do(actions.start_orchestration("same", number))

    env.client.add_trigger("t", on=EventPattern(), action=twice)
    env.client.publish(event())
    assert [status.input for status in env.client.list_orchestrations()] == [2, 1]


def test_what_is_started_has_chance_a_name_and_a_group_of_its_own(
    env: durable.testing.Environment, app: durable.Registry
) -> None:
    """As what a client has started; its name is what a fork hears of it."""

    @app.orchestrator(name="draws")
    def draws(ctx: Ctx, value: Any) -> Steps:
        yield ctx.call_activity("told", ctx.instance_id)
        return str(ctx.new_uuid())

    env.replace("told")
    client = env.client
    client.add_trigger("t", on=EventPattern(type="draw"), action=actions.start_orchestration(draws), transient=False)
    client.publish(event("draw"))
    client.publish(event("draw"))
    first, second = (client.handle(status.instance_id) for status in client.list_orchestrations())
    assert first.wait().output != second.wait().output
    fork = client.fork(first.instance_id, after=len(client.history(first.instance_id)) - 2)
    assert fork.wait().output == first.wait().output

    elsewhere = durable.orchestrator_ref("nightly", group="night")
    client.add_trigger("u", on=EventPattern(), action=actions.start_orchestration(elsewhere, instance_id="n"))
    client.publish(event())
    assert client.history("n")[0].group == "night"


def test_bytes_of_an_event_arrive_as_base64(env: durable.testing.Environment) -> None:
    env.client.add_trigger("t", on=EventPattern(), action=actions.start_orchestration("same", instance_id="b"))
    env.client.publish(event(data=b"\x00\xff"))
    assert env.client.handle("b").result(SOON) == "AP8="


def test_a_delay_is_a_durable_timer(env: durable.testing.Environment) -> None:
    env.client.add_trigger("t", on=EventPattern(), action="note")
    env.client.publish(event(), delay=timedelta(days=30))
    env.advance(timedelta(days=29))
    assert env.client.get_trigger("t") is not None
    env.advance(timedelta(days=1))
    assert env.client.get_trigger("t") is None


def test_a_dead_letter_whose_trigger_is_gone_is_kept_until_there_is_one(
    env: durable.testing.Environment, app: durable.Registry
) -> None:
    client = env.client
    client.add_trigger("t", on=EventPattern(), action=NOBODY, transient=False)
    client.publish(event(id="1"))
    env.advance(10)
    client.delete_trigger("t")
    (letter,) = client.dead_letters().items
    with pytest.raises(durable.TriggerNotFoundError, match="its trigger is gone"):
        client.replay_dead_letter(letter.id)
    client.add_trigger("t", on=EventPattern(type="other"), action="note")
    client.replay_dead_letter(letter.id)
    env.advance(1)
    assert client.get_workspace_context() == {"noted": [["t", "1"]]}


def test_a_function_may_not_use_the_client_and_is_told_what_to_do(
    env: durable.testing.Environment, app: durable.Registry
) -> None:
    client = env.client
    calls: dict[str, Callable[[], Any]] = {
        "publish": lambda: client.publish(event()),
        "add_trigger": lambda: client.add_trigger("x", on=EventPattern()),
        "get_trigger": lambda: client.get_trigger("x"),
        "set_workspace_context": lambda: client.set_workspace_context({}),
        "start_orchestration": lambda: client.start_orchestration("same", 1),
    }

    @app.action(name="naughty")
    def naughty(context: durable.TriggerContext, event: CloudEvent) -> None:
        calls[event.get_type()]()

    client.add_trigger("t", on=EventPattern(), action=naughty, transient=False)
    for name in calls:
        client.publish(event(name))
    env.advance(10)
    letters = client.dead_letters().items
    assert [letter.error.partition(" inside")[0] for letter in letters] == [f"RuntimeError: client.{n}" for n in calls]
    assert all(": use " in letter.error for letter in letters)


@pytest.mark.embedded("what is asked is what the engine does with code that hangs")
def test_a_function_that_hangs_is_stopped_and_the_next_event_goes_on(bench: Bench, app: durable.Registry) -> None:
    @app.action(name="hangs")
    def hangs(context: durable.TriggerContext, event: CloudEvent) -> None:
        while True:
            pass

    client = bench.place.connect(limits=durable.Limits(turn_seconds=0.1))
    client.add_trigger("hangs", on=EventPattern(type="go"), action=hangs)
    client.add_trigger("t", on=EventPattern(type="other"), action="note")
    with client, durable.Worker(client, registry=app, shutdown_grace=0):
        client.publish(event("go"))
        client.publish(event("other"))
        assert client.wait_for_trigger("t", SOON) is None
        until(lambda: client.dead_letters().items)
        (letter,) = client.dead_letters().items
        assert "let an activity do that" in letter.error


@pytest.mark.parametrize("how", ["exit", "deep", "no text"])
def test_a_function_can_not_take_the_worker_with_it(
    env: durable.testing.Environment, app: durable.Registry, how: str
) -> None:
    class NoText(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def deep(n: int) -> int:
        return deep(n + 1) + 1

    @app.action(name="ends")
    def ends(context: durable.TriggerContext, event: CloudEvent) -> None:
        if how == "exit":
            raise SystemExit(3)
        if how == "deep":
            deep(0)
        raise NoText

    env.client.add_trigger("ends", on=EventPattern(), action=ends)
    env.client.add_trigger("t", on=EventPattern(), action="note")
    env.client.publish(event())
    env.advance(10)
    assert env.client.get_trigger("t") is None
    assert len(env.client.dead_letters().items) == 1


def test_a_package_offers_conditions_and_actions_by_entry_point(
    env: durable.testing.Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shiny_triggers.py").write_text(
        "def large(context, event):\n    return event.get_data()['n'] > 2\n\n"
        "def marks(context, event):\n    context.workspace['marked'] = event.get_data()['n']\n"
    )
    (tmp_path / "shiny_triggers-1.0.dist-info").mkdir()
    (tmp_path / "shiny_triggers-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shiny-triggers\n")
    (tmp_path / "shiny_triggers-1.0.dist-info" / "entry_points.txt").write_text(
        "[durable.conditions]\nshiny.large = shiny_triggers:large\n"
        "[durable.actions]\nshiny.marks = shiny_triggers:marks\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env.client.add_trigger("t", on=EventPattern(), condition="shiny.large", action="shiny.marks")
    for n in (1, 3):
        env.client.publish(event(data={"n": n}))
    env.advance(10)
    assert env.client.dead_letters().items == []
    assert env.client.get_workspace_context() == {"marked": 3}


def test_without_jmespath_an_expression_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jmespath", None)
    with pytest.raises(ImportError, match=r"pip install 'durable-orchestrations\[expressions\]'"):
        conditions.expression("nobody.has.asked.this.before")


# ---- bad input

client_calls: list[tuple[Callable[[durable.Client], Any], type[Exception], list[str]]] = [
    (lambda c: c.add_trigger("", on=EventPattern()), ValueError, ["trigger_id", "empty"]),
    (lambda c: c.add_trigger("a/b", on=EventPattern()), ValueError, ["trigger_id", "use - or :"]),
    (lambda c: c.add_trigger(3, on=EventPattern()), TypeError, ["trigger_id", "text"]),  # type: ignore[arg-type]
    (lambda c: c.add_trigger("t", on="com.shop.*"), TypeError, ["on=", "durable.EventPattern"]),
    (lambda c: c.add_trigger("t", on=["x"]), TypeError, ["on=", "durable.EventPattern", "'x'"]),
    (lambda c: c.add_trigger("t", on=[]), ValueError, ["on=", "durable.EventPattern() fits all"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), condition=3), TypeError, ["condition=", "durable.conditions"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), condition=conditions.any(3)), TypeError, ["condition=", "not 3"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), condition=""), ValueError, ["condition=", "empty"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), condition=len), TypeError, ["condition=", "@durable.condition"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), action=3), TypeError, ["action=", "durable.actions"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), action=print), TypeError, ["action=", "@durable.action"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), action="a/b"), ValueError, ["action=", "use - or :"]),
    (lambda c: c.add_trigger("t", on=EventPattern(), context=3), TypeError, ["context=", "dict"]),  # type: ignore[arg-type]
    (lambda c: c.add_trigger("t", on=EventPattern(), context={"x": object()}), durable.PayloadError, ["context="]),
    (lambda c: c.add_trigger("there", on=EventPattern()), durable.TriggerExistsError, ["'there'", "delete it first"]),
    (lambda c: c.publish({"type": "x"}), TypeError, ["durable.CloudEvent", "dict"]),  # type: ignore[arg-type]
    (lambda c: c.publish(event(data=object())), ValueError, ["data of event", "JSON"]),
    (lambda c: c.publish(event(), delay="1"), TypeError, ["delay="]),  # type: ignore[arg-type]
    (lambda c: c.publish(event(), delay=-1), ValueError, ["delay="]),
    (lambda c: c.publish(event(), delay=float("nan")), ValueError, ["delay="]),
    (lambda c: c.publish(event(expirytime="tomorrow")), ValueError, ["expirytime"]),
    (lambda c: c.delete_trigger("nobody"), durable.TriggerNotFoundError, ["delete_trigger", "'nobody'"]),
    (lambda c: c.enable_trigger("nobody"), durable.TriggerNotFoundError, ["enable_trigger", "'nobody'"]),
    (lambda c: c.disable_trigger("nobody"), durable.TriggerNotFoundError, ["disable_trigger", "'nobody'"]),
    (lambda c: c.intercept_trigger("nobody", "note"), durable.TriggerNotFoundError, ["intercept_trigger", "'nobody'"]),
    (lambda c: c.intercept_trigger("there", 3), TypeError, ["action=", "durable.actions"]),
    (lambda c: c.intercept_trigger("there", "note", when="after"), ValueError, ["when=", "'before' or 'instead'"]),  # type: ignore[arg-type]
    (lambda c: c.get_trigger(""), ValueError, ["trigger_id", "empty"]),
    (lambda c: c.replay_dead_letter("99"), durable.TriggerNotFoundError, ["replay_dead_letter", "'99'"]),
    (lambda c: c.delete_dead_letter("99"), durable.TriggerNotFoundError, ["delete_dead_letter", "'99'"]),
    (lambda c: c.set_workspace_context([1]), TypeError, ["context=", "dict"]),  # type: ignore[arg-type]
    (lambda c: c.publish(event(), delay=timedelta.max), ValueError, ["delay=", "9999"]),
    (lambda c: c.set_workspace_context({"x": object()}), durable.PayloadError, ["context="]),
    (lambda c: c.wait_for_trigger("there", 0.01), durable.TimeoutError, ["'there'", "0 times"]),
    (lambda c: c.start_orchestration("same", 1, instance_id="@triggers"), ValueError, ["@", "reserved"]),
]


@pytest.mark.parametrize(("call", "error", "words"), client_calls, ids=range(len(client_calls)))
def test_bad_input_of_the_client_is_named_with_its_remedy(
    env: durable.testing.Environment, call: Callable[[durable.Client], Any], error: type[Exception], words: list[str]
) -> None:
    client: Any = env.client
    client.add_trigger("there", on=EventPattern())
    before = client.list_triggers()
    with pytest.raises(error) as caught:
        call(client)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert client.list_triggers() == before


made: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
    (lambda: EventPattern(type=3), TypeError, ["type=", "text"]),  # type: ignore[arg-type]
    (lambda: EventPattern(type="a*b"), ValueError, ["type=", "at the end only"]),
    (lambda: EventPattern(type=""), ValueError, ["type=", "leave it out"]),
    (lambda: conditions.join(0), ValueError, ["join(0)", "at least 1"]),
    (lambda: conditions.join(True), TypeError, ["join", "whole number"]),
    (lambda: conditions.counter("3"), TypeError, ["counter", "whole number"]),  # type: ignore[arg-type]
    (lambda: conditions.join_subjects("order-1"), TypeError, ["join_subjects", "['order-1']"]),
    (lambda: conditions.join_subjects([]), ValueError, ["join_subjects", "one or more"]),
    (lambda: conditions.join_subjects([1]), TypeError, ["join_subjects", "text"]),  # type: ignore[list-item]
    (lambda: conditions.not_before(datetime(2030, 1, 1)), ValueError, ["not_before"]),
    (lambda: conditions.not_after("now"), TypeError, ["not_after"]),  # type: ignore[arg-type]
    (lambda: conditions.expression(3), TypeError, ["expression", "text"]),  # type: ignore[arg-type]
    (lambda: conditions.expression("data.["), ValueError, ["'data.['", "JMESPath"]),
    (lambda: actions.publish("x"), TypeError, ["durable.CloudEvent"]),  # type: ignore[arg-type]
    (lambda: actions.publish(event(), delay=-1), ValueError, ["delay="]),
    (lambda: actions.start_orchestration(3), TypeError, ["3"]),
    (
        lambda: actions.start_orchestration("x", object()),
        durable.PayloadError,
        ["input of actions.start_orchestration"],
    ),
    (lambda: actions.start_orchestration("x", instance_id="a/b"), ValueError, ["instance_id=", "use - or :"]),
    (lambda: actions.raise_event(""), ValueError, ["event's name", "empty"]),
    (lambda: actions.raise_event("e", instance_id=""), ValueError, ["instance_id=", "empty"]),
    (lambda: actions.call_activity(3), TypeError, ["3"]),
    (lambda: actions.call_activity("x", object()), durable.PayloadError, ["input of actions.call_activity"]),
    (lambda: actions.delete_trigger(""), ValueError, ["trigger_id", "empty"]),
    (lambda: actions.change_trigger("t", context=3), TypeError, ["context=", "dict"]),  # type: ignore[arg-type]
    (lambda: actions.add_trigger("t", on=3), TypeError, ["on=", "durable.EventPattern"]),
    (lambda: durable.action(3), TypeError, ["@durable.action", "functions"]),  # type: ignore[call-overload]
    (lambda: durable.Registry().action(takes_one), TypeError, ["@durable.action", "(context, event)"]),  # type: ignore[arg-type]
    (lambda: durable.Registry().condition(no_wait), TypeError, ["@durable.condition", "plain `def`"]),
]


def takes_one(context: durable.TriggerContext) -> None: ...


async def no_wait(context: durable.TriggerContext, event: CloudEvent) -> bool:
    return True


@pytest.mark.parametrize(("make", "error", "words"), made, ids=range(len(made)))
def test_bad_input_of_what_triggers_are_made_of_is_named_with_its_remedy(
    make: Callable[[], Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_triggers_are_no_orchestration_that_people_see(bench: Bench, app: durable.Registry) -> None:
    bench.client.add_trigger("t", on=EventPattern(), action="note", transient=False)
    bench.serve(app)
    publish(bench, event())
    taken(bench, 1)
    assert bench.client.list_orchestrations().items == []
    bench.client.purge_where()
    publish(bench, event())
    taken(bench, 2)
    assert len(noted(bench)) == 2
