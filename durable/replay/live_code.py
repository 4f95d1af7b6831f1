"""The code of one orchestration, alive: what it asks for, what it waits with, and how it is driven until it ends.

Laws.
1. The only way to resume is a trigger that fires. Suspending registers it; firing consumes it. A cancel consumes it
   too, and resumes the code with an OrchestrationCancelledError.
2. Suspended code that is thrown away (evicted, blocked, given back) runs its `finally:` once more, with GeneratorExit.
   It is asleep then: it logs nothing, and what it asks for raises GeneratorExit again, so it ends without a trace.
   Where it swallows even that, again and again, it is given what it asks for: what it yields then ends it.
3. It knows nothing of facts: what has happened, and which task that settles, an `Execution` says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import FrameType
from typing import Any, Final, NamedTuple

import msgspec

from ..model import history as h
from ..model.errors import LimitError, PayloadError, TaskFailedError
from ..model.failure import is_really
from ..model.history import Event, Former, Raw
from ..model.limits import Limits
from ..model.status import RuntimeStatus
from ..payload.signature import Signature
from ..payload.values import encode
from ..triggers.pattern import EventPattern
from ..triggers.waiting import Trigger, fire
from .callee import ActivityRef, OrchestratorRef
from .commands import called, child_created, ended_by
from .fan_out import MapTask
from .guard import TurnTooLong, Watch, running
from .journal import PATIENCE, Journal, Ref
from .mailbox import Mailbox
from .mismatch import Mismatch, frame_of, line_of, line_of_error, line_of_frame
from .task_trees import leaves_of, open_leaves
from .tasks import (
    AllTask,
    AnyTask,
    CallTask,
    CloudEventTask,
    Leaf,
    Task,
    TimerTask,
    WaitTask,
    is_task,
    no_task,
    tasks_in,
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


class LiveCode:
    """The code and what it has open. Not thread-safe; thrown away whenever a commit did not happen."""

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
        self.mailbox = Mailbox(self.tasks)
        self.trigger: Trigger[Task[Any], str] | None = None
        self.custom_status: Raw | None = None  # None: not set in this execution so far
        self.continued: Raw | None = None
        self.continued_version = ""
        self.cancelled: Raw | None = None  # the reason of the last cancel
        self.save_events = True
        self.finished = False
        self.journal = Journal(limits.commands_per_turn)
        self.awake = False
        self._asked_asleep = 0
        self.unused_timers: list[int] = []
        self.withdrawn: list[int] = []  # waits for CloudEvents that ended without one
        self._resumed_by = 0  # the number of the fact that resumed the code last
        self._unseen: set[int] = set()  # failed calls that the code has not been told of
        self._seen: dict[int, int] = {}  # failed calls, and the number of the event before which the code was told
        self._begin: Callable[[], Any] | None = None
        self._driver: Any = None
        self._task_ids = 0

    def begin_with(self, call: Callable[[], Any]) -> None:
        """How to call the orchestrator; done when the first turn starts."""
        self._begin = call

    def let_go(self) -> None:
        """It is thrown away: law 2, now and not when the collector of garbage comes by."""
        driver, self._driver, self._begin, self.trigger = self._driver, None, None, None
        self.mailbox.close()
        self.tasks.clear()
        if driver:
            try:
                self.watch.enter()
                try:
                    driver.close()
                finally:
                    self.watch.leave()
            except BaseException as error:  # of the user's `finally:`; nothing it does counts any more
                log.debug("instance %r: what was thrown away raised %r", self.instance_id, error)

    @property
    def formerly(self) -> Former | None:
        """As whom the next event was recorded, if not as this execution."""
        started = self.started
        return next((former for former in started.formerly if self.journal.number < former.until), None)

    @property
    def begun(self) -> bool:
        """Whether the code has been called."""
        return self._driver is not None

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
        self._refuse_scheduling()
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

    def wait_for_cloudevent(self, pattern: EventPattern, timeout: timedelta | None) -> CloudEventTask:
        task = CloudEventTask(self, self._next_id(), pattern, timeout is not None)
        self.tasks[task.id] = task
        fire_at = None if timeout is None else self.clock + timeout
        given = Raw(msgspec.json.encode(pattern))
        self.journal.issue(Event(h.EVENT_AWAITED, self.clock, task.id, h.CLOUD_EVENT, input=given, fire_at=fire_at))
        return task

    def continue_as_new(self, payload: Raw, save_events: bool, version: str) -> None:
        self._refuse_scheduling()
        self.continued, self.save_events, self.continued_version = payload, save_events, version

    def cancel(self, leaf: Leaf[Any]) -> None:
        self._refuse_scheduling()
        kind = h.TIMER_CANCELED if isinstance(leaf, TimerTask) else h.TASK_CANCELED
        attempt = leaf.attempt if isinstance(leaf, CallTask) else 0
        self.journal.issue(Event(kind, self.clock, task_id=leaf.id, attempt=attempt))
        self.tasks.pop(leaf.id, None)
        if isinstance(leaf, WaitTask | CloudEventTask) and leaf.timed:
            self.unused_timers.append(leaf.id)
        if isinstance(leaf, CloudEventTask):
            self.withdrawn.append(leaf.id)

    def all_of(self, tasks: Sequence[Task[Any]], gather: bool) -> AllTask[Any]:
        return AllTask(self, tasks, gather)

    def any_of(self, tasks: Sequence[Task[Any]]) -> AnyTask[Any]:
        return AnyTask(self, tasks)

    def _next_id(self) -> int:
        self._refuse_scheduling()
        self._task_ids += 1
        return self._task_ids

    def _refuse_asleep(self) -> None:
        if self.awake:
            return
        self._asked_asleep += 1
        if self._asked_asleep <= PATIENCE:
            raise GeneratorExit
        self.journal.spoil("the code has used its context while it was not running")

    def _refuse_scheduling(self) -> None:
        self._refuse_asleep()
        if self.continued is not None and self.awake:
            raise RuntimeError("continue_as_new was called: return now, nothing else can be done in this execution")

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

    def _interrupt(self, error: BaseException) -> None:
        """Go on with this error, whatever the code waits for."""
        self.trigger = None
        self._resumed_by = self.journal.number - 1
        self._drive(None, error)

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
        waits = [leaf for leaf in leaves if isinstance(leaf, WaitTask)]
        if waits:
            self._open_mail(awaited, waits)
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

    def _listen_anew(self) -> None:
        """Also for items of maps that follow what had ended before the code waited."""
        if self.trigger is not None and isinstance(self.trigger.on, set):
            self.trigger.on.update(leaf.id for leaf in open_leaves(self.trigger.context))

    def _open_mail(self, awaited: Task[Any], waits: Sequence[WaitTask[Any]]) -> None:
        self.mailbox.open(awaited, waits)
        for wait, event in self.mailbox.pairs():
            self._give(wait, event)
            if awaited.order:
                return
        for wait in waits:
            if wait.expired_at is not None and self.mailbox.listens(wait):
                del self.tasks[wait.id]
                wait.time_out()

    def _give(self, wait: WaitTask[Any], event: Event) -> None:
        del self.tasks[wait.id]
        if wait.timed and wait.expired_at is None:
            self.unused_timers.append(wait.id)
        wait.take(event.input)

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
        if hasattr(type(made), "send") and hasattr(type(made), "throw"):
            self._driver = made
            self._drive(None)
        else:
            self._driver = ()
            self._finish(made)

    def _drive(self, awaited: Task[Any] | None, error: BaseException | None = None) -> None:
        """Resume the code with the outcome of what it yielded, or with `error`, until it waits for something unfinished
        or ends."""
        driver = self._driver
        self.mailbox.close()
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
                        # Raised again and again it would keep the frames, and all they know, of each time.
                        value, error = None, failed.with_traceback(None)
                self.watch.ticks += 1
                # It still knows its line when the code has ended.
                frame = frame_of(driver) if self.journal.replaying else None
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
                wanted = self._wanted(yielded)
                if isinstance(wanted, TypeError):
                    awaited, value, error = None, None, wanted
                    continue
                awaited = wanted
                if not awaited.order and self._suspend(awaited):
                    return
                if self._is_held(awaited):
                    self.trigger = Trigger((), _is_settled, RESUME, awaited)
                    return
        finally:
            self._leave()

    def _wanted(self, yielded: object) -> Task[Any] | TypeError:
        """What the code waits for now, or what is wrong with what it yielded."""
        tasks = [yielded] if is_task(yielded) else tasks_in(yielded)
        if tasks is None:
            return TypeError(no_task(yielded))
        if any(task.owner is not self for task in tasks):
            return TypeError("the yielded task belongs to another orchestration")
        return yielded if is_task(yielded) else AllTask(self, tasks, gather=False)

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
        if is_really(error, TurnTooLong):
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
            named: object = error.task_id if is_really(error, TaskFailedError) else 0  # by whoever made the error
            task_id = named if type(named) is int and 0 < named <= self._task_ids else 0
            back = self._seen.get(task_id, self._resumed_by)
            end = msgspec.structs.replace(end, task_id=task_id, rewinds_to=back)
        self._end(end, line_of_error(error))

    def _end(self, event: Event, line: str) -> None:
        self.journal.issue(event, asked=False, line=line)
        self.finished = True
        self.trigger = None


def _is_settled(root: Task[Any]) -> bool:
    return root.order != 0
