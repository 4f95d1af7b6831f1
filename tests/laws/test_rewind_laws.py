"""The laws of rewinding and forking as tests: random programs that fail, are rewound, fail again, and are replayed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from durable.engine.fork import fork, last_to_share
from durable.engine.instance import wake_key
from durable.engine.ledger import Ledger
from durable.engine.rewind import look_back, rewind
from durable.engine.step import inbox_arrivals
from durable.model import history as h
from durable.model.errors import TaskFailedError
from durable.model.failure import FailureDetails
from durable.model.history import Event, Former, Parent, Raw, decode_events, encode_event, encode_events
from durable.model.names import partition_of
from durable.model.rewinding import standing
from durable.model.status import RuntimeStatus, Summary
from durable.ports import Commit, Record, Row
from durable.replay.context import OrchestrationContext
from durable.replay.execution import Execution
from durable.replay.live_code import Code
from durable.testing.random_programs import make_script

from .test_replay_laws import NOW, Life, answers, begin, code_of, live, place, raised, replayed, stored

LATER = NOW + timedelta(seconds=10)


class Rewound(NamedTuple):
    """A history after a rewind, and what the rewind has put into the inbox."""

    life: Life
    history: list[Event]
    facts: list[Event]
    commit: Commit

    def execution(self) -> Execution:
        return replayed(self.life.code, self.life.started, self.history[1:])


def record_of(life: Life, history: Sequence[Event]) -> Record:
    end = history[-1]
    ended = end.type == h.EXECUTION_COMPLETED
    status = RuntimeStatus(end.status) if ended else RuntimeStatus.RUNNING
    summary = Summary("i", life.started.execution_id, "o", status, NOW, NOW, failure=end.failure)
    return Record(1, "c", summary, (encode_events(list(history)),), ())


def mint() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"m{next(numbers)}"


def rewound(life: Life, history: Sequence[Event]) -> Rewound:
    found = look_back(record_of(life, history))
    assert found is not None
    commit = rewind(found, None, Raw(b'"why"'), LATER, mint(), 1)
    return after(life, history, commit)


def after(life: Life, history: Sequence[Event], commit: Commit) -> Rewound:
    [append] = commit.appends
    inbox = [row for row in commit.put if row.kind == "inbox"]
    facts = [arrival.event for arrival in inbox_arrivals(sorted(inbox, key=lambda row: row.key))[0]]
    return Rewound(life, [*history, *decode_events(append.events)], facts, commit)


def go_on(past: Rewound, random: Random, most: int = 60) -> list[Event]:
    """Live on, one fact a turn, each turn compared with a cold replay; the history at the end."""
    execution = past.execution()
    history = list(past.history)
    facts = list(past.facts)
    history += execution.take([], LATER)
    for _ in range(most):
        cold = replayed(past.life.code, past.life.started, history[1:])
        if not execution.finished:
            assert place(cold) == place(execution)
        assert cold.finished == execution.finished
        if execution.finished:
            break
        possible = facts[:1] or answers([event for _, event in standing(history)]) or [raised("go", f"{len(history)}")]
        fact = random.choice(possible)
        if facts:
            facts.pop(0)
        turn = execution.take([fact], LATER)
        assert stored(cold.take([fact], LATER)) == stored(turn)
        history += turn
    return history


def failing(seed: int, size: int, order: int) -> Life:
    """A life that failed: of some lives, for most don't, the first that did."""
    for number in range(20):
        life = live(make_script(Random(seed + number), size), Random(order))
        if life.history and life.history[-1].status == RuntimeStatus.FAILED.value:
            return life
    assume(False)
    raise AssertionError


