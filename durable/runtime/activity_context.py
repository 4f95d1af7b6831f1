"""What an activity can know and do beside its arguments: the `durable.ActivityContext` that is filled in for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..replay.logs import InstanceLogger


class Attempt:
    """One attempt of one activity, as its context sees it."""

    __slots__ = ("cancelled", "execution_id", "instance_id", "last_beat", "number", "task_id")

    def __init__(self, instance_id: str, execution_id: str, task_id: int, number: int) -> None:
        self.instance_id = instance_id
        self.execution_id = execution_id
        self.task_id = task_id
        self.number = number
        self.cancelled = False
        self.last_beat = 0.0

    def beat(self) -> None:
        self.last_beat = time.monotonic()


class ActivityContext:
    """Filled in for an activity whose first parameter is annotated `durable.ActivityContext`.

    Called directly, as an ordinary function, such an activity gets a local one (`instance_id` is "local").
    """

    def __init__(self, attempt: Attempt, client: Callable[[], Any]) -> None:
        self._attempt = attempt
        self._client = client

    @property
    def instance_id(self) -> str:
        """The orchestration that called it."""
        return self._attempt.instance_id

    @property
    def task_id(self) -> int:
        """The number of the call in its execution, from 1."""
        return self._attempt.task_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._attempt.number

    @property
    def idempotency_key(self) -> str:
        """The same over all attempts of one call, different for every call: hand it to services that deduplicate."""
        return f"{self._attempt.execution_id}/{self._attempt.task_id}"

    def heartbeat(self, details: Any = None) -> None:
        """Say that it is alive. From the first one on, `heartbeat_timeout=` bounds the time between two.

        details: for whoever reads the code; they are kept nowhere.
        """
        self._attempt.beat()

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for the outcome: it timed out, was cancelled, or the grace of a stop is over."""
        return self._attempt.cancelled

    @property
    def client(self) -> Any:
        """A `durable.Client` on the worker's store; the default client when called directly.

        In a process (`executor="process"`) one of the process's own. Raises RuntimeError there where the store can't be
        opened twice: in memory, or under a `codec=` that was given as an object and not by DURABLE_CODEC.
        """
        return self._client()

    @property
    def logger(self) -> InstanceLogger:
        """Logs to `durable.activity`, with instance_id, task_id and attempt on each record."""
        extra = {"instance_id": self.instance_id, "task_id": self.task_id, "attempt": self.attempt}
        return InstanceLogger("durable.activity", extra)


def local_context(client: Callable[[], Any]) -> ActivityContext:
    """The context of an activity that is called as an ordinary function."""
    return ActivityContext(Attempt("local", "local", 1, 1), client)
