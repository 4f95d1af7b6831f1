"""What an exit status means, and which error leads to which.

    0 done  1 the orchestration failed  2 usage  3 not found  4 store or broker can't be used  5 timed out  6 blocked
    7 a replayed history differs

1 also where it is in no state for it: it has ended, or has not ended, or has not failed.
70 is a bug of ours (EX_SOFTWARE), 130 is Ctrl-C and 141 a closed pipe, as everywhere.
"""

from __future__ import annotations

from enum import IntEnum

from ..model import errors


class Exit(IntEnum):
    """The exit statuses; names in lower case are the codes of errors under --json."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    STORE = 4
    TIMED_OUT = 5
    BLOCKED = 6
    DIFFERS = 7
    BUG = 70
    INTERRUPTED = 130
    CLOSED_PIPE = 141


class CommandError(Exception):
    """A command can't go on: how it exits, one message that says what to do, and lines that belong below it.

    The message is printed on one line whatever is in it, so that nobody's text can pass for a line of ours.
    """

    def __init__(self, exit_status: Exit, message: str, *below: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.below = below


# The first fit counts. ValueError and TypeError are what the client raises for ids, names, filters and inputs.
_EXITS: tuple[tuple[type[Exception], Exit], ...] = (
    (errors.InstanceNotFoundError, Exit.NOT_FOUND),
    (errors.TriggerNotFoundError, Exit.NOT_FOUND),
    (errors.InstanceExistsError, Exit.USAGE),
    (errors.InstanceFinishedError, Exit.FAILED),
    (errors.InstanceNotFinishedError, Exit.FAILED),
    (errors.InvalidStateError, Exit.FAILED),
    (errors.DuplicateNameError, Exit.USAGE),
    (errors.OrchestrationBlockedError, Exit.BLOCKED),
    (errors.OrchestrationFailedError, Exit.FAILED),
    (errors.OrchestrationTerminatedError, Exit.FAILED),
    (errors.OrchestrationCancelledError, Exit.FAILED),
    (errors.StoreError, Exit.STORE),
    (errors.TransportError, Exit.STORE),
    (errors.TimeoutError, Exit.TIMED_OUT),
    (errors.LimitError, Exit.USAGE),
    (ValueError, Exit.USAGE),
    (TypeError, Exit.USAGE),
)


def command_error(error: Exception) -> CommandError | None:
    """The error as a command ends with it; None when only a bug explains it."""
    if isinstance(error, CommandError):
        return error
    status = next((status for kind, status in _EXITS if isinstance(error, kind)), None)
    return None if status is None else CommandError(status, str(error))
