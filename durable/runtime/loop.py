"""The worker's loop: drain what has arrived, step each instance once, commit all in one batch, then act.

Laws.
1. No I/O, no thread, no clock of its own: a generator that yields one request a batch (see `requests`).
2. Nothing is done before its commit is committed; nothing that has arrived is forgotten before that either.
3. After a conflict or an unknown outcome the live code is thrown away and the stored state is read again.
4. Signals make it fast; the sweep of the `due` index makes it right.
5. A row is acted upon by its holder, or by anybody once it is due or its holder is dead.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from ..engine.codeless import outcome_fact
from ..engine.instance import Arrival, Env, Instance, Invocation, Turn, row_behind
from ..engine.step import inbox_arrivals, step
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import UnreadableHistory
from ..model.names import partition_of
from ..model.status import RuntimeStatus, Summary
from ..ports import FACTS, STATUS, Delivered, Fact, Lease, Outcome, Record, Row, RowKey, Want
from ..replay.execution import Code
from .agenda import Agenda
from .courier import Courier, Posted
from .intake import Intake
from .outbox import Outbox
from .requests import (
    Arrived,
    Assigned,
    Claim,
    CodeChanged,
    Deliver,
    Done,
    Halt,
    Hint,
    Load,
    Lost,
    News,
    Notify,
    Request,
    Wait,
    Write,
)
from .roster import Roster
from .serving import ALONE, Serving
from .workload import ActivityNames, Workload

log = logging.getLogger("durable.worker")

Asking = Generator[Request, Any, Any]


class Codebase(ActivityNames, Protocol):
    """Where the loop finds code: by name only, never by import."""

    def orchestrator(self, name: str, version: str) -> Code | None: ...


class Settings(NamedTuple):
    """How much at a time, and how often.

    batch: instances stepped and committed together. window: seconds of timers kept in memory. sweep: seconds between
    two readings of the due index. page: rows a reading. cached: warm instances. retry: seconds after a fault.
    """

    batch: int = 400
    window: float = 60.0
    sweep: float = 5.0
    page: int = 2_000
    cached: int = 10_000
    retry: float = 0.5


DEFAULTS: Final = Settings()


class Loop:
    """One worker's loop. `run()` is the generator to drive."""

    def __init__(
        self,
        env: Env,
        codebase: Codebase,
        clock: Callable[[], datetime],
        settings: Settings = DEFAULTS,
        serving: Serving = ALONE,
    ) -> None:
        self.env = env
        self.serving = serving
        self.codebase = codebase
        self.clock = clock
        self.settings = settings
        self.numbers: frozenset[int] = frozenset()
        self.warm: OrderedDict[str, Instance] = OrderedDict()
        self.arrived: dict[str, list[Arrival]] = {}
        self.hinted: dict[str, None] = {}
        self.parked: dict[str, str] = {}
        self.roster = Roster(env.holder)
        self.agenda = Agenda(self.roster, env.holder, settings.window, settings.sweep, settings.page)
        self.outbox = Outbox(env, clock)
        self.courier = Courier(env, serving, clock)
        self.work = Workload(env, serving, codebase, self.courier, clock)
        self.intake = Intake(env, serving, self.work, self.courier, self.roster, clock)
        self.assigned: Assigned | None = None
        self.lost: Lost | None = None
        self.faulty = False
        self.stopping: float | None = None
        self.ignored = 0
        self.warned: set[str] = set()

    # ---- the loop

    def run(self) -> Asking:
        """Until it has drained after a `Stop`."""
        pause = 0.0
        while True:
            news: list[News] = yield Wait(pause or self._idle_seconds())
            pause = 0.0
            self._sort(news)
            try:
                yield from self._heed()
                if self.stopping is not None and (yield from self._drain()):
                    return
                yield from self._round()
            except StoreError as error:
                log.warning("the store did not answer, trying again in %s s: %s", self.settings.retry, error)
                self.faulty = True
            if self.faulty:
                self.faulty = False
                self.warm.clear()
                self.agenda.sweep_soon()
                pause = self.settings.retry

    def _heed(self) -> Asking:
        """What was said about this worker's part: its partitions, its connection."""
        if self.assigned is not None:
            assigned, self.assigned = self.assigned, None
            yield from self._assign(assigned)
        if self.lost is not None and self.lost.connection:
            yield from self.intake.connection_lost()
        elif self.lost is not None:
            yield from self.courier.receive_anew()
        elif self.work.overdue:
            yield from self.courier.receive_anew(self.clock().timestamp())
        self.work.overdue = False
        if self.courier.found_missing or (self.lost is not None and not self.lost.connection):
            yield from self.work.send_again()
            self.agenda.sweep_soon(lost_messages=True)
            self.courier.found_missing = False
        self.lost = None

    def _assign(self, assigned: Assigned) -> Asking:
        patience = self.serving.patience.takeover if self.serving.by_mail else 0.0
        patient_until = self.clock().timestamp() + patience
        self.roster.update(assigned.alive, assigned.patience)
        self.agenda.assign(frozenset(assigned.owned), patient_until)
        self.numbers = frozenset(number for _, number in assigned.owned)
        for instance_id in [i for i, known in self.warm.items() if not self._serves(known.summary)]:
            del self.warm[instance_id]
        if self.serving.by_mail:
            # Before anything is sent: a queue that is missing now has lost nothing of ours.
            self.courier.want_outcomes(assigned.owned)
            yield from self.intake.receive()

    def _round(self) -> Asking:
        moment = self.clock()
        now = moment.timestamp()
        set_back = self.agenda.set_back(now)
        rows: list[Row] = yield from self.agenda.read(now, self.parked)
        for row in rows:
            self._act_upon(row)
        for instance_id, arrival in self.agenda.fire(moment):
            self.arrived.setdefault(instance_id, []).append(arrival)
        if now >= self.work.next_renewal or set_back:
            yield from self.work.renew(now)
            yield from self.intake.claim_long_ones(now)
        if self.intake.room != self.work.room:
            yield from self.intake.receive()
        yield from self.intake.accept()
        yield from self._send()
        yield from self.work.recover(self.settings.batch)
        if self.arrived or self.hinted:
            yield from self._turns()
            yield from self._send()
        yield from self._post()

    def _idle_seconds(self) -> float:
        if self.arrived or self.hinted or self.outbox.rows or self.work.orphans or self.courier.busy:
            return 0.0
        if self.stopping is not None and not self.work.running:
            return 0.0  # the last activity has ended within the grace: nothing is left to wait for
        now = self.clock().timestamp()
        until = self.agenda.next_at
        if self.serving.by_mail:
            until = min(until, self.work.next_renewal, self.courier.next_at)
        if self.stopping is not None:
            until = min(until, self.stopping)
        return max(0.0, min(until - now, self.settings.sweep))

    def _sort(self, news: Iterable[News]) -> None:
        for item in news:
            if isinstance(item, Done):
                invocation = item.invocation
                self.work.ended(item)
                if not self.courier.ended(item):
                    arrival = Arrival(item.event, invocation.execution_id)
                    self.arrived.setdefault(invocation.instance_id, []).append(arrival)
            elif isinstance(item, Arrived):
                outcomes, invocations = self.courier.sort(item.deliveries)
                self.intake.offered += invocations
                for instance_id, arrival in outcomes:
                    self.arrived.setdefault(instance_id, []).append(arrival)
            elif isinstance(item, Hint):
                if item.instance_ids is None:
                    self.agenda.look = True
                else:
                    for instance_id in item.instance_ids:
                        if self._owns(instance_id):
                            self.hinted[instance_id] = None
            elif isinstance(item, Assigned):
                self.assigned = item
            elif isinstance(item, Lost):
                if self.lost is None or self.lost.connection:  # lost messages take more than a lost connection
                    self.lost = item
            elif isinstance(item, CodeChanged):
                self._code_changed()
            elif self.stopping is None:
                self.stopping = self.clock().timestamp() + item.grace

    def _owns(self, instance_id: str) -> bool:
        """Whether it may be ours: only its summary knows its group."""
        return partition_of(instance_id, self.env.partitions) in self.numbers

    def _serves(self, summary: Summary) -> bool:
        return (summary.group, partition_of(summary.instance_id, self.env.partitions)) in self.agenda.owned

    def _code_changed(self) -> None:
        self.warned.clear()
        self.hinted.update(dict.fromkeys(self.parked))
        self.parked.clear()
        self.work.code_changed()
        self.agenda.sweep_soon()

    def _act_upon(self, row: Row) -> None:
        if row.kind == "inbox":
            self.hinted[row.instance_id] = None
        elif row.kind == "message":
            self.outbox.rows.append(row)
        elif self.work.is_orphan(row):
            self.work.orphans.append(row)

    # ---- turns

    def _turns(self) -> Asking:
        """One batch: load what is not warm, step, deliver, commit, act."""
        batch = self._next_batch()
        wants = [
            Want(i, self.warm[i].version if i in self.warm else 0)
            for i, inbox in batch.items()
            if inbox or i not in self.warm
        ]
        loaded: dict[str, Record | None] = {}
        if wants:
            records: list[Record | None] = yield Load(wants)
            loaded = {want.instance_id: record for want, record in zip(wants, records, strict=True)}
        turns: list[tuple[Turn, list[Arrival]]] = []
        leases: list[Lease] = []
        now = self.clock()
        foreign: dict[str, list[Arrival]] = {}
        gone: dict[str, list[Arrival]] = {}
        for instance_id in batch:
            arrivals = self.arrived.pop(instance_id, None) or []
            if not self._is_ours(instance_id, loaded):
                foreign[instance_id] = arrivals
                continue
            turn = self._step(instance_id, arrivals, loaded, leases, gone, now)
            if turn is not None:
                turns.append((turn, arrivals))
        try:
            yield from self._conclude(turns, leases)
            yield from self._hand_over(foreign)
        except StoreError:
            for turn, arrivals in turns:
                self._give_back(turn.instance.summary.instance_id, arrivals)
            for instance_id, arrivals in (*foreign.items(), *gone.items()):
                self.arrived.setdefault(instance_id, [])[:0] = arrivals
            raise
        if gone:
            yield from self._forget(gone)

    def _forget(self, gone: dict[str, list[Arrival]]) -> Asking:
        """These instances are not there: they were purged. Let go of the rows behind what has come for them."""
        partitions = self.env.partitions
        rows = [
            RowKey(partition_of(instance_id, partitions), arrival.row_key or row_behind(arrival))
            for instance_id, arrivals in gone.items()
            for arrival in arrivals
        ]
        try:
            if rows:
                yield from self.work.end(rows)
        except StoreError:
            for instance_id, arrivals in gone.items():
                self.arrived.setdefault(instance_id, [])[:0] = arrivals
            raise
        self.courier.done += [a.tag for arrivals in gone.values() for a in arrivals if a.tag is not None]

    def _is_ours(self, instance_id: str, loaded: dict[str, Record | None]) -> bool:
        known = self.warm.get(instance_id)
        if known is not None:
            return self._serves(known.summary)
        record = loaded.get(instance_id)
        return self._owns(instance_id) if record is None else self._serves(record.summary)

    def _hand_over(self, foreign: dict[str, list[Arrival]]) -> Asking:
        """Outcomes for instances that are somebody else's (by now): into their inboxes, and tell."""
        facts: list[Fact] = []
        rows: list[RowKey] = []
        for instance_id, arrivals in foreign.items():
            outcomes = [a for a in arrivals if not a.row_key]  # a timer's row is found by its new owner
            partition = partition_of(instance_id, self.env.partitions)
            rows += [RowKey(partition, row_behind(a)) for a in outcomes]
            facts += [outcome_fact(instance_id, a, self.env.partitions, self.clock()) for a in outcomes]
            self.work.forget(row_behind(a) for a in outcomes)
        if facts:
            answers: list[Delivered] = yield Deliver(facts)
            self.courier.done += [a.tag for some in foreign.values() for a in some if a.tag is not None]
            yield Notify(FACTS, list(dict.fromkeys(fact.instance_id for fact in facts)))
            taken = (Delivered.NEW, Delivered.DUPLICATE)
            unwanted = [row for row, answer in zip(rows, answers, strict=True) if answer not in taken]
            if unwanted:
                yield from self.work.end(unwanted)

    def _next_batch(self) -> dict[str, bool]:
        """Instances to step now, and whether their inbox must be read."""
        batch: dict[str, bool] = {}
        for instance_id in self.hinted:
            if len(batch) >= self.settings.batch:
                break
            batch[instance_id] = True
        for instance_id in batch:
            del self.hinted[instance_id]
        for instance_id in self.arrived:
            if len(batch) >= self.settings.batch:
                break
            batch.setdefault(instance_id, False)
        return batch

    def _step(
        self,
        instance_id: str,
        arrivals: list[Arrival],
        loaded: dict[str, Record | None],
        leases: list[Lease],
        gone: dict[str, list[Arrival]],
        now: datetime,
    ) -> Turn | None:
        instance = self.warm.pop(instance_id, None)
        inbox: tuple[Row, ...] = ()
        if instance_id in loaded:
            record = loaded[instance_id]
            if record is None:
                gone[instance_id] = arrivals
                return None
            inbox = record.inbox
            if instance is None or record.history is not None:
                try:
                    instance = Instance.of_record(record)
                except UnreadableHistory as error:
                    self._park_rows(instance_id, str(error), inbox, leases)
                    return None
        assert instance is not None
        if inbox:
            facts, unreadable = inbox_arrivals(inbox)
            for row in unreadable:
                log.error("instance %r: a fact in its inbox can't be read and is kept: %s", instance_id, row.key)
            if instance.execution is not None and any(a.event.type == h.EXECUTION_TERMINATED for a in facts):
                # Ending it needs its whole history, which a warm instance does not keep: come back for it.
                if arrivals:
                    self.arrived[instance_id] = arrivals
                self.hinted[instance_id] = None
                return None
            if any(a.event.type == h.EXECUTION_REWOUND for a in facts):
                self.agenda.sweep_soon()  # rows that a client has put are due, and no turn of ours has told of them
            known = {a.row_key for a in arrivals}
            arrivals[:0] = [a for a in facts if a.row_key not in known]
        code, missing = self._code(instance)
        turn = step(instance, arrivals, code, missing, now, self.env)
        self.ignored += turn.ignored
        if turn.parked:
            self._park_rows(instance_id, turn.parked, inbox, leases)
        return turn

    def _code(self, instance: Instance) -> tuple[Code | None, str]:
        if instance.execution is not None:
            return instance.execution.code, ""
        name, version = instance.summary.name, instance.summary.version
        code = self.codebase.orchestrator(name, version)
        if code is not None:
            return code, ""
        shown = f"{name!r} in version {version!r}" if version else repr(name)
        known = ", ".join(self.codebase.known("orchestrator")) or "none"
        return None, f"no worker here serves orchestrator {shown}; registered here: {known}"

    def _park_rows(self, instance_id: str, reason: str, rows: Sequence[Row], leases: list[Lease]) -> None:
        if self.parked.get(instance_id) != reason and instance_id not in self.warned:
            self.warned.add(instance_id)
            log.warning("orchestration %r waits: %s", instance_id, reason)
        self.parked[instance_id] = reason
        until = self.clock().timestamp() + self.env.hold
        leases.extend(Lease(r.partition, r.key, r.holder, r.attempt, until, self.env.holder) for r in rows)

    def _conclude(self, turns: list[tuple[Turn, list[Arrival]]], leases: list[Lease]) -> Asking:
        undelivered = [fact for turn, _ in turns for fact in turn.undelivered]
        if undelivered:
            yield Deliver(undelivered)
        writing = [(turn, arrivals) for turn, arrivals in turns if turn.commit is not None]
        commits = [turn.commit for turn, _ in writing if turn.commit is not None]
        done: list[Turn] = [turn for turn, _ in turns if turn.commit is None]
        taken = {id(turn): arrivals for turn, arrivals in turns}
        if commits:
            outcomes: list[Outcome] = yield Write(commits)
            unknown: list[tuple[Turn, list[Arrival]]] = []
            for (turn, arrivals), outcome in zip(writing, outcomes, strict=True):
                if outcome is Outcome.COMMITTED:
                    done.append(turn)
                elif outcome is Outcome.UNKNOWN:
                    unknown.append((turn, arrivals))
                else:
                    self._give_back(turn.instance.summary.instance_id, arrivals)
            done.extend((yield from self._settle(unknown)))
        self.courier.done += [a.tag for turn in done for a in taken[id(turn)] if a.tag is not None]
        yield from self._act(done)
        if leases:
            yield Claim(leases)

    def _give_back(self, instance_id: str, arrivals: Sequence[Arrival]) -> None:
        """Nothing of this turn happened: keep what only memory has, read the rest again."""
        self.warm.pop(instance_id, None)
        kept = [a for a in arrivals if not a.row_key.startswith(("in/", "wake/"))]
        if kept:
            self.arrived.setdefault(instance_id, [])[:0] = kept
        self.hinted[instance_id] = None

    def _settle(self, unknown: list[tuple[Turn, list[Arrival]]]) -> Generator[Request, Any, list[Turn]]:
        """An unknown outcome is settled by reading: the last commit's id says whether ours is the one."""
        if not unknown:
            return []
        records: list[Record | None] = yield Load([Want(t.instance.summary.instance_id) for t, _ in unknown])
        done = []
        for (turn, arrivals), record in zip(unknown, records, strict=True):
            if record is not None and turn.commit is not None and record.commit_id == turn.commit.id:
                done.append(turn)
            else:
                self.faulty = True
                self._give_back(turn.instance.summary.instance_id, arrivals)
        return done

    # ---- after the commit

    def _act(self, turns: Sequence[Turn]) -> Asking:
        run: list[Invocation] = []
        cancelled: list[str] = []
        news: list[str] = []
        for turn in turns:
            instance = turn.instance
            instance_id = instance.summary.instance_id
            if turn.again:
                self.hinted[instance_id] = None
            if not turn.parked:
                if self.parked.pop(instance_id, None) is not None:
                    self.agenda.sweep_soon()  # its timers were left alone meanwhile
                if instance.execution is not None or turn.late:
                    self.warm[instance_id] = instance
            if turn.commit is None:
                continue
            if instance.summary.status is not RuntimeStatus.RUNNING or instance.version <= 2:
                news.append(instance_id)
                if self.serving.by_mail and instance.summary.status is not RuntimeStatus.BLOCKED:
                    self.courier.announce(instance.summary)
            run.extend(turn.invocations)
            cancelled.extend(turn.cancelled)
            self.agenda.arm(row for row in turn.commit.put if row.kind == "timer")
            self.outbox.rows += [row for row in turn.commit.put if row.kind == "message"]
            self.work.forget(turn.commit.drop)
            self.agenda.disarm(turn.commit.drop)
        while len(self.warm) > self.settings.cached:
            self.warm.popitem(last=False)
        if run:
            yield from self.work.begin(run)
        if cancelled:
            yield from self.work.cancel(cancelled)
        if news:
            yield Notify(STATUS, news)

    def _post(self) -> Asking:
        posted = Posted([], [], [])
        try:
            yield from self.courier.post(posted)
        finally:
            self.work.sent.update(key for key in posted.sent if key in self.work.held)
            self.work.outcome_stored(posted.stored)
        if posted.unwanted:
            yield from self.work.end(posted.unwanted)

    def _send(self) -> Asking:
        if self.outbox.rows:
            sent = yield from self.outbox.send()
            self.faulty |= sent.again
            yield from self._hint(sent.targets)

    def _hint(self, instance_ids: Iterable[str]) -> Asking:
        others: list[str] = []
        for instance_id in instance_ids:
            if self._owns(instance_id):
                self.hinted[instance_id] = None
            else:
                others.append(instance_id)
        if others:
            yield Notify(FACTS, others)

    # ---- the end

    def _drain(self) -> Generator[Request, Any, bool]:
        """True when nothing runs any more, or the grace is over; then every row of ours is handed back."""
        if not self.work.closed:
            self.work.closed = True
            queued: list[str] = yield Halt()
            self.work.running.difference_update(queued)
            self.courier.give_back(queued)
            yield from self.intake.receive()
        assert self.stopping is not None
        if (self.work.running or self.arrived) and self.clock().timestamp() < self.stopping:
            return False
        while self.arrived:
            yield from self._turns()
        yield from self.work.hand_back()
        yield from self._send()
        if self.serving.by_mail:
            self.courier.want_outcomes(())
            self.courier.announce_all()
            yield from self.courier.receive()
            yield from self._post()
        return True
