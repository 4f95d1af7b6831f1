"""Who is told of a transport's trouble: the same on every transport."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from durable.ports import Trouble

Watch = Callable[[Trouble], None]


class Watchers:
    """Safe to use from several threads; `where` is named when one of them raises, which hurts nobody else."""

    def __init__(self, where: object, log: logging.Logger) -> None:
        self._where = where
        self._log = log
        self._lock = threading.Lock()
        self._calls: dict[object, Watch] = {}

    def watch(self, call: Watch) -> Callable[[], None]:
        """Call this at each trouble; returns how to stop that."""
        token = object()  # the same callable may watch twice
        with self._lock:
            self._calls[token] = call

        def stop() -> None:
            with self._lock:
                self._calls.pop(token, None)

        return stop

    def tell(self, trouble: Trouble) -> None:
        """Call everybody, on this thread."""
        with self._lock:
            calls = tuple(self._calls.values())
        for call in calls:
            try:
                call(trouble)
            except Exception:  # the watcher's mistake must not end the thread that receives or repairs
                self._log.exception("a watcher of %s raised", self._where)
