"""What a hub holds: triggers, contexts, what waits, what has counted; and what of it has changed.

A hub is the sum of its changes: `apply` takes one, `take_change` gives what has changed since, `everything` all that
there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from ..model.history import Raw
from .actions import Definition, Interception, Resume
from .asks import Ask
from .changes import Call, Change, Counts, Dead, Source, State, Trigger, Waiting
from .event import Occurrence, digest_of, digests_in
from .pattern import EventPattern, hears_orchestrations

REMEMBERED: Final = 100_000
ANSWERS: Final = 1_000  # to the last asks
KEPT: Final = 1_000  # events that fitted no trigger, the last ones, if they are to be kept
WITHDRAWN: Final = 1_000  # waits of orchestrations, the last ones that ended without an event
_MATCHES: Final = 50_000  # remembered answers to "which triggers fit"


class Live:
    """A trigger and its state."""

    __slots__ = ("attempts", "gone", "state", "trigger")

    def __init__(self, trigger: Definition, state: State) -> None:
        self.trigger = trigger
        self.state = state
        self.gone = False
        self.attempts: set[int] = set()  # that wait for it


class HubState:
    """See above. Not safe to use from several threads."""

    def __init__(self) -> None:
        self._triggers: dict[str, Live] = {}
        self._matches: dict[tuple[str, str, str], tuple[Live, ...]] = {}
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
        self._withdrawn: dict[str, int] = {}
        self._hearing: dict[str, tuple[EventPattern, ...]] = {}
        self._number = 0
        self._queue: deque[bytes] = deque()
        self._change = Change()

    # ---- what there is

    @property
    def workspace_context(self) -> dict[str, Any]:
        """A copy of the context that all triggers share."""
        return copy_of(self._workspace)

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
        live = Live(trigger, State(context=copy_of(dict(context))))
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

    def wait_for(self, pattern: EventPattern, resume: Resume) -> None:
        """An orchestration waits for the first event that fits; unless it has withdrawn that meanwhile, for its
        messages come in any order."""
        trigger_id = resume.trigger_id
        live = self._triggers.get(trigger_id)
        known = self._withdrawn.get(trigger_id, -1) if live is None else _attempt(live)
        if resume.attempt > known:
            self.declare(Definition(trigger_id, (pattern,), action=resume, transient=True))

    def withdraw(self, resume: Resume) -> None:
        """It waits no more, unless it has begun to wait again since then."""
        trigger_id = resume.trigger_id
        live = self._triggers.get(trigger_id)
        if live is None or _attempt(live) <= resume.attempt:
            self.delete(trigger_id)
            self._withdraw(trigger_id, resume.attempt)
            self._change.withdrawn[trigger_id] = resume.attempt

    def _withdraw(self, trigger_id: str, attempt: int) -> None:
        self._withdrawn[trigger_id] = max(attempt, self._withdrawn.pop(trigger_id, 0))
        if len(self._withdrawn) > WITHDRAWN:
            del self._withdrawn[next(iter(self._withdrawn))]

    def is_declared(self, trigger: Definition) -> bool:
        """Whether `declare` would change nothing."""
        live = self._triggers.get(trigger.id)
        return live is not None and msgspec.structs.replace(live.trigger, interceptions=()) == trigger

    def flush(self) -> None:
        """Delete all triggers. Those with which orchestrations wait stay: they end with the wait."""
        for trigger_id in [i for i, live in self._triggers.items() if not isinstance(live.trigger.action, Resume)]:
            self.delete(trigger_id)

    def delete(self, trigger_id: str) -> bool:
        """Whether it was there."""
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
        live.state.context.update(copy_of(dict(context or {})))
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
        self._workspace = self._change.workspace = copy_of(dict(context))

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
        self.unmatched.clear()
        self._change.unmatched.clear()
        self._change.forgets_unmatched = True

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
                self._triggers[trigger_id] = Live(trigger, State())
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
        if change.forgets_unmatched:
            self.unmatched.clear()
        self.unmatched.extend(change.unmatched)
        for token, answer in change.answers.items():
            self._answer(token, answer)
        self._change.answers.clear()
        for trigger_id, attempt in change.withdrawn.items():
            self._withdraw(trigger_id, attempt)
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
            withdrawn=dict(self._withdrawn),
            number=self._number,
        )

    # ---- small things

    def _matching(self, event: Occurrence) -> tuple[Live, ...]:
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
        return copy_of(self._workspace)

    def keep_workspace(self, draft: dict[str, Any]) -> None:
        if draft != self._workspace:
            self._workspace = self._change.workspace = draft


def _attempt(live: Live) -> int:
    """Of the wait behind it."""
    action = live.trigger.action
    return action.attempt if isinstance(action, Resume) else 0


def _view(live: Live) -> Trigger:
    definition, state = live.trigger, live.state
    return Trigger(
        id=definition.id,
        on=definition.on,
        condition=definition.condition,
        action=definition.action,
        context=copy_of(state.context),
        transient=definition.transient,
        enabled=state.enabled,
        firings=state.firings,
        progress=copy_of(state.progress),
        interceptions=definition.interceptions,
    )


def copy_of(value: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of JSON values; most are empty."""
    if not value:
        return {}
    copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return copied
