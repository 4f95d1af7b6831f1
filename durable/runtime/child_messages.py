"""What a worker and the child processes of its activities say to each other: JSON, one value a message."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..model.failure import FailureDetails
from ..model.history import Raw

# The attributes of a log record that travel; the last three are those of `ActivityContext.logger`.
LOGGED: Final = (
    "name levelno levelname pathname filename module lineno funcName created msecs process processName threadName "
    "exc_text instance_id task_id attempt"
).split()


class Setup(msgspec.Struct, tag=True):
    """The first message. limits: the fields of `Limits`. levels: of the worker's loggers, '' is the root's. client: see
    `Children`."""

    worker_pid: int
    limits: dict[str, Any]
    levels: dict[str, int]
    client: dict[str, str | None] | None


class Call(msgspec.Struct, tag=True):
    """Run this function: found by module and qualified name, in `file` where no module of that name is on the path."""

    module: str
    function: str
    file: str
    name: str
    wants_context: bool
    input: Raw
    instance_id: str
    execution_id: str
    task_id: int
    attempt: int


class Cancelled(msgspec.Struct, tag=True):
    """Nobody waits for the outcome of the running call any more."""


class Began(msgspec.Struct, tag=True):
    """The function is found; its time runs from here."""


class Beat(msgspec.Struct, tag=True):
    """A heartbeat."""


class Logged(msgspec.Struct, tag=True):
    """A log record; `fields` are those of LOGGED that it has."""

    message: str
    fields: dict[str, Any]


class Returned(msgspec.Struct, tag=True):
    """It has ended well."""

    result: Raw


class Raised(msgspec.Struct, tag=True):
    """It has ended by an exception, or its result can't travel."""

    failure: FailureDetails


Order = Setup | Call | Cancelled
Report = Began | Beat | Logged | Returned | Raised

encode_message: Final = msgspec.json.Encoder().encode
decode_order: Final = msgspec.json.Decoder(Order).decode
decode_report: Final = msgspec.json.Decoder(Report).decode
