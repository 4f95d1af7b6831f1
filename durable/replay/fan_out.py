"""`ctx.map`: one call for each item, only so many at a time; the next one starts when one has its outcome.

Laws.
1. The next item starts with the fact that settles one, before the code sees that fact: on replay the recorded command
   stands in the same place.
2. Each settled item costs one step, however many there are: only the open ones are children.
3. After a failure that is not gathered, no further item starts; those that are open go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from .tasks import CallTask, Canceller, Composite, Task, outcome

R = TypeVar("R", covariant=True)


class Start(Protocol):
    """How to call for one item; `after`: the call that has just made room for it, None at first."""

    def __call__(self, payload: msgspec.Raw, after: CallTask[Any] | None) -> CallTask[Any]: ...


class MapTask(Composite[R]):
    """The results for all items, in order. `calls`: what has been started, in the order of the items."""

    __slots__ = ("_open", "_start", "_waiting", "calls", "gather", "size")
    made_by = "map"

    def __init__(
        self, owner: Canceller, inputs: Iterable[msgspec.Raw], start: Start, at_once: int | None, gather: bool
    ) -> None:
        self._open: dict[int, CallTask[Any]] = {}
        super().__init__(owner, self._open.values())
        self._waiting = deque(inputs)
        self._start = start
        self.calls: list[CallTask[Any]] = []
        self.gather = gather
        self.size = len(self._waiting)
        for _ in range(self.size if at_once is None else min(at_once, self.size)):
            self._start_next(None)
        if not self.size:
            self._settle(None, None)

    def child_settled(self, child: Task[Any]) -> None:
        if self.order:  # cancelled: it is settled first, then its children
            return
        assert isinstance(child, CallTask)
        del self._open[child.id]
        if child._error is not None and not self.gather:
            self._settle(None, child._error)
            self._leave()
        elif self._waiting:
            self._start_next(child)
        elif not self._open:
            self._settle(None, None)

    def _start_next(self, after: CallTask[Any] | None) -> None:
        call = self._start(self._waiting.popleft(), after)
        call._parents.append(self)
        self._open[call.id] = call
        self.calls.append(call)

    def _read(self) -> Any:
        if self._value is None:
            self._value = [outcome(call, self.gather) for call in self.calls]
        return self._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.size}>"
