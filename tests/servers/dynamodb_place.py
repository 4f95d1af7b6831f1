"""A workspace of a test's own in the session's table."""

from __future__ import annotations

from collections.abc import Callable

from durable.ports import Backend

Opener = Callable[..., Backend]
