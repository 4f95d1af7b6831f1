"""Many workers where there is nothing but a Redis: `DURABLE_URL=redis://...`, and no broker."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import durable
from tests.product.shared_work import LEDGER
from tests.product.test_many_workers import Place, places
from tests.servers.redis_server import RedisServer
from tests.waiting import SOON, until


@pytest.fixture
def place(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    yield from places(redis_server, None, tmp_path, 2)


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as server:
        yield server


def stream(place: Place, queue: str) -> str:
    return f"durable:{{durable.{place.workspace}.{queue}}}:stream"


def travelled(place: Place, server: redis.Redis, queue: str) -> bool:
    """Whether anything was ever sent to it."""
    found: Any = server.xinfo_stream(stream(place, queue))
    return bool(found["last-generated-id"] != b"0-0")


def left(place: Place, server: redis.Redis) -> dict[str, tuple[int, int]]:
    """Of each stream that is not empty, or that somebody receives from: its length and its consumers."""
    found = {}
    for key in server.scan_iter(stream(place, "*")):
        consumers: list[object] = server.xinfo_consumers(key, "durable")  # type: ignore[assignment]  # redis-py's union
        length: int = server.xlen(key)
        if length or consumers:
            found[key.decode()] = (length, len(consumers))
    return found


def test_an_activity_runs_where_its_queue_is_served(place: Place, server: redis.Redis) -> None:
    plain = place.serve("plain")
    special = place.process("work", "gpu")
    handles = place.client.start_many("both", range(10))
    assert [handle.result(SOON) for handle in handles] == [["plain", f"{n} by {special.pid}"] for n in range(10)]
    special.send_signal(signal.SIGTERM)
    assert special.wait(SOON) == 0
    plain.stop()
    assert left(place, server) == {}


def test_every_activity_can_travel(place: Place, server: redis.Redis) -> None:
    workers = [place.serve("1", eager_activities=False), place.serve("2", eager_activities=False)]
    handles = place.client.start_many("steps", range(50))
    assert [handle.result(SOON) for handle in handles] == [number + 4 for number in range(50)]
    assert len(set((place.folder / LEDGER).read_text().split())) == 200
    for worker in workers:
        worker.stop()
    assert left(place, server) == {}


def test_by_default_a_worker_runs_its_own_activities_and_announces_nothing(place: Place, server: redis.Redis) -> None:
    place.serve("plain")
    assert place.run("step", "who") == "plain"
    assert travelled(place, server, "work.default") is False
    assert server.exists(stream(place, "lifecycle")) == 0


def test_a_redis_named_as_the_broker_is_one_like_any_other(
    redis_server: RedisServer, server: redis.Redis, tmp_path: Path
) -> None:
    for place in places(redis_server, redis_server.url, tmp_path, 2):
        place.serve("plain")
        assert place.run("step", "who") == "plain"
        assert travelled(place, server, "work.default")
        entries: Any = server.xrange(stream(place, "lifecycle"))
        assert [fields[b"key"] for _, fields in entries] == [b"started.RUNNING.step", b"ended.COMPLETED.step"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_the_activities_of_the_killed_and_the_frozen_run_elsewhere(place: Place, end: signal.Signals) -> None:
    """Their consumer beats no more; who serves the queue gives back what it held."""
    place.serve("plain")
    lost = place.process("work", "gpu")
    handles = place.client.start_many("step", [["hold", "gpu", number] for number in range(4)])
    ledger = place.folder / LEDGER
    until(lambda: ledger.exists() and ledger.read_text().split() == [str(lost.pid)] * 4)
    lost.send_signal(end)
    place.serve("survivor", queues=["gpu"])
    until(lambda: ledger.read_text().split()[4:] == ["survivor"] * 4)
    (place.folder / "go").touch()
    assert [handle.result(SOON) for handle in handles] == [f"{number} by survivor" for number in range(4)]


def test_a_redis_that_comes_back_finds_everybody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = RedisServer()
    server.start()
    try:
        for place in places(server, None, tmp_path, 2):
            place.serve("plain", eager_activities=False)
            place.serve("special", queues=["gpu"])
            gates = place.client.start_many("gate", [None] * 5)
            place.signed(gates)
            server.kill()
            server.start()
            place.open(gates)
            assert place.run("step", "train", "gpu", 7) == "7 by special"
            assert place.run("step", "who") == "plain"
    finally:
        server.close()


def test_the_doctor_sees_dead_letters(place: Place, server: redis.Redis) -> None:
    place.serve("plain")
    server.xadd(stream(place, "work.default"), {"event": "not one"})
    until(lambda: any("dead-letters" in finding.what for finding in place.client.diagnose().findings))
    assert place.run("step", "who") == "plain"


def test_what_the_sdk_refuses_of_an_event_source_is_text_in_a_dead_letter(place: Place, server: redis.Redis) -> None:
    """A name in capitals: whoever looked at events, of the SDK's class, could never look again."""
    client, name = place.client, f"brought-{place.workspace}"
    client.add_event_source("brought", f"{place.url.partition('?')[0]}?stream={name}")
    client.keep_unmatched_events()
    client.add_trigger("fits", on=durable.EventPattern("fits"), action="nosuch", transient=False)
    for number, kind in enumerate(("fits", "unmatched", "fine")):
        event = {"specversion": "1.0", "id": str(number), "source": "/a", "type": kind}
        server.xadd(name, {"event": json.dumps(event | ({} if kind == "fine" else {"Colour": "red"}))})
    place.serve("plain")
    until(lambda: len(client.dead_letters().items) == 2 and client.unmatched_events())
    assert [one.get_id() for one in client.unmatched_events()] == ["2"]
    letters = {one.trigger_id: one for one in client.dead_letters()}
    assert {trigger_id: "Colour" in str(letter.event) for trigger_id, letter in letters.items()} == {
        "": True,
        "fits": True,
    }
    assert all(isinstance(letter.event, str) for letter in letters.values())
    client.delete_dead_letter(letters["fits"].id)
    server.delete(name)
