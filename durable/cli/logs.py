"""Log records of the worker and of the user's code on stderr, safe to print; only where the user set up no logging."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .terminal import safe


class _Safe(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return safe(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {safe(line)}" for line in super().formatException(ei).split("\n"))


def show_logs(level: int, wanted: Callable[[logging.LogRecord], bool] = lambda _: True) -> None:
    """Show the records from `level` on that are wanted."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Safe("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(wanted)
    root.addHandler(handler)
    root.setLevel(level)
