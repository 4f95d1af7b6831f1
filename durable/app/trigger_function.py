"""A function under `@durable.condition` or `@durable.action`: still callable as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

from ..model.names import check_name

FunctionKind = Literal["condition", "action"]
TriggerCode = Callable[[Any, Any], Any]


class TriggerFunction:
    """A function under `@durable.condition` or `@durable.action`. `.fn`: the raw function."""

    def __init__(self, kind: FunctionKind, fn: TriggerCode, name: str | None) -> None:
        where = f"@durable.{kind}"
        shown = require_function(fn, where)
        if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{where}: {shown} is async or a generator; it runs inside one step: make it a plain `def`")
        try:
            inspect.signature(fn).bind(None, None)
        except TypeError:
            raise TypeError(f"{where}: {shown} must take two arguments, (context, event)") from None
        self.kind = kind
        self.name = check_name(shown if name is None else name, f"{where}(name=)")
        self.fn = fn
        self.__doc__ = fn.__doc__
        self.__name__ = shown
        self.__module__ = fn.__module__
        self.__wrapped__ = fn

    def __call__(self, context: Any, event: Any) -> Any:
        """Call it as an ordinary function."""
        return self.fn(context, event)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r}>"


def require_function(fn: object, where: str) -> str:
    """The name of a function. Raises TypeError for what is none."""
    if not callable(fn) or isinstance(fn, type):
        raise TypeError(f"{where} decorates functions, not {fn!r}")
    name = getattr(fn, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(f"{where}: {fn!r} has no name; wrap it in a function")
    return name
