"""Starts and facts from other processes are handed to the worker of a SQLite file, who writes them with its own.

A file has one write lock: others who take it by turns starve the worker, and all it hears of them is that the file
changed. Handed over they share the worker's group commits, and its engine wakes with their ids.

Laws.
1. What is answered is durable, as strictly as the stricter of the two opened the file. The engine is told after that.
2. Nobody depends on it: without a socket, or with one that is stale, of another user, of another version or too busy,
   the sender writes into the file itself. A worker that failed to answer is left alone for some seconds.
3. Until a request was sent whole it has not happened. Once it was, and no answer comes, it may have, even later: then
   commits are UNKNOWN, and facts are written once more. The version check and the ids of facts make both harmless.
4. Only what can't be wrong by coming late travels: commits that create an instance, and facts.
5. The holder of the worker lock owns the socket's path, so whatever socket is there is stale and is replaced. It is
   0600, and nobody can connect before it is; who belongs to another user is turned away.
6. Bytes that can't be understood end their own connection and nothing else.

On the wire the worker greets with `GREETING`; then request and answer alternate, msgpack behind a length of 4 bytes.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from durable.model.errors import StoreError
from durable.ports import Append, Commit, Delivered, Fact, Outcome, Row

from .sqlite_core import Core

VERSION: Final = 1
GREETING: Final = b"durable-handover" + bytes([VERSION])
LARGEST: Final = 64 * 1024 * 1024  # bytes of one request; who has more to say writes it into the file
ANSWER_SECONDS: Final = 2.0
REST_SECONDS: Final = 5.0
IDLE: Final = 8
LONGEST_ADDRESS: Final = 107  # bytes, on Linux; elsewhere there is no way around a limit

_LENGTH: Final = struct.Struct(">I")
_PIECE: Final = 65_536
_OPEN_FILES: Final = "/proc/self/fd"
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

log = logging.getLogger("durable.sqlite")


class Creation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `Commit` that creates. The summary travels as JSON, for what is JSON within it can't stand in msgpack."""

    id: str
    instance_id: str
    partition: int
    summary: bytes
    appends: tuple[Append, ...]
    put: tuple[Row, ...]
    drop: tuple[str, ...]


class Request(msgspec.Struct, frozen=True, array_like=True):
    """`full`: the sender opened the file with synchronous=full."""

    full: bool
    creations: list[Creation] = []
    facts: list[Fact] = []


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """One outcome for each creation, one answer for each fact; or what the store said when it couldn't."""

    outcomes: list[Outcome] = []
    delivered: list[Delivered] = []
    error: str = ""


class TooLarge(Exception):
    """A peer announced a frame beyond the bound."""


class _Lost(Exception):
    """A request was sent whole, and no answer came."""


encode = msgspec.msgpack.Encoder().encode
_answers = msgspec.msgpack.Decoder(Answer)
_to_json = msgspec.json.Encoder()

receiving: set[str] = set()  # paths whose worker is this process: it writes as it always did


def socket_path(path: str) -> str:
    """Where the worker of the file at `path` can be reached."""
    return path + "-worker.sock"


@contextmanager
def address_of(path: str) -> Iterator[str]:
    """For `bind` and `connect`: the path of a socket, by way of its open folder where it is too long for an address."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS or not os.path.isdir(_OPEN_FILES):
        yield path
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"{_OPEN_FILES}/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


class Line:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.close = connection.close
        self._received = bytearray()

    def frame(self) -> bytes:
        """The next frame that arrives. Raises EOFError when there is none, OSError, TooLarge."""
        size = _LENGTH.unpack(self.exactly(_LENGTH.size))[0]
        if size > LARGEST:
            raise TooLarge(f"{size} bytes at once; at most {LARGEST} can be handed over")
        return self.exactly(size)

    def exactly(self, size: int) -> bytes:
        """So many bytes. Raises EOFError when the other side ends before, OSError."""
        received = self._received
        while len(received) < size:
            piece = self.socket.recv(_PIECE)  # mostly all of a frame: every call lets go of the GIL
            if not piece:
                raise EOFError("the other side ended the connection")
            received += piece
        taken = bytes(received[:size])
        del received[:size]
        return taken


def framed(encoded: bytes) -> bytes:
    return _LENGTH.pack(len(encoded)) + encoded


def of_this_user(connection: socket.socket) -> bool:
    """Whether the other side belongs to this process's user, where the system tells."""
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True  # the mode of the socket's file stands alone
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return bool(user == os.geteuid())


