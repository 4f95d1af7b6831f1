"""Other lives for orchestrations that have ended: rewound, restarted, replaced or forked.

Each is a commit of the caller, checked by version as a turn is: when the call returns, it has happened.
"""

from __future__ import annotations

from typing import Any

from ..engine.fork import fork, last_to_share
from ..engine.step import create, in_place_of
from ..model import history as h
from ..model.errors import (
    InstanceExistsError,
    InstanceNotFinishedError,
    InvalidStateError,
    not_found,
)
from ..model.history import Event, decode_events
from ..model.limits import Limits
from ..model.names import check_name
from ..model.status import RuntimeStatus, Summary
from ..payload.claims import refuse_claims
from ..payload.values import encode
from ..ports import FACTS, STATUS, Backend, Commit, ExecutionKey, Outcome, Record, Transport, Want
from ..replay.guard import refuse_inside
from ..runtime.rewinding import Part, answer_requests, drive, end_rows, requests_of, rewind_instance
from .handle import OrchestrationHandle
from .identity import random_ids
from .purging import Purger
from .starting import Neighbour, Nobody
from .tries import tries


class Renewer(Purger):
    """The part of a client that begins lives anew."""

    def __init__(self, backend: Backend, transport: Transport | None, workspace: str, limits: Limits) -> None:
        super().__init__(backend, transport, workspace, limits)
        self._reply_to = ""
        self._neighbour: Neighbour = Nobody()

    # ---- rewinding

    def rewind(self, instance_id: str, reason: Any = None) -> None:
        """Let a FAILED orchestration go on from before what failed it; it is RUNNING when this returns.

        The uncaught failure and the end count no more; that activity is tried again (same `idempotency_key`, retry
        policy from its first attempt), a sub-orchestration is rewound in turn, an error of its own code makes the last
        turn run again with today's code. Caught failures and steps finished before stand; what the code has done since
        it was told of the failure (the compensation of a saga) is void. reason: any JSON, kept in the history
        (`ExecutionRewound`). Raises InstanceNotFoundError, InvalidStateError, PayloadError.
        """
        refuse_inside("rewind", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        payload = encode(reason, "the reason for rewinding", self._limits)
        part = Part(self._now, self._ids, self._store.partitions)
        commit: Commit | None = None
        again = tries(f"rewind {instance_id!r}")
        while commit is None:
            next(again)
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
        InstanceNotFoundError, InstanceNotFinishedError, InstanceExistsError, and PayloadError for an input that is
        not to be had.
        """
        refuse_inside("restart", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        new_id = random_ids(1)[0] if new_instance_id is None else check_name(new_instance_id, "new_instance_id=")
        summary = self._summary(instance_id)
        if summary is None:
            raise not_found("restart", instance_id)
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
            raise not_found("restart", summary.instance_id)  # purged meanwhile
        before = decode_events(row)[0]
        refuse_claims([before], f"restart: orchestration {summary.instance_id!r}")
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
        taken again. What they share is replayed with `ctx.instance_id` and `ctx.execution_id` as they were.
        Raises InstanceNotFoundError, InstanceExistsError, ValueError for a number out of range, and PayloadError for
        a payload that is not to be had.
        """
        refuse_inside("fork", "an activity that calls the client")
        check_name(instance_id, "instance_id")
        new_id = random_ids(1)[0] if new_instance_id is None else check_name(new_instance_id, "new_instance_id=")
        record = self._existing(instance_id, "fork")
        events = [event for row in record.history or () for event in decode_events(row)]
        last = last_to_share(events)
        if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after <= last:  # pyright: ignore[reportUnnecessaryIsInstance]  # users may give anything
            raise ValueError(f"fork: after={after!r}: give the number of an event of {instance_id!r}, from 0 to {last}")
        refuse_claims(events[: after + 1], f"fork: orchestration {instance_id!r}")
        creation = fork(record, after, new_id, self._now(), self._ids, self._store.partitions, self._reply_to)
        if self._start([creation], unheard_of=False):  # its rows are more than the one that a new instance begins with
            raise InstanceExistsError(f"fork: {new_id!r} is taken; choose another new_instance_id", [new_id])
        return self.handle(new_id)

    def _existing(self, instance_id: str, what: str) -> Record:
        record = self._record(instance_id)
        if record is None:
            raise not_found(what, instance_id)
        return record

    def handle(self, instance_id: str) -> OrchestrationHandle[Any]:
        """A handle on an instance, whether or not it exists; results come as plain JSON."""
        return OrchestrationHandle(self, check_name(instance_id, "instance_id"))

    # ---- starting

    def _start(self, commits: list[Commit], *, unheard_of: bool) -> list[str]:
        """Commit the starts; the ids that were taken before.

        unheard_of: the ids were made here, so nobody can have sent anything to them yet, and their inboxes are empty;
        and they may begin at once.
        """
        known = self._neighbour.create(commits) if unheard_of else {}
        left = [c for c in commits if c.instance_id not in known]
        outcomes = self._store.commit(left)
        started = [c for c, outcome in zip(left, outcomes, strict=True) if outcome is Outcome.COMMITTED]
        hinted = self._neighbour.created(started) if unheard_of else [c.instance_id for c in started]
        known.update((c.instance_id, outcome) for c, outcome in zip(left, outcomes, strict=True))
        unclear = [c for c in commits if known[c.instance_id] is Outcome.UNKNOWN]
        existing = [c.instance_id for c in commits if known[c.instance_id] is Outcome.CONFLICT]
        refused: set[str] = set()
        again = tries(f"start {', '.join(repr(c.instance_id) for c in unclear[:5])}{', ...' if unclear[5:] else ''}")
        while unclear:
            next(again)
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
        if hinted:
            self._signals.notify(FACTS, hinted)
        return existing

    def _replace(self, creation: Commit) -> bool:
        """Start it, in place of what has finished under this id; False while that has not."""
        outcome: Outcome | None = None
        again = tries(f"start {creation.instance_id!r} in place of a finished one")
        while outcome is not Outcome.COMMITTED:
            next(again)
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
