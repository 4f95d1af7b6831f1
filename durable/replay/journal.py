"""The commands of one execution: matched with the recorded ones while there are any, recorded after that.

Laws.
1. While replaying, each command must equal the next recorded one. The first difference is kept and raised again for
   whatever the code asks afterwards (its `finally:`), and nothing is recorded. Code that has swallowed it `PATIENCE`
   times over (a bare `except:` in a loop) is told nothing any more: it yields at last, and is thrown away there.
2. What was decided then stands: a recorded retry, delay or child id is taken, not compared.
3. A turn's commands are counted the same way in both; one too many is refused again on replay, as it was then.
4. A patch is no command to compare: recorded once, it answers True wherever it is asked for, and is passed over where
   it is not. What replay had to answer with False stays so, or the same code would take two roads in one execution.
   One that a rewind has made void was asked for after that moment only, and is decided anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Final

from ..model import history as h
from ..model.errors import LimitError
from ..model.history import Event, Raw
from ..model.rewinding import Span, last_task_id, passed_over, standing, void_outcomes
from ..payload.values import same
from .callee import ActivityRef, OrchestratorRef
from .mismatch import Mismatch, current_line, differs

Ref = ActivityRef[Any, Any] | OrchestratorRef[Any, Any]

PATIENCE: Final = 100


class Journal:
    """`new` holds the events of the turn that is being taken."""

    def __init__(self, commands_per_turn: int) -> None:
        self.limit = commands_per_turn
        self.replaying = False
        self.new: list[Event] = []
        self.commands = 0
        self._stored: Sequence[Event] = ()  # with what is void
        self._recorded: Sequence[Event] = ()
        self._numbers: Sequence[int] = ()
        self._void: Sequence[Span] = ()
        self._passed_over: Collection[int] = ()
        self._length = 1  # before `new`: ExecutionStarted is there
        self._cursor = 0
        self._mismatch: Mismatch | None = None
        self._repeated = 0  # as often was it raised again for something that the code asked
        self._patches: dict[str, bool] = {}

    # ---- facts

    def open(self, recorded: Sequence[Event]) -> None:
        """Replay these from now on, all that an execution has."""
        self._stored, self._length = recorded, len(recorded)
        self._recorded, self._numbers = recorded, range(len(recorded))
        if any(event.type == h.EXECUTION_REWOUND for event in recorded):
            self._leave_out_void(recorded)
        self._patches = {event.name: True for event in self._recorded if event.type == h.PATCH_RECORDED}
        self._cursor, self.replaying = 0, True

    def _leave_out_void(self, recorded: Sequence[Event]) -> None:
        stands = standing(recorded)
        self._void = void_outcomes(recorded, stands)
        if self._void:
            self._passed_over = passed_over(recorded)
            stands = sorted([*stands, *((number, recorded[number]) for number in self._passed_over)])
        self._recorded, self._numbers = [event for _, event in stands], [number for number, _ in stands]

    def turn(self) -> list[Event]:
        """A new turn begins; where its events will be."""
        self._length += len(self.new)
        self.new = []
        return self.new

    @property
    def number(self) -> int:
        """The number in the execution of the event that comes next."""
        if self._cursor < len(self._recorded):
            return self._numbers[self._cursor]
        return self._length + len(self.new)

    @property
    def is_void(self) -> bool:
        """Whether the fact just taken is an outcome that a rewind has made void. Nobody is told of it, but it stood
        when what follows it was recorded."""
        return bool(self._passed_over) and self._numbers[self._cursor - 1] in self._passed_over

    def next_fact(self, line: Callable[[], str]) -> Event | None:
        """The next recorded fact; None at the end. A command that stands there was not asked for: Mismatch."""
        event = self._next()
        if event is None:
            self._recorded, self._stored, self._void, self._passed_over, self.replaying = (), (), (), (), False
            return None
        if event.type in h.COMMANDS:
            raise differs(self.number, event, None, line())
        if event.type not in h.FACTS:
            raise Mismatch(f"event {self.number} has the type {event.type!r}, which this version does not know")
        self._cursor += 1
        return event

    # ---- commands

    def issue(
        self, done: Event, ref: Ref | None = None, *, asked: bool = True, named: bool = True, line: str = ""
    ) -> Event:
        """Match or record one command; returns it as the history has it.

        ref: who knows the types of its input. asked: by the code, and so counted; a retry or the end is not.
        named: whether a child's id was given by the code. line: where the code stands, if it is not running.
        Raises Mismatch, LimitError.
        """
        self.commands += asked
        if not self.replaying:
            self._refuse_too_many(asked)
            self.new.append(done)
            return done
        if self._is_spoilt():
            return done
        recorded = self._next()
        if recorded is None or not _same(recorded, done, ref, named):
            self._refuse_too_many(asked)
            shown = recorded if recorded is not None and recorded.type in h.COMMANDS else None
            self._mismatch = differs(self.number, shown, done, line or current_line())
            raise self._mismatch
        self._cursor += 1
        return recorded

    def recorded_retry(self, task_id: int, attempt: int) -> bool:
        """Whether the history goes on with the timer of this attempt; if so, it is taken."""
        recorded = self._next()
        if (
            recorded is None
            or recorded.type != h.TIMER_CREATED
            or recorded.task_id != task_id
            or recorded.attempt != attempt
        ):
            return False
        self._cursor += 1
        return True

    def patched(self, change_id: str, at: datetime) -> bool:
        """Whether this execution runs the code behind a patch: law 4. Raises Mismatch."""
        if self._is_spoilt():
            return False
        answer = self._patches.get(change_id)
        if answer is None:
            answer = self._patches[change_id] = not self.replaying
            if answer:
                self.new.append(Event(h.PATCH_RECORDED, at, name=change_id))
        return answer

    def refuse_more_at_once(self, count: int) -> None:
        """Raises LimitError if so many commands more are too many for this turn."""
        if self.commands + count > self.limit:
            raise LimitError(
                f"one turn may schedule {self.limit} commands (Limits.commands_per_turn), and this map would start "
                f"{count} at once; give it max_concurrency=, or raise the limit"
            )

    def scheduled_again(self) -> Event | None:
        """The next call that the rewind just taken has scheduled again; the code did not ask for it."""
        recorded = self._next()
        if recorded is None or recorded.type not in (h.TASK_SCHEDULED, h.CHILD_CREATED):
            return None
        self._cursor += 1
        return recorded

    def task_ids_used(self) -> int:
        """The highest task id before the fact just taken, also of what is void."""
        return last_task_id(self._stored, self._numbers[self._cursor - 1])

    @property
    def held(self) -> set[int]:
        """The calls for which the code was waiting here, in a past that has been rewound: outcomes that are void."""
        if not self._void:
            return set()
        here = self.number - 1
        return {task_id for first, end, task_id in self._void if first < here < end}

    def check(self) -> None:
        """Raises the first difference again: a bare `except:` in user code may have swallowed it."""
        if self._mismatch is not None:
            raise self._mismatch

    def spoil(self, reason: str) -> None:
        """What the code does can't be matched any more."""
        self._mismatch = self._mismatch or Mismatch(reason)

    def _is_spoilt(self) -> bool:
        """Whether the code need not be told of a difference again; raises it otherwise."""
        if self._mismatch is None:
            return False
        self._repeated += 1
        if self._repeated <= PATIENCE:
            raise self._mismatch
        return True

    def _next(self) -> Event | None:
        recorded = self._recorded
        while self._cursor < len(recorded):
            if recorded[self._cursor].type != h.PATCH_RECORDED:
                return recorded[self._cursor]
            self._cursor += 1
        return None

    def _refuse_too_many(self, asked: bool) -> None:
        if asked and self.commands > self.limit:
            raise LimitError(
                f"one turn may schedule {self.limit} commands (Limits.commands_per_turn); "
                "yield some of them before scheduling more, or raise the limit"
            )


def _same_pattern(recorded: Raw, now: Raw) -> bool:
    return bool(recorded and now) and same(recorded, now, Any)


def _same(recorded: Event, done: Event, ref: Ref | None, named: bool) -> bool:
    kind = done.type
    if kind == h.EXECUTION_COMPLETED:
        return recorded.type == kind and recorded.status == done.status
    if recorded.type != kind or recorded.task_id != done.task_id or recorded.attempt != done.attempt:
        return False
    if kind == h.EVENT_AWAITED:
        return (
            recorded.name.casefold() == done.name.casefold()
            and recorded.fire_at == done.fire_at
            and (recorded.input == done.input or _same_pattern(recorded.input, done.input))
        )
    if kind == h.EVENT_SENT:
        return (
            recorded.name.casefold() == done.name.casefold()
            and recorded.instance_id == done.instance_id
            and same(recorded.input, done.input, Any)
        )
    if recorded.name != done.name or recorded.fire_at != done.fire_at or recorded.status != done.status:
        return False
    if kind == h.CHILD_CREATED and named and recorded.instance_id != done.instance_id:
        return False
    return ref is None or ref.same_input(recorded.input, done.input)
