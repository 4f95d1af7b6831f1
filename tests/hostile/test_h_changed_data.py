"""H: what is stored was changed by somebody else while no worker ran. Nothing is guessed: the instance is BLOCKED, with
what is wrong, nothing of it runs again, it can be ended, and the others go on.

There are many instances in each store, each damaged in another place.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
import redis

import durable
from durable.ports import Commit, Row, RowKey, Want
from tests.servers.redis_server import RedisServer
from tests.waiting import SOON, until

Rows = list[tuple[int, bytes]]  # the number of the first event, and the events of one turn
Steps = Generator[Any, Any, Any]
_START: Final = struct.Struct("<I")


class Memory:
    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self.url = f"memory://{uuid4().hex}"
        self.kept = durable.connect(self.url)  # a store in memory lives as long as somebody has it

    def change(self, execution: str, to: Callable[[Rows], Rows]) -> None:
        history: dict[str, Rows] = self.kept.backend.store._history  # type: ignore[attr-defined]  # nobody's but the test's
        history[execution] = sorted(to(history[execution]))

    def close(self) -> None:
        self.kept.close()


class Sqlite:
    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self.path = folder / "store.db"
        self.url = f"sqlite:///{self.path}"

    def change(self, execution: str, to: Callable[[Rows], Rows]) -> None:
        with closing(sqlite3.connect(self.path)) as file, file:
            found = file.execute("SELECT start, events FROM history WHERE execution_id = ?", [execution]).fetchall()
            file.execute("DELETE FROM history WHERE execution_id = ?", [execution])
            changed = [(execution, start, events) for start, events in to(sorted(found))]
            file.executemany("INSERT INTO history (execution_id, start, events) VALUES (?, ?, ?)", changed)

    def close(self) -> None:
        pass


class Redis:
    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        server: RedisServer = request.getfixturevalue("redis_server")
        self.prefix = uuid4().hex[:8]
        self.url = f"{server.url}/0?partitions=1&prefix={self.prefix}"
        self.server = redis.Redis.from_url(server.url)

    def change(self, execution: str, to: Callable[[Rows], Rows]) -> None:
        [key] = self.server.keys(f"{self.prefix}:*h:{execution}")
        items: Any = self.server.lrange(key, 0, -1)
        rows = [(*_START.unpack_from(item), item[_START.size :]) for item in items]
        self.server.delete(key)
        for start, events in sorted(to(rows)):
            self.server.rpush(key, _START.pack(start) + events)

    def close(self) -> None:
        self.server.close()


@pytest.fixture(params=[Memory, Sqlite, Redis], ids=["memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with closing(request.param(request, tmp_path)) as made:
        yield made


def without(n: int) -> Callable[[Rows], Rows]:
    return lambda rows: rows[:n] + rows[n + 1 :]


def swapped(n: int, m: int) -> Callable[[Rows], Rows]:
    def swap(rows: Rows) -> Rows:
        rows[n], rows[m] = (rows[n][0], rows[m][1]), (rows[m][0], rows[n][1])
        return rows

    return swap


def events_of(n: int, change: Callable[[bytes], bytes]) -> Callable[[Rows], Rows]:
    return lambda rows: [(start, change(events) if k == n else events) for k, (start, events) in enumerate(rows)]


def doubled(n: int) -> Callable[[Rows], Rows]:
    return lambda rows: [*rows, (rows[-1][0] + 1, rows[n][1])]


def in_place_of(n: int, m: int) -> Callable[[Rows], Rows]:
    return lambda rows: [(start, rows[m][1] if k == n else events) for k, (start, events) in enumerate(rows)]


TURNS: Final = 5  # the start and four turns
CHANGES: Final[dict[str, list[Callable[[Rows], Rows]]]] = {
    "case 115 a row is gone": [without(n) for n in range(TURNS)],
    "case 115 all rows are gone but the first": [lambda rows: rows[:1]],
    "case 115 all rows are gone": [lambda rows: []],
    "case 115 a row is there twice": [doubled(n) for n in range(TURNS)],
    "case 115 a row is in the place of another": [in_place_of(n, n - 1) for n in range(1, TURNS)],
    "case 115 two rows are swapped": [swapped(n, m) for n in range(TURNS) for m in range(n)],
    "case 115 a row is cut": [events_of(n, lambda events: events[: len(events) // 2]) for n in range(TURNS)],
    "case 115 a row is no text": [events_of(n, lambda events: b'[1,[{"type":"\xff"}]]') for n in range(TURNS)],
    "case 115 a row is nested without end": [events_of(1, lambda events: b"[1," + b"[" * 100_000)],
    "case 115 a row of nothing": [events_of(n, lambda events: b"[1,[]]") for n in range(TURNS)],
    "case 115 the result of another task": [events_of(2, lambda e: e.replace(b'"task_id":1', b'"task_id":9'))],
    "case 115 the history of another instance": [events_of(0, lambda e: e.replace(b'"damaged-0"', b'"sound"'))],
    "case 117 a type of a newer version": [
        events_of(n, lambda e: e.replace(b"OrchestratorStarted", b"WishGranted")) for n in range(1, TURNS)
    ],
    "case 117 a format of a newer version": [
        events_of(n, lambda e: e.replace(b"[1,", b"[99,", 1)) for n in range(TURNS)
    ],
}


WHY: Final = ("its history is damaged", "can't be decoded", "has no events", "this version", "does not fit")


class Shop:
    """Orchestrations of two activities and an event. ran: the activities that have run."""

    def __init__(self) -> None:
        self.registry = durable.Registry()
        self.ran: list[str] = []

        @self.registry.activity(name="step")
        def step(who: str) -> str:
            self.ran.append(who)
            return who

        @self.registry.orchestrator(name="flow")
        def flow(ctx: durable.OrchestrationContext) -> Steps:
            first = yield ctx.call_activity(step, ctx.instance_id)
            second = yield ctx.call_activity(step, ctx.instance_id)
            go = yield ctx.wait_for_external_event("go")
            last = yield ctx.wait_for_external_event("last")
            return [first, second, go, last]


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_lost_its_history_is_blocked_and_nothing_is_guessed(place: Any, what: str) -> None:
    shop, changes = Shop(), CHANGES[what]
    names = [f"damaged-{n}" for n in range(len(changes))]
    with durable.connect(place.url) as client:
        with durable.Worker(client, registry=shop.registry, shutdown_grace=0):
            handles = [client.start_orchestration("flow", instance_id=name) for name in [*names, "sound"]]
            for handle in handles:
                until(lambda h=handle: [e.type for e in client.history(h.instance_id)].count("EventAwaited") == 1)  # type: ignore[misc]
                handle.raise_event("go", "went")
                until(lambda h=handle: [e.type for e in client.history(h.instance_id)].count("EventAwaited") == 2)  # type: ignore[misc]
        executions = {name: client.handle(name).status().execution_id for name in names}
    before = list(shop.ran)
    for name, change in zip(names, changes, strict=True):
        place.change(executions[name], change)
    with durable.connect(place.url) as client:
        for handle in (client.handle(name) for name in [*names, "sound"]):
            handle.raise_event("last", "came")
        with durable.Worker(client, registry=shop.registry, shutdown_grace=0):
            for name in names:
                with pytest.raises(durable.OrchestrationBlockedError) as caught:
                    client.handle(name).result(SOON, on_blocked="raise")
                said = caught.value.reason
                assert any(
                    part in said
                    for part in ("damaged", "can't be decoded", "no events", "newer", "version", "does not fit")
                )
                assert "event" in said or "row" in said
            assert client.handle("sound").result(SOON) == ["sound", "sound", "went", "came"]
            assert shop.ran == before
            assert len(client.list_orchestrations()) == len(names) + 1
            for name in names:
                client.terminate(name, "damaged")
                assert client.wait(name, SOON).runtime_status is durable.RuntimeStatus.TERMINATED
            assert [client.purge(name, recursive=False) for name in names] == [1] * len(names)


def test_what_can_not_be_read_holds_up_no_other_instance(place: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Others are about to start it, and to rewind it: those messages wait, and are said once."""
    app = durable.Registry()

    @app.orchestrator(name="leaf")
    def leaf(ctx: durable.OrchestrationContext) -> None:
        raise ValueError("no")

    @app.orchestrator(name="middle")
    def middle(ctx: durable.OrchestrationContext) -> Steps:
        yield ctx.call_sub_orchestrator(leaf, instance_id="leaf")

    @app.orchestrator(name="root")
    def root(ctx: durable.OrchestrationContext) -> Steps:
        yield ctx.call_sub_orchestrator(middle, instance_id="middle")

    @app.orchestrator(name="detaches")
    def detaches(ctx: durable.OrchestrationContext) -> None:
        ctx.start_orchestration(leaf, instance_id="leaf")

    with durable.connect(place.url) as client, durable.Worker(client, registry=app, shutdown_grace=0):
        assert client.start_orchestration("root", instance_id="root").wait(SOON).failure is not None
        execution = client.handle("leaf").status().execution_id
    place.change(execution, CHANGES["case 117 a format of a newer version"][0])
    with durable.connect(place.url) as client:
        client.rewind("root")
        with durable.Worker(client, registry=app, shutdown_grace=0):
            detached = client.start_orchestration("detaches")
            child = client.start_orchestration("middle", instance_id="another")
            until(lambda: caplog.text.count("is kept: 'leaf' is there already") == 2)
            until(lambda: "is kept: 'middle' can't be rewound" in caplog.text)
            assert detached.result(SOON) is None
            assert client.start_orchestration("leaf").wait(SOON).failure is not None
            assert child.status().runtime_status is durable.RuntimeStatus.RUNNING
        with durable.Worker(client, registry=app, shutdown_grace=0):
            assert client.start_orchestration("leaf").wait(SOON).failure is not None
    assert caplog.text.count("a stored history row has format 99") == 3
    assert "the store did not answer" not in caplog.text


