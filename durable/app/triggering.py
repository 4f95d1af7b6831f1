"""The part of a client that publishes events, and says what is to happen when they come.

What is asked for is durable when a call returns, and holds for each event that comes after that. No worker is needed
for that; events wait for one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from ..engine.triggering import ASKED, begin
from ..model import history as h
from ..model.errors import DuplicateNameError, TimeoutError, TriggerExistsError, TriggerNotFoundError
from ..model.history import Event, Raw
from ..model.moments import from_now, to_timedelta
from ..model.names import TRIGGERS, check_foreign_id, check_name
from ..model.status import Page
from ..payload.signed_callables import KeyRing, sign_callable
from ..ports import STATUS, Delivered
from ..replay.guard import refuse_inside
from ..triggers.actions import AddTrigger, AnyAction, CallSigned, Definition, Interception
from ..triggers.asks import (
    EXISTS,
    MISSING,
    Add,
    AddSource,
    AnyPart,
    Ask,
    Bury,
    Declare,
    Delete,
    DeleteSource,
    Enable,
    Flush,
    Intercept,
    Keep,
    Replay,
    SetContext,
    encode_ask,
)
from ..triggers.changes import Counts, Dead, Source, Trigger
from ..triggers.conditions import AnyCondition, AnyOf, SignedFunction
from ..triggers.event import NotAnEvent, digest_of, from_sdk, read_event, to_sdk
from . import actions, conditions
from .actions import as_action, json_context, pass_, trigger
from .conditions import always
from .plugins import checked_source_url
from .steering import Steerer

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent


_LOOK_AGAIN: Final = 1.0  # seconds; signals are lossy
_PATIENCE: Final = 30.0  # seconds in which a change tries again, when workers commit at the same time
_INSTEAD: Final = "context.do(durable.actions....)"


class DeadLetter(NamedTuple):
    """An event for which a trigger raised each time it was tried. error: the last one. at: when, aware UTC.

    Of what an event source brought and is no event: its text, and no trigger; text too, where the SDK refuses it.
    """

    id: str
    event: CloudEvent | str
    trigger_id: str
    error: str
    attempts: int
    at: datetime


class AddedTriggers(NamedTuple):
    """What became of each: ids in order, and for those that were refused why."""

    accepted: list[str]
    refused: dict[str, str]


class TriggerWait:
    """A wait for a trigger to fire. `seconds`: until it looks again by itself. Raises TypeError, ValueError."""

    def __init__(self, trigger_id: str, timeout: timedelta | float | None, firings: int) -> None:
        self._trigger_id = check_name(trigger_id, "trigger_id")
        self._firings = firings
        seconds = math.inf if timeout is None else to_timedelta(timeout, "timeout=").total_seconds()
        self._until = time.monotonic() + seconds
        self.seconds = 0.0

    def over(self, view: Trigger | None) -> bool:
        """Whether it has fired so often, or is gone. Raises durable.TimeoutError."""
        if view is None or view.firings >= self._firings:
            return True
        self.seconds = min(_LOOK_AGAIN, self._until - time.monotonic())
        if self.seconds <= 0:
            times = f"{view.firings} times so far, not {self._firings}"
            raise TimeoutError(f"trigger {self._trigger_id!r} has fired {times}")
        return False


class Triggerer(Steerer):
    """See above. `_keys`: by which functions given by value are signed."""

    _keys: KeyRing | None = None

    # ---- events

    def publish(self, event: CloudEvent, *, delay: timedelta | float | None = None) -> None:
        """Publish an event for the triggers of this workspace; durable when this returns.

        The same source and id again is the same event, and counts once (of the last 100,000). delay: timedelta or
        seconds until it comes; until then it is kept. Raises TypeError for another object, ValueError for data that are
        no JSON, or nest more than 128 arrays and objects, and for a delay past the year 9999.
        """
        refuse_inside("publish", "an activity that calls the client")
        body = from_sdk(event)
        now = self._now()
        fire_at = None if delay is None else from_now(now, to_timedelta(delay, "delay="), "delay=")
        fact = Event(h.EVENT_RAISED, now, input=Raw(body), fire_at=fire_at)
        fact_id = f"cloudevent/{digest_of(read_event(body)).hex()}"
        while self._deliver(TRIGGERS, fact_id, fact) is Delivered.ABSENT:
            self._begin_triggers()

    # ---- triggers

    def add_trigger(
        self,
        trigger_id: str,
        *,
        on: Any,
        condition: Any = always,
        action: Any = pass_,
        context: Mapping[str, Any] | None = None,
        transient: bool = True,
    ) -> None:
        """When an event comes that fits, and a condition holds, do an action.

        on: `durable.EventPattern`, one or several. condition: one of `durable.conditions`, a `@durable.condition`
        function or its name. action: one of `durable.actions`, a `@durable.action` function or its name. context: a
        dict of JSON values, which its functions see and change. transient: it is gone once it has fired. Raises
        TriggerExistsError for an id that is taken, TypeError, ValueError, PayloadError.
        """
        refuse_inside("add_trigger", _INSTEAD)
        made = self._signed(trigger(trigger_id, on=on, condition=condition, action=action, transient=transient))
        if self.ask(Add(made, json_context(context))) == [EXISTS]:
            raise TriggerExistsError(_taken(trigger_id))

    def add_triggers(self, triggers: Iterable[Mapping[str, Any]]) -> AddedTriggers:
        """Add several at once: each a dict of what `add_trigger` takes, `trigger_id` among it.

        One that is refused keeps none of the others from being added: the answer says which, and why.
        """
        refuse_inside("add_triggers", _INSTEAD)
        made: list[Add] = []
        refused: dict[str, str] = {}
        for n, given in enumerate(triggers):
            shown = given.get("trigger_id", f"number {n}")
            try:
                made.append(self._from(dict(given)))
            except (TypeError, ValueError, KeyError) as error:
                refused[str(shown)] = f"{type(error).__name__}: {error}"
        accepted: list[str] = []
        for part, answer in zip(made, self.ask(*made), strict=True):
            if answer == EXISTS:
                refused[part.definition.id] = _taken(part.definition.id)
            else:
                accepted.append(part.definition.id)
        return AddedTriggers(accepted, refused)

    def _from(self, given: dict[str, Any]) -> Add:
        context = json_context(given.pop("context", None))
        defaults = {"condition": always, "action": pass_, "transient": True}
        return Add(self._signed(trigger(**{**defaults, **given})), context)

    def declare_triggers(self, definitions: Iterable[Definition]) -> None:
        """See to it that these are there, as they are given; what they have become stays. Nothing is written for those
        that are so already."""
        wanted = list(definitions)
        if not wanted:
            return
        hub = self.triggers()
        if not all(hub.is_declared(one) for one in wanted):
            self.ask(*map(Declare, wanted))

    def get_trigger(self, trigger_id: str) -> Trigger | None:
        """How a trigger stands; None where there is none."""
        refuse_inside("get_trigger", "context.triggers")
        check_foreign_id(trigger_id, "trigger_id")  # those with which orchestrations wait are listed too
        return self.triggers().view(trigger_id)

    def list_triggers(self) -> list[Trigger]:
        """All triggers of the workspace, in the order in which they were added."""
        refuse_inside("list_triggers", "context.triggers")
        hub = self.triggers()
        return [view for view in map(hub.view, hub.ids) if view is not None]

    def wait_for_trigger(
        self, trigger_id: str, timeout: timedelta | float | None = None, *, firings: int = 1
    ) -> Trigger | None:
        """Wait until a trigger has fired so many times, or is there no more; how it stands then, None where it is gone.

        timeout: timedelta or seconds, None waits for ever. Raises durable.TimeoutError.
        """
        refuse_inside("wait_for_trigger", "ctx.wait_for_cloudevent")
        wait = TriggerWait(trigger_id, timeout, firings)
        changed = threading.Event()
        stop = self.listen_to_triggers(changed.set)
        try:
            while True:
                changed.clear()
                view = self.get_trigger(trigger_id)
                if wait.over(view):
                    return view
                changed.wait(wait.seconds)
        finally:
            stop()

    def listen_to_triggers(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake`, on any thread, when triggers may have fired; returns how to stop listening."""
        return self._signals.listen(STATUS, lambda _: wake(), TRIGGERS)

    def delete_trigger(self, trigger_id: str) -> None:
        """It fires no more, from the next event on. Raises TriggerNotFoundError."""
        self._ask_one("delete_trigger", trigger_id, Delete(trigger_id))

    def flush_triggers(self) -> None:
        """Delete all triggers of the workspace. Delayed events, dead letters and waits of orchestrations
        stay."""
        refuse_inside("flush_triggers", _INSTEAD)
        self.ask(Flush())

    def enable_trigger(self, trigger_id: str) -> None:
        """It takes events again. Raises TriggerNotFoundError."""
        self._ask_one("enable_trigger", trigger_id, Enable(trigger_id, True))

    def disable_trigger(self, trigger_id: str) -> None:
        """Events pass it by until it is enabled. Raises TriggerNotFoundError."""
        self._ask_one("disable_trigger", trigger_id, Enable(trigger_id, False))

    def intercept_trigger(self, trigger_id: str, action: Any, *, when: Literal["before", "instead"] = "before") -> None:
        """Whenever this trigger fires, do this too, before its own action, or instead of it.

        Several interceptions run in the order in which they were given. Raises TriggerNotFoundError, TypeError,
        ValueError.
        """
        if when not in ("before", "instead"):
            raise ValueError(f"intercept_trigger(when={when!r}): give 'before' or 'instead'")
        one = Definition("interception", (), action=as_action(action))
        interception = Interception(self._signed(one).action, when == "instead")
        self._ask_one("intercept_trigger", trigger_id, Intercept(trigger_id, interception))

    # ---- event sources

    def add_event_source(self, name: str, url: str, *, receive: bool = True, overwrite: bool = False) -> None:
        """Take events from there, a queue or a stream, and let actions publish to it (`actions.publish(to=name)`).

        url: `amqp://host/vhost?queue=orders`, `redis://host:port/db?stream=orders`, `sqs://region/queue`; it is stored,
        and must hold no password: `env:NAME` stands for the URL in that variable of each worker's environment. receive:
        False, if events are only to be published there. The worker that serves the triggers connects, again and again
        until it can. overwrite: change one that is there. Raises DuplicateNameError for a name that is taken,
        TypeError, ValueError.
        """
        refuse_inside("add_event_source", _INSTEAD)
        check_name(name, "the event source's name")
        source = Source(checked_source_url(url), bool(receive))
        if self.ask(AddSource(name, source, bool(overwrite))) == [EXISTS]:
            raise DuplicateNameError(f"there is an event source {name!r} in this workspace; give overwrite=True")

    def get_event_source(self, name: str) -> Source | None:
        """Its URL, and whether events are taken from it; None where there is none."""
        return self.list_event_sources().get(name)

    def list_event_sources(self) -> dict[str, Source]:
        """All event sources of the workspace, by name."""
        refuse_inside("list_event_sources", _INSTEAD)
        return dict(self.triggers().sources)

    def delete_event_source(self, name: str) -> None:
        """Take no more events from there; what is on its way to it stays, until there is one of that name again.

        Raises TriggerNotFoundError.
        """
        refuse_inside("delete_event_source", _INSTEAD)
        if self.ask(DeleteSource(name)) == [MISSING]:
            raise TriggerNotFoundError(f"delete_event_source: there is no event source {name!r} in this workspace")

    # ---- what they share, and what became of events

    def get_workspace_context(self) -> dict[str, Any]:
        """The context that all triggers of the workspace share; a copy."""
        refuse_inside("get_workspace_context", "context.workspace")
        return self.triggers().workspace_context

    def set_workspace_context(self, context: Mapping[str, Any]) -> None:
        """Replace it. Raises TypeError, PayloadError."""
        refuse_inside("set_workspace_context", "context.workspace")
        self.ask(SetContext(json_context(context)))

    def event_counts(self) -> Counts:
        """How many events were taken, and of those that fitted no trigger, came too late, or were repeated."""
        refuse_inside("event_counts", "an activity that calls the client")
        return self.triggers().counts

    def keep_unmatched_events(self, keep: bool = True) -> None:
        """From now on keep events that fit no trigger, the last 1,000, for `unmatched_events`; or not any more."""
        refuse_inside("keep_unmatched_events", "an activity that calls the client")
        self.ask(Keep(bool(keep)))

    def unmatched_events(self) -> list[CloudEvent]:
        """Those that were kept, oldest first."""
        refuse_inside("unmatched_events", "an activity that calls the client")
        return [to_sdk(bytes(body)) for body in self.triggers().unmatched]

    def dead_letters(self) -> Page[DeadLetter]:
        """Events for which a trigger's condition or action raised, three times with growing pauses; oldest first."""
        refuse_inside("dead_letters", "an activity that calls the client")
        return Page([_letter(dead) for dead in self.triggers().dead.values()])

    def replay_dead_letter(self, letter_id: str) -> None:
        """Try it again, as if it came for the first time.

        Raises TriggerNotFoundError, also while there is no trigger of that id: then the letter stays.
        """
        self._ask_letter("replay_dead_letter", letter_id, Replay(letter_id), ", or its trigger is gone")

    def delete_dead_letter(self, letter_id: str) -> None:
        """Forget it. Raises TriggerNotFoundError."""
        self._ask_letter("delete_dead_letter", letter_id, Bury(letter_id))

    # ---- reading and asking

    def _ask_one(self, verb: str, trigger_id: str, part: AnyPart) -> None:
        refuse_inside(verb, _INSTEAD)
        check_name(trigger_id, "trigger_id")
        if self.ask(part) == [MISSING]:
            raise TriggerNotFoundError(f"{verb}: no trigger has the id {trigger_id!r} in this workspace")

    def _ask_letter(self, verb: str, letter_id: str, part: AnyPart, or_else: str = "") -> None:
        refuse_inside(verb, "an activity that calls the client")
        if self.ask(part) == [MISSING]:
            raise TriggerNotFoundError(f"{verb}: there is no dead letter {letter_id!r} (any more){or_else}")

    def ask(self, *parts: AnyPart) -> list[str]:
        """Ask for these together; an answer each, DONE or why not (asks.py)."""
        if not parts:
            return []
        token = self._ids()
        fact = Event(ASKED, self._now(), input=encode_ask(Ask(token, parts)))
        while self._deliver(TRIGGERS, f"ask/{token}", fact) is Delivered.ABSENT:
            self._begin_triggers()
        return self.triggers().answers[token]

    def _begin_triggers(self) -> None:
        self._store.commit([begin(self._now(), self._ids, self._store.partitions)])  # or somebody else's is there

    def _signed(self, made: Definition) -> Definition:
        """With functions given by value as signed text."""
        return msgspec.structs.replace(
            made, condition=self._signed_condition(made.condition), action=self._signed_action(made.action)
        )

    def _signed_condition(self, condition: AnyCondition) -> AnyCondition:
        if isinstance(condition, conditions.ByValue):
            return SignedFunction(sign_callable(condition.fn, self._keys, self._workspace, "condition"))
        if isinstance(condition, AnyOf) and condition.conditions:
            return AnyOf(tuple(map(self._signed_condition, condition.conditions)))
        return condition

    def _signed_action(self, action: AnyAction) -> AnyAction:
        if isinstance(action, actions.ByValue):
            return CallSigned(sign_callable(action.fn, self._keys, self._workspace, "action"))
        if isinstance(action, AddTrigger):
            return msgspec.structs.replace(action, trigger=self._signed(action.trigger))
        return action


def _letter(dead: Dead) -> DeadLetter:
    body = bytes(dead.event)
    event: CloudEvent | str
    try:
        event = to_sdk(body) if dead.trigger_id else msgspec.json.decode(body, type=str)
    except NotAnEvent:  # an event source brings some that the SDK refuses
        event = body.decode()
    return DeadLetter(dead.id, event, dead.trigger_id, dead.error, dead.attempts, dead.at)


def _taken(trigger_id: str) -> str:
    return f"there is a trigger {trigger_id!r} in this workspace already; delete it first, or give another id"
