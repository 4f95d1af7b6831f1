"""The orchestrator behind `actions.call_activity`: a trigger's activity, with all that activities have."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from ..engine.triggering import CALL
from ..model.retry import RetryPolicy
from ..payload.signature import Signature
from ..replay.callee import activity_ref
from ..replay.context import OrchestrationContext
from ..replay.live_code import Code
from ..replay.tasks import Task


def _call(ctx: OrchestrationContext, order: dict[str, Any]) -> Generator[Task[Any], Any, Any]:
    retry = None if order["retry"] is None else RetryPolicy(**order["retry"])
    ref = activity_ref(
        order["name"],
        queue=order["queue"] or None,
        retry=retry,
        timeout=order.get("timeout"),
        heartbeat_timeout=order.get("heartbeat_timeout"),
    )
    return (yield ctx.call_activity(ref, order["input"]))


CALLING: Final = Code(CALL, _call, Signature.of(_call, leading=1), "")
