"""Connections to Redis: commands packed by hiredis, sent at once, answered in order.

Laws.
1. redis-py repeats nothing here: it would hide that a command may have run twice. What is repeated is only what Redis
   said it had not run (NOSCRIPT; in a cluster more, see redis_cluster.py).
2. `send` and `exchange` tell apart "nothing was sent" (StoreError) and "some answers did not come" (the trouble beside
   those that did): after the second, nobody knows what happened.
3. A broken connection is thrown away and the next use makes another: a restart of the server needs no new client. One
   to a server that has become a replica is as good as broken, and so are the idle ones: the host's name leads to the
   new primary by now, or will.
4. Errors name host, port and remedy; what came with the URL is in none of them.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.resources import files
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, cast

import hiredis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from durable.model.errors import StoreError

from .redis_url import Target

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 3.0
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
FRESH_SECONDS: Final = 0.005  # after an answer, in which a connection need not be looked at
PACKET_BYTES: Final = 64 * 1024

Arg = str | bytes | int
Answers = tuple[list[Any], Exception | None]

_pack = cast(Callable[[tuple[Arg, ...]], bytes], hiredis.pack_command)  # its stub wants a tuple of one


class Wire(Protocol):
    """What is used of a connection of redis-py, most of which has no types."""

    _sock: Any  # there is no public way to wait for a connection and for something else at once

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def can_read(self, timeout: float) -> bool: ...
    def send_packed_command(self, command: Sequence[bytes]) -> None: ...
    def read_response(self) -> Any: ...


class Script(NamedTuple):
    """A Lua script and the name Redis has for it."""

    text: bytes
    sha: bytes


def read_script(name: str, *before: str) -> Script:
    """The script `redis_<name>.lua` of this folder, after others that it builds upon."""
    folder = files("durable.backends")
    text = b"\n".join(folder.joinpath(f"redis_{part}.lua").read_bytes() for part in (*before, name))
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


def pack(*command: Arg) -> bytes:
    """One command as it travels."""
    return _pack(command)


class Connections(ABC):
    """What is asked of Redis: of one server (`Pool`), or of a cluster (`Cluster`). Safe to use from several threads."""

    target: Target

    @abstractmethod
    def connect(self) -> Wire:
        """A new connection, for whoever keeps and disconnects it. Raises StoreError."""

    @abstractmethod
    def servers(self) -> Sequence[Connections]:
        """Those that store, each alone. Raises StoreError when they can't be used together."""

    @abstractmethod
    def exchange(self, commands: Sequence[bytes]) -> Answers:
        """Send all, read an answer each. Returns the answers that came, and what kept the others from coming.

        An answer that is an error is in the list as an exception. Raises StoreError when nothing was sent.
        """

    @abstractmethod
    def send(self, commands: Sequence[bytes]) -> Callable[[], Answers]:
        """Send all; the function returned, to be called once, reads the answers as `exchange` does."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect; whoever still asks gets a StoreError. Idempotent."""

    @abstractmethod
    def _repeat(
        self, script: Script, commands: Sequence[bytes], answers: list[Any], trouble: Exception | None
    ) -> Answers:
        """Send again those that Redis says it has not run."""

    def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """An answer each. Raises StoreError for an error among them."""
        return self._all_of(*self.exchange(commands)) if commands else []

    def begin(self, script: Script, calls: Sequence[tuple[Arg, ...]]) -> Callable[[], Answers]:
        """Run a script for each of these (key, arguments...), as `send`; loads it where Redis does not have it."""
        sha = script.sha
        commands = [_pack((b"EVALSHA", sha, b"1", *call)) for call in calls]
        finish = self.send(commands)
        return lambda: self._repeat(script, commands, *finish())

    def run(self, script: Script, calls: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """As `begin`, at once. Raises StoreError unless every call was answered without error."""
        return self._all_of(*self.begin(script, calls)()) if calls else []

    def _all_of(self, answers: list[Any], trouble: Exception | None) -> list[Any]:
        for answer in answers if trouble is None else (trouble,):
            if isinstance(answer, Exception):
                raise explain(self.target, answer) from answer
        return answers


class Pool(Connections):
    """To one Redis: as many connections as there are threads that ask at the same time."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._idle: list[tuple[Wire, float]] = []  # with the moment from which it was not used
        self._pid = os.getpid()
        self._closed = False

    def connect(self) -> Wire:
        if self._closed:
            raise StoreError(f"{self.target.where}: this store was closed; open it again")
        try:
            connection = _connection(self.target)
            connection.connect()
        except (RedisError, OSError) as error:
            raise explain(self.target, error) from error
        return connection

    def servers(self) -> Sequence[Connections]:
        return [self]

    def exchange(self, commands: Sequence[bytes]) -> Answers:
        return self.send(commands)()

    def send(self, commands: Sequence[bytes]) -> Callable[[], Answers]:
        connection = self._take()
        trouble: Exception | None = None
        try:
            connection.send_packed_command(_packets(commands))
        except (RedisError, OSError) as error:
            connection.disconnect()
            trouble = error
        except BaseException:  # also an interrupt: what is left unread would answer the next question
            connection.disconnect()
            raise
        pid = self._pid
        return lambda: self._receive(connection, len(commands), pid) if trouble is None else ([], trouble)

    def _receive(self, connection: Wire, count: int, pid: int) -> Answers:
        if pid != os.getpid():
            return [], RedisConnectionError("this process was forked from the one that asked")
        answers: list[Any] = []
        demoted = False
        read = connection.read_response
        try:
            for _ in range(count):
                try:
                    answers.append(read())
                except ResponseError as error:
                    answers.append(error)
                    demoted = demoted or _is_of_replica(error)
        except (RedisError, OSError) as error:
            connection.disconnect()
            return answers, error
        except BaseException:  # as above
            connection.disconnect()
            raise
        if demoted:
            connection.disconnect()
            self._drop_idle()
        else:
            self._give_back(connection)
        return answers, None

    def _repeat(
        self, script: Script, commands: Sequence[bytes], answers: list[Any], trouble: Exception | None
    ) -> Answers:
        absent = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if absent and trouble is None:
            again, trouble = self.exchange([pack("SCRIPT", "LOAD", script.text), *(commands[n] for n in absent)])
            again += [trouble] * (1 + len(absent) - len(again))
            loaded = again.pop(0)
            for n, answer in zip(absent, again, strict=True):
                answers[n] = loaded if isinstance(loaded, Exception) else answer
        return answers, trouble

    def _take(self) -> Wire:
        if self._pid != os.getpid():
            # After a fork the sockets are the parent's: not to be used here, nor shut down.
            self._idle, self._pid = [], os.getpid()
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                return self.connect()
            if monotonic() - since < FRESH_SECONDS or _usable(connection):
                return connection
            connection.disconnect()

    def _give_back(self, connection: Wire) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append((connection, monotonic()))
                return
        connection.disconnect()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.disconnect()


class Unanswered:
    """Says things whose answers nobody waits for: they are read when the next is said. Safe to use from several
    threads, which speak in turn."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lock = threading.Lock()
        self._said: Callable[[], Answers] | None = None

    def say(self, commands: Sequence[bytes]) -> Exception | None:
        """What went wrong, with these or with those before; None when nothing is known to have."""
        with self._lock:
            trouble = self._heard()
            try:
                self._said = self._connections.send(commands)
            except StoreError as error:
                return error
            return trouble

    def hear(self) -> Exception | None:
        """What went wrong with what was said last."""
        with self._lock:
            return self._heard()

    def _heard(self) -> Exception | None:
        if self._said is None:
            return None
        said, self._said = self._said, None
        answers, trouble = said()
        return trouble or next((answer for answer in answers if isinstance(answer, Exception)), None)


class Pauses:
    """Between one connection that was lost, or could not be made, and the next: longer and longer, by chance."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_SECONDS

    def after(self, served: bool) -> float:
        """Seconds to wait. served: the last one was made."""
        self._pause = FIRST_PAUSE_SECONDS if served else min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
        return self._pause * (0.5 + random.random())


def _connection(target: Target) -> Wire:
    kind = SSLConnection if target.tls else Connection
    # redis-py before 6 checks no name unless it is told to; without a certificate there is none to check.
    names = {"ssl_check_hostname": target.options.get("ssl_cert_reqs") != "none"} if target.tls else {}
    options = {**names, "socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": CONNECT_SECONDS, **target.options}
    connection = kind(
        host=target.host,
        port=target.port,
        db=target.db,
        username=target.username,
        password=target.password,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_keepalive=True,
        health_check_interval=0,
        **options,
    )
    return cast(Wire, connection)


def _usable(connection: Wire) -> bool:
    """Whether an idle connection is still open: nobody was asked, so something to read can only be its end."""
    try:
        return not connection.can_read(0)
    except (RedisError, OSError):
        return False


def _is_of_replica(error: ResponseError) -> bool:
    """Whether a server says that it is no primary; inside a script Redis before 7 says so as text."""
    return isinstance(error, ReadOnlyError | MasterDownError) or "READONLY" in str(error)


def _packets(commands: Sequence[bytes]) -> list[bytes]:
    """Few writes, so that the server begins with the first while the last is on its way."""
    packets: list[bytes] = []
    first = size = 0
    for n, command in enumerate(commands):
        size += len(command)
        if size >= PACKET_BYTES:
            packets.append(b"".join(commands[first : n + 1]))
            first, size = n + 1, 0
    if size:
        packets.append(b"".join(commands[first:]))
    return packets


_REMEDY: Final = "is it up, is that its host and port, and does it want redis:// or rediss://?"
_CLUSTER: Final = "Redis Cluster; write redis+cluster://host:port (rediss+cluster:// for TLS)"
_MOVING: Final = "is giving these keys to another node, and nothing was done; try again when that has ended"

_Explanations = tuple[tuple[type[Exception], str, str], ...]

# The first that fits an error: its class (MovedError is an AskError), a mark in its text, what to tell.
_EXPLANATIONS: Final[_Explanations] = (
    (AuthenticationError, "Authentication required", "wants a password; write redis://:PASSWORD@host:port"),
    (AuthenticationError, "", "refuses this user or password; check them (percent-encoded in the URL)"),
    (BusyLoadingError, "", "is still loading its data; try again when it is up"),
    (InvalidResponse, "", "does not answer as a Redis does; check host and port"),
    (NoPermissionError, "", "does not let this user do that ({error}); see ACL SETUSER: it needs ~PREFIX:* &PREFIX:*"),
    (OutOfMemoryError, "", "is full, nothing was written; raise its maxmemory or remove data"),
    (ReadOnlyError, "", "is a read-only replica; give the URL of the primary"),
    (ResponseError, "DB index is out of range", "has no database of this number; check the path of the URL"),
    (ResponseError, "invalid DB index", "has no database of this number; check the path of the URL"),
    (MasterDownError, "", "is a replica that has lost its primary; give the URL of the primary"),
    (ClusterError, "", f"is a node of a {_CLUSTER}"),
    (AskError, "", f"is a node of a {_CLUSTER}"),
    # Older clients have no class for it; before Redis 7 an error inside a script comes as text.
    (ResponseError, "CLUSTERDOWN", f"is a node of a {_CLUSTER}"),
    (ResponseError, "allowed in cluster mode", f"is a node of a {_CLUSTER}"),
    (ResponseError, "OOM", "is full, nothing was written; raise its maxmemory or remove data"),
    (ResponseError, "READONLY", "is a read-only replica; give the URL of the primary"),
    (ResponseError, "WRONGTYPE", "holds keys of somebody else under this prefix; choose another with ?prefix="),
    (ResponseError, "MISCONF", "can't write to its disk and takes no writes; see its log"),
    (RedisTimeoutError, "", f"does not answer ({{error}}); {_REMEDY}"),
    (RedisConnectionError, "", f"can't be reached ({{error}}); {_REMEDY}"),
)
# What comes first when a node of a cluster says so.
_OF_NODES: Final[_Explanations] = (
    (
        MovedError,
        "",
        "sends on to a node that sends back ({error}), and nothing was done; see redis-cli --cluster check",
    ),
    (AskError, "", _MOVING),
    (TryAgainError, "", _MOVING),
    (ClusterError, "", "says that its cluster is down ({error}), and nothing was done; see redis-cli --cluster check"),
    (ResponseError, "cluster support disabled", "is no node of a cluster; write redis:// (rediss:// for TLS)"),
)


def explain(target: Target, error: Exception) -> StoreError:
    """What an error of redis-py means, naming host, port and remedy. One that does already is said again."""
    text = str(error)
    if isinstance(error, StoreError):
        return StoreError(text)
    for kind, mark, said in (*(_OF_NODES if target.cluster else ()), *_EXPLANATIONS):
        if isinstance(error, kind) and mark in text:
            return StoreError(f"{target.where} {said.format(error=text)}")
    return StoreError(f"{target.where} failed: {type(error).__name__}: {text}; see the log of the server")
