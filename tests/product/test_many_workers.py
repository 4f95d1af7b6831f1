"""Many workers on Redis and RabbitMQ, in this process and in others, as seen by clients, pika and the SDK."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote
from uuid import uuid4

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest
import redis
from cloudevents.core.bindings.rabbitmq import (
    RabbitMQMessage,
    from_rabbitmq_event,
    to_binary_event,
    to_structured_event,
)

import durable
from tests.product import conftest
from tests.product.conftest import Heard
from tests.product.shared_work import LEDGER, app
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer
from tests.waiting import SOON, until

PROGRAM = Path(__file__).with_name("shared_work.py")
SAMPLE = PROGRAM.parents[2] / "samples" / "foreign_worker.py"


class Outsider:
    """A program of somebody else's: pika and the CloudEvents SDK. For one thread."""

    def __init__(self, url: str, workspace: str) -> None:
        self.workspace = workspace
        self._url = url
        self._open()
        self.received: list[durable.CloudEvent] = []
        self.keys: list[str] = []

    def _open(self) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(self._url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def close(self) -> None:
        self.connection.close()

    def work(self, queue: str) -> str:
        return f"durable.{self.workspace}.work.{queue}"

    def depth(self, queue: str) -> int:
        """How many messages wait in a queue that is there."""
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def consumers(self, queue: str) -> int:
        """How many receive from it."""
        return int(self.channel.queue_declare(queue, passive=True).method.consumer_count)

    def exists(self, queue: str) -> bool:
        """Asked on a channel that the broker closes for a no."""
        channel = self.connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        channel.close()
        return True

    def publish(self, queue: str, body: bytes, content_type: str | None = None, headers: Any = None) -> None:
        """Confirmed by the broker when it returns."""
        properties = pika.BasicProperties(content_type=content_type, headers=headers, delivery_mode=2)
        self.channel.basic_publish("", queue, body, properties, mandatory=True)

    def send(self, queue: str, event: durable.CloudEvent, *, binary: bool = False) -> None:
        message = (to_binary_event if binary else to_structured_event)(event)
        self.publish(queue, message.body, message.content_type, dict(message.headers))

    def receive(self, queue: str, priority: int = 0) -> None:
        """Everything that comes to the queue, until the test ends."""

        def came(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            message = RabbitMQMessage(properties.headers or {}, properties.content_type, body)
            self.received.append(from_rabbitmq_event(message))
            self.keys.append(method.routing_key)
            channel.basic_ack(method.delivery_tag)

        try:
            self.channel.basic_consume(queue, came, arguments={"x-priority": priority})
        except pika.exceptions.ConnectionClosedByBroker as error:
            # A quorum queue made a moment ago has no leader yet while the disk is busy; RabbitMQ 3.10 says 541 then.
            assert error.reply_code == 541
            self._open()
            self.receive(queue, priority)

    def wait(self, count: int) -> list[durable.CloudEvent]:
        """The first so many events."""
        deadline = time.monotonic() + SOON
        while len(self.received) < count:
            assert time.monotonic() < deadline, (count, self.received)
            self.connection.process_data_events(0.05)
        return self.received[:count]


class Place:
    """A workspace on the session's servers, and what runs on it until the test ends."""

    def __init__(
        self, redis: RedisServer | RedisCluster, events: str | None, folder: Path, partitions: int | None
    ) -> None:
        self.url = redis.url + (f"?partitions={partitions}" if partitions else "")
        self.events = events
        self.workspace = uuid4().hex[:8]
        self.folder = folder
        self.closing = ExitStack()
        self.client = self.connect()

    def connect(self, workspace: str | None = None) -> durable.Client:
        client = durable.connect(self.url, events=self.events, workspace=workspace or self.workspace)
        return self.closing.enter_context(client)

    def serve(self, me: str | durable.Registry, **options: Any) -> durable.Worker:
        """A worker in this process, on a client of its own."""
        registry = app(me) if isinstance(me, str) else me
        worker = durable.Worker(self.connect(), registry=registry, **{"shutdown_grace": 0, **options})
        return self.closing.enter_context(worker)

    def program(self, *command: object) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DURABLE_")}
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=self.folder, env=kept, stdout=subprocess.PIPE, text=True
        )
        self.closing.callback(process.communicate)
        self.closing.callback(process.kill)
        return process

    def process(self, what: str, *rest: str) -> subprocess.Popen[str]:
        """shared_work.py on this workspace."""
        return self.program(PROGRAM, what, self.url, self.events or "", self.workspace, *rest)

    def outsider(self) -> Outsider:
        assert self.events is not None
        outsider = Outsider(self.events, self.workspace)
        self.closing.callback(outsider.close)
        return outsider

    def start(self, orchestrator: str, *args: Any, **options: Any) -> durable.OrchestrationHandle[Any]:
        return self.client.start_orchestration(orchestrator, *args, **options)

    def run(self, orchestrator: str, *args: Any) -> Any:
        return self.start(orchestrator, *args).result(SOON)

    def signed(self, handles: Sequence[durable.OrchestrationHandle[Any]]) -> list[str]:
        """Who took the first turn of each of these gates."""
        return [self.client.wait(h.instance_id, SOON, until="started").custom_status for h in handles]

    def open(self, handles: Sequence[durable.OrchestrationHandle[Any]]) -> list[str]:
        """Who took the last one."""
        for handle in handles:
            handle.raise_event("go")
        return [handle.result(SOON) for handle in handles]


def places(
    redis: RedisServer | RedisCluster, events: str | None, folder: Path, partitions: int | None
) -> Iterator[Place]:
    """A workspace, until the test ends."""
    place = Place(redis, events, folder, partitions)
    with place.closing:
        yield place


@pytest.fixture
def place(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A workspace of two partitions."""
    monkeypatch.chdir(tmp_path)
    yield from places(redis_server, rabbitmq_server.url(), tmp_path, 2)


@pytest.fixture
def wide_place(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A workspace of as many partitions as one has that nobody thought about."""
    monkeypatch.chdir(tmp_path)
    yield from places(redis_server, rabbitmq_server.url(), tmp_path, None)


# ---- partitions


def test_partitions_are_shared_and_taken_over_from_the_killed_and_the_stopped(wide_place: Place) -> None:
    place = wide_place
    killed = place.process("work")
    stopped = place.serve("stopped")
    place.serve("survivor")
    gates: list[durable.OrchestrationHandle[Any]] = []

    def all_have_signed() -> bool:
        gates.extend(place.client.start_many("gate", [None] * 10))
        return {str(killed.pid), "stopped", "survivor"} <= set(place.signed(gates)) and len(gates) >= 30

    until(all_have_signed)
    killed.kill()
    began = time.monotonic()
    taken_over = [gate for gate, who in zip(gates, place.signed(gates), strict=True) if who == str(killed.pid)]
    assert set(place.open(taken_over)) <= {"stopped", "survivor"}
    assert time.monotonic() - began < 8  # a takeover after 2.5 seconds of silence, and a slow machine
    stopped.stop()
    rest = [gate for gate in gates if gate not in taken_over]
    assert set(place.open(rest)) == {"survivor"}


def test_a_worker_that_comes_later_gets_its_share(wide_place: Place) -> None:
    place = wide_place
    place.serve("first")
    assert set(place.signed(place.client.start_many("gate", [None] * 10))) == {"first"}
    place.serve("second")
    until(lambda: set(place.signed(place.client.start_many("gate", [None] * 20))) == {"first", "second"})


def test_a_rolling_restart_under_load_loses_nothing_and_repeats_nothing(wide_place: Place) -> None:
    place = wide_place
    workers = [place.serve("1", shutdown_grace=10), place.serve("2", shutdown_grace=10)]
    process = place.process("work")
    over = threading.Event()
    handles: list[durable.OrchestrationHandle[Any]] = []

    def load() -> None:
        while not over.wait(0.1):
            numbers = range(len(handles), len(handles) + 5)
            handles.extend(place.client.start_many("steps", numbers))

    loading = threading.Thread(target=load)
    loading.start()

    def more() -> None:
        enough = len(handles) + 20
        until(lambda: len(handles) > enough)

    for number in (0, 1):
        more()
        workers[number].stop()
        workers[number] = place.serve(f"new {number}", shutdown_grace=10)
    until(lambda: str(process.pid) in place.signed(place.client.start_many("gate", [None] * 10)))  # it is up
    process.send_signal(signal.SIGTERM)
    assert process.wait(SOON) == 0
    place.process("work")
    more()
    over.set()
    loading.join()
    assert [handle.result(SOON) for handle in handles] == [number + 4 for number in range(len(handles))]
    ran = Counter((place.folder / LEDGER).read_text().split())
    assert len(ran) == 4 * len(handles)
    assert [key for key, times in ran.items() if times > 1] == []


def test_a_worker_that_has_just_come_is_not_taken_for_dead(wide_place: Place) -> None:
    """It commits before the others have heard of it."""
    place = wide_place
    place.serve("first")
    place.run("step", "who")
    place.serve("second")
    for handle in place.client.start_many("steps", range(100)):
        handle.result(SOON)
    assert [key for key, n in Counter((place.folder / LEDGER).read_text().split()).items() if n > 1] == []


def test_what_runs_elsewhere_is_left_alone_when_its_orchestration_moves(place: Place) -> None:
    gate, began = threading.Event(), list[str]()

    def serve_activities(me: str) -> None:
        registry = durable.Registry()

        @registry.activity(name="long")
        def long() -> str:
            began.append(me)
            gate.wait(SOON)
            return me

        registry.activity(name="short")(lambda: me)
        place.serve(registry, groups=["none"], queues=["gpu"], max_concurrent_activities=1)

    first = place.serve("first")
    serve_activities("busy")
    long = place.start("step", "long", "gpu")
    until(lambda: began)
    serve_activities("idle")
    first.stop()
    place.serve("second")
    short = place.start("step", "short", "gpu")  # behind whatever was sent again
    until(lambda: short.status().runtime_status == "COMPLETED" or len(began) > 1)
    gate.set()
    assert long.result(SOON) == "busy"
    assert began == ["busy"]


def test_what_a_stopped_worker_was_running_runs_elsewhere_at_once(place: Place) -> None:
    gate, running = threading.Event(), threading.Event()
    registry = app("stopped")

    @registry.activity(name="hang")
    def hang() -> str:
        running.set()
        gate.wait(SOON)
        return "too late"

    worker = place.serve(registry, max_concurrent_activities=1)
    handles = [place.start("step", "hang") for _ in range(3)]
    assert running.wait(SOON)
    worker.stop()
    other = app("other")
    other.activity(name="hang")(lambda: "done")
    began = time.monotonic()
    place.serve(other)
    assert [handle.result(SOON) for handle in handles] == ["done"] * 3
    assert time.monotonic() - began < 8  # not the minute after which a lease ends
    gate.set()
    kinds = [event.type for event in place.client.history(handles[0].instance_id)]
    assert kinds.count("TaskCompleted") == 1


# ---- removing what has ended


def test_a_purge_that_is_killed_on_its_way_is_taken_up_by_the_next(place: Place) -> None:
    place.serve("plain")
    for handle in place.client.start_many("step", ["who"] * 500):
        assert handle.result(SOON) == "plain"
    code = (
        "import durable, sys; client = durable.connect(sys.argv[1], events=sys.argv[2], workspace=sys.argv[3]); "
        "client.purge_where(prefix='')"
    )
    program = place.program("-c", code, place.url, place.events, place.workspace)
    until(lambda: len(place.client.list_orchestrations(limit=1000).items) < 500)
    program.kill()
    place.client.purge_where(name="step")
    assert place.client.list_orchestrations().items == []
    server = redis.Redis.from_url(place.url.partition("?")[0])
    left = [key for key in server.scan_iter(f"durable:{{{place.workspace}:*") if b"}:h:" in key]
    server.close()
    assert left == []
    assert place.run("step", "who") == "plain"


# ---- who does what


def test_an_activity_runs_where_its_queue_is_served(place: Place) -> None:
    place.serve("plain")
    special = place.process("work", "gpu")
    handles = place.client.start_many("both", range(10))
    assert [handle.result(SOON) for handle in handles] == [["plain", f"{n} by {special.pid}"] for n in range(10)]


def test_workers_with_different_brokers_say_so_and_doctor_too(
    place_of: Callable[[str], conftest.Place], log: Heard
) -> None:
    one = place_of("redis+rabbitmq")
    other = one._replace(events=None)
    with one.connect() as client, other.connect() as forgotten, durable.Worker(client, registry=durable.Registry()):
        assert not any("events travel" in finding.what for finding in client.diagnose().findings)
        with durable.Worker(forgotten, registry=durable.Registry()):
            warning = log.wait_for("WARNING events of this worker travel over the store, those of another one")
            assert "amqp://127.0.0.1:" in warning
            assert "DURABLE_EVENTS_URL" in warning
            log.wait_for("WARNING events of this worker travel over amqp://127.0.0.1:", ") over the store")
        (found,) = [finding for finding in forgotten.diagnose().findings if "events travel" in finding.what]
    assert "the store (this client); amqp://127.0.0.1:" in found.what
    assert "DURABLE_EVENTS_URL" in found.remedy
    assert not [text for text in (warning, found.what) if "guest" in text or "@" in text]


def test_a_queue_that_nobody_serves_stops_nothing_and_is_named(place: Place) -> None:
    place.serve("plain")
    handle = place.start("both", 1)
    until(lambda: handle.status().custom_status == "plain")  # the other half is done
    reason = handle.status().blocked_reason
    assert reason == "activity 'train' (task 2) waits: no living worker serves queue 'gpu'"
    assert place.run("step", "who") == "plain"
    place.serve("special", queues=["gpu"])
    assert handle.result(SOON) == ["plain", "1 by special"]
    assert handle.status().blocked_reason is None


def test_a_group_is_served_by_its_own_workers(place: Place) -> None:
    place.serve("day")
    handle = place.start(durable.orchestrator_ref("night", group="night"))  # type: ignore[arg-type]  # a reference
    assert place.run("step", "who") == "day"
    assert handle.status().runtime_status == "PENDING"
    place.serve("night", groups=["night"], queues=["dark"])
    assert handle.result(SOON) == ["night", "day"]  # groups are of orchestrations, queues of activities


def test_a_worker_that_lacks_the_code_leaves_the_activity_to_one_that_has_it(place: Place) -> None:
    """Offered again after ten seconds, and it is the other one's turn then."""
    outsider = place.outsider()
    work = outsider.work("default")
    place.serve("plain")
    until(lambda: outsider.exists(work) and outsider.consumers(work) == 1)
    rare = durable.Registry()
    rare.activity(name="rare")(lambda: "found")
    place.serve(rare, groups=["none"])
    until(lambda: outsider.consumers(work) == 2)
    assert place.run("step", "rare") == "found"


@pytest.mark.parametrize("eager", [False, True])
def test_eager_activities_are_not_published(place: Place, eager: bool) -> None:
    place.serve("me", eager_activities=eager)
    outsider = place.outsider()
    until(lambda: outsider.exists(outsider.work("default")))
    outsider.receive(outsider.work("default"), priority=10)  # whatever is published, it gets first
    handles = [place.start("step", "who") for _ in range(5)]
    if eager:
        assert [handle.result(SOON) for handle in handles] == ["me"] * 5
        outsider.connection.process_data_events(0)
        assert outsider.received == []
    else:
        assert {event.get_subject() for event in outsider.wait(5)} == {handle.instance_id for handle in handles}


def test_a_worker_whose_engine_stopped_takes_nothing_from_the_others(place: Place, log: Heard) -> None:
    place.serve("broken")
    assert place.run("step", "who") == "broken"
    with patch("durable.runtime.loop.Loop._sort", side_effect=RuntimeError("a bug")):
        first = place.start("step", "who")
        log.wait_for("the engine stopped")
    place.serve("well")
    assert first.result(SOON) == "well"
    handles = [place.start("step", "who") for _ in range(20)]
    assert [handle.result(SOON) for handle in handles] == ["well"] * 20


@pytest.mark.parametrize("eager", [True, False])
def test_a_worker_whose_threads_all_hang_leaves_the_work_to_the_others(place: Place, eager: bool) -> None:
    hanging, gate = app("hanging"), threading.Event()
    place.closing.callback(gate.set)

    @hanging.activity(name="hang", timeout=0.05)
    def hang() -> None:
        gate.wait()

    place.serve(hanging, max_concurrent_activities=1, eager_activities=eager)
    with pytest.raises(durable.OrchestrationFailedError, match="timeout"):
        place.run("step", "hang")
    place.serve("well", max_concurrent_activities=1, eager_activities=eager)
    handles = [place.start("step", "who") for _ in range(20)]
    assert [handle.result(SOON) for handle in handles] == ["well"] * 20


def test_an_eager_worker_without_a_free_slot_sends_the_rest(place: Place) -> None:
    gate = threading.Event()
    registry = durable.Registry()

    @registry.activity(name="hold")
    def hold(number: int) -> int:
        assert gate.wait(SOON)
        return number

    @registry.orchestrator(name="two")
    def two(ctx: durable.OrchestrationContext) -> Any:
        return (yield ctx.map(hold, [1, 2]))

    place.serve(registry, eager_activities=True, max_concurrent_activities=1)
    outsider = place.outsider()
    until(lambda: outsider.exists(outsider.work("default")))
    outsider.receive(outsider.work("default"), priority=10)
    handle = place.start("two")
    invocation = outsider.wait(1)[0]
    call: Any = invocation.get_data()
    assert call["input"] == 2
    outsider.send(invocation.get_extension("replyqueue"), completion(invocation, 20))
    gate.set()
    assert handle.result(SOON) == [1, 20]


def test_two_workspaces_never_see_each_other(place: Place) -> None:
    other = place.connect(f"{place.workspace}.other")
    theirs = other.start_orchestration("gate", instance_id="same")
    place.serve("mine")
    mine = place.start("gate", instance_id="same")
    assert place.signed([mine]) == ["mine"]
    assert theirs.status().runtime_status == "PENDING"
    with durable.Worker(other, registry=app("theirs"), shutdown_grace=0):
        assert other.wait("same", SOON, until="started").custom_status == "theirs"
        mine.raise_event("go")
        assert mine.result(SOON) == "mine"
        assert theirs.status().runtime_status == "RUNNING"
        assert len(place.client.list_orchestrations().items) == len(other.list_orchestrations().items) == 1
        other.start_orchestration("gate", instance_id="only there")
        with pytest.raises(durable.InstanceNotFoundError):
            place.client.raise_event("only there", "go")


def test_a_result_is_waited_for_by_a_process_that_did_not_start_it(place: Place) -> None:
    place.serve("me")
    handle = place.start("gate")
    process = place.process("wait", handle.instance_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    handle.raise_event("go")
    assert process.communicate(timeout=SOON)[0] == "me\n"


# ---- what is on the wire


def completion(invocation: durable.CloudEvent, result: Any) -> durable.CloudEvent:
    """As a program in another language would make it."""
    call: Any = invocation.get_data()
    data = {key: call[key] for key in ("instance_id", "execution_id", "task_id", "attempt")}
    attributes = {
        "type": "durable.task-completed",
        "source": "/elsewhere",
        "id": f"{call['instance_id']}/{call['execution_id']}/{call['task_id']}/{call['attempt']}",
        "datacontenttype": "application/json",
    }
    return durable.CloudEvent(attributes, data | {"result": result})


def asked(place: Place, outsider: Outsider) -> tuple[durable.OrchestrationHandle[Any], durable.CloudEvent]:
    """An orchestration that has asked for an activity, and the invocation as the outsider got it."""
    handle = place.start("once")
    until(lambda: outsider.exists(outsider.work("elsewhere")))
    outsider.receive(outsider.work("elsewhere"))
    return handle, outsider.wait(1)[0]


def test_an_invocation_is_a_cloudevent_and_its_completion_counts_once(place: Place) -> None:
    place.serve("me")
    outsider = place.outsider()
    handle, invocation = asked(place, outsider)
    call: Any = invocation.get_data()
    execution = handle.status().execution_id
    assert invocation.get_type() == "durable.task-scheduled"
    assert invocation.get_source() == f"/workspaces/{place.workspace}/orchestrations/once"
    assert invocation.get_subject() == call["instance_id"] == handle.instance_id
    assert (call["name"], call["input"], call["task_id"], call["attempt"]) == ("elsewhere", "é", 1, 1)
    assert call["execution_id"] == execution
    [recorded] = [e for e in place.client.history(handle.instance_id) if e.type == "TaskScheduled"]
    assert int(str(invocation.get_extension("sequence"))) == recorded.event_id
    assert invocation.get_extension("partitionkey") == handle.instance_id
    assert invocation.get_extension("traceparent") == f"00-{execution}-0000000100000001-01"
    queue = invocation.get_extension("replyqueue")
    for result in ("first", "first", "second"):
        outsider.send(queue, completion(invocation, result))
    until(lambda: outsider.depth(queue) == 0)
    handle.raise_event("go")
    assert handle.result(SOON) == "first"
    outsider.send(queue, completion(invocation, "much too late"))
    assert place.run("step", "who") == "me"
    kinds = [event.type for event in place.client.history(handle.instance_id)]
    assert kinds.count("TaskCompleted") == 1
    assert outsider.depth(f"durable.{place.workspace}.dead-letters") == 0


def test_a_completion_of_ours_is_what_any_program_would_send(place: Place) -> None:
    registry = app("me")
    gate = threading.Event()

    @registry.activity(name="fails")
    def fails() -> None:
        gate.wait(SOON)
        raise ValueError("broken")

    @registry.activity(name="works")
    def works(value: list[int]) -> list[int]:
        gate.wait(SOON)
        return value

    place.serve(registry)
    outsider = place.outsider()
    until(lambda: outsider.exists(outsider.work("default")))
    failing = place.start("step", "fails", instance_id="it fails")
    working = place.start("step", "works", "default", [1], instance_id="über 1")
    taps = {}
    for partition in (0, 1):
        queue, tap = f"durable.{place.workspace}.outcomes.default.{partition}", place.outsider()
        until(lambda queue=queue: outsider.exists(queue))  # type: ignore[misc]  # bound here and now
        tap.receive(queue, priority=10)  # before the worker that the outcomes are for
        taps[queue] = tap
    gate.set()

    def tapped() -> dict[str | None, tuple[str, durable.CloudEvent]]:
        for tap in taps.values():
            tap.connection.process_data_events(0)
        return {event.get_subject(): (queue, event) for queue, tap in taps.items() for event in tap.received}

    until(lambda: len(tapped()) == 2)
    for handle, kind in ((failing, "durable.task-failed"), (working, "durable.task-completed")):
        _, event = tapped()[handle.instance_id]
        execution = handle.status().execution_id
        assert (event.get_type(), event.get_subject()) == (kind, handle.instance_id)
        assert event.get_id() == f"{quote(handle.instance_id)}/{execution}/1/1"
        assert event.get_source() == f"/workspaces/{place.workspace}/orchestrations/step"
        assert event.get_extension("partitionkey") == quote(handle.instance_id)
        assert event.get_extension("traceparent") == f"00-{execution}-0000000100000001-01"
        data: dict[str, Any] = dict(event.get_data())  # type: ignore[arg-type]  # JSON, as in `completion`
        outcome = data.pop("failure", None) or data.pop("result")
        assert data == {"instance_id": handle.instance_id, "execution_id": execution, "task_id": 1, "attempt": 1}
        assert outcome == [1] or (outcome["type"], outcome["message"]) == ("ValueError", "broken")
    came = tapped().values()
    for tap in taps.values():
        for tag in list(tap.channel.consumer_tags):
            tap.channel.basic_cancel(tag)
    for queue, event in came:
        outsider.send(queue, event)
    assert working.result(SOON) == [1]
    with pytest.raises(durable.OrchestrationFailedError, match="broken"):
        failing.result(SOON)


def test_a_completion_in_binary_mode_is_accepted(place: Place) -> None:
    place.serve("me")
    outsider = place.outsider()
    handle, invocation = asked(place, outsider)
    outsider.send(invocation.get_extension("replyqueue"), completion(invocation, {"n": [1, "é"]}), binary=True)
    handle.raise_event("go")
    assert handle.result(SOON) == {"n": [1, "é"]}


def test_a_queue_that_a_strangers_program_serves_is_served(place: Place) -> None:
    place.serve("plain")
    handle = place.start("both", 1)
    until(lambda: handle.status().custom_status == "plain")
    assert "no living worker serves queue 'gpu'" in str(handle.status().blocked_reason)
    assert any("queue 'gpu'" in finding.what for finding in place.client.diagnose().findings)
    outsider = place.outsider()
    outsider.receive(outsider.work("gpu"))
    until(lambda: handle.status().blocked_reason is None)
    assert not any("queue 'gpu'" in finding.what for finding in place.client.diagnose().findings)


def test_what_nobody_understands_is_parked_and_all_goes_on(place: Place) -> None:
    place.serve("me")
    outsider = place.outsider()
    handle, invocation = asked(place, outsider)
    replies, work, dead = (
        invocation.get_extension("replyqueue"),
        outsider.work("default"),
        f"durable.{place.workspace}.dead-letters",
    )
    call: Any = invocation.get_data()
    stranger = call | {"instance_id": "nobody", "name": "who"}
    attributes = invocation.get_attributes() | {"id": "nobody/1", "subject": "nobody"}
    for queue in (replies, work):
        outsider.publish(queue, b"\xff not JSON", "application/cloudevents+json")
        outsider.publish(queue, json.dumps({"specversion": "1.0", "id": "1"}).encode(), "application/json")
        outsider.send(queue, durable.CloudEvent({"type": "com.shop.order", "source": "/shop", "id": "7"}, {"n": 1}))
    outsider.send(replies, completion(durable.CloudEvent(attributes, stranger), "from nobody"))  # dropped
    outsider.send(work, durable.CloudEvent(attributes, stranger))
    until(lambda: outsider.depth(dead) == 6)
    until(lambda: outsider.depth(replies) == outsider.depth(work) == 0)
    outsider.send(replies, completion(invocation, "well"))
    handle.raise_event("go")
    assert handle.result(SOON) == "well"
    assert place.run("step", "who") == "me"
    assert place.client.get_status("nobody") is None
    assert outsider.depth(dead) == 6


def test_lifecycle_events_reach_whoever_listens_to_the_topic(place: Place) -> None:
    place.serve("me")
    outsider = place.outsider()
    queue = outsider.channel.queue_declare("", exclusive=True).method.queue
    outsider.channel.queue_bind(queue, f"durable.{place.workspace}.lifecycle", "#")
    outsider.receive(queue)
    handle = place.start("step", "who")
    started, ended = outsider.wait(2)
    assert outsider.keys == ["started.RUNNING.step", "ended.COMPLETED.step"]
    assert (started.get_type(), ended.get_type()) == ("durable.execution-started", "durable.execution-completed")
    assert started.get_subject() == ended.get_subject() == handle.instance_id
    data: Any = ended.get_data()
    assert (data["status"], data["output"]) == ("COMPLETED", "me")
    numbers = [int(str(event.get_extension("sequence"))) for event in (started, ended)]
    assert numbers == [0, place.client.history(handle.instance_id)[-1].event_id]
    execution = handle.status().execution_id
    for event in (started, ended):
        assert event.get_extension("traceparent") == f"00-{execution}-{execution[16:]}-01"


def test_megabytes_travel(place: Place) -> None:
    """What is larger than 1 MiB stays in the store, and the message says only where."""
    place.serve("plain")
    place.process("work", "gpu")
    large = "é" * 1_500_000
    assert place.run("step", "same", "gpu", large) == large


def test_a_program_with_nothing_of_ours_serves_an_activity(place: Place) -> None:
    place.serve("me")
    foreign = place.program(SAMPLE, place.events, place.workspace)
    assert foreign.stdout is not None
    assert foreign.stdout.readline() == f"serving durable.{place.workspace}.work.foreign\n"
    handles = [place.start("step", "shout", "foreign", f"hello {n}") for n in range(20)]
    assert [handle.result(SOON) for handle in handles] == [f"HELLO {n}!" for n in range(20)]
    with pytest.raises(durable.OrchestrationFailedError, match="AttributeError"):
        place.run("step", "shout", "foreign", 7)
    with pytest.raises(durable.OrchestrationFailedError, match="whisper"):
        place.run("step", "whisper", "foreign", "hello")
    outsider = place.outsider()
    outsider.publish(outsider.work("foreign"), b"junk")
    until(lambda: outsider.depth(f"durable.{place.workspace}.dead-letters") == 1)
    assert place.run("step", "shout", "foreign", "still there") == "STILL THERE!"
