"""What the tests of Redis share: ways to reach it beside the store, and a listener that remembers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from durable.model.names import partition_of
from durable.ports import Backend, Commit
from tests.servers.process import HOST

Opener = Callable[..., Backend]


def raw(port: int, *commands: tuple[Any, ...]) -> Any:
    """Say something to Redis that the store would not; the last answer."""
    import redis

    with redis.Redis(host=HOST, port=port, single_connection_client=True) as client:
        answer: Any = None
        for command in commands:
            answer = client.execute_command(*command)
        return answer


def spread(commit: Commit, partitions: int = 16) -> Commit:
    """The same commit, in the partition of its instance."""
    partition = partition_of(commit.instance_id, partitions)
    rows = tuple(msgspec.structs.replace(row, partition=partition) for row in commit.put)
    return msgspec.structs.replace(commit, partition=partition, put=rows)


class Heard:
    """A listener that remembers; `None` for `look for yourself`."""

    def __init__(self) -> None:
        self.ids: list[str | None] = []
        self._changed = threading.Condition()

    def __call__(self, ids: Collection[str] | None) -> None:
        with self._changed:
            self.ids += [None] if ids is None else ids
            self._changed.notify_all()

    def wait_for(self, wanted: str | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: wanted in self.ids, 20)
