"""Kill -9 the worker of 200 joins, in the middle of 200,000 events from a stream or a queue: each must fire once.

    python tests/chaos/joins.py --place redis|rabbitmq [--events N] [--kills N] [--seed N]

The events lie in the source, those of all joins interleaved; every hundredth is there twice. When all are taken, each
join must have fired once and be gone, each event must have counted once, and nothing may be left unacknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import redis

import durable
from durable import CloudEvent, EventPattern, conditions
from durable.app.plugins import open_event_source

sys.path.append(str(Path(__file__).resolve().parents[2]))  # run by its path, it has only its own folder there
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_server import RedisServer
from tests.waiting import until

TRIGGERS: Final = 200
WORKSPACE: Final = "joins"
TOGETHER: Final = 5_000

app = durable.Registry()


@app.action
def count(context: durable.TriggerContext, event: CloudEvent) -> None:
    """How often each join has fired."""
    context.workspace[context.trigger_id] = context.workspace.get(context.trigger_id, 0) + 1


class Place(NamedTuple):
    """store: for histories. source: the URL of the event source. left: events in it that are not acknowledged."""

    store: str
    source: str
    left: Callable[[], int]


@contextmanager
def on_redis() -> Iterator[Place]:
    with closing(RedisServer()) as server:
        server.start()

        def left() -> int:
            with closing(redis.Redis.from_url(server.url, protocol=2)) as asked:
                [group] = asked.xinfo_groups("events")
            return int(group["pending"]) + int(group["lag"])

        yield Place(server.url, f"{server.url}?stream=events", left)


@contextmanager
def on_rabbitmq() -> Iterator[Place]:
    with closing(RedisServer()) as store, closing(RabbitServer()) as broker:
        store.start()
        broker.start()

        def left() -> int:
            with closing(pika.BlockingConnection(pika.URLParameters(broker.url()))) as connection:
                return int(connection.channel().queue_declare("events", passive=True).method.message_count)

        yield Place(store.url, f"{broker.url()}?queue=events", left)


PLACES: Final = {"redis": on_redis, "rabbitmq": on_rabbitmq}


def work() -> None:
    """A worker until it is killed, or until the process that watches it ends."""
    with durable.connect(workspace=WORKSPACE) as client, durable.Worker(client, registry=app):
        print("serving", flush=True)
        sys.stdin.read()


def fill(url: str, events: int) -> None:
    bodies: list[bytes] = []
    for number in range(events // TRIGGERS):
        for trigger in range(TRIGGERS):
            bodies.append(body(trigger, number))
            if len(bodies) % 100 == 0:
                bodies.append(bodies[-1])
    with closing(open_event_source(url, WORKSPACE)) as source:
        for first in range(0, len(bodies), TOGETHER):
            answers = source.publish(bodies[first : first + TOGETHER])
            assert {answer.name for answer in answers} == {"CONFIRMED"}, answers[0]


def body(trigger: int, number: int) -> bytes:
    event = {"specversion": "1.0", "id": f"{trigger}-{number}", "source": "/chaos", "type": "done"}
    return json.dumps({**event, "subject": f"job-{trigger}", "data": {"number": number}}).encode()


def spawn(place: Place) -> subprocess.Popen[str]:
    environment = {**os.environ, "DURABLE_URL": place.store, "DURABLE_EVENTS_URL": "", "EVENTS": place.source}
    command = [sys.executable, os.path.abspath(__file__), "--work"]
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "serving\n", "the worker did not start; what it said is above"
    return worker


def run(place: Place, events: int, kills: int, random: Random) -> None:
    """Raises AssertionError or TimeoutError for whatever is wrong."""
    fill(place.source, events)
    with durable.connect(place.store, events="", workspace=WORKSPACE) as client:
        added = client.add_triggers(
            {
                "trigger_id": f"join-{n}",
                "on": EventPattern(type="done", subject=f"job-{n}"),
                "condition": conditions.join(events // TRIGGERS),
                "action": "count",
            }
            for n in range(TRIGGERS)
        )
        assert not added.refused, added.refused
        client.add_event_source("events", "env:EVENTS")

        def taken() -> int:
            return client.event_counts().taken

        for goal in sorted(random.sample(range(events // 20, events * 9 // 10), kills)):
            worker = spawn(place)
            until(lambda: taken() >= goal)  # noqa: B023  # called at once
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
        worker = spawn(place)
        until(lambda: taken() >= events)
        until(lambda: client.list_triggers() == [])
        worker.communicate("")  # it drains
        assert worker.returncode == 0, worker.returncode
        fired = client.get_workspace_context()
        assert fired == {f"join-{n}": 1 for n in range(TRIGGERS)}, {k: v for k, v in fired.items() if v != 1} or len(
            fired
        )
        assert taken() == events, f"{taken()} events counted, of {events}"
        assert not client.dead_letters().items
    assert place.left() == 0, f"{place.left()} events are not acknowledged"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", choices=list(PLACES), default="redis")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work()
    begun = time.monotonic()
    with PLACES[arguments.place]() as place:
        try:
            run(place, arguments.events, arguments.kills, Random(arguments.seed))
        except (AssertionError, TimeoutError) as wrong:
            sys.exit(f"seed {arguments.seed}, {arguments.place}: WRONG: {wrong}")
    seconds = time.monotonic() - begun
    print(
        f"seed {arguments.seed}, {arguments.place}: {arguments.events:,} events, {arguments.kills} kills, "
        f"{TRIGGERS} joins fired once each, {seconds:.0f} s: all right"
    )


if __name__ == "__main__":
    main()
