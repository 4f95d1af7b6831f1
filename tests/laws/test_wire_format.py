"""What stands in each message, attribute by attribute: other versions and other programs look for it there.

So each is compared whole. A difference here is one for workers of another version that serve the same workspace now,
and for messages that have waited in a queue since before an update.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any, Final

import pytest
from msgspec.structs import replace

from durable.engine.instance import Invocation, task_key
from durable.model import history as h
from durable.model.failure import FailureDetails
from durable.model.history import Event, Raw
from durable.model.status import RuntimeStatus, Summary
from durable.ports import Message
from durable.runtime import wire
from durable.runtime.serving import Serving

NOW: Final = datetime(2030, 1, 1, 12, 30, tzinfo=timezone.utc)
EXECUTION: Final = "0123456789abcdef0011223344556677"
WHOLE: Final = Invocation(
    "über 1", EXECUTION, 7, 2, "charge", Raw(b"[1]"), task_key(EXECUTION, 7, 2), 30.5, 5.0, "gpu", "an order", "g.1", 12
)
PLAIN: Final = Invocation("a", EXECUTION, 7, 2, "charge", Raw(b"[1]"), task_key(EXECUTION, 7, 2), number=12)
TASK: Final = {"instance_id": "über 1", "execution_id": EXECUTION, "task_id": 7, "attempt": 2}
FAILURE: Final = FailureDetails("ValueError", "no", properties={"code": 7}, hierarchy=("ValueError", "Exception"))
SUMMARY: Final = Summary("über 1", EXECUTION, "an order", RuntimeStatus.RUNNING, NOW, NOW, reply_to="durable.w.reply.1")
SERVING: Final = Serving("w.1", carried=20)


def attributes(type: str, id: str, **more: Any) -> dict[str, Any]:
    """Of an event of `über 1`."""
    return {
        "specversion": "1.0",
        "type": type,
        "id": id,
        "source": "/workspaces/w.1/orchestrations/an%20order",
        "subject": "über 1",
        "time": "2030-01-01T12:30:00Z",
        "datacontenttype": "application/json",
        "partitionkey": "%C3%BCber%201",
        **more,
    }


def sent(message: Message) -> tuple[str, str, str, Any]:
    return message.to, message.type, message.id, json.loads(message.body)


@pytest.mark.parametrize("resent", [False, True])
def test_an_invocation_says_everything(resent: bool) -> None:
    event_id = f"%C3%BCber%201/{EXECUTION}/7/2/scheduled"
    event = attributes(
        "durable.task-scheduled",
        event_id,
        traceparent=f"00-{EXECUTION}-0000000700000002-01",
        sequence="0000000012",
        replyqueue="durable.w%2E1.outcomes.g%2E1.0",
        queue="gpu",
        sentby="me",
        data=TASK
        | {
            "name": "charge",
            "input": [1],
            "timeout": 30.5,
            "heartbeat_timeout": 5.0,
            "orchestrator": "an order",
            "group": "g.1",
        },
    )
    if resent:
        event["resent"] = "true"
    message = wire.invocation_message(WHOLE, SERVING, 16, "me", NOW, resent=resent)
    assert sent(message) == ("durable.w%2E1.work.gpu", "durable.task-scheduled", event_id, event)


def test_what_an_invocation_has_not_is_not_said() -> None:
    event = json.loads(wire.invocation_message(PLAIN, Serving(), 1, "", NOW, resent=False).body)
    assert event.keys().isdisjoint({"queue", "sentby", "resent"})
    assert event["replyqueue"] == "durable.default.outcomes.default.0"


@pytest.mark.parametrize(
    ("type", "said", "event"),
    [
        ("durable.task-completed", {"result": [1]}, Event(h.TASK_COMPLETED, NOW, 7, attempt=2, result=Raw(b"[1]"))),
        (
            "durable.task-failed",
            {
                "failure": {
                    "type": "ValueError",
                    "message": "no",
                    "properties": {"code": 7},
                    "hierarchy": ["ValueError", "Exception"],
                }
            },
            Event(h.TASK_FAILED, NOW, 7, attempt=2, failure=FAILURE),
        ),
    ],
)
def test_an_outcome_says_how_it_ended_and_comes_back(type: str, said: dict[str, Any], event: Event) -> None:
    event_id = f"%C3%BCber%201/{EXECUTION}/7/2"
    message = wire.outcome_message(WHOLE, event, "w.1", "there")
    trace = f"00-{EXECUTION}-0000000700000002-01"
    assert sent(message) == ("there", type, event_id, attributes(type, event_id, traceparent=trace, data=TASK | said))
    returned = wire.read_outcome(message.body, NOW.replace(year=2031))
    assert (returned.instance_id, returned.execution_id) == ("über 1", EXECUTION)
    assert h.encode_events([returned.event]) == h.encode_events([event])


def lifecycle(type: str, id: str, number: int, **data: Any) -> dict[str, Any]:
    trace = f"00-{EXECUTION}-{EXECUTION[16:]}-01"
    said = {"instance_id": "über 1", "execution_id": EXECUTION, "name": "an order", **data}
    return attributes(type, id, traceparent=trace, sequence=f"{number:010d}", data=said)


STARTED: Final = "durable.execution-started"
ENDED: Final = "durable.execution-completed"
ENDS: Final[list[tuple[Summary, dict[str, Any]]]] = [
    (replace(SUMMARY, status=RuntimeStatus.COMPLETED, output=Raw(b"[1]")), {"status": "COMPLETED", "output": [1]}),
    (
        replace(SUMMARY, status=RuntimeStatus.FAILED, failure=FailureDetails("ValueError", "no")),
        {"status": "FAILED", "failure": {"type": "ValueError", "message": "no"}},
    ),
]


def test_a_beginning_is_event_0_however_long_its_first_turn_has_made_the_history() -> None:
    event_id = f"%C3%BCber%201/{EXECUTION}/0"
    started = lifecycle(STARTED, event_id, 0, status="RUNNING")
    [message] = wire.lifecycle_messages(SUMMARY, 9, SERVING)
    assert sent(message) == ("started.RUNNING.an%20order", STARTED, event_id, started)
    assert wire.lifecycle_event(SUMMARY, 9, SERVING) == message.body


@pytest.mark.parametrize(("summary", "data"), ENDS)
def test_an_end_is_the_last_event_and_says_how(summary: Summary, data: dict[str, Any]) -> None:
    event_id = f"%C3%BCber%201/{EXECUTION}/8"
    ended = (ENDED, event_id, lifecycle(ENDED, event_id, 8, **data))
    topic, reply = wire.lifecycle_messages(summary, 9, SERVING)
    assert sent(topic) == (f"ended.{data['status']}.an%20order", *ended)
    assert sent(reply) == ("durable.w.reply.1", *ended)
    assert wire.lifecycle_event(summary, 9, SERVING) == topic.body


@pytest.mark.parametrize(("size", "there"), [(20, True), (21, False)])
def test_triggers_are_not_told_a_large_output(size: int, there: bool) -> None:
    output = b'"%s"' % (b"x" * (size - 2))
    summary = replace(SUMMARY, status=RuntimeStatus.COMPLETED, output=Raw(output))
    told = json.loads(wire.lifecycle_event(summary, 9, SERVING))
    assert ("output" in told["data"]) is there
    assert told["data"]["status"] == "COMPLETED"


@pytest.mark.parametrize(
    ("workspace", "name", "work"),
    [
        ("default", "default", "durable.default.work.default"),
        ("a.b", "c.d", "durable.a%2Eb.work.c%2Ed"),
        ("é", "a b:c~", "durable.%C3%A9.work.a%20b%3Ac~"),
        ("w" * 60, "q", f"durable.{'w' * 60}.work.q"),
        ("w" * 61, "q", f"durable.{'w' * 20}~c1a35cf85870ab5c7464dedbc39c4c66.work.q"),
        ("w", "é" * 11, "durable.w.work.%C3%A9%C3%A9%C3%A9%C~31de13a7010cf019b1e0889437d3bf86"),
    ],
)
def test_a_queue_is_called_what_it_was_called(workspace: str, name: str, work: str) -> None:
    """Else what waits in it when a worker is updated waits for ever."""
    assert wire.work_queue(workspace, name) == work
    assert wire.partition_queue(workspace, name, 12) == work.replace(".work.", ".outcomes.") + ".12"


def test_queues_of_names_with_dots_stay_apart() -> None:
    pairs = [("a", "b.work.c"), ("a.work.b", "c"), ("a.work", "b.c"), ("a", "b.c")]
    names = [wire.work_queue(*pair) for pair in pairs] + [wire.partition_queue(*pair, 1) for pair in pairs]
    assert len(set(names)) == len(names)
    assert [wire.is_outcome_queue(name) for name in names] == [False] * 4 + [True] * 4
    assert not wire.is_outcome_queue(wire.work_queue("outcomes", "outcomes.outcomes"))
