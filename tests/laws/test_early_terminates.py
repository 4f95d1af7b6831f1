"""A terminate that overtakes the start of its child is sent again soon, and reaches it."""

from __future__ import annotations

from datetime import datetime, timezone

from durable.backends.memory import MemoryStore
from durable.engine.codeless import terminate_request
from durable.engine.instance import Env, task_key
from durable.engine.messages import Message, child_start, encode_message
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Parent, Raw
from durable.model.limits import Limits
from durable.ports import Commit, Row, RowKey, Want
from durable.replay.guard import Watch
from durable.runtime.outbox import Outbox
from tests.laws.driven import drive

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AT = NOW.timestamp()
HOLD = 60.0
TASK = task_key("e", 1, 1)


def test_a_terminate_that_overtakes_the_start_of_its_child_is_looked_at_again_soon() -> None:
    """The start is with another worker, from before the partition changed hands."""
    store = MemoryStore(1)
    parent = Parent("p", "e", 1, 1)
    asked = Event(h.CHILD_CREATED, NOW, 1, "flow", 1, Raw(b"null"), instance_id="c")
    start = child_start(asked, parent, "c-execution", "seed")
    end = Message("fact", "c", terminate_request(Raw(b"null"), NOW, recursive=True, parent=parent))
    rows = [
        Row(f"{TASK}/{name}", "message", "p", 0, AT + HOLD, holder, 0, encode_message(message))
        for name, holder, message in (("start", "before", start), ("terminate", "me", end))
    ]
    started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="e", seed="s")
    made = create("p", started, 1, "p-commit")
    store.commit([Commit(made.id, "p", 0, 0, made.summary, made.appends, tuple(rows))])
    outbox = Outbox(Env("me", HOLD, iter("xyz").__next__, 1, Limits(), Watch()), lambda: NOW)
    outbox.add(rows[1])
    drive(store, outbox.send())
    [again] = store.due(0, "default", AT + HOLD / 2, 10).items
    assert again.key == rows[1].key
    assert again.due_at > AT
    assert again.holder == "me", "if this worker dies, whoever comes next need not wait for that"

    store.commit([create("c", start.event, 1, "c-commit")])
    outbox.add(again)
    drive(store, outbox.send())
    assert store.rows([RowKey(0, again.key)]) == [None]
    [child] = store.load([Want("c")])
    assert child is not None
    assert [h.decode_event(row.body).type for row in child.inbox if row.body] == [h.EXECUTION_TERMINATED]
