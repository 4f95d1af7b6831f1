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

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    Interception,
    Publish,
    RaiseEvent,
    Resume,
    StartOrchestration,
    TerminateWorkspace,
)
from .asks import Ask
from .changes import Call, Change, Counts, Dead, Source, State, Trigger, Waiting
from .conditions import Always, Condition, Counter, Join, JoinSubjects, NotAfter, NotBefore, Occasion
from .context import Draft
from .event import NotAnEvent, Occurrence, digest_of, digests_in, read_event, to_sdk
from .pattern import EventPattern, hears_orchestrations

REMEMBERED: Final = 100_000
ATTEMPTS: Final = 3
FIRST_PAUSE: Final = 1.0  # seconds; twice as long each time
CHAINED: Final = 10_000
ANSWERS: Final = 1_000  # to the last asks
KEPT: Final = 1_000  # events that fitted no trigger, the last ones, if they are to be kept
_MATCHES: Final = 50_000  # remembered answers to "which triggers fit"

UserFunction = Callable[[Draft, Any], Any]
FindFunction = Callable[[Condition | Action], UserFunction]
"""Raises LookupError or DurableError for one that is not here, or may not run."""

_SURE: Final = (Always, Join, JoinSubjects, Counter, NotBefore, NotAfter)  # conditions that never raise


class Outgoing(NamedTuple):
    """What leaves: `number` is unique in the workspace; `event` is the one that the trigger fired for."""

    number: int
    action: Publish | StartOrchestration | RaiseEvent | Resume | CallActivity
    trigger_id: str
    event: Raw


class _Live:
    """A trigger and its state."""

    __slots__ = ("attempts", "gone", "state", "trigger")

    def __init__(self, trigger: Definition, state: State) -> None:
        self.trigger = trigger
        self.state = state
        self.gone = False
        self.attempts: set[int] = set()  # that wait for it


