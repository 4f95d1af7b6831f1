"""Other lives for orchestrations that have ended: rewound, restarted, replaced, forked, or purged.

Laws.
1. Each is a commit of the caller, checked by version as a turn is: when the call returns, it has happened.
2. A family is purged from its leaves up, so that what an interrupted purge has left is still found from its parent.
3. What a purge leaves in the store goes in pages, with this purge or the next one of that partition.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

import msgspec

from ..engine.codeless import RECURSIVE
from ..engine.fork import fork, last_to_share
from ..engine.instance import task_key
from ..engine.ledger import Ledger
from ..engine.step import create, in_place_of
from ..model import history as h
from ..model.errors import (
    InstanceExistsError,
    InstanceNotFinishedError,
    InstanceNotFoundError,
    InvalidStateError,
    TimeoutError,
)
from ..model.history import Event, decode_events
from ..model.limits import Limits
from ..model.names import check_name, partition_of
from ..model.status import RuntimeStatus, Summary
from ..payload.values import encode
from ..ports import (
    FACTS,
    STATUS,
    Backend,
    Commit,
    ExecutionKey,
    Outcome,
    Purged,
    Query,
    Record,
    RowKey,
    Transport,
    Want,
)
from ..runtime.rewinding import Part, answer_requests, drive, end_rows, requests_of, rewind_instance
from .handle import OrchestrationHandle
from .reader import statuses, timestamp
from .starting import HandOver, nobody_takes
from .steering import Steerer
from .waiting import Waits

ENDING_SECONDS: Final = 30.0  # for sub-orchestrations that end with their parent
_PAGE: Final = 200  # instances purged together
_PIECES: Final = 500
_FINISHED: Final = frozenset(status for status in RuntimeStatus if status.finished)


class _Child(NamedTuple):
    """A sub-orchestration of a finished instance. `told`: the rows that are left while it is being told to end."""

    instance_id: str
    told: Sequence[RowKey]


class Renewer(Steerer):
    """The part of a client that begins lives anew, and ends what is left of them."""

    def __init__(self, backend: Backend, transport: Transport | None, workspace: str, limits: Limits) -> None:
        super().__init__(backend, transport, workspace, limits)
        self._waits = Waits(backend)
        self._reply_to = ""
        self._hand_over: HandOver = nobody_takes

    def handle(self, instance_id: str) -> OrchestrationHandle[Any]:
        """A handle on an instance, whether or not it exists; results come as plain JSON."""
        raise NotImplementedError

    # ---- rewinding

    def rewind(self, instance_id: str, reason: Any = None) -> None:
        """Let a FAILED orchestration go on from before what failed it; it is RUNNING when this returns.

        The uncaught failure and the end count no more; that activity is tried again (same `idempotency_key`, retry
        policy from its first attempt), a sub-orchestration is rewound in turn, an error of its own code makes the last
        turn run again with today's code. Caught failures and finished steps stand. reason: any JSON, kept in the
        history (`ExecutionRewound`). Raises InstanceNotFoundError, InvalidStateError, PayloadError.
        """
        self._refuse_inside("rewind", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        payload = encode(reason, "the reason for rewinding", self._limits)
        part = Part(self._now, self._ids, self._store.partitions)
        commit: Commit | None = None
        while commit is None:
            record = self._existing(instance_id, "rewind")
            if record.summary.status is not RuntimeStatus.FAILED:
                raise InvalidStateError(
                    f"rewind: orchestration {instance_id!r} is {record.summary.status}; only a FAILED one is rewound"
                )
            commit = drive(rewind_instance(record, payload, part), self._store)
        rewound = drive(answer_requests(requests_of(commit), part), self._store)
        drive(end_rows(rewound.answered), self._store)
        touched = [instance_id, *rewound.touched]
        self._signals.notify(FACTS, touched)
        self._signals.notify(STATUS, touched)

    # ---- restarting, forking

    def restart(self, instance_id: str, *, new_instance_id: str | None = None) -> OrchestrationHandle[Any]:
        """Start a finished orchestration once more: same name, version, tags and input.

        new_instance_id: default is a fresh one; the same id starts it in place, atomically. Raises
        InstanceNotFoundError, InstanceNotFinishedError, InstanceExistsError.
        """
        self._refuse_inside("restart", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        new_id = uuid4().hex if new_instance_id is None else check_name(new_instance_id, "new_instance_id=")
        summary = self._summary(instance_id)
        if summary is None:
            raise InstanceNotFoundError(f"restart: no orchestration has the id {instance_id!r}")
        self._refuse_unfinished(summary, "restart")
        creation = self._once_more(summary, new_id)
        if new_id == instance_id:
            if not self._replace(creation):
                raise InstanceNotFinishedError(f"restart: orchestration {instance_id!r} has been started meanwhile")
        elif self._start([creation], unheard_of=new_instance_id is None):
            raise InstanceExistsError(f"restart: {new_id!r} is taken; choose another new_instance_id", [new_id])
        return self.handle(new_id)

    def _once_more(self, summary: Summary, new_id: str) -> Commit:
        [row] = self._store.input_of([ExecutionKey(summary.instance_id, summary.execution_id)])
        if row is None:
            raise InstanceNotFoundError(f"restart: orchestration {summary.instance_id!r} has just been purged")
        before = decode_events(row)[0]
        started = Event(
            h.EXECUTION_STARTED,
            self._now(),
            name=before.name,
            input=before.input,
            instance_id=new_id,
            execution_id=self._ids(),
            version=summary.version,
            tags=before.tags,
            seed=self._ids(),
            group=before.group,
            reply_to=self._reply_to,
        )
        return create(new_id, started, self._store.partitions, self._ids())

    def fork(self, instance_id: str, *, after: int, new_instance_id: str | None = None) -> OrchestrationHandle[Any]:
        """Start another orchestration that has the events 0 to `after` of this one, and goes its own way from there.

        after: the number of an event of the current execution (`event_id` of its history). What is open there is
        scheduled again under the new id (default: a fresh one); where the commands of a fact are cut off, that fact is
        taken again. Code that put `ctx.instance_id` or `ctx.execution_id` into what it asked for before is BLOCKED.
        Raises InstanceNotFoundError, InstanceExistsError, and ValueError for a number out of range.
        """
        self._refuse_inside("fork", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        new_id = uuid4().hex if new_instance_id is None else check_name(new_instance_id, "new_instance_id=")
        record = self._existing(instance_id, "fork")
        last = last_to_share([event for row in record.history or () for event in decode_events(row)])
        if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after <= last:  # pyright: ignore[reportUnnecessaryIsInstance]  # users may give anything
            raise ValueError(f"fork: after={after!r}: give the number of an event of {instance_id!r}, from 0 to {last}")
        creation = fork(record, after, new_id, self._now(), self._ids, self._store.partitions, self._reply_to)
        if self._start([creation], unheard_of=False):  # its rows are more than the one that a new instance begins with
            raise InstanceExistsError(f"fork: {new_id!r} is taken; choose another new_instance_id", [new_id])
        return self.handle(new_id)

    def _existing(self, instance_id: str, what: str) -> Record:
        record = self._record(instance_id)
        if record is None:
            raise InstanceNotFoundError(f"{what}: no orchestration has the id {instance_id!r}")
        return record

    # ---- starting

    def _start(self, commits: list[Commit], *, unheard_of: bool) -> list[str]:
        """Commit the starts; the ids that were taken before.

        unheard_of: the ids were made here, so nobody can have sent anything to them yet, and their inboxes are empty.
        """
        outcomes = self._store.commit(commits)
        started = [c for c, outcome in zip(commits, outcomes, strict=True) if outcome is Outcome.COMMITTED]
        hinted = self._hand_over(started) if unheard_of else [c.instance_id for c in started]
        unclear = [c for c, outcome in zip(commits, outcomes, strict=True) if outcome is Outcome.UNKNOWN]
        existing = [c.instance_id for c, outcome in zip(commits, outcomes, strict=True) if outcome is Outcome.CONFLICT]
        refused: set[str] = set()
        while unclear:
            # Reading tells: an execution id is minted here and never repeats. What is absent did not happen, or (when
            # it is refused) has been purged since.
            records = self._store.load([Want(c.instance_id) for c in unclear])
            missing: list[Commit] = []
            for commit, record in zip(unclear, records, strict=True):
                if record is None and commit.id not in refused:
                    missing.append(commit)
                elif record is not None and record.summary.execution_id != commit.summary.execution_id:
                    existing.append(commit.instance_id)
            hinted += [c.instance_id for c in unclear]
            outcomes = self._store.commit(missing) if missing else []
            refused |= {c.id for c, outcome in zip(missing, outcomes, strict=True) if outcome is Outcome.CONFLICT}
            unclear = [c for c, outcome in zip(missing, outcomes, strict=True) if outcome is not Outcome.COMMITTED]
        self._signals.notify(FACTS, hinted)
        return existing

    def _replace(self, creation: Commit) -> bool:
        """Start it, in place of what has finished under this id; False while that has not."""
        outcome: Outcome | None = None
        while outcome is not Outcome.COMMITTED:
            record = self._record(creation.instance_id)
            commit = creation
            if record is None:
                if outcome is Outcome.CONFLICT:
                    break  # ours was there, and has been purged since
            elif record.summary.execution_id == creation.summary.execution_id:
                break
            elif not record.summary.status.finished:
                return False
            else:
                commit = in_place_of(record, creation)
            [outcome] = self._store.commit([commit])
        self._waits.forget(creation.instance_id)
        self._signals.notify(FACTS, [creation.instance_id])
        return True

    # ---- purging

    def purge(self, instance_id: str, *, recursive: bool = True) -> int:
        """Remove a finished orchestration with everything stored of it; how many instances are gone.

        recursive: its finished sub-orchestrations too; those that are still ending with it are waited for (at most 30
        seconds, then durable.TimeoutError, and calling again goes on). 0 for an unknown id. What arrives for it later
        is ignored. Raises InstanceNotFinishedError.
        """
        self._refuse_inside("purge", "an activity that calls the client")
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
        self._refuse_inside("purge_where", "an activity that calls the client")
        wanted = statuses(status)
        query = Query(
            status=_FINISHED if wanted is None else wanted & _FINISHED,
            name=name,
            prefix=prefix,
            created_after=timestamp(created_after, "created_after="),
            created_before=timestamp(created_before, "created_before="),
            limit=_PAGE,
        )
        count = 0
        while True:
            page = self._store.find(query)
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
        former = self._store.former([summary.instance_id for summary in summaries]) if recursive else []
        for summary, executions in zip(summaries, former, strict=True) if recursive else ():
            children = self._children(summary, executions)
            if children:
                found.update({key.instance_id: key for key in self._family(children, recursive)})
        for summary in summaries:
            found.pop(summary.instance_id, None)
            found[summary.instance_id] = ExecutionKey(summary.instance_id, summary.execution_id)
        return list(found.values())

    def _children(self, summary: Summary, former: Sequence[str]) -> list[Summary]:
        """The finished sub-orchestrations of a finished instance, once those that end with it have ended."""
        children: dict[str, _Child] = {}
        for execution in (*former, summary.execution_id):
            events = self._stored_events(ExecutionKey(summary.instance_id, execution))
            children.update({e.instance_id: _Child(e.instance_id, ()) for e in events if e.type == h.CHILD_CREATED})
            if any(e.type == h.EXECUTION_TERMINATED and e.status == RECURSIVE for e in events[-2:]):
                told = Ledger(events).children.values()
                children.update({e.instance_id: self._told(summary, e) for e in told})
        deadline = time.monotonic() + ENDING_SECONDS
        for child in children.values():
            if child.told:
                self._until_ended(child, summary, deadline)
        ids = list(children)
        some = [s for first in range(0, len(ids), _PAGE) for s in self._store.summaries(ids[first : first + _PAGE])]
        return [s for s in some if s is not None and s.status.finished and s.parent_instance_id == summary.instance_id]

    def _stored_events(self, execution: ExecutionKey) -> list[Event]:
        events: list[Event] = []
        start: str | None = "0"
        while start is not None:
            rows = self._store.history(execution, int(start))
            events += (event for _, row in rows.items for event in decode_events(row))
            start = rows.next
        return events

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
