"""Fresh ids. Asking the system for randomness costs more than a commit, so one draw serves many ids."""

from __future__ import annotations

import itertools
import os
from uuid import uuid4


class Ids:
    """Ids that never repeat, in any process: a random prefix and a count. Call it for the next one."""

    def __init__(self) -> None:
        self._prefix = uuid4().hex[:20]
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"{self._prefix}{next(self._numbers):012x}"


def random_ids(count: int) -> list[str]:
    """`count` random ids of 32 hex digits, as `uuid4().hex` has them, from one draw."""
    digits = os.urandom(16 * count).hex()
    return [digits[32 * i : 32 * i + 32] for i in range(count)]
