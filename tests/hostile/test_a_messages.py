"""A: messages that nobody of ours wrote, in the queues of real brokers, in the middle of healthy work.

All of them are there while a worker runs, each in a queue of invocations and in one of outcomes; what became of it is
one test. The orchestration `asked` waits for the outcome of an activity that this test serves by hand: whatever the
messages say of it, its result is the one that the test sent.
"""

from __future__ import annotations

import json
import resource
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest
import redis

import durable
from durable.backends.rabbitmq_frames import Connection
from tests.hostile.messages import HOSTILE, INVOCATION, SET_ASIDE, Hostile, Table, event
from tests.waiting import SOON, until

TIMES: Final = 10_000  # case 22
QUEUES: Final = ("work.default", "outcomes.default.0")
BY_ITSELF: Final = [one for one in HOSTILE if not one.case.startswith("case 7 ")]  # 250 cuts are one test
PLAIN: Final = [one for one in HOSTILE if not one.properties]
Steps = Generator[Any, Any, Any]


class Broker(Protocol):
    """One as somebody sees it who may write to our queues. `hostile`: what can be said there."""

    hostile: list[Hostile]

    def publish(self, queue: str, one: Hostile, label: str) -> None: ...

    def take(self, queue: str) -> bytes | None: ...

    def depth(self, queue: str) -> int: ...

    def dead(self) -> Counter[str]:
        """How often each label is among the dead letters."""
        ...


class Rabbit:
    hostile = HOSTILE

    def __init__(self, url: str, workspace: str) -> None:
        # The plain one of pika breaks at what some of the dead letters have in their headers.
        self.connection = pika.BlockingConnection(pika.URLParameters(url + "?heartbeat=0"), _impl_class=Connection)
        self.channel = self.connection.channel()
        self.prefix = f"durable.{workspace}."

    def make(self, queue: str) -> None:
        dead = self.prefix + "dead-letters"
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": 20, "x-dead-letter-exchange": dead}
        self.channel.queue_declare(self.prefix + queue, durable=True, arguments=arguments)

    def publish(self, queue: str, one: Hostile, label: str) -> None:
        odd = "table" in one.properties
        properties = (Table if odd else pika.BasicProperties)(message_id=label, **one.properties)
        self.channel.basic_publish("", self.prefix + queue, label.encode() if odd else one.body, properties)

    def take(self, queue: str) -> bytes | None:
        body: bytes | None = self.channel.basic_get(self.prefix + queue, auto_ack=True)[2]
        return body

    def depth(self, queue: str) -> int:
        return int(self.channel.queue_declare(self.prefix + queue, passive=True).method.message_count)

    def dead(self) -> Counter[str]:
        found: Counter[str] = Counter()
        while True:
            method, properties, body = self.channel.basic_get(self.prefix + "dead-letters", auto_ack=True)
            if method is None:
                return found
            found[properties.message_id or body.decode()] += 1

    def close(self) -> None:
        for queue in (*QUEUES, "work.hand", "dead-letters"):
            self.channel.queue_delete(self.prefix + queue)
        self.connection.close()


class Streams:
    hostile = PLAIN

    def __init__(self, url: str, workspace: str) -> None:
        self.server = redis.Redis.from_url(url)
        self.prefix = f"durable.{workspace}."
        self.labels: dict[tuple[str, bytes], str] = {}

    def key(self, queue: str) -> str:
        return f"durable:{{{self.prefix}{queue}}}:stream"

    def make(self, queue: str) -> None:
        self.server.xgroup_create(self.key(queue), "durable", "0", mkstream=True)

    def publish(self, queue: str, one: Hostile, label: str) -> None:
        self.labels[self.prefix + queue, one.body] = label
        self.server.xadd(self.key(queue), {"event": one.body})

    def take(self, queue: str) -> bytes | None:
        found: Any = self.server.xreadgroup("durable", "hand", {self.key(queue): ">"}, count=1, noack=True)
        return None if not found else next(iter(found[0][1]))[1][b"event"]

    def depth(self, queue: str) -> int:
        return int(self.server.xlen(self.key(queue)))

    def dead(self) -> Counter[str]:
        entries: Any = self.server.xrange(self.key("dead-letters"))
        return Counter(self.labels[fields[b"queue"].decode(), fields[b"event"]] for _, fields in entries)

    def close(self) -> None:
        self.server.close()


class Aftermath(NamedTuple):
    """dead: by message and queue. grown: kilobytes that this process had to have more."""

    hostile: list[Hostile]
    dead: Counter[str]
    healthy: list[int]
    asked: str
    folder: Path
    grown: int
    findings: list[str]


