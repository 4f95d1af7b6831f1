"""The public contract of event sources on real servers, and what only some have."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import boto3  # type: ignore[import-untyped]  # boto3 has no py.typed
import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest
import redis
from pika.exceptions import ChannelClosedByBroker  # type: ignore[import-untyped]  # as above

from durable.app.plugins import open_event_source
from durable.backends import sqs_source
from durable.backends.rabbitmq_topology import arguments_without_limit
from durable.model.errors import TransportError
from durable.ports import EventSource, Published
from durable.testing.event_source_contract import EventSourceContract, Receiver, event, events, numbers, until_confirmed
from tests.conftest import need
from tests.servers.dynamodb_server import CREDENTIALS, REGION, DynamoServer
from tests.servers.process import HOST, free_port
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq_server import RabbitServer, missing_rabbitmq
from tests.servers.redis_server import RedisServer


@pytest.fixture(scope="module")
def restarted_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """Another one, which the contract restarts."""
    server = type(redis_server)()
    server.start()
    yield server
    server.close()


class TestRedis(EventSourceContract):
    binary = True

    @pytest.fixture(autouse=True)
    def _server(self, restarted_redis: RedisServer) -> None:
        self.server = restarted_redis

    def open_source(self, place: str, workspace: str) -> EventSource:
        return open_event_source(f"{self.server.url}/0?stream={place}", workspace)

    def interrupt(self) -> None:
        self.server.restart()

    def send_binary(self, place: str, data: bytes, content_type: str, attributes: Mapping[str, str]) -> None:
        with redis.Redis.from_url(self.server.url) as client:
            client.xadd(place, {**attributes, "datacontenttype": content_type, "data": data})


@pytest.fixture(scope="module")
def restarted_rabbitmq() -> Iterator[RabbitServer]:
    need(missing_rabbitmq())
    server = RabbitServer()
    server.start()
    yield server
    server.close()


class TestRabbit(EventSourceContract):
    binary = True

    @pytest.fixture(autouse=True)
    def _server(self, restarted_rabbitmq: RabbitServer) -> None:
        self.server = restarted_rabbitmq

    def open_source(self, place: str, workspace: str) -> EventSource:
        return open_event_source(f"{self.server.url()}?queue={place}", workspace)

    def interrupt(self) -> None:
        self.server.restart()

    def send_binary(self, place: str, data: bytes, content_type: str, attributes: Mapping[str, str]) -> None:
        headers = {f"cloudEvents_{name}": value for name, value in attributes.items()}
        with channel(self.server) as sending:
            sending.basic_publish("", place, data, pika.BasicProperties(content_type=content_type, headers=headers))


class TestSqs(EventSourceContract):
    """Over a wire that is cut: what the server has is in its memory."""

    binary = True
    ordered = False
    connected = False
    many = 1_000  # the emulator is a program in Python

    @pytest.fixture(autouse=True)
    def _server(self, dynamodb_server: DynamoServer) -> Iterator[None]:
        self.server = dynamodb_server
        with closing(Proxy(dynamodb_server.port)) as self.proxy:
            yield

    def open_source(self, place: str, workspace: str) -> EventSource:
        sqs(self.server).create_queue(QueueName=place)
        return open_event_source(self.server.queue(place, port=self.proxy.port), workspace)

    def interrupt(self) -> None:
        self.proxy.cut()

    def send_binary(self, place: str, data: bytes, content_type: str, attributes: Mapping[str, str]) -> None:
        client = sqs(self.server)
        named = {"content-type": content_type, **{f"ce_{name}": value for name, value in attributes.items()}}
        client.send_message(
            QueueUrl=client.get_queue_url(QueueName=place)["QueueUrl"],
            MessageBody=data.decode(),
            MessageAttributes={name: {"DataType": "String", "StringValue": value} for name, value in named.items()},
        )


def sqs(server: DynamoServer) -> Any:
    """SQS without the source: an administrator, or a program of somebody else's."""
    return boto3.client("sqs", region_name=REGION, endpoint_url=server.endpoint)


@contextmanager
def channel(server: RabbitServer) -> Iterator[Any]:
    """AMQP without the source: a program of somebody else's."""
    with closing(pika.BlockingConnection(pika.URLParameters(server.url()))) as connection:
        yield connection.channel()


# ---- Redis


@pytest.fixture
def stream() -> str:
    return f"stream-{uuid4().hex}"


