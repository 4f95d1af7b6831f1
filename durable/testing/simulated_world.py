"""A world in one thread: real loops as generators, a scheduler that picks who acts next, a clock that only it moves.

Laws.
1. Everything that happens is decided by one `Random`: the same seed gives the same run, to the byte.
2. A request takes effect at one moment of virtual time; anything may happen before the worker sees the answer.
3. Faults end at `heal`. From then on hardware behaves, and everything that was started must finish.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from ..backends.memory import MemoryStore
from ..engine.codeless import terminate_request
from ..engine.instance import Env, Invocation
from ..engine.step import create
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import Event, Raw, encode_event
from ..model.limits import Limits
from ..model.names import partition_of
from ..ports import FACTS, Delivered, Fact, Outcome, Want
from ..replay.execution import Code
from ..replay.guard import Watch
from ..runtime import requests as ask
from ..runtime.loop import Loop, Settings
from .programs import CODES, Script, attempt_activity
from .simulated_store import STORE_FAULTS, FaultyStore, Wrong

EPOCH: Final = datetime(2030, 1, 1, tzinfo=timezone.utc)

# Faults of processes: how many of each a run has, at most. Faults of messages: the chance of each, at most.
PROCESS_FAULTS: Final = {
    "crash": 5, "pause": 4, "drain": 3, "clock forward": 3, "clock back": 3, "two owners": 4, "wrong alive": 4,
}  # fmt: skip
MESSAGE_FAULTS: Final = {"hint lost": 0.7, "done twice": 0.4, "done late": 0.4, "code missing": 0.8}
STORE_RATE: Final = 0.15
DETECTED: Final = 1.0  # seconds until a dead worker's partitions move


class Plan(NamedTuple):
    """What one seed decides before anything runs."""

    workers: int
    partitions: int
    settings: Settings
    hold: float
    scripts: Sequence[Script]
    heal: float
    store_rates: dict[str, float]
    message_rates: dict[str, float]
    strikes: Sequence[tuple[float, str]]
    terminate: Collection[int]
    slow: float


def make_plan(random: Random, scripts: Sequence[Script], faults: bool) -> Plan:
    """Swarm testing: each seed turns on some of the faults, at rates of its own."""
    heal = random.uniform(1.0, 8.0)
    store_rates: dict[str, float] = {}
    message_rates: dict[str, float] = {}
    strikes: list[tuple[float, str]] = []
    if faults:
        share = random.choice((0.2, 0.4, 0.6))
        store_rates = {k: random.uniform(0.01, STORE_RATE) for k in STORE_FAULTS if random.random() < share}
        message_rates = {k: random.uniform(0.1, top) for k, top in MESSAGE_FAULTS.items() if random.random() < share}
        for kind, most in PROCESS_FAULTS.items():
            if random.random() < share:
                strikes += [(random.uniform(0.0, heal), kind) for _ in range(random.randint(1, most))]
    cached = random.choice((10_000, 10_000, 1, 0))
    settings = Settings(random.choice((1, 3, 400)), 5.0, 1.0, random.choice((3, 10, 2_000)), cached, 0.2)
    return Plan(
        workers=random.choice((1, 2, 2, 3, 4)) if faults else random.choice((1, 2)),
        partitions=random.choice((1, 1, 2, 4)),
        settings=settings,
        hold=random.choice((3.0, 4.0)),  # renewed at half of it by a loop that looks every second
        scripts=scripts,
        heal=heal,
        store_rates=store_rates,
        message_rates=message_rates,
        strikes=sorted(strikes),
        terminate={i for i in range(len(scripts)) if random.random() < 0.08},
        slow=random.choice((0.002, 0.002, 0.02)),
    )


class World:
    """Everything there is: workers, clients, a store, time. `run()` ends when nothing is left to do, or too late."""

    def __init__(
        self, random: Random, plan: Plan, tell: Callable[[str], None] | None = None, store: MemoryStore | None = None
    ) -> None:
        self.random = random
        self.plan = plan
        self.now = 0.0
        self.steps = 0
        self.trace_hash = 0
        self.tell_reader = tell
        self.faults: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.healed = not (plan.store_rates or plan.message_rates or plan.strikes)
        self.store = FaultyStore(store or MemoryStore(plan.partitions), random, self.later, self.count)
        self.store.rates = plan.store_rates
        self.message_rates = plan.message_rates
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._minted = 0
        self._planned = 0
        self.workers = [Worker(self, number) for number in range(plan.workers)]
        self.clients = [Client(self, n, script, n in plan.terminate) for n, script in enumerate(plan.scripts)]

    # ---- time

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._planned, call))

    def soon(self, call: Callable[[], object]) -> None:
        self.later(self.random.random() * self.plan.slow, call)

    def mint(self) -> str:
        self._minted += 1
        return f"{self._minted:08x}"

    def count(self, kind: str) -> None:
        self.faults[kind] += 1
        self.note("fault", kind)

    def chance(self, kind: str) -> bool:
        rate = self.message_rates.get(kind)
        if rate is None or self.random.random() >= rate:
            return False
        self.count(kind)
        return True

    def note(self, who: str, what: str) -> None:
        """One line of the trace; its hash tells two runs apart."""
        self.trace_hash = crc32(f"{self.now:.6f} {who} {what}".encode(), self.trace_hash)
        if self.tell_reader is not None:
            self.tell_reader(f"{self.now:10.6f}  {who:12} {what}")

    # ---- a run

    def run(self, patience: float = 120.0) -> None:
        """Raises `Wrong` when something is broken. Ends early when all is done and every row is gone."""
        for worker in self.workers:
            worker.boot()
        self.assign()
        for at, kind in self.plan.strikes:
            self.later(at, lambda kind=kind: self.strike(kind))  # type: ignore[misc]  # bound now, not at the call
        if not self.healed:
            self.later(self.plan.heal, self.heal)
        for client in self.clients:
            self.later(self.random.random() * 0.5, client.act)
        deadline = self.plan.heal + patience
        agenda, rows, unfinished = self._agenda, self.store.inner._rows, self.store.judge.unfinished
        busy = set(self.clients)
        while agenda:
            self.now, _, call = heapq.heappop(agenda)
            if self.now > deadline:
                return
            call()
            self.steps += 1
            if not unfinished and not rows:
                busy = {client for client in busy if client.busy}
                if not busy:
                    return

    def heal(self) -> None:
        """Faults end: everybody is there, has the code, agrees about the time and about who owns what."""
        self.healed = True
        self.store.rates = {}
        self.message_rates = {}
        self.note("world", "heals")
        offset = max(worker.offset for worker in self.workers)
        for worker in self.workers:
            worker.offset = offset
            worker.resume()
            if worker.requests is None:
                worker.boot()
            worker.learn()
        self.assign()

    def strike(self, kind: str) -> None:
        worker = self.random.choice(self.workers)
        if self.healed or (kind in ("crash", "pause", "drain") and not worker.up):
            return
        self.count(kind)
        if kind == "crash":
            worker.crash()
            self.later(DETECTED, self.assign)
            self.later(self.random.uniform(0.0, 3.0), worker.reboot)
        elif kind == "pause":
            worker.paused = True
            self.later(DETECTED, self.assign)
            self.later(self.random.uniform(0.1, 4.0), worker.resume)
        elif kind == "drain":
            worker.tell(ask.Stop(self.random.uniform(0.0, 1.0)))
        elif kind == "clock forward":
            worker.offset += self.random.uniform(30.0, 300.0)
        elif kind == "clock back":
            worker.offset -= self.random.uniform(0.1, 20.0)
        else:
            self.assign(kind)

    def assign(self, fault: str = "") -> None:
        """Partitions to the workers that are up; `fault`: wrongly so."""
        up = [worker for worker in self.workers if worker.up]
        if not up:
            return
        alive = {worker.holder for worker in up}
        shift = self.random.randrange(len(up))
        owned: dict[Worker, set[int]] = {worker: set() for worker in up}
        for partition in range(self.plan.partitions):
            owned[up[(partition + shift) % len(up)]].add(partition)
            if fault == "two owners":
                owned[self.random.choice(up)].add(partition)
        for worker in up:
            believed = set(alive)
            if fault == "wrong alive":
                believed = {w.holder for w in self.workers if self.random.random() < 0.5} | {worker.holder}
            self.note(worker.name, f"owns {sorted(owned[worker])}, believes in {sorted(believed)}")
            worker.tell(ask.Assigned(owned[worker], believed))

    def notify(self, instance_ids: Collection[str]) -> None:
        """A hint to everybody, which may be lost, or say less than it should."""
        for worker in self.workers:
            if worker.up and not self.chance("hint lost"):
                ids = None if self.random.random() < 0.05 else tuple(instance_ids)
                self.soon(lambda worker=worker, ids=ids: worker.tell(ask.Hint(ids)))  # type: ignore[misc]


class Worker:
    """A process: the real loop, its news, its running activities, its clock. A crash leaves nothing but the name."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"worker {number}"
        self.holder = ""
        self.offset = 0.0
        self.epoch = 0
        self.paused = False
        self.codeless = False
        self.requests: Any = None
        self.pending: Any = None
        self.inbox: list[ask.News] = []
        self.running: dict[str, bool] = {}
        self.sleeping = 0
        self.naps = 0
        self.missed: list[Callable[[], None]] = []
        self.watch = Watch()
        self._answers: dict[type, Callable[[Any], Any]] = {
            ask.Load: lambda r: world.store.load(r.wants),
            ask.Write: lambda r: world.store.commit(r.commits),
            ask.Deliver: lambda r: world.store.deliver(r.facts),
            ask.Claim: lambda r: world.store.lease(r.leases),
            ask.Due: lambda r: world.store.due(r.partition, r.until, r.limit, r.after),
            ask.Run: lambda r: self._start(r.invocations),
            ask.Cancel: self._cancel,
            ask.Halt: lambda r: [key for key, begun in [*self.running.items()] if not begun and not self._forget(key)],
            ask.Notify: lambda r: world.notify(r.instance_ids) if r.topic == FACTS else None,
        }

    @property
    def up(self) -> bool:
        return self.requests is not None and not self.paused

    def clock(self) -> datetime:
        return EPOCH + timedelta(seconds=self.world.now + self.offset)

    # ---- life

    def boot(self) -> None:
        world = self.world
        self.epoch += 1
        self.holder = f"{self.name}.{self.epoch}"
        self.codeless = world.chance("code missing")
        if self.codeless:
            world.later(world.random.uniform(0.1, 3.0), self.learn)
        self.inbox, self.running, self.missed, self.sleeping = [], {}, [], 0
        env = Env(self.holder, world.plan.hold, world.mint, world.plan.partitions, Limits(), self.watch)
        self.requests = Loop(env, self, self.clock, world.plan.settings).run()
        world.note(self.name, f"boots as {self.holder}")
        self.pending = next(self.requests)
        self._schedule()

    def crash(self) -> None:
        """Everything in memory is gone; an activity that goes on reports to nobody."""
        self.world.note(self.name, "crashes")
        self.requests = None
        self.epoch += 1

    def reboot(self) -> None:
        if self.requests is None:
            self.boot()
            self.world.assign()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            missed, self.missed = self.missed, []
            for call in missed:
                self.world.soon(call)
            self.world.later(DETECTED, self.world.assign)

    def learn(self) -> None:
        """The code that was missing is there."""
        if self.codeless:
            self.codeless = False
            self.tell(ask.CodeChanged())

    # ---- the loop's requests

    def tell(self, news: ask.News) -> None:
        if self.requests is None:
            return
        self.inbox.append(news)
        if self.sleeping:
            self.sleeping = 0
            self._schedule()

    def _schedule(self) -> None:
        epoch = self.epoch
        self.world.soon(lambda: self._act(epoch))

    def _act(self, epoch: int) -> None:
        if epoch != self.epoch:
            return
        if self.paused:
            self.missed.append(lambda: self._act(epoch))
            return
        request = self.pending
        if type(request) is ask.Wait and not self.inbox and request.seconds > 0:
            self.naps += 1
            self.sleeping = nap = self.naps
            self.world.later(request.seconds, lambda: self._wake(epoch, nap))
            return
        self._answer(request)

    def _wake(self, epoch: int, nap: int) -> None:
        if epoch == self.epoch and self.sleeping == nap:
            self.sleeping = 0
            if self.paused:
                self.missed.append(lambda: self._act(epoch))
                return
            self._answer(self.pending)

    def _answer(self, request: Any) -> None:
        world = self.world
        error: StoreError | None = None
        answer: Any = None
        kind = type(request)
        if kind is ask.Wait:
            answer, self.inbox = self.inbox, []
        else:
            try:
                answer = self._answers[kind](request)
            except StoreError as failed:
                error = failed
        world.note(self.holder, kind.__name__)
        if world.tell_reader is not None:
            world.tell_reader(f"{'':24} {_short(request)}")
            world.tell_reader(f"{'':24} -> {_short(error if error is not None else answer)}")
        try:
            self.pending = self.requests.send(answer) if error is None else self.requests.throw(error)
        except StopIteration:
            self._drained()
            return
        except Wrong:
            raise
        except Exception as broken:
            raise Wrong(f"the loop of {self.name} raised {broken!r}") from broken
        self._schedule()

    def _drained(self) -> None:
        world = self.world
        world.note(self.name, "has drained")
        self.requests = None
        self.epoch += 1
        world.soon(world.assign)
        world.later(world.random.uniform(0.0, 2.0), self.reboot)

    # ---- activities

    def _start(self, invocations: Sequence[Invocation]) -> None:
        world, random = self.world, self.world.random
        for invocation in invocations:
            key = invocation.row_key
            if key in self.running:
                continue  # it runs here already, under an older lease
            world.runs[key] += 1
            chance = random.random()
            self.running[key] = chance >= 0.1  # whether it has a thread at once; if not, a drain hands it back
            lasts = random.random() * (0.02 if chance < 0.75 else 0.5 if chance < 0.92 else 8.0)
            epoch = self.epoch
            world.later(lasts, lambda i=invocation, e=epoch: self._finish(i, e))  # type: ignore[misc]

    def _finish(self, invocation: Invocation, epoch: int) -> None:
        if epoch != self.epoch or self._forget(invocation.row_key):
            return
        outcome = attempt_activity(invocation.input, invocation.attempt)
        event = Event(
            h.TASK_COMPLETED if outcome.failure is None else h.TASK_FAILED,
            self.clock(),
            invocation.task_id,
            attempt=invocation.attempt,
            result=outcome.result,
            failure=outcome.failure,
        )
        done = ask.Done(invocation, event)
        world = self.world
        if world.chance("done late"):
            world.later(world.random.uniform(0.0, 5.0), lambda: self._report(done, epoch))
        else:
            self._report(done, epoch)
        if world.chance("done twice"):
            world.later(world.random.uniform(0.0, 5.0), lambda: self._report(done, epoch))

    def _report(self, done: ask.Done, epoch: int) -> None:
        if epoch == self.epoch:
            self.tell(done)

    def _forget(self, key: str) -> bool:
        """True when it was not running here."""
        return self.running.pop(key, None) is None

    def _cancel(self, request: ask.Cancel) -> None:
        for key in request.row_keys:
            self.running.pop(key, None)

    # ---- the codebase

    def orchestrator(self, name: str, version: str) -> Code | None:
        return None if self.codeless else CODES.get(name)

    def serves_activity(self, name: str) -> bool:
        return not self.codeless

    def known(self, kind: str) -> list[str]:
        return []


