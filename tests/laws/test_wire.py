"""What travels is a CloudEvent: the SDK reads ours, we read the SDK's, and junk is refused without an accident."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any
from unicodedata import is_normalized

import msgspec
import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from durable.engine.instance import Invocation, task_key
from durable.model import history as h
from durable.model.failure import FailureDetails
from durable.model.history import Event, Raw
from durable.model.names import check_foreign_id
from durable.model.status import RuntimeStatus, Summary
from durable.runtime import wire
from durable.runtime.serving import Serving
from durable.triggers.event import digest_of, read_event
from tests.hostile.names import ALLOWED, REFUSED

NOW = datetime(2030, 1, 1, 12, 30, tzinfo=timezone.utc)

_letters = st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="/\\#?")
_texts = st.text(_letters, min_size=1, max_size=40).filter(lambda text: is_normalized("NFC", text))
_names = _texts | st.sampled_from(["default", "a.b", "😀" * 100, "x" * 200])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _invocations(draw: st.DrawFn) -> Invocation:
    execution, task_id, attempt = (
        draw(st.text("0123456789abcdef", min_size=1)),
        draw(st.integers(1)),
        draw(st.integers(1)),
    )
    return Invocation(
        draw(_names),
        execution,
        task_id,
        attempt,
        draw(_names),
        Raw(json.dumps(draw(_json)).encode()),
        task_key(execution, task_id, attempt),
        draw(st.floats(0, 1e6)),
        draw(st.floats(0, 1e6)),
        draw(_names),
        draw(_names),
        draw(_names),
    )


def read_by_sdk(body: bytes) -> CloudEvent:
    event = from_rabbitmq_event(RabbitMQMessage({}, "application/cloudevents+json", body))
    assert isinstance(event, CloudEvent)
    return event


@given(invocation=_invocations(), workspace=_names, holder=_names, resent=st.booleans())
def test_an_invocation_comes_back_and_the_sdk_reads_it(
    invocation: Invocation, workspace: str, holder: str, resent: bool
) -> None:
    message = wire.invocation_message(invocation, Serving(workspace), 16, holder, NOW, resent=resent)
    work = wire.read_work(message.body)
    assert bytes(work.invocation.input) == bytes(invocation.input)
    for field in Invocation.__struct_fields__:
        if field != "input":
            assert getattr(work.invocation, field) == getattr(invocation, field)
    assert (work.sent_by, work.resent, work.sent_at) == (holder, resent, NOW.timestamp())
    event = read_by_sdk(message.body)
    assert (event.get_id(), event.get_type()) == (message.id, "durable.task-scheduled")
    assert event.get_subject() == invocation.instance_id
    assert event.get_extension("sequence") == "0000000000"
    assert event.get_extension("replyqueue") == work.reply_queue
    data: Any = event.get_data()
    assert data["input"] == json.loads(bytes(invocation.input))
    assert (data["name"], data["task_id"], data["attempt"]) == (invocation.name, invocation.task_id, invocation.attempt)


def test_an_input_too_large_to_travel_stays_in_the_history() -> None:
    invocation = Invocation("a", "x", 1, 1, "f", Raw(b'"' + b"y" * 100 + b'"'), "x/1/1")
    for carried, there in ((102, True), (101, False)):
        serving = Serving(carried=carried)
        body = wire.invocation_message(invocation, serving, 16, "me", NOW, resent=False).body
        assert bool(bytes(wire.read_work(body).invocation.input)) is there
        assert len(body) < 700


@given(invocation=_invocations(), result=_json)
def test_an_outcome_comes_back_and_the_sdk_reads_it(invocation: Invocation, result: Any) -> None:
    done = Event(
        h.TASK_COMPLETED, NOW, invocation.task_id, attempt=invocation.attempt, result=Raw(json.dumps(result).encode())
    )
    message = wire.outcome_message(invocation, done, "default", "somewhere")
    returned = wire.read_outcome(message.body, NOW)
    assert (returned.instance_id, returned.execution_id) == (invocation.instance_id, invocation.execution_id)
    assert json.loads(bytes(returned.event.result)) == result
    assert (returned.event.task_id, returned.event.attempt) == (invocation.task_id, invocation.attempt)
    data: Any = read_by_sdk(message.body).get_data()
    assert data["result"] == result


@given(result=_json)
def test_an_outcome_written_by_the_sdk_is_read(result: Any) -> None:
    data = {"instance_id": "a b", "execution_id": "x", "task_id": 3, "attempt": 2, "result": result}
    event = CloudEvent({"type": "durable.task-completed", "source": "/elsewhere", "subject": "a b"}, data)
    for body in (JSONFormat().write(event), to_structured_event(event).body):
        returned = wire.read_outcome(body, NOW)
        assert (returned.instance_id, returned.event.task_id, returned.event.attempt) == ("a b", 3, 2)
        assert json.loads(bytes(returned.event.result)) == result


def test_a_failure_travels_with_its_causes() -> None:
    cause = FailureDetails("KeyError", "'x'")
    failure = FailureDetails("ValueError", "broken", "trace", cause, hierarchy=("ValueError", "Exception"))
    invocation = Invocation("a", "x", 1, 1, "f", Raw(b"null"), "x/1/1")
    message = wire.outcome_message(invocation, Event(h.TASK_FAILED, NOW, 1, attempt=1, failure=failure), "w", "q")
    assert message.type == "durable.task-failed"
    assert wire.read_outcome(message.body, NOW).event.failure == failure


GOOD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/x",
    "type": "durable.task-completed",
    "data": {"instance_id": "a", "execution_id": "x", "task_id": 1, "attempt": 1, "result": 1},
}


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"type": "durable.task-scheduled"},
        {"type": "durable.task-failed"},  # without a failure
        {"type": 5},
        {"data": None},
        {"data": {"instance_id": "a"}},
        {"data": {**GOOD["data"], "task_id": "1"}},
        {"data": {**GOOD["data"], "attempt": 1.5}},
        {"data": [1]},
        {"time": "yesterday"},
        {"time": "2030-01-01T00:00:00"},
        {"id": None},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    assert wire.read_outcome(json.dumps(GOOD).encode(), NOW).instance_id == "a"
    with pytest.raises(wire.NotOurs):
        wire.read_outcome(json.dumps(GOOD | change).encode(), NOW)


CALL: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/x",
    "type": "durable.task-scheduled",
    "data": {"instance_id": "a", "execution_id": "x", "task_id": 1, "attempt": 1, "name": "f"},
}


def outcome_of(body: bytes) -> wire.Returned:
    return wire.read_outcome(body, NOW)


Read = Callable[[bytes], "wire.Work | wire.Returned"]
READERS: list[tuple[Read, dict[str, Any]]] = [(wire.read_work, CALL), (outcome_of, GOOD)]
both = pytest.mark.parametrize(("read", "good"), READERS, ids=["work", "outcome"])


def accepts(read: Read, body: bytes) -> bool:
    try:
        read(body)
    except wire.NotOurs:
        return False
    return True


@both
def test_without_any_one_of_what_must_be_there_it_is_refused(read: Read, good: dict[str, Any]) -> None:
    data = {key: value for key, value in good["data"].items() if key != "result"}
    assert accepts(read, compact(good | {"data": data}))
    for name in good:
        assert not accepts(read, compact({key: value for key, value in good.items() if key != name})), name
    for name in data:
        assert not accepts(read, compact(good | {"data": {k: v for k, v in data.items() if k != name}})), name


@both
def test_what_a_later_version_says_beside_it_is_passed_over(read: Read, good: dict[str, Any]) -> None:
    assert accepts(read, compact(good | {"later": {"a": [1]}, "data": good["data"] | {"later": {"a": [1]}}}))


def test_what_is_not_said_is_as_it_was_before_anybody_said_it() -> None:
    work = wire.read_work(compact(CALL))
    assert work.invocation == Invocation("a", "x", 1, 1, "f", work.invocation.input, task_key("x", 1, 1))
    assert bytes(work.invocation.input) == b""
    assert work[1:] == ("", "", False, 0.0)
    assert wire.read_outcome(compact(GOOD), NOW).event.timestamp == NOW
    then = wire.read_outcome(compact(GOOD | {"time": "2029-01-01T02:00:00+02:00"}), NOW).event
    assert then.timestamp == datetime(2029, 1, 1, tzinfo=timezone.utc)


def test_an_outcome_is_of_the_kind_that_its_type_says() -> None:
    both = GOOD["data"] | {"failure": {"type": "ValueError"}}
    done = wire.read_outcome(compact(GOOD | {"data": both}), NOW).event
    assert (done.type, bytes(done.result), done.failure) == (h.TASK_COMPLETED, b"1", None)
    failed = wire.read_outcome(compact(GOOD | {"type": "durable.task-failed", "data": both}), NOW).event
    assert (failed.type, bytes(failed.result), failed.failure) == (h.TASK_FAILED, b"", FailureDetails("ValueError"))


@both
@pytest.mark.parametrize("name", ["instance_id", "execution_id"])
def test_an_id_is_one_that_others_may_give(read: Read, good: dict[str, Any], name: str) -> None:
    names = [text for text in (*REFUSED.values(), *ALLOWED.values()) if len(text) < 1_000]
    for text in (*names, "x" * 199, "x" * 300, "é" * 200, "é" * 201, "\x7f", "\u00ad"):
        try:
            check_foreign_id(text, "")
        except ValueError:
            allowed = False
        else:
            allowed = True
        body = json.dumps(good | {"data": good["data"] | {name: text}}).encode()
        assert accepts(read, body) is allowed, text


@both
@pytest.mark.parametrize("place", ["id", "later", "data"])
def test_text_that_is_not_utf_8_is_refused_wherever_it_stands(read: Read, good: dict[str, Any], place: str) -> None:
    data = good["data"] | {"result": "@", "input": "@", "later": "@"}
    body = compact(good | {"id": "1", "later": "1", "data": data})
    for name in ("result", "input", "later") if place == "data" else (place,):
        mark = f'"{name}":"{"@" if place == "data" else "1"}'.encode()
        assert body.count(mark) == 1
        assert accepts(read, body.replace(mark, mark + "é".encode()))
        for wrong in (b"\xff", b"\xc3", b"\xed\xa0\x80"):
            assert not accepts(read, body.replace(mark, mark + wrong)), (name, wrong)


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
def somewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here, and where it is 14 hours later or 11 earlier."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@both
@pytest.mark.parametrize(
    ("at", "fits"),
    [
        ("2030-01-01T00:00:00Z", True),
        ("2030-01-01T00:00:00", False),
        ("9999-12-31T23:59:59Z", True),
        ("9999-12-31T23:59:59+14:00", True),
        ("9999-12-31T23:59:59-00:01", False),
        ("0001-01-01T00:00:00Z", True),
        ("0001-01-01T00:00:00-14:00", True),
        ("0001-01-01T00:00:00+00:01", False),
    ],
)
@pytest.mark.usefixtures("somewhere")
def test_a_time_has_its_place_on_the_calendar_of_utc(read: Read, good: dict[str, Any], at: str, fits: bool) -> None:
    assert accepts(read, compact(good | {"time": at})) is fits


@both
def test_a_message_with_any_byte_changed_is_read_or_refused(read: Read, good: dict[str, Any]) -> None:
    """What is read has its place in a history, and can be read again there."""
    whole = compact(good | {"time": "2030-01-01T00:00:00Z", "later": "é"})
    for place in range(len(whole)):
        assert not accepts(read, whole[:place])
        for other in (b"\xff", b"\x00", b'"', b"{", b"]", b"9", b"\\", b"-", b""):
            try:
                came = read(whole[:place] + other + whole[place + 1 :])
            except wire.NotOurs:
                continue
            if isinstance(came, wire.Returned):
                h.decode_events(h.encode_events([came.event]))
            else:
                bytes(came.invocation.input).decode()


def test_an_outcome_cannot_name_payloads_of_others() -> None:
    blob = {"$durable.blob": f"{'a' * 32}/{'b' * 32}/{'c' * 64}", "bytes": 5}
    for result in (blob, {"a": [blob]}):
        with pytest.raises(wire.NotOurs, match=r"begins with \$durable\."):
            wire.read_outcome(compact(GOOD | {"data": GOOD["data"] | {"result": result}}), NOW)
    # What a codec wrote comes as it is, where this process does not have the codec.
    sealed = {"$durable.codec": "c2VjcmV0"}
    returned = wire.read_outcome(compact(GOOD | {"data": GOOD["data"] | {"result": sealed}}), NOW)
    assert json.loads(bytes(returned.event.result)) == sealed


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@given(junk=st.binary(max_size=200) | _json.map(lambda value: json.dumps(value).encode()))
def test_junk_is_refused_and_nothing_else_happens(junk: bytes) -> None:
    for read in (wire.read_work, lambda body: wire.read_outcome(body, NOW)):
        with pytest.raises(wire.NotOurs):
            read(junk)


@given(workspace=_names, group=_names, partition=st.integers(0, 10**6), queue=_names)
def test_names_of_queues_fit_the_broker_and_never_meet(workspace: str, group: str, partition: int, queue: str) -> None:
    outcomes, work = wire.partition_queue(workspace, group, partition), wire.work_queue(workspace, queue)
    for name in (outcomes, work):
        assert len(name.encode()) <= 255
        assert name.startswith("durable.")
        assert name.isascii()
    assert wire.is_outcome_queue(outcomes)
    assert not wire.is_outcome_queue(work)


def test_long_names_stay_apart() -> None:
    names = {wire.work_queue("w" * 150, "q" * 150 + letter) for letter in "abc"}
    assert len(names) == 3
    names = {wire.partition_queue("w", "g" * 199, number) for number in range(20)}
    assert len(names) == 20


def test_the_end_of_an_orchestration_is_announced_and_told_to_who_started_it() -> None:
    summary = Summary("a/b".replace("/", "-"), "x", "order", RuntimeStatus.COMPLETED, NOW, NOW, output=Raw(b'{"n":1}'))
    (topic,) = wire.lifecycle_messages(summary, 10, Serving())
    assert topic.to == "ended.COMPLETED.order"
    event = read_by_sdk(topic.body)
    assert (event.get_type(), event.get_subject()) == ("durable.execution-completed", "a-b")
    assert event.get_extension("sequence") == "0000000009"
    assert event.get_data() == {
        "instance_id": "a-b", "execution_id": "x", "name": "order", "status": "COMPLETED", "output": {"n": 1}
    }  # fmt: skip
    asked = msgspec.structs.replace(summary, reply_to="durable.default.reply.1")
    assert [m.to for m in wire.lifecycle_messages(asked, 10, Serving())] == [
        "ended.COMPLETED.order",
        "durable.default.reply.1",
    ]
    here = Serving(reply_to="durable.default.reply.1")
    assert [m.to for m in wire.lifecycle_messages(asked, 10, here)] == ["ended.COMPLETED.order"]
    running = msgspec.structs.replace(asked, status=RuntimeStatus.RUNNING)
    assert [m.to for m in wire.lifecycle_messages(running, 10, Serving())] == ["started.RUNNING.order"]


def test_what_ends_again_after_a_rewind_is_no_repetition_of_its_first_end() -> None:
    """Whoever listens may drop an event whose source and id have been there; the triggers of a workspace do."""
    failed = Summary("a", "x", "order", RuntimeStatus.FAILED, NOW, NOW)
    completed = msgspec.structs.replace(failed, status=RuntimeStatus.COMPLETED)
    ends = [wire.lifecycle_messages(failed, 9, Serving())[0], wire.lifecycle_messages(completed, 15, Serving())[0]]
    assert len({message.id for message in ends}) == 2
    assert len({digest_of(read_event(message.body)) for message in ends}) == 2
    assert wire.lifecycle_event(completed, 15, Serving()) == ends[1].body
