"""The part of a client that publishes events, and says what is to happen when they come.

What is changed is committed when a call returns, and holds for each event that is taken after that: no worker is needed
for it. Events wait for a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

import tenacity
from msgspec.structs import replace

from ..engine.instance import Instance
from ..engine.triggering import begin, define, hub_of
from ..model import history as h
from ..model.errors import DuplicateNameError, StoreError, TriggerNotFoundError
from ..model.history import Event, Raw
from ..model.moments import to_timedelta
from ..model.names import TRIGGERS, check_name
from ..ports import FACTS, Delivered, Outcome, Want
from ..replay.guard import refuse_inside
from ..triggers.actions import Interception, Trigger
from ..triggers.event import digest_of, from_sdk, read_event
from ..triggers.hub import Counts, DeadLetter, Hub, TriggerView
from .actions import as_action, json_context, pass_, trigger
from .conditions import always
from .steering import Steerer

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

T = TypeVar("T")

_PATIENCE: Final = 30.0  # seconds in which a change tries again, when workers commit at the same time
_INSTEAD: Final = "context.do(durable.actions....)"


class AddedTriggers(NamedTuple):
    """What became of each: ids in order, and for those that were refused why."""

    accepted: list[str]
    refused: dict[str, str]


class Triggerer(Steerer):
    """See above."""

    # ---- events

    def publish(self, event: CloudEvent, *, delay: timedelta | float | None = None) -> None:
        """Publish an event for the triggers of this workspace; durable when this returns.

        The same source and id again is the same event, and counts once (of the last 100,000). delay: timedelta or
        seconds until it comes; until then it is kept. Raises TypeError for another object, ValueError for data that are
        no JSON.
        """
        refuse_inside("publish", "an activity that calls the client")
        body = from_sdk(event)
        now = self._now()
        fire_at = None if delay is None else now + to_timedelta(delay, "delay=")
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
        transient: bool = False,
    ) -> None:
        """When an event comes that fits, and a condition holds, do an action.

        on: `durable.EventPattern`, one or several. condition: one of `durable.conditions`, a `@durable.condition`
        function or its name. action: one of `durable.actions`, a `@durable.action` function or its name. context: a
        dict of JSON values, which its functions see and change. transient: it is gone once it has fired. Raises
        DuplicateNameError for an id that is taken, TypeError, ValueError, PayloadError.
        """
        refuse_inside("add_trigger", _INSTEAD)
        made = self._signed(trigger(trigger_id, on=on, condition=condition, action=action, transient=transient))
        given = json_context(context)

        def add(hub: Hub) -> None:
            if hub.view(trigger_id) is not None:
                raise DuplicateNameError(_taken(trigger_id))
            hub.add(made, given)

        self._change_triggers(add)

    def add_triggers(self, triggers: Iterable[Mapping[str, Any]]) -> AddedTriggers:
        """Add several in one commit: each a dict of what `add_trigger` takes, `trigger_id` among it.

        One that is refused keeps none of the others from being added: the answer says which, and why.
        """
        refuse_inside("add_triggers", _INSTEAD)
        made: list[tuple[Trigger, dict[str, Any]]] = []
        wrong: dict[str, str] = {}
        for n, given in enumerate(triggers):
            shown = given.get("trigger_id", f"number {n}")
            try:
                made.append(self._from(dict(given)))
            except (TypeError, ValueError, KeyError) as error:
                wrong[str(shown)] = f"{type(error).__name__}: {error}"

        def add(hub: Hub) -> AddedTriggers:
            answer = AddedTriggers([], dict(wrong))
            for one, context in made:
                if hub.view(one.id) is None:
                    hub.add(one, context)
                    answer.accepted.append(one.id)
                else:
                    answer.refused[one.id] = _taken(one.id)
            return answer

        return self._change_triggers(add)

    def _from(self, given: dict[str, Any]) -> tuple[Trigger, dict[str, Any]]:
        context = json_context(given.pop("context", None))
        defaults = {"condition": always, "action": pass_, "transient": False}
        return self._signed(trigger(**{**defaults, **given})), context

    def declare_triggers(self, triggers: Iterable[Trigger]) -> None:
        """See to it that these are there, as they are given; what they have become stays. Nothing is written for those
        that are so already."""
        wanted = list(triggers)
        if not wanted:
            return
        hub = self._triggers()
        if all(_is_declared(hub.view(one.id), one) for one in wanted):
            return

        def declare(hub: Hub) -> None:
            for one in wanted:
                hub.declare(one)

        self._change_triggers(declare)

    def get_trigger(self, trigger_id: str) -> TriggerView | None:
        """How a trigger stands; None where there is none."""
        refuse_inside("get_trigger", "context.triggers")
        check_name(trigger_id, "trigger_id")
        return self._triggers().view(trigger_id)

    def list_triggers(self) -> list[TriggerView]:
        """All triggers of the workspace, in the order in which they were added."""
        refuse_inside("list_triggers", "context.triggers")
        hub = self._triggers()
        return [view for view in map(hub.view, hub.ids) if view is not None]

    def delete_trigger(self, trigger_id: str) -> None:
        """It fires no more, from the next event on. Raises TriggerNotFoundError."""
        self._change_one("delete_trigger", trigger_id, lambda hub: hub.delete(trigger_id))

    def flush_triggers(self) -> int:
        """Delete all triggers of the workspace; how many there were. Delayed events and dead letters stay, and so do
        waits of orchestrations."""
        refuse_inside("flush_triggers", _INSTEAD)
        return self._change_triggers(Hub.flush)

    def enable_trigger(self, trigger_id: str) -> None:
        """It takes events again. Raises TriggerNotFoundError."""
        self._change_one("enable_trigger", trigger_id, lambda hub: hub.change(trigger_id, enabled=True))

    def disable_trigger(self, trigger_id: str) -> None:
        """Events pass it by until it is enabled. Raises TriggerNotFoundError."""
        self._change_one("disable_trigger", trigger_id, lambda hub: hub.change(trigger_id, enabled=False))

    def intercept_trigger(self, trigger_id: str, action: Any, *, when: Literal["before", "instead"] = "before") -> None:
        """Whenever this trigger fires, do this too, before its own action, or instead of it.

        Several interceptions run in the order in which they were given. Raises TriggerNotFoundError, TypeError,
        ValueError.
        """
        if when not in ("before", "instead"):
            raise ValueError(f"intercept_trigger(when={when!r}): give 'before' or 'instead'")
        one = Trigger("interception", (), action=as_action(action))
        interception = Interception(self._signed(one).action, when == "instead")
        self._change_one("intercept_trigger", trigger_id, lambda hub: hub.intercept(trigger_id, interception))

    # ---- what they share, and what became of events

    def get_workspace_context(self) -> dict[str, Any]:
        """The context that all triggers of the workspace share; a copy."""
        refuse_inside("get_workspace_context", "context.workspace")
        return self._triggers().workspace_context

    def set_workspace_context(self, context: Mapping[str, Any]) -> None:
        """Replace it. Raises TypeError, PayloadError."""
        refuse_inside("set_workspace_context", "context.workspace")
        given = json_context(context)
        self._change_triggers(lambda hub: hub.set_workspace_context(given))

    def event_counts(self) -> Counts:
        """How many events were taken, and of those that fitted no trigger, came too late, or were repeated."""
        refuse_inside("event_counts", "an activity that calls the client")
        return self._triggers().counts

    def keep_unmatched_events(self, keep: bool = True) -> None:
        """From now on keep events that fit no trigger, the last 1,000, for `unmatched_events`; or not any more."""
        refuse_inside("keep_unmatched_events", "an activity that calls the client")
        self._change_triggers(lambda hub: hub.keep_unmatched(keep))

    def unmatched_events(self) -> list[CloudEvent]:
        """Those that were kept, oldest first."""
        refuse_inside("unmatched_events", "an activity that calls the client")
        from ..triggers.event import to_sdk

        return [to_sdk(bytes(body)) for body in self._triggers().unmatched]

    def dead_letters(self) -> list[DeadLetter]:
        """Events for which a trigger's condition or action raised, five times with growing pauses; oldest first."""
        refuse_inside("dead_letters", "an activity that calls the client")
        return list(self._triggers().dead.values())

    def replay_dead_letter(self, letter_id: str) -> None:
        """Try it again, as if it came for the first time. Raises TriggerNotFoundError."""
        now = self._now()
        self._change_letter("replay_dead_letter", letter_id, lambda hub: hub.replay(letter_id, now))

    def delete_dead_letter(self, letter_id: str) -> None:
        """Forget it. Raises TriggerNotFoundError."""
        self._change_letter("delete_dead_letter", letter_id, lambda hub: hub.bury(letter_id))

    # ---- reading and changing

    def _change_one(self, verb: str, trigger_id: str, change: Callable[[Hub], bool]) -> None:
        refuse_inside(verb, _INSTEAD)
        check_name(trigger_id, "trigger_id")

        def checked(hub: Hub) -> None:
            if not change(hub):
                raise TriggerNotFoundError(f"{verb}: no trigger has the id {trigger_id!r} in this workspace")

        self._change_triggers(checked)

    def _change_letter(self, verb: str, letter_id: str, change: Callable[[Hub], bool]) -> None:
        refuse_inside(verb, "an activity that calls the client")

        def checked(hub: Hub) -> None:
            if not change(hub):
                raise TriggerNotFoundError(f"{verb}: there is no dead letter {letter_id!r} (any more)")

        self._change_triggers(checked)

    def _triggers(self) -> Hub:
        instance = self._triggers_instance()
        return Hub() if instance is None else hub_of(instance)

    def _triggers_instance(self) -> Instance | None:
        record = self._store.load([Want(TRIGGERS)])[0]
        return None if record is None else Instance.of_record(record)

    def _begin_triggers(self) -> None:
        self._store.commit([begin(self._now(), self._ids, self._store.partitions)])  # or somebody else's is there

    def _change_triggers(self, change: Callable[[Hub], T]) -> T:
        """What `change` returns, once its commit is there. Others may commit meanwhile: then it is done over."""
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Overtaken),
            wait=tenacity.wait_random_exponential(0.01, 0.5),
            stop=tenacity.stop_after_delay(_PATIENCE),
            reraise=True,
        ):
            with attempt:
                answer = self._try_to_change(change)
        return answer

    def _try_to_change(self, change: Callable[[Hub], T]) -> T:
        instance = self._triggers_instance()
        if instance is None:
            self._begin_triggers()
            instance = self._triggers_instance()
        if instance is None:
            raise _Overtaken("the triggers of this workspace can't be created; try again")
        hub = hub_of(instance)
        answer = change(hub)
        commit = define(instance, hub, self._now(), self._ids, self._store.partitions)
        outcome = self._store.commit([commit])[0]
        if outcome is Outcome.UNKNOWN:
            record = self._store.load([Want(TRIGGERS)])[0]
            if record is None or record.commit_id != commit.id:
                raise StoreError("the store did not say whether the triggers were changed; look, and try again")
        elif outcome is Outcome.CONFLICT:
            raise _Overtaken("others changed the triggers of this workspace all the time; try again")
        self._signals.notify(FACTS, [TRIGGERS])
        return answer

    def _signed(self, made: Trigger) -> Trigger:
        """With functions given by value as signed text."""
        return made


class _Overtaken(StoreError):
    """Somebody else's commit came first."""


def _is_declared(view: TriggerView | None, wanted: Trigger) -> bool:
    return view is not None and replace(view.trigger, interceptions=()) == wanted


def _taken(trigger_id: str) -> str:
    return f"there is a trigger {trigger_id!r} in this workspace already; delete it first, or give another id"
