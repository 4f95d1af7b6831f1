"""Drives the real loop in the thread of whoever waits, on a clock that stands still until nothing is left to do."""

from __future__ import annotations

import heapq
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from ..backends.local_signals import LocalSignals
from ..backends.memory import MemoryStore, OneWorker
from ..engine.instance import Env, Invocation
from ..model import history as h
from ..model.history import NO_PAYLOAD, Event
from ..model.limits import Limits
from ..payload.values import encode
from ..ports import FACTS, STATUS, Membership, Outcome, Signals, Store, Topic
from ..replay.guard import Watch
from ..runtime import requests as ask
from ..runtime.activity_outcome import failure_of
from ..runtime.loop import Loop, Settings
from ..runtime.serving import Serving
from .stand_ins import Casting

_FOR_EVER: Final = 1e12  # seconds; no timer lies so far ahead
_TURNS_AT_ONCE: Final = 50_000  # of one orchestration at one moment; more is an endless loop


class StuckError(AssertionError):
    """The test waits for what can't come any more: no timer is set, nothing is running. Says what is waited for."""


class Clock:
    """now: aware UTC; never goes back."""

    def __init__(self, now: datetime) -> None:
        self.now = now


class _Store(MemoryStore):
    @property
    def groups(self) -> frozenset[str]:
        """Whose work is in it."""
        return frozenset(group for _, group in self._due)


class _Signals(LocalSignals):
    """heard: called for each fact, by whoever notifies, so that what goes wrong then is raised there."""

    heard: Callable[[Collection[str]], None]

    def notify(self, topic: Topic, instance_ids: Collection[str], *, here_only: bool = False) -> None:
        super().notify(topic, instance_ids)
        if topic == FACTS:
            self.heard(instance_ids)


class OwnBackend:
    """`durable.ports.Backend` of one environment."""

    def __init__(self) -> None:
        self.own_store = _Store()
        self.own_signals = _Signals()
        self.store: Store = self.own_store
        self.signals: Signals = self.own_signals
        self.membership: Membership = OneWorker()

    def close(self) -> None:
        self.store.close()


class _EveryQueue(tuple[str, ...]):
    """Of a worker that serves all there are."""

    def __contains__(self, queue: object) -> bool:
        return True