class Hub:
    """See above. Not safe to use from several threads."""

    def __init__(self) -> None:
        self._triggers: dict[str, _Live] = {}
        self._matches: dict[tuple[str, str, str], tuple[_Live, ...]] = {}
        self._workspace: dict[str, Any] = {}
        self._seen: set[bytes] = set()
        self._recent: deque[bytes] = deque()
        self._new: list[bytes] = []  # of those, what this step has added
        self.counts = Counts()
        self.waiting: dict[int, Waiting] = {}
        self._calls: dict[int, Call] = {}
        self.dead: dict[str, Dead] = {}
        self.unmatched: deque[Raw] = deque(maxlen=KEPT)
        self.keeps_unmatched = False
        self.sources: dict[str, Source] = {}
        self.answers: dict[str, list[str]] = {}
        self._hearing: dict[str, tuple[EventPattern, ...]] = {}
        self._number = 0
        self._queue: deque[bytes] = deque()
        self.outgoing: list[Outgoing] = []
        self._change = Change()

    # ---- what there is

    @property
    def workspace_context(self) -> dict[str, Any]:
        """A copy of the context that all triggers share."""
        return _copy(self._workspace)

    def view(self, trigger_id: str) -> Trigger | None:
        """One trigger as it stands; None where there is none."""
        live = self._triggers.get(trigger_id)
        return None if live is None else _view(live)

    @property
    def hearing(self) -> list[EventPattern]:
        """The patterns by which triggers ask what orchestrations tell of themselves."""
        return list(dict.fromkeys(pattern for some in self._hearing.values() for pattern in some))

    @property
    def ids(self) -> list[str]:
        """Those of all triggers, in the order they were added."""
        return list(self._triggers)

    # ---- events

    def publish(self, body: bytes, now: datetime, find: FindFunction, due_at: float | None = None) -> None:
        """An event has come; with `due_at`, it is to come then. Raises NotAnEvent."""
        event = read_event(body)
        if not self._is_new(event):
            return
        if due_at is not None and due_at > now.timestamp():
            self._wait(Waiting(due_at, Raw(body)))
            return
        self._take(event, body, now, find)
        self._take_published(now, find)

    def wake(self, number: int, now: datetime, find: FindFunction) -> None:
        """The time of something that waits has come; of nothing, if it was forgotten meanwhile."""
        waiting = self.waiting.pop(number, None)
        if waiting is None:
            return
        self._change.ended.append(number)
        self._forget_attempt(number, waiting)
        body = bytes(waiting.event)
        event = read_event(body)
        if not waiting.stage:
            self._take(event, body, now, find)
        else:
            self._try_again(waiting, event, body, now, find)
        self._take_published(now, find)

    def activity_ended(self, number: int, result: Raw, failure: Any, now: datetime, find: FindFunction) -> None:
        """Publish how a called activity ended; nothing, if the call was forgotten."""
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
        self.publish(msgspec.json.encode(event), now, find)

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

    def _matching(self, event: Occurrence) -> tuple[_Live, ...]:
        key = (event.type, event.subject, event.source)
        found = self._matches.get(key)
        if found is None:
            if len(self._matches) >= _MATCHES:
                self._matches.clear()
            found = self._matches[key] = tuple(
                live for live in self._triggers.values() if any(pattern.matches(event) for pattern in live.trigger.on)
            )
        return found

    def _is_new(self, event: Occurrence) -> bool:
        digest = digest_of(event)
        if digest in self._seen:
            self._counted().repeated += 1
            return False
        self._remember(digest)
        return True

    def _remember(self, digest: bytes) -> None:
        self._seen.add(digest)
        self._recent.append(digest)
        if len(self._recent) > REMEMBERED:
            self._seen.discard(self._recent.popleft())
        self._new.append(digest)

    # ---- one trigger

    def _offer(
        self, live: _Live, event: Occurrence, body: bytes, now: datetime, find: FindFunction, attempt: int
    ) -> None:
        state, condition = live.state, live.trigger.condition
        self._change.states[live.trigger.id] = state
        if isinstance(condition, _SURE):
            fires = condition.holds(state.progress, Occasion(event, body, now, state.context, no_function))
        else:
            draft = _Draft(self, live, body, now, find)
            progress = _copy(state.progress)
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
        self, live: _Live, event: Occurrence, body: bytes, now: datetime, find: FindFunction, attempt: int
    ) -> None:
        draft = _Draft(self, live, body, now, find)
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
            self._delete(live.trigger.id)
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
            self._delete(action.trigger_id)
        elif isinstance(action, ChangeTrigger):
            self.change(action.trigger_id, enabled=action.enabled, context=action.context)
        elif isinstance(action, TerminateWorkspace):
            self.terminate()

    def _failed(
        self,
        live: _Live,
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

    def refuse(self, body: bytes, error: NotAnEvent, now: datetime) -> None:
        """An event source has brought this, which is no event."""
        text = msgspec.json.encode(body.decode(errors="replace"))
        self._dead(Raw(text), "", "reading", str(error), 1, now)

    def _dead(
        self,
        event: Raw,
        trigger_id: str,
        stage: Literal["condition", "action", "reading"],
        error: str,
        attempts: int,
        now: datetime,
    ) -> None:
        letter = Dead(
            id=str(self._next()),
            trigger_id=trigger_id,
            event=event,
            stage=stage,
            error=error,
            attempts=attempts,
            at=now,
        )
        self.dead[letter.id] = self._change.dead[letter.id] = letter

    def _try_again(self, waiting: Waiting, event: Occurrence, body: bytes, now: datetime, find: FindFunction) -> None:
        live = self._triggers[waiting.trigger_id]
        if waiting.stage == "action":
            self._fire(live, event, body, now, find, waiting.attempt + 1)
        else:
            self._offer(live, event, body, now, find, waiting.attempt + 1)

    # ---- what people and actions change

    def ask(self, ask: Ask) -> list[str]:
        """Take an ask; an answer for each of its parts, remembered for whoever asked. The same ask again is none."""
        if ask.token not in self.answers:
            self._answer(ask.token, [part.of(self) for part in ask.parts])
        return self.answers[ask.token]

    def _answer(self, token: str, answer: list[str]) -> None:
        self.answers[token] = self._change.answers[token] = answer
        if len(self.answers) > ANSWERS:
            del self.answers[next(iter(self.answers))]

    def add(self, trigger: Definition, context: Mapping[str, Any]) -> None:
        """One more trigger, whose id must be free."""
        live = _Live(trigger, State(context=_copy(dict(context))))
        self._triggers[trigger.id] = live
        self._changed(trigger)
        change = self._change
        if trigger.id in change.gone:
            change.gone.remove(trigger.id)
            change.renewed.append(trigger.id)
        change.added[trigger.id] = trigger
        change.states[trigger.id] = live.state

    def declare(self, trigger: Definition) -> None:
        """This is what the trigger of that id is from now on. One that is there keeps what it has become."""
        live = self._triggers.get(trigger.id)
        if live is None:
            self.add(trigger, {})
            return
        live.trigger = msgspec.structs.replace(trigger, interceptions=live.trigger.interceptions)
        self._changed(trigger)
        self._change.added[trigger.id] = live.trigger
        self._change.states[trigger.id] = live.state

    def delete(self, trigger_id: str) -> bool:
        """Whether it was there."""
        return self._delete(trigger_id)

    def is_declared(self, trigger: Definition) -> bool:
        """Whether `declare` would change nothing."""
        live = self._triggers.get(trigger.id)
        return live is not None and msgspec.structs.replace(live.trigger, interceptions=()) == trigger

    def flush(self) -> None:
        """Delete all triggers. Those with which orchestrations wait stay: they end with the wait."""
        for trigger_id in [i for i, live in self._triggers.items() if not isinstance(live.trigger.action, Resume)]:
            self._delete(trigger_id)

    def _delete(self, trigger_id: str) -> bool:
        live = self._triggers.pop(trigger_id, None)
        if live is None:
            return False
        live.gone = True
        for number in live.attempts:
            self.waiting.pop(number, None)
        self._change.ended += sorted(live.attempts)
        self._matches.clear()
        self._hearing.pop(trigger_id, None)
        self._change.added.pop(trigger_id, None)
        self._change.states.pop(trigger_id, None)
        self._change.gone.append(trigger_id)
        return True

    def change(self, trigger_id: str, *, enabled: bool | None = None, context: Mapping[str, Any] | None = None) -> bool:
        """Whether it is there."""
        live = self._triggers.get(trigger_id)
        if live is None:
            return False
        if enabled is not None:
            live.state.enabled = enabled
        live.state.context.update(_copy(dict(context or {})))
        self._change.states[trigger_id] = live.state
        return True

    def intercept(self, trigger_id: str, interception: Interception) -> bool:
        """Whether it is there."""
        live = self._triggers.get(trigger_id)
        if live is None:
            return False
        several = (*live.trigger.interceptions, interception)
        live.trigger = msgspec.structs.replace(live.trigger, interceptions=several)
        self._change.added[trigger_id] = live.trigger
        self._change.states[trigger_id] = live.state
        return True

    def set_workspace_context(self, context: Mapping[str, Any]) -> None:
        self._workspace = self._change.workspace = _copy(dict(context))

    def keep_unmatched(self, keep: bool) -> None:
        """Whether events that fit no trigger are kept, the last `KEPT` of them."""
        self.keeps_unmatched = self._change.keeps_unmatched = keep

    def set_source(self, name: str, source: Source | None) -> None:
        """Add or change an event source; None: it is gone."""
        self._put_source(name, source)
        self._change.sources[name] = source

    def _put_source(self, name: str, source: Source | None) -> None:
        if source is None:
            self.sources.pop(name, None)
        else:
            self.sources[name] = source

    def replay(self, letter_id: str) -> bool:
        """Try a dead letter again, from its first attempt on; whether it is there, and its trigger is."""
        letter = self.dead.get(letter_id)
        if letter is None or letter.stage == "reading" or letter.trigger_id not in self._triggers:
            return False
        self._forget_letter(letter_id)
        self._wait(Waiting(letter.at.timestamp(), letter.event, letter.trigger_id, letter.stage))
        return True

    def bury(self, letter_id: str) -> bool:
        """Forget a dead letter, and what its trigger was about to do; whether it was there."""
        letter = self._forget_letter(letter_id)
        if letter is None:
            return False
        live = self._triggers.get(letter.trigger_id)
        if live is not None and letter.stage == "action" and live.state.firing:
            live.state.firing = False  # a transient one: it has not fired, and takes events again
            self._change.states[letter.trigger_id] = live.state
        return True

    def _forget_letter(self, letter_id: str) -> Dead | None:
        letter = self.dead.pop(letter_id, None)
        if letter is not None:
            self._change.dead.pop(letter_id, None)
            self._change.buried.append(letter_id)
        return letter

    def terminate(self) -> None:
        """Nothing but orchestrations waits any more: there are no triggers, delayed events, attempts, calls."""
        self.flush()
        self._change.ended += [*self.waiting, *self._calls]
        self.waiting.clear()
        self._calls.clear()
        self._queue.clear()

    def clear(self) -> None:
        """As if nobody had ever used this workspace's triggers, but for the events that have counted."""
        self.terminate()
        self.set_workspace_context({})
        for name in list(self.sources):
            self.set_source(name, None)
        for letter_id in list(self.dead):
            self.bury(letter_id)
        self.keep_unmatched(False)

    # ---- what has changed

    @property
    def new_waiting(self) -> list[tuple[int, Waiting]]:
        """What has begun to wait since `take_change`, by its number."""
        return [(number, waiting) for number, waiting in self._change.waiting.items() if number in self.waiting]

    def take_change(self) -> Change:
        """What has changed since this was asked last."""
        change, self._change = self._change, Change()
        change.number = self._number
        change.seen, self._new = b"".join(self._new), []
        return change

    def take_outgoing(self) -> list[Outgoing]:
        """What left since this was asked last."""
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    def apply(self, change: Change) -> None:
        """What has changed elsewhere, or before."""
        for trigger_id in (*change.gone, *change.renewed):
            live = self._triggers.pop(trigger_id, None)
            self._hearing.pop(trigger_id, None)
            if live is not None:
                live.gone = True
        for trigger_id, trigger in change.added.items():
            self._changed(trigger)
            there = self._triggers.get(trigger_id)
            if there is None:
                self._triggers[trigger_id] = _Live(trigger, State())
            else:
                there.trigger = trigger
        for trigger_id, state in change.states.items():
            self._triggers[trigger_id].state = state
        if change.gone or change.renewed:
            self._matches.clear()
        if change.workspace is not None:
            self._workspace = change.workspace
        for digest in digests_in(change.seen):
            self._remember(digest)
        self._new.clear()
        self.counts = change.counts or self.counts
        ended = set(change.ended)
        for number in ended:
            waited = self.waiting.pop(number, None)
            if waited is not None:
                self._forget_attempt(number, waited)
            self._calls.pop(number, None)
        for number, waiting in change.waiting.items():
            if number not in ended:
                self._put_waiting(number, waiting)
        self._calls.update((n, c) for n, c in change.calls.items() if n not in ended)
        for letter_id in change.buried:
            self.dead.pop(letter_id, None)
        self.dead.update(change.dead)
        self.unmatched.extend(change.unmatched)
        for token, answer in change.answers.items():
            self._answer(token, answer)
        self._change.answers.clear()
        for name, source in change.sources.items():
            self._put_source(name, source)
        if change.keeps_unmatched is not None:
            self.keeps_unmatched = change.keeps_unmatched
        self._number = max(self._number, change.number)

    def everything(self) -> Change:
        """A change that makes an empty hub like this one."""
        return Change(
            added={trigger_id: live.trigger for trigger_id, live in self._triggers.items()},
            states={trigger_id: live.state for trigger_id, live in self._triggers.items()},
            workspace=self._workspace,
            seen=b"".join(self._recent),
            counts=self.counts,
            waiting=dict(self.waiting),
            calls=dict(self._calls),
            dead=dict(self.dead),
            unmatched=list(self.unmatched),
            keeps_unmatched=self.keeps_unmatched,
            sources=dict(self.sources),
            answers=dict(self.answers),
            number=self._number,
        )

    # ---- small things

    def _changed(self, trigger: Definition) -> None:
        self._matches.clear()
        hearing = tuple(filter(hears_orchestrations, trigger.on))
        if hearing:
            self._hearing[trigger.id] = hearing
        else:
            self._hearing.pop(trigger.id, None)

    def _counted(self) -> Counts:
        self._change.counts = self.counts
        return self.counts

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _wait(self, waiting: Waiting) -> None:
        number = self._next()
        self._change.waiting[number] = waiting
        self._put_waiting(number, waiting)

    def _put_waiting(self, number: int, waiting: Waiting) -> None:
        self.waiting[number] = waiting
        if waiting.stage:
            self._triggers[waiting.trigger_id].attempts.add(number)

    def _forget_attempt(self, number: int, waiting: Waiting) -> None:
        live = self._triggers.get(waiting.trigger_id)
        if live is not None:
            live.attempts.discard(number)

    def draft_of_workspace(self) -> dict[str, Any]:
        return _copy(self._workspace)

    def keep_workspace(self, draft: dict[str, Any]) -> None:
        if draft != self._workspace:
            self._workspace = self._change.workspace = draft


class _Draft:
    """What the functions of one firing, or of one condition, change and ask for: kept when all went well."""

    def __init__(self, hub: Hub, live: _Live, body: bytes, now: datetime, find: FindFunction) -> None:
        self._hub = hub
        self._live = live
        self._body = body
        self._now = now
        self._find = find
        self._context: dict[str, Any] | None = None
        self._workspace: dict[str, Any] = {}
        self.asked: list[Action] = []

    @property
    def context(self) -> dict[str, Any]:
        """The trigger's context, for conditions that only read it."""
        return self._live.state.context if self._context is None else self._context

    def call(self, function: Condition | Action) -> Any:
        """Run a user's function over the draft. Raises whatever it raises, and what `find` raises."""
        code = self._find(function)
        if self._context is None:
            self._context = _copy(self._live.state.context)
            self._workspace = self._hub.draft_of_workspace()
        context = Draft(self._live.trigger.id, self._context, self._workspace, self._now, _Views(self._hub))
        answer = code(context, to_sdk(self._body))
        msgspec.json.encode((self._context, self._workspace))  # what can't be written must not be committed
        self.asked += context.asked
        return answer

    def keep(self) -> None:
        """All went well."""
        if self._context is not None:
            self._live.state.context = _copy(self._context)
            self._hub.keep_workspace(_copy(self._workspace))


class _Views(Mapping[str, Trigger]):
    """All triggers by id, to be read."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __getitem__(self, trigger_id: str) -> Trigger:
        view = self._hub.view(trigger_id)
        if view is None:
            raise KeyError(trigger_id)
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._hub.ids)

    def __len__(self) -> int:
        return len(self._hub.ids)


def _view(live: _Live) -> Trigger:
    definition, state = live.trigger, live.state
    return Trigger(
        id=definition.id,
        on=definition.on,
        condition=definition.condition,
        action=definition.action,
        context=_copy(state.context),
        transient=definition.transient,
        enabled=state.enabled,
        firings=state.firings,
        progress=_copy(state.progress),
        interceptions=definition.interceptions,
    )


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


def no_function(wanted: Condition | Action) -> UserFunction:
    """Finds none. Raises LookupError."""
    raise LookupError(f"there are no functions here, and {wanted!r} is one")


def _copy(value: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of JSON values; most are empty."""
    if not value:
        return {}
    copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return copied
