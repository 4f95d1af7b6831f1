"""Who is alive, and who owns which partition: from everybody's beats, by everybody alike, without a coordinator.

Laws.
1. A peer is alive while its counter moves, seen on the observer's own monotonic clock: no two clocks are compared.
2. Each (group, partition) belongs to one of the living that serve the group: the one with the highest hash of both
   (rendezvous hashing), so that a worker that comes or goes moves its own share only.
3. Ownership is for speed: two owners at once mean conflicts and reloads, nothing worse.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from ..model.errors import StoreError
from ..ports import Beat, Membership
from .requests import Assigned, Lost, News

log = logging.getLogger("durable.worker")

BEAT_EVERY: Final = 1.0  # seconds
DEAD_AFTER: Final = 2.5  # without a move of the counter
_NEWCOMER: Final = 1.25 * BEAT_EVERY  # within that time everybody has heard of a new one


class Peers:
    """What one worker has seen of the others."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}  # incarnation: its counter, when that last moved

    def alive(self, beats: Iterable[Beat], me: str, now: float) -> list[Beat]:
        """Those whose counter has moved lately; one seen for the first time counts as alive. Me always."""
        beats = list(beats)
        known, self._seen = self._seen, {}
        for beat in beats:
            counter, since = known.get(beat.incarnation, (None, now))
            self._seen[beat.incarnation] = (beat.counter, since if counter == beat.counter else now)
        return [b for b in beats if b.incarnation == me or now - self._seen[b.incarnation][1] < DEAD_AFTER]

    def dead(self, now: float) -> list[str]:
        """Those that nobody need remember: a worker that starts now would take them for alive."""
        return [i for i, (_, since) in self._seen.items() if now - since >= DEAD_AFTER]

    def look_in(self, now: float) -> float:
        """Seconds until the next beat, or until one who is silent counts as dead."""
        silent = [since + DEAD_AFTER - now for _, since in self._seen.values() if now - since >= BEAT_EVERY / 2]
        return max(0.05, min([BEAT_EVERY, *silent]))


def owned(me: Beat, alive: Collection[Beat], partitions: int) -> frozenset[tuple[str, int]]:
    """The (group, partition) pairs that are `me`'s among the living."""
    mine: list[tuple[str, int]] = []
    for group in me.groups:
        rivals = [beat.incarnation for beat in alive if group in beat.groups]
        mine += [(group, number) for number in range(partitions) if _owner(rivals, group, number) == me.incarnation]
    return frozenset(mine)


def _owner(rivals: Collection[str], group: str, partition: int) -> str:
    return max(rivals, key=lambda rival: _weight(rival, group, partition), default="")


def _weight(incarnation: str, group: str, partition: int) -> bytes:
    return hashlib.blake2b(f"{incarnation}/{group}/{partition}".encode(), digest_size=8).digest()


_NOBODY: Final = Beat("")


class _View(NamedTuple):
    owned: frozenset[tuple[str, int]]
    alive: frozenset[str]


class Seat:
    """This worker's membership: it beats on a thread of its own, and tells the loop what follows."""

    def __init__(
        self,
        membership: Membership,
        me: Beat,
        partitions: int,
        tell: Callable[[News], None],
        names: Callable[[str], Sequence[str]],
    ) -> None:
        self._membership = membership
        self._me = me
        self._partitions = partitions
        self._tell = tell
        self._names = names
        self._peers = Peers()
        self._view: _View | None = None
        self._last: dict[str, Beat] | None = None  # everybody's, by incarnation
        self._warned: set[str] = set()
        self._wait = BEAT_EVERY
        self._standing_by = False
        self._beating = threading.Lock()  # one beat after the other: what an older one shows must not come last
        self._changing = threading.Lock()  # `_me`; never while the store is asked
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="durable-membership", daemon=True)

    def take(self) -> None:
        """The first beat, here and now, then one a second. Raises StoreError."""
        self._beat()
        self._thread.start()

    def repaired(self) -> None:
        """A queue was found missing: everybody hears of it with the next beat."""
        with self._changing:
            self._me = msgspec.structs.replace(self._me, repairs=self._me.repairs + 1)

    def retire(self) -> None:
        """Partitions go to the others, if there are any; what is held here stays ours until `leave`."""
        view = self._view
        if view is not None and len(view.alive) > 1:
            with self._changing:
                self._me = msgspec.structs.replace(self._me, groups=())
            self._beat_if_possible()

    def leave(self) -> None:
        """No more beats; the others hear of it at once. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._membership.leave(self._me.incarnation)
        except StoreError as error:
            log.warning("could not say good-bye to the other workers, they will notice in some seconds: %s", error)

    def _run(self) -> None:
        while not self._stop.wait(self._wait):
            self._beat_if_possible()

    def _beat_if_possible(self) -> None:
        try:
            with self._beating:
                self._beat()
        except StoreError as error:
            log.warning("the store did not take a sign of life, trying again in %g s: %s", BEAT_EVERY, error)
        except Exception:  # a bug, here or in a store: a worker that works on must not be dead to the others
            log.exception("no sign of life could be given, trying again in %g s", BEAT_EVERY)

    def _beat(self) -> None:
        activities, orchestrators = (tuple(self._names(kind)) for kind in ("activity", "orchestrator"))
        with self._changing:
            self._me = me = msgspec.structs.replace(
                self._me,
                counter=self._me.counter + 1,
                activities=activities,
                orchestrators=orchestrators,
                at=time.time(),
            )
        beats = self._membership.beat(me)
        now = time.monotonic()
        alive = self._peers.alive(beats, me.incarnation, now)
        admitted = any(beat.incarnation == me.incarnation for beat in beats)
        self._say(admitted, beats)
        mine = owned(me, alive, self._partitions) if admitted else frozenset()
        view = _View(mine, frozenset(beat.incarnation for beat in alive))
        if view != self._view:
            self._view = view
            self._tell(Assigned(view.owned, view.alive, 0.0 if self._membership.exclusive else _NEWCOMER))
        known, self._last = self._last, {beat.incarnation: beat for beat in beats}
        if known is not None and any(b.repairs > known.get(b.incarnation, _NOBODY).repairs for b in beats):
            self._tell(Lost())
        self._compare([b for b in beats if known and b.counter > known.get(b.incarnation, b).counter])
        for incarnation in self._peers.dead(now):
            if incarnation != me.incarnation:
                self._membership.leave(incarnation)
        self._wait = self._peers.look_in(now)

    def _compare(self, moved: Collection[Beat]) -> None:
        """What is sent over one broker is not found at another. moved: those that surely live."""
        for beat in moved:
            if beat.events not in (None, self._me.events, *self._warned):
                self._warned.add(beat.events or "")
                log.warning(
                    "events of this worker travel over %s, those of another one (pid %s on %s) over %s: unless these "
                    "are names of one broker, neither finds what the other sends. Give all clients and workers the "
                    "same DURABLE_EVENTS_URL",
                    *(self._me.events, beat.pid, beat.host, beat.events),
                )

    def _say(self, admitted: bool, beats: Collection[Beat]) -> None:
        if not admitted and not self._standing_by:
            pid = next((beat.pid for beat in beats if beat.pid), "unknown")
            log.warning("another worker (pid %s) serves this store; standing by until it is gone", pid)
        elif admitted and self._standing_by:
            log.warning("the other worker is gone; serving from here on")
        self._standing_by = not admitted
