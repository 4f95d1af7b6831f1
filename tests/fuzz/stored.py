"""Parsers of what is stored: histories, summaries, rows, cursors, signs of life, snapshots of triggers, archives."""

from __future__ import annotations

import io
import json
from typing import Any, Final

import msgspec

from durable.app.archive import Archive, ArchiveError, archive_of
from durable.app.archive_file import read_archive, write_archive
from durable.app.restoring import restore
from durable.backends import dynamodb_items, listing, redis_format, sqlite_reads
from durable.backends.memory import MemoryBackend
from durable.backends.redis_membership import RedisMembership
from durable.engine.instance import Arrival, Instance
from durable.engine.step import inbox_arrivals, step
from durable.engine.triggering import heard_by, hub_of
from durable.engine.triggering import step as step_triggers
from durable.model import history as h
from durable.model.errors import InstanceExistsError, StoreError
from durable.model.history import UNDECODABLE, Event, UnreadableHistory
from durable.model.status import Summary
from durable.payload import claims
from durable.payload.codec import Opening, document, row, summary
from durable.ports import Beat, Commit, Query, Record, Row, Want
from durable.runtime.recovery import open_task
from durable.triggers import asks
from durable.triggers.actions import Definition
from durable.triggers.asks import Ask, encode_ask
from durable.triggers.changes import Source
from durable.triggers.drafting import no_function
from durable.triggers.pattern import EventPattern

from .harness import Parser, Wrong
from .samples import NOW, SHOP, env, lived

_LIVED: Final = lived()
_ROWS: Final = [row for record in _LIVED.records for row in record.history or ()]
_SUMMARIES: Final = [msgspec.json.encode(summary) for summary in _LIVED.summaries]
_ROW: Final = Row("0" * 32 + "/3/1", "task", "order-7", 0, 12.5, "me", 2, b'{"do":"it"}', "default")
_BEAT: Final = msgspec.json.encode(Beat("w1", 7, at=12.5))


# ---- an instance as a worker takes it: a line for its summary, one for each row of history, one for each fact


def _lines(record: Record, *facts: Event) -> bytes:
    rows = [*(record.history or ()), *map(h.encode_event, facts)]
    return b"\n".join([msgspec.json.encode(record.summary), *rows])


def _turn(data: bytes) -> Any:
    """Law: whatever is stored and waits, a worker's step ends in a turn; and what it would store can be read."""
    record = _record(data)
    try:
        instance = Instance.of_record(record)
    except UnreadableHistory:
        open_task("x/1/1", record)
        raise
    name, version = instance.summary.name, instance.summary.version
    code = SHOP.find_orchestrator(name, version, not instance.begun)
    turn = step(instance, inbox_arrivals(record.inbox)[0], code, "" if code else "no code", NOW, env())
    if turn.instance.execution is not None:
        turn.instance.execution.let_go()
    open_task(f"{record.summary.execution_id}/1/1", record)
    _check_commit(turn.commit)
    return turn


def _record(data: bytes) -> Record:
    first, *lines = data.split(b"\n")
    rows = tuple(line for line in lines if line.startswith(b"["))
    inbox = tuple(
        Row(f"in/{number}", "inbox", "order-7", 0, 1.0, body=line)
        for number, line in enumerate(lines)
        if not line.startswith(b"[")
    )
    return Record(3, "c1", redis_format.unpack_record(_in_redis(first)).summary, rows, inbox)


def _in_redis(data: bytes) -> bytes:
    """A summary with the head that it has there."""
    stored = sqlite_reads.decode_summary(data)
    execution, group = (text.encode()[:0xFFFF] for text in (stored.execution_id, stored.group))
    return redis_format._RECORD.pack(3, 0, 2, len(execution), len(group)) + b"c1" + execution + group + data


def _check_commit(commit: Commit | None) -> None:
    if commit is None:
        return
    for append in commit.appends:
        h.decode_events(append.events)
    redis_format.pack_commit(commit, redis_format.NO_NEWS)
    for put in commit.put:
        redis_format.unpack_row(put.key.encode(), redis_format.pack_row(put), put.partition)
        dynamodb_items.pack_row(put)


def _turns() -> list[bytes]:
    waiting = [record for record in _LIVED.records if not record.summary.status.finished]
    id = waiting[-1].summary.execution_id
    facts = [
        Event(h.EVENT_RAISED, NOW, name="decision", input=msgspec.Raw(b"[1]")),
        Event(h.TIMER_FIRED, NOW, 2, attempt=1, execution_id=id),
        Event(h.EXECUTION_SUSPENDED, NOW),
        Event(h.TASK_COMPLETED, NOW, 1, attempt=1, result=msgspec.Raw(b"2"), execution_id=id),
    ]
    steering = [Event(h.EXECUTION_RESUMED, NOW), Event(h.EXECUTION_CANCELED, NOW, input=msgspec.Raw(b'"why"'))]
    ending = [Event(h.EXECUTION_TERMINATED, NOW, input=msgspec.Raw(b'"why"'))]
    return [_lines(record, *some) for record in waiting for some in ((), facts, steering, ending)]


