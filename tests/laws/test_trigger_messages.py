"""What leaves the triggers: each message is a row of the step that decided it, and for nobody but whom it names."""

from __future__ import annotations

from itertools import count

from durable import EventPattern, actions
from durable.app.actions import trigger
from durable.app.conditions import always
from durable.engine.instance import Arrival, Env, Instance
from durable.engine.messages import decode_message
from durable.engine.triggering import ASKED, begin, step
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.model.names import TRIGGERS, partition_of
from durable.ports import Record, Row
from durable.replay.guard import Watch
from durable.triggers.asks import Add, Ask, encode_ask
from durable.triggers.drafting import no_function

from .test_trigger_laws import NOW, event

PARTITIONS = 8
HOLD = 60.0
PATTERN = b'{"type":"t"}'


def sent(*facts: Event) -> list[Row]:
    """The messages of a step that takes these."""
    ids = count()
    env = Env("me", HOLD, lambda: f"id{next(ids)}", PARTITIONS, Limits(), Watch())
    creation = begin(NOW, env.mint, PARTITIONS)
    record = Record(1, creation.id, creation.summary, tuple(append.events for append in creation.appends), ())
    arrivals = [Arrival(fact) for fact in facts]
    commit = step(Instance.of_record(record), arrivals, no_function, NOW, env).commit
    assert commit is not None
    return [row for row in commit.put if row.kind == "message"]


def published(body: bytes) -> Event:
    return Event(h.EVENT_RAISED, NOW, input=Raw(body))


def test_messages_are_held_by_whoever_decided_them() -> None:
    """Nobody else sends them meanwhile, and somebody does when it is gone."""
    starts = trigger("t", on=EventPattern(), condition=always, action=actions.start_orchestration("o"), transient=False)
    add = Event(ASKED, NOW, input=encode_ask(Ask("token", (Add(starts),))))
    rows = sent(add, published(event("1")), published(event("2")))
    assert len({row.key for row in rows}) == 2
    for row in rows:
        assert (row.due_at, row.holder, row.attempt) == (NOW.timestamp() + HOLD, "me", 0)
        assert (row.instance_id, row.partition) == (TRIGGERS, partition_of(TRIGGERS, PARTITIONS))
    assert partition_of(TRIGGERS, PARTITIONS) != 0


def test_what_an_execution_waited_for_is_for_no_other_execution_of_that_instance() -> None:
    """It may have continued as new meanwhile, and its task of that number be another one."""
    awaited = Event(h.EVENT_AWAITED, NOW, 3, h.CLOUD_EVENT, input=Raw(PATTERN), instance_id="i", execution_id="x")
    [row] = sent(awaited, published(event("1")))
    message = decode_message(row.body)
    came = Event(h.EVENT_RAISED, NOW, 3, h.CLOUD_EVENT, input=Raw(event("1")), execution_id="x")
    assert (message.kind, message.target, message.event) == ("fact", "i", came)
