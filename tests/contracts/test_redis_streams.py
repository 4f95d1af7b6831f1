"""The public contract of transports on Redis Streams, and what only they have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import pytest
import redis

from durable.backends.redis_backend import open_streams
from durable.backends.redis_connection import Answers, Pool
from durable.model.errors import TransportError
from durable.ports import Published, Transport, Trouble
from durable.testing.transport_contract import Heard, Receiver, TransportContract, data, event, events
from tests.servers.process import HOST
from tests.servers.proxy import Proxy
from tests.servers.redis_place import raw
from tests.servers.redis_server import RedisServer


class TestRedisStreams(TransportContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.server = redis_server

    def open_transport(self, workspace: str) -> Transport:
        return open_streams(self.server.url, workspace)

    def delete_queue(self, queue: str) -> None:
        assert raw(self.server.port, ("DEL", f"durable:{{{queue}}}:stream")) == 1


@pytest.fixture
def workspace() -> str:
    return uuid4().hex[:8]


@pytest.fixture
def queue(workspace: str) -> str:
    return f"durable.{workspace}.work"


@pytest.fixture
def opening(redis_server: RedisServer, workspace: str, after: ExitStack) -> Callable[..., Transport]:
    """Opens transports, by another way with `port`; closed when the test ends."""
    return lambda port=None: after.enter_context(
        closing(open_streams(f"redis://{HOST}:{port or redis_server.port}", workspace))
    )


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as server:
        yield server


def stream(queue: str) -> str:
    return f"durable:{{{queue}}}:stream"


def test_acknowledged_is_deleted(opening: Callable[..., Transport], queue: str, server: redis.Redis) -> None:
    transport = opening()
    transport.declare([queue])
    receiver = Receiver(lambda deliveries: transport.ack([delivery.tag for delivery in deliveries]))
    transport.subscribe(queue, 100, receiver)
    transport.publish(events(queue, 500))
    receiver.wait(500)
    transport.close()
    assert server.xlen(stream(queue)) == 0
    assert server.xinfo_consumers(stream(queue), "durable") == []


def test_what_is_done_with_in_part_stays_nowhere(
    opening: Callable[..., Transport], queue: str, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of deleting and acknowledging only the first has arrived."""
    send = Pool.send

    def send_first(pool: Pool, commands: Sequence[bytes]) -> Callable[[], Answers]:
        return send(pool, commands[:1] if any(b"\r\nXDEL\r\n" in one for one in commands) else commands)

    monkeypatch.setattr(Pool, "send", send_first)
    transport = opening()
    transport.declare([queue])
    receiver = Receiver()
    transport.subscribe(queue, 10, receiver)
    transport.publish(events(queue, 3))
    receiver.wait(3)
    transport.ack(receiver.tags)
    transport.close()
    assert server.xlen(stream(queue)) == 0
    assert server.xinfo_consumers(stream(queue), "durable") == []


def test_a_message_of_many_fields_comes_again(
    opening: Callable[..., Transport], queue: str, server: redis.Redis
) -> None:
    """More than Lua puts on its stack at once: from somebody else, for ours have one. The event is what comes."""
    transport = opening()
    transport.declare([queue])
    transport.publish(events(queue, 1))
    found: Any = server.xrange(stream(queue))
    server.xtrim(stream(queue), maxlen=0)
    server.xadd(stream(queue), {**found[0][1], **{f"f{n}": n for n in range(9_000)}})
    first, again = Receiver(), Receiver()
    transport.subscribe(queue, 10, first)
    first.wait(1)
    transport.unsubscribe(queue, give_back=True)
    transport.subscribe(queue, 10, again)
    assert again.data(1) == [0]
    kept: Any = server.xrange(stream(queue))
    assert sorted(kept[0][1]) == [b"event", b"returns"]


def test_who_is_cut_off_loses_what_he_holds_to_others(
    opening: Callable[..., Transport], queue: str, redis_server: RedisServer, after: ExitStack
) -> None:
    wire = Proxy(redis_server.port)
    after.callback(wire.close)
    lost, here = opening(wire.port), opening()
    here.declare([queue])
    mine, theirs = Receiver(), Receiver()
    lost.subscribe(queue, 10, mine)
    here.publish(events(queue, 3))
    mine.wait(3)
    wire.close()
    here.subscribe(queue, 10, theirs)
    assert theirs.data(3) == [0, 1, 2]
    assert all(delivery.redelivered for delivery in theirs.deliveries)


def test_a_lost_connection_is_told_and_made_again(
    opening: Callable[..., Transport], queue: str, redis_server: RedisServer, after: ExitStack
) -> None:
    wire = Proxy(redis_server.port)
    after.callback(wire.close)
    transport, heard, receiver = opening(wire.port), Heard(), Receiver()
    transport.watch(heard)
    transport.declare([queue])
    transport.subscribe(queue, 10, receiver)
    transport.publish(events(queue, 2))
    receiver.wait(2)
    wire.cut()
    heard.wait(Trouble())
    assert receiver.data(4)[2:] == [0, 1]
    assert [delivery.redelivered for delivery in receiver.deliveries] == [False, False, True, True]
    transport.ack(receiver.tags[:2])  # of the lost session: ignored
    transport.ack(receiver.tags[2:])
    transport.publish([event(queue, "next")])
    assert receiver.data(5)[4] == "next"


