"""How the interpreter runs while a worker does: set for the first one in the process, set back after the last.

Thousands of waiting generators are no garbage, but the collector looks at each of them again and again: looking less
often gives a fifth more throughput.

A thread that computes in Python lets others in only when they have waited for a switch interval, and the engine has to
ask again after each statement. With Python's 5 ms one such activity slows the engine to a fifth. With 0.3 ms it keeps
half its speed, all that one of two threads can have of one interpreter, and alone it loses a thirtieth
(tests/benchmarks/busy_thread.py). Less costs more than it gives: all who wait ask that often.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from typing import Final

COLLECT_EVERY: Final = (20_000, 20, 100)
SWITCH_EVERY: Final = 0.0003  # seconds

_lock = threading.Lock()
_workers = 0
_undo: list[Callable[[], None]] = []


def tuned() -> Callable[[], None]:
    """A worker begins; returns what to call, once, at its end. Whoever has set less himself keeps that."""
    global _workers
    with _lock:
        _workers += 1
        if _workers == 1:
            _undo[:] = [_relax_collector(), _switch_often()]
    return _one_less


def _one_less() -> None:
    global _workers
    with _lock:
        _workers -= 1
        if _workers == 0:
            while _undo:
                _undo.pop()()


def _relax_collector() -> Callable[[], None]:
    before = gc.get_threshold()
    if before[0] >= COLLECT_EVERY[0] or not gc.isenabled():
        return lambda: None
    gc.set_threshold(*COLLECT_EVERY)
    return lambda: gc.set_threshold(*before)


def _switch_often() -> Callable[[], None]:
    before = sys.getswitchinterval()
    if before <= SWITCH_EVERY:
        return lambda: None
    sys.setswitchinterval(SWITCH_EVERY)
    return lambda: sys.setswitchinterval(before)
