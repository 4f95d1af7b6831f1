"""What was delivered is acknowledged once what it brought is safe elsewhere, and what is sent is sent until it is."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from durable.engine.instance import Env, Invocation
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.model.status import RuntimeStatus, Summary
from durable.ports import Delivered, Delivery, Published
from durable.replay.guard import Watch
from durable.runtime import requests as ask
from durable.runtime import wire
from durable.runtime.courier import Courier, Outgoing, Posted
from durable.runtime.serving import Serving
from durable.runtime.wire import Work

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SERVING = Serving(by_mail=True, slots=4, carried=8, reply_to="here")
INVOCATION = Invocation("i", "e", 1, 1, "quick", Raw(b"null"), "key")
CONFIRMED, RETURNED, UNKNOWN = Published.CONFIRMED, Published.RETURNED, Published.UNKNOWN
WORK = wire.work_queue("default", "default")
QUEUES = [wire.partition_queue("default", "default", number) for number in range(2)]


class Post:
    """A courier, and what it asks for. broker: its answer to all that is published; makes: whether it makes queues."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.now = NOW
        env = Env("me", 60.0, iter(()).__next__, 2, limits or Limits(), Watch())
        self.courier = Courier(env, SERVING, lambda: self.now)
        self.broker = CONFIRMED
        self.makes = True
        self.missing = False

    def post(self, posted: Posted | None = None) -> list[ask.Request]:
        return self.asked(self.courier.post(posted or Posted([], [], [])))

    def receive(self) -> list[ask.Request]:
        return self.asked(self.courier.receive())

    def asked(self, requests: Generator[ask.Request, Any, None]) -> list[ask.Request]:
        made: list[ask.Request] = []
        answer: Any = None
        while True:
            try:
                request = requests.send(answer)
            except StopIteration:
                return made
            made.append(request)
            answer = None
            if isinstance(request, ask.Publish):
                answer = [self.broker] * len(request.messages)
            elif isinstance(request, ask.Declare):
                answer = [True] * len(request.queues) if self.makes else []
            elif isinstance(request, ask.Deliver):
                answer = [Delivered.NEW] * len(request.facts)
            elif isinstance(request, ask.Receive):
                answer = [self.missing] * len(request.prefetch)

    def end(self, tag: object, reply_queue: str = "back", result: bytes = b"1") -> None:
        """What was delivered has ended here. tag None: its delivery is acknowledged already."""
        self.courier.take(Work(INVOCATION, reply_queue, "them", False, 0.0), tag)
        event = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=Raw(result))
        assert self.courier.ended(ask.Done(INVOCATION, event))

    def send(self) -> None:
        self.courier.outgoing["key"] = Outgoing(INVOCATION, resent=False)


@pytest.fixture
def post() -> Post:
    return Post()


def kinds(requests: list[ask.Request]) -> list[type]:
    return [type(request) for request in requests]


def was_resent(requests: list[ask.Request]) -> bool:
    [publish] = [request for request in requests if isinstance(request, ask.Publish)]
    [message] = publish.messages
    return wire.read_work(message.body).resent


# ---- outcomes


def test_a_small_outcome_goes_by_mail_while_its_delivery_is_kept(post: Post) -> None:
    post.end("tag", "back", b"x" * SERVING.carried)
    publish, settle = post.post()
    assert isinstance(publish, ask.Publish)
    assert [message.to for message in publish.messages] == ["back"]
    assert settle == ask.Settle(["tag"], [], [])


@pytest.mark.parametrize(
    ("tag", "reply_queue", "size"), [("tag", "back", SERVING.carried + 1), ("tag", "", 1), (None, "back", 1)]
)
def test_any_other_outcome_goes_to_the_store_alone(post: Post, tag: str | None, reply_queue: str, size: int) -> None:
    post.end(tag, reply_queue, b"x" * size)
    posted = Posted([], [], [])
    requests = post.post(posted)
    assert kinds(requests)[:2] == [ask.Deliver, ask.Notify]
    assert requests[2:] == ([ask.Settle([tag], [], [])] if tag else [])
    assert posted.stored == ["key"]


@pytest.mark.parametrize("broker", [RETURNED, UNKNOWN])
def test_an_outcome_that_is_not_confirmed_is_in_the_store_before_its_delivery_is_acknowledged(
    post: Post, broker: Published
) -> None:
    post.broker = broker
    post.end("tag")
    requests = post.post()
    assert kinds(requests) == [ask.Publish, ask.Deliver, ask.Notify, ask.Settle]
    assert requests[-1] == ask.Settle(["tag"], [], [])


