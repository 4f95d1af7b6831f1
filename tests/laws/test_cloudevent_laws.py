"""The laws of waits for CloudEvents: replay is life, and the triggers are told of exactly what is open.

Random programs of waits, on the pure step: what arrives is an event for an open wait, a timeout, a stale or repeated
event, a cancel or a terminate. After each turn what the triggers have been told is what the history has open.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from durable.engine import triggering
from durable.engine.codeless import terminate_request
from durable.engine.fork import fork
from durable.engine.instance import Arrival, Env, Instance, Turn
from durable.engine.ledger import Ledger
from durable.engine.messages import decode_message
from durable.engine.rewind import look_back, rewind
from durable.engine.step import create, inbox_arrivals, step
from durable.model import history as h
from durable.model.history import Event, Raw, decode_events, encode_events
from durable.model.limits import Limits
from durable.model.names import TRIGGERS
from durable.ports import Commit, Record
from durable.replay.context import OrchestrationContext
from durable.replay.guard import Watch
from durable.replay.mismatch import Mismatch
from durable.triggers.drafting import no_function

from .test_replay_laws import NOW, begin_as, cancelled, code_of, replayed

Steps = Generator[Any, Any, Any]


def program(ctx: OrchestrationContext, steps: list[list[Any]]) -> Steps:
    """Waits, cancels them, and goes on when all or any of those so far have come."""
    waits: list[Any] = []
    got: list[Any] = []
    for what, *rest in steps:
        if what == "wait":
            waits.append(ctx.wait_for_cloudevent(type=rest[0], timeout=rest[1]))
        elif what == "cancel" and waits:
            waits[rest[0] % len(waits)].cancel()
        elif what in ("any", "all") and waits:
            first = yield (ctx.task_any(waits) if what == "any" else ctx.task_all(waits, return_exceptions=True))
            got.append(waits.index(first) if what == "any" else [type(each).__name__ for each in first])
        elif what == "fail":
            raise ValueError("as asked")
        elif what == "again":
            ctx.continue_as_new([["wait", "next", None], ["all"]])
            return None
    return got


CODE = code_of(program)
WAIT = st.tuples(st.just("wait"), st.sampled_from(["a", "b.*"]), st.sampled_from([None, 60.0])).map(list)
PLAIN = (
    WAIT
    | WAIT
    | st.tuples(st.just("cancel"), st.integers(0, 9)).map(list)
    | st.sampled_from([["any"], ["all"]]).map(list)
)
programs = st.lists(PLAIN | st.sampled_from([["fail"], ["again"]]).map(list), min_size=1, max_size=8)
MORE: list[list[Any]] = [["wait", "a", None], ["wait", "b", 60.0], ["all"]]


class System:
    """One instance, and what the triggers have been told of it."""

    def __init__(self, steps: list[list[Any]], random: Random) -> None:
        self.random = random
        self.ids = count(1)
        self.env = Env("me", 60.0, lambda: f"{next(self.ids):032x}", 1, Limits(), Watch())
        started = Event(
            h.EXECUTION_STARTED,
            NOW,
            name="o",
            input=Raw(msgspec.json.encode(steps)),
            instance_id="i",
            execution_id="first",
            seed="seed",
        )
        created = create("i", started, 1, "c")
        self.instance = Instance(created.summary, 1, started, 1, history=[started])
        self.history: list[Event] = [started]
        self.told: set[tuple[str, int]] = set()
        self.keys: set[str] = set()
        self.messages: list[Event] = []
        self.answered: set[tuple[str, int]] = set()

    @property
    def open(self) -> set[tuple[str, int]]:
        """The waits that its history has open."""
        if self.instance.summary.status.finished:
            return set()
        execution_id = self.instance.summary.execution_id
        return {(execution_id, number) for number in Ledger(self.history).waits}

    def turn(self, facts: Sequence[Event]) -> None:
        """One turn, warm or cold: both decide the same."""
        arrivals = [Arrival(fact, fact.execution_id) for fact in facts]
        cold = replace(self.instance, execution=None, history=self.history)
        if any(fact.type == h.EXECUTION_TERMINATED for fact in facts) or self.instance.execution is None:
            self.instance = cold
        else:
            before = next(self.ids)
            self.ids = count(before)
            expected = self._step(cold, arrivals)
            self.ids = count(before)
            turn = self._step(self.instance, arrivals)
            assert turn.parked == expected.parked == ""
            assert turn.commit == expected.commit
            self.apply(turn.commit, turn.instance)
            return
        turn = self._step(self.instance, arrivals)
        assert not turn.parked
        self.apply(turn.commit, turn.instance)

    def _step(self, instance: Instance, arrivals: Sequence[Arrival]) -> Turn:
        return step(instance, arrivals, CODE, "", NOW, self.env)

    def apply(self, commit: Commit | None, instance: Instance) -> None:
        self.instance = instance
        for append in () if commit is None else commit.appends:
            events = decode_events(append.events)
            self.history = [*self.history, *events] if append.start else events
        for row in () if commit is None else commit.put:
            message = decode_message(row.body) if row.kind == "message" else None
            if message is None or message.target != TRIGGERS:
                continue
            assert row.key not in self.keys, "whoever gets it would take it for the one before"
            self.keys.add(row.key)
            self.messages.append(message.event)
            event = message.event
            assert event.instance_id == instance.summary.instance_id
            wait = event.execution_id, event.task_id
            if event.type == h.EVENT_AWAITED:
                assert wait not in self.told
                self.told.add(wait)
            else:
                assert event.type == h.TASK_CANCELED
                self.told.discard(wait)

    def came(self, wait: tuple[str, int]) -> Event:
        """What the triggers send once the event is there: theirs is transient, and gone then."""
        self.told.discard(wait)
        self.answered.add(wait)
        return Event(h.EVENT_RAISED, NOW, wait[1], h.CLOUD_EVENT, input=Raw(BODY), execution_id=wait[0])

    def live(self, most: int = 20) -> None:
        self.turn([])
        assert self.told == self.open
        past: list[Event] = []
        for _ in range(most):
            if self.instance.summary.status.finished:
                return
            facts = [self._fact(past) for _ in range(self.random.choice((1, 1, 2)))]
            past += facts
            self.turn(facts)
            assert self.told == self.open

    def takes_again(self, commit: Commit) -> None:
        """Its first turn after a rewind, or as a fork: what happened then happens again."""
        facts = [a.event for a in inbox_arrivals(sorted(commit.put, key=lambda row: row.key))[0]]
        answered = {fact.task_id for fact in facts if fact.type in (h.EVENT_RAISED, h.TIMER_FIRED)}
        assert {wait for wait in self.open if wait[1] not in answered} <= self.told <= self.open
        self.turn([fact for fact in facts if fact.type != h.EXECUTION_REWOUND])
        assert self.told == self.open

    def _fact(self, past: list[Event]) -> Event:
        timed = [n for n, event in Ledger(self.history).waits.items() if event.fire_at is not None]
        draw = self.random.random()
        if past and draw < 0.15:
            return self.random.choice([fact for fact in past if fact.type != h.EXECUTION_CANCELED] or [cancelled()])
        if timed and draw < 0.35:
            execution_id = self.instance.summary.execution_id
            return Event(h.TIMER_FIRED, NOW, self.random.choice(timed), execution_id=execution_id)
        if not self.told or draw > 0.97:
            return cancelled()
        return self.came(self.random.choice(sorted(self.told)))


BODY = b'{"specversion":"1.0","id":"1","source":"/shop","type":"a","data":7}'
many = settings(max_examples=200)


@many
@given(programs, st.integers(0, 2**32))
def test_what_the_triggers_are_told_is_what_is_open(steps: list[list[Any]], order: int) -> None:
    System(steps, Random(order)).live()


@many
@given(st.lists(PLAIN, max_size=4), st.integers(0, 2**32), st.integers(0, 5))
def test_terminated_it_waits_for_nothing(steps: list[list[Any]], order: int, after: int) -> None:
    system = System([*steps, *MORE], Random(order))
    system.live(after)
    if not system.instance.summary.status.finished:
        system.turn([terminate_request(Raw(b"null"), NOW, recursive=True)])
    assert system.told == set()


@many
@given(st.lists(PLAIN, max_size=4), st.integers(0, 2**32))
def test_rewound_it_waits_for_what_it_waited_for(steps: list[list[Any]], order: int) -> None:
    system = System([*steps, *MORE[:-1], ["any"], ["fail"]], Random(order))
    for commit in rewinds(system):
        system.takes_again(commit)


@many
@given(st.lists(PLAIN, max_size=4), st.integers(0, 2**32), st.integers(0, 3), st.randoms())
def test_messages_of_waits_may_come_in_any_order(steps: list[list[Any]], order: int, most: int, chance: Random) -> None:
    """One that was long under way neither takes back a wait that a rewind has opened again, nor leaves one behind."""
    system = System([*steps, *MORE[:-1], ["any"], ["fail"]], Random(order))
    for _, commit in zip(range(most), rewinds(system), strict=False):
        system.takes_again(commit)
    chance.shuffle(system.messages)
    begun = triggering.begin(NOW, system.env.mint, 1)
    instance = Instance.of_record(Record(1, begun.id, begun.summary, (begun.appends[0].events,), ()))
    for message in system.messages:
        turn = triggering.step(instance, [Arrival(message)], no_function, NOW, system.env)
        assert turn.commit is not None
        stored = encode_events([*instance.history, *decode_events(turn.commit.appends[0].events)])
        instance = Instance.of_record(Record(instance.version + 1, "c", turn.commit.summary, (stored,), ()))
        assert turn.instance.hub is not None
        assert turn.instance.hub.ids == triggering.hub_of(instance).ids
    known = {f"wait/{execution_id}/{task_id}" for execution_id, task_id in system.open}
    answered = {f"wait/{execution_id}/{task_id}" for execution_id, task_id in system.answered}
    assert known - answered <= {*triggering.hub_of(instance).ids} <= known | answered


def rewinds(system: System) -> Iterator[Commit]:
    """A life that fails, and each time it is rewound."""
    for _ in range(3):
        system.live()
        summary = system.instance.summary
        record = Record(1, "c", summary, (encode_events(system.history),), ())
        found = look_back(record)
        if found is None:
            return
        commit = rewind(found, None, Raw(b"null"), NOW, system.env.mint, 1)
        system.apply(commit, Instance(commit.summary, 2, system.history[0], commit.summary.length))
        yield commit


@many
@given(programs, st.integers(0, 2**32), st.data())
def test_a_fork_has_waits_of_its_own(steps: list[list[Any]], order: int, data: st.DataObject) -> None:
    system = System([step for step in steps if step[0] != "again"], Random(order))
    system.live(4)
    after = data.draw(st.integers(1, len(system.history) - 1))
    if system.history[after].type == h.EXECUTION_COMPLETED:
        after -= 1
    record = Record(1, "c", system.instance.summary, (encode_events(system.history),), ())
    commit = fork(record, after, "copy", NOW, system.env.mint, 1)
    other = System([], Random(order))
    other.history = []
    other.apply(commit, Instance(commit.summary, 1, Event("", NOW), 0))
    other.history = [event for append in commit.appends for event in decode_events(append.events)]
    other.instance = replace(other.instance, started=other.history[0], length=len(other.history))
    assert all(execution_id == commit.summary.execution_id for execution_id, _ in other.told)
    other.takes_again(commit)


def waits(*patterns: dict[str, Any]) -> Any:
    def flow(ctx: OrchestrationContext) -> Steps:
        for pattern in patterns:
            yield ctx.wait_for_cloudevent(**pattern)

    return code_of(flow)


STARTED = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="x", seed="seed")


@pytest.mark.parametrize(
    "now",
    [
        {"type": "shop.Paid"},  # case counts
        {"type": "shop.*"},
        {"type": "shop.paid", "subject": "order-1"},
        {"type": "shop.paid", "timeout": timedelta(seconds=1)},
    ],
)
def test_another_pattern_is_a_difference(now: dict[str, Any]) -> None:
    recorded = begin_as(waits({"type": "shop.paid"}), STARTED).take([], NOW)
    replayed(waits({"type": "shop.paid"}), STARTED, recorded)
    with pytest.raises(Mismatch) as caught:
        replayed(waits(now), STARTED, recorded)
    assert 'is wait_for_cloudevent (task 1) for {"type":"shop.paid"}; the code now' in caught.value.reason


def test_a_wait_for_an_external_event_of_that_name_is_another_one() -> None:
    def by_name(ctx: OrchestrationContext) -> Steps:
        yield ctx.wait_for_external_event("CloudEvent")

    recorded = begin_as(waits({}), STARTED).take([], NOW)
    with pytest.raises(Mismatch, match="wait_for_external_event 'CloudEvent'"):
        replayed(code_of(by_name), STARTED, recorded)
    named = begin_as(code_of(by_name), STARTED)
    recorded = named.take([], NOW)
    with pytest.raises(Mismatch, match="now asks for wait_for_cloudevent"):
        replayed(waits({}), STARTED, recorded)
    assert named.take([Event(h.EVENT_RAISED, NOW, 9, "CloudEvent", input=Raw(BODY))], NOW) == []
