"""A Redis of the tests' own: append-only file, no eviction, as the store asks for; any option can be another."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from typing import Final

from .process import HOST, ServerProcess

OPTIONS: Final = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}


def missing_redis() -> str | None:
    """Why there is no Redis to test with, and the remedy; None when there is one."""
    if shutil.which("redis-server"):
        return None
    return "redis-server is not on PATH: apt install redis-server, or make servers"


class RedisServer(ServerProcess):
    """`RedisServer(requirepass="x")`: options are those of redis.conf, `_` for `-`."""

    name = "redis"

    def __init__(self, port: int | None = None, **options: str) -> None:
        super().__init__(port)
        self.options = {**OPTIONS, **{name.replace("_", "-"): value for name, value in options.items()}}

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        given = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        return ["redis-server", "--port", str(self.port), "--bind", HOST, "--dir", str(self.folder), *given]

    def ready(self) -> bool:
        """+PONG, or an answer that only a server which has loaded its data gives: a password is wanted."""
        try:
            with socket.create_connection((HOST, self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