@pytest.fixture
def opening(redis_server: RedisServer, stream: str, after: ExitStack) -> Callable[..., EventSource]:
    """Opens sources of this test's stream; closed when the test ends."""

    def opened(parameters: str = "", workspace: str = "w") -> EventSource:
        url = f"{redis_server.url}/0?stream={stream}{parameters}"
        return after.enter_context(closing(open_event_source(url, workspace)))

    return opened


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def test_a_stream_keeps_its_entries_and_every_group_has_all(
    opening: Callable[..., EventSource], stream: str, client: Any
) -> None:
    first, second = opening(workspace="one"), opening("&group=mine")
    first.publish(events(5))
    for source in (first, second):
        receiver = Receiver()
        source.receive(10, receiver)
        assert receiver.wait(5) == numbers(5)
        source.ack(receiver.tags())
        source.close()
    assert client.xlen(stream) == 5
    groups = {group["name"]: (group["pending"], group["consumers"]) for group in client.xinfo_groups(stream)}
    assert groups == {b"durable.one": (0, 0), b"mine": (0, 0)}


def test_entries_of_other_programs(opening: Callable[..., EventSource], stream: str, client: Any) -> None:
    """Attributes with the prefix of a binding, an event behind other fields, text, and what is no event at all."""
    attributes = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    client.xadd(stream, {**attributes, "content-type": "text/plain", "data": "seven"})
    client.xadd(stream, {"sent_by": "me", "event": event(2)})
    client.xadd(stream, {"temperature": "21", "raw": b"\xff"})
    bodies: list[bytes] = []
    came = threading.Event()

    def sink(some: Sequence[bytes], _tag: object) -> None:
        bodies.extend(some)
        if len(bodies) == 3:
            came.set()

    opening().receive(10, sink)
    assert came.wait(20)
    assert json.loads(bodies[0]) == {
        "specversion": "1.0",
        "id": "1",
        "source": "/s",
        "type": "t",
        "datacontenttype": "text/plain",
        "data": "seven",
    }
    assert bodies[1] == event(2)
    assert json.loads(bodies[2]) == {"temperature": "21", "raw": "\N{REPLACEMENT CHARACTER}"}


def test_what_a_dead_receiver_held_comes_to_the_next(
    opening: Callable[..., EventSource], stream: str, client: Any
) -> None:
    """One of ours is dead when it has been silent for seconds; one of another program in the same group is not."""
    source = opening()
    source.publish(events(9))
    for consumer, size in (("durable-killed", 4), ("a stranger", 3)):
        client.xreadgroup("durable.w", consumer, {stream: ">"}, count=size)
    second_id = client.xrange(stream)[1][0]
    client.xdel(stream, second_id)  # trimmed meanwhile
    receiver = Receiver()
    source.receive(10, receiver)
    assert sorted(receiver.wait(5)) == ["0", "2", "3", "7", "8"]
    source.publish([event("next")])
    assert receiver.wait(6)[5] == "next"
    source.ack(receiver.tags())
    source.close()
    consumers = {one["name"]: one["pending"] for one in client.xinfo_consumers(stream, "durable.w")}
    assert consumers == {b"a stranger": 3}


def test_a_stream_that_was_deleted_is_made_again(opening: Callable[..., EventSource], stream: str, client: Any) -> None:
    source = opening()
    receiver = Receiver()
    source.receive(10, receiver)
    source.publish([event("before")])
    receiver.wait(1)
    client.delete(stream)
    source.ack(receiver.tags())
    source.publish([event("after")])
    assert receiver.wait(2) == ["before", "after"]


def test_a_server_that_is_frozen_holds_nobody_up_for_long(own_server: RedisServer, stream: str) -> None:
    source = open_event_source(f"{own_server.url}/0?stream={stream}&socket_timeout=1", "w")
    receiver = Receiver()
    source.receive(10, receiver)
    source.publish([event(1)])
    receiver.wait(1)
    own_server.pause()
    begun = monotonic()
    assert source.publish([event(2)]) == [Published.UNKNOWN]
    source.ack(receiver.tags())
    source.close()
    assert monotonic() - begun < 20
    own_server.resume()


def test_a_closed_source_says_so(opening: Callable[..., EventSource]) -> None:
    source = opening()
    source.receive(1, Receiver())
    with pytest.raises(TransportError, match="receives already"):
        source.receive(1, Receiver())
    source.close()
    with pytest.raises(TransportError, match="closed"):
        source.receive(1, Receiver())


def refused(url: str, kind: type[Exception] = TransportError) -> str:
    """Why this can't be opened; no secret is in it, nor in what led to it."""
    with pytest.raises(kind) as found:
        open_event_source(url, "w")
    error: BaseException | None = found.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__ or error.__context__
    return str(found.value)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ("", "names no stream"),
        ("?stream=", "parameter stream .* is empty"),
        ("?stream=a&partitions=3", "unknown parameter partitions .* known: group, socket"),
        ("?stream=a&group=b&group=c", "stands twice"),
    ],
)
def test_a_wrong_url_of_a_stream(parameters: str, why: str) -> None:
    assert re.search(why, refused(f"redis://me:hunter2@{HOST}/0{parameters}"))


