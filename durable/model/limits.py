"""Every limit in one table: name, default, unit, and what happens there."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET: Final = bytes(set(range(256)) - set(b'[]{}"'))


@dataclass(frozen=True)
class Limits:
    """Bounds that turn a mistake into a clear error instead of a full disk or a stuck worker.

    Set them with `connect(limits=durable.Limits(payload_bytes=1_000_000))`, for clients and workers alike.

    =================== ========== ======= ================================================ =========================
    name                default    unit    bounds                                           past it
    =================== ========== ======= ================================================ =========================
    payload_bytes       33,554,432 bytes   one input, result or event, as JSON or as stored PayloadError
    payload_depth       64         levels  nested arrays and objects in one of them         PayloadError
    custom_status_bytes 16,384     bytes   the custom status, as encoded JSON               LimitError
    commands_per_turn   10,000     calls   what the code may schedule in one turn           LimitError
    children_depth      32         levels  sub-orchestrations below sub-orchestrations      LimitError
    turn_seconds        2.0        seconds how long the code may run without yielding       BLOCKED, with the line
    history_events      10,000     events  the history of one execution                     suggest_continue_as_new
    history_bytes       10,485,760 bytes   the history of one execution, as stored          suggest_continue_as_new
    inline_bytes        65,536     bytes   a payload in the store, where there are blobs    kept in `connect(blobs=)`
    =================== ========== ======= ================================================ =========================

    A call that goes past a limit raises that error, which names the limit. Histories may grow on, and only take longer
    to replay: past the last two `ctx.suggest_continue_as_new` is True. ValueError for what is no number above 0.
    """

    payload_bytes: int = 32 * 1024 * 1024
    payload_depth: int = 64
    custom_status_bytes: int = 16 * 1024
    commands_per_turn: int = 10_000
    children_depth: int = 32
    turn_seconds: float = 2.0
    history_events: int = 10_000
    history_bytes: int = 10 * 1024 * 1024
    inline_bytes: int = 64 * 1024

    def stored_bytes(self, data: bytes) -> int:
        """How much JSON counts as."""
        return len(data)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"Limits({field.name}={value!r}): give a number above 0")


def is_deeper(data: bytes, depth: int) -> bool:
    """Whether arrays and objects of this JSON nest deeper. Linear, and each of at most `depth` rounds in C."""
    if data.count(b"[") + data.count(b"{") <= depth:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = data.translate(_SQUARE, _NO_BRACKET).replace(b'""', b"")
    if b'"' in brackets:  # some text holds brackets
        brackets = b"".join(brackets.split(b'"')[::2])
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
