"""Where a worker finds what triggers call: its registry, then installed packages.

A package offers a condition or an action to all by an entry point of the group `durable.conditions` or
`durable.actions`, whose name is that of the function.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import cast

from ..model.errors import DurableError
from ..model.limits import Limits
from ..payload.signed_callables import KeyRing, load_callable
from ..triggers.actions import Action, CallFunction, CallSigned
from ..triggers.conditions import Condition, Function, SignedFunction
from ..triggers.drafting import UserFunction
from .registry import Registry
from .trigger_context import call
from .trigger_function import FunctionKind, TriggerCode


class TriggerFunctions:
    """A function for a condition or an action that names one. Raises DurableError for one that is not here."""

    def __init__(self, registry: Registry, keys: KeyRing | None, workspace: str, limits: Limits) -> None:
        self._registry = registry
        self._limits = limits
        self._signed = lru_cache(maxsize=1_024)(
            lambda code, purpose: cast(TriggerCode, load_callable(code, keys, workspace, purpose))
        )

    def __call__(self, wanted: Condition | Action) -> UserFunction:
        function = self._code(wanted)
        return lambda draft, event: call(function, draft, event, self._limits)

    def _code(self, wanted: Condition | Action) -> TriggerCode:
        if isinstance(wanted, Function):
            return self._named("condition", wanted.name)
        if isinstance(wanted, CallFunction):
            return self._named("action", wanted.name)
        if isinstance(wanted, SignedFunction):
            return self._signed(wanted.code, "condition")
        assert isinstance(wanted, CallSigned)
        return self._signed(wanted.code, "action")

    def _named(self, kind: FunctionKind, name: str) -> TriggerCode:
        registered = self._registry.find_trigger_function(kind, name)
        found = registered.fn if registered is not None else _installed(f"durable.{kind}s", name)
        if found is None:
            raise DurableError(f"no worker here has a {kind} {name!r}: import the module that registers it")
        return found


@lru_cache(maxsize=1_024)
def _installed(group: str, name: str) -> TriggerCode | None:
    offered = next(iter(entry_points(group=group, name=name)), None)
    return None if offered is None else cast(TriggerCode, offered.load())
