"""What is stored in Redis, as bytes: rows, records, items of a history. `redis_partition.lua` has the same layouts.

Numbers are binary: a due time comes back as the very double it was, so that a paging by (due_at, key) neither repeats
nor skips a row.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

import msgspec

from durable.model.errors import StoreError
from durable.model.history import UNDECODABLE
from durable.model.status import Summary
from durable.ports import Append, Commit, Fact, Lease, Row, RowKind

from .partition_listing import Asked

_ROW: Final = Struct("<dIHcHH")  # due_at, attempt, size of holder, kind, sizes of group and instance id
_RECORD: Final = Struct("<IBHHH")  # version, finished, sizes of commit id, execution id, group
_START: Final = Struct("<I")
_HEAD: Final = Struct("<dIII")  # created_at, expect, appends, drops
_MARK: Final = Struct("<d16sB")  # due_at, digest of a fact's id, whether to park it
_TERMS: Final = Struct("<dIB")  # due_at, expected attempt, whether the row ends

_CODES: Final[dict[RowKind, bytes]] = {"task": b"t", "timer": b"w", "message": b"m", "inbox": b"i"}
_KINDS: Final[dict[bytes, RowKind]] = {code: kind for kind, code in _CODES.items()}

_encode = msgspec.json.Encoder().encode
_summary: Final = msgspec.json.Decoder(Summary)


class News(NamedTuple):
    """What to publish, and on which channel; '' for none."""

    channel: bytes
    message: bytes


NO_NEWS: Final = News(b"", b"")


class StoredRecord(NamedTuple):
    """An instance as it lies in Redis."""

    version: int
    commit_id: str
    summary: Summary


def pack_row(row: Row) -> bytes:
    """A row without its key. Raises ValueError for a time that is no number: Redis would refuse it half way."""
    if row.due_at != row.due_at:
        raise ValueError(f"due_at of row {row.key!a} is not a number")
    group, instance_id, holder = row.group.encode(), row.instance_id.encode(), row.holder.encode()
    sizes = _ROW.pack(row.due_at, row.attempt, len(holder), _CODES[row.kind], len(group), len(instance_id))
    return sizes + group + instance_id + holder + row.body


def unpack_row(key: bytes, stored: bytes | None, partition: int) -> Row:
    """The row of this key. Raises StoreError for one that can't be read."""
    try:
        if stored is None:
            raise ValueError("it is missing")
        due_at, attempt, holder, code, group, instance_id = _ROW.unpack_from(stored)
        group += _ROW.size
        instance_id += group
        holder += instance_id
        return Row(
            key.decode(),
            _KINDS[code],
            stored[group:instance_id].decode(),
            partition,
            due_at,
            stored[instance_id:holder].decode(),
            attempt,
            stored[holder:],
            stored[_ROW.size : group].decode(),
        )
    except (ValueError, KeyError, StructError) as error:
        raise StoreError(f"row {key!r} in Redis can't be read ({error}); the data are damaged or newer") from error


def pack_commit(commit: Commit, news: News) -> list[str | bytes | int]:
    """The arguments of `redis_commit.lua`."""
    summary = commit.summary
    created_at = 0.0 if commit.expect and not commit.replaces else summary.created_at.timestamp()
    commit_id, execution_id, group = commit.id.encode(), summary.execution_id.encode(), summary.group.encode()
    sizes = _RECORD.pack(commit.expect + 1, summary.status.finished, len(commit_id), len(execution_id), len(group))
    found: list[str | bytes | int] = [
        _HEAD.pack(created_at, commit.expect, len(commit.appends), len(commit.drop)),
        commit.instance_id,
        commit_id,
        sizes + commit_id + execution_id + group + _encode(summary),
        commit.continues,
        "1" if commit.replaces else "",
        commit.forgotten,
        *news,
    ]
    for append in commit.appends:
        found += (append.execution_id, _START.pack(append.start) + append.events)
    found += commit.drop
    for row in commit.put:
        found += (row.key, pack_row(row))
    return found


def unpack_record(stored: bytes) -> StoredRecord:
    """A stored instance. Raises StoreError for one that can't be read."""
    try:
        version, _, commit_id, execution_id, group = _RECORD.unpack_from(stored)
        commit_id += _RECORD.size
        summary = _summary.decode(memoryview(stored)[commit_id + execution_id + group :])
        if (len(summary.execution_id.encode()), len(summary.group.encode())) != (execution_id, group):
            raise ValueError("its summary is of another execution or group")
        return StoredRecord(version, stored[_RECORD.size : commit_id].decode(), summary)
    except (ValueError, *UNDECODABLE, StructError) as error:
        raise StoreError(f"a stored summary can't be read ({error}); the data are damaged or newer") from error


def unpack_item(stored: bytes) -> Append:
    """A stored row of a history; the caller knows the execution. Raises StoreError for one that can't be read."""
    try:
        return Append("", _START.unpack_from(stored)[0], stored[_START.size :])
    except StructError as error:
        raise StoreError(f"a stored row of a history can't be read ({error}); the data are damaged or newer") from error


def pack_fact(fact: Fact) -> tuple[str, bytes, bytes]:
    """A fact as `redis_deliver.lua` wants it. Of its id 16 bytes are kept: enough to be as good as all of it."""
    if fact.due_at != fact.due_at:
        raise ValueError(f"due_at of fact {fact.id!a} is not a number")
    digest = blake2b(fact.id.encode(), digest_size=16).digest()
    return fact.instance_id, _MARK.pack(fact.due_at, digest, fact.park), fact.body


def pack_asked(asked: Asked) -> list[str]:
    """A page of a listing as `redis_find.lua` wants it."""
    after = "-inf" if asked.after is None else repr(asked.after)
    before = "inf" if asked.before is None else repr(asked.before)
    return [after, before, str(asked.limit), *((repr(asked.place[0]), asked.place[1]) if asked.place else ())]


def pack_lease(lease: Lease) -> tuple[str, bytes, str, str]:
    """A lease as `redis_lease.lua` wants it."""
    ends = lease.due_at is None
    if lease.due_at != lease.due_at:
        raise ValueError(f"due_at of the lease of row {lease.key!a} is not a number")
    terms = _TERMS.pack(lease.due_at or 0.0, lease.expect_attempt, ends)
    return lease.key, terms, lease.expect_holder, lease.holder
