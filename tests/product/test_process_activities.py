"""Activities in processes of their own: what they take and give, what becomes of them when they or their worker die."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.product import process_work as work
from tests.product.conftest import Bench
from tests.waiting import SOON, until

if TYPE_CHECKING:
    from tests.product.conftest import Heard, Place


def alive(pid: int) -> bool:
    """Whether a process of this id runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def announced(folder: Path, count: int) -> list[int]:
    """The processes that have left their ids in this folder, once there are so many."""
    until(lambda: len(list(folder.glob("*.pid"))) >= count)
    return [int(path.stem) for path in folder.glob("*.pid")]


@pytest.fixture(params=["sqlite", pytest.param("redis+rabbitmq", marks=pytest.mark.slow)])
def here(request: pytest.FixtureRequest, place_of: Callable[[str], Place]) -> Iterator[Bench]:
    """A bench alone and one on servers: what happens between a worker and its processes is the same on all of them."""
    bench = Bench(place_of(request.param), cold=False)
    yield bench
    bench.close()


# In `make test` too: what comes of these travels, or is taken back.
on_servers = pytest.mark.parametrize("here", ["sqlite", "redis+rabbitmq"], indirect=True)


# ---- taking and giving


@pytest.mark.everywhere
def test_it_runs_in_another_process_which_is_kept_for_the_next_one(bench: Bench) -> None:
    bench.serve(work.registry)
    first = bench.run(work.one, "whoami")
    assert first != os.getpid()
    assert bench.run(work.one, "whoami") == first


@on_servers
def test_arguments_and_results_travel_by_their_types(here: Bench) -> None:
    here.serve(work.registry)
    assert here.run(work.one, "mirrored", {"x": 1, "y": 2}, 10) == {"x": 20, "y": 10}
    failure = here.fails(work.one, "mirrored", {"x": "one", "y": 2})
    assert failure.is_caused_by(durable.PayloadError)
    assert "argument 'point'" in failure.message


def test_what_is_no_json_fails_the_call_with_its_path(here: Bench) -> None:
    here.serve(work.registry)
    failure = here.fails(work.patient, "unspeakable", 0, 5)
    assert failure.is_caused_by(durable.PayloadError)
    assert "the result of activity 'unspeakable'" in failure.message


def test_its_context_tells_what_a_threads_tells(here: Bench, log: Heard) -> None:
    here.serve(work.registry)
    handle = here.start(work.one, "told", "hello")
    found = handle.result(SOON)
    key = found.pop("key")
    assert found == {"instance_id": handle.instance_id, "task_id": 1, "attempt": 1, "cancelled": False}
    assert key.endswith("/1")
    log.wait_for("WARNING hello from a process")


def test_what_it_logs_is_never_its_failure(here: Bench, log: Heard) -> None:
    here.serve(work.registry)
    assert here.run(work.one, "logs_what_is_no_text") == "done"
    log.wait_for("WARNING reading /data/?.csv")
    log.wait_for("ERROR not there: un?printable")
    log.wait_for("WARNING extras")


@on_servers
def test_its_context_has_a_client_on_the_workers_store(here: Bench) -> None:
    here.serve(work.registry)
    assert here.run(work.one, "asks_for_a_client", "another") == [here.client.workspace, "RUNNING"]
    assert here.client.handle("another").result(SOON) == here.run(work.one, "whoami")


class Reversed:
    """A codec that can't travel."""

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    decode = encode


def test_it_has_none_where_the_store_cant_be_opened_twice_and_says_what_to_do(tmp_path: Path) -> None:
    in_memory = durable.connect("memory://process-client")
    under_codec = durable.connect(f"sqlite:///{tmp_path / 'coded.db'}", codec=Reversed())
    for client in (in_memory, under_codec):
        with client, durable.Worker(client, registry=work.registry):
            handle = client.start_orchestration(work.one, "asks_for_a_client", "another")
            with pytest.raises(durable.OrchestrationFailedError, match=r"durable\.connect\(\)"):
                handle.result(SOON)


@on_servers
def test_a_failure_arrives_with_type_message_traceback_and_cause(here: Bench) -> None:
    here.serve(work.registry)
    failure = here.fails(work.one, "refuses").cause
    assert failure is not None
    assert (failure.type, failure.message) == (f"{work.__name__}.Refused", "not today")
    assert failure.properties == {"code": 7}
    assert failure.is_caused_by(ValueError)
    assert failure.is_caused_by(FileNotFoundError)
    assert "raise Refused" in (failure.stack_trace or "")


