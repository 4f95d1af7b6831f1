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
import math
from collections.abc import Callable, Generator, Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from ..engine.instance import Arrival, Env
from ..model.errors import StoreError
from ..model.names import TRIGGERS
from ..ports import FACTS, Row
from ..triggers.drafting import FindFunction, no_function
from .agenda import Agenda
from .courier import Courier, Posted
from .intake import Intake
from .lifecycle import Lifecycle
from .outbox import Outbox
from .requests import (
    Arrived,
    Assigned,
    CodeChanged,
    Done,
    Halt,
    Hint,
    Lost,
    News,
    Notify,
    Occurred,
    Request,
    Started,
    Stuck,
    Wait,
)
from .roster import Roster
from .serving import ALONE, Serving
from .turns import Codebase, Turns
from .workload import Workload

log = logging.getLogger("durable.worker")

Asking = Generator[Request, Any, Any]


class Settings(NamedTuple):
    """How much at a time, and how often.

    batch: instances stepped in one round; part: so many together, so that the store commits one part while the next is
    stepped. cached: warm instances. window: seconds of timers kept in memory. sweep: seconds between
    two readings of the due index. page: rows a reading. retry: seconds after a fault. parting: seconds beyond the grace
    of a stop in which a store that does not answer, or does not say what became of commits, is tried again.
    """

    batch: int = 400
    part: int = 400
    window: float = 60.0
    sweep: float = 5.0
    page: int = 2_000
    cached: int = 10_000
    retry: float = 0.5
    parting: float = 5.0


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
        find_function: FindFunction = no_function,
    ) -> None:
        self.env = env
        self.serving = serving
        self.codebase = codebase
        self.clock = clock
        self.settings = settings
        self.roster = Roster(env.holder)
        self.agenda = Agenda(self.roster, env.holder, settings.window, settings.sweep, settings.page)
        self.outbox = Outbox(env, clock)
        self.courier = Courier(env, serving, clock)
        self.work = Workload(env, serving, codebase, self.courier, clock)
        self.intake = Intake(env, serving, self.work, self.courier, self.roster, clock)
        self.lifecycle = Lifecycle(env, serving, settings.sweep)
        self.turns = Turns(
            env,
            serving,
            codebase,
            clock,
            self.agenda,
            self.outbox,
            self.courier,
            self.work,
            self.lifecycle,
            find_function,
        )
        self.assigned: Assigned | None = None
        self.lost: Lost | None = None
        self.doubt_at = math.inf  # when subscriptions are renewed because somebody died
        self.stopping: float | None = None
        self.grace = 0.0
        self.elsewhere: list[str] = []  # what was started here for other workers

    # ---- the loop

    def run(self) -> Asking:
        """Until it has drained after a `Stop`, or the store is away for too long for that."""
        pause = 0.0
        away_since: float | None = None
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
                if self.stopping is not None and self.clock().timestamp() >= self.stopping + self.settings.parting:
                    log.warning("nothing is handed back, whoever serves the store next will find it: %s", error)
                    return
                log.warning("the store did not answer, trying again in %s s: %s", self.settings.retry, error)
                self.turns.faulty = True
                away_since = away_since or self.clock().timestamp()
            else:
                if away_since is not None:
                    log.warning("the store answers again, after %.1f s", self.clock().timestamp() - away_since)
                    away_since = None
            if self.turns.faulty:
                self.turns.faulty = False
                self.turns.let_all_go()
                self.agenda.sweep_soon()
                pause = self.settings.retry

    def _heed(self) -> Asking:
        """What was said about this worker's part: its partitions, its connection."""
        if self.assigned is not None:
            assigned, self.assigned = self.assigned, None
            yield from self._assign(assigned)
        if self.lost is not None and self.lost.connection:
            yield from self.intake.connection_lost()
        elif self.lost is not None or self.clock().timestamp() >= self.doubt_at:
            self.doubt_at = math.inf
            yield from self.intake.receive_anew()
        elif self.work.overdue:
            yield from self.intake.receive_anew(self.clock().timestamp())
        self.work.overdue = False
        if self.courier.found_missing or (self.lost is not None and not self.lost.connection):
            yield from self.work.send_again()
            self.agenda.sweep_soon(lost_messages=True)
            self.courier.found_missing = False
        self.lost = None

    def _assign(self, assigned: Assigned) -> Asking:
        now = self.clock().timestamp()
        patient_until = now + (self.serving.patience.takeover if self.serving.by_mail else 0.0)
        if self.serving.by_mail and self.roster.alive.difference(assigned.alive):
            # Whoever is gone may have made a lost queue again, and died before it told us.
            self.doubt_at = min(self.doubt_at, now + self.serving.patience.doubt)
        self.roster.update(assigned.alive, assigned.patience)
        self.agenda.assign(frozenset(assigned.owned), patient_until)
        self.turns.assign(assigned.owned)
        if self.serving.by_mail:
            # Before anything is sent: a queue that is missing now has lost nothing of ours.
            self.courier.want_outcomes(assigned.owned)
            yield from self.intake.receive()

    def _round(self) -> Asking:
        moment = self.clock()
        now = moment.timestamp()
        set_back = self.agenda.set_back(now)
        if set_back:
            self.courier.hurry()
            if self.doubt_at < math.inf:
                self.doubt_at = now
            if self.stopping is not None:
                self.stopping = min(self.stopping, now + self.grace)
        if now >= self.lifecycle.next_look or set_back:
            yield from self.lifecycle.look(now)
        rows: list[Row] = yield from self.agenda.read(now, self.turns.parking)
        for row in rows:
            self._act_upon(row)
        for instance_id, arrival in self.agenda.fire(moment):
            self.turns.tell(instance_id, arrival)
        if now >= self.work.next_renewal or set_back:
            yield from self.work.renew(now)
            yield from self.intake.claim_long_ones(now)
            if self.serving.by_mail and not self.work.slots:
                queued: list[str] = yield Halt()
                if queued:
                    self.agenda.sweep_soon()
                    yield from self.work.give_up(queued)
        if self.serving.by_mail and self.intake.room != self.work.room:
            yield from self.intake.receive()
        if self.intake.offered:
            yield from self.intake.accept()
        if self.elsewhere:
            elsewhere, self.elsewhere = self.elsewhere, []
            yield Notify(FACTS, elsewhere)
        yield from self._send()
        if self.work.orphans:
            yield from self.work.recover(self.settings.batch)
        if self.turns.waiting:
            yield from self._turns()
            yield from self._send()
        yield from self.turns.triggers.tend()
        if self.courier.busy:
            yield from self._post()

    def _idle_seconds(self) -> float:
        if self.turns.waiting or self.outbox.rows or self.work.orphans or self.courier.busy:
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
                    self.turns.tell(invocation.instance_id, arrival)
            elif isinstance(item, Stuck):
                self.work.stuck += item.more
            elif isinstance(item, Arrived):
                outcomes, invocations = self.courier.sort(item.deliveries)
                self.intake.offered += invocations
                for instance_id, arrival in outcomes:
                    self.turns.tell(instance_id, arrival)
            elif isinstance(item, Occurred):
                if self.turns.owns(TRIGGERS):
                    self.turns.hint(TRIGGERS)  # what was asked for before holds for these
                    self.turns.tell(TRIGGERS, self.turns.triggers.arrival(item))
            elif isinstance(item, Hint):
                if item.instance_ids is None:
                    self.agenda.look = True
                else:
                    for instance_id in item.instance_ids:
                        if self.turns.owns(instance_id):
                            self.turns.hint(instance_id)
            elif isinstance(item, Started):
                self.elsewhere += [r.summary.instance_id for r in item.records if not self.turns.started(r)]
            elif isinstance(item, Assigned):
                self.assigned = item
            elif isinstance(item, Lost):
                if self.lost is None or self.lost.connection:  # lost messages take more than a lost connection
                    self.lost = item
            elif isinstance(item, CodeChanged):
                self._code_changed()
            elif self.stopping is None:
                self.grace = item.grace
                self.stopping = self.clock().timestamp() + item.grace

    def _code_changed(self) -> None:
        self.turns.code_changed()
        self.work.code_changed()
        self.agenda.sweep_soon()

    def _act_upon(self, row: Row) -> None:
        if row.kind == "inbox":
            self.turns.hint(row.instance_id)
        elif row.kind == "message":
            self.outbox.add(row)
        elif self.work.is_orphan(row):
            self.work.orphans[row.key] = row

    def _turns(self) -> Asking:
        yield from self.turns.take(self.settings.batch, self.settings.part, self.settings.cached)

    # ---- what goes out

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
            self.turns.faulty |= sent.again
            yield from self._hint(sent.targets)
        if self.turns.aftermath.held and not self.outbox.rows:
            yield from self.turns.aftermath.begin_held()

    def _hint(self, instance_ids: Iterable[str]) -> Asking:
        others: list[str] = []
        for instance_id in instance_ids:
            if self.turns.owns(instance_id):
                self.turns.suppose(instance_id)
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
        if (self.work.running or self.turns.arrived) and self.clock().timestamp() < self.stopping:
            return False
        while self.turns.arrived:
            yield from self._turns()
            if self.turns.faulty:
                if self.clock().timestamp() < self.stopping + self.settings.parting:
                    return False  # after a pause
                log.warning("what has arrived for %d instances can't be recorded", len(self.turns.arrived))
                break
        self.turns.triggers.leave()
        yield from self.turns.triggers.tend()
        yield from self.work.hand_back()
        yield from self._send()
        if self.serving.by_mail:
            self.courier.want_outcomes(())
            self.courier.hurry()
            yield from self.courier.receive()
            while self.courier.busy:
                yield from self._post()
        return True
