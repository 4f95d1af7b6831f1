"""Forking: a new instance that shares the beginning of another's history and goes its own way from there.

Laws.
1. It has the seed of the other, and replays what they share to the same commands; recorded ids of children stand, and
   code that asks who it is hears what it has heard then.
2. What is open there is scheduled again under the new id. Nothing of the other instance is touched.
3. A cut between a fact and its commands can't be replayed: that fact is taken again, by today's code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from ..model import history as h
from ..model.history import Event, encode_events, formerly
from ..model.names import child_id, partition_of
from ..model.rewinding import standing
from ..model.status import DEFAULT_GROUP, RuntimeStatus, Summary
from ..ports import Append, Commit, Record
from .instance import Instance
from .reopening import Moment, reopen

_ENDS = (h.EXECUTION_COMPLETED, h.CONTINUE_AS_NEW)


def last_to_share(events: Sequence[Event]) -> int:
    """The number of the last event that a fork may share: what ended the execution is not shared."""
    last = len(events) - 1
    while events[last].type in (*_ENDS, h.EXECUTION_TERMINATED):
        last -= 1
    return last


def fork(
    record: Record,
    after: int,
    instance_id: str,
    now: datetime,
    mint: Callable[[], str],
    partitions: int,
    reply_to: str = "",
) -> Commit:
    """The commit that creates it with the events 0 to `after`. Raises UnreadableHistory."""
    events = Instance.of_record(record).history
    begun = msgspec.structs.replace(
        events[0],
        instance_id=instance_id,
        execution_id=mint(),
        parent=None,
        depth=0,
        reply_to=reply_to,
        fire_at=None,
        previous="",
        formerly=formerly(events[0], after + 1),
    )
    shared = [begun, *events[1 : after + 1]]
    back = _whole(shared, events[after + 1 :])
    stands = [event for n, event in standing(shared) if n < back]
    summary = Summary(
        instance_id,
        begun.execution_id,
        begun.name,
        _status(stands),
        now,
        now,
        version=record.summary.version,
        tags=begun.tags,
        group=begun.group or DEFAULT_GROUP,
        reply_to=reply_to,
    )
    rewound = Event(h.EXECUTION_REWOUND, now)

    def anew(child: Event) -> str:
        return child_id(instance_id, begun.execution_id, child.task_id, child.attempt + 1)

    opened = reopen(summary, shared, Moment(back), rewound, mint, partitions, anew, rewinds=False)
    if back == len(shared) and len(opened.events) == 1:
        appended = shared  # nothing is void, and nothing had to be scheduled by an event
    else:
        appended = [*shared, *opened.events]
    summary = msgspec.structs.replace(summary, length=len(appended))
    append = Append(begun.execution_id, 0, encode_events(appended))
    partition = partition_of(instance_id, partitions)
    return Commit(mint(), instance_id, partition, 0, summary, (append,), tuple(opened.put))


def _status(stands: Sequence[Event]) -> RuntimeStatus:
    switches = [e.type for e in stands if e.type in (h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED)]
    if switches and switches[-1] == h.EXECUTION_SUSPENDED:
        return RuntimeStatus.SUSPENDED
    begun = any(e.type == h.ORCHESTRATOR_STARTED for e in stands)
    return RuntimeStatus.RUNNING if begun else RuntimeStatus.PENDING


def _whole(shared: Sequence[Event], following: Sequence[Event]) -> int:
    """How many of the shared events can be replayed: all, unless the commands of the last fact are cut off."""
    number = len(shared)
    cut = bool(following) and following[0].type in h.COMMANDS
    if not cut and shared[-1].type not in _ENDS:
        return number
    while shared[number - 1].type not in h.FACTS:
        number -= 1
    if shared[number - 1].type == h.EXECUTION_REWOUND:
        return len(shared)  # what a rewind schedules needs no code
    return number - 1
