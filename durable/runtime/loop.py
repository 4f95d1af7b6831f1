"""The worker's loop: drain what has arrived, step each instance once, commit all in one batch, then act.

Laws.
1. No I/O, no thread, no clock of its own: a generator that yields one request a batch (see `requests`).
2. Nothing is done before its commit is committed; nothing that has arrived is forgotten before that either.
3. After a conflict or an unknown outcome the live code is thrown away and the stored state is read again.
4. Signals make it fast; the sweep of the `due` index makes it right.
5. A row is acted upon by its holder, or by anybody once it is due or its holder is dead.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from ..engine.instance import Arrival, Instance, Invocation, Turn
from ..engine.ledger import Ledger
from ..engine.messages import Message, decode_message
from ..engine.step import Env, create, inbox_arrivals, invocation_of, step, taken_id_failure, timer_arrival
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import Event, UnreadableHistory, encode_event
from ..model.names import partition_of
from ..model.status import RuntimeStatus
from ..ports import FACTS, STATUS, Commit, Delivered, Fact, Lease, Outcome, Record, Row, Slice, Want
from ..replay.execution import Code
from .requests import (
    Assigned,
    Cancel,
    Claim,
    CodeChanged,
    Deliver,
    Done,
    Due,
    Halt,
    Hint,
    Load,
    News,
    Notify,
    Request,
    Run,
    Wait,
    Write,
)

log = logging.getLogger("durable.worker")

Asking = Generator[Request, Any, Any]


class Codebase(Protocol):
    """Where the loop finds code: by name only, never by import."""

    def orchestrator(self, name: str, version: str) -> Code | None: ...

    def serves_activity(self, name: str) -> bool: ...

    def known(self, kind: str) -> list[str]: ...


class Settings(NamedTuple):
    """batch: instances stepped and committed together. window: seconds of timers kept in memory. sweep: seconds
    between two readings of the due index. page: rows a reading. cached: warm instances. retry: seconds after a fault."""

    batch: int = 400
    window: float = 60.0
    sweep: float = 5.0
    page: int = 2_000
    cached: int = 10_000
    retry: float = 0.5


class Held(NamedTuple):
    """A task row of ours: how often it was leased, and when somebody else may look at it."""

    attempt: int
    due_at: float


class Loop:
    """One worker's loop. `run()` is the generator to drive."""

    def __init__(
        self, env: Env, codebase: Codebase, clock: Callable[[], datetime], settings: Settings = Settings()
    ) -> None:
        self.env = env
        self.codebase = codebase
        self.clock = clock
        self.settings = settings
        self.partitions: frozenset[int] = frozenset()
        self.alive: frozenset[str] = frozenset({env.holder})
        self.warm: OrderedDict[str, Instance] = OrderedDict()
        self.arrived: dict[str, list[Arrival]] = {}
        self.hinted: dict[str, None] = {}
        self.recover: list[Row] = []
        self.outgoing: list[Row] = []
        self.parked: dict[str, str] = {}
        self.held: dict[str, Held] = {}
        self.running: set[str] = set()
        self.unserved: dict[str, Invocation] = {}
        self.next_renewal = 0.0
        self.faulty = False
        self.armed: dict[str, Row] = {}
        self.timers: list[tuple[float, str]] = []
        self.horizon = 0.0
        self.next_sweep = 0.0
        self.swept_at = 0.0
        self.look = False
        self.stopping: float | None = None
        self.halted = False
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
                if self.stopping is not None and (yield from self._drain()):
                    return
                yield from self._round()
            except StoreError as error:
                log.warning("the store did not answer, trying again in %s s: %s", self.settings.retry, error)
                self.faulty = True
            if self.faulty:
                self.faulty = False
                self.warm.clear()
                self.next_sweep = 0.0
                pause = self.settings.retry

    def _round(self) -> Asking:
        now = self.clock().timestamp()
        if now >= self.next_sweep or now < self.swept_at:  # the clock may have been set back
            yield from self._sweep(now)
        elif self.look:
            yield from self._look(now)
        self._fire_timers(now)
        if now >= self.next_renewal:
            yield from self._renew(now)
        yield from self._send_messages()
        yield from self._recover_tasks()
        if self.arrived or self.hinted:
            yield from self._turns()
            yield from self._send_messages()

    def _idle_seconds(self) -> float:
        if self.arrived or self.hinted or self.outgoing or self.recover:
            return 0.0
        now = self.clock().timestamp()
        until = self.next_sweep
        if self.timers:
            until = min(until, self.timers[0][0])
        if self.stopping is not None:
            until = min(until, self.stopping)
        return max(0.0, min(until - now, self.settings.sweep))

    def _sort(self, news: Iterable[News]) -> None:
        for item in news:
            if isinstance(item, Done):
                invocation = item.invocation
                arrival = Arrival(item.event, invocation.execution_id)
                self.arrived.setdefault(invocation.instance_id, []).append(arrival)
                self.running.discard(invocation.row_key)
            elif isinstance(item, Hint):
                if item.instance_ids is None:
                    self.look = True
                else:
                    for instance_id in item.instance_ids:
                        if self._owns(instance_id):
                            self.hinted[instance_id] = None
            elif isinstance(item, Assigned):
                self.partitions, self.alive = frozenset(item.partitions), frozenset(item.alive)
                for instance_id in [i for i in self.warm if not self._owns(i)]:
                    del self.warm[instance_id]
                self.next_sweep = 0.0
            elif isinstance(item, CodeChanged):
                self._code_changed()
            elif self.stopping is None:
                self.stopping = self.clock().timestamp() + item.grace

    def _owns(self, instance_id: str) -> bool:
        return partition_of(instance_id, self.env.partitions) in self.partitions

    def _code_changed(self) -> None:
        self.warned.clear()
        self.hinted.update(dict.fromkeys(self.parked))
        self.parked.clear()
        self.next_sweep = self.next_renewal = 0.0

    # ---- the sweep: what the store says is due

    def _sweep(self, now: float) -> Asking:
        until = now + self.settings.window
        pages = 0
        more = False
        for partition in sorted(self.partitions):
            after = ""
            while True:
                rows: Slice[Row] = yield Due(partition, until, self.settings.page, after)
                pages += 1
                for row in rows.items:
                    self._classify(row, now)
                if rows.next is None:
                    break
                if pages >= 5:
                    more = True
                    until = min(until, rows.items[-1].due_at)
                    break
                after = rows.next
        self.horizon = until
        self.look = False
        self.swept_at = now
        self.next_sweep = now if more and (self.hinted or self.recover) else now + self.settings.sweep

    def _look(self, now: float) -> Asking:
        """Somebody changed something: what is due right now, without the window ahead."""
        self.look = False
        for partition in sorted(self.partitions):
            rows: Slice[Row] = yield Due(partition, now, self.settings.page)
            for row in rows.items:
                self._classify(row, now)
            if rows.next is not None:
                self.next_sweep = now

    def _classify(self, row: Row, now: float) -> None:
        if row.kind == "timer":
            if row.instance_id not in self.parked:
                self._arm(row)
            return
        mine = row.holder == self.env.holder
        if row.due_at > now and row.holder in self.alive and (not mine or row.kind != "task"):
            return
        if row.kind == "inbox":
            self.hinted[row.instance_id] = None
        elif row.kind == "message":
            self.outgoing.append(row)
        elif row.key not in self.held:
            self.recover.append(row)

    # ---- timers

    def _arm(self, row: Row) -> None:
        if row.key not in self.armed:
            self.armed[row.key] = row
            heapq.heappush(self.timers, (row.due_at, row.key))

    def _fire_timers(self, now: float) -> None:
        fired = self.clock()
        while self.timers and self.timers[0][0] <= now:
            _, key = heapq.heappop(self.timers)
            row = self.armed.pop(key, None)
            if row is not None:
                self.arrived.setdefault(row.instance_id, []).append(timer_arrival(row, fired))

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
        for instance_id in batch:
            arrivals = self.arrived.pop(instance_id, None) or []
            turn = self._step(instance_id, arrivals, loaded, leases, now)
            if turn is not None:
                turns.append((turn, arrivals))
        try:
            yield from self._conclude(turns, leases)
        except StoreError:
            for turn, arrivals in turns:
                self._give_back(turn.instance.summary.instance_id, arrivals)
            raise

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
        now: datetime,
    ) -> Turn | None:
        instance = self.warm.pop(instance_id, None)
        inbox: tuple[Row, ...] = ()
        if instance_id in loaded:
            record = loaded[instance_id]
            if record is None:
                self._end_rows(arrivals, leases)
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
        leases.extend(Lease(r.key, r.holder, r.attempt, until, self.env.holder) for r in rows)

    def _end_rows(self, arrivals: Sequence[Arrival], leases: list[Lease]) -> None:
        """The instance is gone; so are its rows, as far as they are ours to end."""
        for arrival in arrivals:
            key = arrival.row_key or f"{arrival.execution_id}/{arrival.event.task_id}/{arrival.event.attempt}"
            held = self.held.pop(key, None)
            holder, attempt = (self.env.holder, held.attempt) if held is not None else ("", 0)
            leases.append(Lease(key, holder, attempt, None))

    def _conclude(self, turns: list[tuple[Turn, list[Arrival]]], leases: list[Lease]) -> Asking:
        undelivered = [fact for turn, _ in turns for fact in turn.undelivered]
        if undelivered:
            yield Deliver(undelivered)
        writing = [(turn, arrivals) for turn, arrivals in turns if turn.commit is not None]
        commits = [turn.commit for turn, _ in writing if turn.commit is not None]
        done: list[Turn] = [turn for turn, _ in turns if turn.commit is None]
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
        if leases:
            yield Claim(leases)
        yield from self._act(done)

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
                    self.next_sweep = 0.0  # its timers were left alone meanwhile
                if instance.execution is not None:
                    self.warm[instance_id] = instance
            if turn.commit is None:
                continue
            if instance.summary.status is not RuntimeStatus.RUNNING or instance.version <= 2:
                news.append(instance_id)
            run.extend(turn.invocations)
            cancelled.extend(turn.cancelled)
            for row in turn.commit.put:
                if row.kind == "timer":
                    if row.due_at <= self.horizon:
                        self._arm(row)
                elif row.kind == "message":
                    self.outgoing.append(row)
            for key in turn.commit.drop:
                self.held.pop(key, None)
                self.armed.pop(key, None)
        while len(self.warm) > self.settings.cached:
            self.warm.popitem(last=False)
        if run:
            yield from self._start_activities(run, 0)
        if cancelled:
            self.running.difference_update(cancelled)
            for key in cancelled:
                self.unserved.pop(key, None)
            yield Cancel(cancelled)
        if news:
            yield Notify(STATUS, news)

    def _start_activities(self, invocations: Sequence[Invocation], attempt: int) -> Asking:
        due_at = self.clock().timestamp() + self.env.hold
        served = []
        for invocation in invocations:
            key = invocation.row_key
            self.held[key] = Held(attempt, due_at)
            if self.stopping is not None:
                continue  # handed back at the end of the drain
            if self.codebase.serves_activity(invocation.name):
                self.running.add(key)
                served.append(invocation)
            else:
                self.unserved[key] = invocation
                self._warn_unserved(invocation)
        if served:
            yield Run(served)

    def _warn_unserved(self, invocation: Invocation) -> None:
        if invocation.name not in self.warned:
            self.warned.add(invocation.name)
            known = ", ".join(self.codebase.known("activity")) or "none"
            log.warning(
                "activity %r (instance %r) waits: no worker here serves it; registered here: %s",
                invocation.name,
                invocation.instance_id,
                known,
            )

    def _renew(self, now: float) -> Asking:
        """Rows of activities that still run, or wait for a thread or for code, stay ours."""
        self.next_renewal = now + self.env.hold / 4
        soon = now + self.env.hold / 2
        ready = {key for key, i in self.unserved.items() if self.codebase.serves_activity(i.name)}
        due = [(key, held) for key, held in self.held.items() if held.due_at < soon or key in ready]
        if not due:
            return
        until = now + self.env.hold
        leases = [Lease(key, self.env.holder, held.attempt, until, self.env.holder) for key, held in due]
        kept: list[bool] = yield Claim(leases)
        start: dict[int, list[Invocation]] = {}
        for (key, held), ours in zip(due, kept, strict=True):
            if not ours:
                # Recorded meanwhile, or taken over by somebody else; whichever outcome comes first counts.
                self.held.pop(key, None)
                self.unserved.pop(key, None)
            elif key in ready:
                start.setdefault(held.attempt + 1, []).append(self.unserved.pop(key))
            else:
                self.held[key] = Held(held.attempt + 1, until)
        for attempt, invocations in start.items():
            yield from self._start_activities(invocations, attempt)

    def _recover_tasks(self) -> Asking:
        """Rows of activities that nobody runs: run those that are still open, end the others."""
        rows, self.recover = self.recover[: self.settings.batch], self.recover[self.settings.batch :]
        if not rows:
            return
        ids = list(dict.fromkeys(row.instance_id for row in rows))
        records: list[Record | None] = yield Load([Want(i) for i in ids])
        ledgers: dict[str, tuple[Record, Ledger] | None] = {}
        for instance_id, record in zip(ids, records, strict=True):
            try:
                ledgers[instance_id] = None if record is None else (record, Ledger.of_rows(record.history or ()))
            except UnreadableHistory:
                ledgers[instance_id] = None
                rows = [row for row in rows if row.instance_id != instance_id]
        until = self.clock().timestamp() + self.env.hold
        leases: list[Lease] = []
        wanted: list[Invocation | None] = []
        for row in rows:
            invocation = _open_task(row, ledgers[row.instance_id])
            wanted.append(invocation)
            due_at, holder = (None, "") if invocation is None else (until, self.env.holder)
            leases.append(Lease(row.key, row.holder, row.attempt, due_at, holder))
        taken: list[bool] = yield Claim(leases)
        start: dict[int, list[Invocation]] = {}
        for row, invocation, ours in zip(rows, wanted, taken, strict=True):
            if ours and invocation is not None:
                start.setdefault(row.attempt + 1, []).append(invocation)
        for attempt, invocations in start.items():
            yield from self._start_activities(invocations, attempt)

    # ---- messages to other instances

    def _send_messages(self) -> Asking:
        """Store first, then the hint; the row ends once its target has it."""
        rows, self.outgoing = self.outgoing, []
        if not rows:
            return
        ended: list[Row] = []
        starts: list[tuple[Row, Message]] = []
        facts: list[tuple[Row, Fact]] = []
        for row in rows:
            try:
                message = decode_message(row.body)
            except msgspec.MsgspecError as error:
                log.error("message %r of instance %r can't be read and is kept: %s", row.key, row.instance_id, error)
                continue
            if message.kind == "start":
                starts.append((row, message))
            else:
                facts.append((row, self._fact(message, row.key)))
        try:
            ended += yield from self._send_starts(starts, facts)
            ended += yield from self._send_facts(facts)
        except StoreError:
            self.outgoing = rows + self.outgoing
            raise
        if ended:
            yield Claim([Lease(row.key, row.holder, row.attempt, None) for row in ended])

    def _fact(self, message: Message, fact_id: str) -> Fact:
        partition = partition_of(message.target, self.env.partitions)
        return Fact(message.target, partition, fact_id, encode_event(message.event), self.clock().timestamp())

    def _send_starts(
        self, starts: list[tuple[Row, Message]], facts: list[tuple[Row, Fact]]
    ) -> Generator[Request, Any, list[Row]]:
        if not starts:
            return []
        commits = [create(m.target, m.event, self.env.partitions, self.env.mint()) for _, m in starts]
        batches = _distinct(commits)
        outcomes: dict[str, Outcome] = {}
        for batch in batches:
            answers: list[Outcome] = yield Write(batch)
            outcomes.update({c.id: answer for c, answer in zip(batch, answers, strict=True)})
        ended, unclear = [], []
        for (row, message), commit in zip(starts, commits, strict=True):
            if outcomes[commit.id] is Outcome.COMMITTED:
                ended.append(row)
            else:
                unclear.append((row, message))
        if unclear:
            records: list[Record | None] = yield Load([Want(m.target) for _, m in unclear])
            for (row, message), record in zip(unclear, records, strict=True):
                if record is None:
                    self.faulty = True
                    self.outgoing.append(row)  # it did not happen after all: send it again
                elif _started_by(record) == message.event.parent:
                    ended.append(row)
                else:
                    facts.append((row, self._fact(_refusal(message), row.key)))
        yield from self._hint([m.target for _, m in starts])
        return ended

    def _send_facts(self, facts: list[tuple[Row, Fact]]) -> Generator[Request, Any, list[Row]]:
        if not facts:
            return []
        answers: list[Delivered] = yield Deliver([fact for _, fact in facts])
        ended = []
        for (row, fact), answer in zip(facts, answers, strict=True):
            # A terminate may overtake the start of its child; the row stays until the child is there.
            if answer is not Delivered.ABSENT or not row.key.endswith("/terminate"):
                ended.append(row)
        yield from self._hint([fact.instance_id for _, fact in facts])
        return ended

    def _hint(self, instance_ids: Sequence[str]) -> Asking:
        others = []
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
        if not self.halted:
            self.halted = True
            queued: list[str] = yield Halt()
            self.running.difference_update(queued)
        assert self.stopping is not None
        if (self.running or self.arrived) and self.clock().timestamp() < self.stopping:
            return False
        while self.arrived:
            yield from self._turns()
        now = self.clock().timestamp()
        yield Claim([Lease(key, self.env.holder, held.attempt, now) for key, held in self.held.items()])
        yield from self._send_messages()
        return True


