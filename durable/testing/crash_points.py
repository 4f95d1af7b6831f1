"""`python -m durable.testing.crash_points`: small programs, each run once for every point at which something may fail.

The run without a fault tells the steps: each request of the worker that reaches the store, the broker or a thread. Then
every step goes wrong in every way it can: the worker dies before it or after it, or does not learn whether it happened.
Whoever dies starts again, or another worker takes over. The outcome must be that of the run without a fault, and all
that the simulator wants of a run must hold. What lies between two steps needs no point of its own: only the worker's
memory and hints change there.
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

from ..engine.instance import Instance
from ..engine.triggering import hub_of
from ..model.errors import StoreError
from ..model.names import TRIGGERS
from ..ports import Outcome, Published, Want
from ..runtime import requests as ask
from ..runtime.loop import Settings
from ..runtime.serving import Serving
from .crash_programs import PAIRED, PROGRAMS, Program, Steered
from .planted import PLANTED, planted
from .programs import root_cause
from .simulated_end import check_the_end
from .simulated_judge import Wrong
from .simulated_worker import Worker
from .simulated_world import HASTY, Plan, World
from .simulator import be_quiet

CRASH_BEFORE: Final = "crash-before"
CRASH_AFTER: Final = "crash-after"
UNKNOWN_DONE: Final = "unknown-done"
UNKNOWN_NOT_DONE: Final = "unknown-not-done"
UNKNOWN_LATE: Final = "unknown-late"  # and done when the worker has given it up

_RESTART: Final = 0.05  # seconds from a crash until the worker is there again
_AWAY: Final = 5.0  # the same, where another one takes over meanwhile
_LATE: Final = 0.4
_SETTINGS: Final = Settings(window=5.0, sweep=1.0, retry=0.2)


class Road(NamedTuple):
    """By which activities travel, and how many workers there are: if more than one, another one takes over."""

    mail: bool
    workers: int


ROADS: Final = {"alone": Road(False, 1), "by-mail": Road(True, 1), "taken-over": Road(True, 2)}

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


Answer = Callable[[Any], Any]

_CRASHES: Final = (CRASH_BEFORE, CRASH_AFTER)
_READ: Final = (*_CRASHES, UNKNOWN_NOT_DONE)  # it does not matter whether an answer that is lost was given
_WRITE: Final = (*_CRASHES, UNKNOWN_NOT_DONE, UNKNOWN_DONE)
_STORE: Final = (*_WRITE, UNKNOWN_LATE)
FAULTS: Final[dict[type, Sequence[str]]] = {
    ask.Load: _READ,
    ask.Read: _READ,
    ask.Stands: _READ,
    ask.Due: _READ,
    ask.Begin: _STORE,
    ask.Finish: _WRITE,
    ask.Deliver: _STORE,
    ask.Claim: _STORE,
    ask.Publish: _WRITE,
    ask.Settle: _WRITE,
    ask.Declare: _WRITE,
    ask.Receive: _WRITE,
    ask.Run: (CRASH_AFTER,),
}


class Interrupted:
    """Stands between the workers and all that they ask. `steps`: what has been asked so far."""

    def __init__(self, world: World, faults: Mapping[int, str]) -> None:
        self.steps: list[type] = []
        self._world = world
        self._faults = faults
        for worker in world.workers:
            worker.answer = partial(self._answer, worker, worker.answer)

    def _answer(self, worker: Worker, answer: Answer, request: ask.Request) -> Any:
        kind = type(request)
        if kind not in FAULTS:
            return answer(request)
        happens = partial(answer, request)
        if isinstance(request, ask.Begin):
            # With its `Finish`: a crash before that leaves nothing of it, a crash after this all of it.
            worker.finish = happens = partial(self._world.front.commit, request.commits)
        fault = self._faults.get(len(self.steps))
        self.steps.append(kind)
        if fault is None:
            return None if kind is ask.Begin else happens()
        self._world.faults[fault] += 1
        self._world.note("fault", f"{fault} at {kind.__name__}")
        if fault in (CRASH_AFTER, UNKNOWN_DONE):
            happens()
        elif fault == UNKNOWN_LATE:
            self._world.later(_LATE, happens)
        return self._crash(worker) if fault in _CRASHES else self._unknown(worker, request)

    def _crash(self, worker: Worker) -> None:
        worker.crash()
        if len(self._world.workers) > 1:
            self._world.reassign()
            self._world.later(_AWAY, worker.reboot)
        else:
            self._world.later(_RESTART, worker.reboot)

    def _unknown(self, worker: Worker, request: ask.Request) -> Any:
        """What the worker is told in place of an answer."""
        if isinstance(request, ask.Begin):
            worker.finish = lambda: [Outcome.UNKNOWN] * len(request.commits)
        elif isinstance(request, ask.Publish):
            return [Published.UNKNOWN] * len(request.messages)
        elif isinstance(request, ask.Settle):
            self._world.broker.cut(worker)
            self._world.broker.mend(worker)
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


def run(program: Program, road: Road, points: Sequence[Point] = (), *, bug: str = "", trace: bool = False) -> Run:
    """One run, in which these points go wrong."""
    mail = road.mail
    serving = Serving(by_mail=mail, eager=not mail, announces=mail, slots=4, carried=7, patience=HASTY)
    plan = Plan(road.workers, 1, _SETTINGS, 3.0, [], 0.0, {}, {}, [], (), 0.002, serving)
    with planted(bug) as store_type:
        world = World(Random(1), plan, print if trace else None, store_type(1))
        world.clients = [Steered(world, program)]
        way = Interrupted(world, dict(points))
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
    """How all instances stand; of the triggers, how often they have fired."""
    found: list[tuple[str, str]] = []
    for record in world.store.inner.load([Want(instance_id) for instance_id in world.store.inner._instances]):
        assert record is not None
        summary = record.summary
        if summary.instance_id == TRIGGERS:
            hub = hub_of(Instance.of_record(record))
            shown = " ".join(f"{view.id} {view.firings}" for view in map(hub.view, hub.ids) if view is not None)
        elif summary.failure is not None:
            shown = root_cause(summary.failure)
        else:
            shown = bytes(summary.output).decode()
        found.append((summary.status.value, shown))
    return sorted(found)


class Total(NamedTuple):
    """All runs of one program on one road. failed: the points of those that went wrong, and how."""

    program: str
    road: str
    steps: int
    runs: int
    failed: Sequence[tuple[Sequence[Point], str]]


def every_point(name: str, road: str, *, bug: str = "", pairs: bool = False) -> Total:
    """Run this program once for each crash point; with `pairs`, for each two."""
    go = partial(run, PROGRAMS[name], ROADS[road])
    right = go()
    if right.wrong:
        raise Wrong(f"{name} goes wrong without any fault: {right.wrong}")
    failed: list[tuple[Sequence[Point], str]] = []
    runs = 0
    for point in _points(right, 0):
        ended = go([point], bug=bug)
        later = _points(ended, point.step + 1) if pairs else ()
        for points, one in [([point], ended), *(([point, second], None) for second in later)]:
            found = one or go(points, bug=bug)
            runs += 1
            wrong = found.wrong or _difference(found, right)
            if wrong:
                failed.append((points, wrong))
    return Total(name, road, len(right.steps), runs, failed)


def _points(ended: Run, first: int) -> Iterator[Point]:
    for number in range(first, len(ended.steps)):
        for fault in FAULTS[ended.steps[number]]:
            yield Point(number, fault)


def _difference(found: Run, right: Run) -> str:
    return "" if found.outcomes == right.outcomes else f"it came to {found.outcomes} and not to {right.outcomes}"


# ---- the command


def command(total: Total, points: Sequence[Point], bug: str = "") -> str:
    """What runs these points again, with a trace."""
    words = [f"python -m durable.testing.crash_points --program {total.program} --road {total.road}"]
    words += [f"--at {point}" for point in points]
    return " ".join([*words, *([f"--bug {bug}"] if bug else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m durable.testing.crash_points", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--program", choices=PROGRAMS, help="only this one")
    parser.add_argument("--road", choices=ROADS, help="only on this one")
    parser.add_argument("--at", type=Point.read, action="append", help="with both: one run, these points, and a trace")
    smallest = f"of {', '.join(PAIRED)} or of --program"
    parser.add_argument("--pairs", action="store_true", help=f"also all pairs of points, {smallest}")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--bug", choices=sorted(PLANTED), default="", help="plant this bug, which must show")
    given = parser.parse_args(arguments)
    be_quiet()
    if given.at:
        if not given.program or not given.road:
            parser.error("--at needs --program and --road")
        return _show(given.program, given.road, given.at, given.bug)
    todo = [
        (name, road)
        for name in ([given.program] if given.program else PROGRAMS)
        for road in ([given.road] if given.road else ROADS)
    ]
    paired = () if not given.pairs else (given.program,) if given.program else PAIRED
    began = time.monotonic()
    wrong = runs = 0
    with ProcessPoolExecutor(given.jobs, initializer=be_quiet) as pool:
        for total in pool.map(partial(_one, bug=given.bug, paired=paired), todo):
            runs, wrong = runs + total.runs, wrong + len(total.failed)
            where = f"{total.program:13} {total.road:11}"
            print(f"{where} {total.steps:4} steps {total.runs:8,} runs {len(total.failed):6,} wrong", flush=True)
            for points, why in total.failed[:3]:
                print(f"    {why}\n    {command(total, points, given.bug)}", flush=True)
    print(f"{runs:,} runs in {time.monotonic() - began:.0f} s, {wrong:,} wrong")
    return 1 if wrong else 0


def _one(what: tuple[str, str], bug: str, paired: Sequence[str]) -> Total:
    name, road = what
    return every_point(name, road, bug=bug, pairs=name in paired)


def _show(name: str, road: str, points: Sequence[Point], bug: str) -> int:
    found = run(PROGRAMS[name], ROADS[road], points, bug=bug, trace=True)
    wrong = found.wrong or _difference(found, run(PROGRAMS[name], ROADS[road]))
    print(f"{name} {road} at {' and '.join(map(str, points))}: {wrong or 'right'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
