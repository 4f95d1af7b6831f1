"""A step of a workspace's triggers: they are one instance, whose history is the list of their changes.

Laws.
1. As every instance: one commit a step, by its owner, under the version, with all that the step asks for elsewhere.
   What people want changed are facts in its inbox, between the events, and hold for what comes behind them.
2. No event is done with before that commit: neither a row in the inbox, nor a delivery of an event source.
3. A history that has become long (`_LONG`, not counting what it began with, which may be as long) is forgotten for one
   that begins with everything there is.
4. A wait of an orchestration is a trigger too. It comes and goes by messages, as all that instances tell each other:
   the EventAwaited of its history, and a TaskCanceled for what nobody waits for any more. They come in any order, so
   each has an attempt: the number of the event that opened the wait again, or ended it.
5. An activity that a trigger calls is a small orchestration of its own, a child of this instance: it has all that
   activities have, and its outcome comes as any child's does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ..model import history as h
from ..model.failure import FailureDetails
from ..model.history import NO_PAYLOAD, UNDECODABLE, Event, Parent, Raw, UnreadableHistory, encode_events
from ..model.names import TRIGGERS, derived_id, numbered_id, partition_of
from ..model.status import DEFAULT_GROUP, RuntimeStatus, Summary
from ..ports import Append, Commit, Row
from ..replay.guard import TurnTooLong, running
from ..triggers.actions import CallActivity, RaiseEvent, Resume, StartOrchestration
from ..triggers.asks import decode_ask
from ..triggers.changes import Waiting, decode_change, encode_change
from ..triggers.context import Draft
from ..triggers.drafting import FindFunction, UserFunction
from ..triggers.event import NotAnEvent, read_event
from ..triggers.hub import Hub, Outgoing
from ..triggers.pattern import LIFECYCLE, EventPattern
from .effects import timer_body
from .instance import Arrival, Env, Instance, Turn
from .messages import Message, encode_message
from .step import inbox_arrivals

CHANGED: Final = "TriggersChanged"  # the one kind of event in this history, after its start
ASKED: Final = "TriggersAsked"  # a fact: what somebody wants changed (asks.py)
CALL: Final = "@call"  # the orchestrator that calls an activity for a trigger
_LONG: Final = 1_000_000  # bytes of history
_SHOWN: Final = 20  # patterns in the status; for more there is one that fits all
_ALL: Final = EventPattern(type=f"{LIFECYCLE}*")


def begin(now: datetime, mint: Callable[[], str], partitions: int) -> Commit:
    """The commit that creates the instance, without any trigger."""
    started = _started(now, mint, encode_change(Hub().everything()))
    summary = Summary(TRIGGERS, started.execution_id, TRIGGERS, RuntimeStatus.RUNNING, now, now, length=1)
    append = Append(started.execution_id, 0, encode_events([started]))
    return Commit(mint(), TRIGGERS, partition_of(TRIGGERS, partitions), 0, summary, (append,))


def hub_of(instance: Instance) -> Hub:
    """The triggers as their history says. Raises UnreadableHistory."""
    hub = Hub()
    try:
        for event in instance.history:
            hub.apply(decode_change(event.input))
    except (*UNDECODABLE, LookupError) as error:  # also one of triggers that no change before it has added
        raise UnreadableHistory(f"a stored change of the triggers can't be decoded ({error})") from error
    return hub


def asked(inbox: Iterable[Row], hub: Hub) -> None:
    """Take, on a copy, what is asked for and waits in line. Raises UnreadableHistory."""
    for arrival in inbox_arrivals(inbox)[0]:
        if arrival.event.type == ASKED:
            hub.ask(decode_ask(arrival.event.input))


def step(instance: Instance, arrivals: Sequence[Arrival], find: FindFunction, now: datetime, env: Env) -> Turn:
    """Take what has arrived. Raises UnreadableHistory."""
    now = max(now, instance.summary.updated_at)
    hub = instance.hub or hub_of(instance)
    if not arrivals:
        return Turn(None, replace(instance, hub=hub, history=()))
    ignored = 0
    drop: list[str] = []
    for arrival in arrivals:
        event = arrival.event
        if arrival.row_key:
            drop.append(arrival.row_key)
        if event.type == h.EVENT_RAISED:
            due_at = None if event.fire_at is None else event.fire_at.timestamp()
            _publish(hub, bytes(event.input), now, find, due_at)
        elif event.type == ASKED:
            hub.ask(decode_ask(event.input))
        elif event.type == h.TIMER_FIRED:
            hub.wake(event.task_id, now, find)
        elif event.type in (h.CHILD_COMPLETED, h.CHILD_FAILED):
            hub.activity_ended(event.task_id, event.result, _own(event.failure), now, find)
        elif event.type == h.EVENT_AWAITED:
            _await(hub, event)
        elif event.type == h.TASK_CANCELED:
            hub.withdraw(_resume(event))
        else:
            ignored += 1
        for body in arrival.bodies:
            _publish(hub, body, now, find, None)
    partition = partition_of(TRIGGERS, env.partitions)
    effects = _Effects(instance.summary, partition, now, env)
    for outgoing in hub.take_outgoing():
        effects.of(outgoing)
    put = effects.put + [_timer(n, w, instance.summary, partition) for n, w in hub.new_waiting]
    commit, after = _commit(instance, hub, put, drop, now, env.mint, partition)
    return Turn(commit, after, ignored=ignored)


def guarded(function: UserFunction, env: Env) -> UserFunction:
    """A user's function as code of an orchestrator: it is watched over, and refused the client."""

    def call(context: Draft, event: Any) -> Any:
        inside = running.set(f"the triggers, in {context.trigger_id!r}")
        try:
            env.watch.enter()
            try:
                return function(context, event)
            finally:
                env.watch.leave()
        except TurnTooLong:
            raise TimeoutError(f"it ran longer than {env.limits.turn_seconds:g} s; let an activity do that") from None
        finally:
            running.reset(inside)

    return call


