"""What the engine asks of the outside: small ports. A new backend is a module, an entry point, a green contract.

Laws of a store (the contract suite in `durable.testing` holds every backend to them).
1. `commit` is atomic per instance and checks the version: all of one `Commit` happens, or none. A conflict skips only
   its own instance. When the store can't tell whether a commit happened it says UNKNOWN; reading settles it.
2. `deliver` never conflicts with a turn: whoever is not the owner puts a fact into the inbox, once per fact id.
3. A row lives until its outcome is recorded. There are no row states: `due_at` says when somebody must look again if
   nothing happens, `holder` who may act before.
4. Verbs are synchronous, batched, safe to call from several threads, and durable when they return.
5. What is purged is gone at once for everybody who asks, and does not come back: for a day at least, a start that was
   made before (the same execution id) is a CONFLICT. What was parked for it goes too. What it had
   stored goes in pages (`clear`), whoever asks. Rows for others (messages) stay until they have arrived; other work
   rows end when somebody meets them. An execution that is forgotten by a commit goes likewise, without its instance.

Laws of a transport (`durable.testing.transport_contract`).
1. A message is a hint: whatever is lost here is found again in the store. So nothing is ever published that is not
   committed, and nothing is acknowledged before what it brought is committed.
2. `publish` says of each message what became of it; an exception is no answer. UNKNOWN may have arrived.
3. A delivery that is not acknowledged comes again, marked `redelivered`, after the connection or its consumer is gone.
4. It reconnects by itself, makes its queues again and goes on receiving; whoever watches is told what may be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from .model.status import RuntimeStatus, Summary

T = TypeVar("T")

RowKind = Literal["task", "timer", "message", "inbox"]


class Row(msgspec.Struct, frozen=True, gc=False):
    """Work that is not done yet. `key` is unique in the workspace; times are POSIX seconds.

    `group` is that of its instance: the workers of that group look after it.
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
    group: str = "default"


class Append(NamedTuple):
    """Events added to one execution: one stored row, whose first event has the number `start`."""

    execution_id: str
    start: int
    events: bytes


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One turn of one instance, all or nothing. `expect`: the version it was computed from; 0 creates the instance.

    Rows put and dropped are of this instance's partition, as everything else here is. `replaces`: the execution of a
    finished life in whose place another one begins: its time of creation is that of `summary`, and ids of facts that
    the old life has seen count as new. `forgets`: the execution in whose place that of `summary` begins is not kept: it
    is none of the `former` ones, nobody will ask for its history, and `clear` gives its room back. For instances that
    live for ever and begin anew now and then, from a snapshot. No effect where no other execution begins. `tells`:
    whoever waits for this instance should look at it.
    """

    id: str
    instance_id: str
    partition: int
    expect: int
    summary: Summary
    appends: tuple[Append, ...] = ()
    put: tuple[Row, ...] = ()
    drop: tuple[str, ...] = ()
    replaces: str = ""
    forgets: bool = False
    tells: bool = False

    @property
    def continues(self) -> str:
        """The execution that must be the current one: versions begin again when an id is used again after a purge."""
        if self.replaces or not self.appends:
            return self.replaces or self.summary.execution_id
        return self.appends[0].execution_id

    @property
    def forgotten(self) -> str:
        """The execution that ends here and is not kept; '' for none."""
        ended = self.forgets and self.expect > 0 and self.continues != self.summary.execution_id
        return self.continues if ended else ""


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

    `history` is None when the version is the known one. damage: what of it the store has lost, for which `summary` is
    only a stand-in; the instance is BLOCKED with it.
    """

    version: int
    commit_id: str
    summary: Summary
    history: tuple[bytes, ...] | None
    inbox: tuple[Row, ...]
    damage: str = ""


class Fact(NamedTuple):
    """Something for an instance's inbox. The same `id` twice for one instance is one fact.

    The row it becomes has the group of its instance, which the sender need not know. park: if there is no such
    instance, or it has ended, keep the fact in the inbox that an instance of that id will have, under the group
    `PARKED`, which no worker serves.
    """

    instance_id: str
    partition: int
    id: str
    body: bytes
    due_at: float
    park: bool = False


PARKED: Final = "@parked"  # for another one of this id; names don't begin with @
KEPT: Final = "@kept"  # for this very one, should it be rewound
UNSERVED: Final = frozenset({PARKED, KEPT})  # groups in which no worker looks for rows


