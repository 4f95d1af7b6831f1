"""Activities that run in processes of their own: a child imports this module to find them."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import durable

registry = durable.Registry()
SOON = 60


@dataclass
class Point:
    x: int
    y: int


class Refused(ValueError):
    """What this module raises."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@registry.activity(executor="process")
def whoami() -> int:
    return os.getpid()


@registry.activity(executor="process")
def mirrored(point: Point, times: int = 1) -> Point:
    return Point(point.y * times, point.x * times)


@registry.activity(executor="process")
def told(ctx: durable.ActivityContext, text: str) -> dict[str, Any]:
    ctx.heartbeat({"at": 1})
    ctx.logger.warning("%s from a process", text)
    return {
        "instance_id": ctx.instance_id,
        "task_id": ctx.task_id,
        "attempt": ctx.attempt,
        "key": ctx.idempotency_key,
        "cancelled": ctx.cancelled,
    }


class Unprintable:
    """Its own text has what UTF-8 can't carry."""

    def __str__(self) -> str:
        return "un\udcffprintable"


@registry.activity(executor="process")
def logs_what_is_no_text() -> str:
    """A name of a file as Python reads it from a disk in another encoding, and what is not plain."""
    logger = logging.getLogger("durable.activity")
    logger.warning("reading %s", "/data/\udcff.csv")
    try:
        raise FileNotFoundError("/data/\udcff.csv")
    except FileNotFoundError:
        logger.exception("not there: %s", Unprintable())
    logger.warning("lost, perhaps", extra={"task_id": 2**100})
    logger.warning("extras", extra={"attempt": Unprintable(), "instance_id": b"bytes"})
    return "done"


@registry.activity(executor="process")
def asks_for_a_client(ctx: durable.ActivityContext, start: str) -> list[str]:
    ctx.client.start_orchestration("one", "whoami", instance_id=start)
    return [ctx.client.workspace, str(ctx.client.get_status(ctx.instance_id).runtime_status)]


@registry.activity(executor="process")
def refuses() -> None:
    try:
        Path("/nowhere").read_text()
    except OSError as error:
        raise Refused("not today", 7) from error


@registry.activity(executor="process")
def gives_up() -> None:
    sys.exit("enough")


@registry.activity(executor="process")
def unspeakable() -> object:
    return object()


@registry.activity(executor="process")
def dies_once(way: str, folder: str) -> str:
    """The first attempt dies in this way."""
    marker = Path(folder, "died")
    if marker.exists():
        return "alive"
    marker.touch()
    if way == "exit":
        os._exit(3)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)
    return "unharmed"


@registry.activity(executor="process")
def dies() -> None:
    os._exit(3)


def announce(folder: str, pid: int | None = None) -> None:
    """Leave the id of this process, or of that one, so that a test can see whether it lives."""
    Path(folder, f"{os.getpid() if pid is None else pid}.pid").touch()


@registry.activity(executor="process")
def spins(folder: str) -> None:
    """Keeps a processor busy for ever, and has started a program that never ends either."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    announce(folder, program.pid)
    announce(folder)
    while True:
        pass


@registry.activity(executor="process")
def hogs(folder: str) -> int:
    """Computes in C, which lets no other thread of its process run, and ignores what can be ignored."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    announce(folder)
    return sum(range(10**12))


@registry.activity(executor="process", heartbeat_timeout=0.3)
def beats_once(ctx: durable.ActivityContext, folder: str) -> None:
    announce(folder)
    ctx.heartbeat()
    while True:
        pass


@registry.activity(executor="process")
def until_cancelled(ctx: durable.ActivityContext, folder: str) -> None:
    announce(folder)
    while not ctx.cancelled:
        time.sleep(0.01)
    Path(folder, "cancelled").touch()


@registry.activity(executor="process")
def until_told(folder: str) -> str:
    announce(folder)
    deadline = time.monotonic() + SOON
    while not Path(folder, "go").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return "told"


@registry.orchestrator
def one(ctx: durable.OrchestrationContext, name: str, *args: Any) -> Any:
    return (yield ctx.call_activity(name, *args))


@registry.orchestrator
def several(ctx: durable.OrchestrationContext, name: str, count: int, *args: Any) -> Any:
    return (yield [ctx.call_activity(name, *args) for _ in range(count)])


@registry.orchestrator
def patient(ctx: durable.OrchestrationContext, name: str, timeout: float, attempts: int, *args: Any) -> Any:
    """Gives up on an attempt after `timeout` seconds (0: never)."""
    policy = durable.RetryPolicy(max_attempts=attempts, first_interval=0.01)
    ref: Any = durable.activity_ref(name, retry=policy, timeout=timeout or None)
    return (yield ctx.call_activity(ref, *args))


@registry.orchestrator
def abandons(ctx: durable.OrchestrationContext, name: str, *args: Any) -> Any:
    task = ctx.call_activity(name, *args)
    yield ctx.wait_for_external_event("enough")
    task.cancel()
    return "abandoned"
