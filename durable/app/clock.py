"""The wall clock: floors below take the time as an argument."""

from __future__ import annotations

from datetime import datetime, timezone


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(timezone.utc)