class Delivered(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"
    ABSENT = "absent"
    FINISHED = "finished"
    PARKED = "parked"


class Lease(NamedTuple):
    """Take, renew, release (`due_at` now, no holder) or end (`due_at` None) a row, if it is still held as expected."""

    partition: int
    key: str
    expect_holder: str
    expect_attempt: int
    due_at: float | None
    holder: str = ""


class RowKey(NamedTuple):
    """Where a row is."""

    partition: int
    key: str


class ExecutionKey(NamedTuple):
    """Where a history is."""

    instance_id: str
    execution_id: str


class Purged(Enum):
    """GONE: it was here, and now nobody finds it. KEPT: it has not finished, or has another execution by now."""

    GONE = "gone"
    KEPT = "kept"
    ABSENT = "absent"


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
    overlaps: bool
    """Whether what has begun goes on while its caller does something else, so that smaller commits are worth while."""
    tells: bool
    """Whether a commit that `tells` is told to other processes by the store, with the commit: `Signals.notify` need
    not."""

    def load(self, wants: Sequence[Want]) -> list[Record | None]:
        """The instances wanted, in order; None for an unknown one."""
        ...

    def history(self, execution: ExecutionKey, start: int = 0, limit: int = 1_000) -> Slice[tuple[int, bytes]]:
        """Stored rows of one execution whose first event is numbered `start` or higher; `next` is the next start."""
        ...

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """One outcome each. The same instance may appear once in a batch."""
        ...

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        """As `commit`; the function returned waits for the outcomes, and is called once by the same thread."""
        ...

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        """Put facts into inboxes, in order; one answer each."""
        ...

    def due(self, partition: int, group: str, until: float, limit: int, after: str = "") -> Slice[Row]:
        """Rows of every kind of one group with `due_at <= until`, soonest first."""
        ...

    def rows(self, keys: Sequence[RowKey]) -> list[Row | None]:
        """These rows as they are now, bodies included; None for one that has ended."""
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

    def input_of(self, executions: Sequence[ExecutionKey]) -> list[bytes | None]:
        """The first stored row of each execution: event 0 carries its input."""
        ...

    def former(self, instance_ids: Sequence[str]) -> list[list[str]]:
        """The executions that each instance had before its current one, oldest first, without those forgotten."""
        ...

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        """Take finished instances away, each with all its executions, if this execution is its current one."""
        ...

    def clear(self, partition: int, limit: int) -> int:
        """Give back room that purged instances and forgotten executions took: about `limit` pieces.

        How many there were; 0 for none left.
        """
        ...

    def close(self) -> None: ...


Topic = Literal["facts", "status"]
FACTS: Final = "facts"
STATUS: Final = "status"


class Signals(Protocol):
    """News that travels faster than polling. Lossy by contract: a signal is a hint, the store is the truth."""

    def notify(self, topic: Topic, instance_ids: Collection[str], *, here_only: bool = False) -> None:
        """facts: something was put into these inboxes. status: these instances changed for those who wait.

        here_only: the other processes are told in another way.
        """
        ...

    def listen(
        self,
        topic: Topic,
        wake: Callable[[Collection[str] | None], None],
        instance_id: str | None = None,
        *,
        here_only: bool = False,
    ) -> Callable[[], None]:
        """Call `wake` with the ids (None: something changed, unknown what); returns how to stop listening.

        `wake` runs on any thread and must be quick. With `instance_id`, only news of that one. here_only: news of this
        process will do, since the listener hears of the others in another way.
        """
        ...


class Beat(msgspec.Struct, frozen=True):
    """One sign of life of a worker. `counter` moves with each; nobody compares clocks.

    incarnation: fresh for each start of a worker, the `holder` of its rows. groups, queues: what it serves;
    activities, orchestrators: the names it has code for, of an orchestrator with its version behind a space; None of a
    worker that does not say. events: over what its events travel, without a secret; likewise. repairs: how often it
    found a queue missing and made it again. at: its clock, in POSIX seconds, for people who look once; never for a
    decision about ownership.
    """

    incarnation: str
    counter: int = 0
    groups: tuple[str, ...] = ("default",)
    queues: tuple[str, ...] = ("default",)
    activities: tuple[str, ...] = ()
    pid: int = 0
    host: str = ""
    repairs: int = 0
    at: float = 0.0
    orchestrators: tuple[str, ...] | None = None
    events: str | None = None


class Membership(Protocol):
    """Who works on this store. Lossy and late by nature: the version check of a commit is what fences.

    exclusive: one worker at a time is admitted.
    """

    exclusive: bool

    def beat(self, me: Beat) -> list[Beat]:
        """Show that I am alive; everybody's last beat. Without mine among them I am not admitted (yet): standing by."""
        ...

    def members(self) -> list[Beat]:
        """Everybody's last beat, for those who only look."""
        ...

    def leave(self, incarnation: str) -> None:
        """This one is gone: on its own farewell, or when others have seen it still for long. Idempotent."""
        ...


class Backend(Protocol):
    """What a store's URL opens."""

    store: Store
    signals: Signals
    membership: Membership

    def close(self) -> None: ...


class Blob(NamedTuple):
    """One that is there. `written_at`: POSIX seconds, by whose clock nobody knows."""

    name: str
    written_at: float


class Blobs(Protocol):
    """Where payloads live that are too large for a store. Raises `durable.StoreError` when it can't be used.

    A name is three parts with slashes between: 32, 32 and 64 hex digits, the last the SHA-256 of the bytes, so that a
    name never stands for two things. Verbs are batched, bounded in time, and safe to call from several threads.
    """

    def put(self, blobs: Mapping[str, bytes]) -> None:
        """Keep these by name; durable when it returns. What is there may be written again."""
        ...

    def get(self, names: Sequence[str]) -> list[bytes | str]:
        """In order; of one that can't be had, why: words that follow its name. Its bytes are checked by who asks."""
        ...

    def names(self, prefixes: Sequence[str]) -> list[Blob]:
        """All whose names begin with one of these: the first part, or the first two, and a slash."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """These are gone; one that is not there is gone too."""
        ...

    def close(self) -> None: ...


class Message(NamedTuple):
    """One CloudEvent (structured mode, JSON) for a queue. `id` and `type` repeat two of its attributes."""

    to: str
    id: str
    type: str
    body: bytes


class Published(Enum):
    """CONFIRMED: it is safe in its queue. RETURNED: there is no such queue. UNKNOWN: it may be there or not."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    UNKNOWN = "unknown"


class Delivery(NamedTuple):
    """One message received: a CloudEvent in structured mode (a binary one has been rewritten). `tag` is opaque."""

    queue: str
    body: bytes
    tag: object
    redelivered: bool = False


class Trouble(NamedTuple):
    """Deliveries not acknowledged come again. `queue`: the one that was missing and was made again; '' for all."""

    queue: str = ""


class Depth(NamedTuple):
    """How many messages wait in a queue, and how many consumers receive from it."""

    messages: int
    consumers: int


class Transport(Protocol):
    """Where CloudEvents travel between workers. Raises `durable.TransportError` when it can't be used.

    `dead_letters`: the queue of what was parked, or came back too often.
    """

    dead_letters: str

    def declare(self, queues: Sequence[str]) -> list[bool]:
        """Make these durable queues where they are missing; whether each was missing."""
        ...

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        """Send, wait for the broker's word on each (at most some seconds), one answer each."""
        ...

    def announce(self, messages: Sequence[Message]) -> None:
        """Send to the topic of lifecycle events, `to` being the routing key, and to reply queues (`to` as
        `replies` gave it): without waiting, and without caring whether anybody listens."""
        ...

    def subscribe(self, queue: str, prefetch: int, sink: Callable[[Sequence[Delivery]], None]) -> None:
        """Receive from a queue, at most `prefetch` unacknowledged, which is 1 or more; where that is more than a broker
        can count, as many as it can. `sink` runs on a thread of the transport's."""
        ...

    def unsubscribe(self, queue: str, give_back: bool = False) -> None:
        """Receive no more from it. What was delivered may still be acknowledged; with `give_back` it comes again, with
        whatever a broker keeps for a subscription that it has ended without a word."""
        ...

    def ack(self, tags: Sequence[object]) -> None:
        """Done with these. Tags of an older connection are ignored: those deliveries come again."""
        ...

    def requeue(self, tags: Sequence[object]) -> None:
        """Somebody else shall have these."""
        ...

    def park(self, tags: Sequence[object]) -> None:
        """These can't be understood: to the dead-letter queue with them."""
        ...

    def watch(self, call: Callable[[Trouble], None]) -> Callable[[], None]:
        """Be told when deliveries or queues were lost, until the returned function is called. `call` must be quick."""
        ...

    def replies(self, wake: Callable[[Collection[str]], None]) -> str:
        """Receive lifecycle events addressed to this process (`wake` gets their subjects); returns the address."""
        ...

    def depth(self, queue: str) -> Depth | None:
        """What is in it and who receives from it; None when there is no such queue."""
        ...

    def close(self) -> None: ...


class EventSource(Protocol):
    """Where events for triggers come from and go to, outside: a queue or a stream, perhaps somebody else's.

    Raises `durable.TransportError` when it can't be used. It reconnects by itself. Laws: what is not acknowledged comes
    again, after the connection or its receiver is gone; what is acknowledged does not; and events of one source come in
    its order, but for those that come again.
    """

    def receive(self, prefetch: int, sink: Callable[[Sequence[bytes], object], None]) -> None:
        """Begin to receive, at most about `prefetch` events unacknowledged.

        `sink` gets CloudEvents in structured mode that came together (a binary one has been rewritten), and one tag for
        all of them; it runs on a thread of the source's, and is quick.
        """
        ...

    def ack(self, tags: Sequence[object]) -> None:
        """Done with what came under these tags. Those of an older connection are ignored: their events come again."""
        ...

    def publish(self, bodies: Sequence[bytes]) -> list[Published]:
        """Send these events, in order, wait for the word on each (at most some seconds), one answer each."""
        ...

    def close(self) -> None:
        """Receive no more; what was not acknowledged comes again. Idempotent."""
        ...
