"""The activities of this worker, as rows: held while they run or wait here, renewed, recovered, handed back.

A row stays until the turn that records the outcome deletes it. Held means: due later, holder this worker; whoever
finds it due, or its holder dead, leases it and sees to it that the activity runs again. A row whose invocation is with
the broker is let go of after a while, to be due much later and held by nobody: whoever gets the message may lease it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from ..engine.instance import Env, Invocation
from ..model.names import partition_of
from ..payload.codec import is_sealed, why_sealed
from ..ports import Lease, Record, Row, RowKey, Want
from .courier import Courier, Outgoing
from .recovery import open_tasks
from .requests import Cancel, Claim, Done, Load, Read, Request, Run
from .serving import Serving

log = logging.getLogger("durable.worker")

_QUEUED_FOR_SLOT: Final = 16
_FORGET: Final = 0.98
_RENEW_EVERY: Final = 5.0  # seconds, or a quarter of the hold where that is less


class ActivityNames(Protocol):
    """Which activities are served here."""

    def serves_activity(self, name: str) -> bool: ...

    def known(self, kind: str) -> list[str]: ...


class Held(NamedTuple):
    """A task row of ours: where it is, how often it was leased, and when somebody else may look at it."""

    partition: int
    attempt: int
    due_at: float


class Workload:
    """held: task rows of ours. Among them sent: with the broker; stored: the outcome is in the store, to be taken.

    running: handed to threads. unserved: no code for them here. orphans: rows that nobody runs, by key: each sweep
    finds those again that are still waiting here.
    """

    def __init__(
        self, env: Env, serving: Serving, names: ActivityNames, courier: Courier, clock: Callable[[], datetime]
    ) -> None:
        self.env = env
        self.serving = serving
        self.names = names
        self.courier = courier
        self.clock = clock
        self.held: dict[str, Held] = {}
        self.running: set[str] = set()
        self.unserved: dict[str, Invocation] = {}
        self.sent: set[str] = set()
        self.stored: set[str] = set()
        self.orphans: dict[str, Row] = {}
        self.overdue = False  # an invocation that is with the broker has come due: does anybody receive it?
        self.next_renewal = 0.0
        self.closed = False
        self.stuck = 0  # threads that no activity of ours can have
        self.slots = serving.slots  # the others, at the last renewal: what is cancelled mostly ends soon
        self._slowest = 1.0  # seconds; until it is known, nobody queues
        self._warned: set[tuple[str, str]] = set()

    # ---- beginning and ending

    def begin(
        self, invocations: Sequence[Invocation], leased: int = 0, *, resent: bool = False
    ) -> Generator[Request, Any, None]:
        """These, whose rows are ours: run them here, or send them; what nobody can be asked to run waits."""
        due_at = self.clock().timestamp() + self.env.hold
        here: list[Invocation] = []
        for invocation in invocations:
            key = invocation.row_key
            if key in self.held:  # sent before and run by another, who handed it back: it is not with the broker now
                self.forget([key])
            self.held[key] = Held(partition_of(invocation.instance_id, self.env.partitions), leased, due_at)
            if self.closed:
                continue  # handed back at the end of the drain
            if self._runs_here(invocation):
                self.running.add(key)
                here.append(invocation)
            elif self.serving.by_mail:
                self.courier.outgoing[key] = Outgoing(invocation, resent)
            else:
                self.unserved[key] = invocation
                self.warn(invocation)
        if here:
            yield Run(here)

    def _runs_here(self, invocation: Invocation) -> bool:
        if self.serving.by_mail and not (self.serving.eager and len(self.running) < self.room):
            return False
        return invocation.queue in self.serving.queues and self.serves(invocation)

    def serves(self, invocation: Invocation) -> bool:
        """Whether there is code for it here, and its input can be read."""
        return self.names.serves_activity(invocation.name) and not is_sealed(invocation.input)

    @property
    def room(self) -> int:
        """How many activities may be here at a time, running or next: more than there are slots while all are quick."""
        return self.slots * self.depth

    @property
    def depth(self) -> int:
        """How many of them for each slot."""
        return _QUEUED_FOR_SLOT if self._slowest < self.serving.patience.quick else 1

    def ended(self, done: Done) -> None:
        """It has left its slot. One slow activity is remembered for some hundreds that come after it."""
        self.running.discard(done.invocation.row_key)
        self._slowest = max(done.seconds, self._slowest * _FORGET)

    def hold(self, lease: Lease) -> None:
        """This row was leased to us, because its activity runs here."""
        self.forget([lease.key])
        self.held[lease.key] = Held(lease.partition, lease.expect_attempt + 1, lease.due_at or 0.0)

    def is_orphan(self, row: Row) -> bool:
        """Whether nobody sees to this due row: it is not ours, or was ours until somebody leased it."""
        held = self.held.get(row.key)
        return held is None or held.attempt < row.attempt

    def forget(self, row_keys: Iterable[str]) -> None:
        """These rows are gone, or somebody else's."""
        for key in row_keys:
            if self.held.pop(key, None) is not None:
                self.sent.discard(key)
                self.stored.discard(key)
                self.courier.outgoing.pop(key, None)
                self.unserved.pop(key, None)

    def outcome_stored(self, row_keys: Iterable[str]) -> None:
        """The turn that takes it ends the row; until then nobody need run it again, so it is kept, but not renewed."""
        self.stored.update(key for key in row_keys if key in self.held)

    def cancel(self, row_keys: Collection[str]) -> Generator[Request, Any, None]:
        """Nobody waits for these any more."""
        self.running.difference_update(row_keys)
        self.courier.drop(row_keys)
        for key in row_keys:
            self.unserved.pop(key, None)
        yield Cancel(row_keys)

    def end(self, keys: Sequence[RowKey]) -> Generator[Request, Any, None]:
        """End these rows, whoever holds them: their instance is gone."""
        self.forget(key.key for key in keys)
        rows: list[Row | None] = yield Read(keys)
        leases = [Lease(row.partition, row.key, row.holder, row.attempt, None) for row in rows if row is not None]
        if leases:
            yield Claim(leases)

    def code_changed(self) -> None:
        self._warned.clear()
        self.next_renewal = 0.0

    # ---- time goes by

    def renew(self, now: float) -> Generator[Request, Any, None]:
        """Keep our rows ours, let go of those that are with the broker, start what is served by now."""
        self.next_renewal = now + min(_RENEW_EVERY, self.env.hold / 4)
        self.slots = max(0, self.serving.slots - self.stuck)
        soon = now + self.env.hold / 2
        self.forget([key for key in self.stored if self.held[key].due_at <= now])
        ready = {key for key, i in self.unserved.items() if self._runs_here(i)}
        due = [
            (key, held)
            for key, held in self.held.items()
            if (held.due_at < soon or key in ready) and key not in self.stored
        ]
        if not due:
            return
        until = now + self.env.hold
        kept: list[bool] = yield Claim(
            [
                Lease(held.partition, key, self.env.holder, held.attempt, now + self._sent_for(held.attempt))
                if key in self.sent
                else Lease(held.partition, key, self.env.holder, held.attempt, until, self.env.holder)
                for key, held in due
            ]
        )
        start: dict[int, list[Invocation]] = {}
        for (key, held), ours in zip(due, kept, strict=True):
            if not ours or key in self.sent:
                # Not ours: recorded meanwhile, or taken over; whichever outcome comes first counts.
                self.forget([key])
            elif key in ready:
                start.setdefault(held.attempt + 1, []).append(self.unserved.pop(key))
            else:
                self.held[key] = held._replace(attempt=held.attempt + 1, due_at=until)
        for leased, invocations in start.items():
            yield from self.begin(invocations, leased)

    def recover(self, limit: int) -> Generator[Request, Any, None]:
        """Rows that nobody runs: see to it that those which are still open run, end the others."""
        rows = list(itertools.islice(self.orphans.values(), limit))
        for row in rows:
            del self.orphans[row.key]
        ids = list(dict.fromkeys(row.instance_id for row in rows))
        records: list[Record | None] = yield Load([Want(i) for i in ids])
        found = dict(zip(ids, records, strict=True))
        until = self.clock().timestamp() + self.env.hold
        leases: list[Lease] = []
        wanted: list[Invocation | None] = []
        for row, invocation in open_tasks(rows, found):
            self.overdue |= invocation is not None and not row.holder
            wanted.append(invocation)
            due_at, holder = (None, "") if invocation is None else (until, self.env.holder)
            leases.append(Lease(row.partition, row.key, row.holder, row.attempt, due_at, holder))
        taken: list[bool] = yield Claim(leases)
        start: dict[int, list[Invocation]] = {}
        for lease, invocation, ours in zip(leases, wanted, taken, strict=True):
            if ours and invocation is not None:
                start.setdefault(lease.expect_attempt + 1, []).append(invocation)
        for leased, invocations in start.items():
            yield from self.begin(invocations, leased, resent=True)

    def send_again(self) -> Generator[Request, Any, None]:
        """A queue lost its messages: what is with the broker is due at once."""
        yield from self._release([*self.sent])

    def hand_back(self) -> Generator[Request, Any, None]:
        """What we have not seen to is due now: the next worker need not wait. What is with the broker runs elsewhere,
        and what has its outcome in the store need not run. A row that is due and nobody's makes whoever finds it doubt
        the broker (see `recover`), so what the broker never got stays ours by name."""
        yield from self._release([key for key in self.held if key not in self.stored], sent_too=False)

    def give_up(self, row_keys: Collection[str]) -> Generator[Request, Any, None]:
        """These have not begun, and no thread here will have them: the broker or the next sweep finds who has one."""
        self.running.difference_update(row_keys)
        self.courier.give_back(row_keys)
        try:
            yield from self._release([key for key in row_keys if key in self.held])
        finally:
            self.forget(row_keys)  # what is held and does not run would be renewed for ever

    def _release(self, row_keys: Sequence[str], *, sent_too: bool = True) -> Generator[Request, Any, None]:
        now = self.clock().timestamp()
        leases: list[Lease] = []
        for key in row_keys:
            held = self.held[key]
            sent = key in self.sent
            due_at = now if sent_too or not sent else now + self._sent_for(held.attempt)
            leases.append(
                Lease(held.partition, key, self.env.holder, held.attempt, due_at, "" if sent else self.env.holder)
            )
        if leases:
            yield Claim(leases)
        self.forget(row_keys)

    def _sent_for(self, attempt: int) -> float:
        """Each round of sending counts the row's attempt up by two: once leased for sending, once let go of."""
        patience = self.serving.patience
        return min(patience.sent * 2.0 ** min(attempt // 2, 20), patience.sent_at_most)

    def warn(self, invocation: Invocation) -> None:
        """Say once that nobody here can run this."""
        if (invocation.queue, invocation.name) not in self._warned:
            self._warned.add((invocation.queue, invocation.name))
            if is_sealed(invocation.input):
                why = f"its input {why_sealed(invocation.input)}"
            elif invocation.queue in self.serving.queues:
                why = f"no worker here serves it; registered here: {', '.join(self.names.known('activity')) or 'none'}"
            else:
                why = f"no worker here serves queue {invocation.queue!r}, only {', '.join(self.serving.queues)}"
            log.warning("activity %r (instance %r) waits: %s", invocation.name, invocation.instance_id, why)
