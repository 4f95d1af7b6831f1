"""The errors of this package, in one tree. The class says whose fault it is; the message says what to do.

    DurableError
    ├── InstanceNotFoundError          no orchestration has this id
    ├── InstanceExistsError            the id is taken (.existing, .started)
    ├── InstanceFinishedError          it has ended, so it takes no more events
    ├── InstanceNotFinishedError       it has not ended, so it can't be purged, restarted or replaced
    ├── InvalidStateError              it has not failed, so there is nothing to rewind
    ├── OrchestrationFailedError       the orchestration ended FAILED (.failure)
    ├── OrchestrationTerminatedError   somebody terminated it (.reason)
    ├── OrchestrationCancelledError    somebody cancelled it (.reason)
    ├── OrchestrationBlockedError      its code does not fit its history (.reason)
    ├── TaskFailedError                an activity or a child failed (.failure)
    ├── TaskCancelledError             the orchestrator itself cancelled the task
    ├── NonRetryableError              raised by activities: "do not try this again"
    ├── TimeoutError                   also the builtin TimeoutError
    ├── PayloadError                   also a ValueError: a value that can't travel as JSON
    ├── LimitError                     a limit of `durable.Limits` was reached
    ├── TriggerExistsError             a trigger of this workspace has this id
    ├── TriggerNotFoundError           also a LookupError: no trigger, dead letter or event source has this id
    ├── DuplicateNameError             another function already has this name
    ├── StoreError                     the store can't be used: unreachable, damaged, newer, read-only
    └── TransportError                 the broker can't be used: unreachable, wrong credentials, no such virtual host

Misuse of a call (a wrong type, an id outside the rules) is a plain `TypeError` or `ValueError`.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .failure import FailureDetails


class DurableError(Exception):
    """Base of every operational error of this package."""


class InstanceNotFoundError(DurableError):
    """No orchestration has this instance id. Check the id and the store's URL; `durable list` shows what is there."""


class InstanceExistsError(DurableError):
    """The instance id is taken.

    existing: ids that were there already. started: ids that this call did start (`start_many` only).
    """

    def __init__(self, message: str, existing: Sequence[str] = (), started: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.existing = list(existing)
        self.started = list(started)


class InstanceFinishedError(DurableError):
    """The orchestration has ended and takes no more events."""


class InstanceNotFinishedError(DurableError):
    """The orchestration has not ended, and only what has ended is purged or restarted. Wait for it, or terminate it."""


class InvalidStateError(DurableError):
    """The orchestration is in a state in which this can't be done; the message says which, and what can."""


class OrchestrationFailedError(DurableError):
    """The orchestration ended FAILED; `.failure` tells why, with the chain of causes."""

    def __init__(self, message: str, failure: FailureDetails) -> None:
        super().__init__(message)
        self.failure = failure


class OrchestrationTerminatedError(DurableError):
    """The orchestration was terminated; `.reason` is what the caller of `terminate` gave (any JSON)."""

    def __init__(self, message: str, reason: Any = None) -> None:
        super().__init__(message)
        self.reason = reason


class OrchestrationCancelledError(DurableError):
    """The orchestration is cancelled; `.reason` is what the caller of `cancel` gave (any JSON).

    Thrown at the current yield of the orchestrator, which may catch it, compensate and return; raised by
    `handle.result()` when it did not.
    """

    def __init__(self, message: str, reason: Any = None) -> None:
        super().__init__(message)
        self.reason = reason


class OrchestrationBlockedError(DurableError):
    """The orchestrator's code does not fit its history, or nobody serves it. It goes on by itself once that changes."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class TaskFailedError(DurableError):
    """An activity or a sub-orchestration failed; `.failure` is what it raised, causes nested.

    task_id: the task of this orchestration that failed.
    """

    task_id: int | None = None

    def __init__(self, message: str, failure: FailureDetails) -> None:
        super().__init__(message)
        self.failure = failure


class TaskCancelledError(DurableError):
    """The task was cancelled by `Task.cancel()` in this orchestrator."""


class NonRetryableError(DurableError):
    """Raise it in an activity when trying again can't help: no retry policy applies."""


class TimeoutError(DurableError, builtins.TimeoutError):
    """The time given to a wait ran out. What was waited for goes on."""


class PayloadError(DurableError, ValueError):
    """A value can't travel as JSON, or JSON does not fit the type that its receiver declares. Names the path.

    task_id: the task of an orchestration whose result or event did not fit; None elsewhere.
    """

    task_id: int | None = None


class LimitError(DurableError):
    """A limit of `durable.Limits` was reached; the message names it and how to raise it."""


class TriggerExistsError(DurableError):
    """There is a trigger with this id in the workspace already. Delete it first, or give another id."""


class TriggerNotFoundError(DurableError, LookupError):
    """No trigger, dead letter or event source of this workspace has this id."""


class DuplicateNameError(DurableError):
    """Another function is registered under this name already; give one of them `name=`."""


class StoreError(DurableError):
    """The store can't be used: unreachable, not one of ours, written by a newer version, read-only, full."""


class TransportError(DurableError):
    """The broker can't be used: unreachable, wrong credentials, no such virtual host. Nothing is lost meanwhile."""


def not_found(operation: str, instance_id: str) -> InstanceNotFoundError:
    """What an operation on an unknown id raises."""
    return InstanceNotFoundError(
        f"{operation}: no orchestration has the id {instance_id!r}; check the id, the workspace and the store's URL "
        "(`durable list` shows what is there)"
    )


for _error in [e for e in globals().values() if isinstance(e, type) and issubclass(e, DurableError)]:
    # Users import these from `durable`; tracebacks and FailureDetails.type show the name they can import.
    _error.__module__ = "durable"
