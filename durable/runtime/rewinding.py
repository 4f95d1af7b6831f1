"""Rewinding as requests to a store: an instance, and then the children that its rewind asks to go on too.

The client does it, and so does the worker that finds such a request as a row: whoever began it may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from ..engine.messages import Message, decode_message
from ..engine.rewind import Rewinding, answer, look_back, outcome_as_fact, rewind
from ..model.history import Event, Raw, UnreadableHistory
from ..ports import Commit, Lease, Outcome, Record, Row, RowKey, Store, Want
from .requests import Begin, Claim, Deliver, Finish, Load, Read, Request

T = TypeVar("T")
Asking = Generator[Request, Any, Any]


class Part(NamedTuple):
    """What rewinding needs of who does it: the clock, fresh ids, and the number of partitions."""

    clock: Callable[[], datetime]
    mint: Callable[[], str]
    partitions: int


def drive(asking: Generator[Request, Any, T], store: Store) -> T:
    """Answer these requests from a store, for whoever has no loop. Raises StoreError."""
    begun: list[Callable[[], list[Outcome]]] = []
    answers: dict[type, Callable[[Any], Any]] = {
        Load: lambda r: store.load(r.wants),
        Begin: lambda r: begun.append(store.begin(r.commits)),
        Finish: lambda r: begun.pop()(),
        Deliver: lambda r: store.deliver(r.facts),
        Read: lambda r: store.rows(r.keys),
        Claim: lambda r: store.lease(r.leases),
    }
    answer: Any = None
    while True:
        try:
            request = asking.send(answer)
        except StopIteration as ended:
            result: T = ended.value
            return result
        answer = answers[type(request)](request)


class Unreadable(NamedTuple):
    """A message that can't be done: it, or what it is for, is damaged or of a newer version."""

    row: Row
    why: str


class Rewound(NamedTuple):
    """The instances that were rewound, or told to go on; the requests that are answered, those that are not yet, and
    those that nobody here can answer."""

    touched: Sequence[str]
    answered: Sequence[Row]
    left: Sequence[Row]
    unreadable: Sequence[Unreadable]


def rewind_instance(record: Record, reason: Raw, part: Part) -> Generator[Request, Any, Commit | None]:
    """Rewind one that has failed. The commit if it happened; None: it has changed meanwhile, look again."""
    found = look_back(record)
    assert found is not None
    return (yield from _commit(found, reason, part))


def _commit(
    found: Rewinding, reason: Raw, part: Part, asked: Event | None = None
) -> Generator[Request, Any, Commit | None]:
    child: Record | None = None
    if found.child:
        [child] = yield Load([Want(found.child)])
    commit = rewind(found, child, reason, part.clock(), part.mint, part.partitions, asked)
    yield Begin([commit])
    [outcome] = yield Finish()
    if outcome is Outcome.UNKNOWN:
        [record] = yield Load([Want(commit.instance_id)])
        return commit if record is not None and record.commit_id == commit.id else None
    return commit if outcome is Outcome.COMMITTED else None


def requests_of(commit: Commit) -> list[Row]:
    """What a rewind asks of the children."""
    return [row for row in commit.put if row.kind == "message" and decode_message(row.body).kind == "rewind"]


def answer_requests(rows: Sequence[Row], part: Part) -> Generator[Request, Any, Rewound]:
    """Do what these rows ask, and what that asks in turn. The rows answered are for the caller to end; those that can't
    be read for a worker's outbox to rest."""
    touched: list[str] = []
    answered: list[Row] = []
    left: list[Row] = []
    unreadable: list[Unreadable] = []
    waiting = list(rows)
    while waiting:
        row = waiting.pop()
        message = decode_message(row.body)
        ask = message.event
        start = RowKey(row.partition, f"{row.key.rpartition('/rewind/')[0]}/start")
        [starting] = yield Read([start])  # first: what has been started by now is there when we look
        [record] = yield Load([Want(message.target)])
        try:
            found = answer(record, message, starting is not None, part.clock())
            commit: Commit | None = None
            if found.rewinds is not None:
                commit = yield from _commit(found.rewinds, ask.input, part, ask)
        except UnreadableHistory as error:
            unreadable.append(Unreadable(row, f"{message.target!r} can't be rewound: {error}"))
            continue
        if commit is not None:
            touched.append(message.target)
            waiting += requests_of(commit)
        elif found.rewinds is not None:
            left.append(row)
            continue
        elif found.outcome is not None:
            yield from _tell(found.outcome, row, part)
            touched.append(found.outcome.target)
        answered.append(row)
    return Rewound(touched, answered, left, unreadable)


def _tell(outcome: Message, row: Row, part: Part) -> Asking:
    yield Deliver([outcome_as_fact(outcome, row.key, part.partitions, part.clock())])


def end_rows(rows: Sequence[Row]) -> Asking:
    """They are done with, unless somebody else has them meanwhile."""
    if rows:
        yield Claim([Lease(row.partition, row.key, row.holder, row.attempt, None) for row in rows])
