"""Functions by (kind, name, version). A name from a message is only looked up here, never imported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, final, overload

from ..model.errors import DuplicateNameError
from ..model.retry import RetryPolicy
from ..model.versions import highest
from ..replay.context import OrchestrationContext
from ..replay.live_code import Code
from ..runtime.activities import ActivityCode, Executor
from ..runtime.activity_context import ActivityContext
from ..triggers.pattern import EventPattern
from .calling import CALLING
from .functions import Activity, Orchestrator
from .trigger_function import FunctionKind, TriggerCode, TriggerFunction

P = ParamSpec("P")
R = TypeVar("R")


@final
class Anything:
    """No parameter is annotated with it: a function that takes it first takes Any or object, which is no context.

    Without an overload of its own, a checker would match such a parameter with ActivityContext and strip it. The
    arguments then go unchecked, for Concatenate would drop the name and the default of the first one. After Any, mypy
    does not know the result either: it finds both overloads fitting.
    """


class ActivityDecorator(Protocol):
    """What `@durable.activity(...)` returns: it types a function as the activity it becomes."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Anything, ...], R], /) -> Activity[..., R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[ActivityContext, P], R], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...


class OrchestratorDecorator(Protocol):
    """What `@durable.orchestrator(...)` returns: it types a function as the orchestrator it becomes."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[OrchestrationContext, P], Generator[Any, Any, R]], /
    ) -> Orchestrator[P, R]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[OrchestrationContext, P], Coroutine[Any, Any, R]], /
    ) -> Orchestrator[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[OrchestrationContext, P], R], /) -> Orchestrator[P, R]: ...


class Registry:
    """The functions that a worker serves; more can be added while it runs.

    `.orchestrator` and `.activity` are decorators for this registry, with and without options.
    Another function under a taken key raises DuplicateNameError; the same function defined again replaces itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._activities: dict[str, Activity[Any, Any]] = {}
        self._orchestrators: dict[tuple[str, str], Orchestrator[Any, Any]] = {}
        self._codes: dict[tuple[str, str], Code] = {(CALLING.name, ""): CALLING}
        self._highest: dict[str, Code] = {}
        self._activity_codes: dict[str, ActivityCode] = {}
        self._trigger_functions: dict[tuple[FunctionKind, str], TriggerFunction] = {}
        self._listeners: list[Callable[[], None]] = []

    # ---- decorators

    @overload
    def activity(self, fn: Callable[Concatenate[Anything, ...], R], /) -> Activity[..., R]: ...
    @overload
    def activity(self, fn: Callable[Concatenate[ActivityContext, P], R], /) -> Activity[P, R]: ...
    @overload
    def activity(self, fn: Callable[P, R], /) -> Activity[P, R]: ...
    @overload
    def activity(
        self,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        queue: str | None = None,
        executor: Executor | None = None,
    ) -> ActivityDecorator: ...
    def activity(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        queue: str | None = None,
        executor: Executor | None = None,
    ) -> Any:
        """Make a function, sync or `async def`, an activity: a step whose result is recorded.

        name: default is the function's. retry: holds for calls by function. timeout: of one attempt, from its start.
        heartbeat_timeout: between two heartbeats, from the first one on. Durations are timedelta or seconds.
        queue: only workers that serve it (`Worker(queues=...)`) run it; default "default".
        executor: "thread" (the default of a plain function), or "process" for work that keeps a processor busy: it runs
        in a child process of the worker, which imports the function's module, and is killed at a timeout.
        Raises DuplicateNameError, TypeError (what can't be an activity) or ValueError (a name outside the rules).
        """

        def register(function: Callable[..., Any]) -> Activity[Any, Any]:
            activity: Activity[Any, Any] = Activity(function, name, retry, timeout, heartbeat_timeout, queue, executor)
            self._add_activity(activity)
            return activity

        return register if fn is None else register(fn)

    @overload
    def orchestrator(
        self, fn: Callable[Concatenate[OrchestrationContext, P], Generator[Any, Any, R]], /
    ) -> Orchestrator[P, R]: ...
    @overload
    def orchestrator(
        self, fn: Callable[Concatenate[OrchestrationContext, P], Coroutine[Any, Any, R]], /
    ) -> Orchestrator[P, R]: ...
    @overload
    def orchestrator(self, fn: Callable[Concatenate[OrchestrationContext, P], R], /) -> Orchestrator[P, R]: ...
    @overload
    def orchestrator(
        self,
        *,
        name: str | None = None,
        version: str | None = None,
        group: str | None = None,
        retry: RetryPolicy | None = None,
        tags: Mapping[str, str] | None = None,
        on: EventPattern | Iterable[EventPattern] | None = None,
    ) -> OrchestratorDecorator: ...
    def orchestrator(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        version: str | None = None,
        group: str | None = None,
        retry: RetryPolicy | None = None,
        tags: Mapping[str, str] | None = None,
        on: EventPattern | Iterable[EventPattern] | None = None,
    ) -> Any:
        """Make a function `(ctx, *args)` an orchestrator: a generator that yields tasks, an `async def`, or plain.

        name: default is the function's. version: text; several versions of one name can stand side by side. A start by
        function takes its version. One by name alone takes, at its first turn and for good, the unversioned function,
        else the highest (PEP 440 where both parse, else as text). An instance runs on its very version, where that is
        missing on the unversioned function, and waits where neither is there. group: only workers that serve it
        (`Worker(groups=...)`) run it; default "default". retry: holds when it is called as a child by function. tags:
        go to each instance. on: `durable.EventPattern`, one or several: each event that fits starts one, whose input is
        the event's data. Raises as `activity` does.

        With `on=` a worker that has this function sees to it that the workspace has the trigger "on:<name>": as it
        starts, or when the function is registered while it runs. Of several versions with `on=` the highest counts. An
        event starts one orchestration, however often it is published: its id is derived from the trigger and the event.
        When the patterns change, those of the worker that started last hold. A trigger whose function no longer has
        `on=` stays, since a worker with other code may need it: `client.delete_trigger("on:<name>")` takes it away.
        """

        def register(function: Callable[..., Any]) -> Orchestrator[Any, Any]:
            orchestrator: Orchestrator[Any, Any] = Orchestrator(function, name, version, group, retry, tags, on)
            self._add_orchestrator(orchestrator)
            return orchestrator

        return register if fn is None else register(fn)

    def _add_activity(self, activity: Activity[Any, Any]) -> None:
        with self._lock:
            _refuse_other(self._activities.get(activity.name), activity)
            self._activities[activity.name] = activity
            assert activity.signature is not None
            self._activity_codes[activity.name] = ActivityCode(
                activity.name,
                activity.fn,
                activity.signature,
                activity.wants_context,
                activity.is_async,
                activity.timeout,
                activity.heartbeat_timeout,
                activity.executor,
            )
        self._changed()

    def _add_orchestrator(self, orchestrator: Orchestrator[Any, Any]) -> None:
        key = (orchestrator.name, orchestrator.version)
        with self._lock:
            _refuse_other(self._orchestrators.get(key), orchestrator)
            self._orchestrators[key] = orchestrator
            assert orchestrator.signature is not None
            self._codes[key] = Code(orchestrator.name, orchestrator.fn, orchestrator.signature, orchestrator.version)
            versions = [version for name, version in self._codes if name == orchestrator.name]
            self._highest[orchestrator.name] = self._codes[orchestrator.name, highest(versions)]
        self._changed()

    @overload
    def condition(self, fn: TriggerCode, /) -> TriggerFunction: ...
    @overload
    def condition(self, *, name: str | None = None) -> Callable[[TriggerCode], TriggerFunction]: ...
    def condition(self, fn: TriggerCode | None = None, *, name: str | None = None) -> Any:
        """Make a function `(context, event)` a condition of triggers: they fire when it returns a true value.

        context: a `durable.TriggerContext`, a draft of the trigger's context, which is kept unless it raises. event: a
        `durable.CloudEvent`. It runs on the engine's thread: it may compute, and is not to wait for anything. name:
        default is the function's. Raises as `activity` does.
        """
        return self._register("condition", fn, name)

    @overload
    def action(self, fn: TriggerCode, /) -> TriggerFunction: ...
    @overload
    def action(self, *, name: str | None = None) -> Callable[[TriggerCode], TriggerFunction]: ...
    def action(self, fn: TriggerCode | None = None, *, name: str | None = None) -> Any:
        """Make a function `(context, event)` an action of triggers.

        As a condition, but for what it returns, which is nothing. What it asks for with `context.do(...)` is committed
        together with the context. One that raises is tried again, later each time, then it is a dead letter.
        """
        return self._register("action", fn, name)

    def _register(self, kind: FunctionKind, fn: TriggerCode | None, name: str | None) -> Any:
        def register(code: TriggerCode) -> TriggerFunction:
            function = TriggerFunction(kind, code, name)
            with self._lock:
                _refuse_other(self._trigger_functions.get((kind, function.name)), function)
                self._trigger_functions[kind, function.name] = function
            self._changed()
            return function

        return register if fn is None else register(fn)

    # ---- what a worker asks

    def find_orchestrator(self, name: str, version: str, first_turn: bool = False) -> Code | None:
        """The exact version, then the unversioned function; for a first turn without a version then the highest.

        What the first turn took is the version of that execution from then on: of code that changes nobody may see
        two versions in one history.
        """
        code = self._codes.get((name, version)) or self._codes.get((name, ""))
        return self._highest.get(name) if code is None and first_turn and not version else code

    def find_activity(self, name: str) -> ActivityCode | None:
        return self._activity_codes.get(name)

    def find_trigger_function(self, kind: FunctionKind, name: str) -> TriggerFunction | None:
        return self._trigger_functions.get((kind, name))

    def started_by_events(self) -> list[Orchestrator[Any, Any]]:
        """Those under `on=`, of each name the highest version."""
        with self._lock:
            found = [orchestrator for orchestrator in self._orchestrators.values() if orchestrator.on]
        newest = {
            name: highest(o.version for o in found if o.name == name) for name in dict.fromkeys(o.name for o in found)
        }
        return [orchestrator for orchestrator in found if orchestrator.version == newest[orchestrator.name]]

    def names(self, kind: str) -> list[str]:
        """The registered names of one kind, "activity" or "orchestrator", sorted; a version stands after its name."""
        with self._lock:
            activities, orchestrators = list(self._activities), list(self._orchestrators)
        if kind == "activity":
            return sorted(activities)
        return sorted(f"{name} {version}".rstrip() for name, version in orchestrators)

    def on_change(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call `call` after each registration; returns how to stop that."""
        self._listeners.append(call)
        return lambda: self._listeners.remove(call)

    def _changed(self) -> None:
        for call in list(self._listeners):
            call()


_Function = Activity[Any, Any] | Orchestrator[Any, Any] | TriggerFunction


def _refuse_other(old: _Function | None, new: _Function) -> None:
    if old is None or _home(old.fn) == _home(new.fn):
        return
    version = f" in version {new.version!r}" if isinstance(new, Orchestrator) and new.version else ""
    remedy = "another name or version: " if isinstance(new, Orchestrator) else "another name: "
    options = "name=..., version=..." if isinstance(new, Orchestrator) else "name=..."
    raise DuplicateNameError(
        f"{new.kind} {new.name!r}{version} is registered already, by {_shown(old.fn)}; {_shown(new.fn)} needs {remedy}"
        f"@durable.{new.kind}({options})"
    )


def _home(fn: Callable[..., Any]) -> tuple[object, object]:
    """Where a function is defined; cells of a notebook and reruns of a script are one place."""
    module = getattr(fn, "__module__", None)
    code = getattr(fn, "__code__", None)
    place = "__main__" if module == "__main__" else getattr(code, "co_filename", module)
    return place, getattr(fn, "__qualname__", fn)


def _shown(fn: Callable[..., Any]) -> str:
    return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', fn)}"


default_registry = Registry()
activity = default_registry.activity
orchestrator = default_registry.orchestrator
condition = default_registry.condition
action = default_registry.action
