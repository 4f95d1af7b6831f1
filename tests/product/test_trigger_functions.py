"""What a trigger's functions may ask for, and where a function is a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import durable
from durable import CloudEvent, EventPattern, TriggerContext, actions, conditions
from tests.waiting import SOON

if TYPE_CHECKING:
    from tests.product.conftest import Bench


def refusal(context: TriggerContext, action: Any) -> str:
    try:
        context.do(action)
    except TypeError as error:
        return str(error)
    return ""


def test_what_a_function_can_not_ask_for_it_is_told_at_once(bench: Bench) -> None:
    app = durable.Registry()

    @app.action
    def asks(context: TriggerContext, event: CloudEvent) -> None:
        by_value = {"condition": conditions.python(print), "action": actions.python(print)}
        mistakes: dict[str, Any] = {
            "a function": asks,
            "one that is registered": context.triggers["asks"].action,
            "one by value": actions.python(print),
            **{f"a trigger's {part}": _trigger(part, given) for part, given in by_value.items()},
            "any condition": _trigger("condition", conditions.any(conditions.join(2), by_value["condition"])),
        }
        context.workspace.update({what: refusal(context, mistake) for what, mistake in mistakes.items()})

    bench.client.add_trigger("asks", on=EventPattern(type="go"), action=asks)
    bench.serve(app)
    bench.client.publish(CloudEvent({"type": "go", "source": "/test"}, None))
    assert bench.client.wait_for_trigger("asks", SOON) is None
    said = bench.client.get_workspace_context()
    assert "call a function: f(context, event)" in said.pop("a function")
    assert "durable.actions" in said.pop("one that is registered")
    assert "durable.actions" in said.pop("one by value")
    assert len(said) == 3
    assert {
        "trigger 'next' has a function by value, which only a client can sign" in text for text in said.values()
    } == {True}


def _trigger(part: str, given: Any) -> Any:
    more: dict[str, Any] = {part: given}
    return actions.add_trigger("next", on=EventPattern(type="next"), **more)


def test_a_function_or_its_name_is_one_of_any_conditions(bench: Bench) -> None:
    app = durable.Registry()

    @app.condition
    def is_large(context: TriggerContext, event: CloudEvent) -> bool:
        return event.get_type() == "large"

    for name, condition in (("function", is_large), ("name", "is_large")):
        either = conditions.any(conditions.join(3), condition)
        bench.client.add_trigger(name, on=EventPattern(type="*"), condition=either, transient=False)
    bench.serve(app)
    for kind in ("small", "large", "small", "small", "small", "large"):
        bench.client.publish(CloudEvent({"type": kind, "source": "/test"}, None))
    for name in ("function", "name"):
        trigger = bench.client.wait_for_trigger(name, SOON, firings=3)
        assert trigger is not None
        assert trigger.progress == {}


def test_a_list_that_was_put_into_the_context_is_kept_as_the_function_leaves_it(bench: Bench) -> None:
    app = durable.Registry()

    @app.action
    def collects(context: TriggerContext, event: CloudEvent) -> None:
        context.setdefault("all", []).append(event.get_id())
        pair = context["pair"] = [event.get_id()]
        pair.append("and more")

    bench.client.add_trigger("collects", on=EventPattern(type="go"), action=collects, transient=False)
    bench.serve(app)
    for number in "123":
        bench.client.publish(CloudEvent({"type": "go", "source": "/test", "id": number}, None))
    trigger = bench.client.wait_for_trigger("collects", SOON, firings=3)
    assert trigger is not None
    assert trigger.context == {"all": ["1", "2", "3"], "pair": ["3", "and more"]}


class Hostile(Exception):
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), Hostile(), ValueError("\ud800")],
    ids=["exit", "interrupt", "no text", "half a character"],
)
def test_whatever_a_function_raises_the_engine_goes_on(bench: Bench, error: BaseException) -> None:
    app = durable.Registry()

    @app.action
    def acts(context: TriggerContext, event: CloudEvent) -> None:
        raise error

    @app.condition
    def asks(context: TriggerContext, event: CloudEvent) -> bool:
        raise error

    go = EventPattern(type="go")
    bench.client.add_trigger("action", on=go, action=acts)
    bench.client.add_trigger("condition", on=go, condition=asks)
    bench.client.add_trigger("well", on=go)
    bench.serve(app)
    bench.client.publish(CloudEvent({"type": "go", "source": "/test"}, None))
    assert bench.client.wait_for_trigger("well", SOON) is None
    assert [(trigger.id, trigger.firings) for trigger in bench.client.list_triggers()] == [
        ("action", 0),
        ("condition", 0),
    ]


def test_a_subject_that_is_no_id_of_an_orchestration_raises_no_event(bench: Bench) -> None:
    """Nobody could ever take it: the trigger has not fired, and in the end the event is a dead letter."""
    bench.client.add_trigger("raise", on=EventPattern(type="go"), action=actions.raise_event("paid"), transient=False)
    bench.client.add_trigger("last", on=EventPattern(type="go"), condition=conditions.join(4))
    bench.serve(durable.Registry())
    for subject in ({}, {"subject": "@triggers"}, {"subject": "a/b"}, {"subject": "order-42"}):
        bench.client.publish(CloudEvent({"type": "go", "source": "/test", **subject}, None))
    assert bench.client.wait_for_trigger("last", SOON) is None
    raised = bench.client.get_trigger("raise")
    assert raised is not None
    assert raised.firings == 1
