"""Systems to try things on: `bench` and `world`, on each store, with and without a broker.

The matrix is store x transport. A test runs on the embedded kinds; marked `everywhere` (itself, or its file) also on
redis, sqlite+rabbitmq and redis+rabbitmq; marked `on_dynamodb` also on dynamodb and dynamodb+rabbitmq, whose test
server is slow; and with the marker `slow` every test runs on all there are. What holds on the embedded kinds only is
marked `embedded`, with the reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest

import durable
from tests.servers.rabbitmq_server import RabbitServer
from tests.waiting import SOON, until

# Kinds: a store, `+rabbitmq` with a broker (`+redis`: with a Redis as one), `-cold` where nothing is kept warm: every
# turn replays the whole history. cluster: a Redis Cluster of three masters.
EMBEDDED: Final = {"bench": ("memory", "memory-cold", "sqlite"), "world": ("memory", "sqlite")}
EVERYWHERE: Final = ("redis", "sqlite+rabbitmq", "redis+rabbitmq")
SLOW: Final = ("memory+rabbitmq", "redis+redis", "redis+rabbitmq-cold", "cluster", "valkey")
SERVERS: Final = {"redis": "redis_server", "cluster": "redis_cluster", "valkey": "valkey_server"}
DYNAMODB: Final = ("dynamodb", "dynamodb+rabbitmq")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "everywhere: in `make test` also on servers (see tests/product/conftest.py)")
    config.addinivalue_line("markers", "on_dynamodb: in `make test` also on DynamoDB")
    config.addinivalue_line("markers", "not_on_dynamodb(reason): on no kind of DynamoDB")
    config.addinivalue_line("markers", "embedded(reason): on embedded stores only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, embedded in EMBEDDED.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [*embedded, *_on_servers(metafunc.definition)], indirect=True)


def _on_servers(test: pytest.Item) -> list[Any]:
    if test.get_closest_marker("embedded") is not None:
        return []
    slow = [] if test.get_closest_marker("everywhere") else [pytest.mark.slow]
    few = [] if test.get_closest_marker("on_dynamodb") else [pytest.mark.slow]
    dynamodb = () if test.get_closest_marker("not_on_dynamodb") else DYNAMODB
    return [
        *(pytest.param(kind, marks=slow) for kind in EVERYWHERE),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW),
        *(pytest.param(kind, marks=few) for kind in dynamodb),
    ]


class Place(NamedTuple):
    """What to connect to; a workspace of its own."""

    url: str
    events: str | None
    workspace: str

    def connect(self, **options: Any) -> durable.Client:
        return durable.connect(self.url, events=self.events, workspace=self.workspace, **options)


@pytest.fixture(scope="session")
def queue_remover(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Deletes queues of a workspace (those of the default group and queue, unless told which): a session makes many."""
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    connection = pika.BlockingConnection(pika.URLParameters(server.url() + "?heartbeat=0"))
    channel = connection.channel()

    def remove(workspace: str, *queues: str) -> None:
        for queue in queues or ("work.default", "outcomes.default.0", "dead-letters"):
            channel.queue_delete(f"durable.{workspace}.{queue}")

    yield remove
    connection.close()


@pytest.fixture
def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """Makes the place of a kind."""
    workspace = uuid4().hex[:8]
    with ExitStack() as after:

        def make(kind: str) -> Place:
            store, _, broker = kind.removesuffix("-cold").partition("+")
            events = None
            if broker == "redis":
                events = request.getfixturevalue("redis_server").url
            elif broker:
                events = request.getfixturevalue("rabbitmq_server").url()
                after.callback(request.getfixturevalue("queue_remover"), workspace)
            if store == "dynamodb":
                return Place(request.getfixturevalue("dynamodb_server").url("&partitions=1"), events, workspace)
            if store in SERVERS:
                return Place(request.getfixturevalue(SERVERS[store]).url + "?partitions=1", events, workspace)
            return Place(
                f"sqlite:///{tmp_path}/store.db" if store == "sqlite" else f"memory://{workspace}", events, workspace
            )

        yield make


