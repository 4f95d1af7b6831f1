"""A short form of `make chaos`, the program itself as it is run by hand; and that it would notice what it looks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need
from tests.servers.dynamodb_server import missing_dynamodb
from tests.servers.rabbitmq_server import missing_rabbitmq
from tests.servers.redis_server import missing_redis

pytestmark = pytest.mark.timeout(300)  # some take 30 s, where the machine has nothing else to do

CLUSTER = Path(__file__).with_name("cluster.py")
ROOT = CLUSTER.parents[2]


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    need(missing_redis() or missing_rabbitmq() or missing_dynamodb())
    command = [sys.executable, str(program), "--quiet", *arguments]
    # On PATH are the servers; what this program leaves behind is looked for in `cwd`.
    env = {"TMPDIR": str(cwd), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


def test_killed_workers_and_a_killed_broker_lose_nothing(tmp_path: Path) -> None:
    faults = ("--fault", "worker-kill=5", "--fault", "rabbit-kill=1")
    done = run(CLUSTER, *faults, "--rate", "60", "--workers", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n  worker-kill: 5\n" in done.stdout, done.stdout
    assert "\n  rabbit-kill: 1\n" in done.stdout, done.stdout
    assert re.search(
        r"\n  durable doctor, asked from \d+\.\d s .*, had nothing to say after \d+\.\d s\n", done.stdout
    ), done.stdout
    assert "\nall right after" in done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing is left behind when all is right"


@pytest.mark.parametrize(
    ("place", "rate", "faults"),
    [
        pytest.param("rabbitmq", 40, ("rabbit-memory=1", "redis-memory=1", "queues-deleted=1"), marks=pytest.mark.slow),
        ("streams", 60, ("redis-kill=1", "redis-cut=2")),
        pytest.param("everysec", 60, ("redis-disk=1", "worker-kill=3"), marks=pytest.mark.slow),
        pytest.param("cluster", 60, ("redis-kill=1", "worker-kill=3"), marks=pytest.mark.slow),
        pytest.param("dynamodb", 8, ("worker-kill=5",), marks=pytest.mark.slow),
        ("sqlite", 60, ("disk-full=1", "worker-kill=3")),
    ],
)
def test_so_does_everything_else_that_workers_can_share(
    tmp_path: Path, place: str, rate: int, faults: tuple[str, ...]
) -> None:
    asked = (word for fault in faults for word in ("--fault", fault))
    load = ("--rate", str(rate), "--workers", "2", "--partitions", "4")
    done = run(CLUSTER, "--place", place, *asked, *load, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for fault in faults:
        assert f"\n  {fault.replace('=', ': ')}\n" in done.stdout, done.stdout
    assert "\nall right after" in done.stdout


def test_a_run_whose_faults_did_not_happen_is_no_pass(tmp_path: Path) -> None:
    short = ("--seconds", "1", "--rate", "20", "--workers", "1")
    done = run(CLUSTER, "--place", "sqlite", "--fault", "worker-kill=100", *short, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "\nNOT RUN after" in done.stdout
    assert re.search(r"\n  worker-kill happened \d times, not 100\n", done.stdout), done.stdout


def test_a_fault_that_a_place_does_not_have_is_refused(tmp_path: Path) -> None:
    done = run(CLUSTER, "--place", "streams", "--fault", "rabbit-kill", cwd=tmp_path)
    assert done.returncode == 2
    assert "--place streams has no rabbit-kill" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("    for _ in range(times):\n", "    for _ in range(times - 1):\n", "but plain Python says"),
        ("/{ctx.attempt} ", "/x ", "has an outcome and never ran"),
    ],
    ids=["a wrong output", "an attempt that never ran"],
)
def test_it_would_notice(tmp_path: Path, right: str, wrong: str, says: str) -> None:
    chaos = tmp_path / "tests" / "chaos"
    shutil.copytree(CLUSTER.parent, chaos, ignore=shutil.ignore_patterns("__pycache__"))
    for used in ("servers", "waiting.py"):
        (tmp_path / "tests" / used).symlink_to(ROOT / "tests" / used)
    programs = chaos / "programs.py"
    text = programs.read_text()
    assert wrong in text.replace(right, wrong, 1) != text
    programs.write_text(text.replace(right, wrong, 1))
    short = ("--fault", "none", "--seconds", "2", "--rate", "20", "--workers", "1")
    done = run(chaos / "cluster.py", *short, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stdout
    assert "WRONG" in done.stdout
