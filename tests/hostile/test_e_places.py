"""E: URLs, files, the environment and clocks. What can't be used is refused at once, with the remedy, without a secret;
a file that is not ours stays as it was. What the backends refuse one by one is in their contract tests.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest

import durable
from durable.testing import Environment
from tests.product.command_line import Here
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_server import RedisServer
from tests.waiting import SOON

SECRET: Final = "hunter2"
Steps = Generator[Any, Any, Any]

# (case, URL of the store, URL of the broker, what is said)
REFUSED: Final = [
    ("case 86 of SQLite's own kind", "file:x.db?mode=memory&vfs=unix-none", None, "sqlite:///"),
    ("case 86 another vfs", "sqlite:///x.db?vfs=unix-none", None, "vfs"),
    ("case 86 immutable", "sqlite:///x.db?immutable=1", None, "immutable"),
    ("case 86 without locks", "sqlite:///x.db?nolock=1", None, "nolock"),
    ("case 89 an escape that is none", f"redis://u:{SECRET}%zz@h:1:2/0", None, "can't be parsed|percent-encode"),
    ("case 89 port 99999", f"redis://u:{SECRET}@h:99999/0", None, "can't be parsed"),
    ("case 89 database -1", f"redis://u:{SECRET}@h/-1", None, "number of a database"),
    ("case 92 two slashes of a virtual host", "memory://x", f"amqp://u:{SECRET}@h/a/../b", "%2F"),
    ("case 92 a virtual host of 300 bytes", "memory://x", f"amqp://u:{SECRET}@h/" + "v" * 300, "255"),
    ("case 92 heartbeat 0", "memory://x", f"amqp://u:{SECRET}@h/?heartbeat=0", "not known"),
    ("case 93 a table outside", "dynamodb://eu-central-1/../x", None, "names no table"),
    ("case 93 a table of 2 characters", "dynamodb://eu-central-1/ab", None, "names no table"),
    ("case 93 a table of 256 characters", "dynamodb://eu-central-1/" + "a" * 256, None, "names no table"),
    (
        "case 93 an endpoint with a password",
        f"dynamodb://eu-west-1/abc?endpoint=http://u:{SECRET}@h",
        None,
        "without a user",
    ),
    ("case 94 a URL with a line break", "sqlite:///x.db\nDURABLE_WORKSPACE=y", None, "."),
    ("case 94 a URL with a NUL", "sqlite:///a%00b", None, "."),
]


@pytest.mark.parametrize(("case", "url", "events", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_it_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, url: str, events: str | None, says: str
) -> None:
    command = Here(tmp_path, monkeypatch)
    before = set(tmp_path.iterdir())
    with pytest.raises((ValueError, durable.DurableError), match=says) as caught:
        durable.connect(url, events=events)
    done = command(*(("--events-url", events) if events else ()), "--url", url, "list")
    assert done.returncode in (2, 4), done
    for text in (str(caught.value), repr(caught.value.__cause__), done.stdout, done.stderr):
        assert SECRET not in text
        assert "Traceback" not in text
    assert set(tmp_path.iterdir()) == before


def test_case_85_a_relative_path_is_where_it_says_and_nothing_of_the_system_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(folder)
    with durable.connect("sqlite:///../../x.db") as client:
        client.start_orchestration("o", 1, instance_id="i")
    assert (tmp_path / "x.db").exists()
    assert (tmp_path / "x.db").stat().st_mode & 0o077 == 0
    passwords = tmp_path / "passwd"
    passwords.write_text("root:x:0:0:root:/root:/bin/bash\n" * 50)
    with pytest.raises(durable.StoreError, match="not a SQLite file"):
        durable.connect(f"sqlite:///{passwords}")
    assert passwords.read_text().count("root:x:0:0") == 50


def test_case_87_a_link_is_followed_to_its_file_and_to_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "store.db")
    with durable.connect(f"sqlite:///{tmp_path}/link.db") as client:
        client.start_orchestration("o", 1, instance_id="i")
    with durable.connect(f"sqlite:///{tmp_path}/real/store.db") as client:
        assert [one.instance_id for one in client.list_orchestrations()] == ["i"]
    for number, target in enumerate(("/dev/zero", "/dev/full", str(tmp_path), "loop")):
        link = tmp_path / f"{number}.db"
        link.symlink_to(link if target == "loop" else target)
        with pytest.raises(durable.StoreError, match=rf"/dev/|folder|{number}\.db"):
            durable.connect(f"sqlite:///{link}")


def test_case_89_a_password_with_an_at_sign(tmp_path: Path) -> None:
    """Unencoded it is taken as far as its last @, as everybody does; nobody is shown a part of it."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(durable.StoreError) as caught:
        durable.connect(f"redis://u:{SECRET}@{SECRET}@127.0.0.1:{port}/0")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_case_94_a_variable_with_a_line_break(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Here(tmp_path, monkeypatch)
    for name, value, says in (
        ("DURABLE_WORKSPACE", "a\nb", "DURABLE_WORKSPACE|workspace"),
        ("DURABLE_URL", f"redis://:{SECRET}\n@h", "URL"),
        ("DURABLE_EVENTS_URL", f"amqp://u:{SECRET}\n@h", "amqp|URL"),
        ("DURABLE_PICKLE_KEYS", f"{SECRET}\n", "DURABLE_PICKLE_KEYS"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises((ValueError, durable.DurableError), match=says) as caught:
                durable.connect()
            assert SECRET not in str(caught.value)
            done = command("list")
            assert done.returncode in (2, 4), (name, done)
            assert SECRET not in done.stderr


def test_case_95_variables_of_proxies_change_nothing(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, rabbitmq_server: RabbitServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with durable.connect(
        redis_server.url + "?partitions=1", events=rabbitmq_server.url(), workspace="proxies"
    ) as client:
        assert client.list_orchestrations().items == []


@pytest.mark.parametrize("year", [1970, 2106, 9998])
def test_case_98_a_clock_that_is_wrong(year: int) -> None:
    registry = durable.Registry()

    @registry.activity(name="step")
    def step(number: int) -> int:
        return number + 1

    @registry.orchestrator(name="waits")
    def waits(ctx: durable.OrchestrationContext) -> Steps:
        yield ctx.create_timer(timedelta(hours=1))
        return [(yield ctx.call_activity(step, 1)), ctx.current_utc_datetime.year]

    with Environment(registry=registry, now=datetime(year, 1, 2, tzinfo=timezone.utc)) as env:
        assert env.client.start_orchestration("waits").result() == [2, year]


def test_case_98_a_clock_that_is_set_back_while_the_store_is_closed(tmp_path: Path) -> None:
    """What was written in 2106 is read, and goes on, in the year that it is now."""
    url = f"sqlite:///{tmp_path}/store.db"
    registry = durable.Registry()

    @registry.orchestrator(name="waits")
    def waits(ctx: durable.OrchestrationContext) -> Steps:
        return (yield ctx.wait_for_external_event("go"))

    late = datetime(2106, 1, 1, tzinfo=timezone.utc)
    with durable.connect(url) as client:
        client.start_orchestration("waits", instance_id="there", start_at=late)
        client.start_orchestration("waits", instance_id="here")
        with durable.Worker(client, registry=registry, shutdown_grace=0):
            client.raise_event("here", "go", 1)
            assert client.handle("here").result(SOON) == 1
            assert client.handle("there").status().runtime_status is durable.RuntimeStatus.PENDING
            client.terminate("there")
            assert client.wait("there", SOON).runtime_status is durable.RuntimeStatus.TERMINATED
    assert os.path.exists(tmp_path / "store.db")