class Client:
    """Starts one instance, raises its events in order, perhaps terminates it, and repeats itself now and then.

    The same verbs as `durable.app.client`, and the same answer to an unclear outcome: look, and try again.
    """

    def __init__(self, world: World, number: int, script: Script, terminate: bool) -> None:
        self.world = world
        self.instance_id = f"i{number}"
        self.script = script
        random = world.random
        acts: list[Callable[[], bool]] = [self._start]
        if random.random() < 0.2:
            acts.append(self._start)
        for count, event in enumerate(script.events):
            deliver = lambda name=event.name, data=event.data, n=count: self._raise(name, data, n)  # noqa: E731
            acts.append(deliver)
            if random.random() < 0.15:
                acts.append(deliver)
        if terminate:
            acts.insert(random.randint(1, len(acts)), self._terminate)
        self.acts = acts
        self.busy = True
        self.terminated = False
        self._fact = f"terminate/{self.instance_id}"

    def act(self) -> None:
        random = self.world.random
        try:
            done = self.acts[0]()
        except StoreError:
            done = False
        if done:
            self.acts.pop(0)
        self.busy = bool(self.acts)
        if self.busy:
            chance = random.random()
            self.world.later(random.random() * (0.01 if chance < 0.5 else 0.3 if chance < 0.9 else 3.0), self.act)

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.world.now)

    def _start(self) -> bool:
        world = self.world
        started = Event(
            h.EXECUTION_STARTED,
            self._now(),
            name=self.script.kind,
            input=Raw(msgspec.json.encode(self.script.program)),
            execution_id=world.mint(),
            seed=world.mint(),
        )
        outcome = world.store.commit([create(self.instance_id, started, world.plan.partitions, world.mint())])[0]
        if outcome is Outcome.UNKNOWN:
            return world.store.load([Want(self.instance_id)])[0] is not None
        world.note(self.instance_id, f"start: {outcome.value}")
        world.notify([self.instance_id])
        return True

    def _raise(self, name: str, data: str, number: int) -> bool:
        event = Event(h.EVENT_RAISED, self._now(), name=name, input=Raw(msgspec.json.encode(data)))
        return self._deliver(f"event/{self.instance_id}-{number}", event)

    def _terminate(self) -> bool:
        self.terminated = True
        return self._deliver(self._fact, terminate_request(Raw(b'"stop"'), self._now(), recursive=True))

    def _deliver(self, fact_id: str, event: Event) -> bool:
        world = self.world
        partition = partition_of(self.instance_id, world.plan.partitions)
        fact = Fact(self.instance_id, partition, fact_id, encode_event(event), event.timestamp.timestamp())
        answer = world.store.deliver([fact])[0]
        world.note(self.instance_id, f"{fact_id}: {answer.value}")
        world.notify([self.instance_id])
        return answer is not Delivered.ABSENT


def _short(value: object) -> str:
    text = _RAW.sub("…", repr(value))
    return text if len(text) <= 600 else text[:599] + "…"


_RAW: Final = re.compile(r"<msgspec.Raw object at \w+>")
