"""B: hostile ids, names and workspaces. What the rule of names refuses is refused by every command in one message; all
others are names like any other, and never meet: not in a key, not in a file, not with the words of a store.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3  # type: ignore[import-untyped]  # boto3 has no py.typed
import pytest
import redis

import durable
from durable.backends.dynamodb_backend import create_dynamodb
from tests.hostile.names import ALLOWED, REFUSED
from tests.product.command_line import Here
from tests.servers.dynamodb_server import CREDENTIALS, REGION, DynamoServer
from tests.servers.redis_server import RedisServer

LABELS: Final = {
    23: "empty",
    24: "space,spaces around,tab",
    25: "nul",
    26: "newline,header",
    27: "201 characters,over 512 bytes,10 MB,200 characters,512 bytes",
    28: "lone surrogate",
    29: "NFC,not NFC",
    30: "homoglyph,bidi,zero width",
    31: "hash tag,empty braces,turned braces,many braces",
    32: "star,class,question mark",
    33: "fragment,star hash,dots",
    34: "path,encoded path,windows path,share",
    35: "sql,percent,underscore",
    36: "placeholder,function",
    37: "img",
    38: "jndi,printf,format",
    39: "one dot,two dots,option,long option",
    40: "proto,constructor",
    41: "internal,outbox,namespaced",
    43: "upper,lower",
    44: "import,entry point",
}
BY_CASE: Final = [
    pytest.param(label, id=f"case {number} {label}") for number, some in LABELS.items() for label in some.split(",")
]
BESIDE: Final = ["-wal", "-shm", "-journal", "-worker", "-worker.sock"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, monkeypatch)


@pytest.mark.parametrize("label", BY_CASE)
def test_a_name_on_the_command_line(command: Here, label: str) -> None:
    for name in (names[label] for names in (REFUSED, ALLOWED) if label in names):
        if name in ALLOWED.values():
            is_a_name_like_any_other(command, name)
        else:
            is_refused(command, name)


def is_refused(command: Here, name: str) -> None:
    command.says("start", "order", "--id", "there")
    for arguments in (
        ("start", "order", "--id", name),
        ("--workspace", name, "list"),
        ("show", "--", name),
        ("history", "--", name),
        ("raise", "--", name, "event"),
        ("raise", "--", "there", name),
        *((verb, "--", name) for verb in ("suspend", "resume", "cancel", "terminate", "rewind", "restart", "purge")),
    ):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments[0], done)
        assert len(done.stderr) < 1_500, arguments[0]
        assert done.stderr.replace("\n", "").isprintable(), arguments[0]
    assert "there" in command.says("list")


def is_a_name_like_any_other(command: Here, name: str) -> None:
    command.says("start", "--id", name, "--", name)
    command.says("raise", "--", name, name)
    assert f'"instance_id":"{name}"' in command.says("--json", "show", "--", name)
    command.says("terminate", "--", name)
    assert "1" in command.says("--json", "list")


# ---- workspaces and ids side by side

PAIRS: Final = [
    ("a", "b:c"),
    ("a:b", "c"),
    ("a", "b"),
    ("a:b:c", "c"),
    ("a:17", "meta"),
    ("17", "a:meta"),
    ("{a}", "b"),
    ("a}", "{b"),
    ("a%3Ab", "c"),
    ("default", "default"),
    ("Default", "DEFAULT"),
    ("*", "[a-z]"),
]


def test_case_42_keys_of_different_workspaces_in_redis_are_different(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url, db=9) as server:

        def addresses(workspace: str, instance_id: str) -> set[tuple[bytes, bytes]]:
            """Each key of one workspace, with each field or member: all that there is for this one instance."""
            server.flushdb()
            with durable.connect(f"{redis_server.url}/9?partitions=1", workspace=workspace) as client:
                before = set(contents(server))
                client.start_orchestration("o", "x", instance_id=instance_id)
            return set(contents(server)) - before

        are_disjoint({pair: addresses(*pair) for pair in PAIRS})
        server.flushdb()


def contents(server: Any) -> Iterator[tuple[bytes, bytes]]:
    for key in server.keys("*"):
        kind = server.type(key)
        if kind == b"hash":
            yield from ((key, field) for field in server.hkeys(key))
        elif kind == b"zset":
            yield from ((key, member) for member in server.zrange(key, 0, -1))
        else:
            yield key, b""


@pytest.mark.slow
def test_case_42_keys_of_different_workspaces_in_dynamodb_are_different(dynamodb_server: DynamoServer) -> None:
    dynamodb = boto3.resource(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{dynamodb_server.port}",
        region_name=REGION,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    create_dynamodb(dynamodb_server.url(table="case-42"))  # that of the other tests is too long to be read so often
    table = dynamodb.Table("case-42")
    names = [key["AttributeName"] for key in table.key_schema]

    def keys() -> set[tuple[Any, ...]]:
        pages = dynamodb.meta.client.get_paginator("scan").paginate(TableName=table.name)
        return {
            tuple(bytes(item[n]) if not isinstance(item[n], str) else item[n] for n in names)
            for page in pages
            for item in page["Items"]
        }

    found = {}
    for workspace, instance_id in PAIRS:
        with durable.connect(dynamodb_server.url("&partitions=1", table="case-42"), workspace=workspace) as client:
            before = keys()
            client.start_orchestration("o", "x", instance_id=instance_id)
            found[workspace, instance_id] = keys() - before
    are_disjoint(found)


def are_disjoint(found: dict[tuple[str, str], set[Any]]) -> None:
    assert all(found.values())
    for (one, its), (other, others) in itertools.combinations(found.items(), 2):
        assert not its & others, (one, other)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("ending", BESIDE)
def test_case_42_no_workspace_has_a_file_of_another(tmp_path: Path, ending: str, first: int) -> None:
    """SQLite keeps files beside a store's, named after it: whoever was called like one had it overwritten."""
    url, names = f"sqlite:///{tmp_path}/store.db", ["x", f"x{ending}"]
    for name in sorted(names, reverse=bool(first)):
        with durable.connect(url, workspace=name) as client, durable.Worker(client, registry=durable.Registry()):
            client.start_orchestration("o", name, instance_id="same", if_exists="return")
            others = [other for other in names if other != name]
            with durable.connect(url, workspace=others[0]) as beside:
                beside.start_orchestration("o", others[0], instance_id="same", if_exists="return")
    for name in names:
        with durable.connect(url, workspace=name) as client:
            [found] = client.list_orchestrations()
            assert found.input == name
    others_files = {path.name for path in tmp_path.iterdir()} - {f"store.db@x{end}" for end in ["", *BESIDE]}
    assert all(name.startswith(f"store.db@x%2D{ending[1:]}") for name in others_files)


def test_case_42_workspaces_of_one_file_are_apart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    for workspace, instance_id in PAIRS:
        with durable.connect(url, workspace=workspace) as client:
            client.start_orchestration("o", [workspace, instance_id], instance_id=instance_id)
    for workspace in dict(PAIRS):
        with durable.connect(url, workspace=workspace) as client:
            mine = [[name, instance_id] for name, instance_id in PAIRS if name == workspace]
            assert sorted(one.input for one in client.list_orchestrations()) == sorted(mine)
