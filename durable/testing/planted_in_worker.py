"""Planted bugs of workers: what they do too early, take for granted, forget or never look at; see `planted`."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from ..backends.memory import MemoryStore
from ..engine.instance import Arrival, Instance, Invocation, Turn, task_key
from ..engine.messages import Message as Sent
from ..model import history as h
from ..model.history import NO_PAYLOAD, Event
from ..model.moments import from_timestamp
from ..ports import Delivered, Fact, Message, Outcome, Published, Row
from ..runtime import outbox, wire
from ..runtime import requests as ask
from ..runtime.aftermath import Aftermath
from ..runtime.agenda import Agenda
from ..runtime.outbox import Outbox
from ..runtime.turns import Stepped, Turns
from .planted_in_store import NEVER, InTwoWrites
from .simulated_broker import Broker
from .simulated_client import Client
from .simulated_worker import Worker

Asking = Generator[ask.Request, Any, Any]
Taken = list[tuple[Turn, list[Arrival]]]

# ---- turns and their commits


def acts_before_the_commit() -> AbstractContextManager[Any]:
    """What follows a commit is done while it is under way: it nearly always happens."""
    begin = Turns._begin

    def act_and_begin(self: Turns, stepped: Stepped) -> Asking:
        yield from self.aftermath.of([turn for turn, _ in stepped.turns])
        stepped.turns[:] = [(replace(turn, invocations=()), arrivals) for turn, arrivals in stepped.turns]
        yield from begin(self, stepped)

    return patch.object(Turns, "_begin", act_and_begin)


def unknown_taken_as_done() -> AbstractContextManager[Any]:
    """A commit whose outcome is unknown has happened: they nearly always have."""

    def settle(self: Turns, unknown: Taken) -> Generator[ask.Request, Any, Taken]:
        yield from ()
        return unknown

    return patch.object(Turns, "_settle", settle)


def conflict_taken_as_done() -> AbstractContextManager[Any]:
    """A conflict says that somebody else has done the same turn."""
    finish = Turns._finish

    def finish_all(self: Turns) -> Generator[ask.Request, Any, list[Outcome]]:
        outcomes = yield from finish(self)
        return [Outcome.COMMITTED if outcome is Outcome.CONFLICT else outcome for outcome in outcomes]

    return patch.object(Turns, "_finish", finish_all)


def gives_nothing_back() -> AbstractContextManager[Any]:
    """After a conflict everything is read again, so what had arrived need not be kept."""
    give_back = Turns._give_back

    def give_nothing(
        self: Turns, instance_id: str, arrivals: Sequence[Arrival], instance: Instance | None = None
    ) -> None:
        give_back(self, instance_id, (), instance)

    return patch.object(Turns, "_give_back", give_nothing)


def live_code_outlives_a_conflict() -> AbstractContextManager[Any]:
    """After a conflict the code that runs already is kept: a replay costs much."""
    give_back = Turns._give_back

    def give_back_and_keep(
        self: Turns, instance_id: str, arrivals: Sequence[Arrival], instance: Instance | None = None
    ) -> None:
        give_back(self, instance_id, arrivals)
        if instance is not None and instance.execution is not None:
            self.warm[instance_id] = instance

    return patch.object(Turns, "_give_back", give_back_and_keep)


@contextmanager
def writes_twice() -> Iterator[None]:
    """The second write follows when the first is known to have happened; see `InTwoWrites`."""
    begin = Worker._begin

    def begin_the_first(self: Worker, request: ask.Begin) -> None:
        store = self.world.store.inner
        assert isinstance(store, InTwoWrites)
        begin(self, request)
        first, begun = self.finish, [*store.unwritten]
        store.unwritten.clear()

        def finish() -> list[Outcome]:
            outcomes = first()
            for write in (*begun, *store.unwritten):
                write()
            store.unwritten.clear()
            return outcomes

        self.finish = finish

    with patch.object(Worker, "_begin", begin_the_first):
        yield


# ---- what is for others


def drops_what_is_for_others() -> AbstractContextManager[Any]:
    """An outcome for an instance that is somebody else's by now is none of ours."""

    def drop(self: Aftermath, foreign: dict[str, list[Arrival]]) -> Asking:
        self.courier.done += [a.tag for some in foreign.values() for a in some if a.tag is not None]
        yield from ()

    return patch.object(Aftermath, "hand_over", drop)