seeds = st.integers(0, 2**32)
many = settings(max_examples=150)


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds)
def test_a_rewound_history_replays_to_where_its_life_goes_on(seed: int, size: int, order: int) -> None:
    life = failing(seed, size, order)
    go_on(rewound(life, [life.started, *life.history]), Random(order))


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds)
def test_rewinding_again_and_again(seed: int, size: int, order: int) -> None:
    life = failing(seed, size, order)
    random = Random(order)
    history = [life.started, *life.history]
    for _ in range(3):
        past = rewound(life, history)
        assert past.history[: len(history)] == history  # nothing is ever taken out
        history = go_on(past, random)
        if history[-1].status != RuntimeStatus.FAILED.value:
            break


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds)
def test_what_is_done_is_not_done_again(seed: int, size: int, order: int) -> None:
    """Of what stood before the end nothing is void but the outcome that ended it, and what followed the news of it."""
    life = failing(seed, size, order)
    history = [life.started, *life.history]
    past = rewound(life, history)
    event = past.history[len(history)]
    assert event.type == h.EXECUTION_REWOUND
    stands = [number for number, _ in standing(past.history) if number < len(history)]
    assert stands == [n for n in range(len(history)) if n < event.rewinds_to and n != (event.voids or None)]
    if event.voids:
        assert history[event.voids].type in (h.TASK_FAILED, h.CHILD_FAILED)
        assert history[event.voids].task_id == event.task_id == history[-1].task_id
    completed = {e.task_id for e in history if e.type == h.TASK_COMPLETED}
    again = {e.task_id for e in past.history[len(history) :] if e.type == h.TASK_SCHEDULED}
    told_again = {e.task_id for e in past.facts if e.type == h.TASK_COMPLETED}
    kept = {e.task_id for n, e in enumerate(history) if e.type == h.TASK_COMPLETED and n in stands}
    begun = {e.task_id for n, e in enumerate(history) if e.type == h.TASK_SCHEDULED and n in stands}
    assert not again & (kept | told_again)
    assert completed & begun == kept | (told_again & begun)


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds)
def test_what_is_open_after_a_rewind_has_a_row(seed: int, size: int, order: int) -> None:
    life = failing(seed, size, order)
    past = rewound(life, [life.started, *life.history])
    ledger = Ledger(past.history)
    told = {event.task_id for event in past.facts}
    execution_id = life.started.execution_id
    rows = {row.key for row in past.commit.put}
    for task in ledger.tasks.values():
        assert task.task_id in told or f"{execution_id}/{task.task_id}/{task.attempt}" in rows
    for timer in ledger.timers.values():
        assert f"{execution_id}/{timer.task_id}/{timer.attempt}/timer" in rows
    attempts = [(e.task_id, e.attempt) for e in past.history if e.type == h.TASK_SCHEDULED]
    assert len(attempts) == len(set(attempts))  # an attempt is never used again


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds, place_=st.integers(0, 200))
def test_a_fork_at_any_event_replays_and_lives_on(seed: int, size: int, order: int, place_: int) -> None:
    life = live(make_script(Random(seed), size), Random(order))
    history = [life.started, *life.history]
    cut = place_ % (last_to_share(history) + 1)
    # These programs send their own execution id, and a fork has another one: such code does not fit.
    assume(all(event.type != h.EVENT_SENT for event in history[: cut + 1]))
    commit = fork(record_of(life, history), cut, "other", LATER, mint(), 1)
    [append] = commit.appends
    events = decode_events(append.events)
    assert stored(events[1 : cut + 1]) == stored(history[1 : cut + 1])
    begun = events[0]
    assert (begun.instance_id, begun.seed, begun.input) == ("other", life.started.seed, life.started.input)
    assert begun.execution_id != life.started.execution_id
    forked = life._replace(started=begun)
    go_on(after(forked, [], commit), Random(order))


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds, place_=st.integers(0, 200), kept=st.booleans())
def test_a_fork_is_an_instance_of_its_own(seed: int, size: int, order: int, place_: int, kept: bool) -> None:
    """Nobody's child, started at once and for whoever forks; only what its code was given is the other's."""
    given = {"tags": {"of": "both"}, "group": "g"} if kept else {}
    begun = {"parent": Parent("p", "px", 1, 1), "depth": 3, "reply_to": "them", "fire_at": NOW, "previous": "before"}
    life = live(make_script(Random(seed), size), Random(order))
    started = msgspec.structs.replace(life.started, instance_id="i", **begun, **given)
    history = [started, *life.history]
    cut = place_ % (last_to_share(history) + 1)
    record = record_of(life, history)
    record = msgspec.structs.replace(record, summary=msgspec.structs.replace(record.summary, version="2"))
    commit = fork(record, cut, "other", LATER, mint(), 8, "me")

    [append] = commit.appends
    first = decode_events(append.events)[0]
    at_once = {"parent": None, "depth": 0, "reply_to": "me", "fire_at": None, "previous": ""}
    own = {"instance_id": "other", "execution_id": first.execution_id, "formerly": (Former(cut + 1, "i", "x", "p"),)}
    assert first == msgspec.structs.replace(started, **at_once, **own)
    assert (commit.instance_id, commit.expect, append.execution_id, append.start) == ("other", 0, first.execution_id, 0)
    summary = commit.summary
    assert (summary.instance_id, summary.execution_id, summary.name) == ("other", first.execution_id, started.name)
    assert (summary.created_at, summary.updated_at, summary.reply_to) == (LATER, LATER, "me")
    assert (summary.version, summary.tags, summary.group) == ("2", started.tags, "g" if kept else "default")
    assert {(row.instance_id, row.group) for row in commit.put} == {("other", summary.group)}
    assert {commit.partition, *(row.partition for row in commit.put)} == {partition_of("other", 8)}
    wakes = wake_key(first.execution_id) in {row.key for row in commit.put}
    assert summary.status is (RuntimeStatus.PENDING if wakes else RuntimeStatus.RUNNING)
    assert wakes or cut


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds, terminated=st.booleans())
def test_all_is_shared_but_the_end(seed: int, size: int, order: int, terminated: bool) -> None:
    life = live(make_script(Random(seed), size), Random(order))
    ends = [Event(h.EXECUTION_TERMINATED, NOW), Event(h.EXECUTION_COMPLETED, NOW)] if terminated else []
    history = [life.started, *life.history, *ends]
    last = last_to_share(history)
    ended = {h.EXECUTION_TERMINATED, h.EXECUTION_COMPLETED, h.CONTINUE_AS_NEW}
    assert history[last].type not in ended
    assert {event.type for event in history[last + 1 :]} <= ended