class Sender:
    """Hands commits and facts to the worker of the file. Safe to use from several threads, each with a connection."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._idle: list[Line] = []
        self._owner = os.getpid()
        self._rest_until = 0.0
        self._closed = False

    def commit(self, commits: Sequence[Commit]) -> list[Outcome] | None:
        """What became of them; None when the caller shall write them. Raises StoreError as the worker's store did."""
        if not commits or any(commit.expect for commit in commits) or not self._open():
            return None
        try:
            answer = self._ask(Request(self._full, [_creation(commit) for commit in commits]))
        except _Lost:
            return [Outcome.UNKNOWN] * len(commits)
        return None if answer is None else answer.outcomes

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered] | None:
        """What became of them; None when the caller shall write them. Raises StoreError as the worker's store did."""
        if not facts or not self._open():
            return None
        try:
            answer = self._ask(Request(self._full, facts=list(facts)))
        except _Lost:
            return None
        return None if answer is None else answer.delivered

    def close(self) -> None:
        """End the connections; from now on nothing is handed over."""
        self._closed = True
        self._hang_up()

    @property
    def _full(self) -> bool:
        return self._core.synchronous == "FULL"

    def _open(self) -> bool:
        if self._closed or self._core.path in receiving or time.monotonic() < self._rest_until:
            return False
        self._core.check()  # the worker must not take for this store what this store itself would refuse
        return True

    def _ask(self, request: Request) -> Answer | None:
        """The worker's answer, None when it was not asked. Raises _Lost, StoreError."""
        line = self._send(request)
        if line is None:
            return None
        try:
            answer = _answers.decode(line.frame())
            expected = len(request.creations), len(request.facts)
            if not answer.error and (len(answer.outcomes), len(answer.delivered)) != expected:
                raise msgspec.ValidationError("an answer to something else")
        except BaseException as error:
            line.close()  # an answer that comes later must not be taken for that of another request
            if not isinstance(error, (OSError, EOFError, TooLarge, msgspec.MsgspecError)):
                raise
            self._rest(error)
            raise _Lost from error
        self._keep(line)
        if answer.error:
            raise StoreError(answer.error)
        return answer

    def _send(self, request: Request) -> Line | None:
        """The connection that took the whole request; None when there is none, and so nothing happened."""
        frame: bytes | None = None
        while (line := self._line()) is not None:
            frame = frame or _frame_of(request)
            if frame is None:
                self._keep(line)
                return None
            try:
                line.socket.sendall(frame)
                return line
            except BaseException as error:
                line.close()
                if not isinstance(error, OSError):
                    raise
                if isinstance(error, TimeoutError):
                    self._rest(error)
                    return None
                # That worker is gone; perhaps another is here by now.
        return None

    def _line(self) -> Line | None:
        if self._owner != os.getpid():  # after a fork the connections are the parent's
            self._hang_up()
            self._owner = os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> Line | None:
        connection = _dial(socket_path(self._core.path))
        if connection is None:
            return None
        line = Line(connection)
        try:
            if not of_this_user(connection):
                raise PermissionError("it belongs to another user")
            if line.exactly(len(GREETING)) != GREETING:
                raise ConnectionError("it speaks another version")
            return line
        except BaseException as error:
            line.close()
            if not isinstance(error, (OSError, EOFError)):
                raise
            self._rest(error)
            return None

    def _keep(self, line: Line) -> None:
        if self._closed or len(self._idle) >= IDLE:
            line.close()
        else:
            self._idle.append(line)

    def _rest(self, error: Exception) -> None:
        """This worker is no use for now: what comes in the next seconds is written directly."""
        self._rest_until = time.monotonic() + REST_SECONDS
        self._hang_up()
        log.info("SQLite store %s: its worker takes nothing over, writing directly: %s", self._core.path, error)

    def _hang_up(self) -> None:
        while self._idle:
            with suppress(IndexError):  # another thread took the last one
                self._idle.pop().close()


def _dial(path: str) -> socket.socket | None:
    """A connection; None where there is no worker, a socket of a dead one, too long a name, crowds: no need to wait."""
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        connection.settimeout(ANSWER_SECONDS)
        with address_of(path) as address:
            connection.connect(address)
        return connection
    except BaseException as error:
        connection.close()
        if not isinstance(error, OSError):
            raise
        return None


def _frame_of(request: Request) -> bytes | None:
    """None for what can't travel: it is too large, or the store itself shall say what is wrong with it."""
    try:
        encoded = encode(request)
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
        return None
    return framed(encoded) if len(encoded) <= LARGEST else None


def _creation(commit: Commit) -> Creation:
    summary = _to_json.encode(commit.summary)
    return Creation(commit.id, commit.instance_id, commit.partition, summary, commit.appends, commit.put, commit.drop)
