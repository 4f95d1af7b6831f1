"""Signals inside one process: whoever listens is called by whoever notifies, on the notifier's thread.

Laws.
1. Nobody listening costs one dict look-up: every turn notifies, hardly any turn has a waiter.
2. A listener that raises is logged and hurts nobody else; a signal is a hint, the store is the truth.
3. Who listens for one thing is a tuple that is replaced, never changed. The dicts are changed under the lock, and read
   by `notify` without one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from durable.ports import Topic

Wake = Callable[[Collection[str] | None], None]

log = logging.getLogger("durable.signals")


class LocalSignals:
    """`durable.ports.Signals` by plain calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[Topic, tuple[Wake, ...]] = {}
        # One dict per topic. Single get and set are atomic in CPython.
        self._one: dict[Topic, dict[str, tuple[Wake, ...]]] = {}
        self.listeners = 0

    def notify(self, topic: Topic, instance_ids: Collection[str], *, here_only: bool = False) -> None:
        if not instance_ids or not self.listeners:
            return
        for wake in self._all.get(topic, ()):
            call(wake, instance_ids)
        waiting = self._one.get(topic)
        if waiting:
            for instance_id in instance_ids:
                for wake in waiting.get(instance_id, ()):
                    call(wake, (instance_id,))

    def listen(
        self, topic: Topic, wake: Wake, instance_id: str | None = None, *, here_only: bool = False
    ) -> Callable[[], None]:
        with self._lock:
            self.listeners += 1
            if instance_id is None:
                self._all[topic] = (*self._all.get(topic, ()), wake)
            else:
                waiting = self._one.setdefault(topic, {})
                waiting[instance_id] = (*waiting.get(instance_id, ()), wake)
        stopped = False

        def stop() -> None:
            nonlocal stopped
            with self._lock:
                if stopped:
                    return
                stopped = True
                self.listeners -= 1
                if instance_id is None:
                    self._all[topic] = _without(self._all[topic], wake)
                else:
                    rest = _without(self._one[topic][instance_id], wake)
                    if rest:
                        self._one[topic][instance_id] = rest
                    else:
                        del self._one[topic][instance_id]

        return stop

    def wake_all(self) -> None:
        """Something changed, unknown what: every listener of every topic looks for itself."""
        with self._lock:
            wakes = [wake for some in self._all.values() for wake in some]
            wakes += [wake for waiting in self._one.values() for some in waiting.values() for wake in some]
        for wake in wakes:
            call(wake, None)


def with_others(
    stop_here: Callable[[], None], begin: Callable[[], None], end: Callable[[], None]
) -> Callable[[], None]:
    """Begin to hear of other processes too; what stops both, once. Where that can't begin, nothing is listened to."""
    try:
        begin()
    except BaseException:
        stop_here()
        raise
    stopped = threading.Lock()

    def stop() -> None:
        if stopped.acquire(blocking=False):
            stop_here()
            end()

    return stop


def call(wake: Wake, instance_ids: Collection[str] | None) -> None:
    """Call a listener; what it raises is logged."""
    try:
        wake(instance_ids)
    except Exception:  # a listener's mistake must not reach the worker that notifies
        log.exception("a listener for signals raised; it stays registered")


def _without(wakes: tuple[Wake, ...], gone: Wake) -> tuple[Wake, ...]:
    """`wakes` less one occurrence of `gone`; the same callable may listen twice."""
    index = wakes.index(gone)
    return wakes[:index] + wakes[index + 1 :]
