"""What goes out without pika's encoders is what pika would send; what is read without it, what it would read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec  # as above

from durable.backends.rabbitmq_deliveries import Deliveries
from durable.backends.rabbitmq_publishing import _header, _properties
from durable.ports import Message


@pytest.mark.parametrize("text", ["a" * 80, "ä" * 20, "ä" * 127, "ä" * 128, "a" * 255, "a" * 256, ""])
@pytest.mark.parametrize("size", [0, 500])
def test_a_content_header_is_the_one_that_pika_makes(text: str, size: int) -> None:
    message = Message("q", text, "durable.task-completed", b"x" * size)
    assert _header(3, message) == frame.Header(3, size, _properties(message)).marshal()


OURS, THEIRS = 1, 2  # channels
EVENT = b'{"specversion":"1.0"}'
STRUCTURED = pika.BasicProperties(content_type="application/cloudevents+json", message_id="a", delivery_mode=2)
BINARY = pika.BasicProperties(
    content_type="application/json", headers={"cloudEvents_specversion": "1.0", "cloudEvents_id": "7"}
)


def delivery(
    number: int, body: bytes, properties: Any = STRUCTURED, channel: int = OURS, size: int = 100, between: bytes = b""
) -> bytes:
    """As a broker sends it, in frames with so many bytes of the body each."""
    method = spec.Basic.Deliver("consumer", number, number % 2 == 0, "exchange", "key")
    bodies = [frame.Body(channel, body[first : first + size]) for first in range(0, len(body), size)]
    content = [frame.Header(channel, len(body), properties), *bodies]
    return b"".join([frame.Method(channel, method).marshal(), between, *(one.marshal() for one in content)])


class Connection:
    """In pika's place: remembers what it is given."""

    def __init__(self) -> None:
        self.bytes_received = 0
        self.seen: list[Any] = []
        self.deliveries = Deliveries(self)
        self.deliveries.readers[OURS] = lambda *delivered: self.seen.append(delivered)

    def _on_data_available(self, data: bytes) -> None:
        while data:
            size, _ = frame.decode_frame(data)
            assert size, "not a whole frame"
            self.seen.append(data[:size])
            data = data[size:]


def told(sent: bytes, cuts: Sequence[int] = ()) -> list[Any]:
    """What becomes of these bytes when they come in so many pieces."""
    connection = Connection()
    places = [0, *sorted({cut % (len(sent) + 1) for cut in cuts}), len(sent)]
    for first, last in pairwise(places):
        connection.deliveries.read(sent[first:last])
    mine = len(sent) - sum(len(one) for one in connection.seen if isinstance(one, bytes))
    assert connection.bytes_received == mine  # pika counts the others
    return connection.seen


HEARTBEAT = frame.Heartbeat().marshal()
CONFIRM = frame.Method(OURS, spec.Basic.Ack(1, True)).marshal()


@given(st.lists(st.integers(min_value=0)))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: list[int]) -> None:
    sent = [HEARTBEAT, delivery(1, EVENT), delivery(2, b"x" * 350), CONFIRM, delivery(3, b""), delivery(4, EVENT)]
    expected = [HEARTBEAT, (1, EVENT, False), (2, b"x" * 350, True), CONFIRM, (3, b"", False), (4, EVENT, True)]
    assert told(b"".join(sent), cuts) == expected


def test_a_binary_event_that_is_read_without_pika_is_rewritten() -> None:
    [(number, event, _)] = told(delivery(1, b"[1]", BINARY))
    assert number == 1
    assert json.loads(event) == {"specversion": "1.0", "id": "7", "datacontenttype": "application/json", "data": [1]}


def test_what_nobody_reads_here_is_left_to_pika() -> None:
    other = delivery(1, b"x" * 250, channel=THEIRS)
    seen = told(other + delivery(2, EVENT) + other)
    assert seen.pop(len(seen) // 2) == (2, EVENT, True)
    assert b"".join(seen) == 2 * other


@pytest.mark.parametrize("between", [HEARTBEAT, frame.Header(THEIRS, 0, STRUCTURED).marshal()])
def test_a_delivery_with_something_in_between_is_left_to_pika(between: bytes) -> None:
    """RabbitMQ sends none, but the protocol allows it."""
    sent = delivery(1, EVENT, between=between)
    *frames, after = told(sent + delivery(2, EVENT))
    assert b"".join(frames) == sent
    assert after == (2, EVENT, True)


def test_what_is_no_frame_is_left_to_pika() -> None:
    """Such as the header of another version of the protocol."""
    assert told(b"AMQP\x00\x00\x09\x01") == [b"AMQP\x00\x00\x09\x01"]
