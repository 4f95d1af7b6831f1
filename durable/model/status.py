"""How an orchestration stands: the summary that is committed with every turn, and the view that users get."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from typing import Any, Final, Generic, TypeVar

import msgspec

from .failure import FailureDetails
from .history import NO_PAYLOAD, HistoryEvent, Raw
from .moments import Moment

T = TypeVar("T")

DEFAULT_GROUP: Final = "default"
DEFAULT_QUEUE: Final = "default"


class RuntimeStatus(str, Enum):
    """The states of an orchestration (Durable Functions' names, and BLOCKED).

    Before its first turn it is PENDING; SUSPENDED until it is resumed; CANCELED when it ended by a `cancel` that its
    code did not handle.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    BLOCKED = "BLOCKED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    TERMINATED = "TERMINATED"
    CONTINUED_AS_NEW = "CONTINUED_AS_NEW"

    _value_: str
    finished: bool
    """Whether nothing more will happen to an instance in this state."""

    def __init__(self, _: str) -> None:
        self.finished = self._value_ in ("COMPLETED", "FAILED", "CANCELED", "TERMINATED")

    def __str__(self) -> str:
        return self._value_


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every commit stores beside the history, so that nobody needs the history to know how things stand.

    The input is not here: it is event 0 of the execution, and may be large. length: how many events that execution has,
    so that one which was lost is missed; 0 where nobody has counted them.
    """

    instance_id: str
    execution_id: str
    name: str
    status: RuntimeStatus
    created_at: Moment
    updated_at: Moment
    version: str = ""
    completed_at: Moment | None = None
    output: Raw = NO_PAYLOAD
    custom_status: Raw = NO_PAYLOAD
    failure: FailureDetails | None = None
    blocked_reason: str = ""
    tags: dict[str, str] | None = None
    parent_instance_id: str = ""
    group: str = DEFAULT_GROUP
    reply_to: str = ""
    length: int = 0


class OrchestrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one orchestration stands. Times are aware UTC; input, output and custom_status are plain JSON values.

    failure: what ended it, when FAILED. blocked_reason: what the history has, what the code did, file and line; of one
    that is PENDING or RUNNING, which code or queue no living worker has.
    history: its events, only when asked for.
    """

    instance_id: str
    name: str
    version: str | None
    runtime_status: RuntimeStatus
    created_at: datetime
    last_updated_at: datetime
    completed_at: datetime | None
    input: Any
    output: Any
    custom_status: Any
    failure: FailureDetails | None
    blocked_reason: str | None
    tags: dict[str, str]
    parent_instance_id: str | None
    execution_id: str
    history: list[HistoryEvent] | None = None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a listing. `cursor` continues it and is None on the last page. Iterates over its items."""

    items: list[T]
    cursor: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
