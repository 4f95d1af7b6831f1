"""Triggers in the simulated world: publishers that repeat themselves, workers that fail; each event counts once."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

import msgspec
import pytest

from durable import EventPattern, conditions
from durable.app.actions import trigger
from durable.engine.instance import Instance
from durable.engine.triggering import ASKED, begin, hub_of
from durable.model import history as h
from durable.model.errors import StoreError
from durable.model.history import Event, Raw, encode_event
from durable.model.names import TRIGGERS, partition_of
from durable.ports import Commit, Fact, Want
from durable.runtime.loop import Loop
from durable.testing.programs import make_script
from durable.testing.simulated_store import Judge
from durable.testing.simulated_world import World, left, make_plan
from durable.triggers.actions import Definition, Publish, StartOrchestration
from durable.triggers.asks import Add, Ask, encode_ask
from durable.triggers.event import digest_of, read_event
from durable.triggers.hub import Hub

SEEDS: Final = 60
PARTS: Final = 7  # of a join


def body(id: str, type: str, subject: str) -> bytes:
    event = {"specversion": "1.0", "id": id, "source": "/simulated", "type": type, "subject": subject}
    return msgspec.json.encode(event)


def counts(context: Any, event: Any) -> None:
    """Each id, and in which order those of a subject came."""
    context["n"] = context.get("n", 0) + 1
    context[event.get_subject()] = [*context.get(event.get_subject(), []), event.get_id()]


def fails_at_first(context: Any, event: Any) -> None:
    """A firing that fails changes nothing: this one is tried a second time, and then does as `counts`."""
    key = (event.get_id(), event.get_subject())
    TRIED[key] += 1
    if TRIED[key] == 1:
        context["n"] = -1
        raise ValueError("not yet")
    counts(context, event)


TRIED: Counter[tuple[str, str]] = Counter()
FUNCTIONS: Final = {"counts": counts, "fails at first": fails_at_first}


def persistent(id: str, on: str, action: Any, condition: Any = conditions.always) -> Definition:
    patterns = [EventPattern(type=type) for type in on.split()]
    return trigger(id, on=patterns, condition=condition, action=action, transient=False)


PROGRAM: Final = next(script for script in (make_script(Random(n), 4) for n in range(99)) if not script.events)
DEFINED: Final = [
    persistent("each", "part", "counts"),
    persistent("slow", "part", "fails at first"),
    persistent("join", "part", Publish(Raw(body("joined", "joined", "j"))), conditions.join(PARTS)),
    persistent("later", "joined", Publish(Raw(body("late", "late", "l")), 0.7)),
    persistent("joined", "joined late", "counts"),
    trigger(
        "once",
        on=EventPattern(type="part"),
        condition=conditions.always,
        action=StartOrchestration(PROGRAM.kind, input=Raw(msgspec.json.encode(PROGRAM.program)), instance_id="started"),
        transient=True,
    ),
]


class TriggerJudge(Judge):
    """Looks at orchestrations only: the history of triggers is another one."""

    def committed(self, commit: Commit) -> None:
        if commit.instance_id != TRIGGERS:
            super().committed(commit)


class Publisher:
    """Publishes events of its own subject, in order; never sure, it repeats itself."""

    def __init__(self, world: World, name: str, count: int) -> None:
        self.world = world
        self.name = name
        self.left = [f"{name}-{n}" for n in range(count)]
        self.busy = True
        self.published: list[str] = []

    def act(self) -> None:
        random = self.world.random
        event_id = self.left[0]
        try:
            deliver(self.world, event_id, self.name)
        except StoreError:
            pass  # it may have happened all the same
        else:
            if random.random() > 0.3:
                self.published.append(self.left.pop(0))
        self.busy = bool(self.left)
        if self.busy:
            self.world.later(random.random() * (0.02 if random.random() < 0.8 else 1.0), self.act)


def deliver(world: World, event_id: str, subject: str) -> None:
    given = body(event_id, "part", subject)
    now = world.time()
    fact = Event(h.EVENT_RAISED, now, input=Raw(given))
    # As a client does it, and now and then as an event source that brings it again: under another name.
    name = f"cloudevent/{digest_of(read_event(given)).hex()}"
    name += f"-{world.random.random()}" if world.random.random() < 0.3 else ""
    world.front.deliver([Fact(TRIGGERS, partition(world), name, encode_event(fact), now.timestamp())])
    world.notify([TRIGGERS])


def partition(world: World) -> int:
    return partition_of(TRIGGERS, world.plan.partitions)


def run(seed: int) -> tuple[World, Hub, list[Publisher]]:
    random = Random(seed)
    world = World(random, make_plan(random, [], faults=random.random() > 0.1))
    world.store.judge = TriggerJudge()
    publishers = [Publisher(world, f"p{n}", random.choice((3, 10, 25))) for n in range(random.choice((1, 2, 3)))]
    world.clients = publishers  # type: ignore[assignment]  # they act, and are busy for a while
    store = world.store.inner
    store.commit([begin(world.time(), world.mint, world.plan.partitions)])
    ask = Event(ASKED, world.time(), input=encode_ask(Ask("all", tuple(Add(one) for one in DEFINED))))
    store.deliver([Fact(TRIGGERS, partition(world), "ask/all", encode_event(ask), world.time().timestamp())])
    TRIED.clear()
    world.run()
    record = store.load([Want(TRIGGERS)])[0]
    assert record is not None
    assert left(store._rows.values()) == [], "rows are left behind"
    return world, hub_of(Instance.of_record(record)), publishers


@pytest.mark.parametrize("start", range(1, SEEDS, 10))
def test_each_event_counts_once_and_each_join_fires_so_often(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def loop(*given: Any) -> Loop:
        return Loop(*(*given, lambda wanted: FUNCTIONS[wanted.name]))

    monkeypatch.setattr("durable.testing.simulated_worker.Loop", loop)
    for seed in range(start, start + 10):
        world, hub, publishers = run(seed)
        events = sum(len(publisher.published) for publisher in publishers)
        joins = events // PARTS
        contexts = {view.id: view for view in map(hub.view, hub.ids) if view is not None}
        firings = {name: view.firings for name, view in contexts.items()}
        assert firings == {"each": events, "slow": events, "join": joins, "later": joins, "joined": 2 * joins}, seed
        for publisher in publishers:
            assert contexts["each"].context[publisher.name] == publisher.published, seed
            assert sorted(contexts["slow"].context[publisher.name]) == sorted(publisher.published), seed
        assert contexts["each"].context["n"] == contexts["slow"].context["n"] == events, seed
        assert "started" in world.store.judge.finished, seed
        assert (hub.counts.taken, hub.dead, hub.waiting) == (events + 2 * joins, {}, {}), seed
