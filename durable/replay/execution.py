"""One execution of one orchestrator: live code, fed with facts one at a time, asked for commands.

Laws.
1. Facts are applied in history order; the code resumes as soon as what it yielded is done. So batching never shows.
2. The only way to resume is a trigger that fires. Suspending registers it; firing consumes it. A cancel consumes it
   too, and resumes the code with an OrchestrationCancelledError.
3. Replay and life are one path. While recorded commands follow a fact, each command of the code must equal the next
   one; past the recorded history, commands are recorded. A difference raises `Mismatch` and records nothing.
4. What the history decided stands: a recorded child id, retry delay or timer wins over today's code and policy.
5. An event goes to a wait only while the code waits for it: oldest event first, to such waits in order of creation.
6. A rewind schedules again what has to be: that is recorded, and the code is not asked. Its budgets begin anew, and
   the numbers of void tasks are not used again.
7. Suspended code that is thrown away (evicted, blocked, given back) runs its `finally:` once more, with GeneratorExit.
   It is asleep then: it logs nothing, and what it asks for raises GeneratorExit again, so it ends without a trace.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import Random
from types import FrameType
from typing import Any, Final, NamedTuple

import msgspec

from ..model import history as h
from ..model.errors import LimitError, PayloadError, TaskFailedError
from ..model.failure import FailureDetails
from ..model.history import Event, Raw
from ..model.limits import Limits
from ..model.status import RuntimeStatus
from ..payload.codec import SEALED_AT_LEAST
from ..payload.signature import Signature
from ..payload.values import encode
from ..triggers import Trigger, fire
from .callee import ActivityRef, OrchestratorRef
from .commands import called, cancellation, child_created, ended_by
from .fan_out import MapTask
from .guard import TurnTooLong, Watch, running
from .journal import Journal, Ref
from .mismatch import Mismatch, frame_of, line_of, line_of_error, line_of_frame, refuse_sealed
from .tasks import (
    AllTask,
    AnyTask,
    CallTask,
    Leaf,
    Task,
    TimerTask,
    WaitTask,
    are_tasks,
    is_task,
    leaves_of,
    no_task,
    open_leaves,
)

log = logging.getLogger("durable.worker")

RESUME: Final = "resume"


class Code(NamedTuple):
    """An orchestrator as the engine sees it: the raw function, how to read its input, what its output is.

    version: what it was registered under; '' for the unversioned function.
    """

    name: str
    fn: Callable[..., Any]
    signature: Signature
    version: str = ""


class Execution:
    """The live state of one execution. Not thread-safe; thrown away whenever a commit did not happen."""

    def __init__(self, code: Code, started: Event, instance_id: str, limits: Limits, watch: Watch) -> None:
        self.code = code
        self.started = started
        self.instance_id = instance_id
        self.limits = limits
        self.watch = watch
        self.version = started.version or code.version  # where the start named none, the first turn fixes it
        self.clock: datetime = started.timestamp
        self.is_long = False  # whether this turn suggests to continue as new
        self.settled = 0
        self.tasks: dict[int, Leaf[Any]] = {}
        self.trigger: Trigger[Task[Any], str] | None = None
        self.custom_status: Raw | None = None  # None: not set in this execution so far
        self.continued: Raw | None = None
        self.continued_version = ""
        self.cancelled: Raw | None = None  # the reason of the last cancel
        self.save_events = True
        self.finished = False
        self.journal = Journal(limits.commands_per_turn)
        self.awake = False
        self.taken = 0  # facts of this turn that counted
        self.unused_timers: list[int] = []
        self._resumed_by = 0  # the number of the fact that resumed the code last
        self._unseen: set[int] = set()  # failed calls that the code has not been told of
        self._seen: dict[int, int] = {}  # failed calls, and the number of the event before which the code was told
        self._halted: list[MapTask[Any]] = []  # maps that a failure kept from going on, which has been rewound
        self._stale_timers: list[int] = []  # waits that have their event, and whose timers a rewind has set again
        self._begin: Callable[[], Any] | None = None
        self._driver: Any = None
        self._task_ids = 0
        self._buffer: list[Event] = []
        self._listening: tuple[WaitTask[Any], ...] = ()

    # ---- feeding

    def begin_with(self, call: Callable[[], Any]) -> None:
        """How to call the orchestrator; done when the first turn starts."""
        self._begin = call

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
        self.taken, self.unused_timers = 0, list(self._stale_timers)
        first_turn = self._driver is None and not self.finished
        opening = Event(h.ORCHESTRATOR_STARTED, now, suggest_continue_as_new=is_long)
        if first_turn and self.version != self.started.version:
            opening = msgspec.structs.replace(opening, version=self.version)
        if first_turn or self._is_due or self._may_go_on():
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

    def let_go(self) -> None:
        """It is thrown away: law 6, now and not when the collector of garbage comes by."""
        driver, self._driver, self._begin, self.trigger = self._driver, None, None, None
        self._listening = ()
        self.tasks.clear()
        if driver:
            try:
                driver.close()
            except Exception as error:  # of the user's `finally:`; nothing it does counts any more
                log.debug("instance %r: what was thrown away raised %r", self.instance_id, error)

    @property
    def begun(self) -> bool:
        """Whether the code has been called."""
        return self._driver is not None

    def expects(self, fact: Event) -> bool:
        """Whether this fact would change anything: an event, or the outcome of what is open."""
        if fact.type in (h.EVENT_RAISED, h.EXECUTION_CANCELED):
            return True
        task = self.tasks.get(fact.task_id)
        if isinstance(task, CallTask):
            if fact.type == h.TIMER_FIRED:
                return task.retry_timer and fact.attempt == task.attempt
            return not task.retry_timer and fact.attempt == task.attempt
        if isinstance(task, WaitTask) and task.expired_at is not None:
            return False  # its timer has fired before; a repeat must not move the line between early and late events
        return task is not None and fact.type == h.TIMER_FIRED

    def carried_events(self) -> list[Event]:
        """Events nobody took, for the execution that follows."""
        return self._buffer if self.save_events else []

    # ---- what user code asks for (through its context)

    def call_activity(self, ref: ActivityRef[Any, Any], payload: Raw) -> CallTask[Any]:
        return self._call(self._next_id(), ref, payload)

    def call_child(self, ref: OrchestratorRef[Any, Any], payload: Raw, instance_id: str) -> CallTask[Any]:
        self._refuse_depth()
        return self._call(self._next_id(), ref, payload, instance_id)

    def map(self, ref: Ref, inputs: Sequence[Raw], at_once: int | None, gather: bool) -> MapTask[Any]:
        self._refuse_scheduling()
        if isinstance(ref, OrchestratorRef) and inputs:
            self._refuse_depth()
        self.journal.refuse_more_at_once(len(inputs) if at_once is None else min(at_once, len(inputs)))

        def start(payload: Raw, after: CallTask[Any] | None) -> CallTask[Any]:
            # Not `_next_id`: all but the first start between two lines of the code, as retries do.
            self._task_ids += 1
            if after is not None:
                self._listen_instead(after, self._task_ids)
            return self._call(self._task_ids, ref, payload)

        return MapTask(self, inputs, start, at_once, gather)

    def patched(self, change_id: str) -> bool:
        self._refuse_asleep()
        return self.journal.patched(change_id, self.clock)

    def start_detached(self, ref: OrchestratorRef[Any, Any], payload: Raw, instance_id: str) -> str:
        """The id of the orchestration that is started: a recorded one wins over today's default."""
        number = self._next_id()
        created = child_created(
            number, 1, ref, payload, self.clock, instance_id, self.started, self.instance_id, detached=True
        )
        return self.journal.issue(created, ref, named=bool(instance_id)).instance_id

    def send_event(self, instance_id: str, name: str, payload: Raw) -> None:
        number = self._next_id()
        self.journal.issue(Event(h.EVENT_SENT, self.clock, number, name, input=payload, instance_id=instance_id))

    def create_timer(self, fire_at: datetime) -> TimerTask:
        task = TimerTask(self, self._next_id())
        self.tasks[task.id] = task
        self.journal.issue(Event(h.TIMER_CREATED, self.clock, task_id=task.id, fire_at=fire_at))
        return task

    def wait_for_event(self, name: str, timeout: timedelta | None, hint: Any) -> WaitTask[Any]:
        task: WaitTask[Any] = WaitTask(self, self._next_id(), name, hint, timeout is not None)
        self.tasks[task.id] = task
        fire_at = None if timeout is None else self.clock + timeout
        self.journal.issue(Event(h.EVENT_AWAITED, self.clock, task_id=task.id, name=name, fire_at=fire_at))
        return task

    def continue_as_new(self, payload: Raw, save_events: bool, version: str) -> None:
        self._refuse_scheduling()
        self.continued, self.save_events, self.continued_version = payload, save_events, version

    def cancel(self, leaf: Leaf[Any]) -> None:
        self._refuse_asleep()
        kind = h.TIMER_CANCELED if isinstance(leaf, TimerTask) else h.TASK_CANCELED
        attempt = leaf.attempt if isinstance(leaf, CallTask) else 0
        self.journal.issue(Event(kind, self.clock, task_id=leaf.id, attempt=attempt))
        self.tasks.pop(leaf.id, None)
        if isinstance(leaf, WaitTask) and leaf.timed:
            self.unused_timers.append(leaf.id)

    def _next_id(self) -> int:
        self._refuse_scheduling()
        self._task_ids += 1
        return self._task_ids

    def _refuse_asleep(self) -> None:
        if not self.awake:
            raise GeneratorExit

    def _refuse_scheduling(self) -> None:
        self._refuse_asleep()
        if self.continued is not None:
            raise RuntimeError("continue_as_new was called: return now, nothing can be scheduled after it")

    def _refuse_depth(self) -> None:
        if self.started.depth >= self.limits.children_depth:
            raise LimitError(
                f"sub-orchestrations nest at most {self.limits.children_depth} deep (Limits.children_depth); "
                f"{self.instance_id!r} is at level {self.started.depth}"
            )

    def _call(self, number: int, ref: Ref, payload: Raw, instance_id: str = "") -> CallTask[Any]:
        task: CallTask[Any] = CallTask(self, number, ref, payload, self.clock, instance_id)
        self.tasks[number] = task
        self._schedule(task)
        return task

    def _schedule(self, task: CallTask[Any]) -> None:
        line = "" if self.awake or not self.journal.replaying else line_of(self._driver)
        command = called(task, self.started, self.instance_id, self.clock)
        named = bool(task.explicit_id)
        recorded = self.journal.issue(command, task.ref, asked=self.awake, named=named, line=line)
        task.child_id = recorded.instance_id

    # ---- applying a fact

    def _apply(self, event: Event) -> None:
        kind = event.type
        if kind == h.ORCHESTRATOR_STARTED:
            self.clock, self.journal.commands = event.timestamp, 0
            self.version = event.version or self.version
            self.is_long = event.suggest_continue_as_new
            if self._driver is None and self._begin is not None:
                self._start()
                return
            for halted in self._may_go_on():
                self._halted.remove(halted)
                halted.go_on()
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
        elif kind in _OUTCOMES:
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
            self.trigger = None
            self._resumed_by = self.journal.number - 1
            self._drive(None, error)

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
        if not self._halted:
            return []
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
        elif isinstance(task, CallTask) and task.retry_timer and task.attempt == event.attempt:
            task.retry_timer = False
            self._schedule(task)

    def _wait_expired(self, task: WaitTask[Any]) -> None:
        awaited = task in self._listening
        if not awaited and any(event.name.casefold() == task.name.casefold() for event in self._buffer):
            # An event recorded before the timer wins, but only a wait that is yielded again may take it.
            task.expired_at = len(self._buffer)
            return
        del self.tasks[task.id]
        task.time_out()
        self._wake(task)

    def _event_raised(self, event: Event) -> None:
        refuse_sealed(event, f"instance {self.instance_id!r}: the data of event {event.name!r}")
        key = event.name.casefold()
        for wait in self._listening:
            if not wait.order and wait.name.casefold() == key:
                self._give(wait, event)
                self._wake(wait)
                return
        self._buffer.append(event)

    def _give(self, wait: WaitTask[Any], event: Event) -> None:
        del self.tasks[wait.id]
        if wait.timed and wait.expired_at is None:
            self.unused_timers.append(wait.id)
        wait.take(event.input)

    # ---- the trigger, and driving the code

    def _wake(self, task: Leaf[Any]) -> None:
        if self.trigger is None or self.finished:
            return
        firing = fire(self.trigger, task.id)
        if firing is not None and not self._is_held(firing.context):
            self._resume()

    def _resume(self) -> None:
        """Go on with the outcome of what the code waits for."""
        assert self.trigger is not None
        awaited, self.trigger = self.trigger.context, None
        self._resumed_by = self.journal.number - 1
        self._drive(awaited)

    @property
    def _is_due(self) -> bool:
        """Whether what the code waits for was settled by what stands of a rewound past: the next turn resumes it."""
        trigger = self.trigger
        return trigger is not None and trigger.context.order != 0 and not self._is_held(trigger.context)

    def _is_held(self, awaited: Task[Any]) -> bool:
        held = self.journal.held
        return bool(held) and not held.isdisjoint(leaves_of(awaited))

    def _suspend(self, awaited: Task[Any]) -> bool:
        """Register the trigger, and hand buffered events to the waits it listens with. False: it is done already."""
        if type(awaited) is CallTask:  # nearly every wait: one call, nothing to search
            # `type(...) is` makes pyright forget what it is a call of: anything.
            self.trigger = Trigger((awaited.id,), _is_settled, RESUME, awaited)  # pyright: ignore[reportUnknownArgumentType]
            return True
        leaves = open_leaves(awaited)
        self._listening = tuple(leaf for leaf in leaves if isinstance(leaf, WaitTask))
        if self._listening:
            self._take_buffered(awaited)
            if awaited.order:
                return False
        self.trigger = Trigger({leaf.id for leaf in leaves}, _is_settled, RESUME, awaited)
        return True

    def _listen_instead(self, before: CallTask[Any], number: int) -> None:
        """What follows in a map is waited for as what it follows was. In place: a new set would cost each item all."""
        on = None if self.trigger is None else self.trigger.on
        if isinstance(on, set) and before.id in on:
            if before.order:  # else its failure was rewound, and it is still waited for
                on.remove(before.id)
            on.add(number)

    def _take_buffered(self, awaited: Task[Any]) -> None:
        number = 0
        while number < len(self._buffer) and not awaited.order:
            event = self._buffer[number]
            key = event.name.casefold()
            wait = next((w for w in self._listening if not w.order and w.name.casefold() == key), None)
            if wait is None or (wait.expired_at is not None and number >= wait.expired_at):
                number += 1
                continue
            del self._buffer[number]
            for other in self.tasks.values():
                if isinstance(other, WaitTask) and other.expired_at is not None and other.expired_at > number:
                    other.expired_at -= 1
            self._give(wait, event)
        for wait in self._listening:
            if not wait.order and not awaited.order and wait.expired_at is not None:
                del self.tasks[wait.id]
                wait.time_out()

    def _start(self) -> None:
        assert self._begin is not None
        begin, self._begin = self._begin, None
        self._resumed_by = self.journal.number - 1
        self._enter()
        try:
            made = begin()
        except Mismatch:
            raise
        except BaseException as error:
            self._guard(error)
            self._driver = ()
            self._fail(error)
            return
        finally:
            self._leave()
        if hasattr(made, "send") and hasattr(made, "throw"):
            self._driver = made
            self._drive(None)
        else:
            self._driver = ()
            self._finish(made)

    def _drive(self, awaited: Task[Any] | None, error: BaseException | None = None) -> None:
        """Resume the code with the outcome of what it yielded, or with `error`, until it waits for something unfinished
        or ends."""
        driver = self._driver
        self._listening = ()
        self._enter()
        try:
            value: Any = None
            while True:
                if awaited is not None:
                    if self._unseen:
                        self._tell(awaited)
                    try:
                        value, error = awaited.result(), None
                    except BaseException as failed:  # the outcome of the task, whatever it is, belongs to the code
                        value, error = None, failed
                self.watch.ticks += 1
                frame = (
                    frame_of(driver) if self.journal.replaying else None
                )  # it still knows its line when the code has ended
                try:
                    yielded = driver.send(value) if error is None else driver.throw(error)
                except StopIteration as stop:
                    self.journal.check()
                    self._finish(stop.value, frame)
                    return
                except Mismatch:
                    raise
                except BaseException as raised:
                    self.journal.check()
                    self._guard(raised)
                    self._fail(raised)
                    return
                self.journal.check()
                if is_task(yielded):
                    awaited = yielded
                elif are_tasks(yielded):
                    awaited = AllTask(self, yielded, gather=False)
                else:
                    awaited, value, error = None, None, TypeError(no_task(yielded))
                    continue
                if awaited.owner is not self:
                    awaited, value, error = None, None, TypeError("the yielded task belongs to another orchestration")
                    continue
                if not awaited.order and self._suspend(awaited):
                    return
                if self._is_held(awaited):
                    self.trigger = Trigger((), _is_settled, RESUME, awaited)
                    return
        finally:
            self._leave()

    def _tell(self, awaited: Task[Any]) -> None:
        """The code learns of these failures now, so a rewind of one goes back to this moment."""
        told = self._unseen & leaves_of(awaited)
        self._unseen -= told
        self._seen.update(dict.fromkeys(told, self.journal.number))

    def _enter(self) -> None:
        self.awake = True
        self._token = running.set(self.instance_id)
        self.watch.enter()

    def _leave(self) -> None:
        self.awake = False
        running.reset(self._token)
        self.watch.leave()

    def _guard(self, error: BaseException) -> None:
        """Errors of the engine go up; everything else is an outcome of the code."""
        if isinstance(error, TurnTooLong):
            raise error

    def _finish(self, value: Any, frame: FrameType | None = None) -> None:
        line = line_of_frame(frame, self.code.fn)
        if self.continued is not None:
            version = self.continued_version
            self._end(Event(h.CONTINUE_AS_NEW, self.clock, input=self.continued, version=version), line)
            return
        try:
            output = encode(value, f"the output of orchestrator {self.code.name!r}", self.limits)
        except PayloadError as error:
            self._fail(error)
            return
        self._end(Event(h.EXECUTION_COMPLETED, self.clock, result=output, status=RuntimeStatus.COMPLETED.value), line)

    def _fail(self, error: BaseException) -> None:
        end = ended_by(error, self.cancelled, self.clock)
        if end.failure is not None:
            task_id = (error.task_id or 0) if isinstance(error, TaskFailedError) else 0
            back = self._seen.get(task_id, self._resumed_by)
            end = msgspec.structs.replace(end, task_id=task_id, rewinds_to=back)
        self._end(end, line_of_error(error))

    def _end(self, event: Event, line: str) -> None:
        self.journal.issue(event, asked=False, line=line)
        self.finished = True
        self.trigger = None

    def all_of(self, tasks: Sequence[Task[Any]], gather: bool) -> AllTask[Any]:
        return AllTask(self, tasks, gather)

    def any_of(self, tasks: Sequence[Task[Any]]) -> AnyTask[Any]:
        return AnyTask(self, tasks)


_OUTCOMES: Final = frozenset({h.TASK_COMPLETED, h.TASK_FAILED, h.CHILD_COMPLETED, h.CHILD_FAILED})


def _is_settled(root: Task[Any]) -> bool:
    return root.order != 0
