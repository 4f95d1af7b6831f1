"""What the engine asks of the outside: two small ports. A new backend is a module, an entry point, a green contract.

Laws of a store (the contract suite in `durable.testing` holds every backend to them).
1. `commit` is atomic per instance and checks the version: all of one `Commit` happens, or none. A conflict skips only
   its own instance. When the store can't tell whether a commit happened it says UNKNOWN; reading settles it.
2. `deliver` never conflicts with a turn: whoever is not the owner puts a fact into the inbox, once per fact id.
3. A row lives until its outcome is recorded. There are no row states: `due_at` says when somebody must look again if
   nothing happens, `holder` who may act before.
4. Verbs are synchronous, batched, safe to call from several threads, and durable when they return.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from .model.status import RuntimeStatus, Summary

T = TypeVar("T")

RowKind = Literal["task", "timer", "message", "inbox"]


class Row(msgspec.Struct, frozen=True, gc=False):
    """Work that is not done yet. `key` is unique in the workspace; times are POSIX seconds.

    task: an activity to run; deleted by the turn that records its outcome. timer: wakes its instance at `due_at`.
    message: something for another instance; deleted once its target has it. inbox: a fact for this instance.
    `attempt` counts the leases of the row and fences them; `body` is opaque to the store.
    """

    key: str
    kind: RowKind
    instance_id: str
    partition: int
    due_at: float
    holder: str = ""
    attempt: int = 0
    body: bytes = b""


class Append(NamedTuple):
    """Events added to one execution: one stored row, whose first event has the number `start`."""

    execution_id: str
    start: int
    events: bytes


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One turn of one instance, all or nothing. `expect`: the version it was computed from; 0 creates the instance."""

    id: str
    instance_id: str
    partition: int
    expect: int
    summary: Summary
    appends: tuple[Append, ...] = ()
    put: tuple[Row, ...] = ()
    drop: tuple[str, ...] = ()


class Outcome(Enum):
    COMMITTED = "committed"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


class Want(NamedTuple):
    """Load this instance; if it is still at `known_version`, leave out the history (0: everything is wanted)."""

    instance_id: str
    known_version: int = 0


class Record(msgspec.Struct, frozen=True):
    """One instance as stored: version, last commit, summary, events of the current execution, inbox in delivery order.

    `history` is None when the version is the known one.
    """

    version: int
    commit_id: str
    summary: Summary
    history: tuple[bytes, ...] | None
    inbox: tuple[Row, ...]


class Fact(NamedTuple):
    """Something for an instance's inbox. The same `id` twice for one instance is one fact."""

    instance_id: str
    partition: int
    id: str
    body: bytes
    due_at: float


class Delivered(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"
    ABSENT = "absent"
    FINISHED = "finished"


class Lease(NamedTuple):
    """Take, renew, release (`due_at` now, no holder) or end (`due_at` None) a row, if it is still held as expected."""

    key: str
    expect_holder: str
    expect_attempt: int
    due_at: float | None
    holder: str = ""


class Query(msgspec.Struct, frozen=True):
    """Filters of a listing, all of which must hold; times are POSIX seconds, `created_before` is exclusive."""

    status: frozenset[RuntimeStatus] | None = None
    name: str | None = None
    prefix: str | None = None
    tags: dict[str, str] | None = None
    created_after: float | None = None
    created_before: float | None = None
    limit: int = 100
    cursor: str | None = None


class Slice(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """Some items and how to go on; `next` is None at the end."""

    items: list[T]
    next: str | None


class Store(Protocol):
    """Where histories live. Raises `durable.StoreError` when it can't be used; nothing else for a user's mistake."""

    partitions: int

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        """The instances wanted, in order; None for an unknown one."""
        ...

    def history(self, execution_id: str, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        """Stored rows of one execution whose first event is numbered `start` or higher; `next` is the next start."""
        ...

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """One outcome each. The same instance may appear once in a batch."""
        ...

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        """Put facts into inboxes, in order; one answer each."""
        ...

    def due(self, partition: int, until: float, limit: int, after: str = "") -> Slice[Row]:
        """Rows of every kind with `due_at <= until`, soonest first."""
        ...

    def lease(self, leases: Sequence[Lease]) -> list[bool]:
        """Whether each row was still held as expected and now is as asked. Each success counts `attempt` up by one."""
        ...

    def find(self, query: Query) -> Slice[Summary]:
        """Newest first by creation, no duplicates across pages; an instance's place never changes."""
        ...

    def summaries(self, instance_ids: Sequence[str]) -> list[Summary | None]:
        """How these instances stand; None for an unknown one."""
        ...

    def input_of(self, execution_ids: Sequence[str]) -> list[bytes | None]:
        """The first stored row of each execution: event 0 carries its input."""
        ...

    def close(self) -> None: ...


Topic = Literal["facts", "status"]
FACTS: Final = "facts"
STATUS: Final = "status"


class Signals(Protocol):
    """News that travels faster than polling. Lossy by contract: a signal is a hint, the store is the truth."""

    def notify(self, topic: Topic, instance_ids: Collection[str]) -> None:
        """facts: something was put into these inboxes. status: these instances changed for those who wait."""
        ...

    def listen(
        self, topic: Topic, wake: Callable[[Collection[str] | None], None], instance_id: str | None = None
    ) -> Callable[[], None]:
        """Call `wake` with the ids (None: something changed, unknown what); returns how to stop listening.

        `wake` runs on any thread and must be quick. With `instance_id`, only news of that one.
        """
        ...


class Backend(Protocol):
    """What a URL opens: a store, its signals, and the right to be its worker."""

    store: Store
    signals: Signals

    def claim_worker(self) -> Callable[[], None]:
        """Become the worker of this store; returns how to give it back. Raises `durable.StoreInUseError`."""
        ...

    def close(self) -> None: ...
