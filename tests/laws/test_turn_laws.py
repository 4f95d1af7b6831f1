"""The laws of a turn, whatever it is: taken, suspended, parked, terminated, or nothing new.

Random programs live in a store. Now and then they are suspended, lose their code, hear old news, or are terminated.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.engine.codeless import outcome_of, terminate_request
from durable.engine.instance import Arrival, task_key, wake_key
from durable.engine.messages import child_outcome, decode_message
from durable.model import history as h
from durable.model.history import Event, Parent, Raw
from durable.model.status import RuntimeStatus

from .stored import HOLD, OUTCOMES, PARENT, Stored, all_open, kept
from .test_replay_laws import NOW, Life, lives

OPENING = (h.TASK_SCHEDULED, h.CHILD_CREATED)
ENDING = (h.TASK_COMPLETED, h.TASK_FAILED, h.CHILD_COMPLETED, h.CHILD_FAILED)
some = settings(max_examples=60)


@some
@given(life=lives, data=st.data(), fire_at=st.none() | st.just(NOW), group=st.sampled_from(("", "g")))
def test_the_instance_after_a_turn_is_the_one_that_is_stored(
    life: Life, data: st.DataObject, fire_at: datetime | None, group: str
) -> None:
    more = {"fire_at": fire_at, "group": group, "tags": {"a": "b"}, "reply_to": "me", "parent": PARENT}
    here = Stored(life._replace(started=msgspec.structs.replace(life.started, **more)))
    assert here.instance.summary.group == (group or "default")
    for number, fact in enumerate(life.facts):
        if here.over:
            break
        news = [here.arrival(fact, data.draw(st.sampled_from(("", f"in/{number}"))))]
        happens = data.draw(st.sampled_from(("nothing", "suspended", "meanwhile", "no code", "again", "clock back")))
        if happens in ("suspended", "meanwhile"):
            suspend = Arrival(Event(h.EXECUTION_SUSPENDED, here.now), "", f"in/{number}s")
            if happens == "suspended":
                assert not here.take([suspend]).again
                turn = here.take(news)
                assert turn.parked
                assert not turn.again
            else:
                turn = here.take([suspend, *news])
                assert turn.again
            kept(turn, news)
            assert here.take([Arrival(Event(h.EXECUTION_RESUMED, here.now), "", f"in/{number}r")]).again
            assert here.instance.summary.status is RuntimeStatus.RUNNING
        elif happens == "no code":
            turn = here.turn(news, None)
            assert turn.parked == here.instance.summary.blocked_reason == "no code here"
            assert here.instance.summary.status is RuntimeStatus.BLOCKED
            kept(turn, news)
            [wakes] = turn.commit.put if turn.commit else ()
            assert (wakes.kind, wakes.due_at, wakes.holder) == ("inbox", here.now.timestamp() + HOLD, "w")
        assert here.take(news, clock=NOW if happens == "clock back" else None).ignored == 0
        if happens == "again" and not here.over:
            turn = here.take([here.arrival(fact, "in/late")] if fact.type in OUTCOMES else [])
            assert turn.ignored == (fact.type in OUTCOMES)
            assert here.instance.summary.status is RuntimeStatus.RUNNING
    summary = here.instance.summary
    if summary.status.finished:  # what a parent hears that asks later is what it was told
        told = (child_outcome(PARENT, ended, "i") for ended in (here.loaded().history[-1], outcome_of(summary)))
        assert next(told) == next(told)
    elif not here.over:
        assert summary.status is not RuntimeStatus.BLOCKED
        assert summary.blocked_reason == ""


@some
@given(
    life=lives | st.builds(all_open),
    data=st.data(),
    recursive=st.booleans(),
    parent=st.none() | st.just(PARENT),
    blocked=st.booleans(),
)
def test_what_is_terminated_leaves_nothing_but_messages(
    life: Life, data: st.DataObject, recursive: bool, parent: Parent | None, blocked: bool
) -> None:
    life = life._replace(started=msgspec.structs.replace(life.started, parent=parent))
    here = Stored(life)
    here.until(data.draw(st.integers(0, len(life.facts))))
    if here.over:
        return
    if blocked:
        here.turn([], None)
    before = {row.key for row in here.rows()}
    cold = here.loaded()
    here.instance = cold
    opened = {event.task_id: event for event in cold.history if event.type in OPENING}
    for event in cold.history:
        if event.type in ENDING or event.status == h.DETACHED:
            opened.pop(event.task_id, None)
    tasks = [event for event in opened.values() if event.type == h.TASK_SCHEDULED]
    children = [event for event in opened.values() if event.type == h.CHILD_CREATED]
    late = [here.arrival(Event(h.EVENT_RAISED, NOW, name="late"), "in/late")] * data.draw(st.integers(0, 2))
    asked = Arrival(terminate_request(Raw(b'"enough"'), here.now, recursive=recursive), "", "in/end")
    turn = here.turn([*late, asked], None)

    assert here.instance.summary == msgspec.structs.replace(
        cold.summary,
        status=RuntimeStatus.TERMINATED,
        output=Raw(b'"enough"'),
        updated_at=here.now,
        completed_at=here.now,
        blocked_reason="",
        length=here.instance.length,
    )
    assert turn.ignored == len(late)
    given_up = {event.task_id for event in cold.history if event.type == h.TASK_CANCELED}
    # The timer of a wait may outlive it: which of several waits an event went to, a history does not say.
    assert {*turn.cancelled} >= {
        task_key("x", task.task_id, task.attempt) for task in tasks if task.task_id not in given_up
    }
    assert {row.kind for row in here.rows()} <= {"message", "timer"}
    new = {row.key: decode_message(row.body) for row in here.rows() if row.key not in before}
    told = {m.target: m.event for m in new.values() if m.event.type == h.EXECUTION_TERMINATED}
    assert {*told} == ({child.instance_id for child in children} if recursive else set())
    for child in children if recursive else ():
        event = told[child.instance_id]
        assert event == terminate_request(
            Raw(b'"enough"'), here.now, recursive=True, parent=Parent("i", "x", child.task_id, child.attempt)
        )
    outcomes = [m for m in new.values() if m.event.type == h.CHILD_FAILED]
    if parent is None:
        assert not outcomes
    else:
        [outcome] = outcomes
        event = outcome.event
        assert (outcome.target, event.execution_id, event.task_id, event.attempt) == ("p", "px", 7, 2)
        assert event.failure is not None
        assert "'i' was terminated" in event.failure.message

    again = here.turn([asked], None)
    assert (again.ignored, again.late) == (1, True)
    assert again.commit is not None
    assert again.commit.drop == ("in/end",)
    assert (here.turn([], None).commit, here.turn([Arrival(asked.event)], None).ignored) == (None, 1)


@some
@given(life=lives, data=st.data())
def test_what_is_parked_says_why_and_is_looked_at_again(life: Life, data: st.DataObject) -> None:
    """The status is written once a reason, and never for what has not begun: it is PENDING still."""
    here = Stored(life, begun=data.draw(st.booleans()))
    if here.instance.begun:
        here.until(data.draw(st.integers(0, len(life.facts))))
    if here.over:
        return
    before = here.instance
    first = here.turn([], None)
    assert first.parked == "no code here"
    assert first.instance.execution is None
    if not before.begun:
        assert (first.commit, here.instance.summary) == (None, before.summary)
        return
    assert here.instance.summary.updated_at == here.now
    assert {row.key for row in here.rows() if row.kind == "inbox"} == {wake_key("x")}
    second = here.turn([Arrival(Event(h.EVENT_RAISED, NOW, name="go"), "", "in/1")], None)
    assert (second.commit, second.parked) == (None, "no code here")
    assert second.instance.execution is None
    here.take([])  # the code is back, and has nothing to do
    assert here.instance.execution is not None
    third = here.turn([], None)
    assert (third.commit, third.parked, third.instance.execution) == (None, "no code here", None)
