"""The thread that drives a loop: executes its requests on a real store, and sleeps until something arrives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from ..engine.step import created
from ..model.errors import StoreError, TransportError
from ..model.status import Summary
from ..ports import STATUS, Commit, Outcome, Signals, Store, Transport
from .activities import Activities
from .creations import Creations
from .event_sources import EventSources
from .interpreter import computes, waits
from .loop import Loop
from .requests import (
    Announce,
    Arrived,
    Begin,
    Cancel,
    Changed,
    Claim,
    Clear,
    Created,
    Declare,
    Deliver,
    Due,
    Emit,
    Ended,
    Finish,
    Halt,
    Load,
    News,
    Notify,
    Publish,
    Read,
    Receive,
    Run,
    Settle,
    Sources,
    Stands,
    Started,
    Taken,
    Wait,
)
from .watchdog import Watchdog

log = logging.getLogger("durable.worker")
_DRAINED_AT_ONCE = 2_000
_FEW = 32
_LINGER = 0.001  # seconds


class EngineThread:
    """One loop on one thread. `tell` may be called from any thread; `join` waits for the drain."""

    def __init__(
        self,
        loop: Loop,
        store: Store,
        signals: Signals,
        activities: Activities,
        transport: Transport | None,
        event_sources: EventSources,
        watchdog: Watchdog,
        ended: Callable[[Sequence[Summary]], None],
        died: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._died = died
        self._inbox: SimpleQueue[News] = SimpleQueue()
        self._creations = Creations(self.tell)
        self._idle = False
        self._ended = False
        self._watchdog = watchdog
        self._answers: dict[type, Callable[[Any], Any]] = {
            Load: lambda r: store.load(r.wants),
            Begin: lambda r: self._begin(r.commits),
            Finish: lambda r: self._finish(),
            Deliver: lambda r: store.deliver(r.facts),
            Claim: lambda r: store.lease(r.leases),
            Read: lambda r: store.rows(r.keys),
            Stands: lambda r: store.summaries(r.instance_ids),
            Due: lambda r: store.due(r.partition, r.group, r.until, r.limit, r.after),
            Clear: lambda r: store.clear(r.partition, r.limit),
            Run: lambda r: activities.run(r.invocations),
            Cancel: lambda r: activities.cancel(r.row_keys),
            Halt: lambda r: activities.halt(),
            Notify: lambda r: signals.notify(r.topic, r.instance_ids),
            Changed: lambda r: signals.notify(STATUS, r.instance_ids, here_only=store.tells),
            Ended: lambda r: ended(r.summaries),
            Created: lambda r: self._creations.created(r.outcomes),
            Sources: lambda r: event_sources.serve(r.wanted),
            Taken: lambda r: event_sources.ack(r.tags),
            Emit: lambda r: event_sources.publish(r.source, r.bodies),
            Wait: lambda r: self._wait(r.seconds),
        }
        if transport is not None:
            self._answers |= _answers_of(transport, self.tell)
        self._begin_commit = store.begin
        self._finish: Callable[[], list[Outcome]] = list
        self._thread = threading.Thread(target=self._run, name="durable-engine", daemon=True)

    def start(self) -> None:
        """Begin; what was told before waits."""
        self._thread.start()

    def tell(self, news: News) -> None:
        """Something has happened. Nobody hears it once the loop has ended."""
        if not self._ended:
            self._inbox.put(news)

    def create(self, commits: Sequence[Commit]) -> dict[str, Outcome]:
        """Create instances, each with its first turn in one commit. Left out are those that are not for this loop, and
        one alone unless the loop is at rest."""
        if threading.current_thread() is self._thread:
            return {}  # code that runs on it can't wait for it
        if len(commits) == 1 and not self._idle:
            return {}  # it would wait for a whole round, and is faster by itself
        mine = [commit for commit in commits if self.serves(commit.summary)]
        return self._creations.create(mine) if mine else {}

    def created(self, commits: Sequence[Commit]) -> list[str]:
        """Begin with instances that were just created; the ids of those that are not for this loop."""
        mine = [created(commit) for commit in commits if self.serves(commit.summary)]
        if mine:
            self.tell(Started(mine))
        return [commit.instance_id for commit in commits if not self.serves(commit.summary)]

    def serves(self, summary: Summary) -> bool:
        """Whether this loop takes the turns of this instance. May be called from any thread."""
        return self._loop.turns.serves(summary)

    def join(self) -> None:
        """Wait for the end of the drain."""
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._watchdog.watch_this_thread()
            self._drive()
        except BaseException as error:  # a bug of ours; the worker must say so instead of standing still in silence
            log.exception("the engine stopped; nothing is lost, restart the worker")
            self._died(error)
        finally:
            self._ended = True
            self._loop.turns.let_all_go()
            self._creations.close()
            self._watchdog.close()

    def _drive(self) -> None:
        requests = self._loop.run()
        answers = self._answers
        request = next(requests)
        while True:
            waits()
            try:
                answer = answers[type(request)](request)
            except StoreError as error:
                answer = error
            computes()
            try:
                request = requests.throw(answer) if isinstance(answer, StoreError) else requests.send(answer)
            except StopIteration:
                return

    def _begin(self, commits: Sequence[Commit]) -> None:
        self._finish = self._begin_commit(commits)

    def _wait(self, seconds: float) -> list[News]:
        inbox = self._inbox
        news: list[News] = []
        crowded = not inbox.empty()
        try:
            if seconds <= 0:
                news.append(inbox.get_nowait())
            else:
                self._idle = True
                try:
                    news.append(inbox.get(timeout=min(seconds, threading.TIMEOUT_MAX)))
                finally:
                    self._idle = False
            if crowded and isinstance(news[0], Started) and inbox.qsize() < _FEW:
                # Starts come faster than rounds: each commits by itself, so leave them the disk for a moment.
                time.sleep(_LINGER)
            while len(news) < _DRAINED_AT_ONCE:
                news.append(inbox.get_nowait())
        except Empty:
            pass
        return news


def _answers_of(transport: Transport, tell: Callable[[News], None]) -> dict[type, Callable[[Any], Any]]:
    def declare(request: Declare) -> list[bool]:
        try:
            return transport.declare(request.queues)
        except TransportError as error:
            log.warning("queues can't be made now, trying again: %s", error)
            return []

    def receive(request: Receive) -> list[bool] | None:
        wanted = {queue: prefetch for queue, prefetch in request.prefetch.items() if prefetch}
        try:
            for queue in request.prefetch if request.anew else request.prefetch.keys() - wanted.keys():
                transport.unsubscribe(queue, give_back=request.anew)
            made = transport.declare(list(wanted))
            for queue, prefetch in wanted.items():
                transport.subscribe(queue, prefetch, lambda deliveries: tell(Arrived(deliveries)))
        except TransportError as error:
            log.warning("nothing is received for now, trying again: %s", error)
            return None
        return made

    def settle(request: Settle) -> None:
        if request.done:
            transport.ack(request.done)
        if request.back:
            transport.requeue(request.back)
        if request.unreadable:
            transport.park(request.unreadable)

    return {
        Publish: lambda r: transport.publish(r.messages),
        Announce: lambda r: transport.announce(r.messages),
        Declare: declare,
        Receive: receive,
        Settle: settle,
    }
