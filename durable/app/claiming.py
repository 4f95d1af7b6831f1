"""A store whose large payloads lie elsewhere (`ports.Blobs`); `payload.claims` has the laws of what stays in it.

Laws.
1. A blob is written before the commit that names it, and checked when it is read.
2. A blob is named after the execution that its commit continues, which the store knows, or begins; it goes with its
   instance. A history that is copied is copied with its payloads. So nothing is counted, and no history searched.
   What forgets the execution that it continues names its blobs after the one that it begins, and takes the others.
3. A purge is noted among the blobs before the store's, and its blobs are deleted after it: what was interrupted is
   taken up by the next purge, whoever's it is. Only what the store does not know (any more) is deleted.
4. What a start has written that was refused is deleted at once, what one has that got no answer some minutes later, if
   the store does not know it then; so is what belongs to an execution that was forgotten. What can't be deleted fails
   nothing, and is tried again. What a crash left of either goes with the next life of that id that is purged, once it
   is a day old: until then it may be under way.
5. `find` and whoever uses the `outline` read no blob. A blob that can't be had is a reason, not an error; blobs that
   can't be reached are a StoreError, as the store itself is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from ..model.errors import StoreError
from ..model.history import Raw, decode_events
from ..model.status import Summary
from ..payload import codec as coding
from ..payload.claims import MARK, Depositing, checked, digest, names_in, owner, place, redeemed
from ..ports import (
    Backend,
    Blobs,
    Commit,
    Delivered,
    ExecutionKey,
    Fact,
    Lease,
    Outcome,
    Purged,
    Query,
    Record,
    Row,
    RowKey,
    Slice,
    Store,
    Want,
)

_NOTES: Final = f"{'0' * 32}/"  # whose blobs say which purges are under way
_UNDER_WAY: Final = 86_400.0  # seconds
SETTLED: Final = 600.0  # seconds after which a commit that got no answer has happened, or will not
_REMEMBERED: Final = 10_000  # commits whose blobs may have to be deleted

log = logging.getLogger("durable.store")

Redeem = Callable[[bytes | Raw], bytes]


class ClaimedBackend:
    """A backend whose store keeps payloads of more than `inline` bytes in `blobs`. `outline`: without reading them."""

    def __init__(self, inner: Backend, blobs: Blobs, inline: int) -> None:
        self._inner = inner
        self._blobs = blobs
        self.outline = inner.store
        self.store: Store = ClaimedStore(inner.store, blobs, inline)
        self.signals = inner.signals
        self.membership = inner.membership

    def close(self) -> None:
        self._inner.close()
        self._blobs.close()


class _Lives(NamedTuple):
    """Executions of one instance."""

    instance_id: str
    executions: frozenset[str]

    @property
    def places(self) -> frozenset[str]:
        return frozenset(place(self.instance_id, execution) for execution in self.executions)


class _Left(NamedTuple):
    """Blobs that may be of no execution. places: how the names of more of them begin. due: on the monotonic clock."""

    due: float
    instance_ids: list[str]
    names: list[str]
    places: list[str]


_lives: Final = msgspec.json.Decoder(list[_Lives])


class ClaimedStore:
    """A store beside blobs."""

    def __init__(self, inner: Store, blobs: Blobs, inline: int) -> None:
        self._inner = inner
        self._blobs = blobs
        self._inline = inline
        self._left: deque[_Left] = deque(maxlen=_REMEMBERED)
        self.partitions = inner.partitions
        self.overlaps = inner.overlaps
        self.tells = inner.tells

    # ---- reading

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        records = self._inner.load(wants)
        redeem = self._redeeming(stored for record in records if record is not None for stored in _stored_in(record))
        return records if redeem is None else [r if r is None else _with_payloads(r, redeem) for r in records]

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        found = self._inner.history(execution, start, limit)
        redeem = self._redeeming(row for _, row in found.items)
        return found if redeem is None else Slice([(number, redeem(row)) for number, row in found.items], found.next)

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        found = self._inner.summaries(instance_ids)
        redeem = self._redeeming(summary.output for summary in found if summary is not None)
        return found if redeem is None else [s if s is None else _with_output(s, redeem) for s in found]

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        found = self._inner.input_of(executions)
        # The row may hold more of the first turn, of which nobody asks here.
        redeem = self._redeeming(decode_events(row)[0].input for row in found if row is not None and MARK in row)
        return found if redeem is None else [row if row is None else redeem(row) for row in found]

    def _redeeming(self, stored: Iterable[bytes | Raw]) -> Redeem | None:
        """How to put what is kept elsewhere into its place; None where there is nothing to put."""
        names = list(dict.fromkeys(name for some in stored for name in names_in(some)))
        if not names:
            return None
        found = {name: checked(name, data) for name, data in zip(names, self._blobs.get(names), strict=True)}
        return lambda some: redeemed(some, found)

    # ---- writing

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        return self.begin(commits)()

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        blobs: dict[str, bytes] = {}
        small = [self._deposited(commit, blobs) for commit in commits]
        if not blobs and not any(commit.forgotten for commit in commits):
            return self._inner.begin(small)
        if blobs:
            self._blobs.put(blobs)
        try:
            finish = self._inner.begin(small)
        except StoreError:
            self._leave(commits, blobs, SETTLED)
            raise

        def finished() -> list[Outcome]:
            try:
                outcomes = finish()
            except StoreError:
                self._leave(commits, blobs, SETTLED)
                raise
            answers = list(zip(commits, outcomes, strict=True))
            self._leave([commit for commit, outcome in answers if outcome is Outcome.UNKNOWN], blobs, SETTLED)
            self._leave([commit for commit, outcome in answers if outcome is Outcome.CONFLICT], blobs, 0.0)
            self._leave([c for c, outcome in answers if c.forgotten and outcome is Outcome.COMMITTED], blobs, 0.0)
            self._tidy()
            return outcomes

        return finished

    def _deposited(self, commit: Commit, blobs: dict[str, bytes]) -> Commit:
        """The commit as it is stored; what is large in it goes to `blobs`."""
        inline, summary = self._inline, commit.summary
        if len(summary.output) <= inline and all(len(a.events) <= inline for a in commit.appends):
            return commit
        way = Depositing(_place_for(commit), inline, blobs)
        return msgspec.structs.replace(
            commit,
            summary=msgspec.structs.replace(summary, output=way.payload(summary.output)),
            appends=tuple(a._replace(events=coding.row(a.events, way)) for a in commit.appends),
        )

    def _leave(self, commits: Sequence[Commit], blobs: Iterable[str], seconds: float) -> None:
        """What they begin may not have happened, what they forget may be gone: look at its blobs in so many seconds."""
        some = [commit for commit in commits if not commit.expect or commit.forgotten]
        begun = frozenset(map(_place_for, some))
        names = [name for name in blobs if _place_of(name) in begun]
        places = [place(commit.instance_id, commit.forgotten) for commit in some if commit.forgotten]
        if names or places:
            left = _Left(time.monotonic() + seconds, [commit.instance_id for commit in some], names, places)
            (self._left.append if seconds else self._left.appendleft)(left)

    def _tidy(self) -> None:
        """Delete what is due and of no execution that the store knows."""
        try:
            while self._left and self._left[0].due <= time.monotonic():
                left = self._left.popleft()
                if left.due > time.monotonic():  # another thread has taken the one that was due
                    self._left.appendleft(left)
                    return
                try:
                    kept = frozenset(part for lives in self._known(left.instance_ids) for part in lives.places)
                    gone = [one for one in left.places if one not in kept]
                    more = [blob.name for blob in self._blobs.names(gone)] if gone else []
                    self._blobs.delete([name for name in left.names if _place_of(name) not in kept] + more)
                except StoreError:
                    self._left.append(left._replace(due=time.monotonic() + SETTLED))
                    raise
        except IndexError:
            return  # another thread has taken the last one
        except StoreError as error:
            log.warning("blobs of no execution stay for now: %s", error)

    # ---- purging

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        self._take_up()
        lives = self._known([key.instance_id for key in executions])
        data = msgspec.json.encode(lives)
        note = f"{_NOTES}{'0' * 32}/{digest(data)}"
        self._blobs.put({note: data})
        answers = self._inner.purge(executions)
        self._discard(lives)
        self._blobs.delete([note])
        return answers

    def _take_up(self) -> None:
        """Go on with purges that were interrupted."""
        notes = [blob.name for blob in self._blobs.names([_NOTES])]
        for note, data in zip(notes, self._blobs.get(notes) if notes else [], strict=True):
            data = checked(note, data)
            if isinstance(data, str):
                continue  # it has just ended
            lives = _lives.decode(data)
            self._discard(lives)
            known = self._known([life.instance_id for life in lives])
            if all(life.executions.isdisjoint(kept.executions) for life, kept in zip(lives, known, strict=True)):
                self._blobs.delete([note])

    def _discard(self, purged: Sequence[_Lives]) -> None:
        """Delete the blobs of what is gone: all but those that the store knows, or may be about to know."""
        blobs = self._blobs.names([owner(life.instance_id) for life in purged]) if purged else []
        if not blobs:
            return
        known = self._known([life.instance_id for life in purged])
        kept = frozenset(part for lives in known for part in lives.places)
        theirs = frozenset(part for lives in purged for part in lives.places)
        before = time.time() - _UNDER_WAY
        self._blobs.delete(
            [
                blob.name
                for blob in blobs
                if (part := _place_of(blob.name)) not in kept and (part in theirs or blob.written_at < before)
            ]
        )

    def _known(self, instance_ids: Sequence[str]) -> list[_Lives]:
        """The executions that the store has of each."""
        summaries = self._inner.summaries(instance_ids)
        former = self._inner.former(instance_ids)
        return [
            _Lives(instance_id, frozenset([*before, *([] if summary is None else [summary.execution_id])]))
            for instance_id, summary, before in zip(instance_ids, summaries, former, strict=True)
        ]

    # ---- what has its payloads with it

    def find(self, query: Query) -> Slice[Summary]:
        return self._inner.find(query)

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        return self._inner.deliver(facts)

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        return self._inner.due(partition, group, until, limit, after)

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        return self._inner.rows(keys)

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        return self._inner.lease(leases)

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        return self._inner.former(instance_ids)

    def clear(self, partition: int, limit: int) -> int:
        return self._inner.clear(partition, limit)

    def close(self) -> None:
        self._inner.close()


def _stored_in(record: Record) -> Iterable[bytes | Raw]:
    """Where claims may be. In the inbox: of an outcome that was told while its blob could not be had."""
    return (*(record.history or ()), *(row.body for row in record.inbox), record.summary.output)


def _with_payloads(record: Record, redeem: Redeem) -> Record:
    history = record.history
    return msgspec.structs.replace(
        record,
        summary=_with_output(record.summary, redeem),
        history=None if history is None else tuple(map(redeem, history)),
        inbox=tuple(msgspec.structs.replace(row, body=redeem(row.body)) for row in record.inbox),
    )


def _with_output(summary: Summary, redeem: Redeem) -> Summary:
    return msgspec.structs.replace(summary, output=Raw(redeem(summary.output))) if summary.output else summary


def _place_for(commit: Commit) -> str:
    """How the names of its blobs begin."""
    return place(commit.instance_id, commit.summary.execution_id if commit.forgotten else commit.continues)


def _place_of(name: str) -> str:
    return name[: name.rindex("/") + 1]
