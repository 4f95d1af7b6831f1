"""What instances send to each other: store first, hint second; a message row ends once its target has it.

A start creates its target, idempotently by who asked for it (parent, execution, task, attempt). A fact goes into its
target's inbox, once by the key of its row. An event for nobody is parked there, until somebody of that id starts.
What can't be read, a message or what it is for, holds up its own row only, which rests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from ..engine.instance import Env
from ..engine.ledger import Ledger
from ..engine.messages import Message, decode_message, refused_start
from ..engine.step import create
from ..engine.triggering import begin
from ..model.errors import StoreError
from ..model.history import Event, UnreadableHistory, encode_event
from ..model.names import TRIGGERS, partition_of
from ..ports import Commit, Delivered, Fact, Lease, Outcome, Published, Record, Row, RowKey, Want
from .parking import RESTING
from .requests import Begin, Claim, Deliver, Emit, Finish, Load, Read, Request
from .rewinding import Part, Rewound, Unreadable, answer_requests

log = logging.getLogger("durable.worker")

_ABSENT: Final = Delivered.ABSENT
_AGAIN: Final = 1.0  # seconds; the sweep that finds it comes every few


class Sent(NamedTuple):
    """Whose inboxes have news, and whether something has to be sent again."""

    targets: Sequence[str]
    again: bool


class Outbox:
    """rows: the message rows that this worker has to send now, by key; one that could not be sent is found again."""

    def __init__(self, env: Env, clock: Callable[[], datetime]) -> None:
        self.env = env
        self.clock = clock
        self.rows: dict[str, Row] = {}
        self._said: set[str] = set()  # keys of rows that rest

    def add(self, row: Row) -> None:
        self.rows[row.key] = row

    def send(self) -> Generator[Request, Any, Sent]:
        """Send what is there. What the store did not take stays."""
        rows, self.rows = self.rows, {}
        starts: list[tuple[Row, Message]] = []
        facts: list[tuple[Row, Fact]] = []
        rewinds: list[Row] = []
        emitted: dict[str, list[tuple[Row, Message]]] = {}
        unreadable: list[Unreadable] = []
        for row in rows.values():
            try:
                message = decode_message(row.body)
            except UnreadableHistory as error:
                unreadable.append(Unreadable(row, str(error)))
                continue
            if message.kind == "start":
                starts.append((row, message))
            elif message.kind == "rewind":
                rewinds.append(row)
            elif message.kind == "publish":
                emitted.setdefault(message.target, []).append((row, message))
            else:
                facts.append((row, self._fact(message, row.key)))
        try:
            ended = yield from self._send_starts(starts, facts, unreadable)
            ended += yield from self._send_facts(facts)
            ended += yield from self._emit(emitted)
            rewound: Rewound = yield from answer_requests(rewinds, Part(self.clock, self.env.mint, self.env.partitions))
            ended += rewound.answered
            yield from self._rest([*unreadable, *rewound.unreadable])
            if ended:
                yield Claim([Lease(row.partition, row.key, row.holder, row.attempt, None) for row in ended])
        except StoreError:
            self.rows = rows  # what has been sent is sent again: its target knows it
            raise
        self.rows.update((row.key, row) for row in rewound.left)
        again = bool(self.rows)
        targets = [*(m.target for _, m in starts), *(fact.instance_id for _, fact in facts), *rewound.touched]
        return Sent(targets, again)

    def _fact(self, message: Message, fact_id: str) -> Fact:
        partition = partition_of(message.target, self.env.partitions)
        body = encode_event(message.event)
        return Fact(message.target, partition, fact_id, body, self.clock().timestamp(), message.kind == "event")

    def _send_starts(
        self, starts: list[tuple[Row, Message]], facts: list[tuple[Row, Fact]], unreadable: list[Unreadable]
    ) -> Generator[Request, Any, list[Row]]:
        """Create the targets. A taken id becomes a fact for the parent, added to `facts`; where nobody can read who
        has it, the row is added to `unreadable`."""
        if not starts:
            return []
        commits = [create(m.target, m.event, self.env.partitions, self.env.mint()) for _, m in starts]
        outcomes: dict[str, Outcome] = {}
        for batch in _distinct(commits):
            yield Begin(batch)
            answers: list[Outcome] = yield Finish()
            outcomes.update({c.id: answer for c, answer in zip(batch, answers, strict=True)})
        ended: list[Row] = []
        unclear: list[tuple[Row, Message]] = []
        refused: dict[str, Outcome] = {}
        for start, commit in zip(starts, commits, strict=True):
            if outcomes[commit.id] is Outcome.COMMITTED:
                ended.append(start[0])
            else:
                unclear.append(start)
                refused[start[0].key] = outcomes[commit.id]
        if unclear:
            records: list[Record | None] = yield Load([Want(m.target) for _, m in unclear])
            for (row, message), record in zip(unclear, records, strict=True):
                try:
                    is_there = record is not None and _is_started_by(record, message.event)
                except UnreadableHistory as error:
                    unreadable.append(Unreadable(row, f"{message.target!r} is there already, and {error}"))
                    continue
                if record is None and refused[row.key] is Outcome.CONFLICT:
                    ended.append(row)  # it was there, and has been purged
                elif record is None:
                    self.add(row)  # it did not happen after all
                elif is_there:
                    ended.append(row)
                elif message.event.parent is None:
                    log.warning(
                        "orchestration %r starts %r, and something else has that id: nothing was changed",
                        row.instance_id,
                        message.target,
                    )
                    ended.append(row)
                else:
                    facts.append((row, self._fact(refused_start(message), row.key)))
        return ended

    def _send_facts(self, facts: list[tuple[Row, Fact]]) -> Generator[Request, Any, list[Row]]:
        if not facts:
            return []
        # A terminate may overtake the start of its child, which another worker is about to send: its row stays until
        # the child is there, and is looked at again soon, not when a dead worker's row would be.
        starts = [
            RowKey(row.partition, row.key.removesuffix("/terminate") + "/start")
            for row, _ in facts
            if row.key.endswith("/terminate")
        ]
        found: list[Row | None] = (yield Read(starts)) if starts else []
        unsent = {row.key for row in found if row is not None}
        answers: list[Delivered] = yield Deliver([fact for _, fact in facts])
        absent = {fact.instance_id for (_, fact), answer in zip(facts, answers, strict=True) if answer is _ABSENT}
        if TRIGGERS in absent:  # nobody has had to do with them so far
            yield Begin([begin(self.clock(), self.env.mint, self.env.partitions)])
            yield Finish()  # or somebody else's is there
            answers = yield Deliver([fact for _, fact in facts])
        ended: list[Row] = []
        early: list[Row] = []
        for (row, _), answer in zip(facts, answers, strict=True):
            waits = answer is _ABSENT and row.key.removesuffix("/terminate") + "/start" in unsent
            (early if waits else ended).append(row)
        yield from self._later(early)
        return ended

    def _emit(self, emitted: dict[str, list[tuple[Row, Message]]]) -> Generator[Request, Any, list[Row]]:
        """Events for event sources. What one does not take now it gets later, and then perhaps behind others."""
        ended: list[Row] = []
        early: list[Row] = []
        for source, some in emitted.items():
            answers: list[Published] = yield Emit(source, [bytes(message.event.input) for _, message in some])
            for (row, _), answer in zip(some, answers, strict=True):
                (ended if answer is Published.CONFIRMED else early).append(row)
        yield from self._later(early)
        return ended

    def _rest(self, unreadable: Sequence[Unreadable]) -> Generator[Request, Any, None]:
        """A newer worker may read it, or it is mended in the store: it is tried again now and then, and said once."""
        for row, why in unreadable:
            if row.key not in self._said:
                self._said.add(row.key)
                log.error("message %r of instance %r is kept: %s", row.key, row.instance_id, why)
        yield from self._later([row for row, _ in unreadable], RESTING)

    def _later(self, rows: Sequence[Row], seconds: float = _AGAIN) -> Generator[Request, Any, None]:
        """They are found again then, by default soon, not when a dead worker's would be."""
        if rows:
            until = self.clock().timestamp() + seconds
            yield Claim([Lease(r.partition, r.key, r.holder, r.attempt, until, self.env.holder) for r in rows])


def _is_started_by(record: Record, asked: Event) -> bool:
    """Whether it is there because of this very start, which was sent before. Of a child its parent tells; of a
    detached one the execution, as long as that has not continued as new."""
    assert record.history is not None
    started = Ledger.of_rows(record.history[:1]).started
    if started is None or started.parent != asked.parent:
        return False
    return asked.parent is not None or started.execution_id == asked.execution_id


def _distinct(commits: Sequence[Commit]) -> list[list[Commit]]:
    """Batches in which no instance appears twice."""
    batches: list[dict[str, Commit]] = []
    for commit in commits:
        batch = next((b for b in batches if commit.instance_id not in b), None)
        if batch is None:
            batches.append(batch := {})
        batch[commit.instance_id] = commit
    return [list(batch.values()) for batch in batches]
