"""What a turn leaves behind: the rows, invocations and messages of its events, by a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import msgspec

from ..model import history as h
from ..model.history import NO_PAYLOAD, UNDECODABLE, Event, Parent, Raw, UnreadableHistory
from ..model.moments import from_timestamp
from ..model.names import TRIGGERS, partition_of
from ..model.status import DEFAULT_QUEUE, Summary
from ..ports import Row, RowKind
from .instance import Arrival, Env, Instance, Invocation, await_key, task_key, timer_key, wake_key, withdraw_key
from .messages import Message, child_start, encode_message


class Effects:
    """Rows and invocations that the events of one turn leave behind."""

    def __init__(self, instance: Instance, env: Env, now: float) -> None:
        self.summary = instance.summary
        self.execution_id = instance.summary.execution_id
        self.partition = partition_of(self.summary.instance_id, env.partitions)
        self.env = env
        self.now = now
        self.put: list[Row] = []
        self.drop: list[str] = []
        self.invocations: list[Invocation] = []
        self.cancelled: list[str] = []
        self.number = 0

    def of(self, events: Iterable[Event], first: int) -> None:
        """What these leave behind, of which the first one has this number."""
        for self.number, event in enumerate(events, first):
            effect = EFFECTS.get(event.type)
            if effect is not None:
                effect(self, event)

    def task_scheduled(self, event: Event) -> None:
        invocation = invocation_of(self.summary, event, self.number)
        self._put(invocation.row_key, "task", self.now + self.env.hold, self.env.holder)
        self.invocations.append(invocation)

    def task_ended(self, event: Event) -> None:
        self.drop.append(task_key(self.execution_id, event.task_id, event.attempt))

    def task_canceled(self, event: Event) -> None:
        if event.attempt:
            key = task_key(self.execution_id, event.task_id, event.attempt)
            self.drop += (key, timer_key(self.execution_id, event.task_id, event.attempt))
            self.cancelled.append(key)

    def timer_set(self, event: Event) -> None:
        if event.fire_at is not None:
            key = timer_key(self.execution_id, event.task_id, event.attempt)
            body = timer_body(self.execution_id, event.task_id, event.attempt)
            self._put(key, "timer", event.fire_at.timestamp(), body=body)

    def event_awaited(self, event: Event) -> None:
        self.timer_set(event)
        if event.input:
            self.awaits(event, await_key(self.execution_id, event.task_id))

    def awaits(self, awaited: Event, key: str, number: int = 0) -> None:
        """Tell the triggers of this wait for a CloudEvent. number: of the event that opened it again."""
        here = self._of_here(h.EVENT_AWAITED, awaited.task_id, awaited.input, number)
        self.send(Message("fact", TRIGGERS, here), key)

    def withdraw(self, task_id: int, number: int) -> None:
        """Nobody waits for this CloudEvent any more, since the event of that number."""
        self.drop.append(await_key(self.execution_id, task_id))  # which might come after this
        here = self._of_here(h.TASK_CANCELED, task_id, NO_PAYLOAD, number)
        self.send(Message("fact", TRIGGERS, here), withdraw_key(self.execution_id, task_id, number))

    def _of_here(self, kind: str, task_id: int, given: Raw, number: int) -> Event:
        at, instance_id = from_timestamp(self.now), self.summary.instance_id
        here = Event(kind, at, task_id, h.CLOUD_EVENT, number, given)
        return msgspec.structs.replace(here, instance_id=instance_id, execution_id=self.execution_id)

    def timer_ended(self, event: Event) -> None:
        self.drop.append(timer_key(self.execution_id, event.task_id, event.attempt))

    def child_created(self, event: Event) -> None:
        parent = None
        if event.status != h.DETACHED:
            parent = Parent(self.summary.instance_id, self.execution_id, event.task_id, event.attempt)
        message = child_start(event, parent, self.env.mint(), self.env.mint())
        self.send(message, f"{task_key(self.execution_id, event.task_id, event.attempt)}/start")

    def event_sent(self, event: Event) -> None:
        raised = Event(h.EVENT_RAISED, event.timestamp, name=event.name, input=event.input)
        message = Message("event", event.instance_id, raised)
        self.send(message, f"{task_key(self.execution_id, event.task_id, 0)}/event")

    def forget_what_ended_at_once(self) -> None:
        """What began and ended in one turn has no row: a store drops first and puts then, so it would stay for ever."""
        if self.put and self.drop:
            ended = set(self.drop)
            kept = [row for row in self.put if row.key not in ended]
            if len(kept) < len(self.put):
                self.put = kept
                self.invocations = [i for i in self.invocations if i.row_key not in ended]

    def send(self, message: Message, key: str) -> None:
        self._put(key, "message", self.now + self.env.hold, self.env.holder, encode_message(message))

    def _put(self, key: str, kind: RowKind, due_at: float, holder: str = "", body: bytes = b"") -> None:
        row = Row(key, kind, self.summary.instance_id, self.partition, due_at, holder, 0, body, self.summary.group)
        self.put.append(row)


_TIMER_BODY = msgspec.json.Encoder()
_TIMER_READER = msgspec.json.Decoder(tuple[str, int, int])

# What each event of a turn leaves behind; events that are not here leave nothing.
EFFECTS: Final[dict[str, Callable[[Effects, Event], None]]] = {
    h.TASK_SCHEDULED: Effects.task_scheduled,
    h.TASK_COMPLETED: Effects.task_ended,
    h.TASK_FAILED: Effects.task_ended,
    h.TASK_CANCELED: Effects.task_canceled,
    h.TIMER_CREATED: Effects.timer_set,
    h.TIMER_FIRED: Effects.timer_ended,
    h.TIMER_CANCELED: Effects.timer_ended,
    h.EVENT_AWAITED: Effects.event_awaited,
    h.CHILD_CREATED: Effects.child_created,
    h.EVENT_SENT: Effects.event_sent,
}


def invocation_of(summary: Summary, scheduled: Event, number: int) -> Invocation:
    """The activity call that a TaskScheduled event of this execution, which has this number, asks for."""
    return Invocation(
        summary.instance_id,
        summary.execution_id,
        scheduled.task_id,
        scheduled.attempt,
        scheduled.name,
        scheduled.input,
        task_key(summary.execution_id, scheduled.task_id, scheduled.attempt),
        scheduled.timeout or 0.0,
        scheduled.heartbeat_timeout or 0.0,
        scheduled.queue or DEFAULT_QUEUE,
        summary.name,
        summary.group,
        number,
    )


def timer_body(execution_id: str, task_id: int, attempt: int) -> bytes:
    """What the row of a timer says."""
    return _TIMER_BODY.encode((execution_id, task_id, attempt))


def timer_arrival(row: Row, now: datetime) -> Arrival:
    """The fact that a due timer row stands for. Raises UnreadableHistory."""
    try:
        execution_id, task_id, attempt = _TIMER_READER.decode(row.body)
    except UNDECODABLE as error:
        raise UnreadableHistory(f"a stored timer can't be decoded ({error})") from error
    at = max(now, from_timestamp(row.due_at))  # the clock may have gone back since it was found due
    return Arrival(Event(h.TIMER_FIRED, at, task_id=task_id, attempt=attempt), execution_id, row.key)


def start_row(summary: Summary, started: Event, partitions: int) -> Row:
    """The timer of a start that waits for its time."""
    assert started.fire_at is not None
    body = timer_body(summary.execution_id, 0, 0)
    partition = partition_of(summary.instance_id, partitions)
    key = timer_key(summary.execution_id, 0, 0)
    due_at = started.fire_at.timestamp()
    return Row(key, "timer", summary.instance_id, partition, due_at, body=body, group=summary.group)


def wake_row(summary: Summary, partition: int, due_at: float, holder: str) -> Row:
    """The row that wakes the current execution."""
    return Row(
        wake_key(summary.execution_id), "inbox", summary.instance_id, partition, due_at, holder, group=summary.group
    )
