"""An archive as JSON lines: one header, one line an event, one line a pending fact, and a last line that counts them.

    {"durable":"history","format":1,"instance":{"instance_id":"order-42","execution_id":"6f...","name":"order",...}}
    {"execution_id":"6f...","event_id":0,"event":{"type":"ExecutionStarted","timestamp":"...","name":"order",...}}
    {"pending":{"type":"EventRaised","timestamp":"...","name":"decision","input":true}}
    {"end":{"events":1,"pending":1}}

Laws.
1. One archive has one text: the same instance gives the same bytes, wherever it was imported and exported again.
2. `format` counts up when a line means something else than before. What an older version wrote is read for ever;
   what a newer one wrote is refused, never guessed at: so is a field that this version does not know.
3. A reader holds no more in memory than a store could have held, and checks each line before it reads the next.

The instance's fields are those of `durable.OrchestrationStatus` (`status` is its runtime status, `updated_at` its
last update). An event has the fields of `durable.HistoryEvent`, and four more that an engine needs: `parent` (who
waits for this instance), `depth` (of sub-orchestrations), `previous` (the execution before continue-as-new) and
`formerly` (as whom a fork's shared events were recorded). Absent fields have their defaults. Payloads stand in it as
they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, Final, TypeVar

import msgspec

from ..model.history import NO_PAYLOAD, Event, Raw
from ..model.limits import Limits
from ..model.status import Summary
from .archive import Archive, ArchiveError, Recorded, check

FORMAT: Final = 1
_LARGEST: Final = 1 << 30  # bytes: it has to fit into one commit
_BESIDE_PAYLOADS: Final = 1 << 20  # bytes of a line that are no payload: a failure's traces, names, tags
_NOT_ONE: Final = "it is no exported history (see `durable export`)"

T = TypeVar("T")


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    durable: str
    format: int
    instance: Raw


class _Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    events: int
    pending: int


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Any line but the first: an event, a pending fact, or the end."""

    execution_id: str = ""
    event_id: int = -1
    event: Raw = NO_PAYLOAD
    pending: Raw = NO_PAYLOAD
    end: _Counts | None = None


def write_archive(archive: Archive) -> Iterator[bytes]:
    """The lines, each with its line break."""
    yield _line(_Header("history", FORMAT, _raw(archive.summary)))
    events = 0
    for execution in archive.executions:
        for number, event in enumerate(execution.events):
            yield _line(_Line(execution.id, number, _raw(event)))
            events += 1
    for fact in archive.pending:
        yield _line(_Line(pending=_raw(fact)))
    yield _line(_Line(end=_Counts(events, len(archive.pending))))


def _raw(value: Summary | Event) -> Raw:
    return Raw(msgspec.json.encode(value))


def _line(value: _Header | _Line) -> bytes:
    data = msgspec.json.encode(value)
    if b"\n" in data:  # a payload that another program wrote over several lines
        data = msgspec.json.format(data, indent=-1)
    return data + b"\n"


def read_archive(stream: IO[bytes], limits: Limits | None = None) -> Archive:
    """Read and check an archive. Raises ArchiveError, which names the line; OSError as the stream does."""
    lines = _lines(stream, limits or Limits())
    number, first = next(lines, (1, b""))
    header = _header(number, first)
    summary = _part(number, header.instance, Summary)
    executions: list[tuple[str, list[Event]]] = []
    pending: list[Event] = []
    end: _Counts | None = None
    for number, data in lines:
        line = _decoded(number, data, _Line)
        if end is not None:
            raise ArchiveError(f"line {number}: something follows the line that ends it")
        if line == _Line(pending=line.pending) and line.pending:
            pending.append(_part(number, line.pending, Event))
        elif line == _Line(end=line.end) and line.end is not None:
            end = line.end
        elif line == _Line(line.execution_id, line.event_id, line.event) and line.event and not pending:
            if not executions or executions[-1][0] != line.execution_id:
                executions.append((line.execution_id, []))
            events = executions[-1][1]
            if line.event_id != len(events):
                raise ArchiveError(f"line {number}: event {line.event_id} stands where event {len(events)} should be")
            events.append(_part(number, line.event, Event))
        else:
            raise ArchiveError(f"line {number}: it is neither an event in its place, nor a pending fact, nor the end")
    counted = _Counts(sum(len(events) for _, events in executions), len(pending))
    if end is None:
        raise ArchiveError(f"it ends after line {number}, in the middle: the file was cut short")
    if end != counted:
        raise ArchiveError(
            f"its last line counts {end.events} events and {end.pending} pending facts; it has {counted.events} and "
            f"{counted.pending}: lines are missing, or were added"
        )
    archive = Archive(summary, [Recorded(id, events) for id, events in executions], pending)
    check(archive)
    return archive


def _lines(stream: IO[bytes], limits: Limits) -> Iterator[tuple[int, bytes]]:
    longest = 2 * limits.payload_bytes + _BESIDE_PAYLOADS
    number = read = 0
    while line := stream.readline(longest + 1):
        number += 1
        read += len(line)
        if len(line) > longest:
            raise ArchiveError(f"line {number} is longer than {longest:,} bytes (Limits.payload_bytes)")
        if read > _LARGEST:
            raise ArchiveError(f"it is larger than {_LARGEST:,} bytes, which no store takes in one commit")
        yield number, line


def _header(number: int, data: bytes) -> _Header:
    kind = _decoded(number, data, dict[str, Raw], otherwise=_NOT_ONE)
    if kind.get("durable") != Raw(b'"history"'):
        raise ArchiveError(_NOT_ONE)
    if kind.get("format") != Raw(str(FORMAT).encode()):
        shown = bytes(kind.get("format") or b"none")[:20].decode("utf-8", "replace")
        raise ArchiveError(f"its format is {ascii(shown)[1:-1]}; this version reads {FORMAT}: use a newer one")
    return _decoded(number, data, _Header)


def _part(number: int, raw: Raw, kind: type[T]) -> T:
    """An event or a summary, without fields that would be lost."""
    known: Any = kind
    unknown = sorted(_decoded(number, raw, dict[str, Raw]).keys() - set(known.__struct_fields__))
    if unknown:
        raise ArchiveError(f"line {number}: this version does not know the field {unknown[0][:60]!a}")
    return _decoded(number, raw, kind)


def _decoded(number: int, data: bytes | Raw, kind: type[T], otherwise: str = "") -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise ArchiveError(otherwise or f"line {number}: it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArchiveError(otherwise or f"line {number}: {error}") from None
