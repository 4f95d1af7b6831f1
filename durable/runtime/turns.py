"""Turns: what has arrived for which instance, and the steps, commits and consequences that come of it.

Laws.
1. Nothing is done before its commit is committed; nothing that has arrived is forgotten before that either.
2. After a conflict or an unknown outcome the live code is thrown away and the stored state is read again.
3. While the store commits one part of a batch the next part is stepped: the parts share no instance.
4. What is started here, in numbers or while there is nothing else to do, is created by its first turn, in one commit.
   What can't begin that way (no code here, not ours any more, it continues as new) is left to whoever starts it.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from ..engine.codeless import park
from ..engine.instance import Arrival, Env, Instance, Turn
from ..engine.step import inbox_arrivals, step
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import UnreadableHistory
from ..model.names import TRIGGERS, partition_of
from ..model.status import Summary
from ..ports import FACTS, UNSERVED, Lease, Outcome, Record, Row, Want
from ..replay.live_code import Code
from ..triggers.drafting import FindFunction
from .aftermath import Aftermath
from .agenda import Agenda
from .courier import Courier
from .lifecycle import Lifecycle
from .outbox import Outbox
from .parking import RESTING, Parking
from .requests import Begin, Claim, Clear, Created, Deliver, Finish, Load, Notify, Request
from .serving import Serving
from .trigger_room import TriggerRoom
from .workload import ActivityNames, Workload

log = logging.getLogger("durable.worker")

_CLEARED: Final = 10_000  # pieces of a history that is not kept; what is more goes with the next one
_FRESH: Final = 2_000  # records kept of instances just started; more than that are read when their turn comes

Asking = Generator[Request, Any, Any]


class Codebase(ActivityNames, Protocol):
    """Where the loop finds code: by name only, never by import.

    The exact version, then the unversioned function; and for a first turn without a version the highest one.
    """

    def orchestrator(self, name: str, version: str, first_turn: bool) -> Code | None: ...


class Stepped(NamedTuple):
    """A part of a batch, ready for its commit.

    turns: with what arrived for each. leases: rows of parked instances. foreign: what came for instances that are
    somebody else's, or can't be read here. untold: those of them whose workers know of nothing yet. gone: what came for
    instances that are not there (any more). uncreated: what can't begin here and now.
    """

    turns: list[tuple[Turn, list[Arrival]]]
    leases: list[Lease]
    foreign: dict[str, list[Arrival]]
    untold: list[str]
    gone: dict[str, list[Arrival]]
    uncreated: list[str]


class Turns:
    """warm: instances with live code. arrived, hinted, fresh: what to step next. parking: who can't go on for now."""

    def __init__(
        self,
        env: Env,
        serving: Serving,
        codebase: Codebase,
        clock: Callable[[], datetime],
        agenda: Agenda,
        outbox: Outbox,
        courier: Courier,
        work: Workload,
        lifecycle: Lifecycle,
        find_function: FindFunction,
    ) -> None:
        self.env = env
        self.serving = serving
        self.codebase = codebase
        self.triggers = TriggerRoom(env, find_function, clock)
        self._lifecycle = lifecycle
        self.clock = clock
        self.agenda = agenda
        self.courier = courier
        self.aftermath = Aftermath(env, serving, clock, agenda, outbox, courier, work)
        self.warm: OrderedDict[str, Instance] = OrderedDict()
        self.arrived: dict[str, list[Arrival]] = {}
        self.hinted: dict[str, None] = {}
        self._fired: set[str] = set()  # the rows of timers among what has arrived
        self.fresh: dict[str, Record] = {}
        self.untold: set[str] = set()  # hinted by this worker itself: nobody else has heard of it
        self.parking = Parking(env, clock)
        self.faulty = False
        self._begun = False  # whether commits are on their way
        self.numbers: frozenset[int] = frozenset()

    # ---- what there is to do

    @property
    def waiting(self) -> bool:
        """Whether there is something to step."""
        return bool(self.arrived or self.hinted or self.fresh)

    def tell(self, instance_id: str, arrival: Arrival) -> None:
        """A fact that only memory has; or a timer, which is found due again and again until a turn has taken it."""
        if arrival.row_key:
            if arrival.row_key in self._fired:
                return
            self._fired.add(arrival.row_key)
        self.arrived.setdefault(instance_id, []).append(arrival)

    def hint(self, instance_id: str) -> None:
        """Something is new in its inbox, or it has to be read again."""
        self.hinted[instance_id] = None

    def suppose(self, instance_id: str) -> None:
        """The same, from this worker itself: should it turn out to be another group's, its worker is told.

        What was heard is not told again, or workers would tell each other for ever.
        """
        self.hint(instance_id)
        self.untold.add(instance_id)

    def started(self, record: Record) -> bool:
        """An instance as it was created a moment ago, or is to be created; False when it is not for this worker."""
        instance_id = record.summary.instance_id
        if not record.version:
            self.fresh[instance_id] = record
        elif not self.serves(record.summary):
            return False
        elif instance_id in self.warm:
            pass  # a sweep has found it before this came: it goes on already
        elif len(self.fresh) < _FRESH:
            self.fresh[instance_id] = record
        else:
            self.hint(instance_id)
        return True

    def assign(self, owned: Collection[tuple[str, int]]) -> None:
        """What to serve from now on; what is somebody else's by now need not be kept warm."""
        self.numbers = frozenset(number for _, number in owned)
        self.parking.keep_only(self.owns)
        if self.owns(TRIGGERS):
            self.hint(TRIGGERS)  # they may name event sources
        else:
            self.triggers.leave()
        for instance_id in [i for i, known in self.warm.items() if not self.serves(known.summary)]:
            _let_go(self.warm.pop(instance_id))

    def let_all_go(self) -> None:
        """Nothing that is warm can be trusted any more."""
        for instance in self.warm.values():
            _let_go(instance)
        self.warm.clear()

    def code_changed(self) -> None:
        """What was parked may go on."""
        self.hinted.update(dict.fromkeys(self.parking.empty()))

    def owns(self, instance_id: str) -> bool:
        """Whether it may be ours: only its summary knows its group."""
        return partition_of(instance_id, self.env.partitions) in self.numbers

    def serves(self, summary: Summary) -> bool:
        """Whether it is for this worker. May be called from any thread."""
        return (summary.group, partition_of(summary.instance_id, self.env.partitions)) in self.agenda.owned

    # ---- one batch

    def take(self, batch: int, part: int, cached: int) -> Asking:
        """Step up to `batch` instances: load what is not warm, step, commit, act."""
        drawn = self._next_batch(batch)
        taken: dict[str, list[Arrival]] = {}
        previous: Stepped | None = None
        current: Stepped | None = None
        try:
            for some in _parts(drawn, part):
                current = Stepped([], [], {}, [], {}, [])
                yield from self._stepped(some, taken, current)
                outcomes = yield from self._finish()
                yield from self._begin(current)
                if previous is not None:
                    yield from self._conclude(previous, outcomes)
                previous = current
            if previous is not None:
                outcomes = yield from self._finish()
                yield from self._conclude(previous, outcomes)
        except StoreError:
            for stepped in (previous, current):
                for turn, _ in () if stepped is None else stepped.turns:
                    _let_go(turn.instance)
            for instance_id in drawn:
                self._give_back(instance_id, taken.get(instance_id, ()))
            yield Created([(i, Outcome.UNKNOWN) for i, known in drawn.items() if _is_uncreated(known)])
            yield from self._finish()  # its outcomes are read with the instances
            raise
        while len(self.warm) > cached:
            _let_go(self.warm.popitem(last=False)[1])

    def _next_batch(self, most: int) -> dict[str, Record | bool]:
        """Instances to step now: as they were just created, or whether their inbox must be read."""
        batch: dict[str, Record | bool] = {}
        for instance_id in itertools.islice(self.hinted, most):
            batch[instance_id] = True
            self.fresh.pop(instance_id, None)
        for instance_id in batch:
            del self.hinted[instance_id]
        for instance_id in itertools.islice(self.fresh, most - len(batch)):
            batch[instance_id] = self.fresh[instance_id]
        for instance_id in itertools.islice(self.arrived, most):
            if len(batch) >= most:
                break
            batch.setdefault(instance_id, False)
        for instance_id in batch:
            self.fresh.pop(instance_id, None)
        return batch

    def _stepped(self, batch: dict[str, Record | bool], taken: dict[str, list[Arrival]], found: Stepped) -> Asking:
        """Step these. `taken` is told what had arrived, `found` what came of it, each before anything can fail."""
        loaded: dict[str, Record | None] = {i: known for i, known in batch.items() if isinstance(known, Record)}
        wants = [
            Want(i, self.warm[i].version if i in self.warm else 0)
            for i, read in batch.items()
            if read is True or (read is False and i not in self.warm)
        ]
        if wants:
            records: list[Record | None] = yield Load(wants)
            loaded.update((want.instance_id, record) for want, record in zip(wants, records, strict=True))
        now = self.clock()
        for instance_id, known in batch.items():
            if _is_uncreated(known) and not self._creates(instance_id, loaded):
                found.uncreated.append(instance_id)
                continue
            arrivals = taken[instance_id] = self.arrived.pop(instance_id, [])
            if self._fired:
                self._fired.difference_update([a.row_key for a in arrivals])
            if instance_id == TRIGGERS:
                arrivals = taken[instance_id] = self._without_strange_events(arrivals, loaded)
            if not self._is_ours(instance_id, loaded):
                _let_go(self.warm.pop(instance_id, None))
                found.foreign[instance_id] = arrivals
                if instance_id in self.untold:
                    found.untold.append(instance_id)
                continue
            turn = self._step(instance_id, arrivals, loaded, found, now)
            if turn is not None:
                found.turns.append((turn, arrivals))
        self.untold.difference_update(batch)
        undelivered = [fact for turn, _ in found.turns for fact in turn.undelivered]
        if undelivered:
            yield Deliver(undelivered)

    def _begin(self, stepped: Stepped) -> Asking:
        commits = [turn.commit for turn, _ in stepped.turns if turn.commit is not None]
        if commits:
            yield Begin(commits)
            self._begun = True

    def _finish(self) -> Generator[Request, Any, list[Outcome]]:
        """What became of the commits that were begun."""
        if not self._begun:
            return []
        self._begun = False
        outcomes: list[Outcome] = yield Finish()
        return outcomes

    def _conclude(self, stepped: Stepped, outcomes: list[Outcome]) -> Asking:
        """Act upon what was committed, take back what was not."""
        done: list[tuple[Turn, list[Arrival]]] = []
        unknown: list[tuple[Turn, list[Arrival]]] = []
        created: list[tuple[str, Outcome | None]] = [(instance_id, None) for instance_id in stepped.uncreated]
        answers = iter(outcomes)
        for turn, arrivals in stepped.turns:
            outcome = Outcome.COMMITTED if turn.commit is None else next(answers)
            if turn.commit is not None and not turn.commit.expect:
                created.append((turn.commit.instance_id, outcome))
            if outcome is Outcome.COMMITTED:
                done.append((turn, arrivals))
            elif outcome is Outcome.UNKNOWN:
                unknown.append((turn, arrivals))
            else:
                self._give_back(turn.instance.summary.instance_id, arrivals, turn.instance)
        if created:
            yield Created(created)
        if unknown:
            done += yield from self._settle(unknown)
        for turn, arrivals in done:
            self._keep(turn, arrivals)
        yield from self.aftermath.of([turn for turn, _ in done])
        for commit in [turn.commit for turn, _ in done if turn.commit is not None and turn.commit.forgotten]:
            yield Clear(commit.partition, _CLEARED)
        if stepped.leases:
            yield Claim(stepped.leases)
        if stepped.foreign:
            yield from self.aftermath.hand_over(stepped.foreign)
        if stepped.untold:
            yield Notify(FACTS, stepped.untold)
        if stepped.gone:
            yield from self.aftermath.forget(stepped.gone)

    def _keep(self, turn: Turn, arrivals: list[Arrival]) -> None:
        """It is committed: what it took is done with, and its instance goes on from there."""
        for arrival in arrivals:
            if arrival.bodies:
                self.triggers.taken(arrival)
            elif arrival.tag is not None:
                self.courier.done.append(arrival.tag)
        instance = turn.instance
        instance_id = instance.summary.instance_id
        if turn.again:
            self.hinted[instance_id] = None
        if not turn.parked:
            if self.parking.leave(instance_id):
                self.agenda.sweep_soon()  # its timers were left alone meanwhile
            if instance.execution is not None or instance.hub is not None or turn.late:
                self.warm[instance_id] = instance

    def _creates(self, instance_id: str, loaded: dict[str, Record | None]) -> bool:
        """Whether to create it: it is ours, and whoever wanted it has not lost patience and created it meanwhile."""
        known = instance_id in self.warm or instance_id in self.arrived
        return not known and self._is_ours(instance_id, loaded)

    def _is_ours(self, instance_id: str, loaded: dict[str, Record | None]) -> bool:
        """What is warm has been ours since, or `assign` had let go of it; its next life may be another group's."""
        record = loaded.get(instance_id)
        if record is None:
            return instance_id in self.warm or self.owns(instance_id)
        return self.serves(record.summary)

    def _without_strange_events(self, arrivals: list[Arrival], loaded: dict[str, Record | None]) -> list[Arrival]:
        """Events of sources that are not ours to take (any more) come again, to whoever receives from them then."""
        if TRIGGERS in loaded and loaded[TRIGGERS] is None:
            self.triggers.leave()
        elif self._is_ours(TRIGGERS, loaded):
            return arrivals
        return [arrival for arrival in arrivals if not arrival.bodies]

    def _step(
        self,
        instance_id: str,
        arrivals: list[Arrival],
        loaded: dict[str, Record | None],
        found: Stepped,
        now: datetime,
    ) -> Turn | None:
        instance = self.warm.pop(instance_id, None)
        inbox: tuple[Row, ...] = ()
        if instance_id in loaded:
            record = loaded[instance_id]
            if record is None:
                _let_go(instance)
                found.gone[instance_id] = arrivals
                return None
            inbox = record.inbox
            if record.summary.status.finished:
                inbox = tuple(row for row in inbox if row.group not in UNSERVED)  # for a rewind, or another life
            if instance is None or record.history is not None:
                _let_go(instance)
                try:
                    instance = Instance.of_record(record)
                except UnreadableHistory as error:
                    instance = Instance.unread(record)
                    if instance_id == TRIGGERS:
                        self._leave_triggers(str(error), arrivals, inbox, found, now)
                        return None
                    if not instance.summary.status.finished and not (instance.length and _is_terminated(inbox)):
                        return self._parked(park(instance, arrivals, str(error), now, self.env), inbox, found, now)
        assert instance is not None
        if instance_id == TRIGGERS:
            return self._step_triggers(instance, arrivals, inbox, found, now)
        if inbox:
            facts, unreadable = inbox_arrivals(inbox)
            for row in unreadable:
                log.error("instance %r: a fact in its inbox can't be read and is kept: %s", instance_id, row.key)
            if instance.execution is not None and any(a.event.type == h.EXECUTION_TERMINATED for a in facts):
                # Ending it needs its whole history, which a warm instance does not keep: come back for it.
                self._give_back(instance_id, arrivals, instance)
                return None
            if any(a.event.type == h.EXECUTION_REWOUND for a in facts):
                self.agenda.sweep_soon()  # rows that a client has put are due, and no turn of ours has told of them
            known = {a.row_key for a in arrivals}
            arrivals[:0] = [a for a in facts if a.row_key not in known]
        live = instance.execution
        code, missing = (live.code, "") if live is not None else self._code(instance)
        turn = self._lifecycle.told(step(instance, arrivals, code, missing, now, self.env))
        if turn.instance.execution is not live:
            _let_go(instance)
        if not instance.version and (turn.commit is None or turn.again or turn.parked):
            found.uncreated.append(instance_id)
            _let_go(turn.instance)
            return None
        if turn.parked:
            self._parked(turn, inbox, found, now)
        if turn.alarm is not None:
            until = min(turn.alarm.due_at, now.timestamp() + RESTING)
            found.leases.extend(self.parking.lease(inbox, until))
        return turn

    def _parked(self, turn: Turn, inbox: Sequence[Row], found: Stepped, now: datetime) -> Turn:
        instance_id = turn.instance.summary.instance_id
        found.leases.extend(self.parking.park(instance_id, turn.parked, inbox, now.timestamp()))
        return turn

    def _step_triggers(
        self, instance: Instance, arrivals: list[Arrival], inbox: tuple[Row, ...], found: Stepped, now: datetime
    ) -> Turn | None:
        known = {a.row_key for a in arrivals}
        arrivals[:0] = [a for a in inbox_arrivals(inbox)[0] if a.row_key not in known]
        try:
            turn = self.triggers.step(instance, arrivals, now)
        except UnreadableHistory as error:
            self._leave_triggers(str(error), arrivals, inbox, found, now)
            return None
        self._lifecycle.learn(turn.instance.summary)
        return turn

    def _leave_triggers(
        self, why: str, arrivals: list[Arrival], inbox: Sequence[Row], found: Stepped, now: datetime
    ) -> None:
        """A newer worker may read them: facts go to the inbox, and events of sources come again, to whoever can."""
        found.leases.extend(self.parking.park(TRIGGERS, why, inbox, now.timestamp()))
        self.triggers.leave()
        found.foreign[TRIGGERS] = [arrival for arrival in arrivals if not arrival.bodies]

    def _code(self, instance: Instance) -> tuple[Code | None, str]:
        name, version = instance.summary.name, instance.summary.version
        code = self.codebase.orchestrator(name, version, not instance.begun)
        if code is not None:
            return code, ""
        shown = f"{name!r} in version {version!r}" if version else repr(name)
        known = ", ".join(self.codebase.known("orchestrator")) or "none"
        return None, f"no worker here serves orchestrator {shown}; registered here: {known}"

    # ---- after the commit

    def _give_back(self, instance_id: str, arrivals: Sequence[Arrival], instance: Instance | None = None) -> None:
        """Nothing of this turn happened: keep what only memory has, read the rest again. instance: what had been taken
        out of what is warm."""
        _let_go(instance or self.warm.pop(instance_id, None))
        kept = [a for a in arrivals if not a.row_key.startswith(("in/", "wake/"))]
        if kept:
            self._fired.update(a.row_key for a in kept if a.row_key)
            self.arrived.setdefault(instance_id, [])[:0] = kept
        self.hinted[instance_id] = None

    def _settle(
        self, unknown: list[tuple[Turn, list[Arrival]]]
    ) -> Generator[Request, Any, list[tuple[Turn, list[Arrival]]]]:
        """An unknown outcome is settled by reading: the last commit's id says whether ours is the one."""
        records: list[Record | None] = yield Load([Want(t.instance.summary.instance_id) for t, _ in unknown])
        done: list[tuple[Turn, list[Arrival]]] = []
        for (turn, arrivals), record in zip(unknown, records, strict=True):
            if record is not None and turn.commit is not None and record.commit_id == turn.commit.id:
                done.append((turn, arrivals))
            else:
                self.faulty = True
                self._give_back(turn.instance.summary.instance_id, arrivals, turn.instance)
        return done


def _let_go(instance: Instance | None) -> None:
    """Its live code is thrown away: it ends here and now, on the engine's thread."""
    if instance is not None and instance.execution is not None:
        instance.execution.let_go()


def _is_terminated(inbox: Sequence[Row]) -> bool:
    return any(arrival.event.type == h.EXECUTION_TERMINATED for arrival in inbox_arrivals(inbox)[0])


def _is_uncreated(known: Record | bool) -> bool:
    return isinstance(known, Record) and not known.version


def _parts(batch: dict[str, Record | bool], size: int) -> Iterator[dict[str, Record | bool]]:
    items = iter(batch.items())
    while some := dict(itertools.islice(items, size)):
        yield some