def test_sys_exit_is_a_failure_and_the_process_goes_on(here: Bench) -> None:
    here.serve(work.registry)
    before = here.run(work.one, "whoami")
    failure = here.fails(work.one, "gives_up").cause
    assert failure is not None
    assert failure.type == "SystemExit"
    assert here.run(work.one, "whoami") == before


def test_called_directly_it_runs_here() -> None:
    assert work.whoami() == os.getpid()
    assert work.told("x")["instance_id"] == "local"


@on_servers
def test_they_run_side_by_side_up_to_the_limit(here: Bench, tmp_path: Path) -> None:
    here.serve(work.registry, max_concurrent_activities=2)
    handle = here.start(work.several, "until_told", 3, str(tmp_path))
    announced(tmp_path, 2)
    (tmp_path / "go").touch()
    assert handle.result(SOON) == ["told"] * 3
    assert len(announced(tmp_path, 2)) == 2  # the third ran where one of them had


# ---- dying


@pytest.mark.everywhere
@pytest.mark.parametrize("way", ["exit", "kill", "crash"])
def test_a_process_that_dies_fails_its_attempt_and_the_next_one_succeeds(
    bench: Bench, tmp_path: Path, way: str
) -> None:
    bench.serve(work.registry)
    handle = bench.start(work.patient, "dies_once", 0, 2, way, str(tmp_path))
    assert handle.result(SOON) == "alive"
    (failed,) = [e.failure for e in bench.history(handle) if e.type == "TaskFailed"]
    assert failed is not None
    assert failed.type == "ChildProcessError"
    assert {"exit": "exit status 3", "kill": "signal 9", "crash": "signal 11"}[way] in failed.message
    assert "'dies_once' (attempt 1)" in failed.message


def test_the_death_of_one_leaves_the_others_alone(here: Bench, tmp_path: Path) -> None:
    here.serve(work.registry)
    waiting = here.start(work.several, "until_told", 2, str(tmp_path))
    victim = announced(tmp_path, 2)[0]
    doomed = here.fails(work.one, "dies_once", "kill", str(tmp_path))
    assert doomed.is_caused_by(ChildProcessError)
    assert alive(victim)
    (tmp_path / "go").touch()
    assert waiting.result(SOON) == ["told", "told"]


def test_an_idle_process_that_was_killed_is_replaced_and_nobody_fails(here: Bench) -> None:
    here.serve(work.registry)
    idle = here.run(work.one, "whoami")
    os.kill(idle, signal.SIGKILL)
    until(lambda: not alive(idle))
    assert here.run(work.one, "whoami") != idle


@on_servers
def test_a_timeout_kills_the_process_and_what_it_started_and_its_slot_is_free(here: Bench, tmp_path: Path) -> None:
    here.serve(work.registry, max_concurrent_activities=1)
    failure = here.fails(work.patient, "spins", 2, 1, str(tmp_path))  # long enough to have started its program
    assert failure.is_caused_by(TimeoutError)
    for pid in announced(tmp_path, 2):
        until(lambda pid=pid: not alive(pid))  # type: ignore[misc]  # a default binds the loop's variable
    assert here.run(work.one, "whoami") > 0


def test_a_timeout_ends_what_never_looks_up(here: Bench, tmp_path: Path) -> None:
    here.serve(work.registry)
    failure = here.fails(work.patient, "hogs", 1, 1, str(tmp_path))
    assert failure.is_caused_by(TimeoutError)
    (pid,) = announced(tmp_path, 1)
    until(lambda: not alive(pid))


@on_servers
def test_a_process_without_heartbeats_is_killed(here: Bench, tmp_path: Path) -> None:
    here.serve(work.registry)
    failure = here.fails(work.one, "beats_once", str(tmp_path))
    assert "sent no heartbeat for 0.3 s" in failure.message
    (pid,) = announced(tmp_path, 1)
    until(lambda: not alive(pid))


@on_servers
def test_a_cancelled_one_is_told(here: Bench, tmp_path: Path) -> None:
    here.serve(work.registry)
    handle = here.start(work.abandons, "until_cancelled", str(tmp_path))
    announced(tmp_path, 1)
    handle.raise_event("enough")
    assert handle.result(SOON) == "abandoned"
    until((tmp_path / "cancelled").exists)


def test_a_cancelled_one_that_does_not_listen_is_killed(here: Bench, tmp_path: Path) -> None:
    here.serve(work.registry, max_concurrent_activities=1)
    handle = here.start(work.abandons, "spins", str(tmp_path))
    pids = announced(tmp_path, 2)
    handle.raise_event("enough")
    assert handle.result(SOON) == "abandoned"
    assert here.run(work.one, "whoami") not in pids
    assert not any(map(alive, pids))


# ---- the end of the worker


