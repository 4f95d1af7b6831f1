"""Durable orchestrations: ordinary Python functions that survive crashes, restarts and deployments.

Decorate functions with `activity` and `orchestrator`, run a `Worker`, call `start_orchestration`.
The names below load when they are first used, so that importing this package stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_HOMES = {
    "app.client": ("Client", "connect", "start_orchestration"),
    "app.handle": ("OrchestrationHandle",),
    "app.registry": ("Registry", "activity", "default_registry", "orchestrator"),
    "app.worker": ("Worker",),
    "model.errors": (
        "DuplicateNameError",
        "DurableError",
        "InstanceExistsError",
        "InstanceFinishedError",
        "InstanceNotFoundError",
        "LimitError",
        "NonRetryableError",
        "OrchestrationBlockedError",
        "OrchestrationFailedError",
        "OrchestrationTerminatedError",
        "PayloadError",
        "StoreError",
        "StoreInUseError",
        "TaskCancelledError",
        "TaskFailedError",
        "TimeoutError",
    ),
    "model.failure": ("FailureDetails",),
    "model.history": ("HistoryEvent",),
    "model.limits": ("Limits",),
    "model.retry": ("RetryPolicy",),
    "model.status": ("OrchestrationStatus", "Page", "RuntimeStatus"),
    "replay.callee": ("activity_ref", "orchestrator_ref"),
    "replay.context": ("OrchestrationContext",),
    "replay.tasks": ("Task",),
    "runtime.activity_context": ("ActivityContext",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent as CloudEvent

    from .app.client import Client as Client
    from .app.client import connect as connect
    from .app.client import start_orchestration as start_orchestration
    from .app.handle import OrchestrationHandle as OrchestrationHandle
    from .app.registry import Registry as Registry
    from .app.registry import activity as activity
    from .app.registry import default_registry as default_registry
    from .app.registry import orchestrator as orchestrator
    from .app.worker import Worker as Worker
    from .model.errors import DuplicateNameError as DuplicateNameError
    from .model.errors import DurableError as DurableError
    from .model.errors import InstanceExistsError as InstanceExistsError
    from .model.errors import InstanceFinishedError as InstanceFinishedError
    from .model.errors import InstanceNotFoundError as InstanceNotFoundError
    from .model.errors import LimitError as LimitError
    from .model.errors import NonRetryableError as NonRetryableError
    from .model.errors import OrchestrationBlockedError as OrchestrationBlockedError
    from .model.errors import OrchestrationFailedError as OrchestrationFailedError
    from .model.errors import OrchestrationTerminatedError as OrchestrationTerminatedError
    from .model.errors import PayloadError as PayloadError
    from .model.errors import StoreError as StoreError
    from .model.errors import StoreInUseError as StoreInUseError
    from .model.errors import TaskCancelledError as TaskCancelledError
    from .model.errors import TaskFailedError as TaskFailedError
    from .model.errors import TimeoutError as TimeoutError
    from .model.failure import FailureDetails as FailureDetails
    from .model.history import HistoryEvent as HistoryEvent
    from .model.limits import Limits as Limits
    from .model.retry import RetryPolicy as RetryPolicy
    from .model.status import OrchestrationStatus as OrchestrationStatus
    from .model.status import Page as Page
    from .model.status import RuntimeStatus as RuntimeStatus
    from .replay.callee import activity_ref as activity_ref
    from .replay.callee import orchestrator_ref as orchestrator_ref
    from .replay.context import OrchestrationContext as OrchestrationContext
    from .replay.tasks import Task as Task
    from .runtime.activity_context import ActivityContext as ActivityContext

__all__ = ["CloudEvent", *sorted(_HOME_OF)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "CloudEvent":  # the SDK's class
        value = import_module("cloudevents.core.v1.event").CloudEvent
    elif name in _HOME_OF:
        value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    else:
        raise AttributeError(f"module 'durable' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
