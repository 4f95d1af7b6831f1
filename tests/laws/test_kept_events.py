"""An event that was accepted is there after a rewind, also if the orchestration failed before it was taken."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count
from typing import Any, Final

import msgspec
import pytest

import durable
from durable.app.archive import ArchiveError, archive_of, check
from durable.app.restoring import restore
from durable.backends.memory import MemoryBackend
from durable.engine.codeless import terminate_request
from durable.engine.instance import Arrival, Env, Instance
from durable.engine.messages import Message, decode_message
from durable.engine.rewind import look_back, rewind
from durable.engine.step import create, in_place_of, inbox_arrivals, step
from durable.model import history as h
from durable.model.failure import FailureDetails
from durable.model.history import Event, Raw, decode_event, encode_event
from durable.model.limits import Limits
from durable.model.names import TRIGGERS
from durable.model.status import RuntimeStatus
from durable.ports import KEPT, PARKED, UNSERVED, Delivered, Fact, Outcome, Record, Want
from durable.replay.context import OrchestrationContext
from durable.replay.guard import Watch
from durable.runtime import requests as ask

from .driven import Driven, Registered
from .test_replay_laws import NOW, code_of

FAILURE: Final = Event(h.TASK_FAILED, NOW, task_id=2, attempt=1, failure=FailureDetails("ValueError", "boom"))
BODY: Final = Raw(
    b'{"specversion":"1.0","id":"1","source":"/shop","type":"paid","datacontenttype":"application/json","data":"paid"}'
)
PUBLISHED: Final = Event(h.EVENT_RAISED, NOW, 1, h.CLOUD_EVENT, input=BODY, execution_id="x")


def raised(number: int) -> Event:
    return Event(h.EVENT_RAISED, NOW, name="go", input=Raw(b"%d" % number))


def listens(ctx: OrchestrationContext, *given: Any) -> Generator[Any, Any, Any]:
    """Gives the events behind the activity, and what was published."""
    published = ctx.wait_for_cloudevent(type="paid")
    came = [(yield ctx.call_activity("a"))]
    for _ in range(3):
        came.append((yield ctx.wait_for_external_event("go")))
    return [*came, (yield published).get_data()]


class Failing:
    """An instance in a store, before the turn in which it fails."""

    def __init__(self) -> None:
        ids = count()
        self.backend = MemoryBackend(partitions=1)
        self.store = self.backend.store
        self.env = Env("w", 60.0, lambda: f"id{next(ids)}", 1, Limits(), Watch())
        self.code = code_of(listens)
        self.started = Event(h.EXECUTION_STARTED, NOW, name="o", input=Raw(b"null"), execution_id="x", seed="s")
        self.store.commit([create("i", self.started, 1, "c")])
        self.turn()

    @property
    def record(self) -> Record:
        [record] = self.store.load([Want("i")])
        assert record is not None
        return record

    @property
    def inbox(self) -> list[Event]:
        return [decode_event(row.body) for row in self.record.inbox if row.body]

    @property
    def status(self) -> RuntimeStatus:
        return self.record.summary.status

    def raises(self, number: int) -> Delivered:
        """Somebody is told that this event was accepted, or not."""
        return self.deliver(f"event/{number}", raised(number))

    def deliver(self, fact_id: str, fact: Event, park: bool = False) -> Delivered:
        [answer] = self.store.deliver([Fact("i", 0, fact_id, encode_event(fact), NOW.timestamp(), park)])
        return answer

    def kept(self) -> list[bytes]:
        return [bytes(decode_event(row.body).input) for row in self.record.inbox if row.group == KEPT]

    def turn(self, *facts: Event, meanwhile: Event | None = None) -> None:
        """These facts, and what a worker finds in the inbox; `meanwhile` one more is accepted."""
        record = self.record
        inbox = record.inbox
        if record.summary.status.finished:
            inbox = tuple(row for row in inbox if row.group not in UNSERVED)
        arrivals = [*(Arrival(fact, "x") for fact in facts), *inbox_arrivals(inbox)[0]]
        commit = step(Instance.of_record(record), arrivals, self.code, "", NOW, self.env).commit
        if meanwhile is not None:
            assert self.deliver("meanwhile", meanwhile) is Delivered.NEW
        if commit is not None:
            assert self.store.commit([commit]) == [Outcome.COMMITTED]

    def rewind(self) -> list[Message]:
        """The messages that it sends."""
        found = look_back(self.record)
        assert found is not None
        commit = rewind(found, None, Raw(b"null"), NOW, self.env.mint, 1)
        assert self.store.commit([commit]) == [Outcome.COMMITTED]
        return [decode_message(row.body) for row in commit.put if row.kind == "message"]

    def goes_on(self) -> list[Any]:
        """What it gives once its activity has succeeded, and the event that was published has come."""
        self.turn(Event(h.TASK_COMPLETED, NOW, task_id=2, attempt=2, result=Raw(b'"done"')))
        if self.status is RuntimeStatus.RUNNING:
            self.turn(PUBLISHED)
        assert self.status is RuntimeStatus.COMPLETED
        assert self.record.inbox == ()
        given: list[Any] = msgspec.json.decode(self.record.summary.output)
        return given


def failed(*events: int, meanwhile: Event | None = None) -> Failing:
    """These events stand behind the failure in one turn."""
    here = Failing()
    for number in events:
        assert here.raises(number) is Delivered.NEW
    here.turn(FAILURE, meanwhile=meanwhile)
    assert here.status is RuntimeStatus.FAILED
    here.turn()
    return here


def test_accepted_events_are_taken_in_order_after_a_rewind() -> None:
    """One before the failure, one behind it in the same turn, one that came while that turn was committed."""
    here = Failing()
    here.raises(1)
    here.turn()
    here.raises(2)
    here.turn(FAILURE, meanwhile=raised(3))
    here.turn()
    assert here.kept() == [b"2", b"3"]
    assert [here.raises(2), here.raises(4)] == [Delivered.DUPLICATE, Delivered.FINISHED]
    here.rewind()
    assert here.goes_on() == ["done", 1, 2, 3, "paid"]


def test_nobody_looks_for_what_is_kept() -> None:
    here = failed(1, 2, meanwhile=raised(3))
    assert [row.kind for row in here.store.due(0, "default", float("inf"), 10).items] == ["message"]  # of the wait
    version = here.record.version
    here.turn()
    assert here.record.version == version


def test_events_are_kept_from_one_failure_to_the_next() -> None:
    here = failed(1, 2)
    for attempt in (2, 3):
        here.rewind()
        here.turn(msgspec.structs.replace(FAILURE, attempt=attempt))
        assert (here.status, here.kept()) == (RuntimeStatus.FAILED, [b"1", b"2"])


def test_another_life_does_not_find_them_but_what_was_sent_to_it() -> None:
    here = failed(1, meanwhile=raised(2))
    sent = raised(3)
    assert here.deliver("sent", sent, park=True) is Delivered.PARKED
    started = msgspec.structs.replace(here.started, execution_id="y")
    assert here.store.commit([in_place_of(here.record, create("i", started, 1, "again"))]) == [Outcome.COMMITTED]
    assert [(row.group, decode_event(row.body)) for row in here.record.inbox if row.body] == [(PARKED, sent)]


def test_a_rewound_wait_takes_the_published_event_that_was_kept_for_it() -> None:
    """So its triggers are not told to wait for another one."""
    here = Failing()
    here.deliver("published", PUBLISHED)
    here.turn(FAILURE)
    assert here.kept() == [bytes(BODY)]
    assert here.rewind() == []
    here.raises(1)
    here.raises(2)
    here.raises(3)
    here.turn(Event(h.TASK_COMPLETED, NOW, task_id=2, attempt=2, result=Raw(b'"done"')))
    assert (here.status, here.record.inbox) == (RuntimeStatus.COMPLETED, ())


def test_a_rewound_wait_without_one_waits_anew() -> None:
    """Also if the inbox has one for a wait of another execution that has its number."""
    here = Failing()
    stale = msgspec.structs.replace(PUBLISHED, execution_id="the one before")
    here.turn(FAILURE, meanwhile=stale)
    [asked] = here.rewind()
    assert (asked.target, asked.event.type) == (TRIGGERS, h.EVENT_AWAITED)


def test_what_is_no_event_of_this_execution_is_not_kept() -> None:
    here = Failing()
    other = msgspec.structs.replace(PUBLISHED, execution_id="the one before")
    cancel = Event(h.EXECUTION_CANCELED, NOW, input=Raw(b"null"))
    for number, fact in enumerate([other, cancel, Event(h.TIMER_FIRED, NOW, 7), FAILURE]):
        here.deliver(f"fact/{number}", fact)
    here.turn(FAILURE)
    here.turn()
    assert (here.status, here.record.inbox) == (RuntimeStatus.FAILED, ())


def test_what_was_terminated_keeps_nothing() -> None:
    """It can't be rewound."""
    here = Failing()
    here.raises(1)
    here.deliver("end", terminate_request(Raw(b"null"), NOW, recursive=False))
    here.turn(meanwhile=raised(2))
    here.turn()
    assert (here.status, here.record.inbox) == (RuntimeStatus.TERMINATED, ())