@on_servers
def test_a_stop_waits_for_it_within_the_grace(here: Bench, tmp_path: Path) -> None:
    worker = here.serve(work.registry, shutdown_grace=SOON)
    handle = here.start(work.one, "until_told", str(tmp_path))
    (pid,) = announced(tmp_path, 1)
    os.kill(pid, signal.SIGTERM)  # what a service manager sends to all processes of a service
    (tmp_path / "go").touch()
    worker.stop()
    assert not alive(pid)
    here.serve(work.registry)
    assert handle.result(SOON) == "told"
    assert len(list(tmp_path.glob("*.pid"))) == 1


@on_servers
def test_after_the_grace_it_is_killed_and_runs_again_under_the_next_worker(here: Bench, tmp_path: Path) -> None:
    worker = here.serve(work.registry, shutdown_grace=0)
    handle = here.start(work.one, "until_told", str(tmp_path))
    (pid,) = announced(tmp_path, 1)
    worker.stop()
    assert not alive(pid)
    (tmp_path / "go").touch()
    here.serve(work.registry)
    assert handle.result(SOON) == "told"


SERVE = """
import sys, durable
from tests.product import process_work as work
from tests.product.conftest import Bench
client = durable.connect(sys.argv[1])
with durable.Worker(client, registry=work.registry):
    client.start_orchestration(work.several, sys.argv[2], 2, sys.argv[3]).result()
"""


@pytest.mark.parametrize("name", ["spins", "until_told", "hogs"])
def test_no_process_outlives_a_worker_that_is_killed(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", SERVE, f"sqlite:///{tmp_path}/store.db", name, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = subprocess.Popen(command, env=environment)
    try:
        pids = announced(tmp_path, 4 if name == "spins" else 2)
        assert all(map(alive, pids))
    finally:
        worker.kill()
        worker.wait(SOON)
    until(lambda: not any(map(alive, pids)))


def test_no_descriptor_is_left_when_the_worker_stops(here: Bench) -> None:
    def descriptors() -> int:
        """Of pipes and sockets: a store may keep one connection more for those who read at the same moment."""
        return sum(path.is_fifo() or path.is_socket() for path in Path("/proc/self/fd").iterdir())

    for _ in range(5):  # what opens once, and stays open, opens in one of the first rounds; a leak grows with each
        before = descriptors()
        worker = here.serve(work.registry, shutdown_grace=SOON)
        assert here.run(work.several, "whoami", 3)
        here.fails(work.one, "dies")
        worker.stop()
        after = descriptors()
        if after <= before:
            break
    assert after <= before


# ---- where it is found


CODE = """
import os

def whoami() -> int:
    return os.getpid()
"""


def loaded(name: str, file: Path | None = None) -> ModuleType:
    """CODE as a module that no path leads to."""
    module = ModuleType(name)
    if file is not None:
        file.write_text(CODE)
        module.__file__ = str(file)
    exec(CODE, module.__dict__)
    return module


@pytest.mark.parametrize("in_a_file", [True, False])
def test_where_its_module_is_not_on_the_path_it_is_found_by_its_file(
    here: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_a_file: bool
) -> None:
    module = loaded("off_the_path", tmp_path / "off_the_path.py" if in_a_file else None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    app = durable.Registry()
    app.activity(executor="process")(module.whoami)
    app.orchestrator(name="one")(work.one.fn)
    here.serve(app)
    if in_a_file:
        assert here.run("one", "whoami") != os.getpid()
    else:
        assert here.fails("one", "whoami").is_caused_by(ModuleNotFoundError)


# ---- what can't run there


def test_what_a_process_can_not_find_is_refused_at_decoration() -> None:
    app = durable.Registry()

    def inner() -> None: ...

    with pytest.raises(TypeError, match=r"define it with `def` at the top of a module"):
        app.activity(executor="process")(inner)
    with pytest.raises(TypeError, match="can't find"):
        app.activity(name="anonymous", executor="process")(lambda: None)
    main = functools.partial(work.whoami.fn)
    main.__name__ = main.__qualname__ = "job"  # type: ignore[attr-defined]  # as a script's own function has
    main.__module__ = "__main__"
    with pytest.raises(TypeError, match=r"main file.*move it to a module of its own"):
        app.activity(executor="process")(main)
    assert app.names("activity") == []


def test_an_async_def_has_no_executor() -> None:
    app = durable.Registry()

    async def coroutine() -> None:
        await asyncio.sleep(0)

    with pytest.raises(TypeError, match="event loop"):
        app.activity(executor="process")(coroutine)


def test_another_executor_is_refused() -> None:
    wrong: Any = "processes"
    with pytest.raises(ValueError, match="give 'thread' or 'process'"):
        durable.Registry().activity(executor=wrong)(work.whoami.fn)
