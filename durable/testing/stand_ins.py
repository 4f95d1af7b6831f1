"""What runs in a test environment when an orchestrator calls: the activities themselves, or what stands in for them."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ..app.functions import Activity
from ..app.registry import Registry
from ..app.trigger_functions import TriggerFunctions
from ..engine.instance import Invocation
from ..model.errors import NonRetryableError
from ..model.history import Raw
from ..model.limits import Limits
from ..payload.signature import Signature
from ..payload.values import decode
from ..replay.callee import ActivityRef, OrchestratorRef
from ..replay.context import OrchestrationContext
from ..replay.live_code import Code
from ..runtime.activities import ActivityCode
from ..runtime.activity_context import ActivityContext, Attempt


class Call(msgspec.Struct, frozen=True):
    """One attempt of an activity, or one run of a sub-orchestration that something stands in for.

    args: as it got them, without the context. attempt: from 1. at: the environment's time, aware UTC.
    """

    name: str
    args: tuple[Any, ...]
    instance_id: str
    task_id: int
    attempt: int
    at: datetime


class StandIn(NamedTuple):
    """outcome: a function to call, a value to return, or an exception to raise. takes: seconds until then.

    own: the function as an activity, which knows what it takes; None for a mock, a value or an exception.
    """

    outcome: Any
    takes: float
    own: Activity[..., Any] | None

    @classmethod
    def of(cls, name: str, outcome: Any, takes: float) -> StandIn:
        try:
            return cls(outcome, takes, Activity(outcome, name, None, None, None, None))
        except TypeError:
            return cls(outcome, takes, None)

    def give(self, *args: Any) -> Any:
        """Its outcome for these arguments. Raises what it stands for."""
        outcome = self.outcome
        if isinstance(outcome, BaseException) or (isinstance(outcome, type) and issubclass(outcome, BaseException)):
            raise outcome
        return outcome(*args) if callable(outcome) else outcome


class Casting:
    """The registry's functions, less those that something stands in for; and the record of what was called."""

    def __init__(
        self, registry: Registry, now: Callable[[], datetime], client: Callable[[], Any], limits: Limits
    ) -> None:
        self._registry = registry
        self._now = now
        self._client = client
        self.functions = TriggerFunctions(registry, None, "", limits)
        self._activities: dict[str, StandIn] = {}
        self._orchestrators: dict[str, StandIn] = {}
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self.calls: list[Call] = []

    def replace(self, callee: ActivityRef[..., Any] | OrchestratorRef[..., Any], outcome: Any, takes: float) -> None:
        table = self._activities if isinstance(callee, ActivityRef) else self._orchestrators
        table[callee.name] = StandIn.of(callee.name, outcome, takes)

    # ---- the codebase, as the loop asks it

    def orchestrator(self, name: str, version: str, first_turn: bool) -> Code | None:
        code = self._registry.find_orchestrator(name, version, first_turn)
        stand_in = self._orchestrators.get(name)
        return code if stand_in is None else self._play(name, stand_in, code)

    def serves_activity(self, name: str) -> bool:
        return name in self._activities or self._registry.find_activity(name) is not None

    def known(self, kind: str) -> list[str]:
        return self._registry.names(kind)

    def _play(self, name: str, stand_in: StandIn, code: Code | None) -> Code:
        def play(ctx: OrchestrationContext, *args: Any) -> Any:
            if stand_in.takes:
                yield ctx.create_timer(stand_in.takes)
            if not ctx.is_replaying:
                self.calls.append(Call(name, args, ctx.instance_id, 0, 1, self._now()))
            return stand_in.give(*args)

        return Code(name, play, code.signature if code is not None else Signature.of(play, leading=1))

    # ---- activities

    def begin(self, invocation: Invocation) -> tuple[float, float]:
        """Note the call; how many seconds it takes, and its timeout (0: none)."""
        stand_in, code = self._of(invocation)
        timeout = invocation.timeout or (code.timeout if code is not None else 0.0)
        i = invocation
        self.calls.append(Call(i.name, self._args(i), i.instance_id, i.task_id, i.attempt, self._now()))
        return (0.0 if stand_in is None else stand_in.takes), timeout

    def run(self, invocation: Invocation) -> Any:
        """The result of one attempt. Raises what it raises."""
        stand_in, code = self._of(invocation)
        args = self._args(invocation)
        if stand_in is not None:
            wants_context = stand_in.own is not None and stand_in.own.wants_context
            call: Callable[..., Any] = stand_in.give
        elif code is not None:
            wants_context, call = code.wants_context, code.fn
        else:
            raise NonRetryableError(f"activity {invocation.name!r} was unregistered before it could run")
        value = call(self._context(invocation), *args) if wants_context else call(*args)
        return self._awaited(value) if asyncio.iscoroutine(value) else value

    def late(self, invocation: Invocation, timeout: float) -> builtins.TimeoutError:
        """What a worker says of an attempt that took too long."""
        shown = f"activity {invocation.name!r} (attempt {invocation.attempt})"
        return builtins.TimeoutError(f"{shown} ran longer than its timeout of {timeout:g} s")

    def close(self) -> None:
        if self._event_loop is not None:
            self._event_loop.close()

    def _of(self, invocation: Invocation) -> tuple[StandIn | None, ActivityCode | None]:
        return self._activities.get(invocation.name), self._registry.find_activity(invocation.name)

    def _args(self, invocation: Invocation) -> tuple[Any, ...]:
        """By the types of the activity; where it lives elsewhere, by those of what stands in for it."""
        stand_in, code = self._of(invocation)
        own = None if stand_in is None or stand_in.own is None else stand_in.own.signature
        signature = code.signature if code is not None else own
        where = f"the input of activity {invocation.name!r}"
        return (
            _plain_args(invocation.input, where)
            if signature is None
            else signature.decode_input(invocation.input, where)
        )

    def _context(self, invocation: Invocation) -> ActivityContext:
        i = invocation
        return ActivityContext(Attempt(i.instance_id, i.execution_id, i.task_id, i.attempt), self._client)

    def _awaited(self, made: Coroutine[Any, Any, Any]) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._event_loop is None:
                self._event_loop = asyncio.new_event_loop()
            return self._event_loop.run_until_complete(made)
        with ThreadPoolExecutor(1) as aside:  # the test itself runs in a loop, which can't run another one
            return aside.submit(asyncio.run, made).result()


def _plain_args(raw: Raw, where: str) -> tuple[Any, ...]:
    value = decode(raw, Any, where)
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
