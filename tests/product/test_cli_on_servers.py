"""The command `durable` where it is used in earnest: Redis, RabbitMQ, and the code in workers of other processes.

What a command says is tried on a file (test_cli.py and its neighbours); here, that it does it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

import durable
from tests.product.command_line import Here, ended, read_until
from tests.product.conftest import Place
from tests.servers.process import free_port
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_server import RedisServer
from tests.waiting import SOON, until

SHOP = """
import os
import time
import durable

@durable.activity
def pack(item: str) -> str:
    if os.path.exists(f"no {item}"):
        raise ValueError(f"there is no {item}")
    return f"packed {item}"

@durable.orchestrator
def order(ctx, item: str):
    return (yield ctx.call_activity(pack, item))

@durable.orchestrator
def asks(ctx, what: str):
    return [what, (yield ctx.wait_for_external_event("decision"))]

@durable.activity
def who() -> int:
    return os.getpid()

training = []

@durable.activity(queue="gpu")
def train(n: int) -> int:
    training.append(n)
    time.sleep(0.05)
    beside = len(training) - 1
    training.remove(n)
    return beside

@durable.activity(queue="gpu")
def hold() -> str:
    open("gate").read()  # a FIFO: until the test opens and closes it
    return "held"

@durable.orchestrator(group="night")
def nightly(ctx):
    ran = []
    for _ in range(10):
        ran.append((yield ctx.call_activity(who)))
    beside = yield [ctx.call_activity(train, n) for n in range(4)]
    ctx.set_custom_status([ran, beside])
    return (yield ctx.call_activity(hold))
"""


class OnServers(Here):
    """The same command, where the environment names a workspace of the servers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
        self.place = place
        super().__init__(folder, monkeypatch)
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)
        (folder / "shop.py").write_text(SHOP)

    def environment(self, **more: str) -> dict[str, str]:
        where = {"URL": self.place.url, "EVENTS_URL": self.place.events, "WORKSPACE": self.place.workspace}
        return super().environment() | {f"DURABLE_{name}": str(value) for name, value in where.items()} | more

    def exits(self, status: int, *arguments: str) -> str:
        """What a command says that ends with this status."""
        done = self(*arguments)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    def ends(self, instance_id: str, status: int = 0) -> Any:
        """Wait for the end of one that is there: its output, or why it has none."""
        again = ("start", "any", "--id", instance_id, "--if-exists", "return", "--wait", "--timeout", str(SOON))
        done = self(*again, "--json")
        assert done.returncode == status, done
        return json.loads(done.stdout) if done.stdout else json.loads(done.stderr.splitlines()[-1])["error"]["message"]

    def shows(self, instance_id: str, status: str) -> None:
        """Wait until it stands so."""
        with self.place.connect() as client:
            until(lambda: client.handle(instance_id).status().runtime_status == status, status)

    def listed(self, *filters: str) -> list[str]:
        rows = self.says("list", "--json", *filters).splitlines()
        return [msgspec.json.decode(row, type=durable.OrchestrationStatus).instance_id for row in rows]


@pytest.fixture(scope="module")
def shop(
    redis_server: RedisServer,
    rabbitmq_server: RabbitServer,
    queue_remover: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OnServers]:
    """A workspace that two workers serve, each a process; as many partitions as one has that nobody thought about."""
    place = Place(redis_server.url, rabbitmq_server.url(), uuid4().hex[:8])
    with pytest.MonkeyPatch.context() as monkeypatch:
        command = OnServers(tmp_path_factory.mktemp("servers"), monkeypatch, place)
        with command.running("worker", "shop", "--processes", "2") as workers:
            for _ in range(2):
                read_until(workers.stderr, "SIGTERM stops it")
            yield command
            workers.send_signal(signal.SIGTERM)
            status, _, said = ended(workers)
    queue_remover(place.workspace)
    assert (status, said.count("stopped")) == (0, 2)


