"""What is recorded when code raises: enough to act on, in any process, without importing the exception's class."""

from __future__ import annotations

import builtins
import re
import traceback
from math import isfinite
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar

import msgspec

from .errors import NonRetryableError, OrchestrationFailedError, TaskFailedError

T = TypeVar("T")

MESSAGE_CHARS = 4_000
STACK_CHARS = 16_000
CAUSES = 8

_FRAME: Final = re.compile(r'^  File "(?P<file>[^\n]+)", line (?P<line>\d+), in (?P<function>.+)$')
_OURS: Final = re.compile(r"[/\\]durable[/\\](app|engine|replay|runtime|payload|testing)[/\\]\w+\.py$")
_LIBRARY: Final = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python3[^/\\]*)[/\\]")


class FailureDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """One failure, as it is stored in the history.

    type: `module.QualifiedName` of the exception (builtins bare). message: `str(exception)`, cut to 4,000 characters.
    stack_trace: the formatted traceback, cut to 16,000 characters, None where there was none.
    cause: the failure that led to this one. properties: plain values that the exception carried as attributes.
    hierarchy: the names of the exception's class and its bases, so that `is_caused_by` needs no import.
    """

    type: str
    message: str = ""
    stack_trace: str | None = None
    cause: FailureDetails | None = None
    properties: dict[str, Any] = {}
    hierarchy: tuple[str, ...] = ()

    def is_a(self, exception_type: builtins.type[BaseException]) -> bool:
        """Whether this very failure (not its causes) was an `exception_type` or a subclass of it."""
        name = type_name(exception_type)
        return name == self.type or name in self.hierarchy

    def is_caused_by(self, exception_type: builtins.type[BaseException]) -> bool:
        """Whether this failure or one of its causes was an `exception_type` or a subclass of it."""
        failure: FailureDetails | None = self
        while failure is not None:
            if failure.is_a(exception_type):
                return True
            failure = failure.cause
        return False

    @property
    def retryable(self) -> bool:
        """False when the code said that another try can't help (`NonRetryableError`)."""
        return not self.is_a(NonRetryableError)

    @property
    def summary(self) -> str:
        """`type: message` on one line."""
        return f"{self.type}: {self.message}" if self.message else self.type


class Place(NamedTuple):
    """A line of code in a traceback: file, line, function, and what stands there."""

    file: str
    line: int
    function: str
    code: str


def users_line(stack_trace: str | None) -> Place | None:
    """The innermost line of the user's own code in a recorded traceback, else of a library's, None without either."""
    found: Place | None = None
    any_other: Place | None = None
    lines = (stack_trace or "").split("\n")
    for number, line in enumerate(lines):
        frame = _FRAME.match(line)
        if frame is None or _OURS.search(frame["file"]):
            continue
        code = lines[number + 1].strip() if number + 1 < len(lines) else ""
        any_other = Place(frame["file"], int(frame["line"]), frame["function"], code)
        if not _LIBRARY.search(frame["file"]):
            found = any_other
    return found or any_other


def origin(failure: FailureDetails) -> Place | None:
    """The user's line that raised it; for what a task only hands on, that of what failed the task, as far as known."""
    place: Place | None = None
    link: FailureDetails | None = failure
    while link is not None:
        place = users_line(link.stack_trace) or place
        link = link.cause if link.is_a(TaskFailedError) or link.is_a(OrchestrationFailedError) else None
    return place


def type_name(cls: type) -> str:
    """`module.QualifiedName`, bare for builtins."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def is_really(value: object, kind: type[T]) -> TypeGuard[T]:
    """isinstance, but nothing of the value is asked: a lazy proxy computes its `__class__`, which may raise."""
    return issubclass(type(value), kind)


def describe(error: BaseException, _depth: int = 0) -> FailureDetails:
    """Record an exception. Never raises, whatever the exception's own methods do."""
    cls = type(error)
    return FailureDetails(
        type=type_name(cls),
        message=_text(error),
        stack_trace=_stack(error),
        cause=_cause(error, _depth),
        properties=_properties(error),
        hierarchy=tuple(type_name(base) for base in cls.__mro__[:-1] if base is not BaseException),
    )


def _cause(error: BaseException, depth: int) -> FailureDetails | None:
    try:
        if is_really(error, TaskFailedError) or is_really(error, OrchestrationFailedError):
            return error.failure
        nested = error.__cause__
        if nested is None and not error.__suppress_context__:
            nested = error.__context__
    except BaseException:  # a class may compute any of these
        return None
    return describe(nested, depth + 1) if nested is not None and depth < CAUSES else None


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as broken:  # an exception whose __str__ raises must not take the worker with it
        text = f"(its message could not be read: {type(broken).__name__})"
    return _storable(text, MESSAGE_CHARS)


def _stack(error: BaseException) -> str | None:
    if error.__traceback__ is None:
        return None
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__, chain=False)
    except BaseException:  # formatting calls __str__ too
        lines = traceback.format_tb(error.__traceback__)
    return _storable("".join(lines), STACK_CHARS)


def _properties(error: BaseException) -> dict[str, Any]:
    """Plain attributes only: a number, a text, a truth value. Anything else could be large, secret or unencodable."""
    try:
        attributes: dict[Any, Any] = dict.copy(getattr(error, "__dict__", {}))
    except BaseException:  # its class computes them
        return {}
    return {
        _storable(name, MESSAGE_CHARS): plain
        for name, value in attributes.items()
        if type(name) is str and not name.startswith("_") and (plain := _plain(value)) is not None
    }


def _plain(value: object) -> str | bool | int | float | None:
    """The value if it can be stored; of a subclass (NumPy's float) as its base, for only that can be encoded."""
    if is_really(value, bool):
        return value
    if is_really(value, str):
        return _storable(str.__str__(value), MESSAGE_CHARS)
    if is_really(value, int):
        number = int.__index__(value)
        return number if -(2**63) <= number < 2**64 else None
    if is_really(value, float):
        real = float.__float__(value)
        return real if isfinite(real) else None
    return None


def _storable(text: str, limit: int) -> str:
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