def test_a_stream_that_can_not_be_had(redis_server: RedisServer, stream: str, client: Any) -> None:
    client.set(stream, "mine")
    assert "is no stream" in refused(f"{redis_server.url}/0?stream={stream}")
    assert "password" in refused(f"redis://me:hunter2@{HOST}:{redis_server.port}/0?stream={stream}")
    assert "can't be reached" in refused(f"redis://:hunter2@{HOST}:{free_port()}/0?stream={stream}")


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        (f"redis://me:hunter2@{HOST}/0?stream=a", "redis.exceptions", "redis"),
        (f"amqp://me:hunter2@{HOST}/?queue=a", "pika", "rabbitmq"),
        ("sqs://eu-central-1/a", "boto3.session", "sqs"),
    ],
)
def test_a_client_that_is_not_installed(url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith(("durable.backends.r", "durable.backends.sqs_so"))]:
        monkeypatch.delitem(sys.modules, module)
    assert f"pip install 'durable-orchestrations[{extra}]'" in refused(url)


def test_a_scheme_that_nobody_serves() -> None:
    assert "no installed event source serves kafka://" in refused("kafka://me:hunter2@host/topic", ValueError)


# ---- RabbitMQ


@pytest.fixture
def queue() -> str:
    return f"queue-{uuid4().hex}"


@pytest.fixture
def opening_queue(rabbitmq_server: RabbitServer, queue: str, after: ExitStack) -> Callable[..., EventSource]:
    """Opens sources of this test's queue; closed when the test ends."""

    def opened(parameters: str = "") -> EventSource:
        url = f"{rabbitmq_server.url()}?queue={queue}{parameters}"
        return after.enter_context(closing(open_event_source(url, "w")))

    return opened


def test_a_queue_is_taken_as_it_is(
    opening_queue: Callable[..., EventSource], rabbitmq_server: RabbitServer, queue: str
) -> None:
    """A classic one, not durable: somebody's. One that is missing is a durable quorum queue."""
    with channel(rabbitmq_server) as sending:
        sending.queue_declare(queue, arguments={"x-max-length": 100})
        source = opening_queue()
        receiver = Receiver(source.ack)
        source.receive(10, receiver)
        sending.basic_publish("", queue, event(1))
        assert receiver.wait(1) == ["1"]
        with closing(open_event_source(f"{rabbitmq_server.url()}?queue={queue}.new", "w")):
            sending.queue_declare(f"{queue}.new", durable=True, arguments={"x-queue-type": "quorum"})  # the same


@pytest.mark.parametrize(
    ("version", "limit"),
    [
        ("3.10.8", {}),
        ("3.13.7", {}),
        ("4.0.1", {"x-delivery-limit": -1}),
        ("4.3.0-rc.1", {"x-delivery-limit": -1}),
        ("10.0", {"x-delivery-limit": -1}),
        ("", {}),
        ("unknown", {}),
    ],
)
def test_a_queue_that_is_made_drops_nothing_that_comes_back(version: str, limit: dict[str, int]) -> None:
    assert arguments_without_limit({"version": version}) == {"x-queue-type": "quorum", **limit}
    assert arguments_without_limit({}) == {"x-queue-type": "quorum"}


@pytest.mark.parametrize("kind", [None, "direct", "topic"])
def test_a_queue_that_is_bound_to_an_exchange(
    opening_queue: Callable[..., EventSource], rabbitmq_server: RabbitServer, queue: str, kind: str | None
) -> None:
    """Which is there, or is made as a durable topic exchange. What is published goes to it."""
    exchange = f"{queue}.exchange"
    with channel(rabbitmq_server) as sending:
        if kind is not None:
            sending.exchange_declare(exchange, kind)
        source = opening_queue(f"&exchange={exchange}&routing_key=orders.paid")
        if kind is None:
            sending.exchange_declare(exchange, "topic", durable=True)  # the same
        sending.queue_declare(f"{queue}.other")
        sending.queue_bind(f"{queue}.other", exchange, "orders.paid")
        receiver = Receiver(source.ack)
        source.receive(10, receiver)
        assert source.publish(events(2)) == [Published.CONFIRMED] * 2
        sending.basic_publish(exchange, "orders.paid", event("theirs"))
        assert receiver.wait(3) == ["0", "1", "theirs"]
        assert [sending.basic_get(f"{queue}.other")[2] for _ in range(3)] == [*events(2), event("theirs")]


