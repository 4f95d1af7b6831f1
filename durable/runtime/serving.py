"""What a worker takes part in, and by which road its activities travel."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..model.status import DEFAULT_GROUP, DEFAULT_QUEUE


class Serving(NamedTuple):
    """groups: whose orchestrations; queues: whose activities; slots: how many activities at a time.

    by_mail: invocations and outcomes travel as CloudEvents on a transport. Without one a worker runs the activities of
    its own turns, as it does with `eager` wherever it serves their queue and has a free slot.
    """

    workspace: str = "default"
    groups: tuple[str, ...] = (DEFAULT_GROUP,)
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    slots: int = 32
    by_mail: bool = False
    eager: bool = True


ALONE: Final = Serving()
