"""Redis: the public contracts, and its own: URLs and servers that are refused, answers that are lost, restarts."""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from durable.backends import redis_subscriber as subscriber
from durable.backends.memory import MemoryStore
from durable.backends.redis_backend import open_redis
from durable.backends.redis_connection import read_script
from durable.backends.redis_url import parse_url
from durable.model.errors import StoreError
from durable.model.names import partition_of
from durable.model.status import RuntimeStatus
from durable.ports import (
    FACTS,
    STATUS,
    Backend,
    Beat,
    Commit,
    Delivered,
    ExecutionKey,
    Fact,
    Lease,
    Outcome,
    Query,
    RowKey,
    Signals,
    Store,
    Topic,
    Want,
)
from durable.testing.store_contract import SignalsContract, StoreContract, events, fact, loaded, turn, work
from durable.testing.store_machine import check_store
from tests.conftest import need
from tests.servers.process import HOST, free_port, wait_until
from tests.servers.proxy import Proxy
from tests.servers.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pa55w0rd"
COMMITTED, CONFLICT, UNKNOWN = Outcome.COMMITTED, Outcome.CONFLICT, Outcome.UNKNOWN


@pytest.fixture
def after() -> Iterator[ExitStack]:
    """What must be closed when the test is over."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def prefix() -> str:
    return uuid4().hex


Opener = Callable[..., Backend]


@pytest.fixture
def open_here(redis_server: RedisServer, prefix: str, after: ExitStack) -> Opener:
    """Open a workspace of this test's own; `port` for another way to the same server."""

    def opening(workspace: str = "w", parameters: str = "", port: int | None = None) -> Backend:
        backend = open_redis(f"redis://{HOST}:{port or redis_server.port}?prefix={prefix}{parameters}", workspace)
        after.callback(backend.close)
        return backend

    return opening


