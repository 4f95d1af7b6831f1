"""The laws of `ctx.map`, on the pure core: never more at a time than allowed, everything once, in order."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings

from durable.model import history as h
from durable.model.history import Event, Raw
from durable.replay.context import OrchestrationContext
from durable.replay.execution import Execution
from tests.laws.test_replay_laws import NOW, Life, begin, code_of, mapping_lives

many = settings(max_examples=200)


def outcomes(event: Event) -> bool:
    return event.type in (h.TASK_COMPLETED, h.TASK_FAILED)


@many
@given(life=mapping_lives)
def test_no_more_run_at_once_than_allowed_and_none_starts_after_a_failure(life: Life) -> None:
    (_, body), _, _ = msgspec.json.decode(life.started.input)
    mapping = find_map(body)
    _, acts, at_once, gather = mapping
    order = [key for _, key, *_ in acts]
    numbers: dict[int, str] = {}
    open_ones: set[int] = set()
    failed = False
    for event in life.history:
        if event.type == h.TASK_SCHEDULED:
            key = msgspec.json.decode(event.input)[0]
            if key != "beside":
                assert not failed, "an item started after a failure"
                assert key == order[len(numbers)], "items start in order"
                numbers[event.task_id] = key
                open_ones.add(event.task_id)
                assert at_once is None or len(open_ones) <= at_once
        elif outcomes(event) and event.task_id in open_ones:
            open_ones.discard(event.task_id)
            failed = failed or (event.failure is not None and not gather)
    cancelled = any(event.type == h.EXECUTION_CANCELED for event in life.history)
    if life.execution.finished and body[0] == "map" and not failed and not cancelled:
        assert len(numbers) == len(order)


def find_map(node: Any) -> Any:
    if isinstance(node, list):
        if node[:1] == ["map"]:
            return node
        for child in node:
            found = find_map(child)
            if found is not None:
                return found
    return None


def fed(count: int, at_once: int) -> tuple[Execution, list[Event]]:
    """An execution that maps `count` items, lived through with completions in a random order, 100 a turn."""

    def orchestration(ctx: OrchestrationContext) -> Any:
        results = yield ctx.map("work", (n for n in range(count)), max_concurrency=at_once)
        return sum(results)

    execution = begin(code_of(orchestration))
    history = execution.take([], NOW)
    running, random = [e.task_id for e in history if e.type == h.TASK_SCHEDULED], Random(1)
    while not execution.finished:
        random.shuffle(running)
        some, running = running[:100], running[100:]
        facts = [Event(h.TASK_COMPLETED, NOW, task_id=n, attempt=1, result=Raw(b"1")) for n in some]
        turn = execution.take(facts, NOW)
        running += [event.task_id for event in turn if event.type == h.TASK_SCHEDULED]
        history += turn
    return execution, history


def test_an_item_that_follows_takes_the_place_of_the_one_before_it() -> None:
    """In the very set that is waited for: a new one for each item would cost each of them as much as all."""

    def orchestration(ctx: OrchestrationContext) -> Any:
        return (yield ctx.map("work", range(1_000), max_concurrency=50))

    execution = begin(code_of(orchestration))
    running = [e.task_id for e in execution.take([], NOW) if e.type == h.TASK_SCHEDULED]
    assert execution.trigger is not None
    waited_for = execution.trigger.on
    for number in running:
        execution.take([Event(h.TASK_COMPLETED, NOW, task_id=number, attempt=1, result=Raw(b"1"))], NOW)
    assert execution.trigger.on is waited_for
    assert waited_for == {number + 50 for number in running}


def test_many_items_are_lived_through_and_replayed() -> None:
    execution, history = fed(5_000, 50)
    again = Execution(execution.code, execution.started, "i", execution.limits, execution.watch)
    context = OrchestrationContext(again)
    again.begin_with(lambda: again.code.fn(context))
    again.replay([execution.started, *history])
    assert again.finished
    assert bytes(history[-1].result) == b"5000"
