"""Turns that need no code: an instance that is terminated, cancelled before it began, parked, or has ended already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from ..model import history as h
from ..model.history import Event, Parent, Raw, encode_event, encode_events
from ..model.names import partition_of
from ..model.status import RuntimeStatus, Summary
from ..ports import KEPT, Append, Commit, Fact, Row
from .effects import Effects, wake_row
from .instance import Arrival, Env, Instance, Turn, kept_key, outcome_key, row_behind, task_key, timer_key, wake_key
from .ledger import Ledger
from .messages import Message, child_outcome

RECURSIVE: Final = "RECURSIVE"


def terminate(instance: Instance, request: Event, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
    """End it, whatever its code would do. Open children are told when the request is recursive."""
    ended = Event(h.EXECUTION_COMPLETED, now, result=request.input, status=RuntimeStatus.TERMINATED.value)
    return _end(instance, [Event(h.ORCHESTRATOR_STARTED, now), request, ended], arrivals, now, env)


def cancel_before_start(
    instance: Instance, request: Event, arrivals: Sequence[Arrival], now: datetime, env: Env
) -> Turn:
    """It has not begun and can't begin now, so there is nothing to compensate. Its code is never called."""
    ended = Event(h.EXECUTION_COMPLETED, now, result=request.input, status=RuntimeStatus.CANCELED.value)
    return _end(instance, [request, ended], arrivals, now, env)


def _end(instance: Instance, events: list[Event], arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
    """The last turn, without the code: what is open is let go of. `events` ends with the request and the end."""
    summary = instance.summary
    *_, request, ended = events
    run = Effects(instance, env, now.timestamp())
    ledger = Ledger(instance.history)
    for event in ledger.tasks.values():
        key = task_key(summary.execution_id, event.task_id, event.attempt)
        run.drop.append(key)
        run.cancelled.append(key)
    run.drop.extend(
        timer_key(summary.execution_id, event.task_id, event.attempt)
        for event in (*ledger.timers.values(), *ledger.waits.values())
    )
    last = instance.length + len(events) - 1
    for wait in ledger.waits.values():
        if wait.input:
            run.withdraw(wait.task_id, last)
    run.drop.extend(rows_of(arrivals))  # also of older executions
    run.drop.extend(rows_of_start(instance))
    if request.status == RECURSIVE:
        for child in ledger.children.values():
            key = f"{task_key(summary.execution_id, child.task_id, child.attempt)}/terminate"
            parent = Parent(summary.instance_id, summary.execution_id, child.task_id, child.attempt)
            message = terminate_request(request.input, now, recursive=True, parent=parent)
            run.send(Message("fact", child.instance_id, message), key)
    if instance.started.parent is not None:
        outcome = child_outcome(instance.started.parent, ended, summary.instance_id)
        run.send(outcome, outcome_key(summary.execution_id, instance.length))
    length = instance.length + len(events)
    summary = ended_summary(summary, ended, summary.custom_status, now, length)
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
        tells=True,
    )
    after = Instance(summary, instance.version + 1, instance.started, length)
    return Turn(commit, after, cancelled=run.cancelled, ignored=len(arrivals) - 1)


def terminate_request(reason: Raw, at: datetime, *, recursive: bool, parent: Parent | None = None) -> Event:
    """The fact that asks an instance to end. parent: it is for that one's child only, whoever has the id."""
    return Event(h.EXECUTION_TERMINATED, at, input=reason, status=RECURSIVE if recursive else "", parent=parent)


def outcome_of(summary: Summary) -> Event:
    """The last event of an instance that has ended, of which its parent is told (`child_outcome`)."""
    at = summary.completed_at or summary.updated_at
    status = summary.status.value
    return Event(h.EXECUTION_COMPLETED, at, result=summary.output, failure=summary.failure, status=status)


def only_drop(instance: Instance, arrivals: Sequence[Arrival], env: Env, ignored: int) -> Turn:
    """Nothing of this changes anything: let go of the rows behind it, but for what a rewind would want."""
    drop = rows_of(arrivals)
    if not drop:
        return Turn(None, instance, ignored=ignored)
    summary = instance.summary
    partition = partition_of(summary.instance_id, env.partitions)
    put = kept_events(summary, partition, instance.version, arrivals)
    commit = Commit(env.mint(), summary.instance_id, partition, instance.version, summary, (), put, tuple(drop))
    after = replace(instance, version=instance.version + 1)
    return Turn(commit, after, ignored=ignored, late=summary.status.finished)


