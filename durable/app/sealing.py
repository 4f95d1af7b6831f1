"""The one place where a codec stands: between whoever uses a store or a broker, and the store or broker.

Behind it everything is plain, in memory; before it every payload is sealed (`payload.codec` has the laws). Engine,
replay and activities know nothing of it but that a payload may have stayed sealed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import msgspec

from ..model.errors import StoreError
from ..model.status import Summary
from ..payload import codec as coding
from ..payload.codec import Codec, Opening, Sealing
from ..ports import (
    Backend,
    Commit,
    Delivered,
    Delivery,
    Depth,
    ExecutionKey,
    Fact,
    Lease,
    Message,
    Outcome,
    Published,
    Purged,
    Query,
    Record,
    Row,
    RowKey,
    Slice,
    Store,
    Transport,
    Trouble,
    Want,
)
from .claiming import ClaimedBackend

log = logging.getLogger("durable.codec")


class SealedBackend:
    """A backend whose store holds sealed payloads. `outline`: see `outline_of`."""

    def __init__(self, inner: Backend, codec: Codec) -> None:
        self._inner = inner
        self.store: Store = SealedStore(inner.store, codec)
        self.outline: Store = SealedStore(outline_of(inner), codec)
        self.has_blobs = has_blobs(inner)
        self.signals = inner.signals
        self.membership = inner.membership

    def close(self) -> None:
        self._inner.close()


def outline_of(backend: Backend) -> Store:
    """Its store, for whoever does not look at large payloads: they stay where they are."""
    return backend.outline if isinstance(backend, SealedBackend | ClaimedBackend) else backend.store


def has_blobs(backend: Backend) -> bool:
    """Whether it has a place for large payloads outside the store."""
    return isinstance(backend, ClaimedBackend) or (isinstance(backend, SealedBackend) and backend.has_blobs)


class SealedStore:
    """A store behind a codec."""

    def __init__(self, inner: Store, codec: Codec) -> None:
        self._inner = inner
        self._seal = Sealing(codec)
        self._open = Opening(codec)
        self.partitions = inner.partitions
        self.overlaps = inner.overlaps
        self.tells = inner.tells

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        return [None if record is None else self._opened(record) for record in self._inner.load(wants)]

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        found = self._inner.history(execution, start, limit)
        return Slice([(number, coding.row(row, self._open)) for number, row in found.items], found.next)

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return self._inner.commit([self._sealed(commit) for commit in commits])

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        return self._inner.begin([self._sealed(commit) for commit in commits])

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        return self._inner.deliver([fact._replace(body=coding.document(fact.body, self._seal)) for fact in facts])

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        found = self._inner.due(partition, group, until, limit, after)
        return Slice([self._opened_row(row) for row in found.items], found.next)

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        return [None if row is None else self._opened_row(row) for row in self._inner.rows(keys)]

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        return self._inner.lease(leases)

    def find(self, query: Query) -> Slice[Summary]:
        found = self._inner.find(query)
        return Slice([coding.summary(summary, self._open) for summary in found.items], found.next)

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        found = self._inner.summaries(instance_ids)
        return [None if summary is None else coding.summary(summary, self._open) for summary in found]

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        return [None if row is None else coding.row(row, self._open) for row in self._inner.input_of(executions)]

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        return self._inner.former(instance_ids)

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        return self._inner.purge(executions)

    def clear(self, partition: int, limit: int) -> int:
        return self._inner.clear(partition, limit)

    def close(self) -> None:
        self._inner.close()

    def _opened(self, record: Record) -> Record:
        history = record.history
        return msgspec.structs.replace(
            record,
            summary=coding.summary(record.summary, self._open),
            history=None if history is None else tuple(coding.row(row, self._open) for row in history),
            inbox=tuple(map(self._opened_row, record.inbox)),
        )

    def _opened_row(self, row: Row) -> Row:
        return msgspec.structs.replace(row, body=coding.document(row.body, self._open)) if row.body else row

    def _sealed(self, commit: Commit) -> Commit:
        return msgspec.structs.replace(
            commit,
            summary=coding.summary(commit.summary, self._seal),
            appends=tuple(a._replace(events=coding.row(a.events, self._seal)) for a in commit.appends),
            put=tuple(
                msgspec.structs.replace(row, body=coding.document(row.body, self._seal)) if row.body else row
                for row in commit.put
            ),
        )


class SealedTransport:
    """A broker behind a codec: what travels is sealed as it is in the store."""

    def __init__(self, inner: Transport, codec: Codec) -> None:
        self._inner = inner
        self._seal = Sealing(codec)
        self._open = Opening(codec)
        self.dead_letters = inner.dead_letters

    def declare(self, queues: Sequence[str]) -> list[bool]:
        return self._inner.declare(queues)

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        sealed = self._sealed(messages)
        return [Published.UNKNOWN] * len(messages) if sealed is None else self._inner.publish(sealed)

    def announce(self, messages: Sequence[Message]) -> None:
        sealed = self._sealed(messages)
        if sealed is not None:
            self._inner.announce(sealed)

    def subscribe(self, queue: str, prefetch: int, sink: Callable[[Sequence[Delivery]], None]) -> None:
        self._inner.subscribe(
            queue, prefetch, lambda some: sink([d._replace(body=coding.document(d.body, self._open)) for d in some])
        )

    def unsubscribe(self, queue: str, give_back: bool = False) -> None:
        self._inner.unsubscribe(queue, give_back)

    def ack(self, tags: Sequence[object]) -> None:
        self._inner.ack(tags)

    def requeue(self, tags: Sequence[object]) -> None:
        self._inner.requeue(tags)

    def park(self, tags: Sequence[object]) -> None:
        self._inner.park(tags)

    def watch(self, call: Callable[[Trouble], None]) -> Callable[[], None]:
        return self._inner.watch(call)

    def replies(self, wake: Callable[[Collection[str]], None]) -> str:
        return self._inner.replies(wake)

    def depth(self, queue: str) -> Depth | None:
        return self._inner.depth(queue)

    def close(self) -> None:
        self._inner.close()

    def _sealed(self, messages: Sequence[Message]) -> list[Message] | None:
        """None when the codec fails: a message is a hint, and what it says stands in the store."""
        try:
            return [message._replace(body=coding.document(message.body, self._seal)) for message in messages]
        except StoreError as error:
            log.warning("%d messages were not sent, and will be tried again: %s", len(messages), error)
            return None
