"""Actions: what a trigger does when it fires. One vocabulary: a user's function answers with these too.

Each is frozen and says only what is to be done. What leaves the workspace's triggers (a start, an event for an
orchestration, an activity, an event for a sink) is committed with the firing, and sent after that.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ..model.history import NO_PAYLOAD, Raw
from .conditions import Always, AnyCondition
from .pattern import EventPattern


class Action(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """What all actions are."""


class Pass(Action, frozen=True, tag="pass"):
    """Nothing: the firing is counted."""

    def __call__(self) -> Pass:
        return self


class Publish(Action, frozen=True, tag="publish"):
    """This event (its JSON), now or after `delay` seconds; `to`: a sink, '' for the triggers of this workspace."""

    event: Raw
    delay: Annotated[float, Meta(ge=0)] = 0.0
    to: str = ""


class StartOrchestration(Action, frozen=True, tag="start_orchestration"):
    """Start one; its input is the event's data, unless one is given.

    Without an id it gets one of its own; once: one that tells the trigger and the event, so that the same event again
    is the same start.
    """

    name: str
    version: str = ""
    group: str = ""
    input: Raw = NO_PAYLOAD
    instance_id: str = ""
    tags: dict[str, str] | None = None
    once: bool = False


class RaiseEvent(Action, frozen=True, tag="raise_event"):
    """Raise an event in an orchestration: the one named, else the one that is the event's subject.

    Its data are the event's data, unless an input is given.
    """

    name: str
    instance_id: str = ""
    input: Raw = NO_PAYLOAD


class Resume(Action, frozen=True, tag="resume"):
    """Give the event to the task of an execution that waits for it (`ctx.wait_for_cloudevent`).

    attempt: a wait that a rewind has opened again is a later one.
    """

    instance_id: str
    execution_id: str
    task_id: int
    attempt: int = 0

    @property
    def trigger_id(self) -> str:
        """Of the trigger that has this action; no user can give such an id."""
        return f"wait/{self.execution_id}/{self.task_id}"


class Attempts(msgspec.Struct, frozen=True, omit_defaults=True):
    """How often an activity is tried; seconds. What `durable.RetryPolicy` says, without types of errors."""

    max_attempts: int
    first_interval: float
    backoff_coefficient: float
    max_interval: float | None = None
    retry_timeout: float | None = None
    jitter: float = 0.0


class CallActivity(Action, frozen=True, tag="call_activity"):
    """Run an activity; its input is the event's data, unless one is given. How it ended is published as an event.

    That has the type durable.activity-completed or durable.activity-failed, and this subject, else the trigger's id.
    Timeouts are seconds, 0 for those that the activity has where it runs.
    """

    name: str
    queue: str = ""
    input: Raw = NO_PAYLOAD
    subject: str = ""
    retry: Attempts | None = None
    timeout: Annotated[float, Meta(ge=0)] = 0.0
    heartbeat_timeout: Annotated[float, Meta(ge=0)] = 0.0


class AddTrigger(Action, frozen=True, tag="add_trigger"):
    """Add a trigger; one of that id is left as it is."""

    trigger: Definition
    context: dict[str, Any] = {}


class DeleteTrigger(Action, frozen=True, tag="delete_trigger"):
    """Delete a trigger; one that is not there is gone too."""

    trigger_id: str


class ChangeTrigger(Action, frozen=True, tag="change_trigger"):
    """Enable or disable a trigger (None: leave that), and set some keys of its context."""

    trigger_id: str
    enabled: bool | None = None
    context: dict[str, Any] = {}


class TerminateWorkspace(Action, frozen=True, tag="terminate_workspace"):
    """Delete all triggers of the workspace, and forget what they wait for."""

    def __call__(self) -> TerminateWorkspace:
        return self


class CallFunction(Action, frozen=True, tag="function"):
    """Call a registered function."""

    name: str


class CallSigned(Action, frozen=True, tag="signed"):
    """Call a function that was given by value: signed text."""

    code: str


AnyAction = (
    Pass
    | Publish
    | StartOrchestration
    | RaiseEvent
    | Resume
    | CallActivity
    | AddTrigger
    | DeleteTrigger
    | ChangeTrigger
    | TerminateWorkspace
    | CallFunction
    | CallSigned
)


class Interception(msgspec.Struct, frozen=True, omit_defaults=True):
    """An action that runs before a trigger's own, or instead of it."""

    action: AnyAction
    instead: bool = False


class Definition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A trigger as it was asked for. `transient`: it is gone once it has fired."""

    id: str
    on: tuple[EventPattern, ...]
    condition: AnyCondition = Always()
    action: AnyAction = Pass()
    transient: bool = True
    interceptions: tuple[Interception, ...] = ()


_ASKED: Final = (
    Pass,
    Publish,
    StartOrchestration,
    RaiseEvent,
    CallActivity,
    AddTrigger,
    DeleteTrigger,
    ChangeTrigger,
    TerminateWorkspace,
)


def check_action(action: object) -> None:
    """Raises TypeError for what a function can't ask for: no action, a function, or one given by value."""
    if not isinstance(action, _ASKED):
        raise TypeError(f"context.do takes one of durable.actions, not {action!r}; call a function: f(context, event)")
    if isinstance(action, AddTrigger):
        try:
            msgspec.json.encode(action)
        except TypeError:
            raise TypeError(
                f"trigger {action.trigger.id!r} has a function by value, which only a client can sign: "
                "give the name of a registered one"
            ) from None
