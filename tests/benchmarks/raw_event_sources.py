"""How fast 200,000 events of about 150 bytes come from a stream or a queue and are acknowledged: to a bare program that
does nothing else, and to the sources of this package.

Both find the events there. The bare program of Redis reads 2,000 and acknowledges them in the next round trip; that of
RabbitMQ is pika with a prefetch of 2,000, which acknowledges all that has been read at once. A source hands what came
to a thread that does nothing but acknowledge it, as a worker would.

    python tests/benchmarks/raw_event_sources.py [--count 200000] [--repeats 3] [--only redis|rabbitmq] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from queue import SimpleQueue
from statistics import median
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
from redis.connection import Connection

from durable.app.plugins import open_event_source
from durable.ports import EventSource, Published

if TYPE_CHECKING:
    from tests.benchmarks.places import Place, Places
    from tests.benchmarks.raw_redis import packed, packets
else:
    from places import Place, Places
    from raw_redis import packed, packets

PREFETCH: Final = 10_000
BATCH: Final = 2_000
NAME: Final = "bench-events"


def events(count: int) -> list[bytes]:
    """CloudEvents in structured mode, of about 150 bytes."""
    return [
        json.dumps(
            {
                "specversion": "1.0",
                "id": f"event-{number:08}",
                "source": "/bench/orders",
                "type": "order.placed",
                "subject": f"customer-{number % 200:03}",
                "data": {"n": number},
            },
            separators=(",", ":"),
        ).encode()
        for number in range(count)
    ]


def batches(count: int) -> Iterator[list[bytes]]:
    made = events(count)
    for first in range(0, count, BATCH):
        yield made[first : first + BATCH]


def fill(source: EventSource, count: int) -> None:
    for some in batches(count):
        if set(source.publish(some)) != {Published.CONFIRMED}:
            raise RuntimeError("the events are not there")


def through_source(source: EventSource, count: int) -> float:
    """Seconds until so many have come and the last acknowledgement has been given away."""
    came: SimpleQueue[tuple[int, object]] = SimpleQueue()
    begun = time.perf_counter()
    source.receive(PREFETCH, lambda bodies, tag: came.put((len(bodies), tag)))
    left = count
    while left > 0:
        size, tag = came.get()
        left -= size
        source.ack([tag])
    source.close()  # all acknowledgements have arrived
    return time.perf_counter() - begun


# ---- Redis


def bare_redis(url: str, count: int) -> float:
    parts = urlsplit(url)
    connection: Any = Connection(host=parts.hostname, port=parts.port, protocol=2)  # type: ignore[no-untyped-call]

    def ask(commands: Sequence[bytes]) -> list[Any]:
        connection.send_packed_command(packets(commands))
        return [connection.read_response() for _ in commands]

    read = packed("XREADGROUP", "GROUP", "bare", "me", "COUNT", str(BATCH), "STREAMS", NAME, ">")
    ask([packed("XGROUP", "CREATE", NAME, "bare", "0")])
    begun = time.perf_counter()
    done: list[bytes] = []
    left = count
    while left > 0:
        entries = ask([*done, read])[-1][0][1]
        left -= len(entries)
        done = [packed("XACK", NAME, "bare", *(id for id, _ in entries))]
    ask(done)
    seconds = time.perf_counter() - begun
    connection.disconnect()
    return seconds


def redis_rows(place: Place, count: int) -> Iterator[tuple[str, float]]:
    url = f"{place.store}?stream={NAME}"
    with closing(open_event_source(url, "fill")) as source:
        fill(source, count)
    yield "Redis, bare", bare_redis(place.store, count)
    yield "Redis, source", through_source(open_event_source(url, "bench"), count)


# ---- RabbitMQ


def bare_rabbitmq(url: str, count: int) -> float:
    state = {"left": count, "last": 0, "woken": False}
    connection: Any = None

    def on_message(channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        state["left"] -= 1
        state["last"] = method.delivery_tag
        if not state["woken"]:
            state["woken"] = True
            connection.ioloop.call_later(0, lambda: settle(channel))

    def settle(channel: Any) -> None:
        state["woken"] = False
        channel.basic_ack(state["last"], multiple=True)
        if state["left"] <= 0:
            connection.close()

    def opened(channel: Any) -> None:
        channel.basic_qos(prefetch_count=BATCH)
        channel.basic_consume(NAME, on_message)

    connection = pika.SelectConnection(
        pika.URLParameters(url),
        on_open_callback=lambda opening: opening.channel(on_open_callback=opened),
        on_close_callback=lambda *_: connection.ioloop.stop(),
    )
    begun = time.perf_counter()
    connection.ioloop.start()
    return time.perf_counter() - begun


def rabbitmq_rows(place: Place, count: int) -> Iterator[tuple[str, float]]:
    assert place.events is not None
    url = f"{place.events}?queue={NAME}"
    consumers: list[tuple[str, Callable[[], float]]] = [
        ("RabbitMQ, bare", lambda: bare_rabbitmq(str(place.events), count)),
        ("RabbitMQ, source", lambda: through_source(open_event_source(url, "bench"), count)),
    ]
    for name, consume in consumers:
        with closing(open_event_source(url, "fill")) as source:
            fill(source, count)
        yield name, consume()


def main() -> None:
    parser = argparse.ArgumentParser(description="how fast events come from a stream and a queue, bare and by sources")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3, help="the median is shown")
    parser.add_argument("--only", choices=["redis", "rabbitmq"])
    parser.add_argument("--dir", default=".", help="where the servers keep their data (default: here)")
    arguments = parser.parse_args()
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder, Places(folder) as places:
        for _ in range(arguments.repeats):
            if arguments.only != "rabbitmq":
                with places.place("redis") as place:
                    for name, seconds in redis_rows(place, arguments.count):
                        took.setdefault(name, []).append(seconds)
            if arguments.only != "redis":
                with places.place("broker") as place:
                    for name, seconds in rabbitmq_rows(place, arguments.count):
                        took.setdefault(name, []).append(seconds)
    for name, each in took.items():
        seconds = median(each)
        print(f"{name:17} {seconds:7.3f} s  {arguments.count / seconds:9,.0f} events a second", flush=True)


if __name__ == "__main__":
    main()
