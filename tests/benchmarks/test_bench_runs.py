"""The benchmark runs and shows every row; no figure is judged here. What it compares with does the same work."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]  # botocore has no py.typed

import durable
from durable.engine.instance import Invocation
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.model.status import RuntimeStatus, Summary
from durable.runtime import wire
from durable.runtime.serving import ALONE
from tests.conftest import need
from tests.servers.dynamodb_server import DynamoServer, missing_dynamodb
from tests.servers.rabbitmq_server import missing_rabbitmq
from tests.servers.redis_server import missing_redis

HERE = Path(__file__).parent
PATIENCE = 400  # seconds; the longest takes 40, where the machine has nothing else to do
pytestmark = pytest.mark.timeout(PATIENCE + 20)
SQLITE = (
    "many single alone parallel-1000 parallel-10000 steps-1000 steps-5000 steps-50000 import import-all parked-100000 "
    "idle"
)
SERVERS = (
    "redis-many redis-single redis-alone redis-one redis-two redis-idle streams-many streams-single streams-alone "
    "streams-one streams-two cluster-many cluster-single cluster-alone "
    "eager-many eager-single eager-alone eager-one eager-two "
    "broker-many broker-single broker-alone broker-one broker-two broker-idle"
)
DYNAMODB = "dynamodb-many dynamodb-single dynamodb-alone"


def run(folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """What `run.py --quick` prints, and its JSON."""
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--json", "out.json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert [path.name for path in folder.iterdir()] == ["out.json"]
    return done.stdout, json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return run(tmp_path_factory.mktemp("bench"), "--servers", "none")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    need(missing_redis())
    need(missing_rabbitmq())
    return run(tmp_path_factory.mktemp("bench"), "--only", *SERVERS.split())


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    need(missing_dynamodb())
    return run(tmp_path_factory.mktemp("bench"), "--servers", "dynamodb", "--only", *DYNAMODB.split())


def check_every_row(shown: tuple[str, dict[str, Any]], rows: str) -> None:
    text, document = shown
    assert {result["row"] for result in document["results"]} == set(rows.split())
    for result in document["results"]:
        assert result["label"] in text
        assert result["median"] > 0 or result["row"].endswith("idle")
        assert result["raw_median"] is None or result["raw_median"] > 0
    assert "MISSED" not in text, "--quick judges nothing"
    assert max(map(len, text.splitlines())) <= 100


def check_bytes(document: dict[str, Any]) -> None:
    compared = [result for result in document["results"] if result["stored_bytes"]]
    assert compared
    for result in compared:
        assert result["raw_stored_bytes"] == pytest.approx(result["stored_bytes"], rel=0.15), result["row"]


def test_every_row_is_shown(sqlite: tuple[str, dict[str, Any]]) -> None:
    check_every_row(sqlite, SQLITE)


def test_raw_stores_what_the_product_stores(sqlite: tuple[str, dict[str, Any]]) -> None:
    check_bytes(sqlite[1])


@pytest.mark.slow
def test_every_row_with_servers_is_shown(servers: tuple[str, dict[str, Any]]) -> None:
    check_every_row(servers, SERVERS)


@pytest.mark.slow
def test_raw_stores_in_redis_what_the_product_stores(servers: tuple[str, dict[str, Any]]) -> None:
    check_bytes(servers[1])


@pytest.mark.slow
def test_every_row_with_an_emulator_is_shown(emulator: tuple[str, dict[str, Any]]) -> None:
    check_every_row(emulator, DYNAMODB)


@pytest.mark.slow
def test_raw_stores_in_dynamodb_what_the_product_stores(emulator: tuple[str, dict[str, Any]]) -> None:
    check_bytes(emulator[1])


def test_the_measurement_beside_a_busy_thread_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "busy_thread.py"), "--sequences", "50", "--repeats", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.count("beside a busy thread") == 2
    assert list(tmp_path.iterdir()) == []


def test_raw_sends_as_many_and_as_long_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    life = importlib.import_module("raw_messages").hello()
    now = datetime.now(timezone.utc)
    instance, execution = "a" * 32, "b" * 32
    task = Invocation(instance, execution, 1, 1, "hello", Raw(b'"Tokyo"'), "", orchestrator="hello_sequence")
    asked = wire.invocation_message(task, ALONE, 16, "c" * 32, now, resent=False)
    event = Event(h.TASK_COMPLETED, now, task_id=1, attempt=1, result=Raw(b'"Hello Tokyo!"'))
    done = wire.outcome_message(task, event, "default", life.outcomes[0].key)
    summary = Summary(
        instance,
        execution,
        "hello_sequence",
        RuntimeStatus.COMPLETED,
        now,
        now,
        output=Raw(b'["Hello Tokyo!","Hello Seattle!","Hello London!"]'),
        reply_to="durable.default.reply." + "d" * 32,
    )
    ended = wire.lifecycle_messages(summary, 10, ALONE)
    assert (len(life.started), len(life.invocations), len(life.outcomes), len(life.ended)) == (1, 3, 3, len(ended))
    for raw, product in ((life.invocations[0], asked), (life.outcomes[0], done), (life.ended[1], ended[1])):
        assert len(raw.body) == pytest.approx(len(product.body), rel=0.15), raw.type
        assert raw.type == product.type


@pytest.mark.slow
def test_raw_sends_the_same_transactions(dynamodb_server: DynamoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    raw = importlib.import_module("raw_dynamodb")
    asked: list[Any] = []
    send = URLLib3Session.send

    def recorded(session: Any, request: Any) -> Any:
        asked.append(request)
        return send(session, request)

    monkeypatch.setattr(URLLib3Session, "send", recorded)
    count = 10
    app = durable.Registry()

    @app.activity(name="hello")
    def hello(city: str) -> str:
        return f"Hello {city}!"

    @app.orchestrator(name="hello_sequence")
    def hello_sequence(ctx: durable.OrchestrationContext) -> Generator[Any, Any, list[str]]:
        first = yield ctx.call_activity(hello, "Tokyo")
        second = yield ctx.call_activity(hello, "Seattle")
        third = yield ctx.call_activity(hello, "London")
        return [first, second, third]

    url = dynamodb_server.url()
    with durable.connect(url, workspace="bench") as client, durable.Worker(client, registry=app):
        client.start_orchestration(hello_sequence).result(60)  # then the worker has its share
        asked.clear()
        for handle in client.start_many(hello_sequence, [None] * count):
            handle.result(60)
    product = tally(asked)
    asked.clear()
    raw.write(url, "many", count, 0, float)
    bare = tally(asked)
    assert (bare["transactions"], bare["actions"]) == (product["transactions"], product["actions"])
    assert bare["bytes"] == pytest.approx(product["bytes"], rel=0.15)


def tally(asked: list[Any]) -> Counter[str]:
    """Transactions, and the actions and bytes in them."""
    found: Counter[str] = Counter()
    for request in asked:
        actions = json.loads(request.body).get("TransactItems")
        if actions:
            found += Counter(transactions=1, actions=len(actions), bytes=len(request.body))
    return found


def test_the_measurement_of_triggers_runs(tmp_path: Path) -> None:
    need(missing_redis())
    need(missing_rabbitmq())
    command = [sys.executable, str(HERE / "triggers.py"), "--repeats", "1", "--events", "2000", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    rows = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert rows == [f"{row}, {place}" for place in ("redis", "rabbitmq") for row in ("join", "latency", "chain")]
