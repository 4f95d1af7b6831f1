"""Activities run here: sync ones on their own threads, `async def` ones on one event loop, each outcome once.

Laws.
1. One outcome an attempt: the first of result, exception and timeout; what comes after it is ignored.
2. A thread can't be killed. After a timeout or a cancellation `context.cancelled` is true and the slot stays taken.
3. At most `size` run at a time; the others wait in the queue. Threads start when they are first needed.
4. Whatever an activity raises becomes a failure in the history; it never ends the thread.
"""

from __future__ import annotations

import builtins
import heapq
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engine.instance import Invocation
from ..model import history as h
from ..model.errors import NonRetryableError, PayloadError
from ..model.failure import FailureDetails, describe
from ..model.history import NO_PAYLOAD, Event
from ..model.limits import Limits
from ..payload.signature import Signature
from ..payload.values import encode
from .activity_context import ActivityContext, Attempt
from .requests import Done

if TYPE_CHECKING:
    from .event_loop import EventLoopThread


class ActivityCode(NamedTuple):
    """An activity as it runs: timeouts in seconds, 0 for none; they hold where the call gave none."""

    name: str
    fn: Callable[..., Any]
    signature: Signature
    wants_context: bool
    is_async: bool
    timeout: float = 0.0
    heartbeat_timeout: float = 0.0


