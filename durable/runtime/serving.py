"""What a worker takes part in, and by which road its activities travel."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..model.status import DEFAULT_GROUP, DEFAULT_QUEUE


class Patience(NamedTuple):
    """Seconds. long: an activity that is here longer, waiting for a slot or running, is leased, and its delivery
    acknowledged. fresh: an invocation older than that may have been taken by somebody else. unserved: until an
    invocation that nobody here has code for is offered again. sent: how long an outcome is waited for before its
    invocation is sent again; then twice as long, at most `sent_at_most`. retry: after trouble with the broker.
    takeover: for the outcomes that wait in the queues of partitions just taken over. doubt: from the death of a worker
    until subscriptions are renewed. quick: activities that all take less may queue here for a slot, since waiting costs
    less than a way through the broker, and larger batches cost everybody less.
    """

    long: float = 30.0
    fresh: float = 30.0
    unserved: float = 10.0
    sent: float = 300.0
    sent_at_most: float = 3_600.0
    retry: float = 0.5
    takeover: float = 0.5
    doubt: float = 5.0
    quick: float = 0.005


class Serving(NamedTuple):
    """groups: whose orchestrations; queues: whose activities; slots: how many activities at a time. carried: bytes of
    an input or a result that travel in a message; what is larger is left in the store, and read there.

    by_mail: invocations and outcomes travel as CloudEvents on a transport. Without one a worker runs the activities of
    its own turns, as it does with `eager` wherever it serves their queue and has a free slot. announces: what begins
    and ends is told to the topic of lifecycle events. reply_to: the address of the client in this process, which hears
    of ends without the broker.
    """

    workspace: str = "default"
    groups: tuple[str, ...] = (DEFAULT_GROUP,)
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    slots: int = 32
    by_mail: bool = False
    eager: bool = True
    announces: bool = False
    carried: int = 1 << 20
    reply_to: str = ""
    patience: Patience = Patience()


ALONE: Final = Serving()
