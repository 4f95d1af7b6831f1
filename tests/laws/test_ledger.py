"""What a history says is open is what the live code has open."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings

from durable.engine.ledger import Ledger
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.replay.tasks import CallTask, TimerTask

from .test_replay_laws import NOW, Life, lives


@settings(max_examples=150)
@given(life=lives)
def test_what_is_open_can_be_read_without_the_code(life: Life) -> None:
    ledger = Ledger([life.started, *life.history])
    assert ledger.started is life.started
    turn = Event(h.ORCHESTRATOR_STARTED, NOW + timedelta(hours=1))
    fact = Event(h.EVENT_RAISED, NOW + timedelta(hours=2), name="go")
    assert Ledger([life.started, *life.history, turn, fact]).turn_at == turn.timestamp.timestamp()
    if life.execution.finished:
        assert ledger.ended is life.history[-1]
        assert Ledger([life.started, *life.history, Event(h.EXECUTION_REWOUND, NOW, rewinds_to=1)]).ended is None
        return
    assert ledger.ended is None
    calls = {number: task for number, task in life.execution.tasks.items() if isinstance(task, CallTask)}
    waiting = {number for number, task in calls.items() if task.retry_timer}
    timers = {number for number, task in life.execution.tasks.items() if isinstance(task, TimerTask)}
    given_up = {event.task_id for event in life.history if event.type == h.TASK_CANCELED}
    assert {*ledger.tasks, *ledger.children} - given_up == {*calls} - waiting
    assert {*ledger.timers} == timers | waiting
    for number, event in {**ledger.tasks, **ledger.children}.items():
        assert event.type in (h.TASK_SCHEDULED, h.CHILD_CREATED)
        assert number in given_up or event.attempt == calls[number].attempt
    for number, event in ledger.tasks.items():
        assert [life.started, *life.history][ledger.numbers[number]] is event


def test_an_event_ends_the_first_wait_of_its_name_and_a_cloudevent_its_own() -> None:
    names = {1: "Go", 2: "other", 3: "go", 4: h.CLOUD_EVENT}
    waits = [Event(h.EVENT_AWAITED, NOW, n, name, input=Raw(b"{}" if n == 4 else b"")) for n, name in names.items()]
    facts = [
        (Event(h.EVENT_RAISED, NOW, name="nobody's"), {1, 2, 3, 4}),
        (Event(h.EVENT_RAISED, NOW, name=h.CLOUD_EVENT), {1, 2, 3, 4}),
        (Event(h.EVENT_RAISED, NOW, name="GO"), {2, 3, 4}),
        (Event(h.EVENT_RAISED, NOW, 4, h.CLOUD_EVENT), {2, 3}),
        (Event(h.TIMER_FIRED, NOW, 3), {2}),
        (Event(h.TASK_CANCELED, NOW, 2), set()),
        (Event(h.TASK_CANCELED, NOW, 2), set()),
    ]
    history = [*waits]
    for fact, left in facts:
        history.append(fact)
        assert {*Ledger(history).waits} == left
