"""Removing orchestrations that have ended, with what they have started.

Laws.
1. A family is purged from its leaves up, so that what an interrupted purge has left is still found from its parent.
2. What a purge leaves in the store goes in pages, with this purge or the next one of that partition.
3. No payload that lies outside the store is looked at, but by the wait for a child that is still ending.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from ..engine.codeless import RECURSIVE
from ..engine.instance import task_key
from ..engine.ledger import Ledger
from ..model import history as h
from ..model.errors import InstanceNotFinishedError, InstanceNotFoundError, TimeoutError
from ..model.history import Event, UnreadableHistory
from ..model.names import check_name, partition_of
from ..model.status import RuntimeStatus, Summary
from ..payload.claims import refuse_claims
from ..ports import STATUS, ExecutionKey, Purged, Query, RowKey
from ..replay.guard import refuse_inside
from .listing import listed
from .reader import check_text, statuses, timestamp
from .sealing import has_blobs
from .steering import Steerer

ENDING_SECONDS: Final = 30.0  # for sub-orchestrations that end with their parent
_PAGE: Final = 200  # instances purged together
_PIECES: Final = 500
_FINISHED: Final = frozenset(status for status in RuntimeStatus if status.finished)


class _Child(NamedTuple):
    """A sub-orchestration of a finished instance. `told`: the rows that are left while it is being told to end."""

    instance_id: str
    told: Sequence[RowKey]


class Purger(Steerer):
    """The part of a client that removes what has ended."""

    def purge(self, instance_id: str, *, recursive: bool = True) -> int:
        """Remove a finished orchestration with everything stored of it; how many instances are gone.

        recursive: its finished sub-orchestrations too; those that are still ending with it are waited for (at most 30
        seconds, then durable.TimeoutError, and calling again goes on). 0 for an unknown id. What arrives for it later
        is ignored. Raises InstanceNotFinishedError, and PayloadError where payloads lie outside the store, and would
        stay, because this client has no `blobs=`.
        """
        refuse_inside("purge", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        while True:
            summary = self._summary(instance_id)
            if summary is None:
                self._clear([instance_id])
                return 0
            self._refuse_unfinished(summary, "purge")
            family = self._family([summary], recursive)
            gone = self._purge(family)
            if family[-1].instance_id in gone:
                return len(gone)

    def purge_where(
        self,
        *,
        status: RuntimeStatus | str | Iterable[RuntimeStatus | str] | None = None,
        name: str | None = None,
        prefix: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        recursive: bool = True,
    ) -> int:
        """Remove all finished orchestrations that fit, as `purge` does; how many instances are gone.

        The filters are those of `list_orchestrations`; all must hold, and what has not finished is left alone.
        """
        refuse_inside("purge_where", "an activity that calls the client")
        wanted = statuses(status)
        query = Query(
            status=_FINISHED if wanted is None else wanted & _FINISHED,
            name=check_text(name, "name="),
            prefix=check_text(prefix, "prefix="),
            created_after=timestamp(created_after, "created_after="),
            created_before=timestamp(created_before, "created_before="),
            limit=_PAGE,
        )
        count = 0
        while True:
            page = listed(self._outline, query)
            count += len(self._purge(self._family(page.items, recursive)))
            if page.next is None:
                return count
            query = msgspec.structs.replace(query, cursor=page.next)

    def _refuse_unfinished(self, summary: Summary, what: str) -> None:
        if not summary.status.finished:
            raise InstanceNotFinishedError(
                f"{what}: orchestration {summary.instance_id!r} is {summary.status}; wait for its end, or terminate it"
            )

    def _purge(self, family: Sequence[ExecutionKey]) -> set[str]:
        """Those that are gone now."""
        answers = self._store.purge(family)
        gone = {key.instance_id for key, answer in zip(family, answers, strict=True) if answer is Purged.GONE}
        for instance_id in gone:
            self._waits.forget(instance_id)
        self._clear(gone)
        if gone:
            self._signals.notify(STATUS, gone)
        return gone

    def _clear(self, instance_ids: Iterable[str]) -> None:
        for partition in {partition_of(i, self._store.partitions) for i in instance_ids}:
            while self._store.clear(partition, _PIECES):
                pass

    def _family(self, summaries: Sequence[Summary], recursive: bool) -> list[ExecutionKey]:
        """These and (recursive) what they have started, children before their parents; all finished."""
        found: dict[str, ExecutionKey] = {}
        if not recursive and has_blobs(self._backend):
            return [ExecutionKey(summary.instance_id, summary.execution_id) for summary in summaries]
        former = self._store.former([summary.instance_id for summary in summaries])
        for summary, executions in zip(summaries, former, strict=True):
            histories = self._histories(summary, executions)
            if not recursive:
                with suppress(UnreadableHistory):  # it can go all the same
                    for _ in histories:
                        pass  # they are read for what they refuse
            elif children := self._children(summary, histories):
                found.update({key.instance_id: key for key in self._family(children, recursive)})
        for summary in summaries:
            found.pop(summary.instance_id, None)
            found[summary.instance_id] = ExecutionKey(summary.instance_id, summary.execution_id)
        return list(found.values())

    def _histories(self, summary: Summary, former: Sequence[str]) -> Iterator[list[Event]]:
        """Of each of its executions. Raises PayloadError for payloads that lie where this client can't delete them."""
        for execution in (*former, summary.execution_id):
            key = ExecutionKey(summary.instance_id, execution)
            try:
                events = [event for _, event in self._numbered(self._outline, key)]
            except UnreadableHistory as error:
                raise UnreadableHistory(
                    f"purge: which children {summary.instance_id!r} has can't be told ({error}); "
                    "purge it alone, with recursive=False or --keep-children"
                ) from error
            if not has_blobs(self._backend):
                refuse_claims(events, f"purge: orchestration {summary.instance_id!r}")
            yield events

    def _children(self, summary: Summary, histories: Iterable[Sequence[Event]]) -> list[Summary]:
        """The finished sub-orchestrations of a finished instance, once those that end with it have ended."""
        children: dict[str, _Child] = {}
        for events in histories:
            children.update({e.instance_id: _Child(e.instance_id, ()) for e in events if e.type == h.CHILD_CREATED})
            if any(e.type == h.EXECUTION_TERMINATED and e.status == RECURSIVE for e in events[-2:]):
                told = Ledger(events).children.values()
                children.update({e.instance_id: self._told(summary, e) for e in told})
        deadline = time.monotonic() + ENDING_SECONDS
        for child in children.values():
            if child.told:
                self._until_ended(child, summary, deadline)
        ids = list(children)
        some = [s for first in range(0, len(ids), _PAGE) for s in self._outline.summaries(ids[first : first + _PAGE])]
        return [s for s in some if s is not None and s.status.finished and s.parent_instance_id == summary.instance_id]

    def _told(self, summary: Summary, created: Event) -> _Child:
        partition = partition_of(summary.instance_id, self._store.partitions)
        key = task_key(summary.execution_id, created.task_id, created.attempt)
        return _Child(created.instance_id, [RowKey(partition, f"{key}/{what}") for what in ("start", "terminate")])

    def _until_ended(self, child: _Child, parent: Summary, deadline: float) -> None:
        """Wait for a child that was terminated with its parent, perhaps before it began. Raises TimeoutError."""
        while True:
            under_way = any(self._store.rows(child.told))  # first: what is under way no more has arrived when we look
            summary = self._summary(child.instance_id)
            foreign = summary is not None and summary.parent_instance_id != parent.instance_id
            if foreign or (summary is None and not under_way) or (summary is not None and summary.status.finished):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"purge: sub-orchestration {child.instance_id!r} of {parent.instance_id!r} is still ending, which "
                    "takes a running worker; its parent is kept, so purge again then (or with recursive=False)"
                )
            if summary is None:
                time.sleep(min(left, 0.02))  # its start is under way, and nothing tells of that
                continue
            try:
                self._waits.wait(child.instance_id, left, "finished", False)
            except (TimeoutError, InstanceNotFoundError):
                continue
