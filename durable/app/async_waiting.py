"""Waiting on event loops: any number of coroutines wait, and one thread looks for all of them.

Laws.
1. Subscribe, read, wait: as in waiting.py, where it is also said when a wait is over.
2. All that changed in the meantime is read at once, not one by one; who waits costs a future, never a thread.
3. A coroutine that no longer waits (it has its answer, was cancelled, or its loop is gone) leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from ..model.errors import DurableError, TimeoutError
from ..model.moments import to_timedelta
from ..model.status import Summary
from ..ports import STATUS, Backend
from .waiting import ALONE, REREAD, Waits, found, late

log = logging.getLogger("durable.client")

_READ_TOGETHER: Final = 500


class _Waiter:
    """A coroutine that waits. summary: how it stood when it was last read."""

    __slots__ = ("blocked_ends", "future", "instance_id", "loop", "stop", "summary", "until")

    def __init__(self, instance_id: str, until: str, blocked_ends: bool) -> None:
        self.instance_id = instance_id
        self.until = until
        self.blocked_ends = blocked_ends
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Summary] = self.loop.create_future()
        self.summary: Summary | None = None
        self.stop: Callable[[], None] | None = None

    def tell(self, outcome: Summary | BaseException) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # its loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Summary | BaseException) -> None:
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class _Come(NamedTuple):
    waiter: _Waiter


class _Gone(NamedTuple):
    waiter: _Waiter


class _Late(NamedTuple):
    """Its time is up: it gets what one more look finds, or a TimeoutError."""

    waiter: _Waiter
    timeout: timedelta | float | None


class _Changed(NamedTuple):
    """Something happened to these."""

    instance_ids: Collection[str]


class _Close(NamedTuple):
    pass


_News = _Come | _Gone | _Late | _Changed | _Close


class AsyncWaits:
    """Everybody who waits through one AsyncClient, on whichever event loop."""

    def __init__(self, backend: Backend, waits: Waits) -> None:
        self._store = backend.store
        self._signals = backend.signals
        self._waits = waits
        self._news: SimpleQueue[_News] = SimpleQueue()
        self._waiting: dict[str, list[_Waiter]] = {}  # the thread's own, as is the next
        self._heard: list[_News] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        waits.watch(lambda instance_ids: self._news.put(_Changed(instance_ids)) if self._waiting else None)

    async def wait(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool
    ) -> Summary:
        """As `Waits.wait`; cancelling it leaves nothing behind."""
        seconds = None if timeout is None else to_timedelta(timeout, "timeout=").total_seconds()
        waiter = _Waiter(instance_id, until, blocked_ends)
        self._enter(waiter)
        try:
            done, _ = await asyncio.wait([waiter.future], timeout=seconds)
            if not done:
                self._news.put(_Late(waiter, timeout))
            return await waiter.future
        finally:
            waiter.future.cancel()  # a late answer is no error that nobody fetched
            self._news.put(_Gone(waiter))
            del waiter  # a cancelled task keeps this frame in its traceback

    def close(self) -> None:
        """Whoever still waits gets a RuntimeError. Returns when the thread has ended."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._news.put(_Close())
            thread.join()

    def _enter(self, waiter: _Waiter) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="durable-async-waits", daemon=True)
                self._thread.start()
            self._news.put(_Come(waiter))

    # ---- the thread

    def _serve(self) -> None:
        try:
            self._attend()
            why: BaseException = _closed()
        except Exception as error:  # a bug of ours: who waits must hear of it, and the next one finds a new thread
            log.exception("waiting broke off; nothing is lost")
            why = error
        with self._lock:
            self._thread = None
            self._end(why)

    def _attend(self) -> None:
        """Until it is to close."""
        reread = alone = 0.0
        while True:
            if not self._waiting:
                reread, alone = time.monotonic() + REREAD, time.monotonic() + ALONE
            news = self._heard = self._hear(min(reread, alone) if self._waiting else None)
            if any(isinstance(item, _Close) for item in news):
                return
            now = time.monotonic()
            changed = self._take(news)
            if now >= reread:
                reread, changed = now + REREAD, list(self._waiting)
            self._look(changed)
            self._give_up(news)
            news.clear()  # until something comes, this thread would keep them alive
            if now >= alone:
                alone = float("inf")  # said once, until nobody waits any more
                self._warn_if_alone()

    def _hear(self, until: float | None) -> list[_News]:
        """What has arrived, at most as much as is read together; nothing, when nothing comes before `until`."""
        news: list[_News] = []
        with suppress(Empty):
            news.append(self._news.get(timeout=None if until is None else max(0.0, until - time.monotonic())))
            while len(news) < _READ_TOGETHER:
                news.append(self._news.get_nowait())
        return news

    def _take(self, news: Sequence[_News]) -> list[str]:
        """Whom to look at."""
        come: dict[_Waiter, bool] = {}
        changed: dict[str, None] = {}
        for item in news:
            if isinstance(item, _Come):
                come[item.waiter] = True
            elif isinstance(item, _Gone):
                if not come.pop(item.waiter, False):  # else it has not even been looked at
                    self._remove(item.waiter)
            elif isinstance(item, _Late):
                changed[item.waiter.instance_id] = None
            elif isinstance(item, _Changed):
                changed.update((instance_id, None) for instance_id in item.instance_ids if instance_id in self._waiting)
        changed.update((waiter.instance_id, None) for waiter in self._admit(list(come)))
        return list(changed)

    def _admit(self, come: list[_Waiter]) -> list[_Waiter]:
        """Those who have to wait; who need not has the answer."""
        stay: list[_Waiter] = []
        for waiter, summary in self._read(come):
            if self._settled(waiter, summary):
                continue
            told = self._waits.told(summary, waiter.until, waiter.blocked_ends)
            try:
                waiter.stop = self._signals.listen(STATUS, self._listener(waiter), waiter.instance_id, here_only=told)
            except Exception as error:  # whatever it is, it belongs to who waits
                waiter.tell(error)
                continue
            self._waiting.setdefault(waiter.instance_id, []).append(waiter)
            stay.append(waiter)
        return stay

    def _listener(self, waiter: _Waiter) -> Callable[[Collection[str] | None], None]:
        changed = _Changed((waiter.instance_id,))
        return lambda _: self._news.put(changed)

    def _look(self, instance_ids: Sequence[str]) -> None:
        for first in range(0, len(instance_ids), _READ_TOGETHER):
            some = [w for i in instance_ids[first : first + _READ_TOGETHER] for w in self._waiting.get(i, ())]
            for waiter, summary in self._read(some):
                self._settled(waiter, summary)

    def _read(self, waiters: Sequence[_Waiter]) -> list[tuple[_Waiter, Summary]]:
        """How it stands; who waits for what does not exist, or can't be read, is told so."""
        ids = list(dict.fromkeys(waiter.instance_id for waiter in waiters))
        if not ids:
            return []
        try:
            summaries = dict(zip(ids, self._store.summaries(ids), strict=True))
        except Exception as error:  # whatever it is, it belongs to who waits
            for waiter in waiters:
                waiter.tell(error)
            return []
        there: list[tuple[_Waiter, Summary]] = []
        for waiter in waiters:
            try:
                there.append((waiter, found(waiter.instance_id, summaries[waiter.instance_id])))
            except DurableError as error:
                waiter.tell(error)
        return there

    def _settled(self, waiter: _Waiter, summary: Summary) -> bool:
        waiter.summary = summary
        try:
            over = self._waits.over(summary, waiter.until, waiter.blocked_ends)
        except DurableError as error:
            waiter.tell(error)
            return True
        if over:
            waiter.tell(summary)
        return over

    def _give_up(self, news: Sequence[_News]) -> None:
        for item in news:
            if isinstance(item, _Late) and item.waiter.summary is not None:  # None: it was told that there is none
                item.waiter.tell(TimeoutError(late(item.waiter.summary, item.timeout)))

    def _remove(self, waiter: _Waiter) -> None:
        stop, waiter.stop = waiter.stop, None
        if stop is None:
            return
        stop()
        rest = [other for other in self._waiting.get(waiter.instance_id, ()) if other is not waiter]
        if rest:
            self._waiting[waiter.instance_id] = rest
        else:
            self._waiting.pop(waiter.instance_id, None)

    def _warn_if_alone(self) -> None:
        waiter = next((one for some in self._waiting.values() for one in some), None)
        if waiter is not None and waiter.summary is not None:
            with suppress(DurableError):  # a store that can't be read is told to those who wait for it
                self._waits.warn_if_alone(waiter.summary)

    def _end(self, why: BaseException) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter in (waiter for some in waiting.values() for waiter in some):
            waiter.tell(why)
            if waiter.stop is not None:
                waiter.stop()
        left = self._heard  # whoever came with what ended this, and after it
        with suppress(Empty):
            while True:
                left.append(self._news.get_nowait())
        for item in left:
            if isinstance(item, _Come):
                item.waiter.tell(why)


def _closed() -> RuntimeError:
    return RuntimeError("this client has been closed")
