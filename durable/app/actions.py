"""`durable.actions`: what a trigger does when it fires.

A function under `@durable.action`, or its name, is an action too; in such a function `context.do(...)` takes these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from ..model.history import NO_PAYLOAD, Raw
from ..model.limits import Limits
from ..model.moments import to_timedelta
from ..model.names import check_name
from ..model.retry import RetryPolicy
from ..payload.values import encode
from ..replay.callee import as_activity, as_orchestrator, checked_tags
from ..triggers.actions import (
    Action,
    AddTrigger,
    AnyAction,
    Attempts,
    CallActivity,
    CallFunction,
    ChangeTrigger,
    Definition,
    DeleteTrigger,
    Pass,
    Publish,
    RaiseEvent,
    StartOrchestration,
    TerminateWorkspace,
)
from ..triggers.event import from_sdk
from ..triggers.pattern import EventPattern, patterns
from .conditions import always, as_condition
from .trigger_function import TriggerFunction

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

__all__ = [
    "add_trigger",
    "call_activity",
    "change_trigger",
    "delete_trigger",
    "pass_",
    "publish",
    "python",
    "raise_event",
    "start_orchestration",
    "terminate_workspace",
]

pass_: Final[Pass] = Pass()
"""Nothing: the firing is counted."""

terminate_workspace: Final[TerminateWorkspace] = TerminateWorkspace()
"""Delete all triggers of the workspace, and forget what waits for them: delayed events, attempts, activities.

What orchestrations wait for stays."""

NOT_GIVEN: Final = object()
_LIMITS: Final = Limits()


def publish(event: CloudEvent, *, delay: timedelta | float = 0.0, to: str = "") -> Publish:
    """Publish this event for the triggers of this workspace, now or after a delay (timedelta or seconds).

    A trigger that fires several times publishes it with another id and time each time. to: the name of an event source
    of this workspace, which it is sent to instead. Raises TypeError, ValueError for what can't travel.
    """
    return Publish(Raw(from_sdk(event)), to_timedelta(delay, "delay=").total_seconds(), to)


def start_orchestration(
    orchestrator: Any,
    input: Any = NOT_GIVEN,
    *,
    instance_id: str | None = None,
    version: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> StartOrchestration:
    """Start an orchestration (a decorated function or a name); its input is the event's data, unless `input` is given.

    instance_id: default is "<trigger>:<number>", with the first 150 characters of a longer trigger id. One that is
    taken is logged, and nothing is started. Raises TypeError, ValueError, PayloadError.
    """
    ref = as_orchestrator(orchestrator)
    return StartOrchestration(
        ref.name,
        ref.version if version is None else version,
        ref.group,
        _payload(input, "the input of actions.start_orchestration"),
        "" if instance_id is None else check_name(instance_id, "instance_id="),
        {**ref.tags, **(checked_tags(tags) or {})} or None,
    )


def raise_event(name: str, data: Any = NOT_GIVEN, *, instance_id: str | None = None) -> RaiseEvent:
    """Raise an event in an orchestration. instance_id: default is the event's subject. data: default is the event's.

    It waits for an orchestration that is not there yet. Raises TypeError, ValueError, PayloadError.
    """
    check_name(name, "the event's name")
    instance = "" if instance_id is None else check_name(instance_id, "instance_id=")
    return RaiseEvent(name, instance, _payload(data, f"the data of event {name!r}"))


def call_activity(activity: Any, input: Any = NOT_GIVEN, *, subject: str = "") -> CallActivity:
    """Run an activity (a decorated function with its retry policy and timeouts, or a name), whose input is the event's
    data, unless `input` is given.

    How it ended is published, with this subject (default: the trigger's id): the type is durable.activity-completed and
    the data are its result, or durable.activity-failed and a failure. Raises TypeError, PayloadError, ValueError for a
    policy with `retry_on` or `give_up_on`.
    """
    ref = as_activity(activity)
    given = _payload(input, "the input of actions.call_activity")
    attempts = _attempts(ref.retry)
    return CallActivity(ref.name, ref.queue or "", given, subject, attempts, ref.timeout, ref.heartbeat_timeout)


def add_trigger(
    trigger_id: str,
    *,
    on: Any,
    condition: Any = always,
    action: Any = pass_,
    context: Mapping[str, Any] | None = None,
    transient: bool = True,
) -> AddTrigger:
    """Add a trigger; one of that id is left as it is. Arguments and errors are those of `client.add_trigger`."""
    return AddTrigger(
        trigger(trigger_id, on=on, condition=condition, action=action, transient=transient), json_context(context)
    )


def delete_trigger(trigger_id: str) -> DeleteTrigger:
    """Delete a trigger, at once; one that is not there is gone too. Raises TypeError, ValueError."""
    return DeleteTrigger(check_name(trigger_id, "trigger_id"))


def change_trigger(
    trigger_id: str, *, enabled: bool | None = None, context: Mapping[str, Any] | None = None
) -> ChangeTrigger:
    """Enable or disable a trigger, and set these keys of its context; nothing, if it is not there."""
    return ChangeTrigger(check_name(trigger_id, "trigger_id"), enabled, json_context(context))


def python(fn: Callable[[Any, Any], Any]) -> ByValue:
    """A function `(context, event)` that travels by value, signed with a key of the workspace; see `add_trigger`."""
    return ByValue(fn)


class ByValue(Action, frozen=True, tag="by_value"):
    """A function that a client will sign."""

    fn: Callable[[Any, Any], Any]


def as_action(given: Any) -> AnyAction:
    """An action, a registered function or its name. Raises TypeError, ValueError."""
    if isinstance(given, TriggerFunction) and given.kind == "action":
        return CallFunction(given.name)
    if isinstance(given, str):
        return CallFunction(check_name(given, "action="))
    if not isinstance(given, Action):
        raise TypeError(f"action= takes one of durable.actions, a @durable.action function, not {given!r}")
    return cast(AnyAction, given)  # one of them, or a ByValue, which the client signs before it stores it


def trigger(trigger_id: str, *, on: Any, condition: Any, action: Any, transient: bool) -> Definition:
    """A checked trigger. Raises TypeError, ValueError."""
    check_name(trigger_id, "trigger_id")
    found: tuple[EventPattern, ...] = patterns(on, "on=")
    return Definition(trigger_id, found, as_condition(condition), as_action(action), bool(transient))


def json_context(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """A context as it is stored. Raises TypeError for no mapping, PayloadError for what is no JSON."""
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        raise TypeError(f"context= takes a dict of JSON values, not {context!r}")
    decoded: dict[str, Any] = msgspec.json.decode(encode(dict(context), "context=", _LIMITS))
    return decoded


def _payload(value: Any, what: str) -> Raw:
    return NO_PAYLOAD if value is NOT_GIVEN else encode(value, what, _LIMITS)


def _attempts(retry: RetryPolicy | None) -> Attempts | None:
    if retry is None:
        return None
    if retry.retry_on != (Exception,) or retry.give_up_on:
        raise ValueError("actions.call_activity: a retry policy with retry_on or give_up_on can't travel by name")
    return Attempts(
        retry.max_attempts,
        to_timedelta(retry.first_interval, "RetryPolicy").total_seconds(),
        retry.backoff_coefficient,
        _seconds(retry.max_interval),
        _seconds(retry.retry_timeout),
        retry.jitter,
    )


def _seconds(duration: timedelta | float | None) -> float | None:
    return None if duration is None else to_timedelta(duration, "RetryPolicy").total_seconds()
