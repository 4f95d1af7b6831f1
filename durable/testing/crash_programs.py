"""The programs of `crash_points`: small, and each of one outcome, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from ..model.status import RuntimeStatus
from .programs import Node, Script
from .simulated_client import Client
from .simulated_world import World


class Program(NamedTuple):
    """A program, and what its client does once it is started: a verb, or how many instances to wait for until then."""

    body: Node
    acts: Sequence[str | int] = ()
    rounds: int = 0


def _act(key: str, fails: int = 0, attempts: int = 1) -> Node:
    return ["act", key, fails, attempts, 0.1, ""]


def _child(body: Node, attempts: int = 1) -> Node:
    return ["child", "coroutine", [body, 0, []], attempts]


PROGRAMS: Final[dict[str, Program]] = {
    "sequence": Program(["seq", [_act("a"), _act("b")]]),
    "timer": Program(["seq", [["timer", 0.3], _act("a")]]),
    "event": Program(["event", "go", None], ["go"]),
    "late": Program(["try", ["event", "go", 0.4]]),
    "fan-out": Program(["all", [_act(key) for key in "abcd"], False]),
    "map": Program(["map", [_act(key) for key in "abcde"], 2, False]),
    "children": Program(["all", [_child(_act("a")), _child(["seq", [_act("b"), _child(_act("c"))]])], False]),
    "retries": Program(["seq", [_act("a", 2, 3), ["try", _act("b", 9, 2)], ["try", _child(_act("c", 9), 2)]]]),
    "rounds": Program(["seq", [_act("a"), ["event", "go", None]]], ["go", "go", "go"], rounds=2),
    "compensation": Program(["guard", ["seq", [_act("a"), ["event", "go", None]]], _act("undo")], [1, "cancel"]),
    "detached": Program(
        ["seq", [["detach", "generator", [_act("a"), 0, []]], ["lose", "nobody"], ["tell", "self"], _act("b")]]
    ),
    "suspended": Program(
        ["seq", [_act("a"), ["event", "go", None], _act("b")]], [1, "suspend", "go", "resume", "suspend", "resume"]
    ),
    "rewound": Program(["seq", [_act("a"), _child(_act("b", 9))]], ["rewind", "rewind"]),
    "terminated": Program(["all", [_child(["event", "go", None]), _act("a")], False], [2, "terminate"]),
}
PAIRED: Final = ("sequence", "timer", "event", "late")  # the smallest


class Steered(Client):
    """Does what is written for it, and nothing by chance."""

    def __init__(self, world: World, program: Program) -> None:
        super().__init__(world, 0, Script("generator", [program.body, program.rounds, []], []), False)
        self.delay = None
        self._asks_worker = False
        verbs: dict[str, Callable[[], bool]] = {
            "suspend": self._suspend,
            "resume": self._resume,
            "cancel": self._cancel,
            "rewind": self._rewind,
            "terminate": self._terminate,
        }
        self.acts = [self._start]
        for number, act in enumerate(program.acts):
            if isinstance(act, int):
                self.acts.append(partial(self._are_running, act))
            else:
                self.acts.append(verbs.get(act) or partial(self._raise, act, f"e:{act}#{number}", number))

    def _are_running(self, count: int) -> bool:
        known = self.world.store.inner._instances.values()
        return sum(found.summary.status is RuntimeStatus.RUNNING for found in known) >= count