def test_case_116_changed_bytes_of_a_blob(tmp_path: Path) -> None:
    shop = durable.Registry()

    @shop.orchestrator(name="large")
    def large(ctx: durable.OrchestrationContext, text: str) -> int:
        return len(text)

    blobs = tmp_path / "blobs"
    with durable.connect(f"sqlite:///{tmp_path}/store.db", blobs=f"file://{blobs}") as client:
        handle = client.start_orchestration("large", "x" * 200_000)
        [path] = [path for path in blobs.rglob("*") if path.is_file()]
        sound = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(sound.replace(b"x", b"y", 1))
        with (
            durable.Worker(client, registry=shop, shutdown_grace=0),
            pytest.raises(durable.OrchestrationBlockedError, match="its bytes have changed"),
        ):
            handle.result(SOON, on_blocked="raise")
        path.write_bytes(sound)
        with durable.Worker(client, registry=shop, shutdown_grace=0):
            assert handle.result(SOON) == 200_000


def test_case_118_a_row_for_a_task_that_is_not_in_the_history(place: Any) -> None:
    shop = Shop()
    with durable.connect(place.url) as client:
        handle = client.start_orchestration("flow", instance_id="sound")
        store = client.backend.store
        [record] = store.load([Want("sound")])
        assert record is not None
        execution = record.summary.execution_id
        stray = [f"{execution}/77/1", f"{execution}/1/9", f"{'0' * 32}/1/1"]
        odd = Row(f"{execution}/odd", "message", "sound", 0, 0.0, body=b"\xff no message")
        rows = [Row(key, "task", "sound", 0, 0.0, body=b"?") for key in stray]
        store.commit([Commit("stray", "sound", 0, record.version, record.summary, put=(*rows, odd))])
        with durable.Worker(client, registry=shop.registry, shutdown_grace=0):
            handle.raise_event("go", 1)
            handle.raise_event("last", 2)
            assert handle.result(SOON) == ["sound", "sound", 1, 2]
            until(lambda: store.rows([RowKey(0, key) for key in stray]) == [None] * 3)
            assert store.rows([RowKey(0, odd.key)]) != [None]  # it is for somebody: kept, and said in the log
        assert shop.ran == ["sound", "sound"]