def _publish(hub: Hub, body: bytes, now: datetime, find: FindFunction, due_at: float | None) -> None:
    try:
        hub.publish(body, now, find, due_at)
    except NotAnEvent as error:
        hub.refuse(body, error, now)


def _own(failure: FailureDetails | None) -> FailureDetails | None:
    """That of the activity: the orchestration that called it only says that it failed."""
    return failure if failure is None or failure.cause is None else failure.cause


def _await(hub: Hub, awaited: Event) -> None:
    """An orchestration waits for the first event of a pattern. Raises UnreadableHistory."""
    try:
        pattern = _pattern(awaited.input)
    except UNDECODABLE as error:
        raise UnreadableHistory(f"what {awaited.instance_id!r} waits for can't be decoded ({error})") from error
    hub.wait_for(pattern, _resume(awaited))


def _resume(event: Event) -> Resume:
    return Resume(event.instance_id, event.execution_id, event.task_id, event.attempt)


_pattern = msgspec.json.Decoder(EventPattern).decode


def _commit(
    instance: Instance,
    hub: Hub,
    put: list[Row],
    drop: list[str],
    now: datetime,
    mint: Callable[[], str],
    partition: int,
) -> tuple[Commit, Instance]:
    summary = replace(instance.summary, updated_at=now, custom_status=_hearing(hub))
    change = hub.take_change()
    drop += [_timer_key(number) for number in change.ended]
    dropped = set(drop)
    put = [row for row in put if row.key not in dropped]
    if instance.size - len(bytes(instance.started.input)) < _LONG:
        events = [Event(CHANGED, now, input=encode_change(change))]
        row, first = encode_events(events), instance.length
        started, size, length = instance.started, instance.size + len(row), instance.length + 1
        replaces = ""
    else:
        started = _started(now, mint, encode_change(hub.everything()))
        row, first = encode_events([started]), 0
        size, length, replaces = len(row), 1, summary.execution_id
        summary = replace(summary, execution_id=started.execution_id)
    summary = replace(summary, length=length)
    commit = Commit(
        mint(),
        TRIGGERS,
        partition,
        instance.version,
        summary,
        (Append(summary.execution_id, first, row),),
        tuple(put),
        tuple(drop),
        replaces,
        forgets=bool(replaces),
        tells=True,
    )
    return commit, Instance(summary, instance.version + 1, started, length, size=size, hub=hub)


def _hearing(hub: Hub) -> Raw:
    """For the status, where workers see it who have nothing else to do with the triggers (`heard_by`)."""
    patterns = hub.hearing
    if len(patterns) > _SHOWN:
        patterns = [_ALL]
    return Raw(msgspec.json.encode(patterns)) if patterns else NO_PAYLOAD


def heard_by(summary: Summary) -> list[EventPattern]:
    """Patterns of all that the triggers want to hear from orchestrations, from the status of theirs.

    Of a status that can't be read one that fits all: what they are told in vain they leave out.
    """
    try:
        return _patterns(summary.custom_status) if summary.custom_status else []
    except UNDECODABLE:
        return [_ALL]


