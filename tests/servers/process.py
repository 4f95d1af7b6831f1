"""A server as a child process that tests may mistreat: kill it, freeze it, start it again on the same port and data.

Laws.
1. One process, in a session of its own: signals reach it and whatever it started, never the test run.
2. Ready is a condition that the server's own protocol answers, never a pause.
3. It ends with the run, whatever happens: at `close`, else at exit of this interpreter.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.waiting import until

HOST: Final = "127.0.0.1"


class ServerFailed(Exception):
    """The server ended or did not become ready; the message has the end of its output."""


def free_port(low: int = 0, high: int = 0) -> int:
    """A loopback TCP port on which nobody listens: the first of low..high-1, or any. Taken when the server binds it.

    Never an ephemeral one: while a server is down, a client that tries to reach it could be given its port, and even
    connect to itself.
    """
    for port in range(low, high) if high else random.SystemRandom().sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerFailed(f"no free port on {HOST}" + (f" from {low} to {high - 1}" if high else ""))


class ServerProcess:
    """One server: its command, its port, its private folder.

    Inherit it and give `command` and `ready` (and `environment`, `prepare` where needed).
    """

    name = "server"
    start_seconds = 30.0
    stop_seconds = 20.0

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def command(self) -> Sequence[str]:
        """What to run, in the foreground. Called at each start."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the server answers in its own protocol; False while it does not. Must not block for long."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Variables beside those of this process."""
        return {}

    def prepare(self) -> None:
        """Called before each start: configuration files and the like."""

    @property
    def pid(self) -> int:
        """Of the running server; raises ServerFailed when there is none."""
        if self._process is None:
            raise ServerFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it is ready. Raises ServerFailed with the end of its output."""
        if self.running:
            return
        self.prepare()
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            until(lambda: not self.running or self.ready(), f"{self.name} ready", self.start_seconds)
            if not self.running:
                raise ServerFailed(f"{self.name} ended with code {self._process.returncode}")
        except (ServerFailed, TimeoutError) as failed:
            self.kill()
            raise ServerFailed(f"{failed}\n{self.output()}") from None

    def stop(self) -> None:
        """End it gracefully (SIGTERM); kill -9 when it does not end in `stop_seconds`."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        self._wait()

    def kill(self) -> None:
        """kill -9, together with whatever it started."""
        self._signal(signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """SIGSTOP: its sockets stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        self._signal(signal.SIGCONT)

    def restart(self, graceful: bool = True) -> None:
        """Stop or kill it, and start it on the same port and folder."""
        if graceful:
            self.stop()
        else:
            self.kill()
        self.start()

    def close(self) -> None:
        """End it for good and remove its folder. Idempotent."""
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self, characters: int = 2_000) -> str:
        """The end of what it wrote to stdout and stderr."""
        path = self.folder / "output.log"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            # Its own session means its own group: children of a server's shell script hear it too.
            os.killpg(self.pid, number)

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(self.stop_seconds)
        self._process = None
