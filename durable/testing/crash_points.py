"""`python -m durable.testing.crash_points`: small programs, each run once for every point at which something may fail.

The run without a fault tells the steps: each request of the worker that reaches the store, the broker or a thread. Then
every step goes wrong in every way it can: the worker dies before it or after it, or does not learn whether it happened.
Whoever dies starts again. The outcome must be that of the run without a fault, and all that the simulator wants of a
run must hold. What lies between two steps needs no point of its own: only the worker's memory and hints change there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple

from ..model.errors import StoreError
from ..model.status import RuntimeStatus
from ..ports import Outcome, Published
from ..runtime import requests as ask
from ..runtime.loop import Settings
from ..runtime.serving import Serving
from .planted import PLANTED, planted
from .programs import Node, Script
from .simulated_client import Client
from .simulated_store import Wrong
from .simulated_worker import Worker
from .simulated_world import HASTY, Plan, World
from .simulator import be_quiet, check_the_end

CRASH_BEFORE: Final = "crash-before"
CRASH_AFTER: Final = "crash-after"
UNKNOWN_DONE: Final = "unknown-done"
UNKNOWN_NOT_DONE: Final = "unknown-not-done"

_RESTART: Final = 0.05  # seconds from a crash until the worker is there again
_SETTINGS: Final = Settings(window=5.0, sweep=1.0, retry=0.2)

# ---- the programs


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


# ---- what goes wrong


class Point(NamedTuple):
    """The step of that number goes wrong in this way."""

    step: int
    fault: str

    def __str__(self) -> str:
        return f"{self.step}:{self.fault}"

    @classmethod
    def read(cls, text: str) -> Point:
        step, _, fault = text.partition(":")
        return cls(int(step), fault)


_CRASHES: Final = (CRASH_BEFORE, CRASH_AFTER)
_READ: Final = (*_CRASHES, UNKNOWN_NOT_DONE)  # it does not matter whether an answer that is lost was given
_WRITE: Final = (*_CRASHES, UNKNOWN_NOT_DONE, UNKNOWN_DONE)
FAULTS: Final[dict[type, Sequence[str]]] = {
    ask.Load: _READ,
    ask.Read: _READ,
    ask.Stands: _READ,
    ask.Due: _READ,
    ask.Begin: _WRITE,
    ask.Finish: _WRITE,
    ask.Deliver: _WRITE,
    ask.Claim: _WRITE,
    ask.Publish: _WRITE,
    ask.Settle: _WRITE,
    ask.Declare: _WRITE,
    ask.Receive: _WRITE,
    ask.Run: (CRASH_AFTER,),
}


class Interrupted:
    """Stands between a worker and all that it asks. `steps`: what has been asked so far."""

    def __init__(self, worker: Worker, faults: Mapping[int, str]) -> None:
        self.steps: list[type] = []
        self._worker = worker
        self._faults = faults
        self._answer = worker.answer
        worker.answer = self

    def __call__(self, request: ask.Request) -> Any:
        kind, world = type(request), self._worker.world
        if kind not in FAULTS:
            return self._answer(request)
        fault = self._faults.get(len(self.steps))
        self.steps.append(kind)
        if fault is None:
            return self._done(request)
        world.faults[fault] += 1
        world.note("fault", f"{fault} at {kind.__name__}")
        answer = None if fault in (CRASH_BEFORE, UNKNOWN_NOT_DONE) else self._done(request)
        if fault in _CRASHES:
            if kind is ask.Begin and fault == CRASH_AFTER:
                self._worker.finish()
            self._worker.crash()
            world.later(_RESTART, self._worker.reboot)
            return answer
        return self._unknown(request, fault == UNKNOWN_DONE)

    def _done(self, request: ask.Request) -> Any:
        """A commit happens with its `Finish`, so that a crash between the two leaves nothing of it."""
        if not isinstance(request, ask.Begin):
            return self._answer(request)
        self._worker.finish = lambda: self._worker.world.front.commit(request.commits)

    def _unknown(self, request: ask.Request, done: bool) -> Any:
        """What the worker is told in place of an answer."""
        worker, broker = self._worker, self._worker.world.broker
        if isinstance(request, ask.Begin):
            if done:
                worker.finish()
            worker.finish = lambda: [Outcome.UNKNOWN] * len(request.commits)
        elif isinstance(request, ask.Publish):
            return [Published.UNKNOWN] * len(request.messages)
        elif isinstance(request, ask.Settle):
            broker.cut(worker)
            broker.mend(worker)
        elif isinstance(request, ask.Declare):
            return []
        elif not isinstance(request, ask.Receive):
            raise StoreError("simulated: nobody knows whether it was done")
        return None


# ---- a run


class Run(NamedTuple):
    """How a run ended: `outcomes` of all instances, `wrong` unless empty; and its steps."""

    outcomes: Sequence[tuple[str, str]]
    wrong: str
    steps: Sequence[type]


def run(program: Program, mail: bool, points: Sequence[Point] = (), *, bug: str = "", trace: bool = False) -> Run:
    """One run, in which these points go wrong."""
    serving = Serving(by_mail=mail, eager=not mail, announces=mail, slots=4, carried=7, patience=HASTY)
    plan = Plan(1, 1, _SETTINGS, 3.0, [], 0.0, {}, {}, [], (), 0.002, serving)
    with planted(bug) as store_type:
        world = World(Random(1), plan, print if trace else None, store_type(1))
        world.clients = [Steered(world, program)]
        way = Interrupted(world.workers[0], dict(points))
        outcomes: Sequence[tuple[str, str]] = ()
        try:
            world.run()
            outcomes = _outcomes(world)
            check_the_end(world)
            wrong = "the client waits for ever" if any(client.busy for client in world.clients) else ""
        except Wrong as error:
            wrong = str(error)
    return Run(outcomes, wrong, way.steps)


def _outcomes(world: World) -> list[tuple[str, str]]:
    summaries = [found.summary for found in world.store.inner._instances.values()]
    return sorted((summary.status.value, bytes(summary.output).decode()) for summary in summaries)


class Total(NamedTuple):
    """All runs of one program over one road. failed: the points of those that went wrong, and how."""

    name: str
    mail: bool
    steps: int
    runs: int
    failed: Sequence[tuple[Sequence[Point], str]]


def every_point(name: str, mail: bool, *, bug: str = "", pairs: bool = False) -> Total:
    """Run this program once for each crash point; with `pairs`, for each two."""
    program = PROGRAMS[name]
    right = run(program, mail)
    if right.wrong:
        raise Wrong(f"{name} goes wrong without any fault: {right.wrong}")
    failed: list[tuple[Sequence[Point], str]] = []
    runs = 0
    for point in _points(right, 0):
        ended = run(program, mail, [point], bug=bug)
        later = _points(ended, point.step + 1) if pairs else ()
        for points, one in [([point], ended), *(([point, second], None) for second in later)]:
            found = one or run(program, mail, points, bug=bug)
            runs += 1
            wrong = found.wrong or _difference(found, right)
            if wrong:
                failed.append((points, wrong))
    return Total(name, mail, len(right.steps), runs, failed)


def _points(ended: Run, first: int) -> Iterator[Point]:
    for number in range(first, len(ended.steps)):
        for fault in FAULTS[ended.steps[number]]:
            yield Point(number, fault)


def _difference(found: Run, right: Run) -> str:
    return "" if found.outcomes == right.outcomes else f"it came to {found.outcomes} and not to {right.outcomes}"


# ---- the command


def command(total: Total, points: Sequence[Point], bug: str = "") -> str:
    """What runs these points again, with a trace."""
    words = [f"python -m durable.testing.crash_points --program {total.name}", "--mail" if total.mail else "--no-mail"]
    words += [f"--at {point}" for point in points]
    return " ".join([*words, *([f"--bug {bug}"] if bug else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m durable.testing.crash_points", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--program", choices=PROGRAMS, help="only this one")
    parser.add_argument("--mail", action=argparse.BooleanOptionalAction, help="only with a transport, or only without")
    parser.add_argument("--at", type=Point.read, action="append", help="with both: one run, these points, and a trace")
    smallest = f"of {', '.join(PAIRED)} or of --program"
    parser.add_argument("--pairs", action="store_true", help=f"also all pairs of points, {smallest}")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--bug", choices=sorted(PLANTED), default="", help="plant this bug, which must show")
    given = parser.parse_args(arguments)
    be_quiet()
    if given.at:
        return _show(given.program, given.mail, given.at, given.bug)
    roads = (False, True) if given.mail is None else (given.mail,)
    todo = [(name, mail) for name in ([given.program] if given.program else PROGRAMS) for mail in roads]
    began = time.monotonic()
    totals: list[Total] = []
    with ProcessPoolExecutor(given.jobs, initializer=be_quiet) as pool:
        paired = () if not given.pairs else (given.program,) if given.program else PAIRED
        for total in pool.map(partial(_one, bug=given.bug, paired=paired), todo):
            totals.append(total)
            road = "with mail" if total.mail else "without"
            print(f"{total.name:13} {road:10} {total.steps:4} steps {total.runs:7,} runs {len(total.failed):5} wrong")
            for points, wrong in total.failed[:3]:
                print(f"    {wrong}\n    {command(total, points, given.bug)}", flush=True)
    wrong = sum(len(total.failed) for total in totals)
    runs = sum(total.runs for total in totals)
    print(f"{runs:,} runs in {time.monotonic() - began:.0f} s: {wrong or 'none'} wrong")
    return 1 if wrong else 0


def _one(what: tuple[str, bool], bug: str, paired: Sequence[str]) -> Total:
    name, mail = what
    return every_point(name, mail, bug=bug, pairs=name in paired)


def _show(name: str, mail: bool, points: Sequence[Point], bug: str) -> int:
    found = run(PROGRAMS[name], mail, points, bug=bug, trace=True)
    wrong = found.wrong or _difference(found, run(PROGRAMS[name], mail))
    print(f"{name} at {' and '.join(map(str, points))}: {wrong or 'right'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
