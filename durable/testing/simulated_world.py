"""A world in one thread: real loops as generators, a scheduler that picks who acts next, a clock that only it moves.

Laws.
1. Everything that happens is decided by one `Random`: the same seed gives the same run, to the byte.
2. A request takes effect at one moment of virtual time; anything may happen before the worker sees the answer.
3. Faults end at `heal`. From then on hardware behaves, and everything that was started must finish.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Final, NamedTuple, cast
from zlib import crc32

from ..app.claiming import ClaimedStore
from ..backends.memory import MemoryStore
from ..backends.memory_blobs import MemoryBlobs
from ..engine.step import created, uncreated
from ..model.status import DEFAULT_GROUP
from ..ports import UNSERVED, Commit, Row, Store
from ..runtime import requests as ask
from ..runtime.loop import Settings
from ..runtime.serving import Patience, Serving
from .random_programs import Script
from .simulated_broker import BROKER_FAULTS, Broker
from .simulated_client import Client
from .simulated_coverage import About, Met, met_by
from .simulated_source import EventSources
from .simulated_store import STORE_FAULTS, FaultyStore
from .simulated_triggers import Triggers
from .simulated_worker import Worker

EPOCH: Final = datetime(2030, 1, 1, tzinfo=timezone.utc)

# Faults of processes: how many of each a run has, at most. Faults of messages: the chance of each, at most.
PROCESS_FAULTS: Final = {
    "crash": 5, "pause": 4, "drain": 3, "clock forward": 3, "clock back": 3, "two owners": 4, "wrong alive": 4,
    "power cut": 2, "clock a day forward": 1, "store away": 2,
}  # fmt: skip
MAIL_FAULTS: Final = {"queue lost": 4, "connection lost": 4, "broker emptied": 2, "publishing blocked": 2}
_OF_ONE: Final = ("crash", "pause", "drain", "clock forward", "clock back", "clock a day forward", "connection lost")
MESSAGE_FAULTS: Final = {"hint lost": 0.7, "done twice": 0.4, "done late": 0.4, "code missing": 0.8}
STORE_RATE: Final = 0.15
DETECTED: Final = 1.0  # seconds until a dead worker's partitions move
NEWCOMER: Final = 0.3  # seconds that a holder nobody has heard of is left alone
HASTY: Final = Patience(long=1.0, fresh=2.0, unserved=1.0, sent=6.0, sent_at_most=20.0, retry=0.2, takeover=0.1)


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
    serving: Serving
    triggers: bool = False


def make_plan(random: Random, scripts: Sequence[Script], faults: bool, *, triggers: bool = False) -> Plan:
    """Swarm testing: each seed turns on some of the faults, at rates of its own."""
    heal = random.uniform(1.0, 8.0)
    by_mail = random.random() < 0.6
    store_rates: dict[str, float] = {}
    message_rates: dict[str, float] = {}
    strikes: list[tuple[float, str]] = []
    if faults:
        share = random.choice((0.2, 0.4, 0.6))
        store_rates = {k: random.uniform(0.01, STORE_RATE) for k in STORE_FAULTS if random.random() < share}
        rates = MESSAGE_FAULTS | BROKER_FAULTS if by_mail else MESSAGE_FAULTS
        message_rates = {k: random.uniform(0.1, top) for k, top in rates.items() if random.random() < share}
        for kind, most in (PROCESS_FAULTS | MAIL_FAULTS if by_mail else PROCESS_FAULTS).items():
            if random.random() < share:
                strikes += [(random.uniform(0.0, heal), kind) for _ in range(random.randint(1, most))]
    cached = random.choice((10_000, 10_000, 1, 0))
    settings = Settings(
        random.choice((1, 3, 400)), random.choice((1, 2, 400)), 5.0, 1.0, random.choice((3, 10, 2_000)), cached, 0.2
    )
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
        serving=Serving(
            by_mail=by_mail,
            eager=not by_mail or random.random() < 0.3,
            announces=by_mail,
            slots=4,
            carried=7,
            patience=HASTY,
        ),
        triggers=triggers,
    )


def left(rows: Iterable[Row]) -> list[Row]:
    """The rows of work that is not done; what is kept for nobody is not work."""
    return [row for row in rows if row.group not in UNSERVED]


class World:
    """Everything there is: workers, clients, a store, time. `run()` ends when nothing is left to do, or too late."""

    def __init__(
        self,
        random: Random,
        plan: Plan,
        tell: Callable[[str], None] | None = None,
        store: MemoryStore | None = None,
        inline: int | None = None,
    ) -> None:
        """inline: payloads of more bytes lie beside the store."""
        self.random = random
        self.plan = plan
        self.now = 0.0
        self.steps = 0
        self.trace_hash = 0
        self.tell_reader = tell
        self.faults: Counter[str] = Counter()
        self.met: Met = set()
        self.runs: Counter[str] = Counter()
        self.healed = not (plan.store_rates or plan.message_rates or plan.strikes)
        self.store = FaultyStore(store or MemoryStore(plan.partitions), random, self.later, self.count)
        self.store.rates = plan.store_rates
        self.blobs = MemoryBlobs({})
        self.front = cast("Store", self.store)  # what workers and clients see
        if inline is not None:
            self.front = ClaimedStore(self.front, self.blobs, inline)
        self.message_rates = plan.message_rates
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._minted = 0
        self._planned = 0
        self.broker = Broker(self)
        self.sources = EventSources(self)
        self.workers = [Worker(self, number) for number in range(plan.workers)]
        self.triggers = Triggers(self) if plan.triggers else None
        self.clients: Sequence[Client] = [
            Client(self, number, script, number in plan.terminate) for number, script in enumerate(plan.scripts)
        ]

    # ---- time

    def time(self, offset: float = 0.0) -> datetime:
        """What a clock shows that is wrong by `offset` seconds."""
        return EPOCH + timedelta(seconds=self.now + offset)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._planned, call))

    def soon(self, call: Callable[[], object]) -> None:
        self.later(self.random.random() * self.plan.slow, call)

    def mint(self) -> str:
        self._minted += 1
        return f"{self._minted:08x}"

    def count(self, kind: str, about: About) -> None:
        """A fault, or what a client does that few do; and which rows it is about."""
        self.faults[kind] += 1
        self.note("fault", kind)
        living = {worker.holder for worker in self.workers if worker.requests is not None}
        self.met |= met_by(kind, about, self.store.inner._rows.values(), self.time().timestamp(), living)

    def chance(self, kind: str, about: About) -> bool:
        rate = self.message_rates.get(kind)
        if rate is None or self.random.random() >= rate:
            return False
        self.count(kind, about)
        return True

    def note(self, who: str, what: str) -> None:
        """One line of the trace; its hash tells two runs apart."""
        self.trace_hash = crc32(f"{self.now:.6f} {who} {what}".encode(), self.trace_hash)
        if self.tell_reader is not None:
            self.tell_reader(f"{self.now:10.6f}  {who:12} {what}")

    # ---- a run

    def run(self, patience: float = 120.0) -> None:
        """Raises `Wrong` when something is broken. Ends early when all is done and every row is gone."""
        if self.triggers is not None:
            self.triggers.set_up()
            self.later(self.random.random() * 0.5, self.triggers.act)
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
        agenda = self._agenda
        while agenda:
            self.now, _, call = heapq.heappop(agenda)
            if self.now > deadline:
                return
            call()
            self.steps += 1
            if not self.has_work() and (self.triggers is None or not self.triggers.busy):
                return

    def has_work(self) -> bool:
        """Whether there is anything that is not done, or a client has not yet done all of its own."""
        return bool(
            self.store.judge.unfinished
            or left(self.store.inner._rows.values())
            or any(self.broker.unsettled.values())
            or self.sources.busy
            or any(client.busy for client in self.clients)
        )

    def heal(self) -> None:
        """Faults end: everybody is there, has the code, agrees about the time and about who owns what."""
        self.healed = True
        self.store.rates = {}
        self.store.away = False
        self.message_rates = {}
        self.broker.unblock()
        self.note("world", "heals")
        # Nobody's clock is set back here, and the clients' clocks are right: to a worker that stays behind them, what
        # they do without a hint is not due, and each such act would take as long as it is behind.
        offset = max(0.0, *(worker.offset for worker in self.workers))
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
        self.count(kind, worker.is_concerned if kind in _OF_ONE else lambda row: True)
        if kind == "crash":
            self.crash(worker)
        elif kind == "power cut":
            for each in self.workers:
                self.crash(each)
        elif kind == "pause":
            worker.paused = True
            self.reassign()
            self.later(self.random.uniform(0.5, 2.0), lambda: self.cut(worker) if worker.paused else None)
            self.later(self.random.uniform(0.1, 4.0), worker.resume)
        elif kind == "queue lost":
            if self.broker.queues:
                self.broker.lose(self.random.choice(sorted(self.broker.queues)))
        elif kind == "broker emptied":
            for queue in list(self.broker.queues):
                self.broker.lose(queue)
        elif kind == "publishing blocked":
            self.broker.blocked = self.broker.blocked or []
            self.later(self.random.uniform(0.1, 3.0), self.broker.unblock)
        elif kind == "store away":
            self.store.away = True
            self.later(self.random.uniform(0.1, 2.0), self.store.back)
        elif kind == "connection lost":
            self.cut(worker)
            self.later(self.random.uniform(0.0, 1.0), lambda: self.broker.mend(worker))
        elif kind == "drain":
            worker.tell(ask.Stop(self.random.uniform(0.0, 1.0)))
        elif kind == "clock a day forward":
            worker.offset += 86_400.0
        elif kind == "clock forward":
            worker.offset += self.random.uniform(30.0, 300.0)
        elif kind == "clock back":
            worker.offset -= self.random.uniform(0.1, 20.0)
        else:
            self.assign(kind)

    def crash(self, worker: Worker) -> None:
        worker.crash()
        self.reassign()
        self.later(self.random.uniform(0.0, 3.0), worker.reboot)

    def cut(self, worker: Worker) -> None:
        """Its connections end."""
        self.broker.cut(worker)
        self.sources.cut(worker)

    def reassign(self) -> None:
        """Somebody came or went: in a while the others know."""
        self.later(DETECTED, self.assign)

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
            worker.owned = owned[worker]
            mine = [(DEFAULT_GROUP, partition) for partition in sorted(owned[worker])]
            worker.tell(ask.Assigned(mine, believed, NEWCOMER))

    def notify(self, instance_ids: Collection[str]) -> None:
        """A hint to everybody, which may be lost, or say less than it should."""
        for worker in self.workers:
            if worker.up and not self.chance("hint lost", lambda row: row.instance_id in instance_ids):
                ids = None if self.random.random() < 0.05 else tuple(instance_ids)
                # Bound now, not at the call; mypy can't infer such a lambda.
                self.soon(lambda worker=worker, ids=ids: worker.tell(ask.Hint(ids)))  # type: ignore[misc]

    def hand_over(self, creation: Commit) -> None:
        """A client that lives with one of the workers gives it what it has just started, for whoever serves it."""
        worker = self.random.choice(self.workers)
        if worker.up and not self.chance("hint lost", lambda row: row.instance_id == creation.instance_id):
            self.soon(lambda: worker.tell(ask.Started([created(creation)])))

    def create(self, creation: Commit) -> None:
        """A client that lives with one of the workers has it create an instance, and is not told what became of it."""
        worker = self.random.choice(self.workers)
        if worker.up and not self.chance("hint lost", lambda row: row.instance_id == creation.instance_id):
            self.soon(lambda: worker.tell(ask.Started([uncreated(creation)])))
