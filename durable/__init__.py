"""Durable orchestrations: ordinary Python functions that survive crashes, restarts and deployments.

Decorate functions with `activity` and `orchestrator`, run a `Worker`, call `start_orchestration`.
The names below load when they are first used, so that importing this package stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_HOMES = {
    "app.async_client": ("AsyncClient", "connect_async"),
    "app.async_handle": ("AsyncOrchestrationHandle",),
    "app.client": ("Client", "connect"),
    "app.default": ("start_orchestration",),
    "app.handle": ("OrchestrationHandle",),
    "app.registry": ("Registry", "action", "activity", "condition", "default_registry", "orchestrator"),
    "app.worker": ("Worker",),
    "model.errors": (
        "DuplicateNameError",
        "DurableError",
        "InstanceExistsError",
        "InstanceFinishedError",
        "InstanceNotFinishedError",
        "InstanceNotFoundError",
        "InvalidStateError",
        "LimitError",
        "NonRetryableError",
        "OrchestrationBlockedError",
        "OrchestrationCancelledError",
        "OrchestrationFailedError",
        "OrchestrationTerminatedError",
        "PayloadError",
        "StoreError",
        "TransportError",
        "TriggerExistsError",
        "TriggerNotFoundError",
        "TaskCancelledError",
        "TaskFailedError",
        "TimeoutError",
    ),
    "model.failure": ("FailureDetails",),
    "model.history": ("HistoryEvent",),
    "model.limits": ("Limits",),
    "model.retry": ("RetryPolicy",),
    "model.status": ("OrchestrationStatus", "Page", "RuntimeStatus"),
    "payload.codec": ("Codec",),
    "payload.custom_types": ("register_type",),
    "replay.callee": ("activity_ref", "orchestrator_ref"),
    "replay.context": ("OrchestrationContext",),
    "replay.tasks": ("Task",),
    "runtime.activity_context": ("ActivityContext",),
    "app.trigger_context": ("TriggerContext",),
    "app.triggering": ("AddedTriggers", "DeadLetter"),
    "triggers.changes": ("Trigger",),
    "triggers.pattern": ("EventPattern",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

    from .app import actions, conditions
    from .app.async_client import AsyncClient, connect_async
    from .app.async_handle import AsyncOrchestrationHandle
    from .app.client import Client, connect
    from .app.default import start_orchestration
    from .app.handle import OrchestrationHandle
    from .app.registry import Registry, action, activity, condition, default_registry, orchestrator
    from .app.trigger_context import TriggerContext
    from .app.triggering import AddedTriggers, DeadLetter
    from .app.worker import Worker
    from .model.errors import (
        DuplicateNameError,
        DurableError,
        InstanceExistsError,
        InstanceFinishedError,
        InstanceNotFinishedError,
        InstanceNotFoundError,
        InvalidStateError,
        LimitError,
        NonRetryableError,
        OrchestrationBlockedError,
        OrchestrationCancelledError,
        OrchestrationFailedError,
        OrchestrationTerminatedError,
        PayloadError,
        StoreError,
        TaskCancelledError,
        TaskFailedError,
        TimeoutError,
        TransportError,
        TriggerExistsError,
        TriggerNotFoundError,
    )
    from .model.failure import FailureDetails
    from .model.history import HistoryEvent
    from .model.limits import Limits
    from .model.retry import RetryPolicy
    from .model.status import OrchestrationStatus, Page, RuntimeStatus
    from .payload.codec import Codec
    from .payload.custom_types import register_type
    from .replay.callee import activity_ref, orchestrator_ref
    from .replay.context import OrchestrationContext
    from .replay.tasks import Task
    from .runtime.activity_context import ActivityContext
    from .triggers.changes import Trigger
    from .triggers.pattern import EventPattern

# Spelled out, for type checkers and editors read it too; tests/product/test_exports.py compares.
__all__ = [
    "ActivityContext",
    "AddedTriggers",
    "AsyncClient",
    "AsyncOrchestrationHandle",
    "Client",
    "CloudEvent",
    "Codec",
    "DeadLetter",
    "DuplicateNameError",
    "DurableError",
    "EventPattern",
    "FailureDetails",
    "HistoryEvent",
    "InstanceExistsError",
    "InstanceFinishedError",
    "InstanceNotFinishedError",
    "InstanceNotFoundError",
    "InvalidStateError",
    "LimitError",
    "Limits",
    "NonRetryableError",
    "OrchestrationBlockedError",
    "OrchestrationCancelledError",
    "OrchestrationContext",
    "OrchestrationFailedError",
    "OrchestrationHandle",
    "OrchestrationStatus",
    "OrchestrationTerminatedError",
    "Page",
    "PayloadError",
    "Registry",
    "RetryPolicy",
    "RuntimeStatus",
    "StoreError",
    "Task",
    "TaskCancelledError",
    "TaskFailedError",
    "TimeoutError",
    "TransportError",
    "Trigger",
    "TriggerContext",
    "TriggerExistsError",
    "TriggerNotFoundError",
    "Worker",
    "action",
    "actions",
    "activity",
    "activity_ref",
    "condition",
    "conditions",
    "connect",
    "connect_async",
    "default_registry",
    "orchestrator",
    "orchestrator_ref",
    "register_type",
    "start_orchestration",
]

if TYPE_CHECKING:
    __version__: str

if not TYPE_CHECKING:  # type checkers that saw it would take any name, misspelt ones too

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "CloudEvent":  # the SDK's class
            value = import_module("cloudevents.core.v1.event").CloudEvent
        elif name == "__version__":
            value = _version()
        elif name in ("actions", "conditions"):  # whole modules: durable.conditions.join(3)
            value = import_module(f".app.{name}", __name__)
        elif name == "testing":  # `import durable` alone is enough for `durable.testing.Environment()`
            return import_module(".testing", __name__)
        elif name in _HOME_OF:
            value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
        else:
            raise AttributeError(f"module 'durable' has no attribute {name!r}")
        globals()[name] = value
        return value


def _version() -> str:
    """That of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("durable-orchestrations")
    except PackageNotFoundError:  # a bare checkout on the path
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
