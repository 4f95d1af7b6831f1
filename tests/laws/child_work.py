"""Functions that the child processes of test_children.py look up here."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import durable


def whoami() -> int:
    return os.getpid()


class Tools:
    @staticmethod
    def whoami() -> int:
        return os.getpid()


elsewhere = durable.activity_ref("elsewhere")  # a reference alone, with no function behind it


def belongings(loggers: list[str]) -> dict[str, Any]:
    """What a process has of its worker: what it can read, and which loggers would say what."""
    descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    return {
        "input": sys.stdin.read(),
        "for its programs": [fd for fd in descriptors if fd > 2 and _is_inherited(fd)],
        "levels": [logging.getLogger(name).getEffectiveLevel() for name in loggers],
    }


def _is_inherited(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # that of the list itself
        return False


def complains(ctx: durable.ActivityContext) -> None:
    try:
        Path("/nowhere").read_text()
    except OSError:
        ctx.logger.exception("not there")


def starts_another(ctx: durable.ActivityContext, text: str) -> None:
    ctx.client.start_orchestration("another", text)


def dies(folder: str) -> str:
    """Where it runs a second time it lives."""
    if (marker := Path(folder, "died")).exists():
        return "alive"
    marker.touch()
    os._exit(3)


def dies_and_leaves_a_fork(folder: str) -> None:
    """The fork keeps the pipe open, and leaves its id."""
    fork = os.fork()
    if not fork:
        while True:
            signal.pause()
    Path(folder, f"{fork}.pid").touch()
    os._exit(3)


def waits(folder: str) -> None:
    """For ever, and leaves its id."""
    Path(folder, f"{os.getpid()}.pid").touch()
    while True:
        signal.pause()
