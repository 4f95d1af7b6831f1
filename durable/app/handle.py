"""A handle on one orchestration: its id, and what can be asked of it."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from ..model.errors import (
    OrchestrationBlockedError,
    OrchestrationCancelledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
    PayloadError,
    not_found,
)
from ..model.failure import FailureDetails, origin
from ..model.history import Raw
from ..model.status import OrchestrationStatus, RuntimeStatus, Summary
from ..payload.codec import instead, is_sealed, shown, why_sealed
from ..payload.values import decode

R = TypeVar("R", covariant=True)


class Steering(Protocol):
    """What a handle needs of its client."""

    def wait_summary(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool, own: bool = False
    ) -> Summary: ...

    def wait(
        self,
        instance_id: str,
        timeout: timedelta | float | None = None,
        *,
        until: Literal["finished", "started"] = "finished",
    ) -> OrchestrationStatus: ...

    def get_status(
        self, instance_id: str, *, history: bool = False, payloads: bool = True
    ) -> OrchestrationStatus | None: ...

    def raise_event(self, instance_id: str, name: str, data: Any = None, *, event_id: str | None = None) -> None: ...

    def terminate(self, instance_id: str, reason: Any = None, *, recursive: bool = True) -> None: ...

    def suspend(self, instance_id: str, reason: Any = None) -> None: ...

    def resume(self, instance_id: str, reason: Any = None) -> None: ...

    def cancel(self, instance_id: str, reason: Any = None) -> None: ...

    def rewind(self, instance_id: str, reason: Any = None) -> None: ...

    def restart(self, instance_id: str, *, new_instance_id: str | None = None) -> OrchestrationHandle[Any]: ...

    def fork(self, instance_id: str, *, after: int, new_instance_id: str | None = None) -> OrchestrationHandle[Any]: ...

    def purge(self, instance_id: str, *, recursive: bool = True) -> int: ...


class OrchestrationHandle(Generic[R]):
    """One orchestration. It follows continue-as-new: the id stays, executions change."""

    def __init__(self, client: Steering, instance_id: str, returns: Any = Any, *, own: bool = False) -> None:
        self._client = client
        self.instance_id = instance_id
        self.returns = returns
        self._own = own  # a start gave it: what its client has heard of the end need not be read again

    def result(self, timeout: timedelta | float | None = None, *, on_blocked: Literal["wait", "raise"] = "wait") -> R:
        """Wait for the end and return the output, decoded by the orchestrator's return type where it is known.

        timeout: timedelta or seconds, None waits for ever. on_blocked: "raise" gives up when the code does not fit
        the history. Raises OrchestrationFailedError, OrchestrationTerminatedError, OrchestrationCancelledError,
        durable.TimeoutError, OrchestrationBlockedError, InstanceNotFoundError.
        """
        ends = blocked_ends(on_blocked)
        summary = self._client.wait_summary(self.instance_id, timeout, "finished", ends, self._own)
        output: R = output_of(summary, self.returns)
        return output

    def wait(
        self, timeout: timedelta | float | None = None, *, until: Literal["finished", "started"] = "finished"
    ) -> OrchestrationStatus:
        """See `Client.wait`."""
        return self._client.wait(self.instance_id, timeout, until=until)

    def status(self, *, history: bool = False) -> OrchestrationStatus:
        """How it stands now. Raises InstanceNotFoundError."""
        found = self._client.get_status(self.instance_id, history=history)
        if found is None:
            raise not_found("status", self.instance_id)
        return found

    def raise_event(self, name: str, data: Any = None, *, event_id: str | None = None) -> None:
        """See `Client.raise_event`."""
        self._client.raise_event(self.instance_id, name, data, event_id=event_id)

    def terminate(self, reason: Any = None, *, recursive: bool = True) -> None:
        """See `Client.terminate`."""
        self._client.terminate(self.instance_id, reason, recursive=recursive)

    def suspend(self, reason: Any = None) -> None:
        """See `Client.suspend`."""
        self._client.suspend(self.instance_id, reason)

    def resume(self, reason: Any = None) -> None:
        """See `Client.resume`."""
        self._client.resume(self.instance_id, reason)

    def cancel(self, reason: Any = None) -> None:
        """See `Client.cancel`."""
        self._client.cancel(self.instance_id, reason)

    def rewind(self, reason: Any = None) -> None:
        """See `Client.rewind`."""
        self._client.rewind(self.instance_id, reason)

    def restart(self, *, new_instance_id: str | None = None) -> OrchestrationHandle[R]:
        """See `Client.restart`."""
        started = self._client.restart(self.instance_id, new_instance_id=new_instance_id)
        started.returns = self.returns
        return started

    def fork(self, *, after: int, new_instance_id: str | None = None) -> OrchestrationHandle[R]:
        """See `Client.fork`."""
        started = self._client.fork(self.instance_id, after=after, new_instance_id=new_instance_id)
        started.returns = self.returns
        return started

    def purge(self, *, recursive: bool = True) -> int:
        """See `Client.purge`."""
        return self._client.purge(self.instance_id, recursive=recursive)

    def __repr__(self) -> str:
        return f"<OrchestrationHandle {self.instance_id!r}>"


# How it ends when it neither returns nor raises: the error, and the word for it.
_STOPPED: Final[
    dict[RuntimeStatus, tuple[type[OrchestrationTerminatedError] | type[OrchestrationCancelledError], str]]
] = {
    RuntimeStatus.TERMINATED: (OrchestrationTerminatedError, "terminated"),
    RuntimeStatus.CANCELED: (OrchestrationCancelledError, "cancelled"),
}


def blocked_ends(on_blocked: object) -> bool:
    """Whether a wait for the result ends when the orchestration is blocked. Raises ValueError."""
    if on_blocked not in ("wait", "raise"):
        raise ValueError(f"on_blocked={on_blocked!r}: give 'wait' or 'raise'")
    return on_blocked == "raise"


def output_of(summary: Summary, returns: Any) -> Any:
    """The output of an ended orchestration, or the error that says why there is none."""
    name = f"orchestration {summary.instance_id!r} ({summary.name})"
    if summary.status is RuntimeStatus.FAILED:
        failure = summary.failure or FailureDetails("unknown")
        place = origin(failure)
        at = "" if place is None else f" ({place.file}:{place.line} in {place.function})"
        details = f"details: durable show {shlex.quote(summary.instance_id)}"
        raise OrchestrationFailedError(f"{name} failed: {failure.summary}{at}; {details}", failure)
    if summary.status in _STOPPED:
        error, how = _STOPPED[summary.status]
        reason = plain(summary.output)
        because = "" if reason is None else f": {reason}"
        raise error(f"{name} was {how}{because}", reason)
    if summary.status is RuntimeStatus.BLOCKED:
        why = shown(summary.blocked_reason)
        raise OrchestrationBlockedError(f"{name} is blocked: {why}", why)
    if is_sealed(summary.output):
        raise PayloadError(f"the output of {name} {why_sealed(summary.output)}")
    return decode(summary.output, returns, f"the output of {name}") if summary.output else None


def plain(raw: Raw) -> Any:
    """A stored payload as plain JSON values; None where there is none, words where it is encoded, or elsewhere."""
    if is_sealed(raw):
        return instead(raw)
    return decode(raw, Any, "a stored payload") if raw else None
