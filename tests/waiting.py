"""Waiting for what no call waits for: asked for again and again, never slept for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

Found = TypeVar("Found")

SOON: Final = 60  # seconds; nothing takes one, where the machine has nothing else to do
LOOK_SECONDS: Final = 0.01


def until(condition: Callable[[], Found], what: str = "what was waited for", seconds: float = SOON) -> Found:
    """What the condition gives, once that is true; TimeoutError that names `what` after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        threading.Event().wait(LOOK_SECONDS)
    return found
