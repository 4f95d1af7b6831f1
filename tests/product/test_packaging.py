"""What is built and installed: `backends/` arrives as `durable.backends`, and as nothing else, however it is installed.

Everything is built from a copy of what git tracks (or would: new files that are not ignored) and installed into
fresh virtual environments, which see the dependencies of this one through a path entry but not its editable install.
No network is used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ["boto3", "cloudevents", "cloudpickle", "jmespath", "pika", "redis", "rich", "tenacity", "typer"]
SCRIPT = """
import durable, durable.backends

@durable.activity
def greet(name: str) -> str:
    return f"hello {name}"

@durable.orchestrator
def hello(ctx: durable.OrchestrationContext, name: str):
    return (yield ctx.call_activity(greet, name))

if __name__ == "__main__":
    with durable.Worker():
        print(durable.start_orchestration(hello, "world").result(timeout=30))
    print(durable.__file__)
    print(durable.backends.__file__)
"""


def run(*command: object, cwd: Path) -> str:
    """The standard output of a command that must succeed, run as in a fresh shell."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=bare(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{command} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def bare() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("DURABLE_", "PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    return sorted({name for name in listed if name and os.path.lexists(ROOT / name)})


@pytest.fixture(scope="module")
def checkout(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tracked, tmp_path_factory.mktemp("checkout"))


def copy(tracked: list[str], to: Path) -> Path:
    for name in tracked:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


@pytest.fixture(scope="module")
def dist(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    source = copy(tracked, tmp_path_factory.mktemp("source"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


Environment = Callable[..., Path]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    def make(*install: object) -> Path:
        """The Python of a new virtual environment in which `pip install *install` was run."""
        home = tmp_path_factory.mktemp("venv")
        venv.create(home, with_pip=False, symlinks=True)
        python = home / "bin" / "python"
        packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
        # A path named in a .pth file is searched, but .pth files found there are not obeyed: the editable install of
        # the environment that runs this test stays out.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        quiet = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
        run(
            sys.executable, "-m", "pip", "--python", python, "install", *quiet, "--ignore-installed", *install, cwd=home
        )
        return python

    return make


@pytest.fixture(scope="module")
def installed(environment: Environment, wheel: Path) -> Path:
    return environment(wheel)


@pytest.fixture(scope="module")
def editable(environment: Environment, checkout: Path) -> Path:
    return environment("--editable", checkout)


def packaged(tracked: list[str]) -> list[str]:
    """The tracked files that belong into a wheel, by the names they have there."""
    ours = [name for name in tracked if name.startswith("durable/") and name != "durable/backends"]
    return sorted(ours + [f"durable/{name}" for name in tracked if name.startswith("backends/")])


def test_the_wheel_holds_the_tracked_packages_and_nothing_else(wheel: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if not n.split("/")[0].endswith(".dist-info"))
    assert names == packaged(tracked)
    assert "durable/py.typed" in names
    assert not [n for n in names if n.startswith("backends")]


def test_the_sdist_has_the_sources_where_they_stand(dist: Path, tracked: list[str]) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive}
    ours = {n for n in tracked if n.startswith(("durable/", "backends/")) and n != "durable/backends"}
    assert ours | {"pyproject.toml", "setup.cfg", "LICENSE", "SECURITY.md"} <= names


def test_the_link_points_at_the_folder() -> None:
    assert os.readlink(ROOT / "durable" / "backends") == "../backends"


def test_a_checkout_without_symlinks_builds_the_same_wheel(tracked: list[str], wheel: Path, tmp_path: Path) -> None:
    source = copy(tracked, tmp_path / "source")
    (source / "durable" / "backends").unlink()
    (source / "durable" / "backends").write_text("../backends")  # what git leaves with core.symlinks=false
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, source, cwd=tmp_path)
    (other,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(other) as theirs:
        assert sorted(ours.namelist()) == sorted(theirs.namelist())


def orchestrate(python: Path, folder: Path) -> list[Path]:
    """Run a real orchestration from a script in `folder`; where durable and durable.backends were found."""
    script = folder / "hello_world.py"
    script.write_text(SCRIPT)
    try:
        result, *found = run(python, script, cwd=folder).splitlines()
    finally:
        script.unlink()
        shutil.rmtree(folder / ".durable", ignore_errors=True)
    assert result == "hello world"
    return [Path(path) for path in found]


def test_an_orchestration_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    for path in orchestrate(installed, tmp_path):
        assert path.is_relative_to(installed.parents[1])


def test_an_orchestration_runs_inside_the_checkout(installed: Path, checkout: Path) -> None:
    # There the checkout's own durable/ hides the installed one; the link lets it find its backends.
    for path in orchestrate(installed, checkout):
        assert path.is_relative_to(checkout)


def test_an_editable_install_runs_both_ways(editable: Path, checkout: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, checkout):
        for path in orchestrate(editable, folder):
            assert path.resolve().is_relative_to(checkout.resolve())


def test_stores_and_brokers_are_found_by_entry_point_also_where_their_clients_are_missing(
    installed: Path, tmp_path: Path
) -> None:
    code = """
from importlib.metadata import entry_points
for group in ("durable.stores", "durable.transports", "durable.event_sources"):
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        assert callable(point.load())
        print(point.name)
"""
    stores, brokers, sources = (
        ["dynamodb", "memory", "redis", "redis+cluster", "rediss", "rediss+cluster", "sqlite"],
        ["amqp", "amqps", "memory", "redis", "redis+cluster", "rediss", "rediss+cluster"],
        ["amqp", "amqps", "redis", "rediss", "sqs"],
    )
    assert run(installed, "-c", code, cwd=tmp_path).split() == stores + brokers + sources


def test_the_scripts_of_redis_are_shipped(installed: Path, tmp_path: Path) -> None:
    code = "import durable.backends, pathlib; print(*pathlib.Path(durable.backends.__file__).parent.glob('*.lua'))"
    there = {Path(path).name for path in run(installed, "-c", code, cwd=tmp_path).split()}
    assert there == {path.name for path in (ROOT / "backends").glob("*.lua")}
    assert there


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    command, module = installed.parent / "durable", [installed, "-m", "durable"]
    assert "durable" in run(command, "--help", cwd=tmp_path)
    assert "durable" in run(*module, "--help", cwd=tmp_path)


def test_the_folder_refuses_its_other_name() -> None:
    done = subprocess.run([sys.executable, "-c", "import backends"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: import durable.backends, not backends" in done.stderr


def test_nothing_called_backends_is_installed(installed: Path, editable: Path, tmp_path: Path) -> None:
    code = "import importlib.util; print(importlib.util.find_spec('backends'))"
    for python in (installed, editable):
        assert run(python, "-c", code, cwd=tmp_path).strip() == "None"


def test_importing_durable_loads_nothing_heavy() -> None:
    code = f"import durable, sys; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    assert run(sys.executable, "-c", code, cwd=ROOT).split() == []
