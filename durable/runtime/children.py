"""The child processes in which a worker's CPU-bound activities run (`executor="process"`).

Laws.
1. A child runs one activity at a time and is kept for the next one; there are at most as many as activities at once.
2. It is a fresh interpreter (never a fork of this one, which has threads), and leads a process group of its own.
3. A child that dies fails the attempt it was running, and no other; the next one gets a new child. Where it died
   before the activity began, because it had been killed while it was idle, another one takes the attempt.
4. Only the attempt that it is running can have a child killed: who comes too late does nothing.
5. A child is told of a cancellation once it has begun. Before, it may not even read yet what it is to run, and who
   cancels or kills never waits for that.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import Pipe
from typing import Final, Protocol

from ..model.limits import Limits
from .child_messages import (
    Beat,
    Began,
    Call,
    Cancelled,
    Logged,
    Order,
    Raised,
    Report,
    Returned,
    Setup,
    decode_report,
    encode_message,
)

# The client is what this room knows nothing of, so that the program brings it; `durable` loads it when it is asked for.
_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import durable; from durable.runtime.child import main; "
    "pipe, lifeline = map(int, sys.argv[2:]); del sys.argv[1:]; main(pipe, lifeline, lambda **o: durable.connect(**o))"
)
_LOOK: Final = 1.0  # seconds between two looks whether it lives: what it has forked may keep the pipe open


class Served(Protocol):
    """The attempt that a child runs."""

    cancelled: bool
    child: Child | None

    def beat(self) -> None: ...


class Children:
    """All of one worker. Safe to use from several threads.

    client: the arguments of `durable.connect` for its activities' `ctx.client`; None where there can be none.
    """

    def __init__(self, limits: Limits, client: Mapping[str, str | None] | None) -> None:
        self._limits = limits
        self._client = client
        self._lock = threading.Lock()
        self._all: set[Child] = set()
        self._idle: list[Child] = []
        self._closed = False

    def run(self, call: Call, attempt: Served, began: Callable[[], None]) -> Returned | Raised:
        """Run it and wait for the end. Raises ChildProcessError when the process died of it; OSError when none starts.

        began: called when the function is found and starts; importing its module comes before.
        """
        while True:
            child, reused = self._take()
            try:
                ended = child.run(call, attempt, began)
            except BaseException as error:
                self._remove(child)
                if isinstance(error, ChildProcessError) and reused and not child.began and not attempt.cancelled:
                    continue  # law 3
                raise
            self._give_back(child)
            return ended

    def close(self) -> None:
        """Kill them all, and wait until they are gone."""
        with self._lock:
            self._closed = True
            children = list(self._all)
            idle, self._idle = self._idle, []
        for child in children:
            child.kill()
        for child in idle:
            child.close()

    def _take(self) -> tuple[Child, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        child = Child(self._limits, self._client)
        with self._lock:
            self._all.add(child)
            closed = self._closed
        if closed:
            child.kill()
        return child, False

    def _give_back(self, child: Child) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)
                return
        self._remove(child)

    def _remove(self, child: Child) -> None:
        with self._lock:
            self._all.discard(child)
        child.close()


class Child:
    """One process. began: whether the function of its latest call was started."""

    def __init__(self, limits: Limits, client: Mapping[str, str | None] | None) -> None:
        self.began = False
        self._sending = threading.Lock()
        self._owner = threading.Lock()
        self._attempt: Served | None = None
        self._pipe, theirs = Pipe()
        end, self._lifeline = os.pipe()
        passed = [theirs.fileno(), end]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *map(str, passed)],
                stdin=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,
            )
        except BaseException:
            self._hang_up()
            raise
        finally:
            theirs.close()
            os.close(end)
        levels = {"": logging.getLogger().level, "durable": logging.getLogger("durable").getEffectiveLevel()}
        levels["durable.activity"] = logging.getLogger("durable.activity").getEffectiveLevel()
        self._setup: Setup | None = Setup(os.getpid(), asdict(limits), levels, None if client is None else dict(client))

    def run(self, call: Call, attempt: Served, began: Callable[[], None]) -> Returned | Raised:
        """See `Children.run`."""
        self.began = False
        with self._owner:
            self._attempt = attempt
            attempt.child = self
        try:
            if self._setup is not None:
                self._send(self._setup)
                self._setup = None
            self._send(call)
            return self._attend(attempt, began)
        except (EOFError, OSError) as error:
            raise ChildProcessError(f"activity {call.name!r} (attempt {call.attempt}): {self._obituary()}") from error
        finally:
            with self._owner:
                self._attempt = None
                attempt.child = None

    def _attend(self, attempt: Served, began: Callable[[], None]) -> Returned | Raised:
        while True:
            report = self._receive()
            if isinstance(report, Returned | Raised):
                return report
            if isinstance(report, Began):
                self.began = True
                began()
                if attempt.cancelled:  # law 5
                    self.cancel(attempt)
            elif isinstance(report, Beat):
                attempt.beat()
            else:
                _log(report)

    def cancel(self, attempt: Served) -> None:
        """Tell the activity that nobody waits for it, if it is running this attempt."""
        with self._owner:
            if self._attempt is attempt and self.began:
                with suppress(OSError):  # it has died; whoever runs it finds out
                    self._send(Cancelled())

    def kill(self, attempt: Served | None = None) -> None:
        """Kill it and what it has started, if it is running this attempt (None: whatever it does)."""
        with self._owner:
            if attempt is None or self._attempt is attempt:
                if self._process.poll() is None:
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def close(self) -> None:
        """Kill it and give back what it holds here; nobody may use it after."""
        self.kill()
        self._hang_up()

    def _hang_up(self) -> None:
        self._pipe.close()
        os.close(self._lifeline)

    def _send(self, order: Order) -> None:
        with self._sending:
            self._pipe.send_bytes(encode_message(order))

    def _receive(self) -> Report:
        while not self._pipe.poll(_LOOK):
            if self._process.poll() is not None and not self._pipe.poll():
                raise EOFError
        report: Report = decode_report(self._pipe.recv_bytes())
        return report

    def _obituary(self) -> str:
        self.kill()  # it has closed the pipe, and may not be quite dead
        status = self._process.returncode
        if status >= 0:
            return f"its process ended with exit status {status} before there was a result"
        hint = "; was it out of memory?" if -status == signal.SIGKILL else ""
        return (
            f"its process was ended by signal {-status} ({signal.strsignal(-status)}) before there was a result{hint}"
        )


def _log(report: Logged) -> None:
    logger = logging.getLogger(report.fields["name"])
    if logger.isEnabledFor(report.fields["levelno"]):
        logger.handle(logging.makeLogRecord({**report.fields, "msg": report.message}))
