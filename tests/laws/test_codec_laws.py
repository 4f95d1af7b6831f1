"""The laws of payloads under a codec: sealing is undone by opening, and by nothing else; nothing else changes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, cast

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from durable.app.sealing import SealedTransport
from durable.engine.instance import Invocation
from durable.engine.messages import Message, decode_message, encode_message
from durable.model import history as h
from durable.model.errors import StoreError
from durable.model.failure import FailureDetails, describe
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.model.status import RuntimeStatus, Summary
from durable.payload import codec as coding
from durable.payload.codec import Opening, Sealing, StoredLimits, is_sealed, is_sealed_failure, why_sealed
from durable.payload.values import encode
from durable.ports import Delivery, Published, Transport
from durable.ports import Message as Outgoing
from durable.runtime.serving import Serving
from durable.runtime.wire import invocation_message, lifecycle_messages, outcome_message, read_outcome, read_work

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Flip:
    def __init__(self, key: int = 1) -> None:
        self.key = key

    def encode(self, data: bytes) -> bytes:
        return bytes(byte ^ self.key for byte in data)

    decode = encode


SEAL, OPEN = Sealing(Flip()), Opening(Flip())

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
payloads = values.map(lambda value: encode(value, "", Limits()))
failures = st.builds(
    FailureDetails,
    st.sampled_from(["ValueError", "shop.Refused"]),
    st.sampled_from(["secret", ""]),
    st.none() | st.just("secret trace"),
    st.none() | st.just(FailureDetails("KeyError", "secret")),
    st.dictionaries(st.sampled_from(["code"]), st.just("secret")),
    st.just(("ValueError", "Exception")),
)
events = st.builds(
    Event,
    st.sampled_from([h.TASK_SCHEDULED, h.EVENT_RAISED, h.TASK_FAILED]),
    st.just(NOW),
    st.integers(0, 5),
    st.sampled_from(["", "charge"]),
    input=st.just(h.NO_PAYLOAD) | payloads,
    result=st.just(h.NO_PAYLOAD) | payloads,
    failure=st.none() | failures,
    tags=st.none() | st.just({"input": "a tag", "failure": "another"}),
)


@given(payload=payloads)
def test_opening_undoes_sealing_and_sealing_twice_is_sealing_once(payload: Raw) -> None:
    sealed = SEAL.payload(payload)
    assert is_sealed(sealed)
    assert not is_sealed(payload)
    assert OPEN.payload(sealed) == payload == OPEN.payload(payload)
    assert SEAL.payload(sealed) == sealed
    assert msgspec.json.decode(sealed).keys() == {"$durable.codec"}


@given(payload=payloads, key=st.integers(2, 255))
def test_what_another_key_cannot_open_stays_as_it_was_stored(payload: Raw, key: int) -> None:
    sealed = SEAL.payload(payload)
    kept = Opening(Flip(key)).payload(sealed)
    if is_sealed(kept):  # a byte or two may be JSON by chance
        assert "can't be decoded with the codec of this process (it gave what is no JSON)" in why_sealed(kept)
        assert Sealing(Flip(key)).payload(kept) == sealed
        assert OPEN.payload(kept) == payload
    assert "was encoded by a codec that this process does not have" in why_sealed(sealed)


@given(turn=st.lists(events, min_size=1, max_size=4))
def test_rows_come_back_and_hold_nothing_open(turn: list[Event]) -> None:
    stored = h.encode_events(turn)
    sealed = coding.row(stored, SEAL)
    assert coding.row(sealed, OPEN) == stored
    assert coding.row(sealed, SEAL) == sealed
    assert b"secret" not in sealed
    for event, was in zip(h.decode_events(sealed), turn, strict=True):
        assert all(is_sealed(raw) for raw in (event.input, event.result) if raw)
        assert (event.type, event.name, event.task_id, event.tags) == (was.type, was.name, was.task_id, was.tags)
        if event.failure is not None and was.failure is not None:
            assert is_sealed_failure(event.failure)
            assert (event.failure.type, event.failure.hierarchy) == (was.failure.type, was.failure.hierarchy)


@given(event=events)
def test_messages_between_instances_come_back(event: Event) -> None:
    message = encode_message(Message("fact", "order-42", event))
    sealed = coding.document(message, SEAL)
    assert b"secret" not in sealed
    assert decode_message(coding.document(sealed, OPEN)) == Message("fact", "order-42", event)
    assert coding.document(coding.document(h.encode_event(event), SEAL), OPEN) == h.encode_event(event)


def invocation(payload: bytes) -> Invocation:
    return Invocation("order-42", "e1", 3, 1, "charge", Raw(payload), "e1/3/1", orchestrator="order")


def test_what_travels_through_a_broker_is_sealed_and_still_a_cloudevent() -> None:
    made = invocation_message(invocation(b'"secret"'), Serving(), 1, "me", NOW, resent=False)
    sealed = coding.document(made.body, SEAL)
    assert b"secret" not in sealed
    event = JSONFormat().read(CloudEvent, sealed)
    data: Any = event.get_data()
    assert data["name"] == "charge"
    assert data["input"].keys() == {"$durable.codec"}
    assert read_work(coding.document(sealed, OPEN)).invocation == invocation(b'"secret"')
    assert is_sealed(read_work(sealed).invocation.input)

    failed = Event(h.TASK_FAILED, NOW, 3, attempt=1, failure=describe(ValueError("secret")))
    done = Event(h.TASK_COMPLETED, NOW, 3, attempt=1, result=Raw(b'"secret"'))
    for outcome in (failed, done):
        sealed = coding.document(outcome_message(invocation(b"1"), outcome, "default", "q").body, SEAL)
        assert b"secret" not in sealed
        assert read_outcome(coding.document(sealed, OPEN), NOW).event == outcome


@pytest.mark.parametrize("body", [b"", b'["e1",1,1]', b"{", b"no JSON", b'{"input":', b"\xff"])
def test_what_is_no_document_of_ours_is_left_as_it_is(body: bytes) -> None:
    assert coding.document(body, SEAL) == coding.document(body, OPEN) == body
    assert coding.row(body, SEAL) == coding.row(body, OPEN) == body


def test_a_summary_shows_how_it_stands_and_nothing_more() -> None:
    summary = Summary(
        "order-42",
        "e1",
        "order",
        RuntimeStatus.BLOCKED,
        NOW,
        NOW,
        output=Raw(b'"secret"'),
        custom_status=Raw(b'["secret"]'),
        failure=FailureDetails("ValueError", "secret"),
        blocked_reason="with input secret",
        tags={"shop": "north"},
    )
    sealed = coding.summary(summary, SEAL)
    assert b"secret" not in msgspec.json.encode(sealed)
    assert coding.summary(sealed, OPEN) == summary
    assert coding.summary(sealed, SEAL) == sealed
    assert coding.shown(sealed.blocked_reason).startswith("(encoded by a codec")
    assert (sealed.status, sealed.tags) == (summary.status, summary.tags)
    blind = Opening(Flip(2))
    assert coding.summary(coding.summary(sealed, blind), SEAL) == sealed
    plain = Summary("order-42", "e1", "order", RuntimeStatus.RUNNING, NOW, NOW)
    assert coding.summary(plain, SEAL) is plain


def test_a_codec_that_raises_or_gives_no_bytes_is_named_without_the_value() -> None:
    class Broken(Flip):
        def encode(self, data: bytes) -> bytes:
            raise OSError(data)

    class Text(Flip):
        def encode(self, data: bytes) -> bytes:
            return data.decode()  # type: ignore[return-value]  # on purpose

    for broken, raised in ((Broken(), "OSError"), (Text(), "TypeError")):
        with pytest.raises(StoreError, match=f"it raised {raised}") as caught:
            Sealing(broken).payload(Raw(b'"secret"'))
        assert "secret" not in str(caught.value)


def test_limits_under_a_codec_are_the_same_numbers_in_another_process() -> None:
    limits = replace(Limits(), payload_bytes=5_000, turn_seconds=0.5)
    stored = StoredLimits(limits, Flip())
    assert stored.turn_seconds == 0.5
    assert pickle.loads(pickle.dumps(stored)) == limits
    assert stored.stored_bytes(b"x" * 3_000) == len(SEAL.payload(Raw(b"x" * 3_000)))
    assert stored.stored_bytes(b"x" * 1_000) == 1_000


class Wire:
    """What a broker got."""

    dead_letters = "dead"

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.sink: Callable[[Sequence[Delivery]], None] = lambda deliveries: None

    def publish(self, messages: Sequence[Outgoing]) -> list[Published]:
        self.bodies += [message.body for message in messages]
        return [Published.CONFIRMED] * len(messages)

    announce = publish

    def subscribe(self, queue: str, prefetch: int, sink: Callable[[Sequence[Delivery]], None]) -> None:
        self.sink = sink


def test_a_broker_gets_and_gives_what_is_sealed() -> None:
    wire = Wire()
    transport = SealedTransport(cast(Transport, wire), Flip())
    message = invocation_message(invocation(b'"secret"'), Serving(), 1, "me", NOW, resent=False)
    assert transport.publish([message]) == [Published.CONFIRMED]
    ended = Summary("order-42", "e1", "order", RuntimeStatus.COMPLETED, NOW, NOW, output=Raw(b'"secret"'))
    transport.announce(lifecycle_messages(ended, 4, Serving()))
    assert len(wire.bodies) == 2
    assert not any(b"secret" in body for body in wire.bodies)
    got: list[Delivery] = []
    transport.subscribe("q", 1, got.extend)
    wire.sink([Delivery("q", wire.bodies[0], 1, True), Delivery("q", b"no JSON", 2)])
    assert got == [Delivery("q", message.body, 1, True), Delivery("q", b"no JSON", 2)]


def test_a_broker_hears_nothing_from_a_codec_that_fails() -> None:
    class Broken(Flip):
        def encode(self, data: bytes) -> bytes:
            raise OSError

    wire = Wire()
    transport = SealedTransport(cast(Transport, wire), Broken())
    message = invocation_message(invocation(b"1"), Serving(), 1, "me", NOW, resent=False)
    assert transport.publish([message, message]) == [Published.UNKNOWN] * 2
    transport.announce([message])
    assert wire.bodies == []
