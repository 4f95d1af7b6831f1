"""The messages of hello sequences as bare programs send them: as many, and as long, as the product's."""

from __future__ import annotations

import itertools
import os
from typing import Final, Literal, NamedTuple

ROUND: Final = 400  # sequences that take a step together
AHEAD: Final = 100  # sequences that take their steps together when they were started one by one
PARTITIONS: Final = 16
STEPS: Final = (("Tokyo", 1), ("Seattle", 2), ("London", 3))
WORK: Final = "raw.work"
OUTCOMES: Final = tuple(f"raw.outcomes.default.{number}" for number in range(PARTITIONS))
REPLIES: Final = "raw.reply.0123456789abcdef0123456789abcdef"
LIFECYCLE: Final = "raw.lifecycle"
_TIME: Final = "2026-01-01T00:00:00.000000Z"
_HOLDER: Final = "0123456789abcdef0123456789abcdef"

Shape = Literal["many", "single", "alone"]


class Sent(NamedTuple):
    """Seconds of all and of each round."""

    seconds: float
    each: list[float]


class Message(NamedTuple):
    """One CloudEvent: where it is published, and its bytes."""

    exchange: str
    key: str
    type: str
    body: bytes


class Life(NamedTuple):
    """The messages of one hello sequence, step by step."""

    started: list[Message]
    invocations: list[Message]
    outcomes: list[Message]
    ended: list[Message]


def _event(type: str, id: str, subject: str, data: str, more: str = "") -> bytes:
    return (
        f'{{"id":"{id}","source":"/workspaces/default/orchestrations/hello_sequence","type":"{type}",'
        f'"specversion":"1.0","subject":"{subject}","time":"{_TIME}","datacontenttype":"application/json",'
        f'"partitionkey":"{subject}","traceparent":"00-{_HOLDER}-{_HOLDER[:16]}-01"{more},"data":{{{data}}}}}'
    ).encode()


_NUMBERED: Final = ',"sequence":"0000000000"'
_numbers: Final = itertools.count(1)


def hello() -> Life:
    """A sequence of three activities."""
    instance, number = os.urandom(16).hex(), next(_numbers)
    execution = f"{_HOLDER[:20]}{number:012x}"
    queue = OUTCOMES[number % PARTITIONS]
    whose = f'"instance_id":"{instance}","execution_id":"{execution}"'
    life = Life([], [], [], [])
    for city, task in STEPS:
        id = f"{instance}/{execution}/{task}/1"
        what = f'{whose},"task_id":{task},"attempt":1'
        asked = (
            f'{what},"name":"hello","input":"{city}","timeout":0.0,"heartbeat_timeout":0.0,'
            '"orchestrator":"hello_sequence"'
        )
        more = f',"sequence":"0000000002","replyqueue":"{queue}","sentby":"{_HOLDER}"'
        kind = "durable.task-scheduled"
        life.invocations.append(Message("", WORK, kind, _event(kind, f"{id}/scheduled", instance, asked, more)))
        kind = "durable.task-completed"
        done = f'{what},"result":"Hello {city}!"'
        life.outcomes.append(Message("", queue, kind, _event(kind, id, instance, done)))
    stands = f'{whose},"name":"hello_sequence","status":'
    kind = "durable.execution-started"
    body = _event(kind, f"{instance}/{execution}/0", instance, f'{stands}"RUNNING"', _NUMBERED)
    life.started.append(Message(LIFECYCLE, "started.RUNNING.hello_sequence", kind, body))
    kind = "durable.execution-completed"
    output = ",".join(f'"Hello {city}!"' for city, _ in STEPS)
    body = _event(kind, f"{instance}/{execution}/10", instance, f'{stands}"COMPLETED","output":[{output}]', _NUMBERED)
    for exchange, key in ((LIFECYCLE, "ended.COMPLETED.hello_sequence"), ("", REPLIES)):
        life.ended.append(Message(exchange, key, kind, body))
    return life


def in_rounds(shape: Shape, count: int) -> list[tuple[list[Life], int]]:
    """Which of so many sequences take a step together, and which step."""
    size = {"many": ROUND, "single": AHEAD, "alone": 1}[shape]
    lives = [hello() for _ in range(count)]
    batches = [lives[first : first + size] for first in range(0, count, size)]
    if shape == "many":  # each step of all, then the next
        return [(batch, step) for step in range(len(STEPS)) for batch in batches]
    return [(batch, step) for batch in batches for step in range(len(STEPS))]