def kept_events(summary: Summary, partition: int, version: int, arrivals: Iterable[Arrival]) -> tuple[Row, ...]:
    """The events among what a failed instance has not taken: they were accepted, and it may go on (`reopening`)."""
    if summary.status is not RuntimeStatus.FAILED:
        return ()
    mine = "", summary.execution_id
    events = [a.event for a in arrivals if a.event.type == h.EVENT_RAISED and a.execution_id in mine]
    at = summary.updated_at.timestamp()
    return tuple(
        Row(
            kept_key(summary.execution_id, version, number),
            "inbox",
            summary.instance_id,
            partition,
            at,
            body=encode_event(event),
            group=KEPT,
        )
        for number, event in enumerate(events)
    )


def rows_of(arrivals: Sequence[Arrival]) -> list[str]:
    """Inbox rows, timers, and the work rows of outcomes: one that came through the inbox has both."""
    return [key for arrival in arrivals for key in (arrival.row_key, row_behind(arrival)) if key]


def rows_of_start(instance: Instance) -> list[str]:
    """What wakes an execution for its first turn."""
    execution_id = instance.summary.execution_id
    keys = [wake_key(execution_id)]
    if instance.started.fire_at is not None:
        keys.append(timer_key(execution_id, 0, 0))
    return keys


def to_inbox(instance: Instance, arrivals: Sequence[Arrival], env: Env, now: datetime) -> tuple[list[Fact], list[str]]:
    """For what no turn takes now: facts that are only in memory and must reach the inbox, and rows that can go."""
    undelivered: list[Fact] = []
    drop: list[str] = []
    for arrival in arrivals:
        key = row_behind(arrival)
        if key:
            drop.append(key)  # from the inbox or on its way there: the outcome is safe, nobody need run it again
        if key and not arrival.row_key:
            undelivered.append(outcome_fact(instance.summary.instance_id, arrival, env.partitions, now))
    return undelivered, drop


def park(
    instance: Instance, arrivals: Sequence[Arrival], reason: str, now: datetime, env: Env, *, unserved: bool = False
) -> Turn:
    """Nothing is added to the history. The status says why; facts that were only in memory go to the inbox."""
    summary = instance.summary
    partition = partition_of(summary.instance_id, env.partitions)
    undelivered, drop = to_inbox(instance, arrivals, env, now)
    never_ran = summary.status is RuntimeStatus.PENDING
    unchanged = summary.blocked_reason == reason
    if never_ran and unserved:
        unchanged, blocked = True, summary  # nothing has happened yet: PENDING says it better than BLOCKED
    else:
        blocked = replace(summary, status=RuntimeStatus.BLOCKED, blocked_reason=reason, updated_at=now)
    if unchanged and not drop:
        return Turn(None, replace(instance, execution=None), parked=reason)
    wake = wake_row(summary, partition, now.timestamp() + env.hold, env.holder)
    commit = Commit(
        env.mint(), summary.instance_id, partition, instance.version, blocked, (), (wake,), tuple(drop), tells=True
    )
    after = replace(instance, summary=blocked, version=instance.version + 1, execution=None)
    return Turn(commit, after, parked=reason, undelivered=undelivered)


def outcome_fact(instance_id: str, arrival: Arrival, partitions: int, now: datetime) -> Fact:
    """The outcome of an activity as a fact for the inbox: from somebody who can't commit it, or not now."""
    event = replace(arrival.event, execution_id=arrival.execution_id)
    partition = partition_of(instance_id, partitions)
    return Fact(instance_id, partition, f"task/{row_behind(arrival)}", encode_event(event), now.timestamp())


def ended_summary(summary: Summary, ended: Event, custom: Raw, now: datetime, length: int) -> Summary:
    """How an instance stands once it has ended, with so many events."""
    return replace(
        summary,
        status=RuntimeStatus(ended.status),
        updated_at=now,
        completed_at=now,
        output=ended.result,
        failure=ended.failure,
        custom_status=custom,
        blocked_reason="",
        length=length,
    )
