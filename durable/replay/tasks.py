"""Tasks: what an orchestrator yields. A tree of them is the context of the trigger an orchestration waits with.

Laws.
1. A settled task stays settled; only the first outcome counts.
2. Leaves are settled by facts (or `cancel`), composites by their children, through links to their parents, so that
   a fan-in costs one step per fact whatever its width.
3. `order` numbers settlements in the order of the history; `task_any` takes the lowest, then list order.
4. A task is no result. Whoever uses it as one (adds, indexes, iterates, formats, returns it) is told so at that line;
   only `==` and `hash` work, by identity, and `repr` and `str`, which say what it is.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, Protocol, TypeGuard, TypeVar

import msgspec

from ..model.errors import PayloadError, TaskCancelledError, TaskFailedError, TimeoutError
from ..model.failure import FailureDetails, is_really, type_name
from ..payload.values import decode
from ..triggers.event import to_sdk
from ..triggers.pattern import EventPattern
from .callee import ActivityRef, OrchestratorRef
from .guard import TurnTooLong

R = TypeVar("R", covariant=True)

# What a forgetful `total = ctx.call_activity(...)` meets next.
_OPERATIONS: Final = """
    add radd sub rsub mul rmul matmul rmatmul truediv rtruediv floordiv rfloordiv mod rmod divmod rdivmod pow rpow
    lshift rlshift rshift rrshift and rand xor rxor or ror neg pos abs invert
    lt le gt ge int float complex index round trunc floor ceil
    len contains getitem setitem delitem reversed format
