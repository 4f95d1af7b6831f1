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

from .local_signals import LocalSignals, Wake
from .sqlite_core import Core

LOOK_SECONDS: Final = 0.02  # one look costs about 5 µs

log = logging.getLogger("durable.sqlite")


class FileWatch:
    """Watches one core's file while there are listeners. Shared by everyone in the process who has the file open."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._signals: LocalSignals = core.signals
        self._lock = threading.Lock()
        self._users = 0
        self._stopping = threading.Event()

    def enter(self) -> Callable[[], None]:
        """One listener more; returns how to leave."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._stopping = threading.Event()
                arguments = (self._core.foreign_version(), self._stopping)
                threading.Thread(target=self._watch, args=arguments, name="durable-sqlite-watch", daemon=True).start()

        def leave() -> None:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._stopping.set()

        return leave

    def _watch(self, known: int, stopping: threading.Event) -> None:
        while not stopping.wait(LOOK_SECONDS):
            try:
                version = self._core.foreign_version()
            except StoreError as error:
                # Closed, deleted, damaged: listeners look for themselves and meet the error where it can be handled.
                log.info("no longer watching for other processes: %s", error)
                self._signals.wake_all()
                return
            if version != known:
                known = version
                self._signals.wake_all()


def listening(signals: LocalSignals, watch: FileWatch) -> type:  # pragma: no cover - replaced below
    raise NotImplementedError


__all__ = ["FileWatch", "Wake"]