def events_straight_to_a_worker() -> AbstractContextManager[Any]:
    """An event goes to the queue of a worker, which has it in no time, and not through the store."""
    deliver = Client._deliver

    def send(self: Client, fact_id: str, event: Event) -> Delivered:
        up = [worker for worker in self.world.workers if worker.up]
        if event.type != h.EVENT_RAISED or not up:
            return deliver(self, fact_id, event)
        nothing = Invocation(self.instance_id, "", 0, 0, "", NO_PAYLOAD, "")
        self.world.random.choice(up).tell(ask.Done(nothing, event))
        return Delivered.NEW

    return patch.object(Client, "_deliver", send)


def refuses_its_own_start() -> AbstractContextManager[Any]:
    """An id that is taken is taken by somebody else."""
    return patch.object(outbox, "_is_started_by", lambda record, asked: False)


def messages_with_fresh_ids() -> AbstractContextManager[Any]:
    """Each sending of a message has an id of its own."""
    fact = Outbox._fact

    def fresh(self: Outbox, message: Sent, fact_id: str) -> Fact:
        return fact(self, message, self.env.mint())

    return patch.object(Outbox, "_fact", fresh)


# ---- what is looked at


def never_sweeps() -> AbstractContextManager[Any]:
    """Signals tell what is new, so the index is read when partitions come, and never after."""
    sweep = Agenda._sweep

    def sweep_once(self: Agenda, now: float, *how: Any) -> Generator[ask.Request, Any, list[Row]]:
        rows = yield from sweep(self, now, *how)
        if self.next_sweep > now:
            self.next_sweep = math.inf
        return rows

    return patch.object(Agenda, "_sweep", sweep_once)


def recovers_only_at_start() -> AbstractContextManager[Any]:
    """A worker looks for what was left undone when it starts: who else could leave something undone?"""
    sweep = Agenda._sweep

    def recover_once(self: Agenda, *how: Any) -> Generator[ask.Request, Any, list[Row]]:
        first = not self._swept_at
        rows = yield from sweep(self, *how)
        return rows if first else [row for row in rows if row.kind == "inbox"]

    return patch.object(Agenda, "_sweep", recover_once)


# ---- rows and the broker


@contextmanager
def ends_rows_when_sent() -> Iterator[None]:
    """What a thread has is on its way, and needs no row."""
    start = Worker._start

    def start_and_end(self: Worker, invocations: Sequence[Invocation]) -> None:
        for invocation in invocations:
            self.world.store.inner._drop(invocation.row_key)
        start(self, invocations)

    with patch.object(Worker, "_start", start_and_end):
        yield


def ends_rows_at_the_confirm() -> AbstractContextManager[Any]:
    """What the broker has confirmed is safe with it."""
    return _after_the_confirm(_row_of_invocation, lambda store, key: store._drop(key))


def ends_rows_with_a_sent_outcome() -> AbstractContextManager[Any]:
    """A task is over when the broker has its outcome."""
    return _after_the_confirm(_row_of_outcome, lambda store, key: store._drop(key))


def trusts_the_broker_for_ever() -> AbstractContextManager[Any]:
    """What the broker has confirmed need never be sent again."""

    def never_due(store: MemoryStore, key: str) -> None:
        row = store._rows.get(key)
        if row is not None:
            store._put(replace(row, holder="", due_at=NEVER))

    return _after_the_confirm(_row_of_invocation, never_due)


@contextmanager
def _after_the_confirm(row_of: Callable[[Message], str], spoil: Callable[[MemoryStore, str], None]) -> Iterator[None]:
    """Do something to the row behind each message that the broker has confirmed; '' for one that has none."""
    publish = Broker.publish

    def publish_and_spoil(self: Broker, messages: Sequence[Message]) -> list[Published]:
        answers = publish(self, messages)
        for message, answer in zip(messages, answers, strict=True):
            key = row_of(message)
            if key and answer is Published.CONFIRMED:
                spoil(self.world.store.inner, key)
        return answers

    with patch.object(Broker, "publish", publish_and_spoil):
        yield


def _row_of_invocation(message: Message) -> str:
    return wire.read_work(message.body).invocation.row_key if message.type == wire.SCHEDULED else ""


def _row_of_outcome(message: Message) -> str:
    if message.type not in (wire.COMPLETED, wire.FAILED):
        return ""
    returned = wire.read_outcome(message.body, from_timestamp(0.0))
    return task_key(returned.execution_id, returned.event.task_id, returned.event.attempt)
