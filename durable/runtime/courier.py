"""What travels by the transport: invocations out, outcomes back, and which delivery is acknowledged when.

Laws.
1. Nothing is published before its commit; a delivery is acknowledged only when what it brought is safe elsewhere: an
   outcome once a turn has taken it, an invocation once its outcome is confirmed by the broker or is in the store.
2. A confirm ends no row. What was returned is sent again after its queue was made; what is unknown is sent again.
3. Whatever may be a second copy (redelivered, resent, old) is leased before it runs, and dropped when a living worker
   runs it already.
4. A short activity keeps its delivery, so the broker hands it on the moment this worker dies. A long one is leased,
   then acknowledged, so that no broker's patience bounds it; its outcome goes to the store before anywhere else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Generator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ..engine.codeless import outcome_fact
from ..engine.instance import Arrival, Env, Invocation
from ..model.history import Event
from ..model.status import Summary
from ..ports import FACTS, Delivered, Delivery, Fact, Message, Published, RowKey
from . import wire
from .requests import Announce, Declare, Deliver, Done, Notify, Publish, Receive, Request, Settle
from .serving import Serving

log = logging.getLogger("durable.worker")

_TOGETHER = 500  # messages a publish
_ANEW_EVERY = 60.0  # seconds
_ANNOUNCE_WITHIN = 0.02  # seconds


class Outgoing(NamedTuple):
    """An invocation whose row is ours and committed."""

    invocation: Invocation
    resent: bool


class Taken(NamedTuple):
    """An invocation that was delivered and runs here. `tag` None: acknowledged, its row is ours instead."""

    invocation: Invocation
    tag: object
    reply_queue: str
    since: float


class Outcome(NamedTuple):
    """How an attempt that was delivered here has ended."""

    taken: Taken
    event: Event


class Posted(NamedTuple):
    """Row keys of invocations that are with the broker now; of outcomes that are in the store; of those for nobody."""

    sent: list[str]
    stored: list[str]
    unwanted: list[RowKey]


class Courier:
    """outgoing: to be sent. taken: deliveries that run here. outcomes: to be sent back. The rest: tags to settle."""

    def __init__(self, env: Env, serving: Serving, clock: Callable[[], datetime]) -> None:
        self.env = env
        self.serving = serving
        self.clock = clock
        self.outgoing: dict[str, Outgoing] = {}
        self.taken: dict[str, Taken] = {}
        self.outcomes: list[Outcome] = []
        self.lifecycle: list[Message] = []
        self._announce_at = 0.0
        self.done: list[object] = []
        self.back: list[object] = []
        self.unreadable: list[object] = []
        self.not_before = 0.0  # after trouble with the broker: no publishing until then
        self.found_missing = False  # a queue that should have been there, and what was in it
        self._slots = 0
        self._anew = False
        self._anew_at = 0.0
        self._wanted: dict[str, int] = {}
        self._receiving: dict[str, int] = {}

    # ---- who receives what

    def want_outcomes(self, owned: Collection[tuple[str, int]]) -> None:
        """Receive the outcomes for these partitions and for no others."""
        workspace = self.serving.workspace
        mine = {wire.partition_queue(workspace, group, number): _TOGETHER for group, number in owned}
        self._wanted = {**{queue: 0 for queue in self._wanted if wire.is_outcome_queue(queue)}, **self._work(), **mine}

    def want_work(self, slots: int) -> None:
        """Receive invocations from the queues served here, so many at a time; 0: none."""
        self._slots = slots
        self._wanted |= self._work()

    def _work(self) -> dict[str, int]:
        return {wire.work_queue(self.serving.workspace, queue): self._slots for queue in self.serving.queues}

    def distrust(self, now: float = 0.0) -> bool:
        """Whether the next `receive` subscribes anew: the broker may have ended a subscription without a word.

        RabbitMQ does so when a quorum queue is deleted and made again at once. now: not before a minute after the last
        time; 0.0: for a good reason, at once.
        """
        if now and now < self._anew_at + _ANEW_EVERY:
            return False
        self._anew_at = now
        self._anew = True
        self._receiving = dict.fromkeys(self._receiving, -1)
        return True

    def receive(self) -> Generator[Request, Any, None]:
        """See to it that what is wanted is what is received."""
        changes = {queue: size for queue, size in self._wanted.items() if self._receiving.get(queue, 0) != size}
        if changes:
            made: list[bool] | None = yield Receive(changes, self._anew)
            if made is not None:
                self._anew = False
                self._receiving |= changes
                self.found_missing |= any(made)

    # ---- what came

    def sort(
        self, deliveries: Sequence[Delivery]
    ) -> tuple[list[tuple[str, Arrival]], list[tuple[wire.Work, Delivery]]]:
        """Outcomes, each with its instance, and invocations; what can't be understood is parked."""
        arrivals: list[tuple[str, Arrival]] = []
        work: list[tuple[wire.Work, Delivery]] = []
        for delivery in deliveries:
            try:
                if wire.is_outcome_queue(delivery.queue):
                    returned = wire.read_outcome(delivery.body, self.clock(), self.env.limits)
                    arrival = Arrival(returned.event, returned.execution_id, "", delivery.tag)
                    arrivals.append((returned.instance_id, arrival))
                else:
                    work.append((wire.read_work(delivery.body, self.env.limits), delivery))
            except wire.NotOurs as error:
                log.error("a message in queue %s can't be understood and is parked: %s", delivery.queue, error)
                self.unreadable.append(delivery.tag)
        return arrivals, work

    def take(self, work: wire.Work, tag: object) -> None:
        """It runs here from now on. `tag` None: its row is leased, its delivery need not be kept."""
        invocation = work.invocation
        self.taken[invocation.row_key] = Taken(invocation, tag, work.reply_queue, self.clock().timestamp())

    def ended(self, done: Done) -> bool:
        """Keep the outcome for sending; False when that attempt was not delivered here."""
        taken = self.taken.pop(done.invocation.row_key, None)
        if taken is None:
            return False
        self.outcomes.append(Outcome(taken, done.event))
        return True

    def kept(self, now: float) -> list[Taken]:
        """What was taken so long before `now` that its delivery should not be kept any more, even if it waits for a
        slot."""
        return [t for t in self.taken.values() if t.tag is not None and now >= t.since + self.serving.patience.long]

    def acknowledge(self, row_key: str) -> None:
        """Its row is leased: the delivery has done its work."""
        taken = self.taken.get(row_key)
        if taken is not None and taken.tag is not None:
            self.done.append(taken.tag)
            self.taken[row_key] = taken._replace(tag=None)

    def give_back(self, row_keys: Collection[str]) -> None:
        """These have not begun; somebody else shall have them."""
        self.back += self._let_go(row_keys)

    def drop(self, row_keys: Collection[str]) -> None:
        """Nobody waits for these."""
        self.done += self._let_go(row_keys)

    def _let_go(self, row_keys: Collection[str]) -> list[object]:
        gone = [self.taken.pop(key) for key in row_keys if key in self.taken]
        return [taken.tag for taken in gone if taken.tag is not None]

    # ---- what goes

    @property
    def waits(self) -> bool:
        """Whether something is to be sent, now or after a pause."""
        return bool(self.outgoing or self.outcomes)

    @property
    def busy(self) -> bool:
        """Whether something can be sent or settled now."""
        if self.done or self.back or self.unreadable or (self.lifecycle and self._is_time_to_announce()):
            return True
        return self.waits and self.clock().timestamp() >= self.not_before

    def announce(self, summary: Summary, length: int) -> None:
        """What goes to the topic may wait a little for company, off the way of what runs; a reply may not."""
        if not self.lifecycle:
            self._announce_at = self.clock().timestamp() + _ANNOUNCE_WITHIN
        messages = wire.lifecycle_messages(summary, length, self.serving)
        if len(messages) > 1:
            self._announce_at = 0.0
        self.lifecycle += messages

    @property
    def next_at(self) -> float:
        """When something is to be sent that need not, or can't, be sent now."""
        announce = self._announce_at if self.lifecycle else math.inf
        return min(announce, self.not_before if self.waits else math.inf)

    def hurry(self) -> None:
        """Nothing is to wait any more, nor a doubt; an outcome that the broker does not take goes to the store."""
        self._announce_at = self.not_before = self._anew_at = 0.0

    def _is_time_to_announce(self) -> bool:
        return self.clock().timestamp() >= self._announce_at

    def post(self, posted: Posted) -> Generator[Request, Any, None]:
        """Send what there is, settle what is safe; `posted` is told as it happens, for the store may fail between."""
        if self.waits and self.clock().timestamp() >= self.not_before:
            yield from self._publish(posted)
        if self.lifecycle and self._is_time_to_announce():
            messages, self.lifecycle = self.lifecycle, []
            yield Announce(messages)
        if self.done or self.back or self.unreadable:
            settle = Settle(self.done, self.back, self.unreadable)
            self.done, self.back, self.unreadable = [], [], []
            yield settle

    def _publish(self, posted: Posted) -> Generator[Request, Any, None]:
        outcomes, self.outcomes = self.outcomes[:_TOGETHER], self.outcomes[_TOGETHER:]
        mailed: list[Outcome] = []
        stored: list[Outcome] = []
        for outcome in outcomes:
            (mailed if self._can_be_mailed(outcome) else stored).append(outcome)
        calls = [item for _, item in zip(range(_TOGETHER), self.outgoing.items(), strict=False)]
        now, serving = self.clock(), self.serving
        messages = [
            wire.outcome_message(o.taken.invocation, o.event, serving.workspace, o.taken.reply_queue) for o in mailed
        ]
        messages += [
            wire.invocation_message(
                call.invocation, serving, self.env.partitions, self.env.holder, now, resent=call.resent
            )
            for _, call in calls
        ]
        answers: list[Published] = (yield Publish(messages)) if messages else []
        for outcome, answer in zip(mailed, answers, strict=False):
            if answer is Published.CONFIRMED:
                self.done.append(outcome.taken.tag)
            else:
                stored.append(outcome)
        posted.sent.extend((yield from self._sort_sent(calls, answers[len(mailed) :], messages[len(mailed) :])))
        if stored:
            try:
                yield from self._store(stored, posted)
            except BaseException:
                self.outcomes = stored + self.outcomes
                raise

    def _can_be_mailed(self, outcome: Outcome) -> bool:
        taken = outcome.taken
        if taken.tag is None or not taken.reply_queue:
            return False
        return len(bytes(outcome.event.result)) <= self.serving.carried

    def _sort_sent(
        self, calls: Sequence[tuple[str, Outgoing]], answers: Sequence[Published], messages: Sequence[Message]
    ) -> Generator[Request, Any, list[str]]:
        sent: list[str] = []
        missing: dict[str, None] = {}
        for (key, call), answer, message in zip(calls, answers, messages, strict=True):
            if answer is Published.CONFIRMED:
                del self.outgoing[key]
                sent.append(key)
            elif answer is Published.RETURNED:
                missing[message.to] = None
            else:
                self.outgoing[key] = call._replace(resent=True)
                self._pause()
        if missing:
            made: list[bool] = yield Declare(list(missing))
            if not made:
                self._pause()
        return sent

    def _pause(self) -> None:
        self.not_before = self.clock().timestamp() + self.serving.patience.retry

    def _store(self, outcomes: Sequence[Outcome], posted: Posted) -> Generator[Request, Any, None]:
        """The store is always right: put them into inboxes, tell the owner."""
        facts: list[Fact] = []
        for outcome in outcomes:
            invocation = outcome.taken.invocation
            arrival = Arrival(outcome.event, invocation.execution_id)
            facts.append(outcome_fact(invocation.instance_id, arrival, self.env.partitions, self.clock()))
        answers: list[Delivered] = yield Deliver(facts)
        self.done += [o.taken.tag for o in outcomes if o.taken.tag is not None]
        told: list[str] = []
        for outcome, fact, answer in zip(outcomes, facts, answers, strict=True):
            key = outcome.taken.invocation.row_key
            if answer in (Delivered.NEW, Delivered.DUPLICATE):
                posted.stored.append(key)
                told.append(fact.instance_id)
            else:
                posted.unwanted.append(RowKey(fact.partition, key))
        if told:
            yield Notify(FACTS, told)
