"""What watches over running user code: which instance runs on this thread, and how long already."""

from __future__ import annotations

from contextvars import ContextVar

# The instance whose code is running on this thread, so that a client call inside an orchestrator can be refused.
running: ContextVar[str | None] = ContextVar("durable_running", default=None)


def refuse_inside(method: str, instead: str) -> None:
    """Raise RuntimeError in an orchestrator's code, which is to use `instead` what the client's `method` does."""
    inside = running.get()
    if inside is not None:
        raise RuntimeError(
            f"client.{method} inside orchestration {inside!r} would run again on every replay: use {instead}"
        )


class Watch:
    """Is told when user code runs, so that a watchdog outside can tell a stuck orchestrator from a busy one."""

    def __init__(self) -> None:
        self.ticks = 0
        self.inside = False

    def enter(self) -> None:
        self.ticks += 1
        self.inside = True

    def leave(self) -> None:
        """May raise TurnTooLong, when the watchdog has just decided so."""
        self.inside = False


class TurnTooLong(BaseException):
    """Thrown into an orchestrator that ran longer than `Limits.turn_seconds` without yielding."""
