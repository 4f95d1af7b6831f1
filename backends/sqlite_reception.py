"""The worker's side of sqlite_handover.py, whose laws hold here: a thread that accepts, and one for each connection."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import stat
import threading
import time
from contextlib import ExitStack, suppress
from typing import Final

import msgspec

from durable.model.errors import StoreError
from durable.model.history import UNDECODABLE
from durable.model.status import Summary
from durable.ports import FACTS, Commit, Store

from .sqlite_core import Core
from .sqlite_handover import (
    ANSWER_SECONDS,
    GREETING,
    Answer,
    Creation,
    Line,
    Request,
    TooLarge,
    address_of,
    encode,
    framed,
    of_this_user,
    receiving,
    socket_path,
)

CONNECTIONS: Final = 64

log = logging.getLogger("durable.sqlite")

_requests = msgspec.msgpack.Decoder(Request)
_summaries = msgspec.json.Decoder(Summary)


class Reception:
    """Where the worker takes what other processes hand over. `store` writes into the file of `core` itself."""

    def __init__(self, core: Core, store: Store) -> None:
        self._core = core
        self._store = store
        self._path = socket_path(core.path)
        self._lock = threading.Lock()
        self._lines: dict[Line, threading.Thread] = {}
        self._stopping = threading.Event()
        self._undo = ExitStack()

    def open(self) -> None:
        """Begin; only the holder of the worker lock may. Without a socket there is no hand-over, and that is all."""
        self._stopping.clear()
        receiving.add(self._core.path)
        self._undo.callback(receiving.discard, self._core.path)
        try:
            self._undo.push(self._listen().__exit__)
        except (OSError, RuntimeError) as error:
            log.warning(
                "SQLite store %s: other processes will write into the file themselves, which slows this worker: %s",
                self._core.path,
                error,
            )

    def close(self) -> None:
        """Take nothing new, finish what was taken, end the connections. Idempotent."""
        self._undo.close()

    def _listen(self) -> ExitStack:
        """Start accepting; returns how to end it. Raises OSError, RuntimeError (no more threads)."""
        with ExitStack() as undo:
            undo.callback(self._end_lines)
            listener = undo.enter_context(_listener(self._path))
            bell, ringing = map(undo.enter_context, socket.socketpair())
            acceptor = threading.Thread(
                target=self._accept, args=(listener, ringing), name="durable-sqlite-reception", daemon=True
            )
            acceptor.start()
            undo.callback(acceptor.join)
            undo.callback(bell.send, b"!")
            undo.callback(self._stopping.set)
            undo.callback(_remove, self._path)
            return undo.pop_all()

    def _end_lines(self) -> None:
        with self._lock:
            lines = dict(self._lines)
        for line in lines:
            _shut(line, socket.SHUT_RD)
        until = time.monotonic() + ANSWER_SECONDS
        for line, thread in lines.items():
            thread.join(max(0.0, until - time.monotonic()))
            _shut(line, socket.SHUT_RDWR)  # whoever does not read its answer by now does not wait for it

    def _accept(self, listener: socket.socket, ringing: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(ringing, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    log.warning("SQLite store %s: can't take a connection, trying again: %s", self._core.path, error)
                    self._stopping.wait(1.0)
                    continue
                self._welcome(Line(connection))

    def _welcome(self, line: Line) -> None:
        """Greet, and leave the rest to a thread; or turn away."""
        thread = threading.Thread(target=self._serve, args=(line,), name="durable-sqlite-handover", daemon=True)
        try:
            if len(self._lines) >= CONNECTIONS or not of_this_user(line.socket):
                raise PermissionError
            line.socket.setblocking(True)
            line.socket.sendall(GREETING)
            with self._lock:
                self._lines[line] = thread
            thread.start()
        except (OSError, RuntimeError):  # turned away, gone again, or there are no more threads
            self._forget(line)

    def _forget(self, line: Line) -> None:
        with self._lock:
            self._lines.pop(line, None)
        line.close()

    def _serve(self, line: Line) -> None:
        try:
            while True:
                request = _requests.decode(line.frame())
                line.socket.sendall(framed(encode(self._apply(request))))
        except (OSError, EOFError):
            pass  # the sender is gone, or this worker is leaving
        except (*UNDECODABLE, TooLarge) as error:
            log.warning("SQLite store %s: ended a connection that said what can't be read: %s", self._core.path, error)
            with suppress(OSError):
                if isinstance(error, TooLarge):
                    line.socket.sendall(framed(encode(Answer(error=f"SQLite store {self._core.path}: {error}"))))
        except Exception:  # the sender finds out by itself what is wrong with it
            log.exception("SQLite store %s: what another process handed over failed", self._core.path)
        finally:
            self._forget(line)

    def _apply(self, request: Request) -> Answer:
        if request.full and self._core.synchronous != "FULL":
            self._core.be_full()
        commits = [commit_of(creation) for creation in request.creations]
        try:
            answer = Answer(self._store.commit(commits), self._store.deliver(request.facts))
        except StoreError as error:
            return Answer(error=str(error))
        touched = [commit.instance_id for commit in commits] + [fact.instance_id for fact in request.facts]
        self._core.signals.notify(FACTS, touched)
        return answer


def commit_of(creation: Creation) -> Commit:
    summary = _summaries.decode(creation.summary)
    return Commit(
        creation.id, creation.instance_id, creation.partition, 0, summary, creation.appends, creation.put, creation.drop
    )


def _listener(path: str) -> socket.socket:
    """A socket at `path`, for this user alone. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(f"{path} is there and is no socket; move it away")
            os.unlink(path)
        with address_of(path) as address:
            listener.bind(address)
        os.chmod(path, 0o600)  # before `listen` every connection is refused
        listener.listen(CONNECTIONS)
        listener.setblocking(False)
        return listener
    except BaseException:
        listener.close()
        raise


def _remove(path: str) -> None:
    with suppress(OSError):  # somebody tidied up, or may not
        os.unlink(path)


def _shut(line: Line, how: int) -> None:
    with suppress(OSError):  # its thread closed it
        line.socket.shutdown(how)
