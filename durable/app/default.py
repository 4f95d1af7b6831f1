"""The default client: what `durable.start_orchestration` and `durable.Worker()` use when they are given none."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ..replay.guard import refuse_inside
from .client import Client, connect
from .handle import OrchestrationHandle
from .starting import INSIDE, IfExists, starts_orchestration

_default: Client | None = None
_default_lock = threading.Lock()


def default_client() -> Client:
    """The client behind `durable.start_orchestration` and `durable.Worker()`: made at first use from DURABLE_URL."""
    global _default
    with _default_lock:
        if _default is None or _default.closed:
            _default = connect()
        return _default


def swap_default_client(client: Client | None) -> Client | None:
    """Make another client the default one (None: the next use makes one); returns the one before."""
    global _default
    with _default_lock:
        before, _default = _default, client
        return before


@starts_orchestration
def start_orchestration(
    orchestrator: Any,
    /,
    *args: Any,
    instance_id: str | None = None,
    start_at: datetime | timedelta | float | None = None,
    if_exists: IfExists = "raise",
    version: str | None = None,
    tags: Mapping[str, str] | None = None,
    **named: Any,
) -> OrchestrationHandle[Any]:
    """`Client.start_orchestration` on the default client (DURABLE_URL and DURABLE_EVENTS_URL, else `sqlite:///.durable/durable.db`)."""
    refuse_inside("start_orchestration", INSIDE)  # before a client is made, which takes a store
    return default_client().start_orchestration(
        orchestrator,
        *args,
        instance_id=instance_id,
        start_at=start_at,
        if_exists=if_exists,
        version=version,
        tags=tags,
        **named,
    )