_patterns = msgspec.json.Decoder(list[EventPattern]).decode


def _started(now: datetime, mint: Callable[[], str], everything: Raw) -> Event:
    execution_id = mint()
    return Event(
        h.EXECUTION_STARTED, now, name=TRIGGERS, input=everything, instance_id=TRIGGERS, execution_id=execution_id
    )


class _Effects:
    """The rows of what leaves."""

    def __init__(self, summary: Summary, partition: int, now: datetime, env: Env) -> None:
        self.summary = summary
        self.partition = partition
        self.now = now
        self.env = env
        self.put: list[Row] = []

    def of(self, outgoing: Outgoing) -> None:
        action = outgoing.action
        if isinstance(action, StartOrchestration):
            self._send(outgoing, self._start(outgoing, action))
        elif isinstance(action, CallActivity):
            self._send(outgoing, self._call(outgoing, action))
        elif isinstance(action, RaiseEvent):
            data = action.input if bytes(action.input) else _data_of(outgoing.event)
            raised = Event(h.EVENT_RAISED, self.now, name=action.name, input=data)
            self._send(outgoing, Message("event", action.instance_id, raised))
        elif isinstance(action, Resume):
            came = Event(
                h.EVENT_RAISED,
                self.now,
                action.task_id,
                h.CLOUD_EVENT,
                input=outgoing.event,
                execution_id=action.execution_id,
            )
            self._send(outgoing, Message("fact", action.instance_id, came))
        else:
            self._send(outgoing, Message("publish", action.to, Event(h.EVENT_RAISED, self.now, input=action.event)))

    def _start(self, outgoing: Outgoing, action: StartOrchestration) -> Message:
        instance_id = action.instance_id or (_id_for(outgoing) if action.once else _own_id(outgoing))
        given = action.input if bytes(action.input) else _data_of(outgoing.event)
        event = self._starting(instance_id, action.name, given)
        event = replace(event, version=action.version, group=action.group or DEFAULT_GROUP, tags=action.tags)
        return Message("start", instance_id, event)

    def _call(self, outgoing: Outgoing, action: CallActivity) -> Message:
        instance_id = _own_id(outgoing)
        given = action.input if bytes(action.input) else _data_of(outgoing.event)
        timeouts = {"timeout": action.timeout, "heartbeat_timeout": action.heartbeat_timeout}
        order = {
            "name": action.name,
            "queue": action.queue,
            "retry": action.retry,
            **{name: seconds for name, seconds in timeouts.items() if seconds},
            "input": given,
        }
        parent = Parent(TRIGGERS, self.summary.execution_id, outgoing.number, 1)
        event = replace(self._starting(instance_id, CALL, Raw(msgspec.json.encode(order))), parent=parent)
        return Message("start", instance_id, event)

    def _starting(self, instance_id: str, name: str, given: Raw) -> Event:
        return Event(
            h.EXECUTION_STARTED,
            self.now,
            name=name,
            input=given,
            instance_id=instance_id,
            execution_id=self.env.mint(),
            seed=self.env.mint(),
        )

    def _send(self, outgoing: Outgoing, message: Message) -> None:
        key = f"{TRIGGERS}/{outgoing.number}/{message.kind}"
        due_at = self.now.timestamp() + self.env.hold
        body = encode_message(message)
        self.put.append(
            Row(key, "message", TRIGGERS, self.partition, due_at, self.env.holder, 0, body, self.summary.group)
        )


def _own_id(outgoing: Outgoing) -> str:
    return numbered_id(outgoing.trigger_id, outgoing.number)


def _id_for(outgoing: Outgoing) -> str:
    """The same for the same trigger and event."""
    event = read_event(bytes(outgoing.event))
    return derived_id(outgoing.trigger_id, f"{event.source}\0{event.id}")


class _Data(msgspec.Struct):
    data: Raw = Raw(b"null")
    data_base64: Raw = Raw(b"")


_data = msgspec.json.Decoder(_Data)


def _data_of(event: Raw) -> Raw:
    """The data of an event, as JSON; bytes stay base64."""
    found: Any = _data.decode(event)
    return Raw(bytes(found.data_base64 if bytes(found.data_base64) else found.data))


def _timer_key(number: int) -> str:
    return f"{TRIGGERS}/{number:016}/timer"  # what is due at the same time comes in order of its key


def _timer(number: int, waiting: Waiting, summary: Summary, partition: int) -> Row:
    key, body = _timer_key(number), timer_body("", number, 0)
    return Row(key, "timer", TRIGGERS, partition, waiting.due_at, body=body, group=summary.group)