# ---- triggers


def _hub(data: bytes) -> Any:
    """Law: a hub is the sum of its changes, whoever wrote them."""
    hub = hub_of(_of_changes(data.split(b"\n")))
    everything = h.Raw(msgspec.json.encode(hub.everything()))
    again = hub_of(_of_changes([everything]))
    if msgspec.json.encode(again.everything()) != bytes(everything):
        raise Wrong("accepted, and its snapshot is another hub")
    return hub


def _of_changes(changes: list[bytes]) -> Instance:
    events = [Event("TriggersChanged", NOW, input=h.Raw(change)) for change in changes]
    return Instance(_LIVED.triggers.summary, 1, events[0], len(events), None, events)


def _trigger_turn(data: bytes) -> Any:
    """Law: whatever waits in line for the triggers, a worker's step of them ends in a turn that others can read."""
    instance = Instance.of_record(_LIVED.triggers)
    rows = [
        Row(f"in/{number}", "inbox", "@triggers", 0, 1.0, body=line) for number, line in enumerate(data.split(b"\n"))
    ]
    arrivals = [*inbox_arrivals(rows)[0], Arrival(Event("EventsBrought", NOW), bodies=data.split(b"\n"))]
    turn = step_triggers(instance, arrivals, no_function, NOW, env())
    _check_commit(turn.commit)
    assert turn.commit is not None
    record = Record(9, "c", turn.commit.summary, (*(_LIVED.triggers.history or ()), turn.commit.appends[0].events), ())
    stored = hub_of(Instance.of_record(record))
    hub = turn.instance.hub
    assert hub is not None
    if msgspec.json.encode(stored.everything()) != msgspec.json.encode(hub.everything()):
        raise Wrong("accepted, and what is stored of it is another hub")
    return turn


def _asks() -> list[bytes]:
    definition = Definition("new", (EventPattern(subject="book"),))
    parts = (
        asks.Add(definition, {"a": 1}),
        asks.Declare(definition),
        asks.Enable("joined", False),
        asks.Delete("once"),
        asks.AddKey("k", [1]),
        asks.AddSource("queue", Source("redis://localhost/0?stream=s")),
        asks.Replay("4"),
        asks.Bury("4"),
        asks.Keep(True),
        asks.Clear(),
    )
    several = [(part,) for part in parts] + [parts[:5]]
    return [
        h.encode_event(Event("TriggersAsked", NOW, input=encode_ask(Ask(f"t{number}", some))))
        for number, some in enumerate(several)
    ]


def _trigger_facts() -> list[bytes]:
    published = h.encode_event(
        Event(
            h.EVENT_RAISED,
            NOW,
            input=h.Raw(
                b'{"id":"9","source":"/s","type":"shop.x","specversion":"1.0","subject":"book","data":{"price":20}}'
            ),
        )
    )
    awaited = Event(h.EVENT_AWAITED, NOW, 3, input=h.Raw(b'{"type":"a.*"}'), instance_id="order-7", execution_id="e")
    ended = Event(h.CHILD_COMPLETED, NOW, 3, attempt=1, result=h.Raw(b"2"))
    woken = Event(h.TIMER_FIRED, NOW, 5)
    facts = [awaited, ended, woken, Event(h.TASK_CANCELED, NOW, 3, instance_id="order-7", execution_id="e")]
    return [published, *map(h.encode_event, facts), *_asks(), b"\n".join([published, *_asks()[:3]])]


# ---- archives


def _archive(data: bytes) -> Archive:
    """Law: an archive is taken whole or not at all, and never over what is there."""
    archive = read_archive(io.BytesIO(data))
    backend = MemoryBackend()
    restore(backend, _LIVED.archives[0], NOW, go_on=True)
    kept = archive_of(backend.store, _LIVED.archives[0].summary.instance_id)
    instance_id = archive.summary.instance_id
    try:
        restore(backend, archive, NOW, go_on=True)
    except InstanceExistsError:
        if instance_id != kept.summary.instance_id and archive.executions[-1].id != kept.executions[-1].id:
            raise
    else:
        if _text(archive_of(backend.store, instance_id)) != _text(archive):
            raise Wrong("accepted, and another instance is there")
        [record] = backend.store.load([Want(instance_id)])
        assert record is not None
        _turn(_lines(record) + b"".join(b"\n" + row.body for row in record.inbox if row.body))
    if archive_of(backend.store, kept.summary.instance_id) != kept:
        raise Wrong("another instance was changed")
    return archive


