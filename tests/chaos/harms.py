"""What can be done to a server: kill it, freeze it, cut it off, fill its memory or its disk, delete its queues.

Laws.
1. Each act undoes itself: afterwards the server runs and can be reached.
2. Acts of one server come one after the other (`in_turn`); those of two may happen at once.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Final

import redis

from tests.chaos.faults import FROZEN, Harm
from tests.servers.process import ServerFailed, ServerProcess
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_server import RedisServer

SHORT: Final = 4.0  # seconds that an alarm, a full memory or a full disk lasts
_WATERMARK: Final = ("set_vm_memory_high_watermark", "absolute", "1GB")
_ROOM: Final = "50MB"
_LEAST: Final = 1_000_000  # bytes: what a worker logs, and the ledger, must still find room


def in_turn(harms: Mapping[str, Harm]) -> dict[str, Harm]:
    lock = threading.Lock()

    def alone(act: Callable[[], bool]) -> Callable[[], bool]:
        def acted() -> bool:
            with lock:
                return act()

        return acted

    return {fault: harm._replace(act=alone(harm.act)) for fault, harm in harms.items()}


def killed(servers: Sequence[ServerProcess], random: Random, pause: tuple[float, float]) -> Harm:
    """kill -9 of any of them, and started again."""

    def act() -> bool:
        random.choice(servers).restart(graceful=False)
        return True

    return Harm(act, 3.0, pause)


def frozen(server: ServerProcess) -> Harm:
    """SIGSTOP: its connections stay open and nothing answers."""

    def act() -> bool:
        server.pause()
        time.sleep(FROZEN)
        server.resume()
        return True

    return Harm(act, 2.0, (2.0, 5.0))


def cut_off(wire: Proxy, random: Random) -> Harm:
    """In turn: an answer is cut off in its middle, all connections reset, new ones refused too, all silent."""

    def in_an_answer() -> None:
        wire.answer_bytes(random.randrange(2_000))
        deadline = time.monotonic() + 2.0
        while not wire.spent() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.2))  # meanwhile whatever is asked anew happens unheard as well
        wire.answer_bytes(None)

    def refused() -> None:
        wire.refuse()
        time.sleep(random.uniform(0.5, 3.0))
        wire.accept()

    def silent() -> None:
        wire.be_silent()
        time.sleep(FROZEN)
        wire.flow()

    ways: Iterator[Callable[[], None]] = cycle(
        (in_an_answer, lambda: wire.cut(reset=True), in_an_answer, refused, in_an_answer, silent)
    )

    def act() -> bool:
        next(ways)()
        return True

    return Harm(act, 2.0, (0.5, 2.0))


# ---- RabbitMQ


def memory_alarm(broker: RabbitServer) -> Harm:
    """It takes nothing from anybody who publishes."""
    return _alarm(broker, ("set_vm_memory_high_watermark", "0.000001"), _WATERMARK)


def disk_alarm(broker: RabbitServer) -> Harm:
    """Likewise, since the free space lies below what was set as the least."""
    return _alarm(broker, ("set_disk_free_limit", "mem_relative", "1000000"), ("set_disk_free_limit", _ROOM))


def _alarm(broker: RabbitServer, on: Sequence[str], off: Sequence[str]) -> Harm:
    def act() -> bool:
        broker.control(*on)
        time.sleep(SHORT)
        broker.control(*off)
        return True

    return Harm(act, 2.0, (1.0, 3.0))


def depths(broker: RabbitServer) -> dict[str, int]:
    """Messages by queue, those that are delivered and not acknowledged included."""
    lines = broker.control("list_queues", "name", "messages", "--no-table-headers", "--quiet").splitlines()
    return {name: int(count) for name, count in (line.split("\t") for line in lines if "\t" in line)}


def queues_deleted(broker: RabbitServer) -> Harm:
    """All of them, with what is in them, but those that belong to one connection."""
    import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
    from pika.exceptions import AMQPError  # type: ignore[import-untyped]  # as above

    def act() -> bool:
        try:
            queues = [queue for queue in depths(broker) if ".reply." not in queue]
            with pika.BlockingConnection(pika.URLParameters(broker.url())) as connection:
                channel = connection.channel()
                for queue in queues:
                    channel.queue_delete(queue)
        except (AMQPError, OSError, ServerFailed):
            return False  # the broker has only just come back
        return bool(queues)

    return Harm(act, 4.0, (3.0, 6.0))


# ---- Redis


def streams(client: redis.Redis, workspace: str) -> list[bytes]:
    return list(client.scan_iter(f"durable:{{durable.{workspace}.*}}:stream", count=1_000))


def streams_deleted(client: redis.Redis, workspace: str) -> Harm:
    """All of them, with what is in them."""

    def act() -> bool:
        try:
            found = streams(client, workspace)
            return bool(client.delete(*found)) if found else False
        except redis.RedisError:
            return False  # it has only just come back

    return Harm(act, 4.0, (3.0, 6.0))


def memory_full(server: RedisServer) -> Harm:
    """`maxmemory` is reached, so that nothing more can be written, then raised."""

    def act() -> bool:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "1")
            time.sleep(SHORT)
            client.config_set("maxmemory", "0")
        return True

    return Harm(act, 2.0, (1.0, 3.0))


def disk_full(server: RedisServer) -> Harm:
    """Its files can't grow. With `appendfsync always` it ends itself then, and is started once there is room again."""

    def act() -> bool:
        limit_files(server.pid, largest(server.folder))
        time.sleep(SHORT)
        if server.running:
            limit_files(server.pid, resource.RLIM_INFINITY)
        else:
            server.start()
        return True

    return Harm(act, 2.0, (1.0, 3.0))


# ---- SQLite


def log_full(worker: Callable[[], int], log: Path) -> Harm:
    """The log of a SQLite file can't grow, nor can the file beyond that size, for the process that writes them."""

    def act() -> bool:
        pid = worker()
        limit_files(pid, max(log.stat().st_size, _LEAST))
        time.sleep(SHORT)
        with suppress(ProcessLookupError):  # somebody has killed it meanwhile
            limit_files(pid, resource.RLIM_INFINITY)
        return True

    return Harm(act, 4.0, (1.0, 3.0))


def limit_files(pid: int, size: int) -> None:
    """No file of this process may grow beyond so many bytes: what is written beyond fails, as on a full disk."""
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def largest(folder: Path) -> int:
    return max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