def test_a_queue_that_was_deleted_is_made_and_bound_again(
    opening_queue: Callable[..., EventSource], rabbitmq_server: RabbitServer, queue: str
) -> None:
    source = opening_queue(f"&exchange={queue}.exchange")
    receiver = Receiver()
    source.receive(10, receiver)
    source.publish([event("before")])
    receiver.wait(1)
    with channel(rabbitmq_server) as sending:
        sending.queue_delete(queue)
    source.ack(receiver.tags())
    until_confirmed(source, [event("after")])
    assert receiver.wait(2)[:2] == ["before", "after"]


def test_nothing_of_ours_is_left_beside_the_queue(
    opening_queue: Callable[..., EventSource], rabbitmq_server: RabbitServer, queue: str
) -> None:
    opening_queue()
    with channel(rabbitmq_server) as sending, pytest.raises(ChannelClosedByBroker, match="no exchange"):
        sending.exchange_declare("durable.w.dead-letters", passive=True)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ("", "names no queue"),
        ("?queue=", "names no queue"),
        ("?queue=a&routing_key=b", "give exchange= too"),
        ("?queue=a&stream=b", "not known; there are: cacertfile, certfile, exchange, keyfile, queue, routing_key"),
        (f"?queue={'q' * 256}", "at most 255 bytes"),
    ],
)
def test_a_wrong_url_of_a_queue(parameters: str, why: str) -> None:
    assert re.search(why, refused(f"amqp://me:hunter2@{HOST}/{parameters}"))


def test_a_queue_that_can_not_be_had(rabbitmq_server: RabbitServer, queue: str) -> None:
    url = f"amqp://me:hunter2@{HOST}:{{}}/?queue={queue}"
    assert "refused the user name or the password" in refused(url.format(rabbitmq_server.port))
    assert "can't connect" in refused(url.format(free_port()))


# ---- SQS


def test_a_fifo_queue_keeps_its_order(dynamodb_server: DynamoServer, after: ExitStack) -> None:
    queue = f"{uuid4().hex}.fifo"
    sqs(dynamodb_server).create_queue(QueueName=queue, Attributes={"FifoQueue": "true"})
    source = after.enter_context(closing(open_event_source(dynamodb_server.queue(queue), "w")))
    receiver = Receiver(source.ack)
    source.receive(50, receiver)
    assert source.publish(events(200)) == [Published.CONFIRMED] * 200
    assert receiver.wait(200) == numbers(200)


def test_what_is_acknowledged_is_deleted(dynamodb_server: DynamoServer) -> None:
    queue, client = uuid4().hex, sqs(dynamodb_server)
    url = client.create_queue(QueueName=queue)["QueueUrl"]
    with closing(open_event_source(dynamodb_server.queue(queue), "w")) as source:
        source.publish(events(25))
        receiver = Receiver()
        source.receive(50, receiver)
        receiver.wait(25)
        source.ack(receiver.tags())
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (left["ApproximateNumberOfMessages"], left["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")


def test_what_is_held_for_long_stays_hidden(
    dynamodb_server: DynamoServer, after: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs_source, "HIDDEN_SECONDS", 3)
    monkeypatch.setattr(sqs_source, "WAIT_SECONDS", 1)
    queue, client = uuid4().hex, sqs(dynamodb_server)
    url = client.create_queue(QueueName=queue)["QueueUrl"]
    source = after.enter_context(closing(open_event_source(dynamodb_server.queue(queue), "w")))
    receiver = Receiver()
    source.receive(50, receiver)
    source.publish([event(1)])
    receiver.wait(1)
    found = client.receive_message(QueueUrl=url, WaitTimeSeconds=5)  # longer than it was hidden at first
    assert "Messages" not in found
    assert receiver.ids == ["1"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqs://eu-central-1", "names no queue"),
        ("sqs://eu-central-1/a/b", "names no queue"),
        ("sqs://nowhere/orders", "names no region"),
        ("sqs://me:hunter2@eu-central-1/orders", "no user and no password"),
        ("sqs://eu-central-1/orders?group=a", "unknown parameter group .* known: endpoint, timeout"),
    ],
)
def test_a_wrong_url_of_sqs(url: str, why: str) -> None:
    assert re.search(why, refused(url))


def test_a_queue_of_sqs_that_can_not_be_had(dynamodb_server: DynamoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not exist" in refused(dynamodb_server.queue("missing"))
    assert "can't be reached" in refused(dynamodb_server.queue("missing", port=free_port()))
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "without AWS credentials" in refused(dynamodb_server.queue("missing"))
