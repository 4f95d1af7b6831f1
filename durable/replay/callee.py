"""What can be called: typed names of activities and orchestrators, with the options of a call.

A decorated function is such a reference, and so is the name of one that lives elsewhere (`activity_ref`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypedDict, TypeVar, cast, overload

import msgspec

from ..model.limits import Limits
from ..model.moments import to_timedelta
from ..model.names import check_name
from ..model.retry import RetryPolicy
from ..payload.signature import Signature, encode_plain_input
from ..payload.values import same

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


def checked_tags(tags: object) -> dict[str, str]:
    """Tags as a plain dict; keys obey the rule of names, values are text."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags= must be a mapping of text to text, not {tags!r}")
    checked: dict[str, str] = {}
    for key, value in cast("Mapping[str, object]", tags).items():
        check_name(key, "a tag's key")
        if not isinstance(value, str):
            raise TypeError(f"tag {key!r} must be text, not {value!r}")
        value.encode()  # a lone surrogate would fail later, inside a commit
        checked[key] = value
    return checked


def _checked_retry(retry: object) -> RetryPolicy | None:
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise TypeError(f"retry= must be a durable.RetryPolicy, not {retry!r}")
    return retry


def _checked_queue(queue: str | None) -> str:
    return "" if queue is None else check_name(queue, "queue=")


def _checked_group(group: str | None) -> str:
    return "" if group is None else check_name(group, "group=")


def _checked_version(version: str | None) -> str:
    return "" if version is None else check_name(version, "version=")


def _checked_timeout(timeout: timedelta | float | None) -> float:
    return _seconds(timeout, "timeout=")


def _checked_heartbeat(timeout: timedelta | float | None) -> float:
    return _seconds(timeout, "heartbeat_timeout=")


def _seconds(duration: timedelta | float | None, where: str) -> float:
    if duration is None:
        return 0.0
    seconds = to_timedelta(duration, where).total_seconds()
    if not seconds:
        raise ValueError(f"{where} must be longer than 0 seconds")
    return seconds


class ActivityOptions(TypedDict, total=False):
    """What a call can change of an activity."""

    retry: RetryPolicy | None
    timeout: timedelta | float | None
    heartbeat_timeout: timedelta | float | None
    queue: str | None


class OrchestratorOptions(TypedDict, total=False):
    """What a call can change of an orchestrator."""

    version: str | None
    group: str | None
    retry: RetryPolicy | None
    tags: Mapping[str, str] | None


class _Ref:
    """A name, perhaps a signature, and options."""

    kind = "function"
    _reads_input = False  # whether its code can ask for the input without taking it
    _checks: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}  # the options, and what a given value becomes
    name: str
    signature: Signature | None
    result_hint: Any

    def __init__(self, name: str, signature: Signature | None, result_hint: Any) -> None:
        self.name = check_name(name, f"the name of the {self.kind}")
        self.signature = signature
        self._result_hint = result_hint

    @property
    def returns(self) -> Any:
        """The type its result is decoded to; `Any` leaves plain JSON."""
        return self.signature.result_hint if self.signature is not None else self._result_hint

    def encode_input(self, args: tuple[Any, ...], limits: Limits) -> msgspec.Raw:
        """The one input that stands for these arguments. Raises TypeError (arity) or PayloadError."""
        where = f"the input of {self.kind} {self.name!r}"
        if self.signature is None or (self.signature.is_bare and self._reads_input):
            return encode_plain_input(args, where, limits)
        return self.signature.encode_input(args, where, limits)

    def refuse_named(self, call: str, named: Mapping[str, Any]) -> None:
        """Arguments have no names where they go: a call of the function reads better by name, this one can't be."""
        name = next(iter(named))
        mine = {p.name for p in self.signature.parameters} if self.signature is not None else {name}
        if name not in mine:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
        raise TypeError(
            f"{call}({self.name}, {name}=...): arguments are positional; give the value of {name!r} in its place, "
            f"without the name: {call}({self.name}, ...)"
        )

    def encode_item(self, item: Any, limits: Limits) -> msgspec.Raw:
        """An item of `ctx.map` or `start_many` is an input, no argument: a list is spread where there is something to
        spread, and None is no argument where none is taken. Raises as `encode_input` does."""
        signature = self.signature
        if signature is not None and signature.spreads and isinstance(item, list | tuple):
            return self.encode_input(tuple(cast("Iterable[Any]", item)), limits)
        if signature is not None and item is None and not signature.parameters:
            return self.encode_input((), limits)
        return self.encode_input((item,), limits)

    def same_input(self, recorded: msgspec.Raw, now: msgspec.Raw) -> bool:
        """Whether a recorded input means the same as today's, decoded with today's types."""
        if recorded == now:
            return True
        if self.signature is not None:
            return self.signature.input_same(recorded, now)
        return same(recorded, now, Any)

    def _with(self, options: Mapping[str, Any]) -> Self:
        clone = copy.copy(self)
        for name, value in options.items():
            if name not in self._checks:
                known = ", ".join(f"{known}=" for known in self._checks)
                raise TypeError(f"options({name}=): of {self.kind} {self.name!r} a call can change {known}")
            setattr(clone, name, self._checks[name](value))
        return clone

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r}>"


