"""A worker all of whose threads hang receives no activities, and those that wait in it go to somebody else; one
that has no thread to begin with serves nothing."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import replace

import durable
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw, encode_events
from durable.ports import Append, Commit, Published, Row
from durable.runtime import requests as ask
from durable.runtime.serving import Serving
from durable.runtime.watchdog import Watchdog
from durable.runtime.workload import Held
from tests.laws.driven import NOW, Driven
from tests.waiting import SOON

KEY = "e/1/1"
WORK = "durable.default.work.default"


@pytest.fixture
def driven() -> Driven:
    """One slot, and an activity of a turn of its own that waits for it."""
    driven = Driven(Serving(by_mail=True, slots=1))
    started = Event(h.EXECUTION_STARTED, NOW, name="unserved", input=Raw(b"null"), execution_id="e", seed="s")
    scheduled = Event(h.TASK_SCHEDULED, NOW, name="quick", input=Raw(b"[]"), task_id=1, attempt=1)
    due_at = NOW.timestamp() + 60.0
    row = Row(KEY, "task", "there", 0, due_at, holder="me")
    made = create("there", started, 1, "c1")
    events = Append("e", 1, encode_events([scheduled]))
    driven.store.commit([made, Commit("c2", "there", 0, 1, replace(made.summary, length=2), (events,), (row,))])
    driven.loop.work.held[KEY] = Held(0, 0, due_at)
    driven.loop.work.running.add(KEY)
    return driven


def test_what_waits_behind_threads_that_hang_goes_by_mail(driven: Driven) -> None:
    waiting = [KEY]
    sent: list[str] = []
    receiving: dict[str, int] = {}

    def publish(request: Any) -> list[Published]:
        sent.extend(message.to for message in request.messages)
        return [Published.CONFIRMED] * len(request.messages)

    def receive(request: Any) -> list[bool]:
        receiving.update(request.prefetch)
        return [False] * len(request.prefetch)

    def halt(request: Any) -> list[str]:
        gone, waiting[:] = [*waiting], []
        return gone

    driven.answers |= {ask.Publish: publish, ask.Receive: receive, ask.Halt: halt}
    driven.go_on(3, [ask.Assigned([("default", 0)], ["me"])])
    assert (sent, receiving[WORK]) == ([], 1)
    driven.go_on(8, [ask.Stuck(1)])
    assert (sent, receiving[WORK]) == ([WORK], 0)
    driven.go_on(8, [ask.Stuck(-1)])
    assert (sent, receiving[WORK]) == ([WORK], 1)


def test_a_worker_whose_engine_can_not_begin_says_so_and_gives_up_its_part() -> None:
    app = durable.Registry()
    app.orchestrator(name="flow")(lambda ctx: "done")
    failing = patch.object(Watchdog, "watch_this_thread", side_effect=RuntimeError("can't start new thread"))
    with durable.connect("memory://test_a_worker_whose_engine_can_not_begin") as client:
        with failing, durable.Worker(client, registry=app):
            handle = client.start_orchestration("flow")
            with pytest.raises(durable.DurableError, match="has stopped by an error of its own"):
                handle.result(SOON)
        with durable.Worker(client, registry=app):
            assert handle.result(SOON) == "done"
