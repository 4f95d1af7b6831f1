"""Invocations that the transport delivers: which of them run here, and what is done with the others.

What may be a second copy is leased first. Checking a delivery *is* leasing its row: a row that is gone, or that
somebody who lives has leased, needs no second run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any

from ..engine.instance import Env
from ..model.errors import StoreError
from ..model.names import partition_of
from ..ports import Delivery, Lease, Record, Row, RowKey, Want
from .courier import Courier, Taken
from .recovery import open_task
from .requests import Claim, Load, Read, Request, Run
from .roster import Roster
from .serving import Serving
from .wire import Work
from .workload import Workload

log = logging.getLogger("durable.worker")

Offered = tuple[Work, Delivery]


class Intake:
    """offered: what was delivered and not looked at yet. room: see `Workload.room`, as it was last asked for."""

    def __init__(
        self,
        env: Env,
        serving: Serving,
        workload: Workload,
        courier: Courier,
        roster: Roster,
        clock: Callable[[], datetime],
    ) -> None:
        self.env = env
        self.serving = serving
        self.workload = workload
        self.courier = courier
        self.clock = clock
        self.roster = roster
        self.offered: list[Offered] = []
        self.room = workload.room

    def accept(self) -> Generator[Request, Any, None]:
        """Run what was offered, as far as it is for us to run."""
        offered, self.offered = self.offered, []
        try:
            offered = yield from self._with_inputs(offered)
        except StoreError:
            self.offered = offered
            raise
        fresh: list[Work] = []
        doubtful: list[Offered] = []
        for work, delivery in offered:
            key = work.invocation.row_key
            if self.workload.closed:
                self.courier.back.append(delivery.tag)
            elif key in self.courier.taken:
                self._came_again(self.courier.taken[key], delivery)
            elif key in self.workload.running:
                self.courier.done.append(delivery.tag)  # it runs here eagerly, under a row of ours
            elif self._is_doubtful(work, delivery):
                doubtful.append((work, delivery))
            else:
                self.courier.take(work, delivery.tag)
                fresh.append(work)
        yield from self._run(fresh)
        while doubtful:
            try:
                leased, doubtful = yield from self._lease(doubtful)
            except StoreError:
                self.offered = doubtful
                raise
            yield from self._run(leased)

    def _with_inputs(self, offered: list[Offered]) -> Generator[Request, Any, list[Offered]]:
        """Read from the history what was too large to travel; what is not open any more is done with."""
        ids = [work.invocation.instance_id for work, _ in offered if not bytes(work.invocation.input)]
        if not ids:
            return offered
        records: list[Record | None] = yield Load([Want(i) for i in dict.fromkeys(ids)])
        found = dict(zip(dict.fromkeys(ids), records, strict=True))
        complete: list[Offered] = []
        for work, delivery in offered:
            if bytes(work.invocation.input):
                complete.append((work, delivery))
                continue
            invocation = open_task(work.invocation.row_key, found[work.invocation.instance_id])
            if invocation is None:
                self.courier.done.append(delivery.tag)
            else:
                complete.append((work._replace(invocation=invocation), delivery))
        return complete

    def _run(self, works: Sequence[Work]) -> Generator[Request, Any, None]:
        if works:
            self.workload.running.update(work.invocation.row_key for work in works)
            yield Run([work.invocation for work in works])

    def _is_doubtful(self, work: Work, delivery: Delivery) -> bool:
        if delivery.redelivered or work.resent or not self._serves(work):
            return True
        return self.clock().timestamp() - work.sent_at > self.serving.patience.fresh

    def _serves(self, work: Work) -> bool:
        return self.workload.serves(work.invocation)

    def _came_again(self, taken: Taken, delivery: Delivery) -> None:
        """After a lost connection, this is the delivery to acknowledge at the end."""
        if taken.tag is None:
            self.courier.done.append(delivery.tag)
        else:
            self.courier.done.append(taken.tag)  # ignored if its connection is gone; else this is a second copy
            self.courier.taken[taken.invocation.row_key] = taken._replace(tag=delivery.tag)

    def _lease(self, offered: Sequence[Offered]) -> Generator[Request, Any, tuple[list[Work], list[Offered]]]:
        """Those that are ours now, and those whose row changed between the reading and the leasing: whoever changed it
        may just have let go of it, because this very delivery is with the broker."""
        rows: list[Row | None] = yield Read([self._row_key(work) for work, _ in offered])
        now = self.clock().timestamp()
        leases: list[Lease] = []
        wanted: list[Offered] = []
        settled: list[object] = []  # the row is gone, somebody's who lives, or ours: the delivery is not needed
        for (work, delivery), row in zip(offered, rows, strict=True):
            is_second_copy = work.invocation.row_key in self.courier.taken  # of one in the same batch
            if is_second_copy or row is None or self._runs_elsewhere(work, row, now):
                settled.append(delivery.tag)
                continue
            due_at, holder = now + self.env.hold, self.env.holder
            if not self._serves(work):
                self.workload.warn(work.invocation)
                due_at, holder = (
                    now + self.serving.patience.unserved,
                    "",
                )  # its owner sends it again then, perhaps to others
            leases.append(Lease(row.partition, row.key, row.holder, row.attempt, due_at, holder))
            wanted.append((work, delivery))
        granted: list[bool] = (yield Claim(leases)) if leases else []
        started: list[Work] = []
        refused: list[Offered] = []
        for (work, delivery), lease, ours in zip(wanted, leases, granted, strict=True):
            if not ours:
                refused.append((work, delivery))
                continue
            settled.append(delivery.tag)
            if lease.holder:
                self.workload.hold(lease)
                self.courier.take(work, None)
                started.append(work)
        self.courier.done += settled
        return started, refused

    def _runs_elsewhere(self, work: Work, row: Row, now: float) -> bool:
        return row.holder not in (work.sent_by, self.env.holder) and self.roster.lives(row.holder, now)

    def _row_key(self, work: Work | Taken) -> RowKey:
        invocation = work.invocation
        return RowKey(partition_of(invocation.instance_id, self.env.partitions), invocation.row_key)

    # ---- time goes by

    def claim_long_ones(self, now: float) -> Generator[Request, Any, None]:
        """What has run long is leased, so that its delivery need not be kept."""
        yield from self._claim(self.courier.kept(now))
        yield from self.receive()

    def connection_lost(self) -> Generator[Request, Any, None]:
        """What runs here will be delivered to somebody else, who must find that we have it."""
        yield from self._claim(self.courier.kept(float("inf")))

    def receive_anew(self, now: float = 0.0) -> Generator[Request, Any, None]:
        """Subscribe to everything once more; see `Courier.distrust`. What is not settled comes again, as after a lost
        connection, for among it may be what a dead subscription holds."""
        if self.courier.distrust(now):
            # By name too: a subscription of another size may still hold what it had brought.
            self.courier.back += [delivery.tag for _, delivery in self.offered]
            self.offered.clear()
            yield from self.connection_lost()
            yield from self.receive()

    def _claim(self, kept: Sequence[Taken]) -> Generator[Request, Any, None]:
        """Until each row is ours or gone: one that changed between the reading and the leasing may be nobody's."""
        while kept:
            keys = [self._row_key(taken) for taken in kept]
            rows: list[Row | None] = yield Read(keys)
            until = self.clock().timestamp() + self.env.hold
            leases = [
                Lease(row.partition, row.key, row.holder, row.attempt, until, self.env.holder) for row in rows if row
            ]
            granted: list[bool] = (yield Claim(leases)) if leases else []
            refused: set[str] = set()
            for lease, ours in zip(leases, granted, strict=True):
                if ours:
                    self.workload.hold(lease)
                else:
                    refused.add(lease.key)
            seen_to = [taken for taken in kept if taken.invocation.row_key not in refused]
            yield from self.receive(len(seen_to))  # before acknowledging, or the broker would send as many again
            for taken in seen_to:
                self.courier.acknowledge(taken.invocation.row_key)
            kept = [taken for taken in kept if taken.invocation.row_key in refused]

    def receive(self, more: int = 0) -> Generator[Request, Any, None]:
        """As many deliveries at a time as there are slots that no long activity has (`more`: that will be long)."""
        if self.serving.by_mail:
            long = more + sum(1 for taken in self.courier.taken.values() if taken.tag is None)
            self.room = self.workload.room
            slots = max(0, self.workload.slots - long)
            self.courier.want_work(0 if self.workload.closed else slots * self.workload.depth)
            yield from self.courier.receive()
