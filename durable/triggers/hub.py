"""The hub: all triggers of a workspace, and what has become of each event. A state machine without I/O.

Laws.
1. An event counts once, by source and id; of the last `REMEMBERED` ids no repetition counts.
2. Events are taken one after the other, and each is shown to the triggers that fit it in the order they were added.
   What one of them adds, deletes or changes holds from then on: for the triggers behind it, and for the next event.
3. A firing is one: changes of the context, of triggers, and all that is asked for happen together, or not at all when
   a function raises. Then it is tried again, later each time; after `ATTEMPTS` it is a dead letter, for people.
4. What has changed since the last step is a `Change`; a hub is the sum of its changes. Reading it runs no function.
5. What an action publishes for this workspace is taken in the same step, after the event that caused it; a chain that
   does not end is cut into steps of `CHAINED`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ..model.failure import describe
from ..model.history import Raw
from ..model.names import check_name
from .actions import (
    Action,
    AddTrigger,
    AnyAction,
    CallActivity,
    CallFunction,
    CallSigned,
    ChangeTrigger,
    Definition,
    DeleteTrigger,
    Publish,
    RaiseEvent,
    Resume,
    StartOrchestration,
    TerminateWorkspace,
)
from .changes import Call, Waiting
from .conditions import Always, Counter, Join, JoinSubjects, NotAfter, NotBefore, Occasion
from .drafting import Drafting, FindFunction, no_function
from .event import NotAnEvent, Occurrence, new_event, read_event, to_sdk
from .state import HubState, Live, copy_of

ATTEMPTS: Final = 3
FIRST_PAUSE: Final = 1.0  # seconds; twice as long each time
CHAINED: Final = 10_000
_SHOWN: Final = 4096  # bytes that are kept of what is no event

_SURE: Final = (Always, Join, JoinSubjects, Counter, NotBefore, NotAfter)  # conditions that never raise


class Outgoing(NamedTuple):
    """What leaves: `number` is unique in the workspace; `event` is the one that the trigger fired for."""

    number: int
    action: Publish | StartOrchestration | RaiseEvent | Resume | CallActivity
    trigger_id: str
    event: Raw


class Hub(HubState):
    """See above. Not safe to use from several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.outgoing: list[Outgoing] = []

    # ---- events

    def publish(self, body: bytes, now: datetime, find: FindFunction, due_at: float | None = None) -> None:
        """An event has come; with `due_at`, it is to come then. Raises NotAnEvent."""
        event = new_event(body)
        if not self._is_new(event):
            return
        if due_at is not None and due_at > now.timestamp():
            self._wait(Waiting(due_at, Raw(body)))
            return
        self._take(event, body, now, find)
        self._take_published(now, find)

    def refuse(self, body: bytes, error: NotAnEvent, now: datetime) -> None:
        """An event source has brought this, which is no event."""
        text = body[:_SHOWN].decode(errors="replace")
        if len(body) > _SHOWN:
            text += f" ... ({len(body):,} bytes)"
        self._dead(Raw(msgspec.json.encode(text)), "", "reading", str(error), 1, now)

    def wake(self, number: int, now: datetime, find: FindFunction) -> None:
        """The time of something that waits has come; of nothing, if it was forgotten meanwhile."""
        waiting = self.waiting.pop(number, None)
        if waiting is None:
            return
        self._change.ended.append(number)
        self._forget_attempt(number, waiting)
        body = bytes(waiting.event)
        try:
            event = read_event(body)
        except NotAnEvent as error:
            self.refuse(body, error, now)
            return
        if not waiting.stage:
            self._take(event, body, now, find)
        else:
            self._try_again(waiting, event, body, now, find)
        self._take_published(now, find)

    def activity_ended(self, number: int, result: Raw, failure: Any, now: datetime, find: FindFunction) -> None:
        """Publish how a called activity ended; nothing, if the call was forgotten.

        A result may be nested deeper than an event; then what would have been the event is a dead letter.
        """
        call = self._calls.pop(number, None)
        if call is None:
            return
        self._change.ended.append(number)
        how = "completed" if failure is None else "failed"
        event = {
            "specversion": "1.0",
            "id": f"call-{number}",
            "source": f"/triggers/{call.trigger_id}",
            "type": f"durable.activity-{how}",
            "subject": call.subject,
            "time": now,
            "datacontenttype": "application/json",
            "activity": call.activity,
            "data": (result if bytes(result) else None) if failure is None else failure,
        }
        body = msgspec.json.encode(event)
        try:
            self.publish(body, now, find)
        except NotAnEvent as error:
            self.refuse(body, error, now)

    def take_outgoing(self) -> list[Outgoing]:
        """What left since this was asked last."""
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    def _take_published(self, now: datetime, find: FindFunction) -> None:
        taken = 0
        while self._queue:
            body = self._queue.popleft()
            event = read_event(body)
            if not self._is_new(event):
                continue
            if taken < CHAINED:
                taken += 1
                self._take(event, body, now, find)
            else:
                self._wait(Waiting(now.timestamp(), Raw(body)))

    def _take(self, event: Occurrence, body: bytes, now: datetime, find: FindFunction) -> None:
        counts = self._counted()
        counts.taken += 1
        if event.expirytime is not None and event.expirytime < now:
            counts.expired += 1
            return
        matching = self._matching(event)
        if not matching:
            counts.unmatched += 1
            if self.keeps_unmatched:
                self._keep_unmatched(body, now)
            return
        for live in matching:
            if not live.gone and live.state.enabled and not live.state.firing:
                self._offer(live, event, body, now, find, 1)

    def _keep_unmatched(self, body: bytes, now: datetime) -> None:
        try:
            to_sdk(body)  # as what it is shown; an event source brings some that it refuses
        except NotAnEvent as error:
            self.refuse(body, error, now)
            return
        self.unmatched.append(Raw(body))
        self._change.unmatched.append(Raw(body))

    # ---- one trigger

    def _offer(
        self, live: Live, event: Occurrence, body: bytes, now: datetime, find: FindFunction, attempt: int
    ) -> None:
        state, condition = live.state, live.trigger.condition
        self._change.states[live.trigger.id] = state
        if isinstance(condition, _SURE):
            fires = condition.holds(state.progress, Occasion(event, body, now, state.context, no_function))
        else:
            draft = Drafting(self, live, body, now, find)
            progress = copy_of(state.progress)
            try:
                fires = condition.holds(progress, Occasion(event, body, now, draft.context, draft.call))
                self._check(draft.asked, event)
            except BaseException as error:  # of a user's function: SystemExit must not end the worker
                self._failed(live, body, "condition", attempt, error, now)
                return
            state.progress = progress
            draft.keep()
            for action in draft.asked:
                self._do(action, live.trigger.id, event, body, now)
        if fires and not live.gone:
            self._fire(live, event, body, now, find, 1)

    def _fire(
        self, live: Live, event: Occurrence, body: bytes, now: datetime, find: FindFunction, attempt: int
    ) -> None:
        draft = Drafting(self, live, body, now, find)
        try:
            for wanted in _actions(live.trigger):
                if isinstance(wanted, (CallFunction, CallSigned)):
                    draft.call(wanted)
                else:
                    draft.asked.append(_again(wanted, live.state.firings, now))
            self._check(draft.asked, event)
        except BaseException as error:  # as above
            self._failed(live, body, "action", attempt, error, now)
            return
        draft.keep()
        live.state.firings += 1
        live.state.firing = False
        self._change.states[live.trigger.id] = live.state
        if live.trigger.transient:
            self.delete(live.trigger.id)
        for action in draft.asked:
            self._do(action, live.trigger.id, event, body, now)

    def _check(self, asked: Iterable[Action], event: Occurrence) -> None:
        """Raises LookupError, ValueError for what has no target."""
        for action in asked:
            if isinstance(action, Publish) and action.to and action.to not in self.sources:
                raise LookupError(f"this workspace has no event source {action.to!r}: client.add_event_source")
            if isinstance(action, RaiseEvent) and not action.instance_id:
                check_name(event.subject, "actions.raise_event without instance_id=: the event's subject")

    def _do(self, action: Action, trigger_id: str, event: Occurrence, body: bytes, now: datetime) -> None:
        if isinstance(action, Publish) and not action.to:
            if action.delay > 0:
                if self._is_new(read_event(bytes(action.event))):
                    self._wait(Waiting(now.timestamp() + action.delay, action.event))
            else:
                self._queue.append(bytes(action.event))
        elif isinstance(action, (Publish, StartOrchestration, RaiseEvent, Resume, CallActivity)):
            number = self._next()
            if isinstance(action, RaiseEvent) and not action.instance_id:
                action = msgspec.structs.replace(action, instance_id=event.subject)
            if isinstance(action, CallActivity):
                call = Call(trigger_id, action.name, action.subject or trigger_id)
                self._calls[number] = self._change.calls[number] = call
            self.outgoing.append(Outgoing(number, action, trigger_id, Raw(body)))
        elif isinstance(action, AddTrigger):
            if action.trigger.id not in self._triggers:
                self.add(action.trigger, action.context)
        elif isinstance(action, DeleteTrigger):
            self.delete(action.trigger_id)
        elif isinstance(action, ChangeTrigger):
            self.change(action.trigger_id, enabled=action.enabled, context=action.context)
        elif isinstance(action, TerminateWorkspace):
            self.terminate()

    def _failed(
        self,
        live: Live,
        body: bytes,
        stage: Literal["condition", "action"],
        attempt: int,
        error: BaseException,
        now: datetime,
    ) -> None:
        trigger_id = live.trigger.id
        failure = describe(error)
        said = f"{failure.type}: {failure.message}"
        if stage == "action" and live.trigger.transient and not live.state.firing:
            live.state.firing = True
            self._change.states[trigger_id] = live.state
        if attempt < ATTEMPTS:
            due_at = now.timestamp() + FIRST_PAUSE * 2 ** (attempt - 1)
            self._wait(Waiting(due_at, Raw(body), trigger_id, stage, attempt, said))
            return
        self._dead(Raw(body), trigger_id, stage, said, attempt, now)

    def _try_again(self, waiting: Waiting, event: Occurrence, body: bytes, now: datetime, find: FindFunction) -> None:
        live = self._triggers[waiting.trigger_id]
        if waiting.stage == "action":
            self._fire(live, event, body, now, find, waiting.attempt + 1)
        else:
            self._offer(live, event, body, now, find, waiting.attempt + 1)


def _actions(trigger: Definition) -> Iterable[AnyAction]:
    own = not any(interception.instead for interception in trigger.interceptions)
    found = [interception.action for interception in trigger.interceptions]
    return [*found, trigger.action] if own else found


def _again(action: Action, fired: int, now: datetime) -> Action:
    """An event that is published at each firing is another one each time, though it was given once."""
    if not isinstance(action, Publish):
        return action
    event = msgspec.json.decode(action.event)
    event["id"] = f"{event['id']}-{fired + 1}" if fired else event["id"]
    event["time"] = now
    return msgspec.structs.replace(action, event=Raw(msgspec.json.encode(event)))