class World:
    """`client` and `registry` before a worker runs; `work()` runs one, `run()` an orchestrator to its end."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.client = place.connect()
        self.registry = durable.Registry()
        self.worker: durable.Worker | None = None

        @self.registry.activity(name="healthy.step")
        def step(number: int) -> int:
            return number + 1

        @self.registry.orchestrator(name="healthy")
        def healthy(ctx: durable.OrchestrationContext, number: int) -> Generator[Any, Any, int]:
            for _ in range(3):
                number = yield ctx.call_activity(step, number)
            return number

    def work(self, **options: Any) -> durable.Worker:
        assert self.worker is None
        self.worker = durable.Worker(self.client, registry=self.registry, shutdown_grace=0, **options)
        self.worker.start()
        return self.worker

    def connect(self, limits: durable.Limits) -> None:
        """Start again with other limits; before `work()`."""
        self.client.close()
        self.client = self.place.connect(limits=limits)

    def start(self, orchestrator: Callable[..., Any] | str, *args: Any) -> durable.OrchestrationHandle[Any]:
        """Start a raw orchestrator function under a fresh name, served by the worker (which starts if need be)."""
        ref: Any = orchestrator
        if not isinstance(orchestrator, str):
            name = f"{orchestrator.__name__}.{len(self.registry.names('orchestrator'))}"
            ref = self.registry.orchestrator(name=name)(orchestrator)
        handle: durable.OrchestrationHandle[Any] = self.client.start_orchestration(ref, *args)
        if self.worker is None:
            self.work()
        return handle

    def run(self, orchestrator: Callable[..., Any] | str, *args: Any) -> Any:
        """Its output."""
        return self.start(orchestrator, *args).result(SOON, on_blocked="raise")

    def fails(self, orchestrator: Callable[..., Any] | str, *args: Any) -> durable.FailureDetails:
        """Why it failed, as it must."""
        with pytest.raises(durable.OrchestrationFailedError) as caught:
            self.run(orchestrator, *args)
        return caught.value.failure

    def is_well(self) -> None:
        """The same worker still completes a healthy orchestration."""
        assert self.run("healthy", 1) == 4


@pytest.fixture
def world(request: pytest.FixtureRequest, place_of: Callable[[str], Place]) -> Iterator[World]:
    """A system of each kind; when the test is over, it must still be well."""
    world = World(place_of(request.param))
    yield world
    world.is_well()
    assert world.worker is not None
    world.worker.stop()
    world.client.close()


class Heard(logging.Handler):
    """Log records, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self._said: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self._said.append(f"{record.levelname} {record.getMessage()}")
            self._changed.notify_all()

    def wait_for(self, *parts: str) -> str:
        """The first record that holds all these texts."""

        def find() -> str | None:
            return next((text for text in self._said if all(part in text for part in parts)), None)

        with self._changed:
            found = self._changed.wait_for(find, SOON)
            assert found, (parts, self._said)
            return found


@pytest.fixture
def log() -> Iterator[Heard]:
    """What is logged under `durable`."""
    heard = Heard()
    logger = logging.getLogger("durable")
    before = logger.level
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    yield heard
    logger.setLevel(before)
    logger.removeHandler(heard)


class Bench:
    """One store, a client on it, and workers that end with the test. `cold`: every turn replays the whole history."""

    def __init__(self, place: Place, cold: bool) -> None:
        self.place = place
        self.cold = cold
        self.client = place.connect()
        self._closing = ExitStack()
        self._closing.callback(self.client.close)

    def worker(self, registry: durable.Registry, **options: Any) -> durable.Worker:
        """A worker that is not started yet."""
        options = {"max_cached_orchestrations": 0 if self.cold else 10_000, "shutdown_grace": 0} | options
        return durable.Worker(self.client, registry=registry, **options)

    def serve(self, registry: durable.Registry, **options: Any) -> durable.Worker:
        """A worker that runs until the test ends, or is stopped."""
        return self._closing.enter_context(self.worker(registry, **options))

    def connect(self, **options: Any) -> durable.Client:
        """Another client of the same store."""
        return self._closing.enter_context(self.place.connect(**options))

    def start(self, orchestrator: Any, *args: Any, **options: Any) -> durable.OrchestrationHandle[Any]:
        handle: durable.OrchestrationHandle[Any] = self.client.start_orchestration(orchestrator, *args, **options)
        return handle

    def run(self, orchestrator: Any, *args: Any, **options: Any) -> Any:
        """The output."""
        return self.start(orchestrator, *args, **options).result(SOON, on_blocked="raise")

    def fails(self, orchestrator: Any, *args: Any, **options: Any) -> durable.FailureDetails:
        """Why it failed, as it must."""
        with pytest.raises(durable.OrchestrationFailedError) as caught:
            self.run(orchestrator, *args, **options)
        return caught.value.failure

    def blocked(self, handle: durable.OrchestrationHandle[Any]) -> str:
        """Why it is blocked, once it is."""
        with pytest.raises(durable.OrchestrationBlockedError) as caught:
            handle.result(SOON, on_blocked="raise")
        return caught.value.reason

    def history(self, handle: durable.OrchestrationHandle[Any], **options: Any) -> list[durable.HistoryEvent]:
        """Its events, without the OrchestratorStarted ones: how facts are grouped into turns is not promised."""
        events: list[durable.HistoryEvent] = self.client.history(handle.instance_id, **options)
        return [event for event in events if event.type != "OrchestratorStarted"]

    def types(self, handle: durable.OrchestrationHandle[Any], **options: Any) -> list[str]:
        return [event.type for event in self.history(handle, **options)]

    def until_recorded(self, handle: durable.OrchestrationHandle[Any], kind: str, count: int = 1) -> None:
        """Wait until its history holds so many events of a type."""
        until(lambda: self.types(handle).count(kind) >= count)

    def close(self) -> None:
        self._closing.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest, place_of: Callable[[str], Place]) -> Iterator[Bench]:
    """A store of each kind; on some of them nothing is kept warm."""
    bench = Bench(place_of(request.param), request.param.endswith("-cold"))
    yield bench
    bench.close()
