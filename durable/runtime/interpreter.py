"""How the interpreter runs while a worker does: set for the first one in the process, set back after the last.

Thousands of waiting generators are no garbage, but the collector looks at each of them again and again: looking less
often gives a fifth more throughput.

A thread that computes in Python lets others in only when they have waited for a switch interval, and the engine has to
ask again after each statement. With Python's 5 ms one such activity slows the engine to a fifth. So the interval is
short while the engine waits, and longer while it computes, when the others would ask: thus it keeps about half its
speed, all that one of two threads can have of one interpreter (tests/benchmarks/busy_thread.py).

Who waits for the interpreter goes by the interval that was set when it began to wait, or when somebody last let go. The
thread that computed began just before the engine could set the longer one: so the engine lets go at once after that,
for less time than anybody needs to wake up.
"""

from __future__ import annotations

import gc
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Final

COLLECT_EVERY: Final = (20_000, 20, 100)
WAITING: Final = 0.0002  # seconds: how soon the engine is let in
COMPUTING: Final = 0.002  # seconds: how soon the others are

_LET_GO: Final = bytes(5_200)  # just more than zlib takes without letting others in: a microsecond's work

_lock = threading.Lock()
_workers = 0
_adapts = False
_undo: list[Callable[[], None]] = []


def tuned() -> Callable[[], None]:
    """A worker begins; returns what to call, once, at its end. Whoever has set less himself keeps that."""
    global _workers
    with _lock:
        _workers += 1
        if _workers == 1:
            _undo[:] = [_relax_collector(), _adapt_switching()]
    return _one_less


def waits() -> None:
    """The engine is about to ask a store, or for news, and will want to go on when that has come."""
    if _adapts:
        sys.setswitchinterval(WAITING)


def computes() -> None:
    """It goes on."""
    if _adapts:
        sys.setswitchinterval(COMPUTING)
        zlib.crc32(_LET_GO)


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


def _adapt_switching() -> Callable[[], None]:
    global _adapts
    before = sys.getswitchinterval()
    if before <= COMPUTING:
        return lambda: None

    def set_back() -> None:
        global _adapts
        _adapts = False
        sys.setswitchinterval(before)

    _adapts = True
    waits()
    return set_back
