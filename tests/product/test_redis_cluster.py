"""Many workers on a Redis Cluster whose slots move and whose masters die while orchestrations run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

import durable
from tests.product.shared_work import LEDGER, app
from tests.product.test_many_workers import Place, places
from tests.servers.process import HOST
from tests.servers.redis_cluster import RedisCluster
from tests.waiting import until

LONG = 60  # seconds: a replica takes over within two or three, and everybody waits for it


@pytest.fixture
def place(redis_cluster: RedisCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A workspace with two workers, whose activities travel."""
    monkeypatch.chdir(tmp_path)
    for place in places(redis_cluster, None, tmp_path, None):
        place.serve("here", eager_activities=False)
        place.process("work")
        yield place


class Load:
    """Starts orchestrations, one after the other, until it is checked that each has ended as it must."""

    def __init__(self, place: Place) -> None:
        self.started = 0
        self.doubts = 0
        self._place = place
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._start, daemon=True)
        self._thread.start()
        place.closing.callback(self._enough.set)

    def _start(self) -> None:
        while not self._enough.is_set():
            try:
                self._place.start("steps", self.started, instance_id=f"i{self.started}", if_exists="return")
                self.started += 1
            except durable.StoreError:
                self.doubts += 1  # it may have begun: asked again, by its id

    def more(self, count: int) -> Callable[[], bool]:
        """Whether so many more than now have been started."""
        wanted = self.started + count
        return lambda: self.started >= wanted

    def check(self) -> None:
        self._enough.set()
        self._thread.join(LONG)
        handles = [self._place.client.handle(f"i{number}") for number in range(self.started)]
        assert [handle.result(LONG) for handle in handles] == [number + 4 for number in range(self.started)]
        for handle in handles[:: max(1, len(handles) // 20)]:
            types = [event.type for event in self._place.client.history(handle.instance_id)]
            assert (types.count("TaskScheduled"), types.count("TaskCompleted")) == (4, 4)
        assert len(set((self._place.folder / LEDGER).read_text().split())) == 4 * self.started


def test_slots_move_while_orchestrations_run(place: Place, redis_cluster: RedisCluster) -> None:
    load = Load(place)
    until(load.more(50), "some are running", LONG)
    common = f"durable:{{{place.workspace}}}:"
    for key in (
        f"{common}members",
        f"{common}durable.{place.workspace}.work.default:stream",
        *(f"durable:{{{place.workspace}:{partition}}}:rows" for partition in range(4)),
    ):
        for _ in range(2):
            move(redis_cluster, key.encode())
    load.check()
    assert load.doubts == 0


def move(cluster: RedisCluster, key: bytes) -> None:
    """The slot of this key to another node, the key first; it ends when somebody has asked for what is on its way."""
    slot = key_slot(key)
    owner = cluster.owner_of(slot)
    target = next(node for node in cluster.masters() if node is not owner)
    refused = cluster.refusals(owner)
    cluster.begin_move(slot, target)
    cluster.move_keys(owner, target, key)
    until(lambda: cluster.refusals(owner) > refused, "somebody wants what is on its way", LONG)
    cluster.end_move(slot, owner, target)


def test_a_master_is_killed_while_orchestrations_run(place: Place, redis_cluster: RedisCluster) -> None:
    load = Load(place)
    until(load.more(50), "some are running", LONG)
    dead = redis_cluster.owner_of(key_slot(b"{%s}" % place.workspace.encode()))  # events and members are there too
    dead.kill()
    until(load.more(50), "another has taken over", LONG)
    dead.start()
    until(redis_cluster.well, "the cluster is well", LONG)
    load.check()


def test_a_cluster_named_as_the_broker_by_several_nodes(place: Place, redis_cluster: RedisCluster) -> None:
    nodes = [f"{HOST}:{node.port}" for node in redis_cluster.nodes]
    events, reverse = (f"redis+cluster://{','.join(names)}" for names in (nodes, nodes[::-1]))
    with (
        durable.connect(place.url, events=events, workspace=f"{place.workspace}.named") as client,
        durable.Worker(client, registry=app("me"), shutdown_grace=0),
    ):
        with (
            durable.connect(place.url, events=reverse, workspace=f"{place.workspace}.named") as same,
            durable.connect(place.url, events=f"{events}?prefix=x", workspace=f"{place.workspace}.named") as other,
        ):
            assert client.events_at == same.events_at
            assert client.events_at != other.events_at
        assert client.start_orchestration("steps", 1).result(LONG) == 5
