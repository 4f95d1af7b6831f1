"""The public contracts on a Redis Cluster of three masters, and its own laws: slots that move, masters that die."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from redis.crc import key_slot

from durable.backends import redis_cluster as cluster_module
from durable.backends.redis_backend import open_redis, open_streams
from durable.backends.redis_connection import Pool
from durable.backends.redis_url import parse_url
from durable.model.errors import StoreError, TransportError
from durable.ports import (
    STATUS,
    Backend,
    Beat,
    ExecutionKey,
    Outcome,
    Published,
    Query,
    RowKey,
    Transport,
    Trouble,
    Want,
)
from durable.testing.store_machine import check_store
from durable.testing.store_samples import events, fact, loaded, turn, work
from durable.testing.transport_contract import Heard as Signs
from durable.testing.transport_contract import Receiver, TransportContract
from durable.testing.transport_contract import events as messages
from tests.conftest import need

# These ask `open_here` for a store, which is one on the cluster here.
from tests.contracts.test_redis import (  # noqa: F401
    TestRedis,
    TestSignalsOfOthers,
    test_a_listing_over_partitions_is_the_reference,
    test_everybody_sees_everybody,
    test_from_many_threads,
    test_verbs_answer_in_order_over_partitions,
)
from tests.contracts.test_redis_signals import test_who_listens_first_is_told  # noqa: F401
from tests.servers.certificate import Certificate
from tests.servers.process import HOST, free_port
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_place import Heard, Opener, raw, spread
from tests.servers.redis_server import RedisServer, missing_redis
from tests.waiting import SOON, until

SECRET = "pa55w0rd"
COMMITTED, UNKNOWN = Outcome.COMMITTED, Outcome.UNKNOWN


@pytest.fixture
def open_here(redis_cluster: RedisCluster, prefix: str, after: ExitStack) -> Opener:
    """Open a workspace of this test's own on the cluster, which has a slot for each workspace and partition."""

    def opening(workspace: str = "w", parameters: str = "") -> Backend:
        backend = open_redis(f"{redis_cluster.url}?prefix={prefix}{parameters}", f"{prefix}.{workspace}")
        after.callback(backend.close)
        return backend

    return opening


class TestStreams(TransportContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, redis_cluster: RedisCluster) -> None:
        self.cluster = redis_cluster

    def open_transport(self, workspace: str) -> Transport:
        return open_streams(self.cluster.url, workspace)

    def delete_queue(self, queue: str) -> None:
        key = f"durable:{{{queue.split('.')[1]}}}:{queue}:stream"
        assert self.cluster.say(self.cluster.owner_of(key_slot(key.encode())), "DEL", key) == 1


@pytest.mark.slow
def test_the_cluster_is_the_reference(open_here: Opener) -> None:
    check_store(lambda: open_here(uuid4().hex, "&partitions=1").store, examples=40)


# Slots that move.


def test_a_partition_whose_slot_moves_waits_and_is_never_written_in_half(
    open_here: Opener, redis_cluster: RedisCluster, prefix: str
) -> None:
    store = open_here(parameters="&partitions=1").store
    names = [f"i{n}" for n in range(20)]
    assert (
        store.commit([turn(i, 0, events(i, 0, i.encode()), put=[work(f"k{i}", i)]) for i in names]) == [COMMITTED] * 20
    )
    base = b"%s:{%s.w:0}:" % (prefix.encode(), prefix.encode())
    slot = key_slot(base)
    target = next(node for node in redis_cluster.masters() if node is not redis_cluster.owner_of(slot))
    source = redis_cluster.begin_move(slot, target)
    redis_cluster.move_keys(source, target, base + b"instances", base + b"h:x/i3")
    # One key is here or there.
    assert [s and s.instance_id for s in store.summaries([*names, "none"])] == [*names, None]
    assert store.input_of([ExecutionKey(i, f"x/{i}") for i in names]) == [i.encode() for i in names]
    # A script needs all of them.
    asks = redis_cluster.refusals(source)
    with ThreadPoolExecutor(1) as thread:
        commit = turn("i3", 1, events("i3", 1), drop=["ki3"], put=[work("l", "i3")])
        asked = thread.submit(lambda: (store.commit([commit, turn("new", 0)]), store.deliver([fact("i3", "f")])))
        until(lambda: redis_cluster.refusals(source) >= asks + 10, "refused five times", 20)
        assert not asked.done()
        assert keys_of(redis_cluster, target, slot) == {base + b"instances", base + b"h:x/i3"}
        redis_cluster.end_move(slot, source, target)
        assert asked.result(20)[0] == [COMMITTED, COMMITTED]
    record = loaded(store, "i3")
    assert (record.version, record.commit_id, len(record.inbox)) == (2, commit.id, 1)
    assert [row and row.key for row in store.rows([RowKey(0, "ki3"), RowKey(0, "l"), RowKey(0, "ki4")])] == [
        None,
        "l",
        "ki4",
    ]
    assert len(store.find(Query()).items) == 21
    assert keys_of(redis_cluster, source, slot) == set()