class ActivityRef(_Ref, Generic[P, R]):
    """An activity by name. `retry`, timeouts and `queue` hold for calls through this reference.

    P: the arguments a call gives, without the context. R: what the function returns; an `async def`'s coroutine.
    """

    kind = "activity"
    _checks = {
        "retry": _checked_retry,
        "timeout": _checked_timeout,
        "heartbeat_timeout": _checked_heartbeat,
        "queue": _checked_queue,
    }

    def __init__(
        self,
        name: str,
        signature: Signature | None = None,
        result_hint: Any = Any,
        *,
        retry: RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        queue: str | None = None,
    ) -> None:
        super().__init__(name, signature, result_hint)
        self.queue = _checked_queue(queue)
        self.retry = _checked_retry(retry)
        self.timeout = _checked_timeout(timeout)
        self.heartbeat_timeout = _checked_heartbeat(heartbeat_timeout)

    def options(self, **options: Unpack[ActivityOptions]) -> Self:
        """A copy with other options: retry=, timeout=, heartbeat_timeout=, queue=.

        Those not given stay as they are, None takes one away. Durations are timedelta or seconds. Raises TypeError.
        """
        return self._with(options)


class OrchestratorRef(_Ref, Generic[P, R]):
    """An orchestrator by name. `retry` holds when it is called as a sub-orchestration through this reference.

    P: the arguments, without the context. R: the output.
    """

    kind = "orchestrator"
    _reads_input = True  # ctx.get_input()
    _checks = {"version": _checked_version, "group": _checked_group, "retry": _checked_retry, "tags": checked_tags}

    if TYPE_CHECKING:  # what `Takes0` to `Takes6` (arity.py) match; there is no such method

        def _takes(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def __init__(
        self,
        name: str,
        signature: Signature | None = None,
        result_hint: Any = Any,
        *,
        version: str | None = None,
        group: str | None = None,
        retry: RetryPolicy | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, signature, result_hint)
        self.group = _checked_group(group)
        self.version = _checked_version(version)
        self.retry = _checked_retry(retry)
        self.tags = checked_tags(tags)

    def options(self, **options: Unpack[OrchestratorOptions]) -> Self:
        """A copy with other options: version=, group=, retry=, tags=.

        Those not given stay as they are, None takes one away. Raises TypeError.
        """
        return self._with(options)


@overload
def activity_ref(
    name: str,
    returns: type[R],
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta | float | None = None,
    heartbeat_timeout: timedelta | float | None = None,
    queue: str | None = None,
) -> ActivityRef[..., R]: ...
@overload
def activity_ref(
    name: str,
    returns: object = None,
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta | float | None = None,
    heartbeat_timeout: timedelta | float | None = None,
    queue: str | None = None,
) -> ActivityRef[..., Any]: ...
def activity_ref(
    name: str,
    returns: object = None,
    *,
    retry: RetryPolicy | None = None,
    timeout: timedelta | float | None = None,
    heartbeat_timeout: timedelta | float | None = None,
    queue: str | None = None,
) -> ActivityRef[..., Any]:
    """A typed name for an activity that lives elsewhere.

    returns: the type its result is decoded to (default: plain JSON); type checkers know it where it is a class, and
    take a union and the like for Any. The others: see `durable.activity`.
    """
    hint: Any = Any if returns is None else returns
    return ActivityRef(name, None, hint, retry=retry, timeout=timeout, heartbeat_timeout=heartbeat_timeout, queue=queue)


@overload
def orchestrator_ref(
    name: str,
    returns: type[R],
    *,
    version: str | None = None,
    group: str | None = None,
    retry: RetryPolicy | None = None,
    tags: Mapping[str, str] | None = None,
) -> OrchestratorRef[..., R]: ...
@overload
def orchestrator_ref(
    name: str,
    returns: object = None,
    *,
    version: str | None = None,
    group: str | None = None,
    retry: RetryPolicy | None = None,
    tags: Mapping[str, str] | None = None,
) -> OrchestratorRef[..., Any]: ...
def orchestrator_ref(
    name: str,
    returns: object = None,
    *,
    version: str | None = None,
    group: str | None = None,
    retry: RetryPolicy | None = None,
    tags: Mapping[str, str] | None = None,
) -> OrchestratorRef[..., Any]:
    """A typed name for an orchestrator that lives elsewhere.

    returns: the type its output is decoded to (default: plain JSON). The others: see `durable.orchestrator`.
    """
    hint: Any = Any if returns is None else returns
    return OrchestratorRef(name, None, hint, version=version, group=group, retry=retry, tags=tags)


def as_activity(callee: ActivityRef[..., Any] | str) -> ActivityRef[..., Any]:
    """The reference behind what a user passed: itself, or a name. Raises TypeError for anything else."""
    if isinstance(callee, str):
        return ActivityRef(callee)
    _refuse_other(callee, ActivityRef)
    return callee


def as_orchestrator(callee: OrchestratorRef[..., Any] | str) -> OrchestratorRef[..., Any]:
    """The reference behind what a user passed: itself, or a name. Raises TypeError for anything else."""
    if isinstance(callee, str):
        return OrchestratorRef(callee)
    _refuse_other(callee, OrchestratorRef)
    return callee


def _refuse_other(callee: object, ref: type[_Ref]) -> None:
    if not isinstance(callee, ref):
        shown = repr(callee)
        if isinstance(callee, ActivityRef):
            raise TypeError(f"{shown} is no orchestrator: an orchestrator runs it, with ctx.call_activity")
        if isinstance(callee, OrchestratorRef):
            raise TypeError(f"{shown} is no activity: ctx.call_sub_orchestrator runs it as a child")
        if inspect.isgenerator(callee) or inspect.iscoroutine(callee):
            raise TypeError(f"{shown} is no {ref.kind} but a call of one: give the function, and then its arguments")
        if inspect.isroutine(callee) or inspect.isclass(callee):  # their repr is an address or a path
            shown = f"{'class' if inspect.isclass(callee) else 'function'} {callee.__name__!r}"
        raise TypeError(f"{shown} is no {ref.kind}: decorate it with @durable.{ref.kind}, or give its name")
