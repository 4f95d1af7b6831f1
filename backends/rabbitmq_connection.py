"""The pika thread: two connections to one broker, and how other threads talk to them.

Laws.
1. Only this thread touches pika. Others `post` what shall run on it, in order; a wake-up is sent while none is under
   way, so that a thousand posts cost one.
2. A session is used once. When either connection is lost, both are: whoever waits is told at once, `on_lost` is called
   once, and nothing is received any more. The transport then opens another session.
3. Publishing has a connection of its own: under a memory or disk alarm the broker stops reading from a connection that
   publishes, and acknowledgements must get through.
4. What pika knows of a failure is said once, in our words, with the broker's address and without credentials.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final, TypeAlias

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pika.exceptions  # type: ignore[import-untyped]  # as above
from pika.adapters.select_connection import IOLoop  # type: ignore[import-untyped]  # as above

from durable.model.errors import TransportError

from .rabbitmq_frames import Connection
from .rabbitmq_url import Target

HEARTBEAT_SECONDS: Final = 5
CONNECT_SECONDS: Final = 8.0
ANSWER_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0
_CHANCES: Final = 3

Answer: TypeAlias = "Future[Any]"

log = logging.getLogger("durable.rabbitmq")


class SessionLost(TransportError):
    """The session ended before the broker answered. `code` is the broker's; 0 when a connection just broke."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class NoAnswer(TransportError):
    """The broker did not answer in time."""


class Session:
    """Both connections, once `open` has returned. `publishing` and `consuming` are pika's, for the pika thread alone.

    `on_lost` is called on the pika thread, with the session and why, unless `close` came first. Raises TransportError
    when the system has no descriptors left.
    """

    def __init__(self, target: Target, on_lost: Callable[[Session, SessionLost], None]) -> None:
        self.target = target
        self.publishing: Any = None
        self.consuming: Any = None
        self.lost: SessionLost | None = None
        self.when_lost: list[Callable[[], None]] = []
        self._on_lost: Callable[[Session, SessionLost], None] | None = on_lost
        try:
            self._loop = IOLoop()
        except OSError as error:
            raise TransportError(f"can't connect to {target}: {error}") from error
        self._lock = threading.Lock()
        self._todo: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False
        self._ended = False
        self._answers: set[Answer] = set()
        self._opening: list[Any] = []
        self._thread = threading.Thread(target=self._run, name="durable-rabbitmq", daemon=True)

    # From any thread.

    def open(self) -> None:
        """Connect twice. Raises TransportError within about ten seconds, with the remedy; then the session is lost."""
        _quieten_pika()
        opened: Answer = Future()
        self._answers.add(opened)
        self.post(self._connect, opened)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no threads left
            with self._lock:
                self._ended = True
            self._loop.close()
            raise TransportError(f"can't connect to {self.target}: {error}") from error
        try:
            self.wait(opened, ANSWER_SECONDS, "opening a connection")
        except TransportError:
            self.close()
            raise

    def post(self, call: Callable[..., None], *arguments: Any) -> bool:
        """Run it on the pika thread, soon; False when that thread has ended."""
        with self._lock:
            if self._ended:
                return False
            self._todo.append((call, arguments))
            if self._woken:
                return True
            self._woken = True
        self._loop.add_callback_threadsafe(self._do_posted)
        return True

    def begin(self, start: Callable[[Answer], None]) -> Answer:
        """Run `start` on the pika thread; what it makes of the answer is for `wait`."""
        answer: Answer = Future()
        if not self.post(self._begin, start, answer):
            answer.set_exception(self._why_lost())
        return answer

    def wait(self, answer: Answer, seconds: float, what: str) -> Any:
        """The answer, or its error; NoAnswer, saying for `what`, when there is none within so many seconds."""
        self.refuse_own_thread()
        try:
            return answer.result(max(0.0, seconds))
        except FutureTimeoutError:
            raise NoAnswer(f"{self.target} did not answer in {seconds:.0f} s: {what}") from None

    def ask(self, start: Callable[[Answer], None], what: str, seconds: float = ANSWER_SECONDS) -> Any:
        """`begin` and `wait`."""
        return self.wait(self.begin(start), seconds, what)

    @property
    def on_own_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def refuse_own_thread(self) -> None:
        """Whoever waits on the pika thread waits for ever: RuntimeError."""
        if self.on_own_thread:
            raise RuntimeError("a sink, or whoever is woken by a transport, must not wait for that transport")

    def fail(self, reason: str) -> None:
        """Give it up: what waits is told, and another session must be opened."""
        self.post(self._lose, SessionLost(f"connection to {self.target} given up: {reason}"))

    def close(self) -> None:
        """End it, gracefully where the broker plays along; after that no sink is called. Idempotent."""
        self._on_lost = None
        self.post(self._lose, SessionLost(f"connection to {self.target} closed"))
        if self.consuming is not None and not self.on_own_thread:
            # A broker that is frozen answers no goodbye: the thread then goes with the missing heartbeats.
            self._thread.join(CLOSE_SECONDS)

    # On the pika thread.

    def later(self, call: Callable[[], None]) -> None:
        """Run it when what has just been read is dealt with."""
        self._loop.call_later(0, call)

    def _run(self) -> None:
        for _ in range(_CHANCES):
            try:
                self._loop.start()  # until `_stop_when_closed`
                break
            except Exception as error:  # in pika itself: what comes after is for the sake of closing sockets
                log.exception("the connection to %s is given up", self.target)
                self._lose(SessionLost(f"connection to {self.target} lost: {error!r}"))
        with self._lock:
            self._ended = True
        self._do_posted()
        self._loop.close()

    def _begin(self, start: Callable[[Answer], None], answer: Answer) -> None:
        if self.lost:
            settle(answer, error=self.lost)
            return
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        start(answer)

    def _do_posted(self) -> None:
        self._woken = False
        for _ in range(len(self._todo)):  # not those posted meanwhile: the sockets have their turn in between
            call, arguments = self._todo.popleft()
            try:
                call(*arguments)
            except Exception as error:  # pika refuses what its state does not allow: the state is what's wrong
                log.exception("the connection to %s is given up", self.target)
                self._lose(SessionLost(f"connection to {self.target} lost: {error!r}"))
        for connection in (self.publishing, self.consuming):
            _write_now(connection)

    def _connect(self, opened: Answer) -> None:
        if self.lost:
            return
        parameters = _parameters(self.target)
        for _ in range(2):
            connection = Connection(
                parameters,
                on_open_callback=lambda _: self._on_open(opened),
                on_open_error_callback=lambda _, error: self._on_open_error(error),
                on_close_callback=lambda _, error: self._on_close(error),
                custom_ioloop=self._loop,
            )
            self._opening.append(connection)

    def _on_open(self, opened: Answer) -> None:
        if self.lost:
            self._close_open()
        elif all(connection.is_open for connection in self._opening) and len(self._opening) == 2:
            self.publishing, self.consuming = self._opening
            settle(opened, None)

    def _on_open_error(self, error: BaseException) -> None:
        self._lose(SessionLost(_explained(self.target, error)))

    def _on_close(self, error: BaseException) -> None:
        code = getattr(error, "reply_code", 0)
        self._lose(SessionLost(f"connection to {self.target} lost: {_reason(error)}", code))

    def _lose(self, lost: SessionLost) -> None:
        if self.lost is None:
            self.lost = lost
            for answer in tuple(self._answers):
                settle(answer, error=lost)
            for call in self.when_lost:
                call()
            if self._on_lost:
                self._on_lost(self, lost)
            self._close_open()
        self._loop.call_later(0, self._stop_when_closed)

    def _close_open(self) -> None:
        """One that is being opened is left alone until it is, or has failed: pika 1.4 can't be interrupted in that."""
        for connection in self._opening:
            if connection.is_open:
                connection.close()

    def _stop_when_closed(self) -> None:
        if all(connection.is_closed for connection in self._opening):
            with self._lock:
                self._ended = True
            self._loop.stop()

    def _why_lost(self) -> SessionLost:
        return self.lost or SessionLost(f"connection to {self.target} closed")


