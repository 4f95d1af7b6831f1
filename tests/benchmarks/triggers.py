"""How fast triggers are: joins fed by an event source, from publishing to the action, and chains through a broker.

    python tests/benchmarks/triggers.py [--only ROW ...] [--place redis rabbitmq] [--repeats N] [--events N]

join: 200 triggers, each a join of N / 200 events that lie in the source, interleaved, when it is added; from then until
the last trigger has fired. Beside it a bare consumer gets and acknowledges as many of them (raw_event_sources.py).
latency: `client.publish` in this process until the action runs; median and 99th percentile of 300, one at a time.
chain: 40 triggers, each of which publishes the next one's event at the source; milliseconds a hop.

One process holds client, worker and what measures; Redis has everysec, and keeps the histories. The source is a stream
of that Redis, or a quorum queue of RabbitMQ. Everything is committed before it is acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import durable
from durable import CloudEvent, EventPattern, actions, conditions
from durable.app.plugins import open_event_source

if TYPE_CHECKING:
    from tests.benchmarks import raw_event_sources as raw
    from tests.benchmarks.places import Place, Places, missing
else:
    sys.path.append(str(Path(__file__).parent))
    import raw_event_sources as raw
    from places import Place, Places, missing

TRIGGERS: Final = 200
HOPS: Final = 40
ALONE: Final = 300
PATIENCE: Final = 120.0  # seconds until a wait is given up
TOGETHER: Final = 5_000  # events published in one call
KINDS: Final = {"redis": "redis", "rabbitmq": "broker"}
TARGETS: Final = {
    ("join", "redis"): 60_000.0,
    ("join", "rabbitmq"): 15_000.0,
    ("latency", "redis"): 2.0,
    ("latency", "rabbitmq"): 2.0,
    ("chain", "redis"): 3.0,
    ("chain", "rabbitmq"): 3.0,
}

app = durable.Registry()
arrived = threading.Event()


@app.action
def arrive(context: durable.TriggerContext, event: CloudEvent) -> None:
    arrived.set()


class Measured(NamedTuple):
    """figure: events a second, or milliseconds. beside: that of the bare program, or another percentile."""

    figure: float
    beside: float


def source_url(place: Place, name: str) -> str:
    """Of a stream or a queue that nobody has used."""
    if place.rabbitmq is not None:
        return f"{place.rabbitmq.url()}?queue={name}"
    return f"{place.store}?stream={name}"


def stored(url: str) -> str:
    """As it is named in the workspace: that of RabbitMQ holds a password."""
    os.environ["BENCH_EVENTS"] = url
    return "env:BENCH_EVENTS"


def body(trigger: int, number: int) -> bytes:
    """One event for one of the joins, of about 150 bytes."""
    event = {
        "specversion": "1.0",
        "id": f"{trigger}-{number}",
        "source": "/bench",
        "type": "bench.done",
        "subject": f"job-{trigger}",
        "datacontenttype": "application/json",
        "data": {"number": number},
    }
    return json.dumps(event).encode()


def fill(url: str, events: int) -> None:
    """Put that many events, interleaved, where the source will find them."""
    source = open_event_source(url, "bench")
    try:
        bodies = [body(trigger, number) for number in range(events // TRIGGERS) for trigger in range(TRIGGERS)]
        for first in range(0, len(bodies), TOGETHER):
            some = bodies[first : first + TOGETHER]
            answers = source.publish(some)
            if any(answer.name != "CONFIRMED" for answer in answers):
                raise RuntimeError(f"{len(some)} events could not be published: {answers[0]}")
    finally:
        source.close()


@contextmanager
def serving(place: Place) -> Iterator[durable.Client]:
    with (
        durable.connect(place.store, events="", workspace="bench") as client,
        durable.Worker(client, registry=app),
    ):
        client.add_trigger("warm", on=EventPattern(type="warm"), action=arrive)
        wait_for(lambda: client.publish(CloudEvent({"type": "warm", "source": "/bench"}, {})))
        yield client


def wait_for(begin: Callable[[], Any]) -> float:
    """Seconds from the beginning until `arrive` runs."""
    arrived.clear()
    begun = time.perf_counter()
    begin()
    if not arrived.wait(PATIENCE):
        raise RuntimeError(f"nothing arrived within {PATIENCE:g} s")
    return time.perf_counter() - begun


def join(place: Place, events: int) -> Measured:
    """Events a second."""
    url = source_url(place, "join")
    fill(url, events)
    with serving(place) as client:
        one = CloudEvent({"type": "joined", "source": "/bench"}, {})
        added = client.add_triggers(
            {
                "trigger_id": f"join-{n}",
                "on": EventPattern(type="bench.done", subject=f"job-{n}"),
                "condition": conditions.join(events // TRIGGERS),
                "action": actions.publish(CloudEvent({**one.get_attributes(), "id": f"joined-{n}"}, {})),
            }
            for n in range(TRIGGERS)
        )
        if added.refused:
            raise RuntimeError(f"triggers were refused: {added.refused}")
        client.add_trigger("all", on=EventPattern(type="joined"), condition=conditions.join(TRIGGERS), action=arrive)
        begun = time.perf_counter()
        wait_for(lambda: client.add_event_source("events", stored(url)))
        client.wait_for_trigger("all", PATIENCE)  # committed
        seconds = time.perf_counter() - begun
        left = client.list_triggers()
        if left:
            raise RuntimeError(f"{len(left)} triggers are left")
    return Measured(events / seconds, bare(place, events))


def bare(place: Place, events: int) -> float:
    """Events a second, of a program that only gets and acknowledges them."""
    fill(source_url(place, raw.NAME), events)
    if place.rabbitmq is not None:
        return events / raw.bare_rabbitmq(place.rabbitmq.url(), events)
    return events / raw.bare_redis(place.store, events)


def latency(place: Place, _: int) -> Measured:
    """Milliseconds: median and 99th percentile."""
    with serving(place) as client:
        client.add_trigger("alone", on=EventPattern(type="alone"), action=arrive, transient=False)
        found = sorted(
            wait_for(lambda: client.publish(CloudEvent({"type": "alone", "source": "/bench"}, {"n": 1})))
            for _ in range(ALONE)
        )
    return Measured(median(found) * 1e3, found[int(ALONE * 0.99)] * 1e3)


def chain(place: Place, _: int) -> Measured:
    """Milliseconds a hop, and the slowest chain of ten."""
    with serving(place) as client:
        client.add_event_source("events", stored(source_url(place, "chain")))
        for n in range(HOPS):
            following = CloudEvent({"type": f"hop-{n + 1}", "source": "/bench", "id": f"hop-{n + 1}"}, {})
            client.add_trigger(
                f"hop-{n}",
                on=EventPattern(type=f"hop-{n}"),
                action=actions.publish(following, to="events"),
                transient=False,
            )
        client.add_trigger("end", on=EventPattern(type=f"hop-{HOPS}"), action=arrive, transient=False)
        found = [
            wait_for(lambda: client.publish(CloudEvent({"type": "hop-0", "source": "/bench"}, {}))) for _ in range(11)
        ][1:]
    return Measured(median(found) / HOPS * 1e3, max(found) / HOPS * 1e3)


ROWS: Final[dict[str, tuple[Callable[[Place, int], Measured], str, str]]] = {
    "join": (join, "events/s", "bare consumer"),
    "latency": (latency, "ms", "p99"),
    "chain": (chain, "ms a hop", "slowest"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="how fast triggers are")
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--place", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000, help="in all, of a join")
    parser.add_argument("--dir", default=".", metavar="FOLDER")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder, Places(folder) as places:
        for name in arguments.place:
            why = missing(KINDS[name])  # type: ignore[arg-type]  # mypy does not know the keys of a Literal
            if why is not None:
                print(f"{name}: left out: {why}")
                continue
            for row in arguments.only:
                measure, unit, second = ROWS[row]
                found = []
                for _ in range(arguments.repeats):
                    with places.place(KINDS[name]) as place:  # type: ignore[arg-type]  # as above
                        found.append(measure(place, arguments.events))
                figures = [one.figure for one in found]
                target = TARGETS[row, name]
                met = median(figures) >= target if row == "join" else median(figures) <= target
                print(
                    f"{row}, {name}: {median(figures):,.2f} {unit} ({min(figures):,.2f} to {max(figures):,.2f}; "
                    f"{second} {median(one.beside for one in found):,.2f}); target {target:,g}: "
                    f"{'ok' if met else 'MISSED'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
