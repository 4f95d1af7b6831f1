"""The raw limit beside the rows with Redis in run.py: a bare program that stores the same by the same Lua scripts.

It reads the product's scripts (`backends/redis_*.lua`, for their checks are part of the layout) and nothing else of it:
commands are packed before the clock starts, sent in pipelines over one connection of redis-py (to each node of a
cluster), and their answers parsed by hiredis and thrown away. No objects, no threads, no signals. A hello sequence is
four commits, or five where starts come one by one: as many, and as large, as the product's. Where client and worker are
apart, there are one load before its first turn and one read of its summary at the end besides.

    python tests/benchmarks/raw_redis.py [--repeats 3] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from struct import pack
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import hiredis
from redis import Redis
from redis.connection import Connection
from redis.crc import key_slot

if TYPE_CHECKING:
    from tests.benchmarks import raw_sqlite as raw
else:
    import raw_sqlite as raw

PARTITIONS: Final = 16
PACKET: Final = 64 * 1024  # bytes a write: more would keep the server waiting
REPLY_TO: Final = "durable.default.reply.0123456789abcdef0123456789abcdef"
_BACKENDS: Final = Path(__file__).parents[2] / "backends"
_GROUP: Final = b"default"
_CODES: Final = {"task": b"t", "inbox": b"i"}

Shape = Literal["many", "single", "alone"]
Pipeline = list[bytes]  # packed commands that travel together
Part = tuple[int, list[bytes], int]  # of a pipeline: to which node, what is written, how many answers come


class Written(NamedTuple):
    """Seconds of all and of each pipeline; bytes of histories and records that are in Redis afterwards."""

    seconds: float
    each: list[float]
    stored: int


class Scripts(NamedTuple):
    """The names that Redis gave the scripts."""

    commit: bytes
    load: bytes


# ---- what is sent


class _Sequence(NamedTuple):
    """The commands of one hello sequence. start: what comes before it runs, and read: after it, if anything does."""

    start: list[bytes]
    steps: list[bytes]
    read: list[bytes]


def packed(*words: bytes | str) -> bytes:
    """One command as it travels."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub wants a tuple of one
    return command


def _row(kind: str, instance: str, due_at: float, holder: str, attempt: int, body: bytes) -> bytes:
    sizes = pack("<dIHcHH", due_at, attempt, len(holder), _CODES[kind], len(_GROUP), len(instance))
    return sizes + _GROUP + instance.encode() + holder.encode() + body


def _commit(scripts: Scripts, base: bytes, transaction: raw.Transaction) -> bytes:
    [(instance, version, commit_id, execution, status, _, created_at, _, summary)] = transaction.instances
    finished = status == "COMPLETED"
    sizes = pack("<IBHHH", version, finished, len(commit_id), len(execution), len(_GROUP))
    words: list[bytes | str] = [
        pack("<dIII", created_at, version - 1, len(transaction.history), len(transaction.drop)),
        instance,
        commit_id,
        sizes + commit_id.encode() + execution.encode() + _GROUP + summary,
        execution if version > 1 else "",
        *("", "", "", ""),
    ]
    for where, start, events in transaction.history:
        words += (where, pack("<I", start) + events)
    words += (key for (key,) in transaction.drop)
    for key, kind, owner, _, due_at, holder, attempt, body in transaction.put:
        words += (key, _row(kind, owner, due_at, holder, attempt, body))
    return packed(b"EVALSHA", scripts.commit, b"1", base, *words)


def _sequences(scripts: Scripts, count: int, reply_to: str, alone: bool, apart: bool) -> list[_Sequence]:
    """alone: each is started by itself. apart: elsewhere."""
    made = []
    for number in range(count):
        base = b"raw:{bench:%d}:" % (number % PARTITIONS)
        transactions = raw.hello(reply_to, apart=alone or apart)
        instance: str = transactions[0].instances[0][0]
        commits = [_commit(scripts, base, transaction) for transaction in transactions]
        start = [commits.pop(0)] if alone or apart else []
        load = [packed(b"EVALSHA", scripts.load, b"1", base, instance, b"0")] if apart else []
        read = [packed(b"HMGET", base + b"instances", instance)] if apart else []
        made.append(_Sequence(start, load + commits, read))
    return made


def _together(of_each: Iterable[list[bytes]]) -> Iterator[Pipeline]:
    """Each step of all of these."""
    return map(list, zip(*of_each, strict=True))


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def in_bulk(sequences: Sequence[_Sequence]) -> list[Pipeline]:
    """Starts in pipelines of `raw.STARTS`, then each step of all in pipelines of `raw.TURNS`."""
    sent: list[Pipeline] = []
    for starts in _together(sequence.start for sequence in sequences):
        sent += map(list, _parts(starts, raw.STARTS))
    for step in _together([*sequence.steps, *sequence.read] for sequence in sequences):
        sent += map(list, _parts(step, raw.TURNS))
    return sent


def one_by_one(sequences: Sequence[_Sequence]) -> list[Pipeline]:
    """Each start alone; after each `raw.AHEAD` starts what follows for all of them together."""
    sent: list[Pipeline] = []
    for some in _parts(sequences, raw.AHEAD):
        sent += (sequence.start for sequence in some)
        sent += _together(sequence.steps for sequence in some)
    return sent


