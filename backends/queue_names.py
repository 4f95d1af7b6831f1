"""What one workspace has on a broker beside its queues, and how it is called there; the same on every transport.

Work and partition queues are named by whoever declares them: their names are the broker's own, so that programs in
other languages can publish to them. Whoever names them puts the workspace into the name.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote


class Names(NamedTuple):
    """lifecycle: the topic that `announce` publishes to. dead_letters: where `park` puts what can't be understood.

    reply_prefix: an address that begins with it is the reply queue of one process.
    """

    lifecycle: str
    dead_letters: str
    reply_prefix: str


def names(workspace: str) -> Names:
    """The names of a workspace. Its own name is percent-encoded, dots too: they separate the parts."""
    part = quote(workspace, safe="").replace(".", "%2E")
    return Names(f"durable.{part}.lifecycle", f"durable.{part}.dead-letters", f"durable.{part}.reply.")