class Activities:
    """The activities of one worker that are queued or running."""

    def __init__(
        self,
        find: Callable[[str], ActivityCode | None],
        report: Callable[[Done], None],
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
        self._queue: SimpleQueue[Invocation | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0  # sync ones that are queued or running; a thread for each, up to `size`
        self._lock = threading.Lock()
        self._attempts: dict[str, _Attempt] = {}
        self._deadlines = Deadlines()
        self._event_loop: EventLoopThread | None = None

    def run(self, invocations: Sequence[Invocation]) -> None:
        """Queue these; each ends as one `Done`."""
        sync = 0
        for invocation in invocations:
            if invocation.row_key in self._attempts:
                continue  # it runs here already, under an older lease; a second run would cancel out both outcomes
            self._attempts[invocation.row_key] = _Attempt(invocation)
            code = self._find(invocation.name)
            if code is not None and code.is_async:
                self._run_async(invocation)
            else:
                self._queue.put(invocation)
                sync += 1
        if sync:
            self._spawn(sync)

    def cancel(self, row_keys: Iterable[str]) -> None:
        """Nobody waits for these any more."""
        for key in row_keys:
            attempt = self._attempts.pop(key, None)
            if attempt is not None:
                attempt.abandon()

    def halt(self) -> list[str]:
        """Forget what has not started; return its row keys."""
        keys = []
        while True:
            try:
                invocation = self._queue.get_nowait()
            except Empty:
                break
            if invocation is not None and self._attempts.pop(invocation.row_key, None) is not None:
                keys.append(invocation.row_key)
        for key, attempt in list(self._attempts.items()):
            if attempt.task is not None and attempt.started_at is None and self._attempts.pop(key, None) is not None:
                attempt.abandon()
                keys.append(key)
        return keys

    def close(self) -> None:
        """Stop the threads that are idle; running ones end with their activity (they are daemons)."""
        for attempt in list(self._attempts.values()):
            attempt.abandon()
        for _ in self._threads:
            self._queue.put(None)
        self._deadlines.close()
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
                self._threads.append(thread)
                thread.start()

    def _work(self) -> None:
        while True:
            invocation = self._queue.get()
            if invocation is None:
                return
            attempt = self._attempts.get(invocation.row_key)
            event = None if attempt is None else self._call(attempt)
            with self._lock:  # before the report, which brings the next one: that one is for this thread
                self._open -= 1
            if attempt is not None and event is not None:
                self._finish(attempt, event)

    def _call(self, attempt: _Attempt) -> Event:
        try:
            code, args = self._prepare(attempt)
            return self._completed(attempt, code.fn(*args))
        except BaseException as error:  # law 4: SystemExit from an activity must not end the thread either
            return self._failed(attempt, error)

    # ---- async activities

    def _run_async(self, invocation: Invocation) -> None:
        if self._event_loop is None:
            from .event_loop import EventLoopThread  # most workers never need it

            self._event_loop = EventLoopThread(self._size)
        attempt = self._attempts[invocation.row_key]
        attempt.task = self._event_loop.submit(lambda: self._call_async(attempt))

    async def _call_async(self, attempt: _Attempt) -> None:
        if attempt.row_key not in self._attempts:
            return
        try:
            code, args = self._prepare(attempt)
            made: Coroutine[Any, Any, Any] = code.fn(*args)
            event = self._completed(attempt, await made)
        except BaseException as error:  # law 4; a cancellation by our own timeout is ignored by `_finish`
            event = self._failed(attempt, error)
        self._finish(attempt, event)

    # ---- one attempt

    def _prepare(self, attempt: _Attempt) -> tuple[ActivityCode, tuple[Any, ...]]:
        invocation = attempt.invocation
        code = self._find(invocation.name)
        if code is None:
            raise NonRetryableError(f"activity {invocation.name!r} was unregistered before it could run")
        timeout = invocation.timeout or code.timeout
        attempt.heartbeat_timeout = invocation.heartbeat_timeout or code.heartbeat_timeout
        attempt.started_at = time.monotonic()
        if timeout:
            key = attempt.row_key  # a deadline may lie far ahead: it must not keep the input alive
            self._deadlines.at(attempt.started_at + timeout, lambda: self._time_out(key, timeout))
        args = code.signature.decode_input(invocation.input, f"the input of activity {code.name!r}")
        if code.wants_context:
            return code, (self._context(attempt), *args)
        return code, args

    def _context(self, attempt: _Attempt) -> ActivityContext:
        attempt.on_first_beat = lambda: self._watch_heartbeat(attempt)
        return ActivityContext(attempt, lambda: self._client)

    def _watch_heartbeat(self, attempt: _Attempt) -> None:
        if attempt.heartbeat_timeout:
            key = attempt.row_key
            self._deadlines.at(attempt.last_beat + attempt.heartbeat_timeout, lambda: self._check_heartbeat(key))

    def _check_heartbeat(self, row_key: str) -> None:
        attempt = self._attempts.get(row_key)
        if attempt is None:
            return
        due = attempt.last_beat + attempt.heartbeat_timeout
        if due > time.monotonic():
            self._deadlines.at(due, lambda: self._check_heartbeat(row_key))
        else:
            self._end_late(attempt, f"sent no heartbeat for {attempt.heartbeat_timeout:g} s")

    def _time_out(self, row_key: str, seconds: float) -> None:
        attempt = self._attempts.get(row_key)
        if attempt is not None:
            self._end_late(attempt, f"ran longer than its timeout of {seconds:g} s")

    def _end_late(self, attempt: _Attempt, what: str) -> None:
        error = builtins.TimeoutError(f"activity {attempt.invocation.name!r} (attempt {attempt.number}) {what}")
        self._finish(attempt, self._failed(attempt, error))
        attempt.abandon()

    def _completed(self, attempt: _Attempt, value: Any) -> Event:
        invocation = attempt.invocation
        if hasattr(value, "cr_await"):
            value.close()
            raise TypeError(
                f"activity {invocation.name!r} returned a coroutine: make it, and what wraps it, `async def`"
            )
        result = encode(value, f"the result of activity {invocation.name!r}", self._limits)
        return Event(
            h.TASK_COMPLETED,
            self._clock(),
            task_id=invocation.task_id,
            attempt=invocation.attempt,
            result=result,
        )

    def _failed(self, attempt: _Attempt, error: BaseException) -> Event:
        invocation = attempt.invocation
        return Event(
            h.TASK_FAILED,
            self._clock(),
            task_id=invocation.task_id,
            attempt=invocation.attempt,
            result=NO_PAYLOAD,
            failure=failure_of(error),
        )

    def _finish(self, attempt: _Attempt, event: Event) -> None:
        if self._attempts.pop(attempt.row_key, None) is attempt:
            begun = attempt.started_at
            self._report(Done(attempt.invocation, event, 0.0 if begun is None else time.monotonic() - begun))


class _Attempt(Attempt):
    """One attempt of one activity in this process."""

    __slots__ = ("heartbeat_timeout", "invocation", "on_first_beat", "row_key", "started_at", "task")

    def __init__(self, invocation: Invocation) -> None:
        super().__init__(invocation.instance_id, invocation.execution_id, invocation.task_id, invocation.attempt)
        self.invocation = invocation
        self.row_key = invocation.row_key
        self.started_at: float | None = None
        self.heartbeat_timeout = 0.0
        self.on_first_beat: Callable[[], None] | None = None
        self.task: Any = None

    def beat(self, details: Any) -> None:
        first = not self.last_beat
        super().beat(details)
        if first and self.on_first_beat is not None:
            self.on_first_beat()

    def abandon(self) -> None:
        """Its outcome counts no more: tell the code, and cancel it where that is possible."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


def failure_of(error: BaseException) -> FailureDetails:
    """A result that is no JSON, or an input that does not fit, stays so at the next attempt."""
    failure = describe(error)
    if isinstance(error, PayloadError):
        return FailureDetails(
            failure.type,
            failure.message,
            failure.stack_trace,
            failure.cause,
            failure.properties,
            (*failure.hierarchy, "durable.NonRetryableError"),
        )
    return failure


class Deadlines:
    """Calls functions at moments of the monotonic clock, on one thread that exists only once it is needed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, moment: float, call: Callable[[], None]) -> None:
        with self._changed:
            self._count += 1
            heapq.heappush(self._heap, (moment, self._count, call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="durable-deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._closed:
                    return
                call = heapq.heappop(self._heap)[2]
            try:
                call()
            except Exception:  # one broken callback must not end all deadlines
                logging.getLogger("durable.worker").exception("a deadline's callback failed")
