"""How often a client tries again while nobody knows whether its commit has happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ..model.errors import StoreError

SECONDS: Final = 10.0  # in all
PAUSES: Final = (0.01, 1.0)  # seconds: the first one, and the longest; each is twice the one before


def tries(what: str) -> Iterator[None]:
    """An item a try: the first at once, each other after a pause. Raises StoreError when it has taken too long."""
    end = time.monotonic() + SECONDS
    pause, longest = PAUSES
    while True:
        yield
        if time.monotonic() >= end:
            raise StoreError(
                f"{what}: for {SECONDS:g} s the store has not said whether that happened (its log lines say why; is "
                "the disk full?). Look whether it is there before you try again, with the same instance id"
            )
        time.sleep(pause)
        pause = min(2 * pause, longest)
