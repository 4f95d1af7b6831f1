"""What the loop asks of its driver, and what the driver tells the loop. The loop itself does no I/O.

The driver answers each request with the value named in its docstring, or throws `durable.StoreError` into the loop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..engine.instance import Invocation
from ..model.history import Event
from ..ports import Commit, Fact, Lease, Topic, Want

# ---- asked by the loop


class Load(NamedTuple):
    """-> list[Record | None]"""

    wants: Sequence[Want]


class Write(NamedTuple):
    """-> list[Outcome]"""

    commits: Sequence[Commit]


class Deliver(NamedTuple):
    """-> list[Delivered]"""

    facts: Sequence[Fact]


class Claim(NamedTuple):
    """-> list[bool]"""

    leases: Sequence[Lease]


class Due(NamedTuple):
    """-> Slice[Row]"""

    partition: int
    until: float
    limit: int
    after: str = ""


class Run(NamedTuple):
    """Start these activities, or queue them until a thread is free. -> None; each ends as a `Done`."""

    invocations: Sequence[Invocation]


class Cancel(NamedTuple):
    """Nobody waits for these any more (row keys): forget queued ones, tell running ones. -> None"""

    row_keys: Collection[str]


class Halt(NamedTuple):
    """Start nothing more. -> list[str]: the row keys that were queued and will not run."""


class Notify(NamedTuple):
    """-> None"""

    topic: Topic
    instance_ids: Collection[str]


class Wait(NamedTuple):
    """Sleep until something arrives, at most `seconds`. -> list[News]: everything that has arrived."""

    seconds: float


Request = Load | Write | Deliver | Claim | Due | Run | Cancel | Halt | Notify | Wait


# ---- told to the loop


class Hint(NamedTuple):
    """These inboxes, or unknown ones, have something new."""

    instance_ids: Collection[str] | None


class Done(NamedTuple):
    """An activity's outcome (TaskCompleted or TaskFailed)."""

    invocation: Invocation
    event: Event


class Assigned(NamedTuple):
    """The partitions this loop serves from now on, and the holders that are alive, itself included."""

    partitions: Collection[int]
    alive: Collection[str]


class CodeChanged(NamedTuple):
    """A function was registered: what was parked may go on."""


class Stop(NamedTuple):
    """Drain: take no new work, give running activities `grace` seconds, hand back the rest."""

    grace: float


News = Hint | Done | Assigned | CodeChanged | Stop
