"""What instances tell each other: a start carries all that the child needs, an outcome what its parent may see."""

from __future__ import annotations

from typing import Any

import pytest

from durable.engine.messages import Message, child_outcome, child_start, refused_start
from durable.model import history as h
from durable.model.failure import FailureDetails
from durable.model.history import NO_PAYLOAD, Event, Parent, Raw

from .test_replay_laws import NOW

PARENT = Parent("p", "px", 7, 2)
FAILURE = FailureDetails("ValueError", "boom")


@pytest.mark.parametrize("parent", [PARENT, None])
def test_the_start_of_a_child_is_what_its_parent_asked_for(parent: Parent | None) -> None:
    given: dict[str, Any] = {"name": "o", "input": Raw(b"1"), "instance_id": "c", "version": "2"}
    given |= {"tags": {"a": "b"}, "group": "g"}
    asked = Event(h.CHILD_CREATED, NOW, 7, attempt=2, depth=3, **given)
    started = Event(h.EXECUTION_STARTED, NOW, execution_id="cx", seed="s", parent=parent, depth=3, **given)
    assert child_start(asked, parent, "cx", "s") == Message("start", "c", started)


@pytest.mark.parametrize(
    ("status", "result", "failure", "kind", "error", "said"),
    [
        ("COMPLETED", Raw(b"1"), None, h.CHILD_COMPLETED, "", ""),
        ("FAILED", NO_PAYLOAD, FAILURE, h.CHILD_FAILED, "ValueError", "boom"),
        ("TERMINATED", Raw(b'"why"'), None, h.CHILD_FAILED, "OrchestrationTerminatedError", "'c' was terminated"),
        ("CANCELED", Raw(b'"why"'), None, h.CHILD_FAILED, "OrchestrationCancelledError", "'c' was cancelled"),
    ],
)
def test_a_parent_hears_how_its_child_ended(
    status: str, result: Raw, failure: FailureDetails | None, kind: str, error: str, said: str
) -> None:
    ended = Event(h.EXECUTION_COMPLETED, NOW, result=result, failure=failure, status=status)
    told = child_outcome(PARENT, ended, "c")
    event = told.event
    assert (told.kind, told.target, event.type, event.timestamp) == ("fact", "p", kind, NOW)
    assert (event.execution_id, event.task_id, event.attempt) == ("px", 7, 2)
    assert event.result == (result if kind == h.CHILD_COMPLETED else NO_PAYLOAD)
    assert (event.failure is not None) == (kind == h.CHILD_FAILED)
    if event.failure is not None:
        assert event.failure.type.endswith(error)
        assert said in event.failure.message


def test_a_parent_hears_that_the_id_of_its_child_is_taken() -> None:
    start = child_start(Event(h.CHILD_CREATED, NOW, 7, "o", 2, Raw(b"1"), instance_id="c"), PARENT, "cx", "s")
    told = refused_start(start)
    event = told.event
    assert (told.kind, told.target, event.type, event.timestamp) == ("fact", "p", h.CHILD_FAILED, NOW)
    assert (event.execution_id, event.task_id, event.attempt) == ("px", 7, 2)
    assert event.failure is not None
    assert event.failure.type.endswith("InstanceExistsError")
    assert "'c' is taken by another instance" in event.failure.message
