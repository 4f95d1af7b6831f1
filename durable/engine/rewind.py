"""Rewinding a failed instance: the one history, beside a start, that is not written by its owner.

Laws.
1. What ended it is recorded with its end: the call whose failure it was (`task_id`), and the moment at which the code
   was told of it (`rewinds_to`). An error of the code's own goes back to the fact before it: the last turn runs again.
2. The commit is checked by version as any other. Children are asked by messages that are rows of that commit, so a
   rewind that has begun comes to its end whoever dies.
3. A request is answered once: the rewind of a child names that of its parent.
4. What was asked of the life that failed, and came too late for it (to suspend it, to end it), is not done to the one
   that goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ..model import history as h
from ..model.errors import InstanceNotFoundError
from ..model.failure import describe
from ..model.history import Event, Parent, Raw, encode_event, encode_events
from ..model.names import child_id, partition_of
from ..model.rewinding import standing
from ..model.status import RuntimeStatus, Summary
from ..ports import Append, Commit, Fact, Record
from .codeless import outcome_of
from .instance import Instance
from .messages import Message, child_outcome
from .reopening import Moment, reopen
from .step import STEERING, inbox_arrivals


class Rewinding(NamedTuple):
    """What an instance would go back to. `child`: the sub-orchestration whose failure ended it, '' for none. late: the
    rows of law 4. came: waits for CloudEvents whose event is in the inbox."""

    instance: Instance
    back: Moment
    child: str
    late: Sequence[str]
    came: Sequence[int]


def look_back(record: Record) -> Rewinding | None:
    """Where a rewind would go; None for an instance that has not failed. Raises UnreadableHistory."""
    if record.summary.status is not RuntimeStatus.FAILED:
        return None
    instance = Instance.of_record(record)
    inbox = inbox_arrivals(record.inbox)[0]
    late = [arrival.row_key for arrival in inbox if arrival.event.type in STEERING]
    mine = [arrival.event for arrival in inbox if arrival.execution_id == record.summary.execution_id]
    came = [event.task_id for event in mine if event.type == h.EVENT_RAISED]
    stands = standing(instance.history)
    end = stands[-1][1]
    task_id = end.task_id or _ended_by(stands)
    outcomes = [(n, e) for n, e in stands if e.task_id == task_id and e.type in (h.TASK_FAILED, h.CHILD_FAILED)]
    if not task_id or not outcomes:
        return Rewinding(instance, Moment(end.rewinds_to or _last_fact(stands)), "", late, came)
    voids, _ = outcomes[-1]
    created = [e for _, e in stands if e.type == h.CHILD_CREATED and e.task_id == task_id]
    child = created[-1].instance_id if created else ""
    # What was recorded before there were rewinds does not say when the code was told: as soon as possible.
    return Rewinding(instance, Moment(end.rewinds_to or voids + 1, voids, task_id), child, late, came)


def _ended_by(stands: Sequence[tuple[int, Event]]) -> int:
    """The task whose failure was the last fact before the end and is its cause; for ends that do not say."""
    end = stands[-1][1]
    number = _last_fact(stands)
    last = next(event for n, event in stands if n == number)
    caused = end.failure is not None and last.failure is not None and end.failure.cause == last.failure
    return last.task_id if caused and not end.rewinds_to else 0


def _last_fact(stands: Sequence[tuple[int, Event]]) -> int:
    return [number for number, event in stands if event.type in h.FACTS][-1]


def rewind(
    found: Rewinding,
    child: Record | None,
    reason: Raw,
    now: datetime,
    mint: Callable[[], str],
    partitions: int,
    asked: Event | None = None,
) -> Commit:
    """The commit. `child`: `found.child` as it is stored; asked: the request of the parent, if it is one."""
    instance, back = found.instance, found.back
    now = max(now, instance.summary.updated_at)
    rewound = Event(h.EXECUTION_REWOUND, now, input=reason)
    if asked is not None:
        rewound = msgspec.structs.replace(
            rewound, instance_id=asked.instance_id, execution_id=asked.execution_id, depth=asked.depth
        )
    summary = msgspec.structs.replace(
        instance.summary,
        status=RuntimeStatus.RUNNING,
        updated_at=now,
        completed_at=None,
        failure=None,
    )

    def anew(created: Event) -> str:
        if created.task_id != back.task_id or _can_go_on(child, _parent(summary, created)):
            return ""
        mine = summary.instance_id, summary.execution_id, created.task_id
        by_code = created.instance_id != child_id(*mine, created.attempt)
        return created.instance_id if by_code else child_id(*mine, created.attempt + 1)

    opened = reopen(summary, instance.history, back, rewound, mint, partitions, anew, rewinds=True, came=found.came)
    summary = msgspec.structs.replace(summary, length=instance.length + len(opened.events))
    append = Append(summary.execution_id, instance.length, encode_events(opened.events))
    partition = partition_of(summary.instance_id, partitions)
    return Commit(
        mint(),
        summary.instance_id,
        partition,
        instance.version,
        summary,
        (append,),
        tuple(opened.put),
        (*opened.drop, *found.late),
    )


def _parent(summary: Summary, created: Event) -> Parent:
    return Parent(summary.instance_id, summary.execution_id, created.task_id, created.attempt)


def _can_go_on(child: Record | None, parent: Parent) -> bool:
    """Whether it is the parent's own, and has failed, succeeded or not ended: what was stopped does not go on."""
    if child is None or Instance.of_record(child).started.parent != parent:
        return False
    status = child.summary.status
    return not status.finished or status in (RuntimeStatus.FAILED, RuntimeStatus.COMPLETED)


class Answer(NamedTuple):
    """What a parent's request comes to: its child is rewound, or an outcome goes to the parent, or nothing need be."""

    rewinds: Rewinding | None = None
    outcome: Message | None = None


def answer(record: Record | None, request: Message, starting: bool, now: datetime) -> Answer:
    """What to do for the parent who asked. `record`: the child; starting: its start is still under way."""
    ask = request.event
    parent = Parent(ask.instance_id, ask.execution_id, ask.task_id, ask.attempt)
    if record is None:
        return Answer() if starting else Answer(outcome=_gone(request.target, parent, now))
    instance = Instance.of_record(record)
    if not record.summary.status.finished:
        return Answer()
    if instance.started.parent != parent:
        return Answer() if starting else Answer(outcome=_gone(request.target, parent, now))
    if any(_names(event, ask) for event in instance.history):
        return Answer()  # rewound for this very request, and what came of it is told by the child itself
    found = look_back(record)
    if found is not None:
        return Answer(rewinds=found)
    return Answer(outcome=child_outcome(parent, outcome_of(record.summary), request.target))


def _names(event: Event, ask: Event) -> bool:
    return event.type == h.EXECUTION_REWOUND and (event.instance_id, event.execution_id, event.depth) == (
        ask.instance_id,
        ask.execution_id,
        ask.depth,
    )


def _gone(instance_id: str, parent: Parent, now: datetime) -> Message:
    error = InstanceNotFoundError(f"sub-orchestration {instance_id!r} is not there any more: it was purged or replaced")
    return child_outcome(parent, Event(h.EXECUTION_COMPLETED, now, failure=describe(error)), instance_id)


def outcome_as_fact(message: Message, fact_id: str, partitions: int, now: datetime) -> Fact:
    """A child's outcome for the inbox of its parent."""
    partition = partition_of(message.target, partitions)
    return Fact(message.target, partition, fact_id, encode_event(message.event), now.timestamp())
