"""Waiting for an orchestration: subscribe, read, sleep; again when a signal comes, and now and then without one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from ..model import history as h
from ..model.errors import DurableError, TimeoutError, not_found
from ..model.moments import to_timedelta
from ..model.status import RuntimeStatus, Summary
from ..payload.codec import shown
from ..ports import STATUS, Backend, ExecutionKey, Store
from .diagnosis import living
from .sealing import outline_of

log = logging.getLogger("durable.client")

REREAD: Final = 5.0  # a signal is a hint and may be lost; reading again now and then makes a wait right
HERE_FIRST: Final = 0.05  # in which a worker here mostly is done: to hear of others takes a thread or a subscription
REMEMBERED: Final = 10_000  # starts; what is forgotten is read
SMALL: Final = 4_096  # bytes; a larger output is read when somebody asks for it, and most often nobody does
_BEGINNING: Final = 100  # stored turns: of one that has begun the first ones say so
ALONE: Final = 2.0  # seconds after which somebody who waits is told that nobody works


class Waits:
    """Everybody in this process who waits for something of one store."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store
        self._outline = outline_of(backend)
        self._signals = backend.signals
        self._membership = backend.membership
        self._addresses: set[str] = set()
        self._dead: BaseException | None = None
        self._served_here: Callable[[Summary], bool] = lambda _: False
        self._waiting: dict[str, list[threading.Event]] = {}
        self._started: dict[str, datetime] = {}  # the newest ones, by instance id
        self._ends: dict[str, Summary] = {}  # how these completed
        self._watching: list[Callable[[Collection[str]], None]] = []
        self._lock = threading.Lock()

    def watch(self, call: Callable[[Collection[str]], None]) -> None:
        """Call this with whatever `wake` is called with."""
        self._watching.append(call)

    def wake(self, instance_ids: Collection[str]) -> None:
        """Something happened to these."""
        with self._lock:
            for instance_id in instance_ids:
                for changed in self._waiting.get(instance_id, ()):
                    changed.set()
        for call in self._watching:
            call(instance_ids)

    def remember(self, instance_ids: Sequence[str], since: datetime) -> None:
        """These were started here: once `ended` says that one is complete, its result need not be read.

        since: when that was. What was there before, under the same id, is none of its business.
        """
        with self._lock:
            for instance_id in instance_ids[-REMEMBERED:]:
                self._forget(instance_id)
                self._started[instance_id] = since
            for instance_id in list(islice(self._started, max(0, len(self._started) - REMEMBERED))):
                self._forget(instance_id)

    def forget(self, instance_id: str) -> None:
        """It was purged or replaced, or its end was told, and another process may begin another life of it: what is
        known of its end, or is told late, counts no more."""
        with self._lock:
            self._forget(instance_id)

    def _forget(self, instance_id: str) -> None:
        self._started.pop(instance_id, None)
        self._ends.pop(instance_id, None)

    def ended(self, summaries: Sequence[Summary]) -> None:
        """These were committed by a worker on this client. A failure is read each time: it may be mended meanwhile."""
        with self._lock:
            for summary in summaries:
                since = self._started.get(summary.instance_id)
                if (
                    since is not None
                    and summary.status is RuntimeStatus.COMPLETED
                    and summary.created_at >= since
                    and len(summary.output) <= SMALL
                ):
                    self._ends[summary.instance_id] = summary

    def told_at(self, address: str) -> None:
        """`wake` will be called for the ends of what was started with this reply address."""
        self._addresses.add(address)

    def served_by(self, serves: Callable[[Summary], bool]) -> None:
        """From now on the worker in this process, of which this says what it serves, wakes who waits for that."""
        self._dead = None
        self._served_here = serves
        self.wake(list(self._waiting))

    def worker_died(self, error: BaseException) -> None:
        """The worker in this process ended by `error`."""
        self._dead = error
        self.wake(list(self._waiting))

    def wait(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool, own: bool = False
    ) -> Summary:
        """own: of what the one who asks has started; how that ended may be known already, and is not read then.

        Raises durable.TimeoutError, InstanceNotFoundError, and DurableError when the worker here has died.
        """
        deadline = None
        if timeout is not None:
            deadline = time.monotonic() + to_timedelta(timeout, "timeout=").total_seconds()
        known = self._ends.get(instance_id) if own else None
        if known is not None:
            self.forget(instance_id)
            return known
        changed = threading.Event()

        def wake(_: Collection[str] | None) -> None:
            changed.set()

        # Whoever listens, then reads, then waits, misses nothing. This process is listened to first: that is all it
        # takes when the answer is there already, and for an end of which the broker tells whoever started it.
        stop = self._signals.listen(STATUS, wake, instance_id, here_only=True)
        self._enter(instance_id, changed)
        everywhere = hurried = False
        patience = ALONE
        try:
            while True:
                changed.clear()
                known = self._ends.get(instance_id) if own else None
                summary = found(instance_id, known or self._summary(instance_id))
                if self.over(summary, until, blocked_ends):
                    if summary.status.finished:
                        self.forget(instance_id)
                    return summary
                told = everywhere or self.told(summary, until, blocked_ends)
                if not told and (hurried or not self._served_here(summary)):
                    everywhere = True
                    stop()
                    stop = self._signals.listen(STATUS, wake, instance_id)
                    continue
                left = REREAD if deadline is None else min(REREAD, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(late(summary, timeout))
                if changed.wait(min(left, patience if told else HERE_FIRST)):
                    continue
                if not told:
                    hurried = True
                elif patience is ALONE:
                    patience = REREAD
                    self.warn_if_alone(summary)
        finally:
            self._leave(instance_id, changed)
            stop()

    def told(self, summary: Summary, until: str, blocked_ends: bool) -> bool:
        """Whether the broker will tell of what is waited for: of the end of what was started here, and nothing else.
        Then the store need not be asked to tell too."""
        return until == "finished" and not blocked_ends and summary.reply_to in self._addresses

    def over(self, summary: Summary, until: str, blocked_ends: bool) -> bool:
        """Whether the wait is. Raises DurableError when nobody here will go on with what is waited for, StoreError."""
        if reached(self._outline, summary, until, blocked_ends):
            return True
        if self._dead is not None:
            raise DurableError(
                f"orchestration {summary.instance_id!r} is {summary.status}, and the worker in this process has "
                "stopped by an error of its own (see the log). Nothing is lost: start a worker, and it goes on"
            ) from self._dead
        return False

    def warn_if_alone(self, summary: Summary) -> None:
        """A program that waits for what nobody will do would otherwise stand still in silence."""
        if not living(self._membership.members()):
            log.warning(
                "orchestration %r is %s, and no worker serves this store: use `with durable.Worker():` around the "
                "wait, or start `durable worker MODULE`",
                summary.instance_id,
                summary.status,
            )

    def _enter(self, instance_id: str, changed: threading.Event) -> None:
        with self._lock:
            self._waiting.setdefault(instance_id, []).append(changed)

    def _leave(self, instance_id: str, changed: threading.Event) -> None:
        with self._lock:
            self._waiting[instance_id].remove(changed)
            if not self._waiting[instance_id]:
                del self._waiting[instance_id]

    def _summary(self, instance_id: str) -> Summary | None:
        return self._store.summaries([instance_id])[0]


def check_until(until: object) -> None:
    """Raises ValueError for what no wait can wait for."""
    if until not in ("finished", "started"):
        raise ValueError(f"until={until!r}: give 'finished' or 'started'")


def found(instance_id: str, summary: Summary | None) -> Summary:
    """Raises InstanceNotFoundError."""
    if summary is None:
        raise not_found("wait", instance_id)
    return summary


def late(summary: Summary, timeout: timedelta | float | None) -> str:
    """What a TimeoutError says."""
    waited = f"{timeout:g} s" if isinstance(timeout, int | float) else str(timeout)
    what = f"orchestration {summary.instance_id!r} is {summary.status} after {waited}"
    if summary.status is RuntimeStatus.BLOCKED:
        return f"{what}: {shown(summary.blocked_reason)}. It goes on under a worker whose code fits"
    return f"{what}; it is not lost, and goes on while a worker runs that serves it"


def reached(store: Store, summary: Summary, until: str, blocked_ends: bool) -> bool:
    """Whether it is as far as somebody waits for. Raises StoreError."""
    if summary.status.finished or (blocked_ends and summary.status is RuntimeStatus.BLOCKED):
        return True
    if until != "started" or summary.status is RuntimeStatus.PENDING:
        return False
    return summary.status is not RuntimeStatus.SUSPENDED or _begun(store, summary)


def _begun(store: Store, summary: Summary) -> bool:
    """The status of one that is suspended does not say whether it has begun before."""
    rows = store.history(ExecutionKey(summary.instance_id, summary.execution_id), 0, _BEGINNING)
    events = (event for _, row in rows.items for event in h.decode_events(row))
    return any(event.type == h.ORCHESTRATOR_STARTED or event.previous for event in events)
