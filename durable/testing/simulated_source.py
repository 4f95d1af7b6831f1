"""The event sources of a simulation: one that brings events, and one that takes them.

They keep the laws of `durable.ports.EventSource` and no more: what is not acknowledged comes again when its receiver
is gone, an acknowledgement over a connection that has ended says nothing, and what is sent may have arrived.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from ..ports import Published
from ..runtime.requests import Emit, Occurred, Sources, SourceTag, Taken
from ..triggers.changes import Source
from ..triggers.event import read_event

if TYPE_CHECKING:
    from .simulated_worker import Worker
    from .simulated_world import World

BRINGS: Final = "brings"
TAKES: Final = "takes"
SOURCES: Final = {BRINGS: Source("simulated://1"), TAKES: Source("simulated://2", receives=False)}
_TOGETHER: Final = 5  # events that come together, at most


class EventSources:
    """`sent`: the ids of the events that the one which takes them has, and how often."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: Counter[str] = Counter()
        self._waiting: list[bytes] = []
        self._lives: dict[Worker, int] = {}  # of the connections of those who receive
        self._unsettled: dict[SourceTag, list[bytes]] = {}
        self._number = 0

    @property
    def busy(self) -> bool:
        """Whether there are events that nobody has taken."""
        return bool(self._waiting or self._unsettled)

    def bring(self, body: bytes) -> None:
        """Somebody outside puts an event in, for certain."""
        self._waiting.append(body)
        self.world.soon(self._dispatch)

    # ---- asked by a worker

    def serve(self, worker: Worker, request: Sources) -> None:
        if BRINGS not in request.wanted:
            self.gone(worker)
        elif worker not in self._lives:
            self._connect(worker)

    def taken(self, worker: Worker, request: Taken) -> None:
        for tag in request.tags:
            if tag.life == self._lives.get(worker):
                self._unsettled.pop(tag, None)
        self.world.soon(self._dispatch)

    def emit(self, request: Emit) -> list[Published]:
        return [self._emit(body) for body in request.bodies]

    def _emit(self, body: bytes) -> Published:
        unknown = self.world.chance("publish unknown", lambda row: row.kind == "message" and body in row.body)
        if not unknown or self.world.random.random() < 0.5:
            self.sent[read_event(body).id] += 1
        return Published.UNKNOWN if unknown else Published.CONFIRMED

    # ---- connections

    def gone(self, worker: Worker) -> None:
        """It receives no more: what it has not acknowledged comes again."""
        life = self._lives.pop(worker, None)
        for tag in [tag for tag in self._unsettled if tag.life == life]:
            self._waiting[:0] = self._unsettled.pop(tag)
        self.world.soon(self._dispatch)

    def cut(self, worker: Worker) -> None:
        """Its connection ended, and there is another one in a while: it is not told."""
        if worker in self._lives:
            self.gone(worker)
            self._connect(worker)

    def _connect(self, worker: Worker) -> None:
        self._number += 1
        self._lives[worker] = self._number
        self.world.later(self.world.random.random(), self._dispatch)

    def _dispatch(self) -> None:
        random = self.world.random
        if self._waiting and self._lives:
            worker = random.choice(list(self._lives))
            count = random.randint(1, _TOGETHER)
            bodies, self._waiting = self._waiting[:count], self._waiting[count:]
            self._number += 1
            tag = SourceTag(BRINGS, self._lives[worker], self._number)
            self._unsettled[tag] = bodies
            worker.tell(Occurred(bodies, tag))
            self.world.soon(self._dispatch)
