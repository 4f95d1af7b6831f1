"""What the loop asks of its driver, and what the driver tells the loop. The loop itself does no I/O.

The driver answers each request with the value named in its docstring, or throws `durable.StoreError` into the loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ..engine.instance import Invocation
from ..model.history import Event
from ..model.status import Summary
from ..ports import Commit, Delivery, Fact, Lease, Message, Outcome, Record, RowKey, Topic, Want
from ..triggers.changes import Source

# ---- asked by the loop


class Load(NamedTuple):
    """-> list[Record | None]"""

    wants: Sequence[Want]


class Begin(NamedTuple):
    """Start to commit these; nothing else is begun until `Finish`. -> None"""

    commits: Sequence[Commit]


class Finish(NamedTuple):
    """What became of the commits begun. -> list[Outcome]"""


class Deliver(NamedTuple):
    """-> list[Delivered]"""

    facts: Sequence[Fact]


class Claim(NamedTuple):
    """-> list[bool]"""

    leases: Sequence[Lease]


class Read(NamedTuple):
    """-> list[Row | None]"""

    keys: Sequence[RowKey]


class Stands(NamedTuple):
    """How these instances stand. -> list[Summary | None]"""

    instance_ids: Sequence[str]


class Due(NamedTuple):
    """-> Slice[Row]"""

    partition: int
    group: str
    until: float
    limit: int
    after: str = ""


class Clear(NamedTuple):
    """Give back room that forgotten executions of this partition took, about `limit` pieces. -> int: how many."""

    partition: int
    limit: int


class Run(NamedTuple):
    """Start these activities, or queue them until a thread is free. -> None; each ends as a `Done`."""

    invocations: Sequence[Invocation]


class Cancel(NamedTuple):
    """Nobody waits for these any more (row keys): forget queued ones, tell running ones. -> None"""

    row_keys: Collection[str]


class Halt(NamedTuple):
    """Forget what has not begun. -> list[str]: the row keys of that."""


class Notify(NamedTuple):
    """-> None"""

    topic: Topic
    instance_ids: Collection[str]


class Changed(NamedTuple):
    """Commits that tell: whoever waits for these instances should look. -> None"""

    instance_ids: Collection[str]


class Ended(NamedTuple):
    """These have ended, and are committed: whoever waits in this process need not read them. -> None"""

    summaries: Sequence[Summary]


class Created(NamedTuple):
    """What became of instances that were still to be created. None: nothing was or will be done for it. -> None"""

    outcomes: Sequence[tuple[str, Outcome | None]]


class Publish(NamedTuple):
    """-> list[Published]"""

    messages: Sequence[Message]


class Announce(NamedTuple):
    """-> None"""

    messages: Sequence[Message]


class Settle(NamedTuple):
    """Acknowledge, give back or park these deliveries. -> None"""

    done: Sequence[object] = ()
    back: Sequence[object] = ()
    unreadable: Sequence[object] = ()


class Declare(NamedTuple):
    """Make these queues where they are missing. -> list[bool]: whether each was."""

    queues: Sequence[str]


class Receive(NamedTuple):
    """From now on receive from these queues, so many unsettled deliveries of each; 0: no more. Missing ones are made.

    anew: what was delivered from them, and is not settled, comes again.
    -> list[bool] | None: whether each had to be made; None when it can't be done now.
    """

    prefetch: Mapping[str, int]
    anew: bool = False


class Sources(NamedTuple):
    """From now on use these event sources, by name, and no others. -> None"""

    wanted: Mapping[str, Source]


class Taken(NamedTuple):
    """These events of event sources are committed. -> None"""

    tags: Sequence[SourceTag]


class Emit(NamedTuple):
    """Publish these events at an event source. -> list[Published]"""

    source: str
    bodies: Sequence[bytes]


class Wait(NamedTuple):
    """Sleep until something arrives, at most `seconds`. -> list[News]: everything that has arrived."""

    seconds: float


Request = (
    Load | Begin | Finish | Deliver | Read | Stands | Claim | Due | Clear | Run | Cancel | Halt | Notify | Changed
    | Ended | Created | Publish | Announce | Settle | Declare | Receive | Sources | Taken | Emit | Wait
)  # fmt: skip


# ---- told to the loop


class Hint(NamedTuple):
    """These inboxes, or unknown ones, have something new."""

    instance_ids: Collection[str] | None


class Started(NamedTuple):
    """Instances that a client in this process has just created, as they were committed; or, at version 0, that it wants
    created together with their first turn (see `Created`)."""

    records: Sequence[Record]


class Done(msgspec.Struct, frozen=True, gc=False):
    """An activity's outcome (TaskCompleted or TaskFailed). seconds: how long it had a slot."""

    invocation: Invocation
    event: Event
    seconds: float = 0.0


class Stuck(NamedTuple):
    """So many more threads are with activities that nobody waits for any more; negative: so many are free again."""

    more: int


class Assigned(NamedTuple):
    """What this loop serves from now on, as (group, partition), and the holders that are alive, itself included.

    patience: seconds that a holder nobody has heard of is taken for one that has just come.
    """

    owned: Collection[tuple[str, int]]
    alive: Collection[str]
    patience: float = 0.0


class Arrived(NamedTuple):
    """What the transport brought."""

    deliveries: Sequence[Delivery]


class SourceTag(NamedTuple):
    """What events came under: the name of their source, one life of it, and its own tag."""

    source: str
    life: object
    tag: object


class Occurred(NamedTuple):
    """Events that an event source brought."""

    bodies: Sequence[bytes]
    tag: SourceTag


class Lost(NamedTuple):
    """Queues lost messages (theirs, or unknown ones), or with `connection` only this loop its deliveries."""

    connection: bool = False


class CodeChanged(NamedTuple):
    """A function was registered: what was parked may go on."""


class Stop(NamedTuple):
    """Drain: take no new work, give running activities `grace` seconds, hand back the rest."""

    grace: float


News = Hint | Started | Done | Stuck | Assigned | Arrived | Occurred | Lost | CodeChanged | Stop