""".split()


class Canceller(Protocol):
    """Who can end the wait for a leaf: the execution it belongs to."""

    settled: int

    def cancel(self, leaf: Leaf[Any]) -> None: ...


class Task(Generic[R]):
    """Something that will have an outcome. `x = yield task` waits for it; `yield from task` and `await task` too."""

    __slots__ = ("_error", "_parents", "_value", "order", "owner")
    made_by = "call_activity"  # the method of the context

    def __init__(self, owner: Canceller) -> None:
        self.owner = owner
        self._parents: list[Composite[Any]] = []
        self._value: Any = None
        self._error: BaseException | None = None
        self.order = 0

    @property
    def is_completed(self) -> bool:
        """Whether it has an outcome: a result, a failure or a cancellation."""
        return self.order != 0

    @property
    def is_failed(self) -> bool:
        """Whether its outcome is an error."""
        return self.order != 0 and self._error is not None

    def result(self) -> R:
        """The result. Raises what the task failed with, or RuntimeError if it has no outcome yet."""
        if not self.order:
            raise RuntimeError(f"{self!r} has no result yet: yield it first")
        if self._error is not None:
            raise self._error
        value: R = self._read()
        return value

    def cancel(self) -> bool:
        """Stop waiting for it: it then raises TaskCancelledError. False when it had finished."""
        raise NotImplementedError

    def __iter__(self) -> Generator[Task[Any], Any, R]:
        value: R = yield self
        if value is None and not self.order:  # resumed by a `for` or an unpacking: the engine would have waited
            raise TypeError(f"{self!r} {self.__no_payload__()}")
        return value

    def __await__(self) -> Generator[Task[Any], Any, R]:
        return self.__iter__()

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} {self.__no_payload__()}")

    if not TYPE_CHECKING:  # a type checker that saw it would take any name

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(f"{self!r} has no attribute {name!r}; it {self.__no_payload__()}")

    def __no_payload__(self) -> str:
        """Why it is no value, after its name; `payload.plain` asks for it too."""
        if self.order:
            return "is a task, not its result: use its .result()"
        return (
            f"is a task, not its result: did you forget yield? Write `x = yield ctx.{self.made_by}(...)` "
            "(in an `async def`: await)"
        )

    def _read(self) -> Any:
        return self._value

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if self.order:
            return
        self.owner.settled += 1
        self.order = self.owner.settled
        self._value = value
        self._error = error
        parents, self._parents = self._parents, []
        for parent in parents:
            parent.child_settled(self)


def _is_no_result(task: Task[Any], *_: object) -> NoReturn:
    raise TypeError(f"{task!r} {task.__no_payload__()}")


for _operation in _OPERATIONS:
    setattr(Task, f"__{_operation}__", _is_no_result)


class Leaf(Task[R]):
    """A task with a number in its history: the outcome arrives as a fact."""

    __slots__ = ("id",)

    def __init__(self, owner: Canceller, task_id: int) -> None:
        super().__init__(owner)
        self.id = task_id

    def cancel(self) -> bool:
        if self.order:
            return False
        self.owner.cancel(self)
        self._settle(None, TaskCancelledError(f"{self!r} was cancelled by the orchestrator"))
        return True

    def _decoded(self, raw: msgspec.Raw, hint: Any, where: str) -> Any:
        try:
            return decode(raw, hint, where)
        except PayloadError as error:
            error.task_id = self.id  # recorded with the failure, so that a reader can tell which task it was
            raise


class CallTask(Leaf[R]):
    """An activity or a sub-orchestration. `attempt`: the open one; `retry_timer`: it waits to be tried again.

    spent: attempts before the last rewind, which its retry policy does not count.
    """

    __slots__ = ("attempt", "child_id", "explicit_id", "first_at", "input", "ref", "retry_timer", "spent")

    def __init__(
        self,
        owner: Canceller,
        task_id: int,
        ref: ActivityRef[Any, Any] | OrchestratorRef[Any, Any],
        payload: msgspec.Raw,
        first_at: Any,
        explicit_id: str = "",
    ) -> None:
        super().__init__(owner, task_id)
        self.ref = ref
        self.input = payload
        self.attempt = 1
        self.spent = 0
        self.first_at = first_at
        self.retry_timer = False
        self.explicit_id = explicit_id
        self.child_id = explicit_id

    def complete(self, raw: msgspec.Raw) -> None:
        """The outcome is a result; it is decoded when the code reads it, so a misfit raises at its line."""
        self.input = msgspec.Raw()
        self._settle(raw, None)

    def fail(self, failure: FailureDetails) -> None:
        self.input = msgspec.Raw()
        message = f"{self.ref.kind} {self.ref.name!r} (task {self.id}) failed: {failure.summary}"
        error = TaskFailedError(message, failure)
        error.task_id = self.id
        self._settle(None, error)

    def anew(self, attempt: int, at: datetime) -> None:
        """Rewound at this time: its open attempt counts as the first one."""
        self.attempt, self.spent, self.first_at, self.retry_timer = attempt, attempt - 1, at, False

    def _read(self) -> Any:
        if isinstance(self._value, msgspec.Raw):
            where = f"the result of {self.ref.kind} {self.ref.name!r} (task {self.id})"
            self._value = self._decoded(self._value, self.ref.returns, where)
        return self._value

    def __repr__(self) -> str:
        return f"<Task {self.id}: {self.ref.kind} {self.ref.name!r}>"


class TimerTask(Leaf[None]):
    """A durable timer."""

    __slots__ = ()
    made_by = "create_timer"

    def fired(self) -> None:
        self._settle(None, None)

    def __repr__(self) -> str:
        return f"<Task {self.id}: timer>"


class WaitTask(Leaf[R]):
    """A wait for an external event. `expired_at`: the number of buffered events when its timeout fired, else None."""

    __slots__ = ("expired_at", "hint", "name", "timed")
    made_by = "wait_for_external_event"

    def __init__(self, owner: Canceller, task_id: int, name: str, hint: Any, timed: bool) -> None:
        super().__init__(owner, task_id)
        self.name = name
        self.hint = hint
        self.timed = timed
        self.expired_at: int | None = None

    def take(self, raw: msgspec.Raw) -> None:
        self._settle(raw, None)

    def time_out(self) -> None:
        self._settle(None, TimeoutError(f"no event {self.name!r} came in time (task {self.id})"))

    def _read(self) -> Any:
        if isinstance(self._value, msgspec.Raw):
            self._value = self._decoded(self._value, self.hint, f"the data of event {self.name!r}")
        return self._value

    def __repr__(self) -> str:
        return f"<Task {self.id}: wait for event {self.name!r}>"


class CloudEventTask(Leaf[Any]):
    """A wait for the first CloudEvent of a pattern that is published from then on: it is found by its number."""

    __slots__ = ("pattern", "timed")
    made_by = "wait_for_cloudevent"

    def __init__(self, owner: Canceller, task_id: int, pattern: EventPattern, timed: bool) -> None:
        super().__init__(owner, task_id)
        self.pattern = pattern
        self.timed = timed

    def take(self, raw: msgspec.Raw) -> None:
        self._settle(raw, None)

    def time_out(self) -> None:
        self._settle(None, TimeoutError(f"no CloudEvent of {self.pattern!r} came in time (task {self.id})"))

    def _read(self) -> Any:
        if isinstance(self._value, msgspec.Raw):
            self._value = to_sdk(bytes(self._value))
        return self._value

    def __repr__(self) -> str:
        return f"<Task {self.id}: wait for a CloudEvent of {self.pattern!r}>"


class Composite(Task[R]):
    """A task that is settled by others. `children`: those it still waits for among them; `MapTask` (fan_out.py) has
    more to come."""

    __slots__ = ("children",)

    def __init__(self, owner: Canceller, children: Collection[Task[Any]]) -> None:
        super().__init__(owner)
        self.children = children
        for child in children:
            if not child.order:
                child._parents.append(self)

    @property
    def parts(self) -> Collection[Task[Any]]:
        """Those it is made of so far, finished or not."""
        return self.children

    def cancel(self) -> bool:
        if self.order:
            return False
        self._settle(None, TaskCancelledError(f"{self!r} was cancelled by the orchestrator"))
        for child in self.children:
            child.cancel()
        return True

    def child_settled(self, child: Task[Any]) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        # A loop that races the same tasks again and again must not leave one dead parent per round on each of them.
        for child in self.children:
            if not child.order:
                child._parents = [parent for parent in child._parents if parent is not self]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.children)}>"


class AllTask(Composite[R]):
    """All of them, in order; fails as soon as one fails unless it gathers the exceptions."""

    __slots__ = ("gather", "missing")
    made_by = "task_all"

    def __init__(self, owner: Canceller, children: Sequence[Task[Any]], gather: bool) -> None:
        super().__init__(owner, children)
        self.gather = gather
        self.missing = sum(1 for child in children if not child.order)
        failed = None if gather else _first(child for child in children if child.is_failed)
        if failed is not None:
            self._settle(None, failed._error)
            self._leave()
        elif not self.missing:
            self._settle(None, None)

    def child_settled(self, child: Task[Any]) -> None:
        self.missing -= 1
        if child._error is not None and not self.gather:
            self._settle(None, child._error)
            self._leave()
        elif not self.missing:
            self._settle(None, None)

    def _read(self) -> Any:
        if self._value is None:
            self._value = [outcome(child, self.gather) for child in self.children]
        return self._value


class AnyTask(Composite[R]):
    """The first of them that has an outcome; its result is that task."""

    __slots__ = ()
    made_by = "task_any"

    def __init__(self, owner: Canceller, children: Sequence[Task[Any]]) -> None:
        super().__init__(owner, children)
        winner = _first(child for child in children if child.order)
        if winner is not None:
            self.child_settled(winner)

    def child_settled(self, child: Task[Any]) -> None:
        self._settle(child, None)
        self._leave()


def outcome(task: Task[Any], gather: bool) -> Any:
    """The result; where exceptions are gathered, also what it failed with, or that it is not of the declared type."""
    if not gather:
        return task.result()
    if task._error is not None:
        return task._error
    try:
        return task.result()
    except PayloadError as error:
        # Kept for long, it would keep the frames, and all they know.
        return error.with_traceback(None)


def _first(settled: Iterator[Task[Any]]) -> Task[Any] | None:
    return min(settled, key=lambda task: task.order, default=None)


def is_task(value: object) -> TypeGuard[Task[Any]]:
    """isinstance, but a type checker then knows of what it is a task: of anything."""
    return is_really(value, Task)


def tasks_in(value: object) -> list[Task[Any]] | None:
    """Those in a list or tuple of nothing but tasks; None if it is none."""
    found: list[Any]
    if is_really(value, list):
        found = list(list.__iter__(value))
    elif is_really(value, tuple):
        found = list(tuple.__iter__(value))
    else:
        return None
    return found if all(map(is_task, found)) else None


def no_task(yielded: object) -> str:
    """What is wrong with yielding this, and what to yield instead."""
    shown = _shown(yielded)
    if hasattr(type(yielded), "send"):
        return f"an orchestrator yielded {shown}: to run a helper that yields tasks, write `yield from helper(...)`"
    return (
        f"an orchestrator yielded {shown}, which is no task: yield what ctx.call_activity, ctx.create_timer and "
        "the other ctx methods return, or a list of such tasks"
    )


def _shown(value: object) -> str:
    try:
        return f"{value!r}"
    except TurnTooLong:
        raise
    except BaseException as broken:
        return f"<{type_name(type(value))}, whose repr raises {type(broken).__name__}>"
