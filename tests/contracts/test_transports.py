"""The public contract of transports, applied to memory and to a real RabbitMQ; and what only RabbitMQ has."""

from __future__ import annotations

import errno
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pkgutil import resolve_name
from time import monotonic
from typing import Any
from uuid import uuid4

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event, to_binary_event
from cloudevents.core.v1.event import CloudEvent
from pika.channel import Channel  # type: ignore[import-untyped]  # as above
from tenacity import wait_fixed

import durable
from durable.backends.memory_transport import MemoryBroker, MemoryTransport, memory_broker, open_memory_transport
from durable.backends.queue_names import names
from durable.backends.rabbitmq import open_rabbitmq
from durable.backends.rabbitmq_connection import ANSWER_SECONDS, NoAnswer, Session, settle
from durable.backends.rabbitmq_publishing import Publisher
from durable.backends.rabbitmq_topology import Desk, Topology
from durable.backends.rabbitmq_transport import RabbitTransport
from durable.backends.rabbitmq_url import parse_url
from durable.model.errors import TransportError
from durable.ports import Delivery, Message, Published, Transport, Trouble
from durable.testing.transport_contract import Heard, Receiver, TransportContract, data, event, events
from tests.conftest import need
from tests.servers.process import HOST, free_port
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq_server import RabbitServer, missing_rabbitmq

CONFIRMED, UNKNOWN = Published.CONFIRMED, Published.UNKNOWN


class TestMemory(TransportContract):
    @pytest.fixture(autouse=True)
    def _name(self) -> None:
        self.name = uuid4().hex

    def open_transport(self, workspace: str) -> Transport:
        return open_memory_transport(f"memory://{self.name}", workspace)

    def delete_queue(self, queue: str) -> None:
        memory_broker(self.name).delete_queue(queue)


class TestRabbit(TransportContract):
    @pytest.fixture(autouse=True)
    def _server(self, rabbitmq_server: RabbitServer) -> None:
        self.server = rabbitmq_server

    def open_transport(self, workspace: str) -> Transport:
        return open_rabbitmq(self.server.url(), workspace)

    def delete_queue(self, queue: str) -> None:
        self.server.control("delete_queue", queue)


class TestRabbitByPlainPika(TestRabbit):
    """Where pika can't be given many frames at once, its own way of publishing does."""

    @pytest.fixture(autouse=True)
    def _plain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        start = Publisher.start

        def plain(publisher: Publisher, answer: Any) -> None:
            start(publisher, answer)
            publisher._write = None

        monkeypatch.setattr(Publisher, "start", plain)


# ---- a simulator's broker


def test_a_broker_that_is_pumped_by_hand() -> None:
    broker = MemoryBroker(direct=False)
    transport = MemoryTransport(broker, "w")
    transport.declare(["q"])
    receiver = Receiver()
    transport.subscribe("q", 10, receiver)
    transport.publish(events("q", 2))
    assert receiver.deliveries == []
    broker.pump()
    assert receiver.data(2) == [0, 1]
    transport.ack(receiver.tags[:1])
    broker.disconnect(transport)
    assert len(receiver.deliveries) == 2
    broker.pump()
    assert [(data(delivery), delivery.redelivered) for delivery in receiver.deliveries[2:]] == [(1, True)]


def test_what_comes_back_takes_its_old_place() -> None:
    broker = MemoryBroker()
    first, second = MemoryTransport(broker, "w"), MemoryTransport(broker, "w")
    first.declare(["q"])
    receiver, other = Receiver(), Receiver()
    first.subscribe("q", 4, receiver)
    first.publish(events("q", 6))
    first.ack(receiver.tags[1:2])
    first.close()
    second.subscribe("q", 10, other)
    assert other.data(5) == [0, 2, 3, 4, 5]


@pytest.mark.parametrize("url", ["memory://a/b", "memory://a?b=c", "amqp://a"])
def test_the_url_of_a_memory_broker(url: str) -> None:
    with pytest.raises(TransportError, match="memory://name"):
        open_memory_transport(url, "w")


# ---- RabbitMQ: what is on the wire


