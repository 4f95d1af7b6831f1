"""The activities of this worker, as rows: held while they run or wait here, renewed, recovered, handed back.

A row stays until the turn that records the outcome deletes it. Held means: due later, holder this worker; whoever
finds it due, or its holder dead, leases it and runs the activity again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from ..engine.effects import invocation_of
from ..engine.instance import Arrival, Env, Invocation
from ..engine.ledger import Ledger
from ..model.history import UnreadableHistory
from ..model.status import RuntimeStatus
from ..ports import Lease, Record, Row, Want
from .requests import Cancel, Claim, Load, Request, Run

log = logging.getLogger("durable.worker")


class ActivityNames(Protocol):
    """Which activities are served here."""

    def serves_activity(self, name: str) -> bool: ...

    def known(self, kind: str) -> list[str]: ...


class Held(NamedTuple):
    """A task row of ours: how often it was leased, and when somebody else may look at it."""

    attempt: int
    due_at: float


class Workload:
    """running: handed to threads. unserved: no code for them here. orphans: rows that nobody runs."""

    def __init__(self, env: Env, names: ActivityNames, clock: Callable[[], datetime]) -> None:
        self.env = env
        self.names = names
        self.clock = clock
        self.held: dict[str, Held] = {}
        self.running: set[str] = set()
        self.unserved: dict[str, Invocation] = {}
        self.orphans: list[Row] = []
        self.next_renewal = 0.0
        self.closed = False
        self._warned: set[str] = set()

    def begin(self, invocations: Sequence[Invocation], leased: int = 0) -> Generator[Request, Any, None]:
        """Run these, whose rows are ours; what is not served here waits until it is."""
        due_at = self.clock().timestamp() + self.env.hold
        served: list[Invocation] = []
        for invocation in invocations:
            key = invocation.row_key
            self.held[key] = Held(leased, due_at)
            if self.closed:
                continue  # handed back at the end of the drain
            if self.names.serves_activity(invocation.name):
                self.running.add(key)
                served.append(invocation)
            else:
                self.unserved[key] = invocation
                self._warn(invocation)
        if served:
            yield Run(served)

    def forget(self, row_keys: Iterable[str]) -> None:
        """Their turn has deleted these rows."""
        for key in row_keys:
            self.held.pop(key, None)

    def cancel(self, row_keys: Collection[str]) -> Generator[Request, Any, None]:
        """Nobody waits for these any more."""
        self.running.difference_update(row_keys)
        for key in row_keys:
            self.unserved.pop(key, None)
        yield Cancel(row_keys)

    def ends(self, arrivals: Iterable[Arrival]) -> list[Lease]:
        """The leases that end the rows behind arrivals whose instance is gone, as far as they are ours."""
        leases = []
        for arrival in arrivals:
            key = arrival.row_key or f"{arrival.execution_id}/{arrival.event.task_id}/{arrival.event.attempt}"
            held = self.held.pop(key, None)
            holder, attempt = (self.env.holder, held.attempt) if held is not None else ("", 0)
            leases.append(Lease(key, holder, attempt, None))
        return leases

    def code_changed(self) -> None:
        self._warned.clear()
        self.next_renewal = 0.0

    def renew(self, now: float) -> Generator[Request, Any, None]:
        """Keep our rows ours, and start what is served by now."""
        self.next_renewal = now + self.env.hold / 4
        soon = now + self.env.hold / 2
        ready = {key for key, i in self.unserved.items() if self.names.serves_activity(i.name)}
        due = [(key, held) for key, held in self.held.items() if held.due_at < soon or key in ready]
        if not due:
            return
        until = now + self.env.hold
        leases = [Lease(key, self.env.holder, held.attempt, until, self.env.holder) for key, held in due]
        kept: list[bool] = yield Claim(leases)
        start: dict[int, list[Invocation]] = {}
        for (key, held), ours in zip(due, kept, strict=True):
            if not ours:
                # Recorded meanwhile, or taken over by somebody else; whichever outcome comes first counts.
                self.held.pop(key, None)
                self.unserved.pop(key, None)
            elif key in ready:
                start.setdefault(held.attempt + 1, []).append(self.unserved.pop(key))
            else:
                self.held[key] = Held(held.attempt + 1, until)
        for leased, invocations in start.items():
            yield from self.begin(invocations, leased)

    def recover(self, limit: int) -> Generator[Request, Any, None]:
        """Rows that nobody runs: run those that are still open, end the others."""
        rows, self.orphans = self.orphans[:limit], self.orphans[limit:]
        if not rows:
            return
        ids = list(dict.fromkeys(row.instance_id for row in rows))
        records: list[Record | None] = yield Load([Want(i) for i in ids])
        found = dict(zip(ids, records, strict=True))
        until = self.clock().timestamp() + self.env.hold
        leases: list[Lease] = []
        wanted: list[Invocation | None] = []
        for row, invocation in _open_tasks(rows, found):
            wanted.append(invocation)
            due_at, holder = (None, "") if invocation is None else (until, self.env.holder)
            leases.append(Lease(row.key, row.holder, row.attempt, due_at, holder))
        taken: list[bool] = yield Claim(leases)
        start: dict[int, list[Invocation]] = {}
        for lease, invocation, ours in zip(leases, wanted, taken, strict=True):
            if ours and invocation is not None:
                start.setdefault(lease.expect_attempt + 1, []).append(invocation)
        for leased, invocations in start.items():
            yield from self.begin(invocations, leased)

    def hand_back(self) -> Generator[Request, Any, None]:
        """Every row of ours is due now: the next worker need not wait."""
        now = self.clock().timestamp()
        held, self.held = self.held, {}
        if held:
            yield Claim([Lease(key, self.env.holder, item.attempt, now) for key, item in held.items()])

    def _warn(self, invocation: Invocation) -> None:
        if invocation.name not in self._warned:
            self._warned.add(invocation.name)
            log.warning(
                "activity %r (instance %r) waits: no worker here serves it; registered here: %s",
                invocation.name,
                invocation.instance_id,
                ", ".join(self.names.known("activity")) or "none",
            )


def _open_tasks(rows: Iterable[Row], found: dict[str, Record | None]) -> list[tuple[Row, Invocation | None]]:
    """Each row with the invocation behind it, None where nobody waits for this attempt any more.

    Rows of an instance whose history can't be read are left out, and so left alone.
    """
    ledgers: dict[str, Ledger] = {}
    tasks: list[tuple[Row, Invocation | None]] = []
    for row in rows:
        record = found[row.instance_id]
        if record is None:
            tasks.append((row, None))
            continue
        try:
            if row.instance_id not in ledgers:
                ledgers[row.instance_id] = Ledger.of_rows(record.history or ())
        except UnreadableHistory:
            continue
        tasks.append((row, _open_task(row, record, ledgers[row.instance_id])))
    return tasks


def _open_task(row: Row, record: Record, ledger: Ledger) -> Invocation | None:
    execution_id, task_id, attempt = row.key.rsplit("/", 2)
    if record.summary.execution_id != execution_id or record.summary.status is RuntimeStatus.TERMINATED:
        return None
    scheduled = ledger.tasks.get(int(task_id))
    if scheduled is None or scheduled.attempt != int(attempt):
        return None
    return invocation_of(row.instance_id, execution_id, scheduled)
