"""The laws of `ctx.patched`, on the pure core: old histories take the old road, new ones the new, and stay on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.versions import highest
from durable.replay.context import OrchestrationContext
from durable.replay.execution import Execution
from durable.replay.live_code import Code
from durable.replay.mismatch import Mismatch
from tests.laws.test_replay_laws import NOW, begin, code_of, place, replayed, stored

many = settings(max_examples=150)


class Change(NamedTuple):
    """Steps of an orchestrator, and before which of them the change stands."""

    steps: int
    at: int


def before(change: Change) -> Code:
    def orchestration(ctx: OrchestrationContext) -> Any:
        for number in range(change.steps):
            yield ctx.call_activity("step", number)

    return code_of(orchestration)


def guarded(change: Change, answers: list[bool]) -> Code:
    def orchestration(ctx: OrchestrationContext) -> Any:
        for number in range(change.steps):
            if number >= change.at:
                answers.append(ctx.patched("extra"))
                if answers[-1] and number == change.at:
                    yield ctx.call_activity("extra")
            yield ctx.call_activity("step", number)

    return code_of(orchestration)


def afterwards(change: Change) -> Code:
    """When nothing from before is left, the guard goes."""

    def orchestration(ctx: OrchestrationContext) -> Any:
        for number in range(change.steps):
            if number == change.at:
                yield ctx.call_activity("extra")
            yield ctx.call_activity("step", number)

    return code_of(orchestration)


def next_done(history: Sequence[Event]) -> Event:
    number = max(event.task_id for event in history)
    return Event(h.TASK_COMPLETED, NOW, task_id=number, attempt=1, result=Raw(b"null"))


def on(execution: Execution, history: list[Event], turns: int) -> None:
    for _ in range(turns):
        if not execution.finished:
            history += execution.take([next_done(history)], NOW)


changes = st.integers(1, 6).flatmap(lambda steps: st.builds(Change, st.just(steps), st.integers(0, steps - 1)))


@many
@given(change=changes, lived=st.integers(0, 7))
def test_what_was_passed_by_takes_the_old_road_and_what_was_not_takes_the_new(change: Change, lived: int) -> None:
    old = begin(before(change))
    history = old.take([], NOW)
    on(old, history, lived)
    passed = lived >= change.at  # this step had been scheduled
    answers: list[bool] = []
    code = guarded(change, answers)
    warm = replayed(code, old.started, history)
    while not warm.finished:
        cold = replayed(code, old.started, history)
        assert place(cold) == place(warm)
        fact = next_done(history)
        turn = warm.take([fact], NOW)
        assert stored(cold.take([fact], NOW)) == stored(turn)
        history += turn
    assert set(answers) == ({False} if passed else {True})
    kinds = [event.type for event in history]
    assert kinds.count(h.PATCH_RECORDED) == (0 if passed else 1)
    assert sum(event.name == "extra" and event.type == h.TASK_SCHEDULED for event in history) == (0 if passed else 1)


@many
@given(change=changes, lived=st.integers(0, 8))
def test_a_patch_that_is_not_asked_for_is_no_difference_but_what_it_guarded_is(change: Change, lived: int) -> None:
    new = begin(guarded(change, []))
    history = new.take([], NOW)
    on(new, history, lived)
    fits = replayed(afterwards(change), new.started, history)
    if not new.finished:
        fact = next_done(history)
        commands = [e for e in new.take([fact], NOW) if e.type != h.PATCH_RECORDED]
        assert stored(fits.take([fact], NOW)) == stored(commands)
    if lived >= change.at:
        with pytest.raises(Mismatch, match="extra"):
            replayed(before(change), new.started, history)


def test_each_patch_has_an_answer_of_its_own_in_whatever_order_they_are_asked_for() -> None:
    def asking(*ids: str) -> Code:
        def orchestration(ctx: OrchestrationContext) -> Any:
            answers = [ctx.patched(change) for change in ids]
            yield ctx.call_activity("step", 1)
            return answers

        return code_of(orchestration)

    live = begin(asking("a", "b", "a"))
    history = live.take([], NOW)
    assert [e.name for e in history if e.type == h.PATCH_RECORDED] == ["a", "b"]
    for ids, answers in ((("b", "a"), b"[true,true]"), (("c", "b"), b"[false,true]"), ((), b"[]")):
        again = replayed(asking(*ids), live.started, history)
        assert bytes(again.take([next_done(history)], NOW)[-1].result) == answers


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["1.9", "1.10"], "1.10"),
        (["2.0", "2.0rc1", "2.0.dev3"], "2.0"),
        (["1!0.1", "99"], "1!0.1"),
        (["v2", "1"], "v2"),
        (["blue", "green"], "green"),
        (["blue", "10"], "blue"),
        (["2024-01-05", "2024-01-10"], "2024-01-10"),
        (["1.0+local", "1.0"], "1.0+local"),
        (["only"], "only"),
    ],
)
def test_the_highest_version_is_that_of_pep_440_else_the_last_as_text(versions: list[str], expected: str) -> None:
    assert highest(versions) == highest(versions[::-1]) == expected


@many
@given(versions=st.lists(st.sampled_from(("1.9", "1.10", "1.5 beta", "2", "a", "1.0", "1.0.0", "b")), min_size=1))
def test_the_highest_version_does_not_depend_on_the_order_of_registration(versions: list[str]) -> None:
    assert highest(versions) == highest(sorted(versions, reverse=True)) in versions