def test_a_worker_that_looks_at_a_failed_instance_leaves_what_is_kept_where_it_is() -> None:
    """Also what was sent to it and waits for another one of its id."""
    app = durable.Registry()

    @app.orchestrator(name="o")
    def fails(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.wait_for_external_event("go")
        raise ValueError

    driven = Driven(codebase=Registered(app))
    started = Event(h.EXECUTION_STARTED, NOW, name="o", execution_id="x", seed="s")
    driven.store.commit([create("i", started, 1, "c")])
    event = encode_event(raised(1))
    driven.store.deliver([Fact("i", 0, "first", event, 0.0), Fact("i", 0, "second", event, 0.0)])
    driven.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
    assert driven.store.deliver([Fact("i", 0, "sent", event, 0.0, park=True)]) == [Delivered.PARKED]
    found = driven.store.load([Want("i")])
    assert [row.group for record in found if record for row in record.inbox] == [KEPT, PARKED]
    driven.go_on(2, [ask.Hint(["i"])])
    assert driven.store.load([Want("i")]) == found


@pytest.mark.parametrize("as_id", [None, "copy"])
def test_an_archive_has_them(as_id: str | None) -> None:
    here = failed(1, meanwhile=raised(2))
    here.deliver("sent", raised(3), park=True)
    archive = archive_of(here.store, "i")
    assert [bytes(fact.input) for fact in archive.pending] == [b"1", b"2"]
    other = MemoryBackend(partitions=1)
    restore(other, archive, NOW, instance_id=as_id)
    [record] = other.store.load([Want(as_id or "i")])
    assert record is not None
    assert [(row.group, decode_event(row.body)) for row in record.inbox] == [(KEPT, fact) for fact in archive.pending]


@pytest.mark.parametrize("kind", [h.EXECUTION_CANCELED, h.TASK_COMPLETED])
def test_an_archive_of_a_failure_has_nothing_else_pending(kind: str) -> None:
    archive = archive_of(failed(1).store, "i")
    check(archive)
    with pytest.raises(ArchiveError, match=f"pending fact 1 is '{kind}', which waits in no inbox of a FAILED"):
        check(archive._replace(pending=[*archive.pending, Event(kind, NOW, 1)]))