def _write_now(connection: Any) -> None:
    """What pika has to write; by itself it does so a turn of its loop later, when it has heard that the socket can."""
    transport: Any = getattr(connection, "_transport", None)
    write = getattr(transport, "_on_socket_writable", None)
    if write is not None and transport.get_write_buffer_size():
        write()


def settle(answer: Answer, result: Any = None, error: BaseException | None = None) -> None:
    """Give the answer unless it has been given: the broker's word and the end of the session may both come."""
    try:
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)
    except InvalidStateError:
        pass  # the first one stands


def _parameters(target: Target) -> Any:
    return pika.ConnectionParameters(
        host=target.host,
        port=target.port,
        virtual_host=target.vhost,
        credentials=pika.PlainCredentials(target.user, target.password.reveal()),
        ssl_options=pika.SSLOptions(target.tls, target.host) if target.tls else None,
        heartbeat=HEARTBEAT_SECONDS,
        socket_timeout=CONNECT_SECONDS / 2,
        stack_timeout=CONNECT_SECONDS,
        client_properties={"connection_name": "durable"},
    )


def _explained(target: Target, error: BaseException) -> str:
    """Why there is no connection, and what to do about it."""
    if isinstance(error, pika.exceptions.ProbableAuthenticationError):
        return f"{target} refused the user name or the password; check those in the events URL"
    if isinstance(error, pika.exceptions.ProbableAccessDeniedError):
        return (
            f"{target} refused the virtual host: it does not exist, or the user may not use it; "
            "rabbitmqctl list_vhosts and list_permissions tell"
        )
    if isinstance(error, pika.exceptions.IncompatibleProtocolError):
        return (
            f"{target} broke off the AMQP handshake; is it an AMQP 0-9-1 broker? "
            "check host, port, and amqp:// or amqps:// in the events URL"
        )
    return f"can't connect to {target}: {_reason(error)}; is the broker running, and are host and port right?"


def _reason(error: BaseException) -> str:
    """The innermost cause: pika wraps it up to four times."""
    while True:
        nested = getattr(error, "exception", None) or (getattr(error, "exceptions", None) or error.args or [None])[-1]
        if not isinstance(nested, BaseException):
            break
        error = nested
    if isinstance(error, pika.exceptions.ConnectionClosed):
        return f"{error.reply_code} {error.reply_text}"
    return str(error) or type(error).__name__


def _quieten_pika() -> None:
    """pika reports one failure several times, with tracebacks. Whoever gave its logger a level keeps it."""
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
