"""Decorated functions: still callable as they were, and references that the engine and type checkers understand."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, get_args

from ..model.names import check_name
from ..model.retry import RetryPolicy
from ..payload.signature import Signature
from ..replay.callee import ActivityRef, OrchestratorRef
from ..runtime.activities import Executor
from ..runtime.activity_context import ActivityContext, local_context
from ..triggers.pattern import EventPattern, patterns
from .default import default_client
from .trigger_function import require_function

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Activity(ActivityRef[P, R]):
    """A function under `@durable.activity`. `.fn`: the raw function; `.options(...)`: a copy with other options."""

    def __init__(
        self,
        fn: Callable[..., R],
        name: str | None,
        retry: RetryPolicy | None,
        timeout: timedelta | float | None,
        heartbeat_timeout: timedelta | float | None,
        queue: str | None,
        executor: Executor | None = None,
    ) -> None:
        shown = require_function(fn, "@durable.activity")
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"@durable.activity: {shown} is a generator; an activity returns its result")
        self.executor: Executor = "thread" if executor is None else _checked_executor(executor, fn, shown)
        self.wants_context = _wants_context(fn)
        signature = Signature.of(fn, leading=1 if self.wants_context else 0)
        name = shown if name is None else name  # an empty name is a mistake, not the default
        super().__init__(
            name, signature, retry=retry, timeout=timeout, heartbeat_timeout=heartbeat_timeout, queue=queue
        )
        self.fn = fn
        self.__doc__ = fn.__doc__
        self.__name__ = shown
        self.__module__ = fn.__module__
        self.__wrapped__ = fn

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it as an ordinary function; an ActivityContext is filled in with a local one unless it is given."""
        if self.wants_context and not (args and isinstance(args[0], ActivityContext)):
            return self.fn(local_context(default_client), *args, **kwargs)
        return self.fn(*args, **kwargs)


class Orchestrator(OrchestratorRef[P, R]):
    """A function under `@durable.orchestrator`. `.fn`: the raw function; `.options(...)`: a copy with other options."""

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str | None,
        version: str | None,
        group: str | None,
        retry: RetryPolicy | None,
        tags: Mapping[str, str] | None,
        on: EventPattern | Iterable[EventPattern] | None = None,
    ) -> None:
        shown = require_function(fn, "@durable.orchestrator")
        if inspect.isasyncgenfunction(fn):
            raise TypeError(
                f"@durable.orchestrator: {shown} is an async generator; use `def` with yield, or `async def` with await"
            )
        name = shown if name is None else name
        super().__init__(name, Signature.of(fn, leading=1), version=version, group=group, retry=retry, tags=tags)
        self.on = () if on is None else patterns(on, "@durable.orchestrator(on=)")
        if self.on:
            check_name(f"on:{self.name}", "@durable.orchestrator(on=): the trigger's id")
        self.fn = fn
        self.__doc__ = fn.__doc__
        self.__name__ = shown
        self.__module__ = fn.__module__
        self.__wrapped__ = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the raw function, context first, as an ordinary generator, coroutine or function."""
        return self.fn(*args, **kwargs)


def _checked_executor(executor: Executor, fn: Callable[..., Any], shown: str) -> Executor:
    """Raises ValueError for another word, TypeError for a function that can't run there."""
    if executor not in get_args(Executor):
        raise ValueError(f"@durable.activity: executor={executor!r}: give 'thread' or 'process'")
    if inspect.iscoroutinefunction(fn):
        raise TypeError(
            f"@durable.activity: {shown} is `async def`, which runs on the worker's event loop: executor={executor!r} "
            "is for plain functions; make it `def`, or leave executor= out"
        )
    if executor == "process":
        _require_findable(fn, shown)
    return executor


def _require_findable(fn: Callable[..., Any], shown: str) -> None:
    """A child process finds a function by its name, in a module that it can import."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "<no name>")
    if module == "__main__" or not module:
        raise TypeError(
            f"@durable.activity(executor='process'): {shown} is in the program's main file, which a child process must "
            "not run again: move it to a module of its own, and import it here"
        )
    if "<" in name:
        raise TypeError(
            f"@durable.activity(executor='process'): a child process can't find {module}.{name} by its name: define it "
            "with `def` at the top of a module, and give what it closes over as arguments"
        )


def _wants_context(fn: Callable[..., Any]) -> bool:
    """Whether the first parameter is annotated ActivityContext, also as text or under an alias."""
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    if first is None:
        return False
    hint = first.annotation
    if isinstance(hint, str):
        name = hint.strip("'\" ")
        if name.rpartition(".")[2] == "ActivityContext":
            return True
        module = sys.modules.get(getattr(fn, "__module__", ""), None)
        hint = getattr(module, name, None)
    return hint is ActivityContext
