"""Instances that can't or shall not go on here for now: why, and when to look at them again without being told.

Their timers are left alone and their inbox rows leased, so that nobody looks at them in vain again and again. What
ends that comes as a row or as news; but another worker may have been that news's reader, so it is for a time only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from ..engine.instance import Env
from ..engine.suspension import WAITS as SUSPENDED
from ..ports import UNSERVED, Lease, Row

log = logging.getLogger("durable.worker")

RESTING: Final = 300.0  # seconds


class _Place(NamedTuple):
    said: bool  # why it waits, unless that is a rest
    until: float


class Parking:
    """By instance id; times are POSIX seconds."""

    def __init__(self, env: Env, clock: Callable[[], datetime]) -> None:
        self.env = env
        self.clock = clock
        self._places: dict[str, _Place] = {}

    def park(self, instance_id: str, reason: str, rows: Sequence[Row], now: float) -> list[Lease]:
        """It waits for `reason`; the leases keep its inbox `rows` from being found due. Said once, but for a rest."""
        suspended = reason == SUSPENDED
        place = self._places.get(instance_id)
        said = place is not None and place.said
        if not suspended and not said:
            log.warning("orchestration %r waits: %s", instance_id, reason)
        self._places[instance_id] = _Place(said or not suspended, now + RESTING)
        # New code is looked for now and then; who is suspended goes on by a row that comes.
        return self.lease(rows, now + (RESTING if suspended else self.env.hold))

    def lease(self, rows: Sequence[Row], until: float) -> list[Lease]:
        """These rows need not be looked at before; a new one will be."""
        return [
            Lease(r.partition, r.key, r.holder, r.attempt, until, self.env.holder)
            for r in rows
            if r.group not in UNSERVED
        ]

    def leave(self, instance_id: str) -> bool:
        """It goes on; whether it was here."""
        return self._places.pop(instance_id, None) is not None

    def __contains__(self, instance_id: object) -> bool:
        """Whether it is parked, and its time is not over."""
        place = self._places.get(instance_id) if isinstance(instance_id, str) else None
        return place is not None and self.clock().timestamp() < place.until

    def keep_only(self, ours: Callable[[str], bool]) -> None:
        """The others are with another worker now, and may go on there."""
        for instance_id in [i for i in self._places if not ours(i)]:
            del self._places[instance_id]

    def empty(self) -> list[str]:
        """Everybody may try again; who that is."""
        found = list(self._places)
        self._places.clear()
        return found
