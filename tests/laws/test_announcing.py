"""When what has begun and ended is announced: the topic's news may keep each other company, a reply may not wait."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from durable.engine.instance import Env
from durable.model.history import Raw
from durable.model.limits import Limits
from durable.model.status import RuntimeStatus, Summary
from durable.replay.guard import Watch
from durable.runtime.courier import Courier
from durable.runtime.serving import Serving

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
    courier.announce(ended(""), 3)
    assert not courier.busy
    clock[0] = NOW + timedelta(seconds=courier.next_at - NOW.timestamp())
    assert courier.busy
    assert clock[0] - NOW < timedelta(seconds=0.1)
    assert len(courier.lifecycle) == 2


def test_a_reply_goes_at_once_and_takes_the_others_along() -> None:
    courier = courier_of([NOW])
    courier.announce(ended(HERE), 3)
    courier.announce(ended(ELSEWHERE), 3)
    assert courier.busy
    assert [m.to for m in courier.lifecycle][-1] == ELSEWHERE
