"""What follows a commit: activities to run, rows to send, timers to arm, and who is to be told.

Nothing of it is done before the commit is committed. All of it is written there too, as rows: it is done here and now
because that is fast, and by whoever finds the rows where it was not.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Final

from ..engine.codeless import outcome_fact
from ..engine.instance import AWAITS, Arrival, Env, Invocation, Turn, row_behind
from ..model.names import partition_of
from ..model.status import RuntimeStatus, Summary
from ..ports import FACTS, Delivered, Fact, Row, RowKey
from .agenda import Agenda
from .courier import Courier
from .outbox import Outbox
from .requests import Changed, Deliver, Ended, Notify, Request
from .serving import Serving
from .workload import Workload

log = logging.getLogger("durable.worker")

_MOST_SAID: Final = 300

Asking = Generator[Request, Any, None]


class Aftermath:
    """Of the turns that were committed, and of what came for instances that take no turn here."""

    def __init__(
        self,
        env: Env,
        serving: Serving,
        clock: Callable[[], datetime],
        agenda: Agenda,
        outbox: Outbox,
        courier: Courier,
        work: Workload,
    ) -> None:
        self.env = env
        self.serving = serving
        self.clock = clock
        self.agenda = agenda
        self.outbox = outbox
        self.courier = courier
        self.work = work
        self.held: list[Invocation] = []  # begin once the triggers have heard of what was asked for together with them

    def of(self, turns: Sequence[Turn]) -> Asking:
        """These are committed."""
        run: list[Invocation] = []
        cancelled: list[str] = []
        news: list[str] = []
        ended: list[Summary] = []
        timers: list[Row] = []
        dropped: list[str] = []
        waits = False
        for turn in turns:
            if turn.alarm is not None:
                timers.append(turn.alarm)
            commit = turn.commit
            if commit is None:
                continue
            summary = turn.instance.summary
            if commit.tells:
                news.append(summary.instance_id)
                if summary.status.finished:
                    ended.append(summary)
                if self.serving.announces and (turn.began or summary.status.finished):
                    self.courier.announce(summary, turn.instance.length)
            run += turn.invocations
            cancelled += turn.cancelled
            dropped += commit.drop
            for row in commit.put:
                if row.kind == "timer":
                    timers.append(row)
                elif row.kind == "message":
                    self.outbox.add(row)
                    waits |= row.key.endswith(AWAITS)
        if timers:
            self.agenda.arm(timers)
        self.work.forget(dropped)
        self.agenda.disarm(dropped)
        if self.held:
            gone = set(dropped)
            self.held = [invocation for invocation in self.held if invocation.row_key not in gone]
        if waits:
            self.held += run
        elif run:
            yield from self.work.begin(run)
        if cancelled:
            yield from self.work.cancel(cancelled)
        if ended:
            _log_failures(ended)
            yield Ended(ended)
        if news:
            yield Changed(news)

    def begin_held(self) -> Asking:
        """The messages before them have been sent."""
        held, self.held = self.held, []
        yield from self.work.begin(held)

    def hand_over(self, foreign: dict[str, list[Arrival]]) -> Asking:
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

    def forget(self, gone: dict[str, list[Arrival]]) -> Asking:
        """These instances are not there: they were purged. Let go of the rows behind what has come for them."""
        rows = [
            RowKey(partition_of(instance_id, self.env.partitions), arrival.row_key or row_behind(arrival))
            for instance_id, arrivals in gone.items()
            for arrival in arrivals
        ]
        if rows:
            yield from self.work.end(rows)
        self.courier.done += [a.tag for arrivals in gone.values() for a in arrivals if a.tag is not None]


def _log_failures(ended: Sequence[Summary]) -> None:
    """Somebody should look at those that failed; a child's failure is its parent's to handle."""
    for summary in ended:
        cause = summary.failure
        if summary.status is not RuntimeStatus.FAILED or cause is None:
            continue
        while cause.cause is not None:
            cause = cause.cause
        log.log(
            logging.INFO if summary.parent_instance_id else logging.WARNING,
            "orchestration %r (%s) failed: %s; durable show %s",
            *(summary.instance_id, summary.name, " ".join(cause.summary.split())[:_MOST_SAID]),
            shlex.quote(summary.instance_id),
        )
