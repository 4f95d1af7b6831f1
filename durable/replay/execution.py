"""One execution of one orchestrator: live code, fed with facts one at a time.

Laws.
1. Facts are applied in history order; the code resumes as soon as what it yielded is done. So batching never shows.
2. Replay and life are one path. While recorded commands follow a fact, each command of the code must equal the next
   one; past the recorded history, commands are recorded. A difference raises `Mismatch` and records nothing.
3. What the history decided stands: a recorded child id, retry delay or timer wins over today's code and policy.
4. A rewind schedules again what has to be: that is recorded, and the code is not asked. Its budgets begin anew, and
   the numbers of void tasks are not used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import Any

import msgspec

from ..model import history as h
from ..model.failure import FailureDetails
from ..model.history import Event
from ..model.limits import Limits
from ..payload.codec import SEALED_AT_LEAST
from .commands import cancellation
from .fan_out import MapTask
from .guard import Watch
from .live_code import Code, LiveCode
from .mismatch import line_of, refuse_sealed
from .tasks import CallTask, CloudEventTask, TimerTask, WaitTask


class Execution(LiveCode):
    """The live state of one execution: its code, and what facts have made of it."""

    def __init__(self, code: Code, started: Event, instance_id: str, limits: Limits, watch: Watch) -> None:
        super().__init__(code, started, instance_id, limits, watch)
        self.taken = 0  # facts of this turn that counted
        self._halted: list[MapTask[Any]] = []  # maps that a failure kept from going on, which has been rewound
        self._stale_timers: list[int] = []  # waits that have their event, and whose timers a rewind has set again

    def replay(self, events: Sequence[Event]) -> None:
        """Run the code over recorded events. Raises Mismatch at the first difference."""
        self.journal.open(events)
        while (fact := self.journal.next_fact(lambda: line_of(self._driver))) is not None:
            if self.journal.is_void:
                self._pass_over(fact)
            else:
                self._apply(fact)

    def take(self, facts: Sequence[Event], now: datetime, is_long: bool = False) -> list[Event]:
        """One turn: apply new facts, and return them with the commands they caused, to be appended to the history.

        is_long: whether the history so far suggests to continue as new; recorded, so that replay says the same under
        other limits. Facts that change nothing (duplicates, outcomes of superseded attempts) are left out; without any
        that does, the turn is empty.
        """
        journal = self.journal
        new = journal.turn()
        self.taken, self.unused_timers, self.withdrawn = 0, list(self._stale_timers), []
        first_turn = self._driver is None and not self.finished
        opening = Event(h.ORCHESTRATOR_STARTED, now, suggest_continue_as_new=is_long)
        if first_turn and self.version != self.started.version:
            opening = msgspec.structs.replace(opening, version=self.version)
        if first_turn or self._is_due or self._halted:
            new.append(opening)
            self._apply(opening)
        for fact in facts:
            if self.finished or not self.expects(fact):
                continue
            if not new:
                new.append(opening)
                self._apply(opening)
            self.taken += 1
            new.append(fact)
            self._apply(fact)
        if new:
            self._stale_timers = []
        return new

    def expects(self, fact: Event) -> bool:
        """Whether this fact would change anything: an event, or the outcome of what is open."""
        if fact.type == h.EXECUTION_CANCELED or (fact.type == h.EVENT_RAISED and not fact.task_id):
            return True
        task = self.tasks.get(fact.task_id)
        if fact.type == h.EVENT_RAISED:
            return isinstance(task, CloudEventTask)
        if isinstance(task, CallTask):
            if fact.type == h.TIMER_FIRED:
                return task.retry_timer and fact.attempt == task.attempt
            return not task.retry_timer and fact.attempt == task.attempt
        if isinstance(task, WaitTask) and task.expired_at is not None:
            return False  # its timer has fired before; a repeat must not move the line between early and late events
        return task is not None and fact.type == h.TIMER_FIRED

    def carried_events(self) -> list[Event]:
        """Events nobody took, for the execution that follows."""
        return self.mailbox.kept if self.save_events else []

    # ---- applying a fact

    def _apply(self, event: Event) -> None:
        kind = event.type
        if kind == h.ORCHESTRATOR_STARTED:
            self.clock, self.journal.commands = event.timestamp, 0
            self.version = event.version or self.version
            self.is_long = event.suggest_continue_as_new
            if self._begin is not None:
                self._start()
                return
            if self._halted:
                for halted in self._may_go_on():
                    self._halted.remove(halted)
                    halted.go_on()
                self._listen_anew()
            if self._is_due:
                self._resume()
        elif kind == h.EVENT_RAISED:
            self._event_raised(event)
        elif kind == h.TIMER_FIRED:
            self._timer_fired(event)
        elif kind == h.EXECUTION_CANCELED:
            self._cancel(event)
        elif kind == h.EXECUTION_REWOUND:
            self._rewound(event)
        elif kind in h.OUTCOMES:
            task = self.tasks.get(event.task_id)
            if isinstance(task, CallTask) and task.attempt == event.attempt and not task.retry_timer:
                self._outcome(task, event)
        # ExecutionStarted is where this object comes from; ExecutionTerminated ends an instance without its code, and
        # while it is suspended none of its facts are here.

    def _cancel(self, event: Event) -> None:
        refuse_sealed(event, f"instance {self.instance_id!r}: the reason for cancelling")
        self.cancelled = event.input
        error = cancellation(event, self.instance_id)
        if self._driver is None:  # before its start: it has nothing to compensate
            self._fail(error)
        else:
            self._interrupt(error)

    def _pass_over(self, failure: Event) -> None:
        """A failure that was rewound. A map went on, or did not, as if there had been one."""
        task = self.tasks.get(failure.task_id)
        if not isinstance(task, CallTask):
            return
        for parent in task._parents:
            if isinstance(parent, MapTask) and parent.pass_over(task):
                self._halted.append(parent)

    def _may_go_on(self) -> list[MapTask[Any]]:
        """The maps that have been halted by a failure which no longer stands."""
        held = self.journal.held
        return [halted for halted in self._halted if held.isdisjoint(halted.halted_by)]

    def _rewound(self, event: Event) -> None:
        """What it voids has not been replayed. Go on from there with what it has scheduled again."""
        self._task_ids = max(self._task_ids, self.journal.task_ids_used())
        self._stale_timers = list(self.unused_timers)
        ended_by = self.tasks.get(event.task_id)
        if isinstance(ended_by, CallTask):
            ended_by.anew(ended_by.attempt, event.timestamp)
        while (scheduled := self.journal.scheduled_again()) is not None:
            task = self.tasks.get(scheduled.task_id)
            if isinstance(task, CallTask):
                task.anew(scheduled.attempt, event.timestamp)
                task.child_id = scheduled.instance_id

    def _outcome(self, task: CallTask[Any], event: Event) -> None:
        if event.failure is not None or len(event.result) > SEALED_AT_LEAST:
            refuse_sealed(event, f"instance {self.instance_id!r}: the outcome of {task.ref!r} (task {task.id})")
        if event.failure is None:
            del self.tasks[task.id]
            task.complete(event.result)
            self._wake(task)
        elif not self._retries(task, event.failure):
            del self.tasks[task.id]
            self._unseen.add(task.id)
            task.fail(event.failure)
            self._wake(task)

    def _retries(self, task: CallTask[Any], failure: FailureDetails) -> bool:
        """Arrange the next attempt, if there is one. On replay the history has already decided."""
        attempt = task.attempt + 1
        if self.journal.replaying:
            if not self.journal.recorded_retry(task.id, attempt):
                return False
        else:
            policy = task.ref.retry
            if policy is None:
                return False
            random = Random(f"{self.started.seed}/{task.id}/{attempt}")
            at = policy.next_attempt_at(failure, task.attempt - task.spent, task.first_at, self.clock, random)
            if at is None:
                return False
            timer = Event(h.TIMER_CREATED, self.clock, task_id=task.id, attempt=attempt, fire_at=at)
            self.journal.issue(timer, asked=False)
        task.attempt, task.retry_timer = attempt, True
        return True

    def _timer_fired(self, event: Event) -> None:
        task = self.tasks.get(event.task_id)
        if isinstance(task, TimerTask):
            del self.tasks[task.id]
            task.fired()
            self._wake(task)
        elif isinstance(task, WaitTask):
            self._wait_expired(task)
        elif isinstance(task, CloudEventTask):
            del self.tasks[task.id]
            self.withdrawn.append(task.id)
            task.time_out()
            self._wake(task)
        elif isinstance(task, CallTask) and task.retry_timer and task.attempt == event.attempt:
            task.retry_timer = False
            self._schedule(task)

    def _wait_expired(self, task: WaitTask[Any]) -> None:
        if self.mailbox.expires(task):
            del self.tasks[task.id]
            task.time_out()
            self._wake(task)

    def _event_raised(self, event: Event) -> None:
        refuse_sealed(event, f"instance {self.instance_id!r}: the data of event {event.name!r}")
        if event.task_id:
            self._cloudevent_came(event)
            return
        wait = self.mailbox.taker(event)
        if wait is not None:
            self._give(wait, event)
            self._wake(wait)

    def _cloudevent_came(self, event: Event) -> None:
        task = self.tasks.get(event.task_id)
        if isinstance(task, CloudEventTask):
            del self.tasks[task.id]
            if task.timed:
                self.unused_timers.append(task.id)
            task.take(event.input)
            self._wake(task)
