"""What runs in a child process of a worker: one activity after another, as the worker says over a pipe.

Laws.
1. It lives and dies with its worker: when the pipe ends, or the parent is another one, it kills its process group,
   and with it what its activities have started. On Linux the kernel does that, even while C code keeps all threads out.
2. The terminal's and the system's requests to stop (SIGINT, SIGTERM) are for the worker, which drains.
3. A function is imported by the name of its module; the worker's `__main__` never runs here.
4. Whatever an activity raises is an answer; the next one runs in the same process.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import ModuleType
from typing import Any, Final, NoReturn

from ..model.errors import NonRetryableError
from ..model.limits import Limits
from ..payload.signature import Signature
from ..replay.callee import ActivityRef
from .activity_context import ActivityContext, Attempt
from .activity_outcome import failure_of, result_of
from .child_messages import (
    LOGGED,
    Beat,
    Began,
    Call,
    Logged,
    Raised,
    Report,
    Returned,
    Setup,
    decode_order,
    encode_message,
)

_LOOK: Final = 1.0  # seconds between two looks at who the parent is: a fork of the worker's keeps the pipe open


def main(pipe: int, lifeline: int, connect: Callable[..., Any]) -> NoReturn:
    """Serve the worker at the other end of `pipe`, for ever. On `lifeline` nothing comes but its end. Descriptors.

    connect: `durable.connect`, for the activities that ask for a client.
    """
    for descriptor in (pipe, lifeline):
        os.set_inheritable(descriptor, False)
    _hang_on(lifeline)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which programs started by activities would inherit
    connection: Connection[Any, Any] = Connection(pipe)
    setup = decode_order(connection.recv_bytes())
    assert isinstance(setup, Setup)
    child = _Child(connection, setup, connect)
    threading.Thread(target=child.listen, name="durable-listen", daemon=True).start()
    child.work()


def _hang_on(lifeline: int) -> None:
    """Have this process group killed as soon as nobody holds the other end."""
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


class _Child:
    def __init__(self, connection: Connection[Any, Any], setup: Setup, connect: Callable[..., Any]) -> None:
        self._connection = connection
        self._connect = connect
        self._reach = setup.client
        self._client: Any = None
        self._worker = setup.worker_pid
        self._limits = Limits(**setup.limits)
        self._calls: SimpleQueue[tuple[Call, Attempt]] = SimpleQueue()
        self._sending = threading.Lock()
        for name, level in setup.levels.items():
            logging.getLogger(name).setLevel(level)
        logging.getLogger().addHandler(_Forward(self._tell))

    def listen(self) -> None:
        """Take orders, on a thread of its own; ends the process when there is nobody to take them from."""
        attempt: Attempt | None = None
        try:
            while True:
                while not self._connection.poll(_LOOK):
                    if os.getppid() != self._worker:
                        _end()
                order = decode_order(self._connection.recv_bytes())
                if isinstance(order, Call):
                    attempt = _Attempt(order, self._tell)
                    self._calls.put((order, attempt))
                elif attempt is not None:
                    attempt.cancelled = True
        except (EOFError, OSError):
            _end()

    def work(self) -> NoReturn:
        """Run what was ordered, on the main thread."""
        while True:
            call, attempt = self._calls.get()
            try:
                answer: Report = Returned(result_of(self._run(call, attempt), call.name, self._limits))
            except BaseException as error:  # law 4: SystemExit too
                answer = Raised(failure_of(error))
            self._tell(answer)

    def _run(self, call: Call, attempt: Attempt) -> Any:
        fn = _find(call)
        self._tell(Began())
        signature = Signature.of(fn, leading=1 if call.wants_context else 0)
        args = signature.decode_input(call.input, f"the input of activity {call.name!r}")
        return fn(ActivityContext(attempt, self._opened), *args) if call.wants_context else fn(*args)

    def _opened(self) -> Any:
        """A client of this process's own, opened when an activity first asks for it and kept for the next."""
        if self._reach is None:
            raise RuntimeError(
                "ctx.client: this activity runs in a process of its own, which can't open the worker's store again, "
                "because that is in memory, or under a codec that was given as an object. Give the codec by "
                "DURABLE_CODEC, open a client with durable.connect(), or leave executor='process' out"
            )
        if self._client is None or self._client.closed:
            self._client = self._connect(**self._reach, limits=self._limits)
        return self._client

    def _tell(self, report: Report) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(encode_message(report))
        except OSError:
            _end()


class _Attempt(Attempt):
    """The running attempt; its heartbeats are the worker's to judge."""

    __slots__ = ("_tell",)

    def __init__(self, call: Call, tell: Callable[[Report], None]) -> None:
        super().__init__(call.instance_id, call.execution_id, call.task_id, call.attempt)
        self._tell = tell

    def beat(self) -> None:
        super().beat()
        self._tell(Beat())


class _Forward(logging.Handler):
    """Log records go to the worker, whose handlers write them."""

    def __init__(self, tell: Callable[[Report], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            fields = {name: _plain(getattr(record, name)) for name in LOGGED if hasattr(record, name)}
            self._tell(Logged(_text(message), fields))
        except Exception:  # as logging's own handlers: a record that can't be formatted is not the activity's failure
            self.handleError(record)


def _plain(value: Any) -> str | int | float | None:
    """An attribute of a record, as it travels: `extra=` may have put anything there."""
    return value if value is None or type(value) in (int, float, bool) else _text(str(value))


def _text(text: str) -> str:
    """As UTF-8 can carry it, which names of files need not be."""
    return text.encode("utf-8", "replace").decode()


def _find(call: Call) -> Callable[..., Any]:
    found: Any = _module(call)
    for part in call.function.split("."):
        found = getattr(found, part, None)
    if isinstance(found, ActivityRef):
        found = getattr(found, "fn", None)  # behind the decorator
    if not callable(found):
        raise NonRetryableError(
            f"activity {call.name!r} runs in a process, where {call.module}.{call.function} is looked up, and there is "
            "no such function: give it a name of its own at the top of its module"
        )
    function: Callable[..., Any] = found
    return function


def _module(call: Call) -> ModuleType:
    try:
        return importlib.import_module(call.module)
    except ModuleNotFoundError as error:
        if not call.file or error.name is None or not f"{call.module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another one
    spec = importlib.util.spec_from_file_location(call.module, call.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[call.module] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[call.module]
        raise
    return module


def _end() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    os._exit(1)  # not reached; type checkers don't know