def test_connections_that_break_all_the_time_leave_nothing_behind(
    opening: Callable[..., Transport], queue: str, redis_server: RedisServer, after: ExitStack, server: redis.Redis
) -> None:
    wire = Proxy(redis_server.port)
    after.callback(wire.close)
    transport, there = opening(wire.port), opening()
    receiver = Receiver(lambda deliveries: transport.ack([delivery.tag for delivery in deliveries]))
    transport.declare([queue])
    transport.subscribe(queue, 20, receiver)
    for number in range(10):
        there.publish(events(queue, 20, 20 * number))
        receiver.wait(20 * number + 5)
        wire.cut()
    _until(lambda: {data(delivery) for delivery in receiver.deliveries} == set(range(200)))
    _until(lambda: server.xlen(stream(queue)) == 0)
    _until(lambda: len(server.xinfo_consumers(stream(queue), "durable")) == 1)


def test_publishing_without_a_server_is_no_error(queue: str, workspace: str, own_server: RedisServer) -> None:
    with closing(open_streams(own_server.url, workspace)) as transport:
        transport.declare([queue])
        receiver = Receiver()
        transport.subscribe(queue, 10, receiver)
        own_server.kill()
        assert transport.publish(events(queue, 2)) == [Published.UNKNOWN] * 2
        transport.announce([event("flow")])
        with pytest.raises(TransportError, match=f"{HOST}:{own_server.port}.*is it up"):
            transport.declare([queue])
        own_server.start()
        _until(lambda: transport.publish([event(queue, "back")]) == [Published.CONFIRMED])
        assert receiver.data(1) == ["back"]


def test_others_can_work_on_a_queue(opening: Callable[..., Transport], queue: str, server: redis.Redis) -> None:
    """A program of somebody else's, with a name of its own: what it holds is not taken for that of a dead one."""
    transport, receiver = opening(), Receiver()
    transport.declare([queue])
    transport.publish(events(queue, 1))
    came: Any = server.xreadgroup("durable", "somebody", {stream(queue): ">"}, count=1)
    [[_, [[taken, _]]]] = came
    assert transport.depth(queue) == (0, 1)
    transport.subscribe(queue, 10, receiver)
    server.xadd(stream(queue), {"more": "1", "event": event(queue, "theirs").body})
    assert receiver.data(1) == ["theirs"]
    assert server.xack(stream(queue), "durable", taken) == 1


def test_a_long_queue_does_not_hold_up_another(opening: Callable[..., Transport], queue: str) -> None:
    transport, short = opening(), f"{queue}.short"
    transport.declare([queue, short])
    transport.publish(events(queue, 20_000))
    busy, other = Receiver(lambda deliveries: transport.ack([d.tag for d in deliveries])), Receiver()
    transport.subscribe(short, 10, other)
    transport.subscribe(queue, 50, busy)
    busy.wait(100)
    transport.publish([event(short, "in between")])
    assert other.data(1) == ["in between"]
    assert len(busy.deliveries) < 20_000


def test_lifecycle_events_are_kept_for_a_while(
    opening: Callable[..., Transport], workspace: str, server: redis.Redis
) -> None:
    transport, key = opening(), stream(f"durable.{workspace}.lifecycle")
    for _ in range(12):
        transport.announce(events("flow.started", 1_000))
    transport.announce([event("flow.ended", "last")])
    _until(lambda: server.xrevrange(key, count=1)[0][1][b"key"] == b"flow.ended")  # type: ignore[index]
    assert 10_000 <= int(str(server.xlen(key))) < 10_500


def test_a_user_without_the_right_to_streams(redis_server: RedisServer, workspace: str) -> None:
    raw(redis_server.port, ("ACL", "SETUSER", workspace, "on", ">x", "~*", "&*", "+@all", "-xadd"))
    with pytest.raises(TransportError, match="does not let this user"):
        open_streams(f"redis://{workspace}:x@{HOST}:{redis_server.port}", workspace)


def test_a_key_of_somebody_elses(opening: Callable[..., Transport], queue: str, server: redis.Redis) -> None:
    server.set(stream(queue), "mine")
    with pytest.raises(TransportError, match=r"prefix="):
        opening().declare([queue])


@pytest.mark.parametrize("name", ["\ud800", "a}b", "x" * 5_000])
def test_any_name_will_do(opening: Callable[..., Transport], workspace: str, name: str) -> None:
    transport, receiver = opening(), Receiver()
    queue = f"{workspace}{name}"
    assert transport.publish([event(queue)]) == [Published.RETURNED]
    assert transport.declare([queue]) == [True]
    transport.subscribe(queue, 1, receiver)
    assert transport.publish([event(queue, 1)]) == [Published.CONFIRMED]
    assert receiver.data(1) == [1]
    with pytest.raises(TransportError, match="name"):
        transport.declare([""])


def _until(condition: Callable[[], bool]) -> None:
    never = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        never.wait(0.02)
    raise AssertionError("not within 20 s")
