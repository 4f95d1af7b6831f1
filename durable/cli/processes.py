"""`durable worker --processes N`: N workers, each a process of its own, under one that only watches.

A worker that dies is started again, with a growing pause when it dies at once. SIGINT and SIGTERM reach all of them;
each drains, and this process ends when the last one has. When this process is killed, they see the end of a pipe and
drain too. The command line of a worker is this process's own, less `--processes`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

from .exits import Exit

_QUICK_DEATH: Final = 5.0  # seconds
_LONGEST_PAUSE: Final = 30.0
_KEPT: Final = "DURABLE_KEPT"


def end_with_keeper() -> None:
    """In a worker that a keeper started: drain when the keeper is gone, however it went."""
    if os.environ.pop(_KEPT, None):
        threading.Thread(target=_wait_for_the_end, name="durable-kept", daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(0, 1024):
        pass  # nothing is ever written; the end of the pipe is what counts
    os.kill(os.getpid(), signal.SIGTERM)


def serve_many(count: int, arguments: Sequence[str] | None = None) -> int:
    """Until a signal; the exit status is 0, or that of a worker whose command can't work (usage, store)."""
    own = without_processes(sys.argv[1:] if arguments is None else arguments)
    keeper = _Keeper([sys.executable, "-m", "durable", *own], count)
    before = {number: signal.signal(number, keeper.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return keeper.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without_processes(arguments: Sequence[str]) -> list[str]:
    """The arguments, but `--processes N` or `--processes=N`."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--processes":
            skip = True
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept


class _Keeper:
    """The workers, by place; a place is started again when its worker has ended."""

    def __init__(self, command: Sequence[str], count: int) -> None:
        self._command = command
        self._count = count
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._stopping = False
        self._ended = threading.Semaphore(0)
        self._pauses: dict[int, float] = {}
        self._since: dict[int, float] = {}
        self._lock = threading.Lock()

    def run(self) -> int:
        for place in range(self._count):
            self._start(place)
        status = int(Exit.DONE)
        while True:
            self._ended.acquire()
            with self._lock:
                ended = [(place, process) for place, process in self._running.items() if process.poll() is not None]
                for place, process in ended:
                    del self._running[place]
                    if process.returncode in (Exit.USAGE, Exit.STORE) and self._is_quick(place):
                        status = process.returncode  # none of them can work, and it has said why
                        self._stop(signal.SIGTERM)
                if self._stopping and not self._running:
                    return status
            for place, process in ended:
                if not self._stopping:
                    self._say(f"worker {place + 1} ended with status {process.returncode}; starting it again")
                    threading.Timer(self._pause(place), self._start, [place]).start()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        # A handler runs between two bytecodes of the main thread, which may hold the lock: leave it to another thread.
        threading.Thread(target=self._forward, args=(number,)).start()

    def _forward(self, number: int) -> None:
        with self._lock:
            self._stop(number)
        self._ended.release()

    def _stop(self, number: int) -> None:
        self._stopping = True
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(number)

    def _start(self, place: int) -> None:
        with self._lock:
            if self._stopping:
                self._ended.release()
                return
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which passes it on once.
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, start_new_session=True, env={**os.environ, _KEPT: "1"}
            )
            self._running[place] = process
            self._since[place] = time.monotonic()
        threading.Thread(target=self._wait, args=(process,), daemon=True).start()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ended.release()

    def _is_quick(self, place: int) -> bool:
        return time.monotonic() - self._since[place] < _QUICK_DEATH

    def _pause(self, place: int) -> float:
        pause = min(_LONGEST_PAUSE, 2 * self._pauses.get(place, 0.25)) if self._is_quick(place) else 0.0
        self._pauses[place] = pause
        return pause

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
