"""An archive into a store: one commit, after which the instance is there as if it had always been.

Laws.
1. All or nothing: history, status, inbox and open work come with the commit that creates the instance.
2. What is open is scheduled as after a crash: activities run again, timers keep their moments, children are asked
   for again. A child that is in the store already is found by its id, so import children before their parent.
3. Where it came from it may still be going on, and then its activities would run in both places. So an unfinished
   instance is taken only with `go_on`; a finished one does nothing any more.
4. Under another id it is a copy: nobody's child, with execution ids of its own, made from both ids, so that no outcome
   of one can count for the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec

from ..engine.codeless import kept_events
from ..engine.effects import Effects, wake_row
from ..engine.instance import Arrival, Env, Instance
from ..engine.ledger import Ledger
from ..engine.messages import child_outcome
from ..engine.reopening import open_timers
from ..model import history as h
from ..model.errors import InstanceExistsError
from ..model.history import Event, Parent, decode_events, encode_event, encode_events, formerly
from ..model.limits import Limits
from ..model.names import check_name
from ..model.rewinding import standing
from ..model.status import RuntimeStatus
from ..ports import FACTS, Append, Backend, Commit, ExecutionKey, Outcome, Row, Store, Want
from ..replay.guard import Watch
from .archive import Archive, Recorded
from .identity import Ids
from .tries import tries

_EVENTS_A_ROW: Final = 500


def restore(
    backend: Backend, archive: Archive, now: datetime, *, instance_id: str | None = None, go_on: bool = False
) -> str:
    """Put a checked archive into a store; returns the instance's id.

    now: aware; when open work is due. instance_id: default is that of the archive. Raises InstanceExistsError for a
    taken id, ValueError for an unfinished instance without `go_on`, StoreError.
    """
    if instance_id is not None and instance_id != archive.summary.instance_id:
        archive = _copy(archive, check_name(instance_id, "the new id"))
    summary, store = archive.summary, backend.store
    if not summary.status.finished and not go_on:
        raise ValueError(
            f"{summary.instance_id!r} is {summary.status}: imported, it would go on here, and its open activities "
            "would run again. Make sure that it does not run where it came from, then import it to go on; to look "
            "whether code fits it, replay the file instead"
        )
    _refuse_taken(store, archive)
    commit = _creation(store, archive, now.timestamp())
    outcome = store.commit([commit])[0]
    again = tries(f"import {summary.instance_id!r}")
    while outcome is Outcome.UNKNOWN:
        next(again)
        record = store.load([Want(summary.instance_id)])[0]
        if record is None:
            outcome = store.commit([commit])[0]
        else:
            outcome = Outcome.COMMITTED if record.commit_id == commit.id else Outcome.CONFLICT
    if outcome is Outcome.CONFLICT:
        raise _taken(summary.instance_id) if store.summaries([summary.instance_id])[0] else _purged(summary.instance_id)
    backend.signals.notify(FACTS, [summary.instance_id])
    return summary.instance_id


def _refuse_taken(store: Store, archive: Archive) -> None:
    instance_id = archive.summary.instance_id
    if store.load([Want(instance_id)])[0] is not None:
        raise _taken(instance_id)
    keys = [ExecutionKey(instance_id, execution.id) for execution in archive.executions]
    if any(row is not None for row in store.input_of(keys)):
        raise InstanceExistsError(
            f"the store has this history of {instance_id!r} already; import it under another id (--as)"
        )


def _taken(instance_id: str) -> InstanceExistsError:
    return InstanceExistsError(
        f"the id {instance_id!r} is taken in this store; import it under another id (--as)", [instance_id]
    )


def _purged(instance_id: str) -> InstanceExistsError:
    return InstanceExistsError(
        f"{instance_id!r} was purged from this store a short time ago, and does not come back for a day; import it "
        "under another id (--as)"
    )


# ---- a copy


def _copy(archive: Archive, instance_id: str) -> Archive:
    ids = {execution.id: _derived(execution.id, instance_id) for execution in archive.executions}
    summary = msgspec.structs.replace(
        archive.summary,
        instance_id=instance_id,
        execution_id=ids[archive.summary.execution_id],
        parent_instance_id="",
    )
    executions = [
        Recorded(ids[id], [_started(events, instance_id, ids), *events[1:]]) for id, events in archive.executions
    ]
    pending = [
        msgspec.structs.replace(fact, execution_id=ids.get(fact.execution_id, fact.execution_id))
        for fact in archive.pending
    ]
    return Archive(summary, executions, pending)


def _derived(execution_id: str, instance_id: str) -> str:
    return hashlib.sha256(f"{execution_id}/{instance_id}".encode()).hexdigest()[:32]


def _started(events: Sequence[Event], instance_id: str, ids: dict[str, str]) -> Event:
    event = events[0]
    return msgspec.structs.replace(
        event,
        instance_id=instance_id,
        execution_id=ids[event.execution_id],
        previous=ids.get(event.previous, ""),
        parent=None,
        formerly=formerly(event, len(events)),
    )


# ---- its one commit


def _creation(store: Store, archive: Archive, now: float) -> Commit:
    current = archive.executions[-1].events
    summary = msgspec.structs.replace(archive.summary, length=len(current))
    mint = Ids()
    env = Env("", 0.0, mint, store.partitions, Limits(), Watch())
    instance = Instance(summary, 0, current[0], len(current))
    effects = Effects(instance, env, now)
    pending = list(archive.pending)
    if not summary.status.finished:
        ledger, stands = Ledger(current), [event for _, event in standing(current)]
        present, outcomes = _children(store, archive, ledger)
        pending += outcomes
        children = [event for task_id, event in ledger.children.items() if task_id not in present]
        effects.of([*ledger.tasks.values(), *open_timers(stands), *children], 0)
        begun = any(event.type == h.ORCHESTRATOR_STARTED for event in stands)
        if not begun or summary.status is RuntimeStatus.BLOCKED:
            effects.put.append(wake_row(summary, effects.partition, now, ""))
        effects.put += [_inbox_row(effects, number, fact, now) for number, fact in enumerate(pending)]
    effects.put += kept_events(summary, effects.partition, 0, [Arrival(fact, fact.execution_id) for fact in pending])
    appends = [append for execution in archive.executions for append in _appends(execution)]
    return Commit(mint(), summary.instance_id, effects.partition, 0, summary, tuple(appends), tuple(effects.put))


def _appends(execution: Recorded) -> Iterator[Append]:
    for start in range(0, len(execution.events), _EVENTS_A_ROW):
        yield Append(execution.id, start, encode_events(list(execution.events[start : start + _EVENTS_A_ROW])))


def _inbox_row(effects: Effects, number: int, fact: Event, now: float) -> Row:
    summary = effects.summary
    # What the engine itself puts there sorts before what is delivered later, and rows that begin with wake/ are read
    # again after a conflict.
    key = f"wake/{summary.execution_id}/{number:06}"
    return Row(key, "inbox", summary.instance_id, effects.partition, now, body=encode_event(fact), group=summary.group)


def _children(store: Store, archive: Archive, ledger: Ledger) -> tuple[set[int], Sequence[Event]]:
    """Open children that are in the store: their task ids, and the outcomes of those that have ended."""
    summary = archive.summary
    opened = list(ledger.children.items())
    records = store.load([Want(event.instance_id) for _, event in opened]) if opened else []
    present: set[int] = set()
    outcomes: list[Event] = []
    for (task_id, created), record in zip(opened, records, strict=True):
        if record is None:
            continue
        events = [event for row in record.history or () for event in decode_events(row)]
        parent = Parent(summary.instance_id, summary.execution_id, task_id, created.attempt)
        if events[0].parent == parent:
            present.add(task_id)
            if record.summary.status.finished:
                outcomes.append(child_outcome(parent, events[-1], created.instance_id).event)
    return present, outcomes