def test_starting_and_looking(shop: OnServers) -> None:
    done = shop("start", "order", "--input", '"book"', "--id", "l-1", "--tag", "of=today", "--wait")
    assert (done.returncode, done.stdout) == (0, '"packed book"\n')
    assert shop.exits(2, "start", "order", "--id", "l-1")
    assert "l-2 is started" in shop.says("start", "asks", "--input", '"desk"', "--id", "l-2")
    shop.exits(5, "start", "asks", "--id", "l-2", "--if-exists", "return", "--wait", "--timeout", "0.01")
    assert shop.listed("--prefix", "l-") == ["l-2", "l-1"]
    assert shop.listed("--prefix", "l-", "--limit", "1") == ["l-2"]
    for only in (["--tag", "of=today"], ["--status", "completed"], ["--name", "order"]):
        assert shop.listed("--prefix", "l-", *only) == ["l-1"], only
    shop.says("raise", "l-2", "Decision", "--data", '{"yes": true}')
    followed = [json.loads(row) for row in shop.says("history", "l-2", "--follow", "--json").splitlines()]
    assert followed[-1]["result"] == ["desk", {"yes": True}]
    assert followed == [json.loads(row) for row in shop.says("history", "l-2", "--json").splitlines()]
    assert json.loads(shop.says("show", "l-2", "--json"))["history"] == followed
    assert shop.says("show", "l-1").startswith("l-1  COMPLETED\n")
    assert shop.exits(3, "show", "nosuch")
    doctor = json.loads(shop.says("doctor", "--json"))
    assert [worker["alive"] for worker in doctor["workers"]] == [True, True]
    assert shop.place.workspace not in shop.says("list", "--workspace", "another")


def test_steering(shop: OnServers) -> None:
    for instance_id in ("s-1", "s-2", "s-3"):
        shop.says("start", "asks", "--input", '"desk"', "--id", instance_id)
    shop.says("suspend", "s-1", "--reason", '"lunch"')
    shop.shows("s-1", "SUSPENDED")
    shop.says("raise", "s-1", "decision", "--data", "1")
    shop.says("resume", "s-1")
    assert shop.ends("s-1") == ["desk", 1]
    shop.says("cancel", "s-2", "--reason", '"too late"')
    assert shop.ends("s-2", status=1).endswith("was cancelled: too late")
    shop.says("terminate", "s-3", "--reason", '"too late"')
    assert shop.ends("s-3", status=1).endswith("was terminated: too late")
    assert shop.listed("--prefix", "s-", "--status", "CANCELED", "--status", "TERMINATED") == ["s-3", "s-2"]


def test_other_lives(shop: OnServers) -> None:
    (shop.folder / "no pen").touch()
    shop.says("start", "order", "--input", '"pen"', "--id", "o-1")
    assert "there is no pen" in shop.ends("o-1", status=1)
    (shop.folder / "no pen").unlink()
    said = json.loads(shop.says("rewind", "o-1", "--json"))
    assert said == {"rewound": True, "instance_id": "o-1"}
    assert shop.ends("o-1") == "packed pen"
    shop.says("restart", "o-1", "--new-id", "o-2")
    said = json.loads(shop.says("fork", "o-1", "--after", "2", "--new-id", "o-3", "--json"))
    assert said == {"forked": "o-1", "instance_id": "o-3"}
    shop.says("restart", "o-1", "--in-place")
    assert [shop.ends(instance_id) for instance_id in ("o-1", "o-2", "o-3")] == ["packed pen"] * 3
    shop.says("export", "o-1", "-o", "o-1.jsonl")
    shop.says("import", "o-1.jsonl", "--as", "o-4")
    (shop.folder / "edited.py").write_text(SHOP.replace("ctx.call_activity(pack, item)", "ctx.create_timer(1)"))
    assert shop.apart("replay", "o-1.jsonl", "o-4", "--code", "shop").returncode == 0
    assert shop.apart("replay", "o-1.jsonl", "o-4", "--code", "edited.py").returncode == 7
    assert shop.says("purge", "o-1") == "1 orchestration purged\n"
    assert shop.says("purge", "--prefix", "o-", "--status", "COMPLETED", "--yes") == "3 orchestrations purged\n"
    assert shop.listed("--prefix", "o-") == []


