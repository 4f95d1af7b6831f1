"""Who publishes events in a simulation: never sure that it worked, so again and again.

The events have no sense but to be counted, or to say what is to be started, called or raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ..model.errors import StoreError
from .programs import TICK
from .random_programs import make_order

if TYPE_CHECKING:
    from .simulated_triggers import Triggers

SOURCE: Final = "/simulated"
ORDER: Final = "order"  # the type of events that start an orchestration, each one its own


class Published(NamedTuple):
    """An event. Its subject is its publisher, or the orchestration that it is about."""

    id: str
    type: str
    subject: str
    data: Any = None
    delay: float = 0.0

    @property
    def body(self) -> bytes:
        event = {"specversion": "1.0", "source": SOURCE, "id": self.id, "type": self.type, "subject": self.subject}
        return msgspec.json.encode({**event, "data": self.data})


class Publisher:
    """Publishes events, one after the other; never sure, it repeats itself. `delays`: some come later. `away`: how
    often at an event source, which may bring some again, behind others."""

    def __init__(self, triggers: Triggers, name: str) -> None:
        random = triggers.world.random
        self.triggers = triggers
        self.name = name
        self.delays = random.random() < 0.3
        self.away = random.choice((0.0, 0.0, 0.5, 1.0))
        kinds = random.choices(("part", "bad", "call", ORDER), (14, 1, 2, 3), k=random.choice((3, 8, 20)))
        self.left = [self._event(f"{name}-{number:02}", kind) for number, kind in enumerate(kinds)]

    @property
    def busy(self) -> bool:
        return bool(self.left)

    @property
    def in_order(self) -> bool:
        return not self.delays and not self.away

    def _event(self, id: str, kind: str) -> Published:
        random = self.triggers.world.random
        data = None
        if kind == "call":
            data = [id, random.choice((0, 0, 1, 9))]
        elif kind == ORDER:
            data = make_order(random)
        delay = random.uniform(0.1, 2.0) if self.delays and random.random() < 0.3 else 0.0
        return Published(id, kind, self.name, data, delay)

    def act(self) -> None:
        world = self.triggers.world
        try:
            event = self.left[0]
            self.triggers.publish(event, 0.0 if event.delay else self.away)
        except StoreError:
            pass  # it may have happened all the same
        else:
            if world.random.random() > 0.3:
                self.left.pop(0)
        if self.left:
            world.later(world.random.random() * (0.02 if world.random.random() < 0.8 else 1.0), self.act)


class Ticker:
    """Ticks as long as an orchestration may wait for it; never before the last tick was taken."""

    def __init__(self, triggers: Triggers) -> None:
        self.triggers = triggers
        self.busy = True
        self._ticks = 0
        self._last: Published | None = None
        self._unsure = False  # whether the last one was published

    def act(self) -> None:
        world = self.triggers.world
        waiting = world.has_work() or any(publisher.busy for publisher in self.triggers.publishers)
        self.busy = waiting or self._unsure
        if not self.busy:
            return
        if self._last is None or not self.triggers.is_waiting(self._last):
            self._tick()
        world.later(world.random.uniform(0.05, 1.0), self.act)

    def _tick(self) -> None:
        if self._last is None or not self._unsure:
            self._last = Published(f"{TICK}-{self._ticks}", TICK, TICK)
            self._ticks += 1
        try:
            self.triggers.publish(self._last)
            self._unsure = False
        except StoreError:
            self._unsure = True