def _text(archive: Archive) -> bytes:
    return b"".join(write_archive(archive))


# ---- formats of single stores


def _redis_row(data: bytes) -> Row:
    return redis_format.unpack_row(b"key", data, 0)


def _dynamodb_row(data: bytes) -> Row:
    try:
        item = msgspec.json.decode(data, type=dict[str, dict[str, str]])  # as boto3 gives them, whatever is in them
    except UNDECODABLE:
        item = {"sk": {"S": data.decode("latin-1")}}
    return dynamodb_items.unpack_row(item, 0, b"")


def _dynamodb_item(row: Row) -> bytes:
    return json.dumps(dynamodb_items.pack_row(row)).encode()


def _redis_beats(data: bytes) -> list[Beat]:
    membership = RedisMembership.__new__(RedisMembership)
    membership._unreadable = {b"w"}
    return membership._decoded([b"w", data])


def _under_codec(data: bytes) -> bytes:
    class Reversed:
        def encode(self, data: bytes) -> bytes:
            return data[::-1]

        def decode(self, data: bytes) -> bytes:
            return data[::-1]

    opening = Opening(Reversed())
    opened = document(data, opening), row(data, opening)
    return bytes(opened[0])


def _summary_with(data: bytes) -> Summary:
    stored = sqlite_reads.decode_summary(data)
    heard_by(stored)
    return summary(stored, Opening(_Same()))


class _Same:
    def encode(self, data: bytes, /) -> bytes:
        return data

    def decode(self, data: bytes, /) -> bytes:
        return data


def _claims(data: bytes) -> bytes:
    names = list(claims.names_in(data))
    claims.claim_of(h.Raw(data))
    return claims.redeemed(data, dict.fromkeys(names, "is gone"))


def _cursor(data: bytes) -> Any:
    return listing.place_of(Query(cursor=data.decode("utf-8", "surrogateescape")))


def _due(data: bytes) -> Any:
    return listing.due_place(data.decode("utf-8", "surrogateescape"))


_CLAIM: Final = bytes(claims.Claim(f"{'0' * 32}/{'1' * 32}/{'2' * 64}", 7, "is gone").written)

PARSERS: Final = {
    "history-row": Parser(_ROWS, h.decode_events, (UnreadableHistory,), h.encode_events),
    "history-event": Parser(
        [h.encode_event(event) for row in _ROWS for event in h.decode_events(row)],
        h.decode_event,
        (UnreadableHistory,),
        h.encode_event,
    ),
    "turn": Parser(_turns(), _turn, (UnreadableHistory, StoreError)),
    "summary": Parser(_SUMMARIES, _summary_with, (StoreError,)),
    "summary-dynamodb": Parser(_SUMMARIES, dynamodb_items.decode_summary, (StoreError,), dynamodb_items.encode_summary),
    "archive": Parser([_text(archive) for archive in _LIVED.archives], _archive, (ArchiveError,)),
    "triggers-snapshot": Parser(
        [bytes(event.input) for row in _LIVED.triggers.history or () for event in h.decode_events(row)],
        _hub,
        (UnreadableHistory,),
    ),
    "triggers-inbox": Parser(_trigger_facts(), _trigger_turn, (UnreadableHistory,)),
    "row-redis": Parser([redis_format.pack_row(_ROW)], _redis_row, (StoreError,), redis_format.pack_row),
    "record-redis": Parser(
        [_in_redis(data) for data in _SUMMARIES],
        redis_format.unpack_record,
        (StoreError,),
    ),
    "item-redis": Parser([redis_format._START.pack(3) + row for row in _ROWS], redis_format.unpack_item, (StoreError,)),
    "row-dynamodb": Parser([_dynamodb_item(_ROW)], _dynamodb_row, (StoreError,)),
    "beat-redis": Parser([_BEAT], _redis_beats, (StoreError,)),
    "cursor": Parser([listing.encode_place(12.5, "order-7").encode()], _cursor, (ValueError,)),
    "cursor-due": Parser([listing.encode_due(12.5, "k/1/1").encode()], _due, (ValueError,)),
    "claim": Parser([_CLAIM, b"[1," + _CLAIM + b"]"], _claims, ()),
    "codec": Parser([*_ROWS, b'{"input":{"$durable.codec":"MQ=="},"failure":null}'], _under_codec, ()),
}
