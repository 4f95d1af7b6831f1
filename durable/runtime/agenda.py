"""What is due: the rows that the store's index shows, and the timers of the near future.

Laws.
1. The index is read every few seconds whatever the signals say: signals make it fast, the sweep makes it right.
2. A row is for its holder, or for anybody once it is due or its holder is dead. One without a holder whose time has
   not come is with the broker, and nobody's until messages are known to be lost.
3. What is read at once is bounded. A sweep that was cut short goes on where it was, place by place (a partition of a
   group), and with the next round where that is not ahead of the time: rows that nobody can act upon now (timers of
   parked instances) must not hide the ones behind them, nor make other places late.
4. New timers are armed as far ahead as any place may have been read, and a place is read on before the time comes at
   which its reading was cut: no timer falls between the two.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Container, Generator, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from ..engine.effects import timer_arrival
from ..engine.instance import Arrival
from ..model.history import UnreadableHistory
from ..ports import Row, Slice
from .requests import Due, Request
from .roster import Roster

log = logging.getLogger("durable.worker")

_PAGES: Final = 5  # of a sweep, at most
_LATEST: Final = 10 * 365 * 86_400.0  # later than any row that is with the broker


class Agenda:
    """owned: the (group, partition) pairs to look after, as the loop is told. roster: the holders that live.

    window: seconds of timers kept in memory; sweep: seconds between two readings; page: rows a reading.
    """

    def __init__(self, roster: Roster, holder: str, window: float, sweep: float, page: int) -> None:
        self.roster = roster
        self.holder = holder
        self.window = window
        self.sweep = sweep
        self.page = page
        self.owned: frozenset[tuple[str, int]] = frozenset()
        self.look = False  # somebody changed something, unknown what
        self.next_sweep = 0.0
        self._lost: frozenset[tuple[str, int]] = frozenset()  # places to read wholly, for what the broker lost
        self._patient_until = 0.0
        self._swept_at = 0.0
        self._horizon = 0.0
        self._places: dict[tuple[str, int], str] = {}  # where a sweep was cut
        self._behind: list[tuple[str, int]] = []  # those of them to read on at once
        self._armed: dict[str, Row] = {}
        self._timers: list[tuple[float, str]] = []

    # ---- reading

    def assign(self, owned: frozenset[tuple[str, int]], patient_until: float) -> None:
        """What to look after from now on. Until then what the dead have left to run is left alone: outcomes that wait
        in the queues of these partitions come first, and spare a second run."""
        self.owned = owned
        self._patient_until = patient_until
        self._places.clear()
        self.sweep_soon(lost_messages=bool(self._lost))

    def sweep_soon(self, *, lost_messages: bool = False) -> None:
        """Read everything again with the next round; also what is thought to be with the broker."""
        self.next_sweep = 0.0
        if lost_messages:
            self._lost = self.owned
            self._places.clear()

    def set_back(self, now: float) -> bool:
        """Whether the clock has been set back since the last sweep."""
        return now < self._swept_at

    def read(self, now: float, parked: Container[str]) -> Generator[Request, Any, list[Row]]:
        """Rows to act upon now, if it is time to look. Timers are armed, but for those of parked instances."""
        found: list[Row] = []
        if now >= self.next_sweep or self.set_back(now):
            next_sweep = min(now + self.sweep, self.roster.next_doubt(now))
            if now < self._patient_until:
                next_sweep = min(next_sweep, self._patient_until)
            found += yield from self._sweep(now, parked, sorted(self.owned), next_sweep)
            self.look = False
        elif self._behind:
            found += yield from self._sweep(now, parked, self._behind, self.next_sweep)
        if self.look:
            found += yield from self._look(now, parked)
        return found

    def _sweep(
        self, now: float, parked: Container[str], places: Sequence[tuple[str, int]], next_sweep: float
    ) -> Generator[Request, Any, list[Row]]:
        found: list[Row] = []
        behind: list[tuple[str, int]] = []
        pages = 0
        for place in places:
            group, number = place
            until = now + (_LATEST if place in self._lost else self.window)
            after = self._places.pop(place, "")
            acts = False
            while True:
                rows: Slice[Row] = yield Due(number, group, until, self.page, after)
                pages += 1
                chosen = self._chosen(rows.items, now, parked)
                found += chosen
                acts |= bool(chosen)
                if rows.next is None:
                    self._lost -= {place}
                    break
                if pages >= _PAGES:
                    self._places[place] = rows.next
                    read_to = rows.items[-1].due_at if rows.items else now  # all of a page may have changed meanwhile
                    if acts or place in self._lost or read_to <= now:
                        behind.append(place)
                    else:
                        next_sweep = min(next_sweep, read_to)
                    break
                after = rows.next
        self._horizon = now + self.window
        self._behind = behind
        self._swept_at = now
        self.next_sweep = next_sweep
        return found

    def _look(self, now: float, parked: Container[str]) -> Generator[Request, Any, list[Row]]:
        """What is due right now, without the window ahead."""
        found: list[Row] = []
        self.look = False
        for group, number in sorted(self.owned):
            rows: Slice[Row] = yield Due(number, group, now, self.page)
            found += self._chosen(rows.items, now, parked)
            if rows.next is not None:
                self.next_sweep = now
        return found

    def _chosen(self, rows: Iterable[Row], now: float, parked: Container[str]) -> list[Row]:
        chosen: list[Row] = []
        for row in rows:
            if row.kind == "timer":
                if row.instance_id not in parked and row.due_at <= now + self.window:
                    self._arm(row)
            elif row.due_at <= now or self._is_ours_early(row, now):
                chosen.append(row)
        return chosen

    def _is_ours_early(self, row: Row, now: float) -> bool:
        if not row.holder:
            return row.kind == "task" and (row.group, row.partition) in self._lost
        if not self.roster.lives(row.holder, now):
            return row.kind != "task" or now >= self._patient_until
        # A message of ours is only there while it is unsent, as after a fault between its commit and the sending.
        return row.holder == self.holder and row.kind in ("task", "message")

    # ---- timers

    def arm(self, rows: Iterable[Row]) -> None:
        """New timers: those within the window are kept, the others will be read when their time comes near."""
        for row in rows:
            if row.due_at <= self._horizon:
                self._arm(row)

    def _arm(self, row: Row) -> None:
        if row.key not in self._armed:
            self._armed[row.key] = row
            heapq.heappush(self._timers, (row.due_at, row.key))

    def disarm(self, row_keys: Iterable[str]) -> None:
        """Their rows are gone."""
        for key in row_keys:
            self._armed.pop(key, None)

    def fire(self, now: datetime) -> list[tuple[str, Arrival]]:
        """The timers whose time has come, each with its instance."""
        fired: list[tuple[str, Arrival]] = []
        while self._timers and self._timers[0][0] <= now.timestamp():
            _, key = heapq.heappop(self._timers)
            row = self._armed.pop(key, None)
            if row is None:
                continue
            try:
                fired.append((row.instance_id, timer_arrival(row, now)))
            except UnreadableHistory as error:
                log.error("timer %r of instance %r is kept: %s", key, row.instance_id, error)
                self._armed[key] = row  # for the next sweep not to arm it, and not to say so again
        return fired

    @property
    def next_at(self) -> float:
        """When to look again, in POSIX seconds, if nothing happens before."""
        if self._behind:
            return self._swept_at
        return min(self.next_sweep, self._timers[0][0]) if self._timers else self.next_sweep
