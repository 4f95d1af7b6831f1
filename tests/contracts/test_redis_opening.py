"""URLs, servers and workspaces of Redis that are refused, each with a remedy and without the password."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import traceback
from contextlib import ExitStack
from pathlib import Path

import pytest

from durable.backends.redis_backend import open_redis, open_streams
from durable.backends.redis_url import parse_url
from durable.model.errors import StoreError, TransportError
from durable.ports import FACTS, STATUS, Beat, Delivered, Fact, Outcome, Query
from durable.testing.store_samples import events, turn, work
from tests.servers.certificate import Certificate
from tests.servers.process import HOST, free_port
from tests.servers.redis_place import Heard, Opener, raw, spread
from tests.servers.redis_server import RedisServer
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pa55w0rd"
COMMITTED = Outcome.COMMITTED


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
            "open_redis(sys.argv[1], 'w')"  # not in the code, which Python 3.13 shows in a traceback
        )
        command = [sys.executable, "-c", code, f"redis://:{SECRET}@h"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert "StoreError" in done.stderr
        assert "pip install 'durable-orchestrations[redis]'" in done.stderr
        assert SECRET not in done.stderr


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


def test_a_user_without_time(own_server: RedisServer, after: ExitStack) -> None:
    raw(own_server.port, ("ACL", "SETUSER", "app", "on", f">{SECRET}", "~durable:*", "&durable:*", "+@all", "-time"))
    streams = open_streams(f"redis://app:{SECRET}@{HOST}:{own_server.port}", "w")
    after.callback(streams.close)
    streams.declare(["q"])
    with pytest.raises(TransportError, match=r"does not let this user do that.*'time'"):
        streams.subscribe("q", 1, lambda deliveries: None)


def test_a_replica(own_server: RedisServer) -> None:
    raw(own_server.port, ("REPLICAOF", HOST, free_port()))
    refused(own_server.url, "read-only replica; give the URL of the primary")


def test_a_node_of_a_cluster(redis_server: RedisServer, after: ExitStack) -> None:
    # Its bus would take port + 10,000, free or not.
    node = RedisServer(cluster_enabled="yes", cluster_port=str(free_port()))
    after.callback(node.close)
    node.start()
    until(lambda: b"cluster_state" in raw(node.port, ("CLUSTER", "INFO")), "cluster", 10)
    refused(node.url, "is a node of a Redis Cluster")


def test_keys_of_somebody_else(open_here: Opener, redis_server: RedisServer, prefix: str) -> None:
    raw(redis_server.port, ("SET", f"{prefix}:{{w:3}}:rows", "mine"))
    with pytest.raises(StoreError, match=r"key .*:\{w:3\}:rows is not of this package .*prefix="):
        open_here()
    raw(redis_server.port, ("SET", f"{prefix}:{{v}}:workspace", "mine"))
    with pytest.raises(StoreError, match="holds keys of somebody else"):
        open_here("v")


def test_tls(redis_server: RedisServer, after: ExitStack, certificate: Certificate) -> None:
    key, chain = map(str, certificate)
    server = RedisServer(tls_cert_file=chain, tls_key_file=key, tls_auth_clients="no", tls_port=str(tls := free_port()))
    after.callback(server.close)
    server.start()
    refused(f"rediss://:{SECRET}@{HOST}:{tls}", "can't be reached.*certificate")
    refused(f"rediss://:{SECRET}@localhost:{tls}?ssl_ca_certs={chain}", "can't be reached.*certificate")
    for unchecked in ("ssl_cert_reqs=none", f"ssl_ca_certs={chain}&ssl_check_hostname=no"):
        open_redis(f"rediss://localhost:{tls}?{unchecked}", "w").close()
    refused(f"rediss://:{SECRET}@{HOST}:{server.port}?socket_timeout=0.5", "redis:// or rediss://")
    refused(f"redis://:{SECRET}@{HOST}:{tls}?socket_timeout=0.5", "Redis at")
    one, two = (open_redis(f"rediss://{HOST}:{tls}?ssl_ca_certs={chain}", "w") for _ in range(2))
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