class Raw:
    """AMQP without the transport: a program of somebody else's."""

    def __init__(self, url: str) -> None:
        self._session = Session(parse_url(url), lambda _session, _why: None)
        self._session.open()
        self._desk = Desk(self._session)

    def close(self) -> None:
        self._session.close()

    def ask(self, call: Callable[[Any, Callable[[Any], None]], None]) -> Any:
        return self._desk.ask("a test", call)

    def publish(self, queue: str, body: bytes, content_type: str | None, headers: dict[str, Any] | None) -> None:
        properties = pika.BasicProperties(content_type=content_type, headers=headers)

        def start(answer: Any) -> None:
            self._session.publishing.channel(
                on_open_callback=lambda channel: settle(answer, channel.basic_publish("", queue, body, properties))
            )

        self._session.ask(start, "publishing")

    def get(self, queue: str) -> tuple[Any, bytes]:
        """The properties and the body of the next message, which must be there."""

        def start(answer: Any) -> None:
            def opened(channel: Any) -> None:
                channel.basic_get(
                    queue, lambda _channel, _method, properties, body: settle(answer, (properties, body)), auto_ack=True
                )

            self._session.consuming.channel(on_open_callback=opened)

        properties, body = self._session.ask(start, "a message")
        return properties, body


@pytest.fixture
def workspace() -> str:
    return uuid4().hex[:8]


@pytest.fixture
def queue(workspace: str) -> str:
    return f"durable.{workspace}.work"


@pytest.fixture
def transport(rabbitmq_server: RabbitServer, workspace: str, queue: str) -> Iterator[Transport]:
    with closing(open_rabbitmq(rabbitmq_server.url(), workspace)) as transport:
        transport.declare([queue])
        yield transport


@pytest.fixture
def raw(rabbitmq_server: RabbitServer) -> Iterator[Raw]:
    with closing(Raw(rabbitmq_server.url())) as raw:
        yield raw


def test_the_sdk_reads_what_we_publish(transport: Transport, queue: str, raw: Raw) -> None:
    message = event(queue, {"a": [1, "é"]}, subject="order 42")
    assert transport.publish([message]) == [CONFIRMED]
    properties, body = raw.get(queue)
    assert (properties.message_id, properties.type, properties.delivery_mode) == (message.id, message.type, 2)
    read = from_rabbitmq_event(RabbitMQMessage(properties.headers or {}, properties.content_type, body))
    assert (read.get_id(), read.get_subject(), read.get_data()) == (message.id, "order 42", {"a": [1, "é"]})


def test_a_binary_event_of_the_sdk_becomes_a_structured_one(transport: Transport, queue: str, raw: Raw) -> None:
    attributes = {"type": "t", "source": "/s", "id": "1", "subject": "é", "datacontenttype": "application/json"}
    message = to_binary_event(CloudEvent({**attributes, "sequence": "7"}, {"big": 9007199254740993}))
    raw.publish(queue, message.body, message.content_type, dict(message.headers))
    receiver = Receiver()
    transport.subscribe(queue, 10, receiver)
    read = json.loads(receiver.wait(1)[0].body)
    assert read.pop("time").endswith("Z")
    assert read == {**attributes, "sequence": "7", "specversion": "1.0", "data": {"big": 9007199254740993}}


