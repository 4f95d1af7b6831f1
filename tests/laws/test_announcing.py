"""When what has begun and ended is announced: the topic's news may keep each other company, a reply may not wait."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from durable.engine.instance import Env
from durable.model.history import Raw
from durable.model.limits import Limits
from durable.model.status import RuntimeStatus, Summary
from durable.replay.guard import Watch
from durable.runtime import requests as ask
from durable.runtime.courier import Courier
from durable.runtime.serving import Serving
from tests.laws.driven import Driven

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
HERE, ELSEWHERE = "durable.default.reply.1", "durable.default.reply.2"


def ended(reply_to: str) -> Summary:
    return Summary("i", "e", "order", RuntimeStatus.COMPLETED, NOW, NOW, output=Raw(b"1"), reply_to=reply_to)


def courier_of(clock: list[datetime]) -> Courier:
    env = Env("me", 60.0, iter(()).__next__, 16, Limits(), Watch())
    return Courier(env, Serving(announces=True, reply_to=HERE), lambda: clock[0])


def test_news_for_the_topic_alone_waits_for_company_and_not_long() -> None:
    clock = [NOW]
    courier = courier_of(clock)
    courier.announce(ended(HERE), 3)
    assert not courier.busy
    goes_at = courier.next_at
    clock[0] = NOW + timedelta(seconds=0.001)
    courier.announce(ended(""), 3)
    assert courier.next_at == goes_at, "one after the other they would wait for ever"
    clock[0] = NOW + timedelta(seconds=goes_at - NOW.timestamp())
    assert courier.busy
    assert clock[0] - NOW < timedelta(seconds=0.1)
    assert len(courier.lifecycle) == 2


def test_a_reply_goes_at_once_and_takes_the_others_along() -> None:
    courier = courier_of([NOW])
    courier.announce(ended(HERE), 3)
    courier.announce(ended(ELSEWHERE), 3)
    assert courier.busy
    assert [m.to for m in courier.lifecycle][-1] == ELSEWHERE


def test_a_clock_that_is_set_back_holds_up_nothing_that_goes_out_and_no_stop() -> None:
    driven = Driven(Serving(announces=True, reply_to=HERE, by_mail=True))
    driven.answers[ask.Receive] = lambda request: [False] * len(request.prefetch)
    driven.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
    courier = driven.loop.courier
    courier.announce(ended(HERE), 3)
    courier.not_before = driven.now.timestamp() + 1.0
    driven.loop.work.running.add("e/1/1")
    driven.go_on(1, [ask.Stop(30.0)])
    driven.now = set_back = NOW - timedelta(hours=1)
    driven.go_on(3)
    assert courier.lifecycle == []
    assert courier.not_before <= driven.now.timestamp()
    driven.go_on(20)
    assert driven.over
    assert driven.now - set_back < timedelta(minutes=1)
