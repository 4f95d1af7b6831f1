"""`ctx.map`: one call for each item, only so many at a time; the next one starts when one has its outcome.

Laws.
1. The next item starts with the fact that settles one, before the code sees that fact: on replay the recorded command
   stands in the same place.
2. Each settled item costs one step, however many there are: only the open ones are children.
3. After a failure that is not gathered, no further item starts; those that are open go on.
4. A failure that was rewound is passed over: its item is open again, and what followed it then follows it again. The
   next item had its place where failures are gathered; else none starts before the rewind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from .tasks import CallTask, Canceller, Composite, Task, outcome

R = TypeVar("R", covariant=True)


class Start(Protocol):
    """How to call for one item; `after`: the call that has just made room for it, None at first."""

    def __call__(self, payload: msgspec.Raw, after: CallTask[Any] | None) -> CallTask[Any]: ...


class MapTask(Composite[R]):
    """The results for all items, in order. `calls`: what has been started, in the order of the items.

    halted_by: items whose failures, rewound since, keep further ones from starting.
    """

    __slots__ = ("_followed", "_open", "_room", "_start", "_waiting", "calls", "gather", "halted_by", "size")
    made_by = "map"

    def __init__(
        self, owner: Canceller, inputs: Iterable[msgspec.Raw], start: Start, at_once: int | None, gather: bool
    ) -> None:
        self._open: dict[int, CallTask[Any]] = {}
        self.halted_by: set[int] = set()
        self._room = 0  # for as many more, but for `halted_by`
        self._followed: set[int] = set()
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
        elif self.halted_by:
            self._room += 1
        elif self._waiting and child.id not in self._followed:
            self._start_next(child)
        elif not self._open:
            self._settle(None, None)

    def pass_over(self, failed: CallTask[Any]) -> bool:
        """An item has failed, and this was rewound: law 4. Whether nothing starts now until `go_on`."""
        if not self.gather:
            self.halted_by.add(failed.id)
            return len(self.halted_by) == 1
        if self._waiting and failed.id not in self._followed:
            self._followed.add(failed.id)
            self._start_next(failed)
        return False

    def go_on(self) -> None:
        """None of those failures stands any more."""
        self.halted_by.clear()
        room, self._room = self._room, 0
        if not self.order:
            for _ in range(min(room, len(self._waiting))):
                self._start_next(None)

    @property
    def parts(self) -> Collection[Task[Any]]:
        return self.calls

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