def _open_task(row: Row, found: tuple[Record, Ledger] | None) -> Invocation | None:
    """The invocation behind a task row, if its instance still waits for this very attempt."""
    if found is None:
        return None
    record, ledger = found
    execution_id, task_id, attempt = row.key.rsplit("/", 2)
    if record.summary.execution_id != execution_id or record.summary.status is RuntimeStatus.TERMINATED:
        return None
    scheduled = ledger.tasks.get(int(task_id))
    if scheduled is None or scheduled.attempt != int(attempt):
        return None
    return invocation_of(row.instance_id, execution_id, scheduled)


def _started_by(record: Record) -> h.Parent | None:
    assert record.history is not None
    started = Ledger.of_rows(record.history[:1]).started
    return None if started is None else started.parent


def _refusal(message: Message) -> Message:
    parent = message.event.parent
    assert parent is not None
    event = Event(
        h.CHILD_FAILED,
        message.event.timestamp,
        task_id=parent.task_id,
        attempt=parent.attempt,
        failure=taken_id_failure(message),
        execution_id=parent.execution_id,
    )
    return Message("fact", parent.instance_id, event)


def _distinct(commits: Sequence[Commit]) -> list[list[Commit]]:
    """Batches in which no instance appears twice."""
    batches: list[list[Commit]] = []
    seen: list[set[str]] = []
    for commit in commits:
        for batch, ids in zip(batches, seen, strict=True):
            if commit.instance_id not in ids:
                batch.append(commit)
                ids.add(commit.instance_id)
                break
        else:
            batches.append([commit])
            seen.append({commit.instance_id})
    return batches
