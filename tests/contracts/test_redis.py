"""The public contracts on Redis, and its own laws: many partitions, answers that are lost, servers that go away."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from durable.backends.memory import MemoryStore
from durable.backends.redis_backend import open_redis
from durable.backends.redis_connection import read_script
from durable.model.errors import StoreError
from durable.model.status import RuntimeStatus
from durable.ports import (
    FACTS,
    Beat,
    Delivered,
    ExecutionKey,
    Fact,
    Lease,
    Outcome,
    Purged,
    Query,
    RowKey,
    Signals,
    Store,
    Want,
)
from durable.testing import SignalsContract, StoreContract
from durable.testing.store_machine import check_store
from durable.testing.store_samples import ended, events, fact, loaded, turn, work
from tests.servers.process import HOST
from tests.servers.proxy import Proxy
from tests.servers.redis_place import Opener, raw, spread
from tests.servers.redis_server import RedisServer
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
COMMITTED, CONFLICT, UNKNOWN = Outcome.COMMITTED, Outcome.CONFLICT, Outcome.UNKNOWN


class TestRedis(StoreContract, SignalsContract):
    @pytest.fixture(autouse=True)
    def _opener(self, open_here: Opener) -> None:
        self.open_here = open_here

    def open_store(self) -> Store:
        self.backend = self.open_here(parameters="&partitions=1")
        return self.backend.store

    def reopen_store(self, store: Store) -> Store:
        self.backend.close()
        return self.open_store()

    def open_signals(self) -> Signals:
        return self.open_here().signals


class TestSignalsOfOthers(SignalsContract):
    """The same laws when one backend notifies and another listens, as two processes do."""

    @pytest.fixture(autouse=True)
    def _opener(self, open_here: Opener) -> None:
        self.open_here = open_here

    def open_signals(self) -> Signals:
        return _Two(self.open_here().signals, self.open_here().signals)

    # Here the notifier is another process; test_redis_signals.py has the like of it.
    test_who_wants_news_of_this_process_alone_gets_them = None  # type: ignore[assignment]  # takes a test away


class _Two:
    def __init__(self, here: Signals, there: Signals) -> None:
        self.notify, self.listen = here.notify, there.listen


def test_redis_is_the_reference(open_here: Opener) -> None:
    check_store(lambda: open_here(uuid4().hex, "&partitions=1").store, examples=40)


# Many partitions.


def test_a_listing_over_partitions_is_the_reference(open_here: Opener) -> None:
    store, reference = open_here().store, MemoryStore(16)
    chance = random.Random(7)
    commits = [
        spread(turn(f"i{n:03}", 0, created=chance.randrange(60), name=f"n{n % 50}", tags={"t": str(n % 3)}))
        for n in range(600)
    ]
    for one in (store, reference):
        assert one.commit(commits) == [COMMITTED] * 600
    for query in (
        Query(limit=7),
        Query(limit=1_000),
        Query(limit=5, name="n7"),
        Query(limit=3, prefix="i12"),
        Query(limit=50, tags={"t": "1"}, created_after=commits[0].summary.created_at.timestamp()),
        Query(limit=4, status=frozenset({RuntimeStatus.FAILED})),
    ):
        assert pages(store, query) == pages(reference, query)


def pages(store: Store, query: Query) -> list[list[str]]:
    found: list[list[str]] = []
    while True:
        page = store.find(query)
        found.append([summary.instance_id for summary in page.items])
        if page.next is None:
            return found
        query = msgspec.structs.replace(query, cursor=page.next)


def test_many_with_one_time_of_creation_are_paged(open_here: Opener) -> None:
    store = open_here(parameters="&partitions=1").store
    store.commit([turn(f"{n % 7}{'aZé_'[n % 4]}{n:04}", 0) for n in range(1_000)])
    found = [name for page in pages(store, Query(limit=90)) for name in page]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 1_000


def test_verbs_answer_in_order_over_partitions(open_here: Opener) -> None:
    store = open_here().store
    names = [f"i{n}" for n in range(1_200)]
    commits = [spread(turn(name, 0, events(name, 0, name.encode()), put=[work(f"k/{name}", name)])) for name in names]
    assert store.commit(commits) == [COMMITTED] * len(names)
    partitions = {commit.instance_id: commit.partition for commit in commits}
    assert len(set(partitions.values())) == 16
    facts = [Fact(name, partitions[name], f"f{n % 2}", b"%d" % n, 1.0) for name in names for n in range(3)]
    facts.append(Fact("nobody", 3, "f", b"", 1.0))
    new, duplicate = Delivered.NEW, Delivered.DUPLICATE
    assert store.deliver(facts) == [new, new, duplicate] * len(names) + [Delivered.ABSENT]
    records = store.load([Want(name) for name in [*names, "nobody"]])
    assert records.pop() is None
    inboxes = [[row.body for row in record.inbox] for record in records if record]
    assert inboxes == [[b"0", b"1"]] * len(names)
    assert len({row.key for record in records if record for row in record.inbox}) == 2 * len(names)
    keys = [RowKey(partitions[name], f"k/{name}") for name in names]
    rows = store.rows([*keys, RowKey(partitions["i0"], "none")])
    assert [row and (row.key, row.partition) for row in rows] == [*((key, n) for n, key in keys), None]
    leases = [Lease(*key, "", n % 2, 9.0, "me") for n, key in enumerate(keys)]
    assert store.lease(leases) == [n % 2 == 0 for n in range(len(names))]
    assert [s and s.instance_id for s in store.summaries([*names, "nobody"])] == [*names, None]
    assert store.input_of([ExecutionKey(name, f"x/{name}") for name in names]) == [name.encode() for name in names]


# Answers that are lost, servers that go away.


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(redis_server.port)
    yield proxy
    proxy.close()


def test_a_commit_without_an_answer_is_unknown_and_may_be_sent_again(open_here: Opener, proxy: Proxy) -> None:
    direct = open_here(parameters="&partitions=1").store
    store = open_here(port=proxy.port).store
    assert store.commit([turn("warm", 0)]) == [COMMITTED]
    commit = turn("a", 0, events("a", 0), put=[work("k")])
    proxy.answer_bytes(0)
    assert store.commit([commit]) == [UNKNOWN]
    record = loaded(direct, "a")
    assert (record.version, record.commit_id) == (1, commit.id)
    proxy.answer_bytes(None)
    assert store.commit([commit]) == [COMMITTED]
    assert direct.commit([commit, turn("a", 0)]) == [COMMITTED, CONFLICT]
    assert loaded(store, "a") == record
    assert direct.find(Query(name="flow", prefix="a")).next is None
    assert direct.commit([turn("a", 1)]) == [COMMITTED]
    assert store.commit([commit]) == [CONFLICT]  # another turn has come since: reading settles it


def test_of_a_batch_only_what_has_no_answer_is_unknown(open_here: Opener, proxy: Proxy) -> None:
    direct = open_here(parameters="&partitions=1").store
    store = open_here(port=proxy.port).store
    store.commit([turn("i1", 0)])
    batch = [turn(f"i{n}", 0, events(f"i{n}", 0)) for n in range(6)]
    proxy.answer_bytes(3 * len(b":1\r\n") + 2)
    assert store.commit(batch) == [COMMITTED, CONFLICT, COMMITTED, UNKNOWN, UNKNOWN, UNKNOWN]
    proxy.answer_bytes(None)
    assert store.commit(batch) == [COMMITTED, CONFLICT, *[COMMITTED] * 4]
    assert [summary.instance_id for summary in direct.find(Query()).items] == ["i5", "i4", "i3", "i2", "i1", "i0"]
    assert {loaded(direct, f"i{n}").version for n in range(6)} == {1}


def test_a_commit_that_had_to_load_its_script_may_be_unknown(
    own_server: RedisServer, open_here: Opener, after: ExitStack
) -> None:
    proxy = Proxy(own_server.port)
    after.callback(proxy.close)
    store = open_here(parameters="&partitions=1", port=proxy.port).store
    raw(own_server.port, ("SCRIPT", "FLUSH"))
    refusal = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
    proxy.answer_bytes(2 * len(refusal))
    batch = [turn("a", 0, events("a", 0)), turn("b", 0)]
    assert store.commit(batch) == [UNKNOWN, UNKNOWN]
    proxy.answer_bytes(None)
    assert loaded(store, "a").commit_id == batch[0].id
    assert store.commit(batch) == [COMMITTED, COMMITTED]


def test_a_time_that_is_no_number_writes_nothing(open_here: Opener) -> None:
    store = open_here(parameters="&partitions=1").store
    nan = float("nan")
    store.commit([turn("a", 0, put=[work("k")])])
    for write in (
        lambda: store.commit([turn("b", 0), turn("a", 1, drop=["k"], put=[work("l", due_at=nan)])]),
        lambda: store.deliver([fact("a", "f"), fact("a", "g", due_at=nan)]),
        lambda: store.lease([Lease(0, "k", "", 0, nan, "me")]),
    ):
        with pytest.raises(ValueError, match="not a number"):
            write()
    assert store.due(0, "default", 99.0, 9).items == [work("k")]
    assert store.load([Want("b")]) == [None]


def test_other_verbs_without_an_answer_raise(open_here: Opener, proxy: Proxy) -> None:
    backend = open_here(parameters="&partitions=1", port=proxy.port)
    store = backend.store
    store.commit([turn("a", 0)])
    verbs: list[Callable[[], object]] = [
        lambda: store.load([Want("a")]),
        lambda: store.deliver([fact("a", "f")]),
        lambda: store.lease([Lease(0, "k", "", 0, 1.0)]),
        lambda: store.due(0, "default", 1.0, 1),
        lambda: store.rows([RowKey(0, "k")]),
        lambda: store.find(Query()),
        lambda: store.summaries(["a"]),
        lambda: store.input_of([ExecutionKey("a", "x/a")]),
        lambda: store.history(ExecutionKey("a", "x/a")),
        lambda: backend.membership.beat(Beat("w")),
        lambda: backend.membership.members(),
        lambda: backend.membership.leave("w"),
    ]
    for verb in verbs:
        proxy.answer_bytes(0)
        with pytest.raises(StoreError, match=f"Redis at {HOST}:{proxy.port}"):
            verb()
        proxy.answer_bytes(None)
        verb()
    assert store.deliver([fact("a", "f")]) == [Delivered.DUPLICATE]


def test_a_server_that_is_frozen(own_server: RedisServer, after: ExitStack) -> None:
    backend = open_redis(own_server.url + "?partitions=1&socket_timeout=0.3", "w")
    after.callback(backend.close)
    commit = turn("a", 0, events("a", 0))
    own_server.pause()
    assert backend.store.commit([commit]) == [UNKNOWN]
    with pytest.raises(StoreError, match=r"does not answer|can't be reached"):
        backend.store.load([Want("a")])
    own_server.resume()
    assert backend.store.commit([commit]) == [COMMITTED]
    assert loaded(backend.store, "a").version == 1


def test_nothing_was_sent_to_a_server_that_is_gone(
    own_server: RedisServer, after: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.backends.redis_connection.FRESH_SECONDS", 0.0)  # as if it had rested for a while
    backend = open_redis(own_server.url + "?partitions=1", "w")
    after.callback(backend.close)
    own_server.kill()
    with pytest.raises(StoreError, match=f"Redis at {HOST}:{own_server.port} can't be reached"):
        backend.store.commit([turn("a", 0)])
    own_server.start()
    assert backend.store.commit([turn("a", 0)]) == [COMMITTED]


def test_a_server_that_was_killed_is_used_again(own_server: RedisServer, after: ExitStack) -> None:
    backend = open_redis(own_server.url + "?partitions=1", "w")
    after.callback(backend.close)
    store = backend.store
    for version in range(3):
        turns = [turn(f"i{n}", version, events(f"i{n}", version), put=[work(f"k{n}", f"i{n}")]) for n in range(50)]
        assert store.commit(turns) == [COMMITTED] * 50
        store.deliver([fact(f"i{n}", f"f{version}") for n in range(50)])
        before = (store.load([Want("i7")]), store.due(0, "default", 99.0, 500), store.find(Query()))
        own_server.restart(graceful=False)
        assert (store.load([Want("i7")]), store.due(0, "default", 99.0, 500), store.find(Query())) == before
    assert loaded(store, "i7").version == 3
    assert len(loaded(store, "i7").inbox) == 3


def test_scripts_that_are_forgotten_are_loaded_again(open_here: Opener, own_server: RedisServer) -> None:
    store = open_here(parameters="&partitions=1", port=own_server.port).store
    flush: Callable[[], Any] = lambda: raw(own_server.port, ("SCRIPT", "FLUSH"))  # noqa: E731
    for version in range(3):
        flush()
        batch = [turn(f"i{n}", version, events(f"i{n}", version), put=[work(f"k{n}", f"i{n}")]) for n in range(300)]
        assert store.commit(batch) == [COMMITTED] * 300
        flush()
        facts = [fact("i0", f"f{version}.{n}") for n in range(700)]
        assert store.deliver(facts) == [Delivered.NEW] * 700
        flush()
        assert [row.body for row in loaded(store, "i0").inbox[-700:]] == [item.body for item in facts]
        flush()
        assert store.lease([Lease(0, "k0", "", 0, 20.0, "me"), Lease(0, "k0", "me", 1, 21.0)]) == [True, True]
        flush()
        assert len(store.due(0, "default", 15.0, 9_999).items) == 299 + 700 * (version + 1)
        flush()
        assert len(store.find(Query(limit=999)).items) == 300
        flush()
        assert len(store.history(ExecutionKey("i0", "x/i0")).items) == version + 1


def test_a_full_server_refuses_before_it_writes(own_server: RedisServer, open_here: Opener) -> None:
    store = open_here(parameters="&partitions=1", port=own_server.port).store
    store.commit([turn("a", 0, events("a", 0), put=[work("k")])])
    before = (loaded(store, "a"), store.due(0, "default", 99.0, 9))
    raw(own_server.port, ("CONFIG", "SET", "maxmemory", "1"))
    for write in (
        lambda: store.commit([turn("a", 1, events("a", 1), put=[work("l")], drop=["k"]), turn("b", 0)]),
        lambda: store.deliver([fact("a", "f")]),
        lambda: store.lease([Lease(0, "k", "", 0, 1.0, "me")]),
    ):
        with pytest.raises(StoreError, match="is full, nothing was written; raise its maxmemory"):
            write()
    assert (loaded(store, "a"), store.due(0, "default", 99.0, 9)) == before
    raw(own_server.port, ("CONFIG", "SET", "maxmemory", "0"))
    assert store.commit([turn("a", 1)]) == [COMMITTED]
    assert store.deliver([fact("a", "f")]) == [Delivered.NEW]


def following(replica: RedisServer) -> bool:
    """Whether it has all that its primary has."""
    return bool(raw(replica.port, ("INFO", "replication")).get("master_link_status") == "up")


def test_what_is_finished_can_be_purged_from_a_full_server(own_server: RedisServer, open_here: Opener) -> None:
    store = open_here(parameters="&partitions=1", port=own_server.port).store
    store.commit([turn("a", 0, events("a", 0)), turn("b", 0, events("b", 0))])
    store.deliver([fact("a", "f")])
    store.commit([ended("a", 1), ended("b", 1)])
    raw(own_server.port, ("CONFIG", "SET", "maxmemory", "1"))
    assert store.purge([ExecutionKey("a", "x/a"), ExecutionKey("b", "x/b")]) == [Purged.GONE] * 2
    while store.clear(0, 100):
        pass
    assert store.load([Want("a"), Want("b")]) == [None, None]
    raw(own_server.port, ("CONFIG", "SET", "maxmemory", "0"))
    assert store.commit([turn("a", 0, events("a", 0))]) == [CONFLICT]  # it is known that it was purged


def test_after_a_switch_over_the_new_primary_is_used(own_server: RedisServer, open_here: Opener) -> None:
    """Of two that have changed their parts, with connections to the old primary that are idle."""
    other = type(own_server)()
    other.start()
    proxy = Proxy(own_server.port)
    try:
        store = open_here(parameters="&partitions=1", port=proxy.port).store
        begun = [store.begin([turn(name, 0, events(name, 0))]) for name in "abc"]
        assert [finish() for finish in begun] == [[COMMITTED]] * 3
        raw(other.port, ("REPLICAOF", HOST, str(own_server.port)))
        until(lambda: following(other))
        raw(other.port, ("REPLICAOF", "NO", "ONE"))
        raw(own_server.port, ("REPLICAOF", HOST, str(other.port)))
        until(lambda: following(own_server))
        with pytest.raises(StoreError, match="is a read-only replica"):
            store.commit([turn("a", 1)])
        proxy.lead_to(other.port)
        begun = [store.begin([turn(name, 1)]) for name in "abc"]
        assert [finish() for finish in begun] == [[COMMITTED]] * 3
    finally:
        proxy.close()
        other.close()


def test_a_closed_store_says_so(open_here: Opener) -> None:
    backend = open_here()
    stop = backend.signals.listen(FACTS, lambda ids: None)
    backend.close()
    backend.close()
    with pytest.raises(StoreError, match="closed; open it again"):
        backend.store.find(Query())
    backend.signals.notify(FACTS, ["a"])
    stop()


def test_ids_of_facts_are_forgotten_when_old_and_many(
    open_here: Opener, redis_server: RedisServer, prefix: str
) -> None:
    store = open_here(parameters="&partitions=1").store
    store.commit([turn("a", 0)])
    facts = [fact("a", f"f{n}") for n in range(1_500)]
    assert store.deliver(facts) == [Delivered.NEW] * 1_500
    assert store.deliver([*facts, fact("a", "one more")]) == [Delivered.DUPLICATE] * 1_500 + [Delivered.NEW]
    seen = f"{prefix}:{{w:0}}:seen:a"
    assert raw(redis_server.port, ("ZCARD", seen)) == 1_501
    # All but the newest 200 become two days old.
    script = (
        "for n, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -201)) do "
        "redis.call('ZADD', KEYS[1], redis.call('ZSCORE', KEYS[1], m) - 172800, m) end"
    )
    raw(redis_server.port, ("EVAL", script, 1, seen))
    assert store.deliver([fact("a", "another")]) == [Delivered.NEW]
    assert raw(redis_server.port, ("ZCARD", seen)) == 1_000


def test_from_many_threads(open_here: Opener) -> None:
    backend = open_here()
    troubles: list[Exception] = []

    def work_on(number: int) -> None:
        try:
            for version in range(20):
                batch = [spread(turn(f"i{number}.{n}", version, events(f"i{number}.{n}", version))) for n in range(20)]
                assert backend.store.commit(batch) == [COMMITTED] * 20
                assert all(backend.store.load([Want(commit.instance_id) for commit in batch]))
                backend.membership.beat(Beat(str(number), version))
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=work_on, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not troubles
    assert len(backend.membership.members()) == 8


# Membership.


def test_everybody_sees_everybody(open_here: Opener) -> None:
    one, two = open_here().membership, open_here().membership
    a = Beat("a", 1, ("g", "h"), ("q",), ("act",), 7, "host", 2)
    assert one.members() == []
    assert one.beat(a) == [a]
    assert sorted(beat.incarnation for beat in two.beat(Beat("b"))) == ["a", "b"]
    moved = msgspec.structs.replace(a, counter=2)
    assert sorted(one.beat(moved), key=lambda beat: beat.incarnation) == [moved, Beat("b")]
    two.leave("a")
    two.leave("a")
    assert one.members() == [Beat("b")]
    assert a in one.beat(a)  # it was only slow


def test_a_beat_that_is_newer_stops_nobody(
    open_here: Opener, redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    membership = open_here().membership
    key = f"{prefix}:{{w}}:members"
    raw(redis_server.port, ("HSET", key, "x", '{"incarnation":"x","new":1}'))
    for counter in range(2):
        raw(redis_server.port, ("HSET", key, "y", f'{{"counter":{counter}}}'))
        assert sorted(beat.incarnation for beat in membership.beat(Beat("a"))) == ["a", "x"]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_every_script_is_shipped() -> None:
    names = sorted(path.stem.removeprefix("redis_") for path in (ROOT / "backends").glob("redis_*.lua"))
    assert len(names) == 13
    for name in names:
        assert read_script(name).text
