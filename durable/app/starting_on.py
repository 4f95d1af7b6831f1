"""`@durable.orchestrator(on=...)`: the triggers that start orchestrations, as a registry declares them."""

from __future__ import annotations

from collections.abc import Callable

from ..triggers.actions import Definition, StartOrchestration
from .registry import Registry
from .triggering import Triggerer


def declare(client: Triggerer, registry: Registry) -> Callable[[], None]:
    """See to it that they are there, now and whenever a function is registered; returns how to stop that.

    Whoever registers one while the store is away is told so. Raises StoreError.
    """
    known: list[Definition] = []

    def see_to_it() -> None:
        wanted = _triggers(registry)
        # What it has declared once, a worker does not take back from one of newer code that came after it.
        client.declare_triggers(one for one in wanted if one not in known)
        known[:] = wanted

    stop = registry.on_change(see_to_it)
    try:
        see_to_it()
    except BaseException:
        stop()
        raise
    return stop


def _triggers(registry: Registry) -> list[Definition]:
    return [
        Definition(
            f"on:{orchestrator.name}",
            orchestrator.on,
            action=StartOrchestration(
                orchestrator.name,
                orchestrator.version,
                orchestrator.group,
                tags=orchestrator.tags or None,
                once=True,
            ),
            transient=False,
        )
        for orchestrator in registry.started_by_events()
    ]
