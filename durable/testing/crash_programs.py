"""The programs of `crash_points`: small, and each of one outcome, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from ..app.actions import trigger
from ..engine.triggering import ASKED, begin
from ..model import history as h
from ..model.history import Event, Raw, encode_event
from ..model.names import TRIGGERS, partition_of
from ..model.status import RuntimeStatus
from ..ports import Fact
from ..triggers.actions import StartOrchestration
from ..triggers.asks import Add, Ask, encode_ask
from ..triggers.conditions import Join
from ..triggers.pattern import EventPattern
from .programs import Node
from .random_programs import Script
from .simulated_client import Client
from .simulated_publisher import Published
from .simulated_world import World


class Program(NamedTuple):
    """A program, and what its client does once it is started: a verb, or how many instances to wait for until then.

    asked: the client asks a worker to create it together with its first turn, and creates it itself a moment later.
    """

    body: Node
    acts: Sequence[str | int] = ()
    rounds: int = 0
    asked: bool = False


def _act(key: str, fails: int = 0, attempts: int = 1) -> Node:
    return ["act", key, fails, attempts, 0.1, ""]


def _child(body: Node, attempts: int = 1) -> Node:
    return ["child", "coroutine", [body, 0, []], attempts]


PROGRAMS: Final[dict[str, Program]] = {
    "sequence": Program(["seq", [_act("a"), _act("b")]]),
    "timer": Program(["seq", [["timer", 0.3], _act("a")]]),
    "event": Program(["event", "go", None], ["go"]),
    "late": Program(["try", ["event", "go", 0.4]], rounds=1),
    "asked": Program(["seq", [_act("a"), ["timer", 0.1]]], asked=True),
    "fan-out": Program(["all", [_act(key) for key in "abcd"], False]),
    "map": Program(["map", [_act(key) for key in "abcde"], 2, False]),
    "children": Program(["all", [_child(_act("a")), _child(["seq", [_act("b"), _child(_act("c"))]])], False]),
    "retries": Program(["seq", [_act("a", 2, 3), ["try", _act("b", 9, 2)], ["try", _child(_act("c", 9), 2)]]]),
    "rounds": Program(["seq", [_act("a"), ["event", "go", None]]], ["go", "again", "go", "again", "go"], rounds=2),
    "compensation": Program(["guard", ["seq", [_act("a"), ["event", "go", None]]], _act("undo")], [1, "cancel"]),
    "detached": Program(
        ["seq", [["detach", "generator", [_act("a"), 0, []]], ["lose", "nobody"], ["tell", "self"], _act("b")]]
    ),
    "suspended": Program(
        ["seq", [_act("a"), ["event", "go", None], _act("b")]], [1, "suspend", "go", "resume", "suspend", "resume"]
    ),
    "rewound": Program(["seq", [_act("a"), _child(_act("b", 9))]], ["rewind", "rewind"]),
    "join": Program(_act("a"), ["join", "part", "part", "part"]),
    "terminated": Program(["all", [_child(["event", "go", None]), _act("a")], False], [2, "terminate"]),
}
PAIRED: Final = ("sequence", "timer", "event", "late")  # the smallest


class Steered(Client):
    """Does what is written for it, and nothing by chance."""

    def __init__(self, world: World, program: Program) -> None:
        super().__init__(world, 0, Script("generator", [program.body, program.rounds, []], []), False)
        self.delay = None
        self._asks_worker = program.asked
        self.acts = [self._start]
        self._events = 0
        for act in program.acts:
            self.acts.append(partial(self._are_running, act) if isinstance(act, int) else self._verb(act))

    def _verb(self, verb: str) -> Callable[[], bool]:
        verbs: dict[str, Callable[[], bool]] = {
            "suspend": self._suspend,
            "resume": self._resume,
            "cancel": self._cancel,
            "rewind": self._rewind,
            "terminate": self._terminate,
            "join": self._join,
            "again": self.acts[-1],
        }
        if verb in verbs:
            return verbs[verb]
        number, self._events = self._events, self._events + 1
        if verb == "part":
            return partial(self._publish, f"part-{number}")
        return partial(self._raise, verb, f"e:{verb}#{number}", number)

    def _join(self) -> bool:
        """Add a trigger that starts an orchestration when two parts have come."""
        world = self.world
        starts = StartOrchestration(
            "generator", input=Raw(msgspec.json.encode([_act("b"), 0, []])), instance_id="joined"
        )
        added = Add(trigger("join", on=EventPattern("part"), condition=Join(2), action=starts, transient=False))
        world.front.commit([begin(self._now(), world.mint, world.plan.partitions)])
        return self._tell_triggers("ask", Event(ASKED, self._now(), input=encode_ask(Ask("ask", (added,)))))

    def _publish(self, name: str) -> bool:
        return self._tell_triggers(
            name, Event(h.EVENT_RAISED, self._now(), input=Raw(Published(name, "part", "p").body))
        )

    def _tell_triggers(self, name: str, event: Event) -> bool:
        partition = partition_of(TRIGGERS, self.world.plan.partitions)
        self.world.front.deliver([Fact(TRIGGERS, partition, name, encode_event(event), event.timestamp.timestamp())])
        self.world.notify([TRIGGERS])
        return True

    def _are_running(self, count: int) -> bool:
        known = self.world.store.inner._instances.values()
        return sum(found.summary.status is RuntimeStatus.RUNNING for found in known) >= count