@pytest.mark.parametrize(
    ("body", "content_type", "headers", "expected"),
    [
        (b'"a"', "application/json", {"cloudEvents_specversion": "1.0"}, {"data": "a"}),
        (b"[1, 2]", "text/json; charset=utf-8", {"cloudEvents:specversion": "1.0"}, {"data": [1, 2]}),
        (b"{}", "application/x+json", {"ce_specversion": "1.0", "CE_Id": "i"}, {"data": {}, "id": "i"}),
        (b"[1", "application/json", {"ce-specversion": "1.0"}, {"data_base64": "WzE="}),
        (b"plain", "text/plain", {"ce-specversion": "1.0", "ce-no_name": "x"}, {"data": "plain"}),
        (b"\xff", "text/plain", {"ce-specversion": "1.0"}, {"data_base64": "/w=="}),
        (b"\x00", "image/png", {"ce-specversion": "1.0", "other": "x"}, {"data_base64": "AA=="}),
        (b"true", None, {"ce-specversion": "1.0", "ce-n": 3, "ce-yes": True}, {"data": True, "n": 3, "yes": True}),
        (b"", None, {"ce-specversion": "1.0"}, {}),
    ],
)
def test_binary_events_of_others(
    transport: Transport,
    queue: str,
    raw: Raw,
    body: bytes,
    content_type: str | None,
    headers: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    raw.publish(queue, body, content_type, headers)
    receiver = Receiver()
    transport.subscribe(queue, 10, receiver)
    read = json.loads(receiver.wait(1)[0].body)
    assert (read.pop("specversion"), read.pop("datacontenttype", None)) == ("1.0", content_type)
    assert read == expected


@pytest.mark.parametrize(
    ("body", "content_type", "headers"),
    [
        (b'{"id": 1}', "application/cloudevents+json", {"ce-specversion": "1.0"}),
        (b"[]", "application/json", {"ce-id": "1"}),
        (b"", None, None),
        (b"\xff\xfe", "x", {"n": 2**40, "t": {"nested": [1]}}),
    ],
)
def test_what_is_no_binary_event_comes_as_it_is(
    transport: Transport, queue: str, raw: Raw, body: bytes, content_type: str | None, headers: dict[str, Any] | None
) -> None:
    raw.publish(queue, body, content_type, headers)
    receiver = Receiver()
    transport.subscribe(queue, 10, receiver)
    assert receiver.wait(1)[0].body == body


def test_anybody_may_listen_to_the_topic(transport: Transport, workspace: str, raw: Raw) -> None:
    mine = f"listener.{workspace}"
    raw.ask(lambda channel, done: channel.queue_declare(mine, exclusive=False, auto_delete=True, callback=done))
    topic = names(workspace).lifecycle
    assert topic == f"durable.{workspace}.lifecycle"
    raw.ask(lambda channel, done: channel.queue_bind(mine, topic, "flow.*", callback=done))
    transport.announce([event("other.started"), event("flow.started", "heard")])
    transport.publish([])
    transport.depth(mine)
    _until(lambda: transport.depth(mine) == (1, 0))
    properties, body = raw.get(mine)
    assert json.loads(body)["data"] == "heard"
    assert properties.content_type == "application/cloudevents+json"


def test_workspaces_and_virtual_hosts_are_apart(rabbitmq_server: RabbitServer, workspace: str, queue: str) -> None:
    host = f"ü/{workspace}"
    rabbitmq_server.control("eval", _new_vhost(host))
    ours, theirs = rabbitmq_server.url(), rabbitmq_server.url(host)
    with (
        closing(open_rabbitmq(ours, workspace)) as here,
        closing(open_rabbitmq(theirs, workspace)) as there,
        closing(open_rabbitmq(ours, f"{workspace}.2")) as beside,
    ):
        assert [transport.declare([queue]) for transport in (here, there)] == [[True], [True]]
        receiver, dead, other_dead = Receiver(), Receiver(), Receiver()
        here.subscribe(queue, 10, receiver)
        beside.declare([f"{queue}.2"])
        here.publish([event(queue, 1)])
        there.publish([event(queue, 2)])
        receiver.wait(1)
        here.subscribe(here.dead_letters, 10, dead)
        beside.subscribe(beside.dead_letters, 10, other_dead)
        here.park(receiver.tags)
        assert dead.data(1) == [1]
        assert there.depth(there.dead_letters) == (0, 0)
        assert other_dead.deliveries == []


def _new_vhost(name: str) -> str:
    binary = ",".join(map(str, name.encode()))
    return (
        f"rabbit_vhost:add(<<{binary}>>, <<116>>), rabbit_auth_backend_internal:set_permissions("
        f"<<103,117,101,115,116>>, <<{binary}>>, <<46,42>>, <<46,42>>, <<46,42>>, <<116>>)."
    )


def _until(condition: Callable[[], bool]) -> None:
    never = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        never.wait(0.02)
    raise AssertionError("not within 20 s")


def test_what_a_dead_subscription_holds_can_be_given_back(
    rabbitmq_server: RabbitServer, transport: Transport, workspace: str, queue: str, raw: Raw
) -> None:
    """RabbitMQ 3.10 tells the consumers of a quorum queue that is deleted and made again at once nothing; what it has
    for them from then on never reaches them. Whoever made it again knows that."""
    heard, receiver = Heard(), Receiver()
    with closing(open_rabbitmq(rabbitmq_server.url(), workspace)) as somebody:
        somebody.watch(heard)
        assert somebody.publish([event(queue, "first")]) == [CONFIRMED]  # so it knows the queue
        transport.subscribe(queue, 10, receiver)
        assert receiver.data(1) == ["first"]
        raw.ask(lambda channel, done: channel.queue_delete(queue, callback=done))
        assert somebody.declare([queue]) == [True]
        heard.wait(Trouble(queue))
        assert somebody.publish([event(queue, "there")]) == [CONFIRMED]
        _until(lambda: transport.depth(queue) == (0, 1))  # some subscription of ours has it, alive or dead
        again = Receiver()
        transport.unsubscribe(queue, give_back=True)
        transport.ack(receiver.tags[:1])  # "first" went with its queue: this must not take "there" for it
        transport.subscribe(queue, 10, again)
        assert again.data(1) == ["there"]


def test_what_is_requeued_is_rejected(transport: Transport, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which RabbitMQ counts as a delivery; from 4.3 on it does not count a nack, and the limit would never be met."""
    nacks: list[int] = []
    monkeypatch.setattr(Channel, "basic_nack", lambda _, number, *rest, **named: nacks.append(number))
    receiver = Receiver()
    transport.publish([event(queue, n) for n in range(3)])
    transport.subscribe(queue, 10, receiver)
    assert receiver.data(3) == [0, 1, 2]
    transport.requeue(receiver.tags[:3])
    assert set(receiver.data(6)[3:]) == {0, 1, 2}
    assert nacks == []


def test_making_a_known_queue_again_is_a_loss_that_is_told(transport: Transport, queue: str, raw: Raw) -> None:
    heard = Heard()
    transport.watch(heard)
    transport.declare([f"{queue}.new"])  # nobody knew it: nothing is lost
    raw.ask(lambda channel, done: channel.queue_delete(queue, callback=done))
    assert transport.declare([queue]) == [True]
    heard.wait(Trouble(queue))


# ---- RabbitMQ: what it refuses


def test_a_queue_of_dead_letters_is_taken_as_it_is(rabbitmq_server: RabbitServer, workspace: str, raw: Raw) -> None:
    """On RabbitMQ 4 one is made with an argument that those of older versions do not have."""
    dead, arguments = names(workspace).dead_letters, {"x-queue-type": "quorum", "x-delivery-limit": 7}
    raw.ask(lambda channel, done: channel.queue_declare(dead, durable=True, arguments=arguments, callback=done))
    with closing(open_rabbitmq(rabbitmq_server.url(), workspace)) as transport:
        assert transport.depth(transport.dead_letters) == (0, 0)


def test_a_queue_with_other_arguments(transport: Transport, queue: str, raw: Raw) -> None:
    other = f"{queue}.classic"
    raw.ask(lambda channel, done: channel.queue_declare(other, durable=True, callback=done))
    with pytest.raises(TransportError, match=r"work\.classic.*other arguments.*inequivalent"):
        transport.declare([queue, other])
    assert transport.publish([event(queue)]) == [CONFIRMED]


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "\ud800"])
def test_names_that_no_queue_has(transport: Transport, name: str) -> None:
    with pytest.raises(TransportError, match="255"):
        transport.declare([name])
    if name:
        assert transport.publish([Message(name, name, name, b"{}")]) == [Published.RETURNED]
        transport.announce([Message(name, "i", "t", b"{}")])


def test_a_workspace_with_too_long_a_name(rabbitmq_server: RabbitServer) -> None:
    with pytest.raises(TransportError, match="shorter"):
        open_rabbitmq(rabbitmq_server.url(), "é" * 100)


def test_what_is_too_big_harms_nobody_else(transport: Transport, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    batch = [event(queue, 0), Message(queue, "huge", "t", bytes(16 * 1024 * 1024 + 1)), event(queue, 1)]
    assert transport.publish(batch) == [CONFIRMED, UNKNOWN, CONFIRMED]
    assert "huge" in caplog.text


def test_a_sink_that_waits_is_refused(transport: Transport, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    def publish(deliveries: Sequence[Delivery]) -> None:
        transport.publish([event(queue)])

    receiver = Receiver(publish)
    transport.subscribe(queue, 10, receiver)
    transport.publish([event(queue)])
    _until(lambda: "must not wait" in caplog.text)
    assert transport.publish([event(queue)]) == [CONFIRMED]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://u:{0}@{1}/", "amqp://"),
        ("amqp://u:{0}@{1}/a/b", "%2F"),
        ("amqp://u:{0}@{1}/?heartbeat=0", "not known"),
        ("amqp://u:{0}@{1}/?cacertfile=x", "amqps"),
        ("amqps://u:{0}@{1}/?cacertfile=/nowhere", "can't be loaded"),
        ("amqp://u:{0}@{1}99999/", "65535"),
        ("amqp://u:{0}@{1}/#x", "percent-encode"),
        ("amqp://u:s3cret/p@ss@{1}/", "percent-encode"),
        ("amqp://u:s3cret#p@ss@{1}/", "percent-encode"),
        ("amqp://u:s3cret?p@ss@{1}/", "percent-encode"),
        ("amqp://u:{0}@/", "no host"),
        ("amqp://u:s3cret", "65535"),
        ("amqp://u@{1}/", "no password"),
        ("amqp://u:{0}@[::1/", "can't be read"),
        ("amqp://u:{0}@{1}/" + "v" * 256, "255"),
        ("amqp://nobody:{0}@{1}/", "password"),
        ("amqp://guest:guest@{1}/nowhere", "virtual host"),
        ("amqps://u:{0}@{1}/", "can't connect"),
        ("amqp://u:{0}@{2}/", "broker running"),
        ("amqp://u:{0}@no-such-host.invalid/", "broker running"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(
    rabbitmq_server: RabbitServer, caplog: pytest.LogCaptureFixture, url: str, expected: str
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="pika")
    nobody = free_port(19_000, 20_000)
    with pytest.raises(TransportError, match=expected) as caught:
        open_rabbitmq(url.format("s3cret%2Fp%40ss", f"{HOST}:{rabbitmq_server.port}", f"{HOST}:{nobody}"), "w")
    assert caught.value.__cause__ is None
    for text in (str(caught.value), repr(caught.value), repr(caught.value.__context__), caplog.text):
        assert "s3cret" not in text
        assert "p@ss" not in text
        assert "p%40ss" not in text


def test_a_server_of_another_kind(caplog: pytest.LogCaptureFixture) -> None:
    import socket

    with socket.create_server((HOST, 0)) as listener:

        def answer() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    client, _ = listener.accept()
                    client.recv(100)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    client.close()

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        with pytest.raises(TransportError, match="handshake"):
            open_rabbitmq(f"amqp://{HOST}:{listener.getsockname()[1]}/", "w")
        listener.shutdown(socket.SHUT_RDWR)
        answering.join(20)


def test_without_pika(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("durable.backends.rabbitmq_", "pika"))]:
        if name != "durable.backends.rabbitmq_url":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pika", None)
    with pytest.raises(TransportError, match=r"needs the package pika: pip install.*\[rabbitmq\]"):
        open_rabbitmq("amqp://localhost/", "w")


# ---- RabbitMQ mistreated: a broker of our own, and short waits


@pytest.fixture(scope="module")
def frail() -> Iterator[RabbitServer]:
    need(missing_rabbitmq())
    server = RabbitServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jitter would make these tests last as long as it likes."""
    monkeypatch.setattr("durable.backends.rabbitmq_keeper.BACK_OFF", wait_fixed(0.2))


class Mistreated:
    """A transport on a queue, its receiver, and what its watcher heard."""

    def __init__(self, url: str, workspace: str, queue: str, patience: float = 10.0) -> None:
        self.queue = queue
        self.transport = RabbitTransport(parse_url(url), workspace, patience)
        self.transport.open()
        self.heard = Heard()
        self.transport.watch(self.heard)
        self.transport.declare([queue])
        self.receiver = Receiver()
        self.transport.subscribe(queue, 100, self.receiver)

    def publish(self, *numbers: object) -> list[Published]:
        return self.transport.publish([event(self.queue, number) for number in numbers])

    def publish_when_back(self, number: object) -> None:
        _until(lambda: self.publish(number) == [CONFIRMED])

    def close(self) -> None:
        self.transport.close()


@pytest.fixture
def mistreated(
    frail: RabbitServer, workspace: str, queue: str, _no_back_off: None
) -> Iterator[Callable[..., Mistreated]]:
    with ExitStack() as stack:

        def make(url: str = "", patience: float = 10.0) -> Mistreated:
            return stack.enter_context(closing(Mistreated(url or frail.url(), workspace, queue, patience)))

        yield make


def test_a_connection_that_is_cut(frail: RabbitServer, mistreated: Callable[..., Mistreated]) -> None:
    with closing(Proxy(frail.port)) as proxy:
        it = mistreated(frail.url(port=proxy.port))
        replies = Heard()
        address = it.transport.replies(replies.subjects)
        it.publish(0, 1)
        it.receiver.wait(2)
        proxy.cut()
        it.heard.wait(Trouble())
        old = it.receiver.tags
        deliveries = it.receiver.wait(4)[2:]
        it.transport.ack(old)  # of the session before: they settle nothing
        assert [(data(delivery), delivery.redelivered) for delivery in deliveries] == [(0, True), (1, True)]
        it.publish_when_back(2)
        assert it.receiver.data(5)[4] == 2
        it.transport.ack([delivery.tag for delivery in it.receiver.deliveries[2:4]])

        def replied() -> bool:
            it.transport.announce([event(address, subject="order 1")])
            return "order 1" in replies.all

        _until(replied)
        it.transport.close()
        with closing(open_rabbitmq(frail.url(), "other")) as other:
            receiver = Receiver()
            other.subscribe(it.queue, 10, receiver)
            assert receiver.data(1) == [2]
        assert it.heard.all == [Trouble()]


def _three_times(error: Exception, call: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    left = [error] * 3

    def failing(*args: Any, **options: Any) -> Any:
        if left and when(*args):
            raise left.pop()
        return call(*args, **options)

    return failing


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("durable.backends.rabbitmq_connection.IOLoop", OSError(errno.EMFILE, "Too many open files")),
        ("threading.Thread.start", RuntimeError("can't start new thread")),
        ("durable.backends.rabbitmq_keeper.Publisher", ZeroDivisionError("a bug before callers use the session")),
        ("durable.backends.rabbitmq_keeper.Consumer", ZeroDivisionError("a bug when callers use it already")),
    ],
)
def test_whatever_fails_while_it_connects_again_is_tried_again(
    frail: RabbitServer,
    mistreated: Callable[..., Mistreated],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: str,
    error: Exception,
) -> None:
    monkeypatch.setattr("durable.backends.rabbitmq_keeper.BUG_SECONDS", 0.1, raising=False)
    with closing(Proxy(frail.port)) as proxy:
        it = mistreated(frail.url(port=proxy.port))
        of_a_session = lambda *args: part != "threading.Thread.start" or args[0].name == "durable-rabbitmq"  # noqa: E731
        monkeypatch.setattr(part, _three_times(error, resolve_name(part), of_a_session))
        proxy.cut()
        it.publish_when_back(0)
        assert it.receiver.data(1) == [0]
    assert caplog.text.count(str(error)) >= 3
    bug = isinstance(error, ZeroDivisionError)
    assert ("Traceback" in caplog.text) is bug  # what may happen is said in a line


def test_a_queue_that_somebody_made_otherwise(
    frail: RabbitServer, mistreated: Callable[..., Mistreated], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Proxy(frail.port)) as proxy, closing(Raw(frail.url())) as raw:
        it = mistreated(frail.url(port=proxy.port))
        other = f"{it.queue}.other"
        it.transport.declare([other])
        raw.ask(lambda channel, done: channel.queue_delete(other, callback=done))
        raw.ask(lambda channel, done: channel.queue_declare(other, durable=True, callback=done))
        proxy.cut()
        it.publish_when_back(0)
        assert it.receiver.data(1) == [0]
        assert f"queue '{other}' is there with other arguments" in caplog.text


@pytest.mark.slow
def test_a_queue_that_may_not_be_made_again_for_a_while(
    frail: RabbitServer, mistreated: Callable[..., Mistreated], caplog: pytest.LogCaptureFixture
) -> None:
    frail.control("add_user", "poor", "poor")
    frail.control("set_permissions", "poor", ".*", ".*", ".*")
    it = mistreated(frail.url().replace("guest:guest", "poor:poor"))
    frail.control("set_permissions", "poor", "^$", ".*", ".*")
    frail.control("delete_queue", it.queue)
    _until(lambda: "the permission `configure`" in caplog.text)
    frail.control("set_permissions", "poor", ".*", ".*", ".*")
    it.publish_when_back(0)
    assert it.receiver.data(1) == [0]
    it.heard.wait(Trouble(it.queue))
    assert it.heard.all == [Trouble(it.queue)]
    assert caplog.text.count("the permission `configure`") < 8  # with pauses that grow


def test_a_queue_that_may_not_be_read_for_a_while_when_the_connection_is_back(
    frail: RabbitServer, mistreated: Callable[..., Mistreated], caplog: pytest.LogCaptureFixture
) -> None:
    frail.control("add_user", "blind", "blind")
    frail.control("set_permissions", "blind", ".*", ".*", ".*")
    with closing(Proxy(frail.port)) as proxy:
        it = mistreated(frail.url(port=proxy.port).replace("guest:guest", "blind:blind"))
        frail.control("set_permissions", "blind", ".*", ".*", "dead-letters$")
        proxy.cut()
        _until(lambda: "nothing is received from queue" in caplog.text)
        frail.control("set_permissions", "blind", ".*", ".*", ".*")
        it.publish_when_back(0)
        assert it.receiver.data(1) == [0]


def test_a_client_whose_reply_queue_is_refused_leaves_nothing_open(frail: RabbitServer, workspace: str) -> None:
    frail.control("add_user", "mute", "mute")
    frail.control("set_permissions", "mute", r"dead-letters$|lifecycle$", ".*", ".*")
    before = set(threading.enumerate())
    with pytest.raises(TransportError, match="403"):
        durable.connect("memory://x", events=frail.url().replace("guest:guest", "mute:mute"), workspace=workspace)
    assert [thread.name for thread in set(threading.enumerate()) - before if "rabbitmq" in thread.name] == []


def test_a_broker_that_is_too_slow_to_make_a_lost_queue_again(
    frail: RabbitServer,
    mistreated: Callable[..., Mistreated],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = mistreated()
    replies = Heard()
    address = it.transport.replies(replies.subjects)
    slow = NoAnswer("no answer in 10 s")
    monkeypatch.setattr(Topology, "declare", _three_times(slow, Topology.declare, lambda *_: True))
    monkeypatch.setattr(Topology, "declare_replies", _three_times(slow, Topology.declare_replies, lambda *_: True))
    frail.control("delete_queue", it.queue)
    frail.control("delete_queue", address)
    it.heard.wait(Trouble(it.queue))
    it.publish_when_back(0)
    assert it.receiver.data(1) == [0]

    def replied() -> bool:
        it.transport.announce([event(address, subject="order 1")])
        return "order 1" in replies.all

    _until(replied)
    assert it.heard.all == [Trouble(it.queue)]
    assert caplog.text.count(str(slow)) == 6


@pytest.mark.slow
def test_a_lost_queue_that_nobody_wants_any_more_is_not_made_again(
    frail: RabbitServer,
    mistreated: Callable[..., Mistreated],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("durable.backends.rabbitmq_keeper.PUT_OFF_SECONDS", (0.05, 0.05))
    frail.control("add_user", "former", "former")
    frail.control("set_permissions", "former", ".*", ".*", ".*")
    it = mistreated(frail.url().replace("guest:guest", "former:former"))
    other = f"{it.queue}.other"
    receiver = Receiver()
    it.transport.declare([other])
    it.transport.subscribe(other, 10, receiver)
    frail.control("set_permissions", "former", "^$", ".*", ".*")
    frail.control("delete_queue", it.queue)
    _until(lambda: "the permission `configure`" in caplog.text)
    it.transport.unsubscribe(it.queue)
    frail.control("set_permissions", "former", ".*", ".*", ".*")
    frail.control("delete_queue", other)
    it.heard.wait(Trouble(other))
    assert it.heard.all == [Trouble(other)]
    assert it.transport.depth(it.queue) is None


def test_a_broker_that_is_killed(frail: RabbitServer, mistreated: Callable[..., Mistreated]) -> None:
    it = mistreated()
    assert it.publish(0, 1, 2) == [CONFIRMED] * 3
    it.receiver.wait(3)
    it.transport.ack(it.receiver.tags[:1])
    _until(lambda: frail.knows_queue(it.queue))
    frail.kill()
    it.heard.wait(Trouble())
    assert it.publish("nobody there") == [UNKNOWN]
    it.transport.ack(it.receiver.tags)  # of a connection that is gone
    frail.start()
    assert {data(delivery) for delivery in it.receiver.wait(5)[3:]} >= {1, 2}
    it.publish_when_back("back")
    _until(lambda: data(it.receiver.deliveries[-1]) == "back")
    assert set(it.heard.all) == {Trouble()}


def test_who_wants_queues_of_a_broker_that_is_away_need_not_wait(
    frail: RabbitServer, mistreated: Callable[..., Mistreated]
) -> None:
    with closing(Proxy(frail.port)) as proxy:
        it = mistreated(frail.url(port=proxy.port))
        proxy.refuse()
        it.heard.wait(Trouble())
        begun = monotonic()
        with pytest.raises(TransportError, match="no connection"):
            it.transport.declare([it.queue])
        assert monotonic() - begun < ANSWER_SECONDS / 2


@pytest.mark.slow
def test_a_queue_that_the_crash_of_its_broker_broke(
    frail: RabbitServer, mistreated: Callable[..., Mistreated], caplog: pytest.LogCaptureFixture
) -> None:
    it = mistreated(patience=1.5)
    late = [f"{it.queue}.{number}" for number in range(3)]
    receivers = [Receiver() for _ in late]
    for queue, receiver in zip(late, receivers, strict=True):
        it.transport.declare([queue])
        it.transport.subscribe(queue, 10, receiver)
    frail.kill()  # before the broker has written down that there is the last one
    assert not frail.knows_queue(late[-1])
    frail.start()
    it.heard.wait(Trouble(late[-1]))
    assert "answers no more" in caplog.text
    for queue, receiver in zip(late, receivers, strict=True):
        _until(lambda queue=queue: it.transport.publish([event(queue, "again")]) == [CONFIRMED])  # type: ignore[misc]
        assert receiver.data(1) == ["again"]


def test_a_queue_that_breaks_the_connection_of_whoever_subscribes(
    frail: RabbitServer, mistreated: Callable[..., Mistreated], caplog: pytest.LogCaptureFixture
) -> None:
    """As seen after a crash of the broker: 541 INTERNAL_ERROR, which ends the whole connection."""
    it = mistreated()
    broken = f"{it.queue}.broken"
    receiver = Receiver()
    it.transport.declare([broken])
    _until(lambda: frail.knows_queue(broken))
    frail.control("eval", f"ra:stop_server(quorum_queues, {{'%2F_{broken}', node()}}).")
    it.transport.subscribe(broken, 10, receiver)
    it.heard.wait(Trouble(broken))
    assert "answers no more" in caplog.text
    _until(lambda: it.transport.publish([event(broken, "again")]) == [CONFIRMED])
    assert receiver.data(1) == ["again"]
    it.publish_when_back("here")
    assert it.receiver.data(1) == ["here"]
    assert Trouble(it.queue) not in it.heard.all, "the healthy one is left alone"


def test_a_memory_alarm(frail: RabbitServer, mistreated: Callable[..., Mistreated]) -> None:
    it = mistreated()
    it.publish(0)
    it.receiver.wait(1)
    frail.control("set_vm_memory_high_watermark", "0.00001")
    try:
        assert it.publish(1) == [UNKNOWN]
        assert it.publish(2) == [UNKNOWN]
        it.transport.announce([event("nobody")])
        it.transport.ack(it.receiver.tags)  # gets through: receiving has a connection of its own
        assert it.transport.declare([it.queue]) == [False]
    finally:
        frail.control("set_vm_memory_high_watermark", "absolute", "1GB")
    it.publish_when_back("back")
    _until(lambda: data(it.receiver.deliveries[-1]) == "back")
    assert it.heard.all == []


def test_a_broker_that_freezes(
    frail: RabbitServer, mistreated: Callable[..., Mistreated], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.backends.rabbitmq_publishing.CONFIRM_SECONDS", 0.5)
    it = mistreated()
    frail.pause()
    try:
        _until(lambda: it.publish(0) == [UNKNOWN])  # it takes a moment to freeze
    finally:
        frail.resume()
    it.publish_when_back("back")
    _until(lambda: "back" in map(data, it.receiver.deliveries))
    frail.pause()
    try:
        it.transport.close()  # does not wait for a goodbye
    finally:
        frail.resume()


def test_close_is_quick_and_final(
    frail: RabbitServer, mistreated: Callable[..., Mistreated], caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    it = mistreated()
    it.publish(*range(50))
    started = monotonic()
    it.transport.close()
    assert monotonic() - started < 1
    assert [thread.name for thread in set(threading.enumerate()) - before if "rabbitmq" in thread.name] == []
    seen = len(it.receiver.deliveries)
    with closing(open_rabbitmq(frail.url(), "other")) as other:
        receiver = Receiver()
        other.subscribe(it.queue, 100, receiver)
        receiver.wait(50)
    assert len(it.receiver.deliveries) == seen
    assert it.heard.all == []
    assert caplog.text == ""
