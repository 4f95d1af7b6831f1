"""Activities run here: sync ones on their own threads, `async def` ones on one event loop, each outcome once.

One with `executor="process"` runs in a child process, while a thread of those for sync ones waits for its outcome.

Laws.
1. One outcome a run of an attempt: the first of result, exception and timeout; what comes after it is ignored. An
   attempt whose outcome was lost is sent again, and its second run is another one, though the first may still hang.
2. A thread can't be killed. After a timeout or a cancellation `context.cancelled` is true and the slot stays taken.
   A process can: at its timeout at once, some seconds after a cancellation, when the grace of a stop is over.
3. At most `size` run at a time; the others wait in the queue. Threads start when they are first needed; where the
   system has no more of them, those that there are do it all, and the next activity tries again.
4. Whatever an activity raises becomes a failure in the history; it never ends the thread.
"""

from __future__ import annotations

import builtins
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ..engine.instance import Invocation
from ..model import history as h
from ..model.errors import NonRetryableError
from ..model.failure import FailureDetails
from ..model.history import NO_PAYLOAD, Event, Raw
from ..model.limits import Limits
from ..payload.signature import Signature
from .activity_context import ActivityContext, Attempt
from .activity_outcome import failure_of, result_of
from .deadlines import Deadline, Deadlines
from .requests import Done, Stuck

if TYPE_CHECKING:
    from .child_messages import Call
    from .children import Child, Children
    from .event_loop import EventLoopThread


log = logging.getLogger("durable.worker")

Executor = Literal["thread", "process"]

_MERCY: Final = 3.0  # seconds that a cancelled activity in a process gets to end by itself


class ActivityCode(NamedTuple):
    """An activity as it runs: timeouts in seconds, 0 for none; they hold where the call gave none.

    executor: where it runs; says nothing of an `async def`.
    """

    name: str
    fn: Callable[..., Any]
    signature: Signature
    wants_context: bool
    is_async: bool
    timeout: float = 0.0
    heartbeat_timeout: float = 0.0
    executor: Executor = "thread"


