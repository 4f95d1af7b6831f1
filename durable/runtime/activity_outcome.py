"""What becomes of what an activity returns or raises: the same in threads, event loops and processes."""

from __future__ import annotations

from typing import Any

import msgspec

from ..model.errors import PayloadError
from ..model.failure import FailureDetails, describe, is_really
from ..model.history import Raw
from ..model.limits import Limits
from ..payload.values import encode


def result_of(value: Any, name: str, limits: Limits) -> Raw:
    """The result of activity `name` as it is recorded. Raises TypeError, PayloadError for what can't be one."""
    if hasattr(type(value), "cr_await"):
        value.close()
        raise TypeError(f"activity {name!r} returned a coroutine: make it, and what wraps it, `async def`")
    return encode(value, f"the result of activity {name!r}", limits)


def failure_of(error: BaseException) -> FailureDetails:
    """What it raised. A result that is no JSON, or an input that does not fit, stays so at the next attempt."""
    failure = describe(error)
    if is_really(error, PayloadError):
        return msgspec.structs.replace(failure, hierarchy=(*failure.hierarchy, "durable.NonRetryableError"))
    return failure
