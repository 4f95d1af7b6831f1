"""What `durable show` needs beside one status: who works, how open children stand, in which child a failure began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ..app.client import Client
from ..app.diagnosis import living
from ..model.status import DEFAULT_GROUP, OrchestrationStatus
from ..ports import Beat
from .tasks import culprit_of, tasks_of

MOST_CHILDREN: Final = 20
_DEEPEST: Final = 32  # children nest no deeper


class Around(NamedTuple):
    """What stands around one orchestration.

    workers: those that seem alive. children: how the open ones stand, by id. failed: of a failed one the child whose
    failure it did not catch, then that one's, and so on down; each with its history.
    """

    workers: Sequence[Beat] = ()
    children: dict[str, OrchestrationStatus] = {}
    failed: Sequence[OrchestrationStatus] = ()


def look_around(client: Client, status: OrchestrationStatus) -> Around:
    """Read it. status: with its history. Raises StoreError."""
    if status.runtime_status.finished:
        return Around(failed=_failed_children(client, status))
    ids = [task.child for task in tasks_of(status.history or []) if task.open and task.child]
    found = [client.get_status(child, payloads=False) for child in ids[:MOST_CHILDREN]]
    children = {child.instance_id: child for child in found if child is not None}
    return Around(living(client.backend.membership.members()), children)


def group_of(status: OrchestrationStatus) -> str:
    """The group whose workers run it; the first event of its history has it."""
    return (status.history[0].group if status.history else None) or DEFAULT_GROUP


def _failed_children(client: Client, status: OrchestrationStatus) -> list[OrchestrationStatus]:
    chain: list[OrchestrationStatus] = []
    above: OrchestrationStatus | None = status
    while above is not None and above.failure is not None and len(chain) < _DEEPEST:
        task = culprit_of(tasks_of(above.history or []), above.failure)
        above = client.get_status(task.child, history=True) if task is not None and task.child else None
        if above is not None and above.failure is not None:
            chain.append(above)
    return chain
