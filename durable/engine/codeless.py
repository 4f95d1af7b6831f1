"""Turns that need no code: an instance that is terminated, parked, or has ended already."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from ..model import history as h
from ..model.errors import OrchestrationTerminatedError
from ..model.failure import describe
from ..model.history import Event, Raw, encode_event, encode_events
from ..model.names import partition_of
from ..model.status import RuntimeStatus, Summary
from ..ports import Append, Commit, Fact
from .effects import Effects, wake_row
from .instance import Arrival, Env, Instance, Turn, outcome_key, row_behind, task_key, timer_key, wake_key
from .ledger import Ledger
from .messages import Message, child_outcome

RECURSIVE: Final = "RECURSIVE"


def terminate(instance: Instance, request: Event, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
    """End it, whatever its code would do. Open children are told when the request is recursive."""
    summary = instance.summary
    run = Effects(instance, env, now.timestamp())
    ledger = Ledger(instance.history)
    reason = request.input
    ended = Event(h.EXECUTION_COMPLETED, now, result=reason, status=RuntimeStatus.TERMINATED.value)
    events = [Event(h.ORCHESTRATOR_STARTED, now), request, ended]
    for event in ledger.tasks.values():
        key = task_key(summary.execution_id, event.task_id, event.attempt)
        run.drop.append(key)
        run.cancelled.append(key)
    run.drop.extend(
        timer_key(summary.execution_id, event.task_id, event.attempt)
        for event in (*ledger.timers.values(), *ledger.waits.values())
    )
    run.drop.extend(_rows_of(arrivals))  # also of older executions
    run.drop.append(wake_key(summary.execution_id))
    if request.status == RECURSIVE:
        for child in ledger.children.values():
            key = f"{task_key(summary.execution_id, child.task_id, child.attempt)}/terminate"
            run.send(Message("fact", child.instance_id, terminate_request(reason, now, recursive=True)), key)
    if instance.started.parent is not None:
        outcome = child_outcome(instance.started.parent, _as_failure(ended, summary))
        run.send(outcome, outcome_key(summary.execution_id, instance.length))
    summary = ended_summary(summary, ended, summary.custom_status, now)
    append = Append(summary.execution_id, instance.length, encode_events(events))
    commit = Commit(
        env.mint(),
        summary.instance_id,
        run.partition,
        instance.version,
        summary,
        (append,),
        tuple(run.put),
        tuple(run.drop),
    )
    after = Instance(summary, instance.version + 1, instance.started, instance.length + 3)
    return Turn(commit, after, cancelled=run.cancelled, ignored=len(arrivals) - 1)


def terminate_request(reason: Raw, at: datetime, *, recursive: bool) -> Event:
    """The fact that asks an instance to end."""
    return Event(h.EXECUTION_TERMINATED, at, input=reason, status=RECURSIVE if recursive else "")


def _as_failure(ended: Event, summary: Summary) -> Event:
    error = OrchestrationTerminatedError(f"sub-orchestration {summary.instance_id!r} was terminated")
    return msgspec.structs.replace(ended, failure=describe(error))


def outcome_of(summary: Summary) -> Event:
    """The last event of an instance that has ended, as its parent is told of it."""
    at = summary.completed_at or summary.updated_at
    status = summary.status.value
    ended = Event(h.EXECUTION_COMPLETED, at, result=summary.output, failure=summary.failure, status=status)
    return _as_failure(ended, summary) if summary.status is RuntimeStatus.TERMINATED else ended


def only_drop(instance: Instance, arrivals: Sequence[Arrival], env: Env, ignored: int) -> Turn:
    """Nothing of this changes anything: let go of the rows behind it."""
    drop = _rows_of(arrivals)
    if not drop:
        return Turn(None, instance, ignored=ignored)
    summary = instance.summary
    partition = partition_of(summary.instance_id, env.partitions)
    commit = Commit(env.mint(), summary.instance_id, partition, instance.version, summary, drop=tuple(drop))
    after = instance._replace(version=instance.version + 1)
    return Turn(commit, after, ignored=ignored, late=summary.status.finished)


def _rows_of(arrivals: Sequence[Arrival]) -> list[str]:
    """Inbox rows, timers, and the work rows of outcomes: one that came through the inbox has both."""
    return [key for arrival in arrivals for key in (arrival.row_key, row_behind(arrival)) if key]


def park(
    instance: Instance, arrivals: Sequence[Arrival], reason: str, now: datetime, env: Env, *, unserved: bool = False
) -> Turn:
    """Nothing is added to the history. The status says why; facts that were only in memory go to the inbox."""
    summary = instance.summary
    partition = partition_of(summary.instance_id, env.partitions)
    undelivered: list[Fact] = []
    drop: list[str] = []
    for arrival in arrivals:
        key = row_behind(arrival)
        if key:
            drop.append(key)  # from the inbox or on its way there: the outcome is safe, nobody need run it again
        if key and not arrival.row_key:
            undelivered.append(outcome_fact(summary.instance_id, arrival, env.partitions, now))
            drop.append(key)
    never_ran = summary.status is RuntimeStatus.PENDING and instance.length == 1
    unchanged = summary.blocked_reason == reason
    if never_ran and unserved:
        unchanged, blocked = True, summary  # nothing has happened yet: PENDING says it better than BLOCKED
    else:
        blocked = msgspec.structs.replace(summary, status=RuntimeStatus.BLOCKED, blocked_reason=reason, updated_at=now)
    if unchanged and not drop:
        return Turn(None, instance._replace(execution=None), parked=reason)
    wake = wake_row(summary, partition, now.timestamp() + env.hold, env.holder)
    commit = Commit(
        env.mint(), summary.instance_id, partition, instance.version, blocked, put=(wake,), drop=tuple(drop)
    )
    after = instance._replace(summary=blocked, version=instance.version + 1, execution=None)
    return Turn(commit, after, parked=reason, undelivered=undelivered)


def outcome_fact(instance_id: str, arrival: Arrival, partitions: int, now: datetime) -> Fact:
    """The outcome of an activity as a fact for the inbox: from somebody who can't commit it, or not now."""
    event = msgspec.structs.replace(arrival.event, execution_id=arrival.execution_id)
    partition = partition_of(instance_id, partitions)
    return Fact(instance_id, partition, f"task/{row_behind(arrival)}", encode_event(event), now.timestamp())


def ended_summary(summary: Summary, ended: Event, custom: Raw, now: datetime) -> Summary:
    """How an instance stands once it has ended."""
    return msgspec.structs.replace(
        summary,
        status=RuntimeStatus(ended.status),
        updated_at=now,
        completed_at=now,
        output=ended.result,
        failure=ended.failure,
        custom_status=custom,
        blocked_reason="",
    )
