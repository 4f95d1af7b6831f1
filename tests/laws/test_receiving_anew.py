"""A subscription that may be dead is given back, but what runs here is leased before anybody else is offered it."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from durable.engine.instance import Env, Invocation
from durable.model.history import Raw
from durable.model.limits import Limits
from durable.ports import Delivery, Row
from durable.replay.guard import Watch
from durable.runtime.courier import Courier
from durable.runtime.intake import Intake
from durable.runtime.requests import Assigned, Claim, Read, Receive, Request
from durable.runtime.roster import Roster
from durable.runtime.serving import Serving
from durable.runtime.wire import Work
from durable.runtime.workload import Workload
from tests.laws.driven import Driven

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Names:
    def serves_activity(self, name: str) -> bool:
        return True

    def known(self, kind: str) -> list[str]:
        return []


@pytest.fixture
def intake() -> Intake:
    env = Env("me", 60.0, iter(f"id{n}" for n in range(10)).__next__, 16, Limits(), Watch())
    serving = Serving(by_mail=True, slots=4)
    courier = Courier(env, serving, lambda: NOW)
    workload = Workload(env, serving, Names(), courier, lambda: NOW)
    return Intake(env, serving, workload, courier, Roster("me"), lambda: NOW)


def asked(requests: Generator[Request, Any, None]) -> list[Request]:
    """What is asked for, where every row is there, every lease granted and no queue missing."""
    made: list[Request] = []
    answer: Any = None
    while True:
        try:
            request = requests.send(answer)
        except StopIteration:
            return made
        made.append(request)
        if isinstance(request, Read):
            answer = [Row(key.key, "task", "i1", key.partition, NOW.timestamp()) for key in request.keys]
        elif isinstance(request, Claim):
            answer = [True] * len(request.leases)
        elif isinstance(request, Receive):
            answer = [False] * len(request.prefetch)


def renewals(driven: Driven) -> list[datetime]:
    """When it will have subscribed anew; no queue is missing."""
    times: list[datetime] = []

    def receive(request: Receive) -> list[bool]:
        if request.anew:
            times.append(driven.now)
        return [False] * len(request.prefetch)

    driven.answers[Receive] = receive
    return times


def test_what_runs_here_is_leased_before_it_is_given_back(intake: Intake) -> None:
    asked(intake.receive())
    invocation = Invocation("i1", "e", 1, 1, "quick", Raw(b"null"), "key1")
    intake.courier.take(Work(invocation, "back", "them", False, 0.0), "tag")
    read, claim, receive = asked(intake.receive_anew())
    assert isinstance(read, Read)
    assert isinstance(claim, Claim)
    assert [lease.holder for lease in claim.leases] == ["me"]
    assert isinstance(receive, Receive)
    assert receive.anew
    assert list(receive.prefetch.values()) == [3]


def test_what_was_delivered_and_not_begun_runs_when_it_comes_again(intake: Intake) -> None:
    invocation = Invocation("i1", "e", 1, 1, "quick", Raw(b"null"), "key1")
    work = Work(invocation, "back", "them", False, NOW.timestamp())
    intake.courier.back.append("one before")
    intake.offered.append((work, Delivery("work", b"", "old tag", redelivered=False)))
    asked(intake.receive_anew())
    assert asked(intake.accept()) == []
    assert intake.courier.done == []
    assert intake.courier.back == ["one before", "old tag"], "it may be of an older subscription, still open"


def test_what_nobody_doubts_is_kept(intake: Intake) -> None:
    asked(intake.receive())
    assert asked(intake.receive()) == []
    [anew] = asked(intake.receive_anew())
    assert isinstance(anew, Receive)
    assert anew.anew
    intake.courier.want_work(1)
    [resized] = asked(intake.courier.receive())
    assert isinstance(resized, Receive)
    assert not resized.anew


def test_a_doubt_without_a_reason_is_had_once_a_minute(intake: Intake) -> None:
    asked(intake.receive())
    now = NOW.timestamp()
    assert len(asked(intake.receive_anew(now))) == 1
    assert asked(intake.receive_anew(now + 59)) == []
    assert len(asked(intake.receive_anew())) == 1
    assert len(asked(intake.receive_anew(now + 60))) == 1


def test_a_clock_that_is_set_back_holds_up_no_doubt() -> None:
    driven = Driven(Serving(by_mail=True, slots=4))
    renewed = renewals(driven)
    driven.go_on(2, [Assigned([("default", 0)], ["me"])])
    for number in (1, 2):
        driven.loop.work.overdue = True
        driven.go_on(2)
        assert len(renewed) == number
        driven.now -= timedelta(hours=1)
        driven.go_on(2)


def test_after_a_death_subscriptions_are_renewed_once_when_the_dust_has_settled() -> None:
    """Whoever died may have made a lost queue again, and told nobody: RabbitMQ says nothing to those that receive."""
    driven = Driven(Serving(by_mail=True, slots=4))
    begun = driven.now
    renewed = renewals(driven)
    driven.go_on(1, [Assigned([("default", 0)], ["me", "first", "second"])])
    driven.go_on(1, [Assigned([("default", 0)], ["me", "second"])])
    driven.go_on(1, [Assigned([("default", 0)], ["me"])])
    assert renewed == []
    driven.go_on(50)
    [at] = renewed
    assert Serving().patience.doubt <= (at - begun).total_seconds() < 2 * Serving().patience.doubt + 1


def test_a_clock_that_is_set_back_after_a_death_holds_up_no_renewal() -> None:
    driven = Driven(Serving(by_mail=True, slots=4))
    renewed = renewals(driven)
    driven.go_on(1, [Assigned([("default", 0)], ["me", "first"])])
    driven.go_on(1, [Assigned([("default", 0)], ["me"])])
    driven.now -= timedelta(hours=1)
    driven.go_on(3)
    assert len(renewed) == 1
