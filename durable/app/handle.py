"""A handle on one orchestration: its id, and what can be asked of it."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar

from ..model.errors import (
    InstanceNotFoundError,
    OrchestrationBlockedError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
)
from ..model.failure import FailureDetails, origin
from ..model.history import Raw
from ..model.status import OrchestrationStatus, RuntimeStatus, Summary
from ..payload.values import decode

R = TypeVar("R", covariant=True)


class Steering(Protocol):
    """What a handle needs of its client."""

    def wait_summary(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool
    ) -> Summary: ...

    def get_status(
        self, instance_id: str, *, history: bool = False, payloads: bool = True
    ) -> OrchestrationStatus | None: ...

    def raise_event(self, instance_id: str, name: str, data: Any = None, *, event_id: str | None = None) -> None: ...

    def terminate(self, instance_id: str, reason: Any = None, *, recursive: bool = True) -> None: ...

    def rewind(self, instance_id: str, reason: Any = None) -> None: ...

    def restart(self, instance_id: str, *, new_instance_id: str | None = None) -> OrchestrationHandle[Any]: ...

    def fork(self, instance_id: str, *, after: int, new_instance_id: str | None = None) -> OrchestrationHandle[Any]: ...

    def purge(self, instance_id: str, *, recursive: bool = True) -> int: ...


class OrchestrationHandle(Generic[R]):
    """One orchestration. It follows continue-as-new: the id stays, executions change."""

    def __init__(self, client: Steering, instance_id: str, returns: Any = Any) -> None:
        self._client = client
        self.instance_id = instance_id
        self._returns = returns

    def result(self, timeout: timedelta | float | None = None, *, on_blocked: Literal["wait", "raise"] = "wait") -> R:
        """Wait for the end and return the output, decoded by the orchestrator's return type where it is known.

        timeout: timedelta or seconds, None waits for ever. on_blocked: "raise" gives up when the code does not fit
        the history. Raises OrchestrationFailedError, OrchestrationTerminatedError, durable.TimeoutError,
        OrchestrationBlockedError, InstanceNotFoundError.
        """
        if on_blocked not in ("wait", "raise"):
            raise ValueError(f"on_blocked={on_blocked!r}: give 'wait' or 'raise'")
        summary = self._client.wait_summary(self.instance_id, timeout, "finished", on_blocked == "raise")
        output: R = output_of(summary, self._returns)
        return output

    def status(self, *, history: bool = False) -> OrchestrationStatus:
        """How it stands now. Raises InstanceNotFoundError."""
        found = self._client.get_status(self.instance_id, history=history)
        if found is None:
            raise InstanceNotFoundError(f"status: no orchestration has the id {self.instance_id!r}")
        return found

    def raise_event(self, name: str, data: Any = None, *, event_id: str | None = None) -> None:
        """See `Client.raise_event`."""
        self._client.raise_event(self.instance_id, name, data, event_id=event_id)

    def terminate(self, reason: Any = None, *, recursive: bool = True) -> None:
        """See `Client.terminate`."""
        self._client.terminate(self.instance_id, reason, recursive=recursive)

    def rewind(self, reason: Any = None) -> None:
        """See `Client.rewind`."""
        self._client.rewind(self.instance_id, reason)

    def restart(self, *, new_instance_id: str | None = None) -> OrchestrationHandle[R]:
        """See `Client.restart`."""
        started = self._client.restart(self.instance_id, new_instance_id=new_instance_id)
        return OrchestrationHandle(self._client, started.instance_id, self._returns)

    def fork(self, *, after: int, new_instance_id: str | None = None) -> OrchestrationHandle[R]:
        """See `Client.fork`."""
        started = self._client.fork(self.instance_id, after=after, new_instance_id=new_instance_id)
        return OrchestrationHandle(self._client, started.instance_id, self._returns)

    def purge(self, *, recursive: bool = True) -> int:
        """See `Client.purge`."""
        return self._client.purge(self.instance_id, recursive=recursive)

    def __repr__(self) -> str:
        return f"<OrchestrationHandle {self.instance_id!r}>"


def output_of(summary: Summary, returns: Any) -> Any:
    """The output of an ended orchestration, or the error that says why there is none."""
    name = f"orchestration {summary.instance_id!r} ({summary.name})"
    if summary.status is RuntimeStatus.FAILED:
        failure = summary.failure or FailureDetails("unknown")
        place = origin(failure)
        at = "" if place is None else f" ({place.file}:{place.line} in {place.function})"
        details = f"details: durable show {shlex.quote(summary.instance_id)}"
        raise OrchestrationFailedError(f"{name} failed: {failure.summary}{at}; {details}", failure)
    if summary.status is RuntimeStatus.TERMINATED:
        reason = plain(summary.output)
        because = "" if reason is None else f": {reason}"
        raise OrchestrationTerminatedError(f"{name} was terminated{because}", reason)
    if summary.status is RuntimeStatus.BLOCKED:
        raise OrchestrationBlockedError(f"{name} is blocked: {summary.blocked_reason}", summary.blocked_reason)
    return decode(summary.output, returns, f"the output of {name}") if summary.output else None


def plain(raw: Raw) -> Any:
    """A stored payload as plain JSON values; None where there is none."""
    return decode(raw, Any, "a stored payload") if raw else None
