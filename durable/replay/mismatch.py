"""The first difference between what the code does and what its history has, in words a user can act on."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

import msgspec

from ..model import history as h
from ..model.history import Event
from ..model.status import RuntimeStatus
from ..payload.codec import SEALED_MESSAGE, is_sealed, is_sealed_failure, why_sealed

_PREVIEW = 80

_CLOUD_EVENT_AWAITED = "wait_for_cloudevent"

# What each command is called when it is shown to the author of the code.
_VERBS = {
    h.TASK_SCHEDULED: "call_activity",
    h.TASK_CANCELED: "cancel of a task",
    h.TIMER_CREATED: "create_timer",
    h.TIMER_CANCELED: "cancel of a timer",
    h.CHILD_CREATED: "call_sub_orchestrator",
    h.EVENT_AWAITED: "wait_for_external_event",
    h.EVENT_SENT: "send_event",
    h.CONTINUE_AS_NEW: "continue_as_new",
    h.EXECUTION_COMPLETED: "return",
}


class Mismatch(BaseException):
    """The code does not fit its history. A BaseException, so that user code's `except Exception` can't swallow it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def differs(number: int, recorded: Event | None, done: Event | None, line: str) -> Mismatch:
    """Name the first difference: event `number` of the history against what the code did at `line`."""
    if recorded is not None and done is not None and recorded.name == done.name and is_sealed(recorded.input):
        return Mismatch(f"the input that event {number} of the history has {why_sealed(recorded.input)}")
    if recorded is not None:
        has = f"in the history, event {number} is {command(recorded)}"
    else:
        has = f"the history has no further command at event {number}"
    if done is None:
        did = "the code did not ask for it and went on waiting"
    elif done.type == h.EXECUTION_COMPLETED:
        did = f"the code: {command(done)}"
    else:
        did = f"the code now asks for {command(done)}"
    return Mismatch(
        f"the code does not fit its history: {has}; {did} ({line}). "
        "Nothing was lost; it goes on by itself when a worker runs code that fits."
    )


def refuse_sealed(fact: Event, what: str) -> None:
    """Raises Mismatch for a fact that says something which can't be read here: no code may see it as a value."""
    if is_sealed(fact.input) or is_sealed(fact.result):
        raise Mismatch(f"{what} {why_sealed(fact.input if is_sealed(fact.input) else fact.result)}")
    if fact.failure is not None and is_sealed_failure(fact.failure):
        raise Mismatch(f"{what} {SEALED_MESSAGE}")


def command(event: Event) -> str:
    """One command on one line: kind, name, target, timer, input."""
    if event.type == h.EXECUTION_COMPLETED and event.failure is not None:
        return f"raise {event.failure.summary}"
    if event.type == h.EXECUTION_COMPLETED and event.status == RuntimeStatus.CANCELED.value:
        return "raise durable.OrchestrationCancelledError"
    if event.type == h.CHILD_CREATED and event.status == h.DETACHED:
        return command(msgspec.structs.replace(event, status="")).replace(_VERBS[event.type], "start_orchestration", 1)
    if event.type == h.EVENT_AWAITED and event.input:
        return command(msgspec.structs.replace(event, name="", type=_CLOUD_EVENT_AWAITED))
    parts = [_VERBS.get(event.type, event.type)]
    if event.name:
        parts.append(repr(event.name))
    if event.task_id:
        parts.append(f"(task {event.task_id}{f', attempt {event.attempt}' if event.attempt > 1 else ''})")
    if event.instance_id:
        parts.append(f"{'to' if event.type == h.EVENT_SENT else 'as'} instance {event.instance_id!r}")
    if event.fire_at is not None:
        parts.append(f"due {event.fire_at.isoformat()}")
    if event.input:
        parts.append(f"{'for' if event.type == _CLOUD_EVENT_AWAITED else 'with input'} {preview(event.input)}")
    if event.status:
        parts.append(event.status)
    return " ".join(parts)


def preview(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode("utf-8", "replace")
    return text if len(text) <= _PREVIEW else text[: _PREVIEW - 1] + "…"


def line_of(code: Any) -> str:
    """Where a suspended generator or coroutine stands: file and line of its innermost frame."""
    frame: FrameType | None = None
    while code is not None:
        frame = frame_of(code) or frame
        code = _one_of(code, "gi_yieldfrom", "cr_await")
        if getattr(_one_of(code, "gi_code"), "co_filename", "").startswith(_PACKAGE):
            break  # `yield from task`: the user's line is the one outside
    return _at(frame)


def current_line() -> str:
    """Where the running user code stands: the nearest frame outside this package."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return _at(frame)


def line_of_error(error: BaseException) -> str:
    """Where in the user's code an exception was raised: the innermost frame outside this package."""
    line = _at(None)
    step = error.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            line = f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}"
        step = step.tb_next
    return line


def frame_of(code: object) -> FrameType | None:
    """The frame of a generator or coroutine, None when it has ended."""
    frame: FrameType | None = _one_of(code, "gi_frame", "cr_frame")
    return frame


def _one_of(code: object, *names: str) -> Any:
    """The attribute that its class has: what an object of the user would compute for such a name is not asked for."""
    return next((getattr(code, name) for name in names if hasattr(type(code), name)), None)


def line_of_frame(frame: FrameType | None, fn: object) -> str:
    """Where a frame stands, or stood when it ended; without one, where the function begins."""
    if frame is not None:
        return _at(frame)
    code = getattr(fn, "__code__", None)
    return "line unknown" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _at(frame: FrameType | None) -> str:
    return "line unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


_PACKAGE = __file__.rpartition("replay")[0]
