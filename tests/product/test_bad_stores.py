"""Stores that can't be used, and a second worker on one store: a clear error with the remedy, and nothing is harmed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import durable

pytestmark = pytest.mark.embedded("of files, URLs and what is refused at once")

if TYPE_CHECKING:
    from tests.product.conftest import World


def made(path: Path) -> None:
    """A store with an instance that waits in it."""
    with durable.connect(f"sqlite:///{path}") as client:
        client.start_orchestration("healthy", 1, instance_id="kept")


def text(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE instances (name TEXT)")
    connection.close()


def newer(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 1000000")
    connection.close()


def trapped(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TRIGGER trap AFTER INSERT ON rows BEGIN DELETE FROM instances; END")
    connection.close()


def damaged(path: Path) -> None:
    made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * 3996
    path.write_bytes(data)


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (text, "not a SQLite file; give another path"),
    "a folder": (Path.mkdir, "this is a folder; give the path of a file in it"),
    "a FIFO": (os.mkfifo, "no regular file; give another path"),
    "another application's": (foreign, "belongs to something else; give another path"),
    "newer": (newer, "newer version.*upgrade"),
    "with a trigger": (trapped, "restore it from a backup"),
    "damaged": (damaged, "restore it from a backup"),
}


@pytest.mark.parametrize(("make", "says"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_file_that_is_no_store_is_refused_and_left_alone(
    world: World, tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "bad.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for _ in range(2):
        with pytest.raises(durable.StoreError, match=says) as caught:
            durable.connect(f"sqlite:///{path}")
        assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before
    world.work()


def test_a_store_damaged_by_the_byte_never_hangs(tmp_path: Path) -> None:
    path = tmp_path / "good.db"
    made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    good = path.read_bytes()
    for place in range(0, len(good), 997):
        bad = tmp_path / f"{place}.db"
        bad.write_bytes(good[:place] + b"\xff" * 64 + good[place + 64 :])
        try:
            with durable.connect(f"sqlite:///{bad}") as client:
                client.get_status("kept")
                client.list_orchestrations()
        except durable.DurableError as error:
            assert str(error), place


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    made(tmp_path / "empty.db")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_a_file_system_that_can_not_be_written(world: World) -> None:
    with pytest.raises(durable.StoreError, match=r"/proc/durable/store\.db"):
        durable.connect("sqlite:////proc/durable/store.db")
    world.work()


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:///folder/",
        "sqlite://host/store.db",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "sqlite:///x.db?vfs=unix-none",
        "sqlite:///x.db?immutable=1",
        "sqlite:///x.db#part",
        "sqlite:///a%00b",
        "file:x.db?mode=memory",
        "memory:name",
        "memory://name/with/path",
        "memory://name?x=1",
        f"nosuch://user:{SECRET}@host/0",
        f"sqlite://user:{SECRET}@host/x.db",
        "sqlite://[/x.db",
    ],
)
def test_a_bad_url_is_refused_with_the_good_form(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises((ValueError, durable.StoreError)) as caught:
        durable.connect(url)
    said = str(caught.value)
    assert "sqlite:///" in said or "memory://name" in said or "sqlite" in url, said
    assert SECRET not in said
    assert set(tmp_path.iterdir()) == before
    world.work()


@pytest.mark.parametrize("url", [5, b"memory://x", Path("store.db"), object()])
def test_a_url_is_text(url: object) -> None:
    with pytest.raises(TypeError, match="must be text"):
        durable.connect(url)  # type: ignore[arg-type]


def test_the_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DURABLE_URL", "nosuch://x")
    with pytest.raises(ValueError, match="nosuch"):
        durable.connect()
    monkeypatch.setenv("DURABLE_URL", "sqlite:///named.db")
    monkeypatch.setenv("DURABLE_WORKSPACE", "other")
    with durable.connect() as client:
        assert client.workspace == "other"
    with durable.connect(workspace="mine") as client:
        assert client.workspace == "mine"
    monkeypatch.setenv("DURABLE_EVENTS_URL", "nosuch://x")
    with pytest.raises(ValueError, match="no installed broker serves nosuch"):
        durable.connect()
    with durable.connect(workspace="mine", events="") as client:
        assert not client.has_broker
    assert sorted(path.name for path in tmp_path.glob("named.db*")) == ["named.db@mine", "named.db@other"]
    for name in ("URL", "EVENTS_URL", "WORKSPACE", "CODEC"):
        monkeypatch.setenv(f"DURABLE_{name}", "")  # empty is unset
    with durable.connect() as client:
        assert client.workspace == "default"
    assert (tmp_path / ".durable" / "durable.db").exists()


# ---- the worker


def test_a_worker_starts_once(world: World) -> None:
    first = world.work()
    with pytest.raises(RuntimeError, match="make another one"):
        first.start()
    world.is_well()


def test_wrong_options_of_a_worker(world: World) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"max_concurrent_activities": 0},
        {"max_concurrent_activities": True},
        {"max_cached_orchestrations": -1},
        {"shutdown_grace": -1},
        {"shutdown_grace": float("nan")},
        {"queues": []},
        {"groups": ["a/b"]},
    )
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            durable.Worker(world.client, registry=world.registry, **options)
    with pytest.raises(ValueError, match="eager_activities=False needs a broker"):
        durable.Worker(world.client, registry=world.registry, eager_activities=False).start()
    world.work()
