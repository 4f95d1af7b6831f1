"""Parsers of what travels: over a broker, from an event source, between instances, between processes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from cloudevents.core.v1.event import CloudEvent

from durable.backends import cloud_events, rabbitmq_source, redis_signals, sqlite_handover, sqlite_reception
from durable.backends.local_signals import LocalSignals
from durable.engine.effects import timer_arrival, timer_body
from durable.engine.messages import Message, child_outcome, decode_message, encode_message
from durable.model import history as h
from durable.model.failure import describe
from durable.model.history import UNDECODABLE, Event, Parent, Raw, UnreadableHistory
from durable.ports import Fact, Row
from durable.runtime import wire
from durable.runtime.serving import Serving
from durable.triggers.event import NotAnEvent, from_sdk, read_event, to_sdk

from .harness import Parser, Wrong
from .samples import INVOCATION, NOW, cloudevent, lived

_SERVING: Final = Serving("default")
_FAILED: Final = Event(h.TASK_FAILED, NOW, 3, attempt=1, failure=describe(ValueError("no")))
_DONE: Final = Event(h.TASK_COMPLETED, NOW, 3, attempt=1, result=Raw(b'{"at":[1,"x"]}'))


def _read_work(data: bytes) -> wire.Work:
    work = wire.read_work(data)
    storable(work.invocation.input)
    return work


def _work_again(work: wire.Work) -> bytes:
    sent = datetime.fromtimestamp(work.sent_at, NOW.tzinfo)
    message = wire.invocation_message(work.invocation, _SERVING, 1, work.sent_by, sent, resent=work.resent)
    event = msgspec.json.decode(message.body, type=dict[str, Raw])
    return msgspec.json.encode({**event, "replyqueue": Raw(msgspec.json.encode(work.reply_queue))})


def _read_outcome(data: bytes) -> wire.Returned:
    returned = wire.read_outcome(data, NOW)
    h.decode_events(h.encode_events([returned.event]))
    storable(returned.event.result)
    return returned


def storable(raw: Raw) -> None:
    """What goes into a history must be text, or no store and no reader can be sure of the rest."""
    try:
        bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise Wrong("accepted, and what would be stored is no UTF-8") from error


def _of_user(data: bytes) -> tuple[Any, Any]:
    """What a user publishes: the SDK takes some attributes that triggers do not."""
    event = to_sdk(data)
    from_sdk(event)
    return event.get_attributes(), event.get_data()


def _published(event: tuple[Any, Any]) -> bytes:
    return from_sdk(CloudEvent(*event))


def _binary(data: bytes) -> bytes:
    """A line of AMQP headers, then the data; law: what comes of it is an event, or is none."""
    head, _, body = data.partition(b"\n")
    try:
        properties: Any = msgspec.json.decode(head)
    except UNDECODABLE:
        properties = {"headers": {"cloudEvents:specversion": "1.0", "ce-id": head, "ce-type": head.decode("latin-1")}}
    headers: Any = properties.get("headers") if isinstance(properties, dict) else properties
    kind = properties.get("type") if isinstance(properties, dict) else None
    made = cloud_events.structured(
        body, kind if isinstance(kind, str) else None, headers if isinstance(headers, Mapping) else None
    )
    cloud_events.subjects([made])
    rabbitmq_source._id_and_type(made)
    read_event(made)
    return made


def _of_source(data: bytes) -> Any:
    """What an event source hands over."""
    cloud_events.subjects([data])
    rabbitmq_source._id_and_type(data)
    return read_event(data)


def _timer(data: bytes) -> Any:
    return timer_arrival(Row("x/1/1/timer", "timer", "order-7", 0, 1.0, body=data), NOW)


class _Heard(redis_signals.RedisSignals):
    """Without a Redis."""

    def __init__(self) -> None:
        LocalSignals.__init__(self)
        self._me = "me"
        self._topics = {b"x": "facts"}


def _handed_over(data: bytes) -> Any:
    request = sqlite_reception._requests.decode(data)
    return request, [sqlite_reception.commit_of(creation) for creation in request.creations]


def _handovers() -> list[bytes]:
    creations = [
        sqlite_handover.Creation(
            "c1", summary.instance_id, 0, msgspec.json.encode(summary), (), (Row("k", "inbox", "a", 0, 1.5),), ("d",)
        )
        for summary in lived().summaries[:2]
    ]
    fact = Fact("order-7", 0, "f1", h.encode_event(_DONE), 1.5)
    return [sqlite_handover.encode(sqlite_handover.Request(True, creations, [fact]))]


def _message_samples() -> list[bytes]:
    started = lived().archives[0].executions[0].events[0]
    ended = Event(h.EXECUTION_COMPLETED, NOW, status="COMPLETED", result=Raw(b"1"))
    return [
        encode_message(Message("start", "order-7:1", started)),
        encode_message(child_outcome(Parent("order-7", "0" * 32, 3, 1), ended, "x")),
        encode_message(Message("event", "nobody", Event(h.EVENT_RAISED, NOW, name="go", input=Raw(b"[1]")))),
        encode_message(Message("publish", "queue", Event(h.EVENT_RAISED, NOW, input=Raw(from_sdk(cloudevent()))))),
    ]


_EVENTS: Final = [
    from_sdk(cloudevent()),
    from_sdk(cloudevent("x", "y", b"\x00\x01")),
    b'{"specversion":"1.0","id":"1","source":"s","type":"t","expirytime":"2026-01-01T00:00:00Z","data":[1,{"a":2}]}',
]
_AMQP: Final = (
    b'{"type":"application/json","headers":{"cloudEvents:specversion":"1.0","cloudEvents:id":"1",'
    b'"cloudEvents:source":"s","cloudEvents:type":"t","ce-time":"2026-01-01T00:00:00Z","ce_n":1,"x":null}}\n{"a":[1]}'
)

PARSERS: Final = {
    "invocation": Parser(
        [wire.invocation_message(INVOCATION, _SERVING, 1, "me", NOW, resent=True).body],
        _read_work,
        (wire.NotOurs,),
        _work_again,
    ),
    "outcome": Parser(
        [wire.outcome_message(INVOCATION, event, "default", "q").body for event in (_DONE, _FAILED)],
        _read_outcome,
        (wire.NotOurs,),
    ),
    "cloudevent": Parser(_EVENTS, _of_source, (NotAnEvent,)),
    "cloudevent-sdk": Parser(_EVENTS, _of_user, (NotAnEvent,), _published),
    "cloudevent-binary": Parser([_AMQP, _AMQP.replace(b"application/json", b"text/plain")], _binary, (NotAnEvent,)),
    "instance-message": Parser(_message_samples(), decode_message, (UnreadableHistory,), encode_message),
    "timer-body": Parser([timer_body("0" * 32, 3, 1)], _timer, (UnreadableHistory,)),
    "handed-over": Parser(_handovers(), _handed_over, UNDECODABLE),
    "redis-signal": Parser([b'["someone","order-7","order-8"]'], lambda data: _Heard()._hear(b"x", data), ()),
}