class Activities:
    """The activities of one worker that are queued or running."""

    def __init__(
        self,
        find: Callable[[str], ActivityCode | None],
        report: Callable[[Done | Stuck], None],
        *,
        size: int,
        limits: Limits,
        clock: Callable[[], datetime],
        client: Any,
    ) -> None:
        self._find = find
        self._report = report
        self._size = size
        self._limits = limits
        self._clock = clock
        self._client = client
        self._queue: SimpleQueue[_Attempt | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0  # sync ones that are queued or running; a thread for each, up to `size`
        self._lock = threading.Lock()
        self._attempts: dict[str, _Attempt] = {}
        self._deadlines = Deadlines()
        self._event_loop: EventLoopThread | None = None
        self._children: Children | None = None

    def run(self, invocations: Sequence[Invocation]) -> None:
        """Queue these; each ends as one `Done`."""
        sync = 0
        for invocation in invocations:
            if invocation.row_key in self._attempts:
                continue  # it runs here already, under an older lease; a second run would cancel out both outcomes
            attempt = self._attempts[invocation.row_key] = _Attempt(invocation)
            code = self._find(invocation.name)
            if code is not None and code.is_async:
                self._run_async(attempt)
            else:
                self._queue.put(attempt)
                sync += 1
        if sync:
            self._spawn(sync)

    def cancel(self, row_keys: Iterable[str]) -> None:
        """Nobody waits for these any more."""
        for key in row_keys:
            attempt = self._attempts.get(key)
            if attempt is None or not self._settle(attempt):
                continue
            self._strand(attempt)
            attempt.abandon()
            code = self._find(attempt.invocation.name)
            if code is not None and code.executor == "process":
                self._deadlines.at(time.monotonic() + _MERCY, attempt.kill)

    def halt(self) -> list[str]:
        """Forget what has not started; return its row keys."""
        keys = []
        while True:
            try:
                attempt = self._queue.get_nowait()
            except Empty:
                break
            if attempt is None:
                continue
            with self._lock:
                self._open -= 1
            if self._settle(attempt):
                keys.append(attempt.row_key)
        for key, attempt in list(self._attempts.items()):
            if attempt.task is not None and attempt.started_at is None and self._settle(attempt):
                attempt.abandon()
                keys.append(key)
        return keys

    def close(self) -> None:
        """Stop the threads that are idle, and all processes; running threads end with their activity (as daemons)."""
        for attempt in list(self._attempts.values()):
            attempt.abandon()
        for _ in self._threads:
            self._queue.put(None)
        self._deadlines.close()
        with self._lock:
            children = self._children
        if children is not None:
            children.close()
        if self._event_loop is not None:
            self._event_loop.close()

    # ---- sync activities

    def _spawn(self, more: int) -> None:
        with self._lock:
            self._open += more
            for _ in range(min(self._size, self._open) - len(self._threads)):
                thread = threading.Thread(
                    target=self._work, name=f"durable-activity-{len(self._threads) + 1}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no more for us
                    if not self._threads:
                        raise
                    log.warning("activities run on %d of %d threads: %s", len(self._threads), self._size, error)
                    return
                self._threads.append(thread)

    def _work(self) -> None:
        while True:
            attempt = self._queue.get()
            if attempt is None:
                return
            event = self._call(attempt) if self._is_awaited(attempt) else None
            with self._lock:  # before the report, which brings the next one: that one is for this thread
                self._open -= 1
                attempt.on_thread = False
            if attempt.stuck:
                self._report(Stuck(-1))
            if event is not None:
                self._finish(attempt, event)

    def _call(self, attempt: _Attempt) -> Event:
        try:
            code = self._code(attempt)
            if code.executor == "process":
                return self._call_in_child(attempt, code)
            attempt.on_thread = True
            self._begin(attempt, code)
            return self._completed(attempt, code.fn(*self._arguments(attempt, code)))
        except BaseException as error:  # law 4: SystemExit from an activity must not end the thread either
            return self._failed(attempt, failure_of(error))

    def _call_in_child(self, attempt: _Attempt, code: ActivityCode) -> Event:
        from .child_messages import Returned  # most workers never need it

        attempt.on_first_beat = lambda: self._watch_heartbeat(attempt)
        answer = self._some_children().run(
            _order(attempt.invocation, code), attempt, lambda: self._begin(attempt, code)
        )
        if isinstance(answer, Returned):
            return self._event(attempt, h.TASK_COMPLETED, answer.result)
        return self._failed(attempt, answer.failure)

    def _some_children(self) -> Children:
        from .children import Children

        with self._lock:
            if self._children is None:
                self._children = Children(self._limits, self._client.elsewhere)
            return self._children

    # ---- async activities

    def _run_async(self, attempt: _Attempt) -> None:
        if self._event_loop is None:
            from .event_loop import EventLoopThread  # most workers never need it

            self._event_loop = EventLoopThread(self._size)
        attempt.task = self._event_loop.submit(lambda: self._call_async(attempt))

    async def _call_async(self, attempt: _Attempt) -> None:
        if not self._is_awaited(attempt):
            return
        try:
            code = self._code(attempt)
            self._begin(attempt, code)
            made: Coroutine[Any, Any, Any] = code.fn(*self._arguments(attempt, code))
            event = self._completed(attempt, await made)
        except BaseException as error:  # law 4; a cancellation by our own timeout is ignored by `_finish`
            event = self._failed(attempt, failure_of(error))
        self._finish(attempt, event)

    # ---- one attempt

    def _code(self, attempt: _Attempt) -> ActivityCode:
        code = self._find(attempt.invocation.name)
        if code is None:
            raise NonRetryableError(f"activity {attempt.invocation.name!r} was unregistered before it could run")
        return code

    def _begin(self, attempt: _Attempt, code: ActivityCode) -> None:
        """Its time runs from here."""
        invocation = attempt.invocation
        timeout = invocation.timeout or code.timeout
        attempt.heartbeat_timeout = invocation.heartbeat_timeout or code.heartbeat_timeout
        attempt.started_at = time.monotonic()
        if timeout:
            run = _Run(attempt.row_key, attempt.started_at)
            attempt.deadline = self._deadlines.at(attempt.started_at + timeout, lambda: self._time_out(run, timeout))

    def _arguments(self, attempt: _Attempt, code: ActivityCode) -> tuple[Any, ...]:
        args = code.signature.decode_input(attempt.invocation.input, f"the input of activity {code.name!r}")
        return (self._context(attempt), *args) if code.wants_context else args

    def _context(self, attempt: _Attempt) -> ActivityContext:
        attempt.on_first_beat = lambda: self._watch_heartbeat(attempt)
        return ActivityContext(attempt, lambda: self._client)

    def _watch_heartbeat(self, attempt: _Attempt) -> None:
        if attempt.heartbeat_timeout:
            run = _Run(attempt.row_key, attempt.started_at)
            self._deadlines.at(attempt.last_beat + attempt.heartbeat_timeout, lambda: self._check_heartbeat(run))

    def _check_heartbeat(self, run: _Run) -> None:
        attempt = self._attempts.get(run.row_key)
        if attempt is None or attempt.started_at != run.started_at:
            return
        due = attempt.last_beat + attempt.heartbeat_timeout
        if due > time.monotonic():
            self._deadlines.at(due, lambda: self._check_heartbeat(run))
        else:
            self._end_late(attempt, f"sent no heartbeat for {attempt.heartbeat_timeout:g} s")

    def _time_out(self, run: _Run, seconds: float) -> None:
        attempt = self._attempts.get(run.row_key)
        if attempt is not None and attempt.started_at == run.started_at:
            self._end_late(attempt, f"ran longer than its timeout of {seconds:g} s")

    def _end_late(self, attempt: _Attempt, what: str) -> None:
        error = builtins.TimeoutError(f"activity {attempt.invocation.name!r} (attempt {attempt.number}) {what}")
        self._strand(attempt)
        self._finish(attempt, self._failed(attempt, failure_of(error)))
        attempt.abandon()
        attempt.kill()

    def _strand(self, attempt: _Attempt) -> None:
        """Nobody waits for it any more, and nobody can have its thread."""
        with self._lock:
            strands = attempt.on_thread and not attempt.stuck
            attempt.stuck |= strands
        if strands:
            self._report(Stuck(1))

    def _completed(self, attempt: _Attempt, value: Any) -> Event:
        return self._event(attempt, h.TASK_COMPLETED, result_of(value, attempt.invocation.name, self._limits))

    def _failed(self, attempt: _Attempt, failure: FailureDetails) -> Event:
        return self._event(attempt, h.TASK_FAILED, failure=failure)

    def _event(
        self, attempt: _Attempt, kind: str, result: Raw = NO_PAYLOAD, failure: FailureDetails | None = None
    ) -> Event:
        i = attempt.invocation
        return Event(kind, self._clock(), task_id=i.task_id, attempt=i.attempt, result=result, failure=failure)

    def _finish(self, attempt: _Attempt, event: Event) -> None:
        if attempt.deadline is not None:
            self._deadlines.drop(attempt.deadline)
        if self._settle(attempt):
            begun = attempt.started_at
            self._report(Done(attempt.invocation, event, 0.0 if begun is None else time.monotonic() - begun))

    def _is_awaited(self, attempt: _Attempt) -> bool:
        """Whether somebody waits for the outcome of this run."""
        return self._attempts.get(attempt.row_key) is attempt

    def _settle(self, attempt: _Attempt) -> bool:
        """Nobody waits for it any more; whether somebody did."""
        with self._lock:
            awaited = self._is_awaited(attempt)
            if awaited:
                del self._attempts[attempt.row_key]
        return awaited


class _Run(NamedTuple):
    """Which run of an attempt a deadline is for. It may lie far ahead, and must not keep the attempt's input alive."""

    row_key: str
    started_at: float | None


class _Attempt(Attempt):
    """One attempt of one activity in this process."""

    __slots__ = (
        "child",
        "deadline",
        "heartbeat_timeout",
        "invocation",
        "on_first_beat",
        "on_thread",
        "row_key",
        "started_at",
        "stuck",
        "task",
    )

    def __init__(self, invocation: Invocation) -> None:
        super().__init__(invocation.instance_id, invocation.execution_id, invocation.task_id, invocation.attempt)
        self.invocation = invocation
        self.row_key = invocation.row_key
        self.started_at: float | None = None
        self.heartbeat_timeout = 0.0
        self.deadline: Deadline | None = None
        self.on_first_beat: Callable[[], None] | None = None
        self.task: Any = None
        self.on_thread = False  # of ours, while it runs
        self.stuck = False
        self.child: Child | None = None  # while one runs it

    def beat(self) -> None:
        first = not self.last_beat
        super().beat()
        if first and self.on_first_beat is not None:
            self.on_first_beat()

    def abandon(self) -> None:
        """Its outcome counts no more: tell the code, and cancel it where that is possible."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()
        child = self.child
        if child is not None:
            child.cancel(self)

    def kill(self) -> None:
        """End it where that is possible: in a process."""
        child = self.child
        if child is not None:
            child.kill(self)


def _order(i: Invocation, code: ActivityCode) -> Call:
    from .child_messages import Call

    fn = code.fn
    file = getattr(sys.modules.get(fn.__module__), "__file__", None) or ""
    return Call(
        fn.__module__,
        fn.__qualname__,
        file,
        code.name,
        code.wants_context,
        i.input,
        i.instance_id,
        i.execution_id,
        i.task_id,
        i.attempt,
    )