def test_a_program_and_run_go_where_the_environment_says(shop: OnServers) -> None:
    """Moving to servers changes no code: `connect()`, the default client and `Worker()` take all three from there."""
    (shop.folder / "program.py").write_text(
        "import durable, shop\n"
        "with durable.Worker():\n"
        "    print(durable.start_orchestration(shop.order, 'book', instance_id='e-1').result(20))\n"
    )
    program = [sys.executable, "program.py"]
    done = subprocess.run(program, cwd=shop.folder, env=shop.environment(), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("packed book\n", "")
    run = shop.apart("run", "shop.py:order", "--input", '"cup"', "--id", "e-2")
    assert (run.returncode, run.stdout) == (0, '"packed cup"\n')
    assert not (shop.folder / ".durable").exists()
    with durable.connect() as client:
        assert client.workspace == shop.place.workspace
        assert [item.instance_id for item in client.list_orchestrations(prefix="e-")] == ["e-2", "e-1"]
        assert client.diagnose().waiting.keys() == {"default"}  # the queues of a broker


def test_a_worker_serves_what_its_options_say_and_drains_on_ctrl_c(shop: OnServers) -> None:
    """Beside two that serve the default group and queue, and would gladly run any activity of theirs."""
    os.mkfifo(shop.folder / "gate")
    options = ["--group", "night", "--queue", "default", "--queue", "gpu", "--eager", "--concurrency", "1"]
    with shop.running("worker", "shop", *options) as worker, shop.place.connect() as client:
        said = "".join(read_until(worker.stderr, "SIGTERM stops it"))
        assert "groups: night" in said
        assert "queues: default, gpu" in said
        handle = client.start_orchestration(durable.orchestrator_ref("nightly", str, group="night"))
        with open(shop.folder / "gate", "w"):  # opens once `hold` reads
            ran, beside = handle.status().custom_status
            assert ran == [worker.pid] * 10
            assert beside == [0] * 4  # one at a time
            worker.send_signal(signal.SIGINT)
            read_until(worker.stderr, "stopping")
        status, out, said = ended(worker)
        assert (status, out) == (0, "")
        assert "stopped" in said
        results = [e.result for e in client.history(handle.instance_id, pending=True) if e.type == "TaskCompleted"]
        assert results[-1] == "held"


def test_what_is_blocked_is_6(shop: OnServers) -> None:
    app = durable.Registry()

    @app.orchestrator(group="changing")
    def changing(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        return (yield ctx.wait_for_external_event("decision"))

    with shop.place.connect() as client:
        with durable.Worker(client, registry=app, groups=["changing"], shutdown_grace=0):
            handle = client.start_orchestration(changing, instance_id="b-1")
            client.wait(handle.instance_id, SOON, until="started")
        handle.raise_event("decision", 1)
        with durable.Worker(client, registry=durable.Registry(), groups=["changing"], shutdown_grace=0):
            again = ("start", "changing", "--id", "b-1", "--if-exists", "return", "--wait", "--timeout", str(SOON))
            assert "'changing'" in shop.exits(6, *again)
            assert shop.listed("--prefix", "b-", "--status", "BLOCKED") == ["b-1"]
        with durable.Worker(client, registry=app, groups=["changing"], shutdown_grace=0):
            assert handle.result(SOON) == 1


def test_ctrl_c_while_waiting_is_130_and_ends_nothing_but_the_waiting(shop: OnServers) -> None:
    with shop.running("start", "asks", "--input", '"desk"', "--id", "i-1", "--wait") as process:
        read_until(process.stderr, "is started")
        process.send_signal(signal.SIGINT)
        assert ended(process)[:2] == (130, "")
    shop.says("raise", "i-1", "decision", "--data", "1")
    assert shop.ends("i-1") == ["desk", 1]


@pytest.mark.parametrize("gone", ["--url", "--events-url"])
def test_a_server_that_can_not_be_reached_is_4_and_no_secret_is_told(shop: OnServers, gone: str) -> None:
    where = {"--url": "redis://:S3CRET@127.0.0.1:{}/0", "--events-url": "amqp://me:S3CRET@127.0.0.1:{}/"}[gone]
    for arguments in (["list"], ["start", "order"], ["doctor", "--json"], ["--no-color", "raise", "x", "decision"]):
        said = shop.exits(4, *arguments, gone, where.format(free_port()))
        assert "127.0.0.1" in said
        assert "S3CRET" not in said