@pytest.fixture
def own_server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server that a test may mistreat."""
    server = RedisServer()
    server.start()
    yield server
    server.close()


def raw(port: int, *commands: tuple[Any, ...], before: tuple[tuple[Any, ...], ...] = ()) -> Any:
    """Say something to Redis that the store would not; the last answer."""
    import redis

    with redis.Redis(host=HOST, port=port, single_connection_client=True) as client:
        answer: Any = None
        for command in (*before, *commands):
            answer = client.execute_command(*command)
        return answer


def spread(commit: Commit, partitions: int = 16) -> Commit:
    """The same commit, in the partition of its instance."""
    partition = partition_of(commit.instance_id, partitions)
    rows = tuple(msgspec.structs.replace(row, partition=partition) for row in commit.put)
    return msgspec.structs.replace(commit, partition=partition, put=rows)


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


class _Two:
    def __init__(self, here: Signals, there: Signals) -> None:
        self.notify, self.listen = here.notify, there.listen


def test_redis_is_the_reference(open_here: Opener) -> None:
    check_store(lambda: open_here(uuid4().hex, "&partitions=1").store, examples=40)


# URLs that are refused.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis://:{SECRET}@h/x", "number of a database"),
        (f"redis://:{SECRET}@h/0/1", "number of a database"),
        (f"redis://:{SECRET}@h:port", "can't be parsed"),
        (f"redis://:{SECRET}@[h", "can't be parsed"),
        (f"redis://:{SECRET}@h\udc80", "can't be parsed"),
        (f"redis://:{SECRET}#x@h", "percent-encode|can't be parsed"),
        (f"redis://u:1#{SECRET}@h", "percent-encode"),
        (f"redis://u:1?{SECRET}@h:6379/0", "percent-encode"),
        (f"redis://u:1/{SECRET}@h:6379/0", "percent-encode"),
        (f"redis://u:1?prefix={SECRET}&x@h", "percent-encode"),
        (f"http://:{SECRET}@h", "not the URL"),
        (f"redis:{SECRET}", "not the URL"),
        (f"redis://h?{SECRET}", "name=value"),
        (f"redis://h?prefix=a&&{SECRET}", "name=value"),
        (f"redis://:{SECRET}@h?colour=red", "unknown parameter colour .*known: allow_unsafe"),
        (f"redis://h?{SECRET}%20=1", r"unknown parameter \(not a plain word\)"),
        ("redis://h?prefix", "name=value"),
        ("redis://h?prefix=", "prefix .* empty"),
        ("redis://h?prefix=a&prefix=b", "twice"),
        ("redis://h?partitions=0", "number from 1"),
        ("redis://h?partitions=5000", "number from 1"),
        ("redis://h?partitions=1.5", "number from 1"),
        ("redis://h?allow_unsafe=perhaps", "1 or 0"),
        ("redis://h?socket_timeout=0", "seconds above 0"),
        ("redis://h?ssl_ca_certs=x", "rediss://"),
        ("redis://h?db=1", "unknown parameter db"),
        (f"rediss://h?ssl_password={SECRET}&ssl_keyfile=", "ssl_keyfile .* empty"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        open_redis(url, "w")
    assert_no_secret(caught.value)


def test_what_a_url_says() -> None:
    target = parse_url(
        f"rediss://me:{SECRET}%40%2F@[::1]:7000/3?prefix=p&partitions=4&allow_unsafe=1&ssl_cert_reqs=none"
    )
    assert (target.host, target.port, target.db, target.tls) == ("::1", 7000, 3, True)
    assert (target.username, target.password) == ("me", SECRET + "@/")
    assert (target.prefix, target.partitions, target.allow_unsafe) == ("p", 4, True)
    assert target.options == {"ssl_cert_reqs": "none"}
    assert target.where == "Redis at [::1]:7000"
    assert SECRET not in repr(target)
    assert parse_url("redis://h?prefix=a%3D%26+b").prefix == "a=&+b"
    plain = parse_url("redis://h")
    assert (plain.port, plain.db, plain.tls, plain.partitions, plain.allow_unsafe) == (6379, 0, False, None, False)


@pytest.mark.parametrize("workspace", ["", "\udc80"])
def test_workspaces_that_are_no_names(workspace: str) -> None:
    with pytest.raises(ValueError, match="workspace"):
        open_redis("redis://h", workspace)


# Servers that are refused, each with a remedy and without the password.


def assert_no_secret(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(error))
    seen: BaseException | None = error
    while seen is not None:
        shown += f"{seen!r}{seen}{seen.args}"
        seen = seen.__cause__ or seen.__context__
    assert SECRET not in shown


def refused(url: str, said: str) -> StoreError:
    with pytest.raises(StoreError, match=said) as caught:
        open_redis(url, "w")
    assert_no_secret(caught.value)
    return caught.value


def test_nobody_there() -> None:
    port = free_port()
    refused(f"redis://:{SECRET}@{HOST}:{port}", rf"Redis at {HOST}:{port} can't be reached .*refused.*host and port")


def test_wrong_passwords(own_server: RedisServer, after: ExitStack) -> None:
    url = f"{HOST}:{own_server.port}"
    refused(f"redis://:{SECRET}@{url}", "refuses this user or password")
    raw(own_server.port, ("CONFIG", "SET", "requirepass", SECRET))
    refused(f"redis://{url}", "wants a password.*redis://:PASSWORD@")
    refused(f"redis://:{SECRET}x@{url}", "refuses this user or password")
    refused(f"redis://{SECRET}:x@{url}", "refuses this user or password")
    backend = open_redis(f"redis://:{SECRET}@{url}", "w")
    after.callback(backend.close)
    for shown in (backend, backend.store, backend.signals, backend.membership, vars(backend), vars(backend.store)):
        assert SECRET not in repr(shown)


def test_a_database_that_does_not_exist(redis_server: RedisServer) -> None:
    refused(f"{redis_server.url}/99", "no database of this number")


def test_a_server_of_another_kind(after: ExitStack) -> None:
    for says, said in ((b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer as a Redis"), (b"", "does not answer")):
        listener = socket.create_server((HOST, 0))
        after.callback(listener.close)

        def serve(listener: socket.socket = listener, says: bytes = says) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(says)
                while connection.recv(65536):
                    pass

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        refused(f"redis://{HOST}:{port}?socket_timeout=0.3", f"Redis at {HOST}:{port} {said}.*host and port")


def test_a_client_that_is_not_installed() -> None:
    for missing in ("redis", "hiredis"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None\n"
            "from durable.backends.redis_backend import open_redis\n"
            f"open_redis('redis://:{SECRET}@h', 'w')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert "StoreError" in done.stderr
        assert "pip install 'durable-orchestrations[redis]'" in done.stderr
        assert SECRET not in done.stderr.replace(code, "")


@pytest.mark.parametrize(("name", "value", "right"), [
    ("appendonly", "no", "yes"),
    ("maxmemory-policy", "allkeys-lru", "noeviction"),
])  # fmt: skip
def test_settings_that_lose_data(
    own_server: RedisServer, after: ExitStack, caplog: pytest.LogCaptureFixture, name: str, value: str, right: str
) -> None:
    raw(own_server.port, ("CONFIG", "SET", name, value))
    refused(own_server.url, f"has {name} {value}.*CONFIG SET {name} {right}.*allow_unsafe=1")
    for _ in range(2):
        after.callback(open_redis(own_server.url + "?allow_unsafe=1", "w").close)
    assert [f"has {name} {value}" in record.message for record in caplog.records] == [True]
    raw(own_server.port, ("CONFIG", "SET", name, right))
    after.callback(open_redis(own_server.url, "w").close)


def test_a_user_without_config(own_server: RedisServer, after: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    raw(own_server.port, ("ACL", "SETUSER", "app", "on", f">{SECRET}", "~durable:*", "&durable:*", "+@all", "-config"))
    url = f"redis://app:{SECRET}@{HOST}:{own_server.port}"
    for _ in range(2):
        backend = open_redis(url, "w")
        after.callback(backend.close)
        after.callback(backend.signals.listen(FACTS, lambda ids: None))
    assert [record.message for record in caplog.records if "INFO" not in record.message] == []
    assert len(caplog.records) == 1
    assert backend.store.commit([turn("a", 0)]) == [COMMITTED]
    raw(own_server.port, ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"))
    refused(url, "has maxmemory-policy allkeys-lru")
    raw(own_server.port, ("CONFIG", "SET", "maxmemory-policy", "noeviction"))
    refused(url + "?prefix=elsewhere", "does not let this user do that.*ACL SETUSER")


def test_a_replica(own_server: RedisServer) -> None:
    raw(own_server.port, ("REPLICAOF", HOST, free_port()))
    refused(own_server.url, "read-only replica; give the URL of the primary")


def test_a_node_of_a_cluster(redis_server: RedisServer, after: ExitStack) -> None:
    node = RedisServer(cluster_enabled="yes")  # its bus wants port + 10,000
    after.callback(node.close)
    node.start()
    wait_until(lambda: b"cluster_state" in raw(node.port, ("CLUSTER", "INFO")), 10, "cluster")
    refused(node.url, "is a node of a Redis Cluster")


def test_keys_of_somebody_else(open_here: Opener, redis_server: RedisServer, prefix: str) -> None:
    raw(redis_server.port, ("SET", f"{prefix}:{{w:3}}:rows", "mine"))
    with pytest.raises(StoreError, match=r"key .*:\{w:3\}:rows is not of this package .*prefix="):
        open_here()
    raw(redis_server.port, ("SET", f"{prefix}:{{v}}:workspace", "mine"))
    with pytest.raises(StoreError, match="holds keys of somebody else"):
        open_here("v")


def test_tls(redis_server: RedisServer, after: ExitStack, tmp_path: Path) -> None:
    need(None if shutil.which("openssl") else "openssl is not on PATH: apt install openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = RedisServer(tls_cert_file=str(certificate), tls_key_file=str(key), tls_auth_clients="no", tls_port="0")
    server.options["tls-port"] = str(tls := free_port())
    after.callback(server.close)
    server.start()
    refused(f"rediss://:{SECRET}@{HOST}:{tls}", "can't be reached.*certificate")
    refused(f"rediss://:{SECRET}@{HOST}:{server.port}?socket_connect_timeout=0.5", "redis:// or rediss://")
    refused(f"redis://:{SECRET}@{HOST}:{tls}?socket_timeout=0.5", "Redis at")
    one, two = (open_redis(f"rediss://{HOST}:{tls}?ssl_ca_certs={certificate}", "w") for _ in range(2))
    after.callback(one.close)
    after.callback(two.close)
    assert one.store.commit([turn("a", 0)]) == [COMMITTED]
    heard = Heard()
    after.callback(two.signals.listen(FACTS, heard))
    one.signals.notify(FACTS, ["a" * 200] * 200)
    assert heard.wait_for("a" * 200)


# Workspaces.


def test_partitions_are_for_ever(open_here: Opener) -> None:
    assert open_here().store.partitions == 16
    assert open_here("v", "&partitions=3").store.partitions == 3
    assert open_here("v").store.partitions == 3
    assert open_here("v", "&partitions=3").store.partitions == 3
    with pytest.raises(StoreError, match=r"workspace 'v' was created with 3 partitions.*URL says 16"):
        open_here("v", "&partitions=16")
    with pytest.raises(StoreError, match="workspace 'w' was created with 16 partitions"):
        open_here("w", "&partitions=1")


def test_a_workspace_of_a_newer_version(open_here: Opener, redis_server: RedisServer, prefix: str) -> None:
    raw(redis_server.port, ("HSET", f"{prefix}:{{w}}:workspace", "schema", "2"))
    with pytest.raises(StoreError, match="newer version"):
        open_here()


WORKSPACES = ["w", "W", "w:1", "{w}", "w}", "{", "}:", "a b", "é😀", "w*", "[w]", "w?", "%7B", "{w:1}", "w\r\nPING\r\n"]


def test_workspaces_and_prefixes_see_nothing_of_each_other(
    open_here: Opener, redis_server: RedisServer, prefix: str, after: ExitStack
) -> None:
    backends = [open_here(workspace) for workspace in WORKSPACES]
    for other in (prefix + "%7Bw", prefix + "*", prefix + ":"):
        backends.append(open_redis(f"{redis_server.url}?prefix={other.replace('%', '%25')}", "w"))
        after.callback(backends[-1].close)
    backends.append(open_redis(f"{redis_server.url}/1?prefix={prefix}", "w"))
    after.callback(backends[-1].close)
    heard = [Heard() for _ in backends]
    for n, backend in enumerate(backends):
        for topic in (FACTS, STATUS):
            after.callback(backend.signals.listen(topic, heard[n]))
        after.callback(backend.signals.listen(STATUS, heard[n], "i"))
    for n, backend in enumerate(backends):
        assert backend.store.find(Query()).items == []
        assert backend.membership.beat(Beat(f"w{n}")) == [Beat(f"w{n}")]
        commit = spread(turn("i", 0, events("i", 0), put=[work(f"k{n}", "i")], name=f"n{n}"))
        assert backend.store.commit([commit]) == [COMMITTED]
        assert [summary.name for summary in backend.store.find(Query()).items] == [f"n{n}"]
        assert [row.key for row in backend.store.due(commit.partition, "default", 99.0, 9).items] == [f"k{n}"]
        assert backend.store.deliver([Fact("i", commit.partition, "f", b"", 1.0)]) == [Delivered.NEW]
    for n, backend in enumerate(backends):
        backend.signals.notify(STATUS, [f"only {n}"])
    for n, _ in enumerate(backends):
        assert heard[n].wait_for(f"only {n}")
        # What was published earlier to the same connection has come earlier.
        assert set(heard[n].ids) <= {f"only {n}"}


def test_a_partition_is_under_one_hash_tag(open_here: Opener, redis_server: RedisServer, prefix: str) -> None:
    from redis.crc import key_slot

    for workspace in WORKSPACES:
        store = open_here(workspace).store
        commits = [spread(turn(f"{{i}}{n}", 0, events(f"{{i}}{n}", 0), put=[work(f"k{n}")])) for n in range(40)]
        assert store.commit(commits) == [COMMITTED] * 40
        store.deliver([Fact(c.instance_id, c.partition, "f", b"", 1.0) for c in commits])
    found = [key.decode() for key in raw(redis_server.port, ("KEYS", f"{prefix}:*"))]
    slots: dict[str, set[int]] = {}
    for key in found:
        assert key.count("}:") == 1 or "{i}" in key
        slots.setdefault(key.split("}:")[0], set()).add(key_slot(key.encode()))
    assert len(slots) > 8 * len(WORKSPACES)
    assert all(len(some) == 1 for some in slots.values())


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


def test_nothing_was_sent_to_a_server_that_is_gone(own_server: RedisServer, after: ExitStack) -> None:
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


# Signals.


class Heard:
    """A listener that remembers; `None` for `look for yourself`."""

    def __init__(self) -> None:
        self.ids: list[str | None] = []
        self._changed = threading.Condition()

    def __call__(self, ids: Collection[str] | None) -> None:
        with self._changed:
            self.ids += [None] if ids is None else ids
            self._changed.notify_all()

    def wait_for(self, wanted: str | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: wanted in self.ids, 20)


def test_signals_between_processes(open_here: Opener, redis_server: RedisServer, prefix: str) -> None:
    signals = open_here().signals
    heard: dict[tuple[Topic, str | None], Heard] = {}
    topics: tuple[Topic, ...] = (FACTS, STATUS)
    for topic in topics:
        for instance_id in (None, "é😀", "b"):
            heard[topic, instance_id] = Heard()
            signals.listen(topic, heard[topic, instance_id], instance_id)
    code = (
        "import sys; from durable.backends.redis_backend import open_redis\n"
        "backend = open_redis(sys.argv[1], 'w')\n"
        "for topic in ('facts', 'status'):\n"
        "    backend.signals.notify(topic, ['é😀', 'c'])\n"
        "    backend.signals.notify(topic, ['end'])\n"
        "backend.close()\n"
    )
    url = f"{redis_server.url}?prefix={prefix}"
    subprocess.run([sys.executable, "-c", code, url], check=True, cwd=ROOT, env={**os.environ, "PYTHONUTF8": "1"})
    for topic in topics:
        assert heard[topic, None].wait_for("end")
        assert heard[topic, "é😀"].wait_for("é😀")
        assert sorted(map(str, heard[topic, None].ids)) == ["c", "end", "é😀"]
        assert heard[topic, "é😀"].ids == ["é😀"]
        assert heard[topic, "b"].ids == []


def test_who_listens_first_is_told(open_here: Opener) -> None:
    here, there = open_here().signals, open_here().signals
    for n in range(100):
        heard = Heard()
        stop = here.listen(STATUS, heard, f"i{n}")
        there.notify(STATUS, [f"i{n}"])
        assert heard.wait_for(f"i{n}")
        stop()


def test_after_a_loss_everybody_is_woken(own_server: RedisServer, open_here: Opener) -> None:
    here, there = (open_here(port=own_server.port).signals for _ in range(2))
    listeners = [Heard() for _ in range(3)]
    here.listen(FACTS, listeners[0])
    here.listen(STATUS, listeners[1], "a")
    own_server.kill()
    here.listen(STATUS, listeners[2])  # returns, although nobody can confirm it
    there.notify(FACTS, ["lost"])
    own_server.start()
    for heard in listeners:
        assert heard.wait_for(None)
    there.notify(FACTS, ["f"])
    there.notify(STATUS, ["a"])
    assert listeners[0].wait_for("f")
    assert listeners[1].wait_for("a")
    assert listeners[2].wait_for("a")
    assert "lost" not in listeners[0].ids


def test_a_server_that_says_nothing_any_more_is_a_loss(
    own_server: RedisServer, open_here: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "PING_SECONDS", 0.2)
    signals = open_here(port=own_server.port).signals
    heard = Heard()
    signals.listen(FACTS, heard)
    lost = threading.Event()
    monkeypatch.setattr(subscriber.log, "warning", lambda *args: lost.set())
    own_server.pause()
    assert lost.wait(20)
    own_server.resume()
    assert heard.wait_for(None)


def test_an_idle_connection_is_kept(
    own_server: RedisServer, open_here: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriber, "PING_SECONDS", 0.05)
    signals = open_here(port=own_server.port).signals
    heard = Heard()
    signals.listen(FACTS, heard)

    def pings() -> int:
        return int(raw(own_server.port, ("INFO", "commandstats")).get("cmdstat_ping", {}).get("calls", 0))

    first = pings()
    wait_until(lambda: pings() >= first + 3, 20, "three pings")
    assert heard.ids == []
    assert [record.message for record in caplog.records] == []


def test_a_user_who_may_not_listen_is_told_once(
    own_server: RedisServer, after: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    raw(own_server.port, ("ACL", "SETUSER", "app", "on", ">x", "~durable:*", "&durable:*", "+@all"))
    here, there = (open_redis(f"redis://app:x@{HOST}:{own_server.port}", "w") for _ in range(2))
    after.callback(here.close)
    after.callback(there.close)
    heard = Heard()
    here.signals.listen(STATUS, lambda ids: None)  # a pattern, which such a user may not use
    here.signals.listen(STATUS, lambda ids: None)
    here.signals.listen(STATUS, heard, "a")
    here.signals.listen(STATUS, heard, "b")
    wait_until(lambda: raw(own_server.port, ("PUBSUB", "CHANNELS", "*:b")) != [], 20, "a subscription")
    there.signals.notify(STATUS, ["a", "b"])
    assert heard.wait_for("b")
    assert heard.ids == ["a", "b"]
    assert ["refuses a subscription" in record.message for record in caplog.records] == [True]


def test_messages_of_strangers_are_left_out(
    open_here: Opener, redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = open_here().signals, open_here().signals
    heard = Heard()
    here.listen(FACTS, heard)
    for text in (b"\xff", b"{}", b"[]", b"[1]", b""):
        raw(redis_server.port, ("PUBLISH", f"{prefix}:{{w:3}}:facts@0", text))
    there.notify(FACTS, ["a"])
    assert heard.wait_for("a")
    assert heard.ids == ["a"]
    assert len(caplog.records) == 5


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
    raw(redis_server.port, ("HSET", key, "x", '{"incarnation":"x","new":1}', "y", "{}"))
    for _ in range(2):
        assert sorted(beat.incarnation for beat in membership.beat(Beat("a"))) == ["a", "x"]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_every_script_is_shipped() -> None:
    names = sorted(path.stem.removeprefix("redis_") for path in (ROOT / "backends").glob("redis_*.lua"))
    assert len(names) == 8
    for name in names:
        assert read_script(name).text