@pytest.mark.parametrize(
    ("switches", "status"),
    [
        ([], RuntimeStatus.RUNNING),
        ([h.EXECUTION_SUSPENDED], RuntimeStatus.SUSPENDED),
        ([h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED], RuntimeStatus.RUNNING),
        ([h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED, h.EXECUTION_SUSPENDED], RuntimeStatus.SUSPENDED),
    ],
)
def test_a_fork_is_suspended_where_the_other_was(switches: list[str], status: RuntimeStatus) -> None:
    execution = begin(code_of(collects_late))
    life = Life(execution.code, execution.started, [], [execution.take([], NOW)], execution)
    history = [life.started, *life.history, *(Event(kind, NOW) for kind in switches)]
    commit = fork(record_of(life, history), len(history) - 1, "other", LATER, mint(), 1)
    assert commit.summary.status is status


# ---- what a program of one kind does: maps, patches, cancellations


def gathers(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    results = yield ctx.map("work", [["m", 0]] * 6, max_concurrency=2, return_exceptions=True)
    errors = [result for result in results if isinstance(result, TaskFailedError)]
    if errors:
        raise errors[0]
    return results


def collects_late(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    results = ctx.map("work", [["m", 0]] * 6, max_concurrency=2)
    yield ctx.wait_for_external_event("go")
    return (yield results)


def patches(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    try:
        yield ctx.call_activity("work", "w", 0)
    except TaskFailedError:
        ctx.patched("on the way out")
        raise
    new = ctx.patched("on the way out")
    yield ctx.call_activity("work", "new" if new else "old", 0)
    return new


def end_of(code: Code, fails: set[int], random: Random, rewinds: int = 5) -> tuple[list[Event], int]:
    """Live, rewound whenever it fails, each turn compared with a cold replay; and how often it was rewound.

    fails: the tasks whose outcome is a failure until they have been rewound.
    """
    execution = begin(code)
    life = Life(code, execution.started, [], [], execution)
    history = [life.started, *execution.take([], NOW)]
    facts: list[Event] = []
    number = 0
    while True:
        while not execution.finished:
            open_ = answers([event for _, event in standing(history)])
            possible = facts[:1] or [*open_, *([raised("go", str(len(history)))] if random.random() < 0.2 else [])]
            fact = random.choice(possible or [raised("go", str(len(history)))])
            if facts:
                facts.pop(0)
            elif fact.task_id in fails:
                failure = FailureDetails("ValueError", "no luck", hierarchy=("ValueError", "Exception"))
                fact = Event(h.TASK_FAILED, LATER, task_id=fact.task_id, attempt=fact.attempt, failure=failure)
            elif fact.type in (h.TASK_COMPLETED, h.TASK_FAILED):
                done = Raw(b'"done"')
                fact = Event(h.TASK_COMPLETED, LATER, task_id=fact.task_id, attempt=fact.attempt, result=done)
            cold = replayed(code, life.started, history[1:])
            turn = execution.take([fact], LATER)
            assert stored(cold.take([fact], LATER)) == stored(turn)
            history += turn
        if history[-1].status != RuntimeStatus.FAILED.value or number == rewinds:
            return history, number
        fails.discard(history[-1].task_id)
        past = rewound(life, history)
        execution, history, facts = past.execution(), past.history, list(past.facts)
        history += execution.take([], LATER)
        number += 1


@many
@given(fails=st.sets(st.integers(1, 6), min_size=1), order=seeds)
def test_a_rewound_map_that_gathers_runs_nothing_but_its_failures_again(fails: set[int], order: int) -> None:
    failing_ = len(fails)
    history, rewinds = end_of(code_of(gathers), fails, Random(order), rewinds=9)
    assert (history[-1].status, rewinds) == (RuntimeStatus.COMPLETED.value, failing_)
    assert history[-1].result == Raw(b'["done","done","done","done","done","done"]')
    assert sum(event.type == h.TASK_SCHEDULED for event in history) == 6 + failing_


@many
@given(fails=st.sets(st.integers(1, 6), min_size=1, max_size=3), order=seeds)
def test_a_rewound_map_goes_on_with_the_items_it_had_not_started(fails: set[int], order: int) -> None:
    history, _ = end_of(code_of(collects_late), fails, Random(order), rewinds=20)
    assert history[-1].status == RuntimeStatus.COMPLETED.value
    assert history[-1].result == Raw(b'["done","done","done","done","done","done"]')


@many
@given(seed=seeds, size=st.integers(1, 9), order=seeds)
def test_what_was_asked_of_the_life_that_failed_is_not_done_to_the_next(seed: int, size: int, order: int) -> None:
    """A suspend came as it failed, and stopped it when it had been rewound (seed 1021121 of the simulator)."""
    life = failing(seed, size, order)
    kinds = (h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED, h.EXECUTION_CANCELED, h.EXECUTION_TERMINATED, h.EVENT_RAISED)
    inbox = tuple(Row(kind, "inbox", "i", 0, 0.0, body=encode_event(Event(kind, NOW))) for kind in kinds)
    record = msgspec.structs.replace(record_of(life, [life.started, *life.history]), inbox=inbox)
    found = look_back(record)
    assert found is not None
    dropped = rewind(found, None, Raw(b"null"), LATER, mint(), 1).drop
    assert [kind for kind in kinds if kind in dropped] == [*kinds[:-1]]


@many
@given(order=seeds)
def test_a_patch_on_the_way_out_is_void_and_decided_anew(order: int) -> None:
    history, rewinds = end_of(code_of(patches), {1}, Random(order))
    assert (history[-1].result, rewinds) == (Raw(b"true"), 1)
    assert sum(event.type == h.PATCH_RECORDED for event in history) == 2
    assert [event.name for _, event in standing(history) if event.type == h.PATCH_RECORDED] == ["on the way out"]


def test_a_patch_that_stands_answers_the_same_after_a_rewind() -> None:
    def early(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        new = ctx.patched("early")
        yield ctx.call_activity("work", "w", 0)
        return [new, ctx.patched("early")]

    history, rewinds = end_of(code_of(early), {1}, Random(1))
    assert (history[-1].result, rewinds) == (Raw(b"[true,true]"), 1)
    assert sum(event.type == h.PATCH_RECORDED for event in history) == 1
