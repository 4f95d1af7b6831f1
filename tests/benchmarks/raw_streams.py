"""The raw limit of what travels over Redis Streams: a bare program that carries the same messages as hello sequences.

It knows nothing of the product. Messages are packed before the clock starts, and those of a round go out in one
pipeline over one connection of redis-py. A round is one step of up to `ROUND` sequences: their invocations to one
stream, read by a consumer group; the outcome of each to the stream of its partition, read likewise; all acknowledged
and deleted.

    python tests/benchmarks/raw_streams.py [--repeats 3] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from redis.connection import Connection

if TYPE_CHECKING:
    from tests.benchmarks.places import Places
    from tests.benchmarks.raw_messages import OUTCOMES, WORK, Life, Message, Sent, Shape, in_rounds
    from tests.benchmarks.raw_redis import packed, packets
else:
    from places import Places
    from raw_messages import OUTCOMES, WORK, Life, Message, Sent, Shape, in_rounds
    from raw_redis import packed, packets

_GROUP: Final = "raw"


class Round(NamedTuple):
    """Packed commands that publish; which streams the outcomes are read from."""

    invocations: list[bytes]
    outcomes: list[bytes]
    partitions: list[str]


def _round(lives: Sequence[Life], step: int) -> Round:
    invocations = [life.invocations[step] for life in lives]
    outcomes = [life.outcomes[step] for life in lives]
    return Round([*map(_add, invocations)], [*map(_add, outcomes)], sorted({m.key for m in outcomes}))


def _add(message: Message) -> bytes:
    return packed("XADD", message.key, "NOMKSTREAM", "*", "event", message.body)


def _read(count: int, streams: Sequence[str]) -> bytes:
    reading = ("XREADGROUP", "GROUP", _GROUP, "me", "COUNT", str(count), "STREAMS")
    return packed(*reading, *streams, *(">" for _ in streams))


class _Carrier:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection: Any = Connection(host=parts.hostname, port=parts.port, protocol=2)  # type: ignore[no-untyped-call]

    def ask(self, commands: Sequence[bytes]) -> list[Any]:
        self.connection.send_packed_command(packets(commands))
        return [self.connection.read_response() for _ in commands]

    def run(self, one: Round) -> None:
        count = len(one.invocations)
        self.ask(one.invocations)
        [work] = self.ask([_read(count, [WORK])])
        self.ask(one.outcomes)
        *_, outcomes = self.ask([*self._done(work), _read(count, one.partitions)])
        self.ask(self._done(outcomes))
        if sum(len(entries) for _, entries in outcomes) != count:
            raise RuntimeError("the raw program has lost messages")

    @staticmethod
    def _done(read: Sequence[Any]) -> list[bytes]:
        commands: list[bytes] = []
        for stream, entries in read:
            ids = [id for id, _ in entries]
            commands += (packed("XACK", stream, _GROUP, *ids), packed("XDEL", stream, *ids))
        return commands


def carry(url: str, shape: Shape, count: int, warm_up: int) -> Sent:
    """Carry the messages of so many sequences; the warm-up is not timed."""
    carrier = _Carrier(url)
    try:
        carrier.ask([packed("XGROUP", "CREATE", key, _GROUP, "0", "MKSTREAM") for key in (WORK, *OUTCOMES)])
        for lives, step in in_rounds("many", warm_up):
            carrier.run(_round(lives, step))
        rounds = [_round(lives, step) for lives, step in in_rounds(shape, count)]
        each: list[float] = []
        for one in rounds:
            begun = time.perf_counter()
            carrier.run(one)
            each.append(time.perf_counter() - begun)
    finally:
        carrier.connection.disconnect()
    return Sent(sum(each), each)


def main() -> None:
    parser = argparse.ArgumentParser(description="what Redis Streams alone need for the rows of run.py")
    parser.add_argument("--repeats", type=int, default=3, help="each in a fresh server; the median is shown")
    parser.add_argument("--dir", default=".", help="where the servers keep their data (default: here)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder, Places(folder) as places:
        for shape, count in _CASES:
            took = []
            for _ in range(arguments.repeats):
                with places.place("redis") as place:
                    took.append(carry(place.store, shape, count, 200).seconds)
            seconds = median(took)
            per_unit = f"{seconds / count * 1e3:8.3f} ms each, {count / seconds:9,.0f} a second"
            print(f"{count:5,} {shape:8} {seconds:8.3f} s  {per_unit}", flush=True)


_CASES: Final[tuple[tuple[Shape, int], ...]] = (("many", 2_000), ("single", 2_000), ("alone", 300))


if __name__ == "__main__":
    main()