def keys_of(cluster: RedisCluster, node: RedisServer, slot: int) -> set[bytes]:
    return set(cluster.say(node, "CLUSTER", "GETKEYSINSLOT", slot, 1_000))


def test_a_move_that_does_not_end_is_told(
    open_here: Opener, redis_cluster: RedisCluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_here(parameters="&partitions=1").store
    store.commit([turn("a", 0)])
    slot = key_slot(b"{%s.w:0}" % prefix.encode())
    target = next(node for node in redis_cluster.masters() if node is not redis_cluster.owner_of(slot))
    source = redis_cluster.begin_move(slot, target)
    monkeypatch.setattr(cluster_module, "PATIENCE_SECONDS", 0.1)
    for ask in (lambda: store.commit([turn("a", 1)]), lambda: store.load([Want("a")])):
        with pytest.raises(StoreError, match=f"Redis Cluster at {HOST}:{source.port} is giving these keys to another"):
            ask()
    redis_cluster.end_move(slot, source, target)
    monkeypatch.undo()
    assert store.commit([turn("a", 1)]) == [COMMITTED]


def test_streams_go_on_when_their_slot_has_moved(redis_cluster: RedisCluster, after: ExitStack) -> None:
    workspace = uuid4().hex
    transport, receiver, heard = open_streams(redis_cluster.url, workspace), Receiver(), Signs()
    after.callback(transport.close)
    transport.watch(heard)
    transport.declare(["q", "r"])
    transport.subscribe("q", 100, receiver)
    transport.subscribe("r", 100, receiver)
    transport.publish(messages("q", 3))
    transport.ack([delivery.tag for delivery in receiver.wait(3)])
    slot = key_slot(b"{%s}" % workspace.encode())
    target = next(node for node in redis_cluster.masters() if node is not redis_cluster.owner_of(slot))
    source = redis_cluster.begin_move(slot, target)
    redis_cluster.end_move(slot, source, target)
    heard.wait(Trouble())
    assert transport.publish([*messages("q", 1, 3), *messages("r", 1, 4)]) == [Published.CONFIRMED] * 2
    assert set(receiver.data(5)[3:]) == {3, 4}


# Masters that die.


def test_a_master_that_is_killed(open_here: Opener, redis_cluster: RedisCluster, prefix: str) -> None:
    one, two = open_here(), open_here()
    heard = Heard()
    one.signals.listen(STATUS, heard)
    [dead] = [node for node in redis_cluster.nodes if redis_cluster.say(node, "PUBSUB", "CHANNELS", f"{prefix}:*")]
    batch = [spread(turn(f"i{n}", 0, events(f"i{n}", 0), put=[work(f"k{n}", f"i{n}")])) for n in range(64)]
    theirs = [redis_cluster.owner_of(key_slot(b"{%s.w:%d}" % (prefix.encode(), c.partition))) is dead for c in batch]
    assert 0 < sum(theirs) < 64
    dead.pause()
    finish = one.store.begin(batch)
    dead.kill()
    assert finish() == [UNKNOWN if lost else COMMITTED for lost in theirs]
    assert one.store.commit(batch) == [COMMITTED] * 64  # a replica has taken over, which has no scripts yet
    assert {loaded(two.store, commit.instance_id).version for commit in batch} == {1}
    assert heard.wait_for(None)
    two.signals.notify(STATUS, ["a"])
    assert heard.wait_for("a")
    told = [spread(turn(f"told{n}", 0, tells=True)) for n in range(9)]  # from every node
    assert two.store.commit(told) == [COMMITTED] * 9
    assert all(heard.wait_for(commit.instance_id) for commit in told)
    assert [beat.incarnation for beat in two.membership.beat(Beat("w"))] == ["w"]
    dead.start()
    until(redis_cluster.well, "the cluster is well", 60)
    assert one.store.commit([spread(turn(f"i{n}", 1, events(f"i{n}", 1))) for n in range(64)]) == [COMMITTED] * 64


def test_a_master_that_is_frozen(open_here: Opener, redis_cluster: RedisCluster, prefix: str) -> None:
    store = open_here(parameters="&partitions=1&socket_timeout=0.2").store
    assert store.commit([turn("a", 0)]) == [COMMITTED]
    frozen = redis_cluster.owner_of(key_slot(b"{%s.w:0}" % prefix.encode()))
    commit = turn("a", 1, events("a", 1))
    frozen.pause()
    outcomes: list[Outcome] = []

    def committed() -> bool:
        outcomes.extend(store.commit([commit]))
        return outcomes[-1] is COMMITTED

    until(committed, "a replica has taken over", 60)
    assert set(outcomes[:-1]) == {UNKNOWN}
    frozen.resume()
    until(redis_cluster.well, "the cluster is well", 60)
    record = loaded(store, "a")
    assert (record.version, record.commit_id) == (2, commit.id)


def test_a_master_without_a_replica(after: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    need(missing_redis())
    cluster = RedisCluster(replicas=0)
    after.callback(cluster.close)
    cluster.start()
    backend = open_redis(cluster.url, "w")
    after.callback(backend.close)
    batch = [spread(turn(f"i{n}", 0)) for n in range(64)]
    dead = cluster.owner_of(key_slot(b"{w:0}"))
    theirs = [cluster.owner_of(key_slot(b"{w:%d}" % commit.partition)) is dead for commit in batch]
    monkeypatch.setattr(cluster_module, "PATIENCE_SECONDS", 0.2)
    dead.kill()
    assert backend.store.commit(batch) == [UNKNOWN if lost else COMMITTED for lost in theirs]
    lost = batch[theirs.index(True)]
    for ask in (lambda: backend.store.commit([lost]), lambda: backend.store.load([Want(lost.instance_id)])):
        with pytest.raises(StoreError, match=rf"Redis Cluster at {HOST}:{dead.port} can't be reached .*is it up"):
            ask()
    monkeypatch.setattr(cluster_module, "PATIENCE_SECONDS", 20)
    with ThreadPoolExecutor(1) as thread:
        again = thread.submit(lambda: backend.store.commit(batch))
        dead.start()
        assert again.result(30) == [COMMITTED] * 64
    for node in cluster.nodes:
        node.kill()
    with pytest.raises(StoreError, match=r"Redis Cluster at .* can't be reached"):
        backend.store.load([Want("i1")])
    backend.close()
    with pytest.raises(StoreError, match="was closed; open it again"):
        backend.store.load([Want("i1")])


# Opening.


def test_what_a_url_says() -> None:
    target = parse_url("redis+cluster://me:a%40,b@h1:7000,[::1]:7001,h3/0?prefix=p")
    assert (target.cluster, target.tls, target.username, target.password) == (True, False, "me", "a@,b")
    assert target.addresses == (("h1", 7000), ("::1", 7001), ("h3", 6379))
    assert (target.prefix, target.where) == ("p", "Redis Cluster at h1:7000")
    assert parse_url("rediss+cluster://h?ssl_cert_reqs=none").tls


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis+cluster://:{SECRET}@h/1", "no databases but 0"),
        (f"redis+cluster://:{SECRET}@h,", "can't be parsed: write redis\\+cluster://"),
        (f"redis+cluster://:{SECRET}@h:1,h:{SECRET}", "can't be parsed"),
        (f"redis+cluster://:{SECRET}@h:1,[h", "can't be parsed"),
        (f"redis+cluster://:{SECRET}@h:1?,h:2", "name=value"),
        ("redis+cluster://h?ssl_ca_certs=x", "write rediss://"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        open_redis(url, "w")
    assert SECRET not in repr(caught.value)


def test_any_node_of_the_url_will_do(redis_cluster: RedisCluster, after: ExitStack, prefix: str) -> None:
    replica = redis_cluster.nodes[-1]
    url = f"redis+cluster://{HOST}:{free_port()},{HOST}:{replica.port}"
    backend = open_redis(url, prefix)
    after.callback(backend.close)
    assert backend.store.commit([spread(turn("a", 0))]) == [COMMITTED]


class _Queue:
    """A lock that tells who comes to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.came = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.came.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Away(cluster_module.Cluster):
    """Of whose nodes none answers, once the test lets them say so."""

    def __init__(self, nodes: str) -> None:
        super().__init__(parse_url(f"redis+cluster://{nodes}"))
        self._lock: Any = _Queue()
        self.asked: list[str] = []
        self.silent = threading.Event()

    def come(self, count: int) -> None:
        for _ in range(count):
            assert self._lock.came.acquire(timeout=SOON)

    def lose_a_node(self) -> None:
        """What a request does that was under way to one."""
        self._owners = []

    def _read_map(self, asked: Pool) -> NoReturn:
        self.asked.append(asked.target.where)
        assert self.silent.wait(SOON)
        raise StoreError(f"{asked.target.where} can't be reached")


def test_who_waits_while_all_nodes_are_asked_in_vain_hears_so_and_does_not_ask_them_again() -> None:
    away = _Away("h:1,h:2,h:3")
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(away.connect) for _ in range(4)]
        away.come(4)
        away.lose_a_node()
        away.silent.set()
        for one in asking:
            with pytest.raises(StoreError, match="can't be reached"):
                one.result(SOON)
    assert len(away.asked) == 3
    with pytest.raises(StoreError, match="can't be reached"):
        away.connect()
    assert len(away.asked) == 6, "whoever comes later asks again"


def test_a_cluster_that_is_closed_asks_no_further_node() -> None:
    away = _Away("h:1,h:2,h:3")
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(away.connect)
        away.come(1)
        closing = pool.submit(away.close)
        away.come(1)
        away.silent.set()
        closing.result(SOON)
        with pytest.raises(StoreError, match="was closed"):
            asking.result(SOON)
    assert len(away.asked) == 1


def test_servers_that_are_no_cluster(redis_server: RedisServer) -> None:
    for opening, kind in ((open_redis, StoreError), (open_streams, TransportError)):
        with pytest.raises(
            kind, match=f"Redis Cluster at {HOST}:{redis_server.port} is no node of a cluster; write redis"
        ):
            opening(f"redis+cluster://{HOST}:{redis_server.port}", "w")
        with pytest.raises(kind, match="can't be reached"):
            opening(f"redis+cluster://{HOST}:{free_port()}", "w")


def test_a_node_is_no_redis_of_its_own(redis_cluster: RedisCluster) -> None:
    for node in redis_cluster.nodes:
        with pytest.raises(StoreError, match=r"is a node of a Redis Cluster; write redis\+cluster://"):
            open_redis(f"{node.url}?partitions=1", uuid4().hex)


def test_every_master_must_keep_what_it_has_confirmed(redis_cluster: RedisCluster, after: ExitStack) -> None:
    for node in redis_cluster.masters():
        redis_cluster.say(node, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        after.callback(redis_cluster.say, node, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        with pytest.raises(StoreError, match=rf"at {HOST}:{node.port} has maxmemory-policy allkeys-lru"):
            open_redis(redis_cluster.url, "w")
        after.close()


def test_a_cluster_with_slots_that_nobody_has(after: ExitStack, certificate: Certificate) -> None:
    need(missing_redis())
    its = str(certificate.certificate)
    tls = str(free_port())
    node = RedisServer(
        cluster_enabled="yes",
        cluster_port=str(free_port()),
        cluster_require_full_coverage="no",
        tls_cert_file=its,
        tls_key_file=str(certificate.key),
        tls_ca_cert_file=its,
        tls_auth_clients="no",
        tls_port=tls,
        tls_cluster="yes",
    )
    after.callback(node.close)
    node.start()
    plain, secure = f"redis+cluster://{HOST}:{node.port}", f"rediss+cluster://{HOST}:{tls}?ssl_ca_certs={its}"
    with pytest.raises(StoreError, match="knows no node that serves a slot"):
        open_redis(plain, "w")
    raw(node.port, ("CLUSTER", "ADDSLOTS", *range(1, 16_384)))
    until(lambda: b"cluster_state:ok" in raw(node.port, ("CLUSTER", "INFO")), "the node is well", 20)
    with pytest.raises(
        StoreError, match=rf"{HOST}:{node.port} says .*16,383 of 16,384 .*redis-cli --cluster check {HOST}"
    ):
        open_redis(plain, "w")
    raw(node.port, ("CLUSTER", "ADDSLOTS", 0))
    with pytest.raises(StoreError, match=r"can't be reached.*certificate"):
        open_redis(secure.replace(HOST, "localhost"), "w")
    for url in (plain, secure):
        backend = open_redis(url, "w")
        after.callback(backend.close)
        assert backend.store.find(Query()).items == []