def alone(sequences: Sequence[_Sequence]) -> list[Pipeline]:
    """Four commands a sequence, one after the other."""
    return [[command] for sequence in sequences for command in sequence.steps]


PIPELINES: Final = {"many": in_bulk, "single": one_by_one, "alone": alone}


# ---- sending it


def write(
    urls: Sequence[str], shape: Shape, count: int, warm_up: int, reply_to: str = "", apart: bool = False
) -> Written:
    """Send the sequences to a Redis that is empty, or to the masters of a cluster; the warm-up is not timed.

    apart: they are started elsewhere, in bulk.
    """
    connections = [_connection(url) for url in urls]
    try:
        [scripts] = {Scripts(*(_load(node, name) for name in ("commit", "load"))) for node in connections}
        nodes = _nodes(connections)
        for pipeline in in_bulk(_sequences(scripts, warm_up, reply_to, False, apart)):
            _exchange(connections, _by_node(pipeline, nodes))
        sequences = _sequences(scripts, count, reply_to, shape == "single", apart)
        sent = [_by_node(pipeline, nodes) for pipeline in PIPELINES[shape](sequences)]
        each = []
        begun = last = time.perf_counter()
        for parts in sent:
            _exchange(connections, parts)
            now = time.perf_counter()
            each.append(now - last)
            last = now
    finally:
        for connection in connections:
            connection.disconnect()
    return Written(last - begun, each, stored_bytes(urls, b"raw:"))


def _connection(url: str) -> Any:
    parts = urlsplit(url)
    return Connection(host=parts.hostname, port=parts.port, protocol=2)  # type: ignore[no-untyped-call]


def _nodes(connections: Sequence[Any]) -> dict[bytes, int]:
    """Which node has each partition."""
    bases = [b"raw:{bench:%d}:" % number for number in range(PARTITIONS)]
    if len(connections) == 1:
        return dict.fromkeys(bases, 0)
    connections[0].send_packed_command([packed(b"CLUSTER", b"SLOTS")])
    slots = connections[0].read_response()
    ports = [connection.port for connection in connections]
    return {
        base: next(ports.index(master[1]) for first, last, master, *_ in slots if first <= key_slot(base) <= last)
        for base in bases
    }


def _by_node(pipeline: Pipeline, nodes: dict[bytes, int]) -> list[Part]:
    parts: dict[int, list[bytes]] = {}
    for command in pipeline:
        base = command[command.index(b"raw:{") : command.index(b"}:") + 2]
        parts.setdefault(nodes[base], []).append(command)
    return [(node, packets(commands), len(commands)) for node, commands in parts.items()]


def _load(connection: Any, name: str) -> bytes:
    """SCRIPT LOAD of `redis_<name>.lua`, after the file that comes before every script."""
    text = b"\n".join((_BACKENDS / f"redis_{part}.lua").read_bytes() for part in ("partition", name))
    connection.send_packed_command([packed(b"SCRIPT", b"LOAD", text)])
    sha: bytes = connection.read_response()
    return sha


def packets(pipeline: Sequence[bytes]) -> list[bytes]:
    """Few writes, so that the server begins while the rest is on its way."""
    full: list[bytes] = []
    some: list[bytes] = []
    size = 0
    for command in pipeline:
        some.append(command)
        size += len(command)
        if size >= PACKET:
            full.append(b"".join(some))
            some, size = [], 0
    return [*full, b"".join(some)] if some else full


def _exchange(connections: Sequence[Any], parts: list[Part]) -> None:
    for node, written, _ in parts:
        connections[node].send_packed_command(written)
    for node, _, answers in parts:
        read = connections[node].read_response
        for _ in range(answers):
            if not read():
                raise RuntimeError("Redis refused a commit of the raw program")


def stored_bytes(urls: Sequence[str], prefix: bytes) -> int:
    """Bytes of histories and records in all of these, of this layout."""
    stored = 0
    for url in urls:
        with Redis.from_url(url) as redis:
            keys: list[bytes] = list(redis.scan_iter(match=prefix + b"*", count=1_000))
            stored += sum(len(item) for key in keys if b"}:h:" in key for item in redis.lrange(key, 0, -1))
            stored += sum(len(r) for key in keys if key.endswith(b"}:instances") for r in redis.hvals(key))
    return stored


def main() -> None:
    if TYPE_CHECKING:
        from tests.benchmarks.places import Places
    else:
        from places import Places

    parser = argparse.ArgumentParser(description="what Redis alone needs for the rows of run.py")
    parser.add_argument("--repeats", type=int, default=3, help="each in a fresh server; the median is shown")
    parser.add_argument("--dir", default=".", help="where the servers keep their data (default: here)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder, Places(folder) as places:
        for shape, count in _CASES:
            took = []
            for _ in range(arguments.repeats):
                with places.place("redis") as place:
                    took.append(write(place.nodes, shape, count, 200).seconds)
            seconds = median(took)
            per_unit = f"{seconds / count * 1e3:8.3f} ms each, {count / seconds:9,.0f} a second"
            print(f"{count:5,} {shape:8} {seconds:8.3f} s  {per_unit}", flush=True)


_CASES: Final[tuple[tuple[Shape, int], ...]] = (("many", 2_000), ("single", 2_000), ("alone", 300))


if __name__ == "__main__":
    main()
