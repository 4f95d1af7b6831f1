"""What a child does when its parent was rewound, and what the parent hears of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from durable.engine.codeless import terminate_request
from durable.engine.messages import Message
from durable.engine.rewind import Answer, answer, look_back, outcome_as_fact, rewind
from durable.model import history as h
from durable.model.errors import TaskFailedError
from durable.model.history import Event, Parent, Raw, decode_event, decode_events
from durable.model.names import partition_of
from durable.model.status import RuntimeStatus
from durable.ports import Record
from durable.replay.context import OrchestrationContext

from .test_reopening import FAILURE, REASON, failure_of
from .test_replay_laws import NOW, Life, begin, begin_as, code_of, done
from .test_rewind_laws import LATER, mint, record_of

PARENT = Parent("p", "px", 3, 1)
ASK = Event(h.EXECUTION_REWOUND, NOW, task_id=3, attempt=1, input=REASON, instance_id="p", execution_id="px", depth=9)
REQUEST = Message("rewind", "i", ASK)


def works(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity("a"))


def child(*facts: Event, parent: Parent | None = PARENT) -> tuple[Life, list[Event]]:
    started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="x", seed="s", parent=parent)
    execution = begin_as(code_of(works), started)
    life = Life(execution.code, started, [], [execution.take([], NOW)], execution)
    history = [started, *life.history]
    for fact in facts:
        history += execution.take([fact], NOW)
    return life, history


def stored(life: Life, history: list[Event]) -> Record:
    record = record_of(life, history)
    return msgspec.structs.replace(record, summary=msgspec.structs.replace(record.summary, output=history[-1].result))


def answered(record: Record | None, *, starting: bool = False, request: Message = REQUEST) -> Answer:
    return answer(record, request, starting, LATER)


def asked(life: Life, history: list[Event]) -> list[Event]:
    """The history once the child was rewound for its parent."""
    found = answered(stored(life, history)).rewinds
    assert found is not None
    commit = rewind(found, None, REASON, LATER, mint(), 1, ASK)
    return [*history, *decode_events(commit.appends[0].events)]


def test_a_child_that_failed_is_rewound_and_says_for_whom() -> None:
    life, history = child(failure_of(1))
    event = asked(life, history)[len(history)]
    assert (event.type, event.input) == (h.EXECUTION_REWOUND, REASON)
    assert (event.instance_id, event.execution_id, event.depth) == ("p", "px", 9)


@pytest.mark.parametrize("which", [{}, {"instance_id": "q"}, {"execution_id": "py"}, {"depth": 10}])
def test_a_request_is_answered_once(which: dict[str, Any]) -> None:
    """The child fails again: it tells that itself to who asked, and another request of the same parent is another."""
    life, history = child(failure_of(1))
    begun = asked(life, history)
    again = msgspec.structs.replace(failure_of(1), attempt=2)
    end = msgspec.structs.replace(history[-1], rewinds_to=len(begun) + 1)
    failed = stored(life, [*begun, Event(h.ORCHESTRATOR_STARTED, LATER), again, end])
    request = Message("rewind", "i", msgspec.structs.replace(ASK, **which))
    if which.keys() & {"instance_id", "execution_id"}:  # no parent of this child
        assert answered(failed, starting=True, request=request) == Answer()
        return
    assert (answered(failed, request=request).rewinds is not None) == bool(which)
    assert answered(failed, request=request).outcome is None


def test_what_ended_otherwise_tells_its_end_again() -> None:
    life, history = child(done(1))
    told = answered(stored(life, history))
    assert (told.rewinds, told.outcome) == (None, Message("fact", "p", _outcome(result=Raw(b'"done"'))))
    life, history = child()
    ended = terminate_request(Raw(b"null"), NOW, recursive=False)
    stopped = [*history, ended, Event(h.EXECUTION_COMPLETED, NOW, status=RuntimeStatus.TERMINATED.value)]
    told = answered(stored(life, stopped))
    assert told.rewinds is None
    assert told.outcome is not None
    failure = told.outcome.event.failure
    assert failure is not None
    assert (told.outcome.event.type, failure.message) == (h.CHILD_FAILED, "sub-orchestration 'i' was terminated")


def _outcome(**how: Any) -> Event:
    return Event(h.CHILD_COMPLETED, NOW, task_id=3, attempt=1, execution_id="px", **how)


def test_what_has_not_ended_goes_on_by_itself() -> None:
    assert answered(stored(*child())) == Answer()
    assert answered(stored(*child(parent=None))) == Answer()


@pytest.mark.parametrize("parent", [None, Parent("p", "px", 3, 2), Parent("p", "py", 3, 1)])
def test_a_child_that_is_gone_is_a_failure_unless_its_start_is_under_way(parent: Parent | None) -> None:
    another = stored(*child(failure_of(1), parent=parent))
    for record in (None, another):
        assert answered(record, starting=True) == Answer()
        told = answered(record)
        assert told.rewinds is None
        assert told.outcome is not None
        event, failure = told.outcome.event, told.outcome.event.failure
        assert failure is not None
        assert (told.outcome.target, event.type, event.timestamp) == ("p", h.CHILD_FAILED, LATER)
        assert (event.task_id, event.attempt, event.execution_id) == (3, 1, "px")
        assert (failure.type, failure.message) == (
            "durable.InstanceNotFoundError",
            "sub-orchestration 'i' is not there any more: it was purged or replaced",
        )


def test_an_outcome_is_a_fact_for_its_parent() -> None:
    message = Message("fact", "p", _outcome())
    fact = outcome_as_fact(message, "x/3/1/rewind/9", 64, LATER)
    assert (fact.instance_id, fact.partition, fact.id) == ("p", partition_of("p", 64), "x/3/1/rewind/9")
    assert (decode_event(fact.body), fact.due_at, fact.park) == (message.event, LATER.timestamp(), False)
    assert partition_of("p", 64) not in (0, partition_of("i", 64))


def test_a_failure_of_a_call_that_is_not_there_goes_back_to_where_the_code_met_it() -> None:
    """An error may name a call that has no failure here: it was raised with a number by hand."""
    life, history = child(done(1))
    end = Event(h.EXECUTION_COMPLETED, NOW, 7, status=RuntimeStatus.FAILED.value, failure=FAILURE, rewinds_to=3)
    found = look_back(record_of(life, [*history[:-1], end]))
    assert found is not None
    assert (found.back, found.child, found.late) == ((3, 0, 0), "", [])


def tries(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    yield [ctx.call_activity("a"), ctx.call_sub_orchestrator("c", instance_id="named")]


def gives_up(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    """A failure that was caught, or a result, is not what ended it."""
    with suppress(TaskFailedError):
        yield ctx.call_activity("a")
    raise ValueError("enough")


@pytest.mark.parametrize(
    ("code", "fact", "back", "child_id"),
    [
        (tries, failure_of(1), (6, 5, 1), ""),
        (tries, msgspec.structs.replace(failure_of(2), type=h.CHILD_FAILED), (6, 5, 2), "named"),
        (gives_up, failure_of(1), (4, 0, 0), ""),
        (gives_up, done(1), (4, 0, 0), ""),
    ],
)
def test_an_end_that_an_earlier_version_stored_does_not_say_what_it_goes_back_to(
    code: Any, fact: Event, back: tuple[int, int, int], child_id: str
) -> None:
    """The last fact: without it, if it is the failure that ended it."""
    execution = begin(code_of(code))
    history = [execution.started, *execution.take([], NOW), *execution.take([fact], NOW)]
    life = Life(execution.code, execution.started, [], [], execution)
    end = msgspec.structs.replace(history[-1], task_id=0, rewinds_to=0)
    found = look_back(record_of(life, [*history[:-1], end]))
    assert found is not None
    assert (found.back, found.child) == (back, child_id)


def test_only_a_child_is_to_be_looked_after() -> None:
    life, history = child(failure_of(1))
    found = look_back(record_of(life, history))
    assert found is not None
    assert (found.back.task_id, found.child) == (1, "")
    assert found.instance.history == history