# ---- invocations


def test_an_invocation_without_a_queue_goes_again_once_there_is_one(post: Post) -> None:
    post.send()
    post.broker = RETURNED
    assert post.post()[1:] == [ask.Declare([WORK])]
    assert post.courier.busy
    post.makes = False
    post.post()
    assert not post.courier.busy, "there is no queue yet"
    post.now += timedelta(seconds=SERVING.patience.retry)
    post.broker = CONFIRMED
    posted = Posted([], [], [])
    assert not was_resent(post.post(posted))
    assert posted.sent == ["key"]
    assert not post.courier.waits


def test_one_that_may_have_arrived_goes_again_after_a_pause_as_what_may_be_a_second_copy(post: Post) -> None:
    post.send()
    post.broker = UNKNOWN
    assert not was_resent(post.post())
    assert not post.courier.busy
    assert post.post() == []
    post.now += timedelta(seconds=SERVING.patience.retry)
    assert post.courier.busy
    assert was_resent(post.post())


def test_while_the_broker_is_left_alone_what_is_done_is_settled_and_news_wait_for_company(post: Post) -> None:
    post.send()
    post.courier.not_before = NOW.timestamp() + 1.0
    post.courier.announce(Summary("i", "e", "order", RuntimeStatus.COMPLETED, NOW, NOW, output=Raw(b"1")), 3)
    post.courier.done.append("tag")
    assert post.post() == [ask.Settle(["tag"], [], [])]


# ---- deliveries


def test_each_delivery_is_settled_by_what_became_of_it(post: Post) -> None:
    courier = post.courier
    for number in range(5):
        invocation = Invocation(f"i{number}", "e", 1, 1, "quick", Raw(b"null"), f"key{number}")
        courier.take(Work(invocation, "back", "them", False, 0.0), number)
    courier.acknowledge("key0")
    courier.give_back(["key1"])
    courier.drop(["key2"])
    courier.give_back(["key3", "key0"])
    assert courier.sort([Delivery(queue, b"?", queue, False) for queue in (WORK, QUEUES[0])]) == ([], [])
    assert post.post() == [ask.Settle([0, 2], [1, 3], [WORK, QUEUES[0]])]
    assert list(courier.taken) == ["key4"]


@pytest.mark.parametrize(("depth", "is_read"), [(Limits().payload_depth, False), (200, True)])
def test_what_is_read_may_nest_as_deep_as_this_workers_limits_say(depth: int, is_read: bool) -> None:
    courier = Post(Limits(payload_depth=depth)).courier
    deep = Raw(b"[" * 150 + b"]" * 150)
    event = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=deep)
    asked = Invocation("i", "e", 1, 1, "quick", deep, "key")
    messages = [
        wire.outcome_message(asked, event, "default", QUEUES[0]),
        wire.invocation_message(asked, Serving(), 2, "them", NOW, resent=False),
    ]
    outcomes, work = courier.sort([Delivery(message.to, message.body, message.to, False) for message in messages])
    assert (len(outcomes), len(work)) == (is_read, is_read)
    assert courier.unreadable == ([] if is_read else [QUEUES[0], WORK])


# ---- queues


def test_the_outcomes_of_a_partition_that_another_worker_has_are_left_to_it(post: Post) -> None:
    post.courier.want_outcomes([("default", 0), ("default", 1)])
    post.receive()
    post.courier.want_work(3)
    assert post.receive() == [ask.Receive({WORK: 3})]
    post.courier.want_outcomes([("default", 0)])
    assert post.receive() == [ask.Receive({QUEUES[1]: 0})]


@pytest.mark.parametrize("slots", [1, 4])
def test_whoever_receives_anew_does_so_from_every_queue(post: Post, slots: int) -> None:
    post.courier.want_outcomes([("default", 0)])
    post.courier.want_work(slots)
    post.receive()
    assert post.courier.distrust()
    [anew] = post.receive()
    assert isinstance(anew, ask.Receive)
    assert anew.anew
    assert anew.prefetch[WORK] == slots
    assert anew.prefetch[QUEUES[0]] > 1


def test_whoever_has_no_slot_asks_for_no_work(post: Post) -> None:
    post.courier.want_work(0)
    assert post.receive() == []


def test_that_a_queue_was_missing_is_known_until_it_is_seen_to(post: Post) -> None:
    post.courier.want_outcomes([("default", 0)])
    post.missing = True
    post.receive()
    post.missing = False
    post.courier.want_work(3)
    post.receive()
    assert post.courier.found_missing
