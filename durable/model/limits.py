"""Every limit in one table: name, default, unit. Each can be set: `connect(limits=Limits(...))`."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds that turn a mistake into a clear error instead of a full disk or a stuck worker.

    payload_bytes: one input, result or event, encoded; under a codec, its JSON or what is stored of it, whichever is
    larger. payload_depth: nested arrays and objects in it.
    custom_status_bytes: encoded custom status. commands_per_turn: what one turn may schedule.
    children_depth: how deep sub-orchestrations nest. turn_seconds: how long an orchestrator may run without yielding.
    """

    payload_bytes: int = 32 * 1024 * 1024
    payload_depth: int = 64
    custom_status_bytes: int = 16 * 1024
    commands_per_turn: int = 10_000
    children_depth: int = 32
    turn_seconds: float = 2.0

    def stored_bytes(self, data: bytes) -> int:
        """How much JSON counts as."""
        return len(data)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"Limits({field.name}={value!r}): give a number above 0")