class Driver:
    """Executes the loop's requests in the thread of whoever waits."""

    def __init__(
        self,
        clock: Clock,
        backend: OwnBackend,
        casting: Casting,
        limits: Limits,
        cached: int,
        ids: count[int],
    ) -> None:
        self._clock = clock
        self._store = store = backend.own_store
        self._casting = casting
        self._limits = limits
        env = Env("environment", _FOR_EVER, lambda: f"{next(ids):032x}", store.partitions, limits, Watch())
        settings = Settings(window=_FOR_EVER, sweep=_FOR_EVER, cached=cached)
        serving = Serving(queues=_EveryQueue(("default",)), slots=2**31)
        self._requests = Loop(env, casting, lambda: clock.now, settings, serving, casting.functions).run()
        self._pending: Any = next(self._requests)
        self._news: list[ask.News] = []
        self._groups: frozenset[str] = frozenset()
        self._queue: deque[Invocation] = deque()
        self._slow: list[
            tuple[datetime, int, Invocation, float]
        ] = []  # when it ends, its number, and its timeout if late
        self._numbers = count()
        self._turns: Counter[str] = Counter()
        self._finish: Callable[[], list[Outcome]] = list
        self._busy = False  # the loop, or one of its requests, is running
        self._running = False  # an activity is
        self._lock = threading.RLock()
        self._answers: dict[type, Callable[[Any], Any]] = {
            ask.Load: lambda r: store.load(r.wants),
            ask.Begin: self._begin_commit,
            ask.Finish: lambda r: self._finish(),
            ask.Deliver: lambda r: store.deliver(r.facts),
            ask.Claim: lambda r: store.lease(r.leases),
            ask.Read: lambda r: store.rows(r.keys),
            ask.Stands: lambda r: store.summaries(r.instance_ids),
            ask.Due: lambda r: store.due(r.partition, r.group, r.until, r.limit, r.after),
            ask.Clear: lambda r: store.clear(r.partition, r.limit),
            ask.Run: lambda r: self._queue.extend(r.invocations),
            ask.Cancel: self._cancel,
            ask.Ended: lambda r: None,  # the client reads them
            ask.Changed: lambda r: backend.signals.notify(STATUS, r.instance_ids),
            ask.Notify: lambda r: backend.signals.notify(r.topic, r.instance_ids),
        }

    # ---- told

    def hinted(self, instance_ids: Collection[str]) -> None:
        """A client has put something into the store: do what follows, unless something is being done already."""
        with self._lock:
            self._news.append(ask.Hint(instance_ids))
            if not self._busy and not self._running:
                self.settle()

    def code_changed(self) -> None:
        with self._lock:
            self._news.append(ask.CodeChanged())

    # ---- time

    def settle(self) -> None:
        """Do everything that is due."""
        with self._lock:
            while self._go_on():
                pass

    def jump(self, limit: datetime | None) -> bool:
        """Time goes to the next thing that is due, but not past `limit`, and it is done; whether there was any.

        All in one go: another thread that waits must not find the loop half way.
        """
        with self._lock:
            now, seconds = self._clock.now, self._pending.seconds
            # The loop counts in floats, which are wrong by less than a microsecond; time must move all the same.
            target = now + max(timedelta(seconds=seconds), timedelta.resolution) if seconds < _FOR_EVER / 2 else None
            if self._slow and (target is None or self._slow[0][0] < target):
                target = self._slow[0][0]
            if target is None or (limit is not None and target > limit):
                if limit is not None:
                    self._move_to(limit)
                    self._answer([])  # how long the loop sleeps was counted from another moment
                    self.settle()
                return False
            self._move_to(target)
            while self._slow and self._slow[0][0] <= target:
                _, _, invocation, late = heapq.heappop(self._slow)
                self._end(invocation, late)
            self._answer([])
            self.settle()
            return True

    def advance(self, duration: timedelta) -> None:
        """Time goes by, and all that comes due on the way is done."""
        with self._lock:
            limit = self._clock.now + duration
            self.settle()
            while self.jump(limit):
                pass

    def _move_to(self, moment: datetime) -> None:
        self._clock.now = max(self._clock.now, moment)
        self._turns.clear()

    # ---- the loop's requests

    def _go_on(self) -> bool:
        """One step; False when only time can bring the next one."""
        request = self._pending
        if type(request) is not ask.Wait:
            self._busy = True
            try:
                answer = self._answers[type(request)](request)
            finally:
                self._busy = False
            self._answer(answer)
            return True
        groups = self._store.groups
        if not groups <= self._groups:
            self._groups |= groups
            owned = [(group, number) for group in sorted(self._groups) for number in range(self._store.partitions)]
            self._news.append(ask.Assigned(owned, {"environment"}))
        if self._queue and not self._news and request.seconds > 0:
            self._begin(self._queue.popleft())  # the code it runs may wait, and so come back here
        elif self._news or request.seconds <= 0:
            news, self._news = self._news, []
            self._answer(news)
        else:
            return False
        return True

    def _answer(self, answer: Any) -> None:
        self._busy = True
        try:
            self._pending = self._requests.send(answer)
        finally:
            self._busy = False

    def _begin_commit(self, request: ask.Begin) -> None:
        for commit in request.commits:
            self._turns[commit.instance_id] += 1
            if self._turns[commit.instance_id] > _TURNS_AT_ONCE:
                raise StuckError(
                    f"orchestration {commit.instance_id!r} had {_TURNS_AT_ONCE:,} turns without any time going by: "
                    "does it continue as new, or call activities, in an endless loop without a timer?"
                )
        self._finish = self._store.begin(request.commits)

    def _cancel(self, request: ask.Cancel) -> None:
        gone = set(request.row_keys)
        self._queue = deque(invocation for invocation in self._queue if invocation.row_key not in gone)
        self._slow = [item for item in self._slow if item[2].row_key not in gone]
        heapq.heapify(self._slow)

    # ---- activities

    def _begin(self, invocation: Invocation) -> None:
        try:
            takes, timeout = self._casting.begin(invocation)
        except Exception as error:  # an input that does not fit its types
            self._report(invocation, error=error)
            return
        if not takes:
            self._end(invocation, 0.0)
            return
        late = timeout if timeout and takes > timeout else 0.0
        ends = self._clock.now + timedelta(seconds=late or takes)
        heapq.heappush(self._slow, (ends, next(self._numbers), invocation, late))

    def _end(self, invocation: Invocation, late: float) -> None:
        if late:
            self._report(invocation, error=self._casting.late(invocation, late))
            return
        held, self._running = self._running, True
        try:
            value = self._casting.run(invocation)
            result = encode(value, f"the result of activity {invocation.name!r}", self._limits)
        except (Exception, SystemExit) as error:  # as a worker would; what ends a test (pytest's own) goes up
            self._report(invocation, error=error)
        else:
            self._report(invocation, result)
        finally:
            self._running = held

    def _report(self, invocation: Invocation, result: Any = NO_PAYLOAD, error: BaseException | None = None) -> None:
        event = Event(
            h.TASK_COMPLETED if error is None else h.TASK_FAILED,
            self._clock.now,
            task_id=invocation.task_id,
            attempt=invocation.attempt,
            result=result,
            failure=None if error is None else failure_of(error),
        )
        self._news.append(ask.Done(invocation, event))

    def close(self) -> None:
        with self._lock:
            self._requests.close()
