"""Bugs that the simulator found where its seeds do not reach them any more: each with the scene that showed it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from random import Random
from unittest.mock import patch

import msgspec

from durable.engine.instance import Arrival, Env, Instance, Invocation, task_key
from durable.engine.step import create, step, uncreated
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.payload.signature import Signature
from durable.ports import Row
from durable.replay.guard import Watch
from durable.runtime.activities import Activities, ActivityCode
from durable.runtime.loop import Settings
from durable.runtime.requests import Done, Stuck
from durable.runtime.serving import ALONE
from durable.testing import simulated_world as simulated
from durable.testing.random_programs import Script


def test_rows_that_wait_do_not_hide_the_ones_behind_them() -> None:
    """Overdue timers of instances that nobody serves filled the sweep, so a start whose hint was lost never ran."""
    few_rows = Settings(batch=400, window=5.0, sweep=1.0, page=2, cached=10_000, retry=0.2)
    script = Script("generator", [["act", "k1", 0, 1, 0, ""], 0, []], [])
    plan = simulated.Plan(1, 1, few_rows, 2.0, [script], 1.0, {}, {}, [], set(), 0.002, ALONE)
    world = simulated.World(Random(1), plan)
    long_ago = simulated.EPOCH - timedelta(seconds=100)
    for n in range(12):
        started = Event(
            h.EXECUTION_STARTED, long_ago, name="unserved", input=Raw(b"null"), execution_id=f"e{n}", seed="s"
        )
        commit = create(f"old{n}", started, 1, f"c{n}")
        timer = Row(f"e{n}/1/0/timer", "timer", f"old{n}", 0, long_ago.timestamp() + 50, body=b'["e%d",1,0]' % n)
        world.store.inner.commit([msgspec.structs.replace(commit, put=(*commit.put, timer))])
    with patch.object(world, "notify", lambda instance_ids: None):  # hints are lossy by contract
        world.run(60.0)
    assert not list(world.store.judge.unfinished)


def test_an_activity_that_runs_already_is_not_started_again() -> None:
    """Two runs of one row cancelled out each other's outcome, and the task hung while its row was renewed."""
    begun, go, reported = threading.Event(), threading.Event(), threading.Event()
    done: list[Done | Stuck] = []

    def slow() -> int:
        begun.set()
        go.wait(20)
        return 1

    def report(news: Done | Stuck) -> None:
        done.append(news)
        reported.set()

    code = ActivityCode("slow", slow, Signature.of(slow, leading=0), wants_context=False, is_async=False)
    activities = Activities(
        lambda name: code, report, size=4, limits=Limits(), clock=lambda: datetime.now(timezone.utc), client=None
    )
    invocation = Invocation("i", "x", 1, 1, "slow", Raw(b"null"), "x/1/1")
    activities.run([invocation])
    assert begun.wait(20)
    activities.run([invocation])
    go.set()
    assert reported.wait(20)
    activities.close()
    assert [news.event.type for news in done if isinstance(news, Done)] == [h.TASK_COMPLETED]


def test_what_a_life_has_left_ends_though_the_next_one_waits_for_its_time() -> None:
    """The row of an activity of a cancelled life was renewed for ever when another life with a later start followed."""
    now = datetime(2030, 1, 1, tzinfo=timezone.utc)
    later = now + timedelta(days=1)
    started = Event(h.EXECUTION_STARTED, now, name="o", input=Raw(b"null"), execution_id="new", seed="s", fire_at=later)
    instance = msgspec.structs.replace(Instance.of_record(uncreated(create("i", started, 1, "c"))), version=1)
    outcome = Event(h.TASK_COMPLETED, now, task_id=1, attempt=1, result=Raw(b"1"))
    env = Env("w", 60.0, lambda: "id", 1, Limits(), Watch())
    turn = step(instance, [Arrival(outcome, "old")], None, "no code", now, env)
    assert turn.commit is not None
    assert turn.commit.drop == (task_key("old", 1, 1),)
    assert turn.alarm is not None
    assert turn.alarm.due_at == later.timestamp()
