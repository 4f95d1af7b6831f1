"""The thread of a loop, on a real store and a broker in memory: its activities go out and come back by mail."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import pytest

import durable
from durable.backends.local_signals import LocalSignals
from durable.backends.memory import MemoryStore
from durable.backends.memory_transport import MemoryBroker, MemoryTransport
from durable.engine.instance import Env
from durable.engine.step import create
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.model.status import Summary
from durable.ports import Commit, Delivery
from durable.replay.guard import Watch
from durable.runtime.activities import Activities
from durable.runtime.engine_thread import EngineThread
from durable.runtime.event_sources import EventSources
from durable.runtime.loop import Loop
from durable.runtime.requests import Assigned, Lost, Stop
from durable.runtime.serving import Serving
from durable.runtime.watchdog import Watchdog
from durable.runtime.wire import work_queue
from tests.laws.driven import Registered
from tests.waiting import until

WORK = work_queue("default", "default")


class Code(Registered):
    def serves_activity(self, name: str) -> bool:
        return self.registry.find_activity(name) is not None


class Here:
    """A worker's engine with one partition, and all that it stands on."""

    def __init__(self) -> None:
        app = durable.Registry()

        @app.orchestrator
        def calls(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
            return (yield ctx.call_activity("double", 21))

        @app.activity
        def double(number: int) -> int:
            return 2 * number

        self.store = MemoryStore(1)
        self.broker = MemoryBroker()
        self.transport = MemoryTransport(self.broker, "default")
        self.ended: dict[str, Summary] = {}
        self.died: list[BaseException] = []
        ids = iter(f"id{number}" for number in range(1_000))
        env = Env("me", 60.0, ids.__next__, 1, Limits(), Watch())
        loop = Loop(env, Code(app), now, serving=Serving(by_mail=True, eager=False))
        self.activities = Activities(
            app.find_activity, lambda done: self.engine.tell(done), size=4, limits=Limits(), clock=now, client=None
        )
        self.engine = EngineThread(
            loop,
            self.store,
            LocalSignals(),
            self.activities,
            self.transport,
            EventSources(lambda url: pytest.fail("there is none"), lambda news: None),
            Watchdog(60.0),
            lambda summaries: self.ended.update((summary.instance_id, summary) for summary in summaries),
            self.died.append,
        )
        self.engine.tell(Assigned([("default", 0)], ["me"]))
        self.engine.start()
        until(lambda: self.receives(), "it receives")

    def receives(self) -> bool:
        depth = self.broker.depth(WORK)
        return depth is not None and depth.consumers == 1

    def start(self, instance_id: str) -> None:
        commit = creation(instance_id)
        self.store.commit([commit])
        assert self.engine.created([commit]) == []

    def output_of(self, instance_id: str) -> Raw:
        until(lambda: instance_id in self.ended, f"{instance_id} ends")
        return self.ended[instance_id].output

    def stop(self) -> None:
        self.engine.tell(Stop(60.0))
        self.engine.join()
        self.activities.close()
        self.transport.close()
        assert self.died == []


def now() -> datetime:
    return datetime.now(timezone.utc)


def creation(instance_id: str, group: str = "") -> Commit:
    started = Event(
        h.EXECUTION_STARTED, now(), name="calls", input=Raw(b"null"), execution_id=instance_id, seed="s", group=group
    )
    return create(instance_id, started, 1, f"c {instance_id}")


@pytest.fixture
def here() -> Iterator[Here]:
    here = Here()
    yield here
    if here.engine.alive:
        here.stop()


def test_an_activity_goes_by_mail_and_its_outcome_comes_back(here: Here) -> None:
    here.start("a")
    assert here.output_of("a") == Raw(b"42")


def test_what_a_dead_subscription_holds_is_given_back_when_it_is_doubted(here: Here) -> None:
    lost: list[Delivery] = []

    def swallow(deliveries: Sequence[Delivery]) -> None:
        lost.extend(deliveries)

    here.transport.subscribe(WORK, 10, swallow)  # in the place of the engine's, which has no way to know
    here.start("a")
    until(lambda: lost, "it is delivered to nobody")
    here.engine.tell(Lost())
    assert here.output_of("a") == Raw(b"42")
    here.stop()
    assert here.broker.depth(WORK) == (0, 0), "or it comes again with the end of the connection, and then for nothing"


def test_what_is_received_well_is_not_subscribed_to_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.start("a")
    here.output_of("a")
    again: list[str] = []
    monkeypatch.setattr(MemoryTransport, "subscribe", lambda _, queue, *rest: again.append(queue))
    here.start("b")
    here.output_of("b")
    assert again == []


def test_what_is_not_for_this_loop_is_left_to_whoever_started_it(here: Here) -> None:
    mine, far = creation("near"), creation("far", "night")
    here.store.commit([mine, far])
    assert here.engine.created([mine, far]) == ["far"]
    assert here.output_of("near") == Raw(b"42")