def app() -> durable.Registry:
    registry = durable.Registry()

    @registry.activity(name="step")
    def step(number: int) -> int:
        return number + 1

    @registry.orchestrator(name="healthy")
    def healthy(ctx: durable.OrchestrationContext, number: int) -> Steps:
        for _ in range(3):
            number = yield ctx.call_activity(step, number)
        return number

    @registry.orchestrator(name="asks")
    def asks(ctx: durable.OrchestrationContext) -> Steps:
        return (yield ctx.call_activity(durable.activity_ref("by.hand", returns=str, queue="hand")))

    return registry


def lived_through(client: durable.Client, broker: Any, folder: Path) -> Aftermath:
    """Healthy orchestrations before, among and after the hostile messages."""
    for name in ("finished", "purged"):
        client.start_orchestration("healthy", 0, instance_id=name).result(SOON)
    client.purge("purged")
    broker.make("work.hand")
    asked = client.start_orchestration("asks", instance_id="asked")
    until(lambda: broker.depth("work.hand"))
    call = json.loads(broker.take("work.hand"))["data"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handles = client.start_many("healthy", list(range(50)))
    for number, one in enumerate(broker.hostile):
        for queue in QUEUES:
            body = one.body.replace(*INVOCATION) if queue.startswith("work") else one.body
            broker.publish(queue, one._replace(body=body), f"{number} {queue}")
    handles += client.start_many("healthy", list(range(50, 100)))
    healthy = [handle.result(SOON) for handle in handles]
    until(lambda: broker.depth("dead-letters") >= 2 * sum(one.fate == SET_ASIDE for one in broker.hostile))
    until(lambda: not any(map(broker.depth, QUEUES)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    right = {name: call[name] for name in ("instance_id", "execution_id", "task_id", "attempt")}
    for n in range(TIMES):
        result = "the first" if n == 0 else f"another {n % 2}"
        broker.publish(QUEUES[1], Hostile("", event(right | {"result": result})), "right")
    outcome = asked.result(SOON)
    until(lambda: not broker.depth(QUEUES[1]))
    healthy.append(client.start_orchestration("healthy", 100).result(SOON))
    findings = [finding.what for finding in client.diagnose().findings]
    return Aftermath(broker.hostile, broker.dead(), healthy, outcome, folder, grown, findings)


@pytest.fixture(scope="module", params=["rabbitmq", "streams"])
def aftermath(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    folder, workspace = tmp_path_factory.mktemp("a"), uuid4().hex[:8]
    rabbit = request.param == "rabbitmq"
    server = request.getfixturevalue("rabbitmq_server" if rabbit else "redis_server")
    url = server.url() if rabbit else server.url
    store = f"sqlite:///{folder}/store.db" if rabbit else url + "?partitions=1"
    with ExitStack() as after, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        client = after.enter_context(durable.connect(store, events=url, workspace=workspace))
        after.enter_context(durable.Worker(client, registry=app(), eager_activities=False, shutdown_grace=0))
        broker = (Rabbit if rabbit else Streams)(url, workspace)
        after.callback(broker.close)
        yield lived_through(client, broker, folder)


def fate(aftermath: Aftermath, one: Hostile) -> set[int]:
    number = aftermath.hostile.index(one)
    return {aftermath.dead[f"{number} {queue}"] for queue in QUEUES}


@pytest.mark.parametrize("one", BY_ITSELF, ids=lambda one: one.case)
def test_it_is_set_aside_once_or_ignored(aftermath: Aftermath, one: Hostile) -> None:
    if one in aftermath.hostile:  # a stream has no properties
        assert fate(aftermath, one) == {int(one.fate == SET_ASIDE)}


def test_case_7_cut_anywhere_it_is_set_aside_once(aftermath: Aftermath) -> None:
    cut = [one for one in aftermath.hostile if one.case.startswith("case 7 ")]
    assert len(cut) > 200
    assert set.union(*(fate(aftermath, one) for one in cut)) == {1}


def test_case_16_of_two_outcomes_for_one_task_the_first_counts(aftermath: Aftermath) -> None:
    assert aftermath.asked == "the first"


def test_case_22_ten_thousand_copies_are_one_and_nothing_else_was_set_aside(aftermath: Aftermath) -> None:
    assert aftermath.dead.total() == 2 * sum(one.fate == SET_ASIDE for one in aftermath.hostile)


def test_healthy_work_goes_on_in_bounded_memory_and_nothing_was_unpickled(aftermath: Aftermath) -> None:
    assert aftermath.healthy == [n + 3 for n in range(101)]
    assert aftermath.grown < 400_000
    assert not (aftermath.folder / "unpickled").exists()
    [letters] = aftermath.findings
    assert "dead-letters" in letters
