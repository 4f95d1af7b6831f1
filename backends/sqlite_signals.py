"""Signals between processes that share a SQLite file: no message travels, the file itself says that it changed.

Laws.
1. In this process listeners are called directly. A thread watches for other processes, only while somebody listens.
2. A change by another process wakes all, with None: the file says that, not what. This process's own writes don't.
3. The first look is taken before `listen` returns, so no foreign change after it is missed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from durable.model.errors import StoreError
from durable.ports import Topic

from .local_signals import LocalSignals, Wake, with_others

LOOK_SECONDS: Final = 0.02  # one look costs about 5 µs
TROUBLE_SECONDS: Final = 1.0

log = logging.getLogger("durable.sqlite")


class FileSignals(LocalSignals):
    """`LocalSignals`, and a watch on the file. `look` returns a number that changes when another process wrote."""

    def __init__(self, look: Callable[[], int]) -> None:
        super().__init__()
        self._look = look
        self._watch_lock = threading.Lock()
        self._watchers = 0
        self._stopping = threading.Event()

    def listen(
        self, topic: Topic, wake: Wake, instance_id: str | None = None, *, here_only: bool = False
    ) -> Callable[[], None]:
        stop_here = super().listen(topic, wake, instance_id)
        if here_only:
            return stop_here
        return with_others(stop_here, self._enter, self._leave)

    def _enter(self) -> None:
        with self._watch_lock:
            if self._watchers == 0:
                self._stopping = threading.Event()
                thread = threading.Thread(
                    target=self._watch, args=(self._look(), self._stopping), name="durable-sqlite-watch", daemon=True
                )
                thread.start()
            self._watchers += 1

    def _leave(self) -> None:
        with self._watch_lock:
            self._watchers -= 1
            if self._watchers == 0:
                self._stopping.set()

    def _watch(self, known: int | None, stopping: threading.Event) -> None:
        pause = LOOK_SECONDS
        while not stopping.wait(pause):
            try:
                version: int | None = self._look()
                pause = LOOK_SECONDS
            except StoreError as error:
                if stopping.is_set():
                    return  # closed while it looked
                # Deleted, damaged, locked: listeners look for themselves and meet the error where it can be handled.
                log.warning("can't watch for other processes: %s", error)
                version, pause = None, TROUBLE_SECONDS
            if version != known or version is None:
                known = version
                self.wake_all()

    def close(self) -> None:
        """Stop watching; listeners that are left hear of this process only."""
        self._stopping.set()
