"""What the docstrings of the testing kit show is run, and the time of a client is an argument."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import durable
import durable.testing

APP = Path(__file__).resolve().parents[2] / "durable" / "app"
registry = durable.Registry()


@registry.activity
def charge(item: str) -> str:
    return "a real receipt"


@registry.orchestrator
def order(ctx: durable.OrchestrationContext, item: str) -> Generator[Any, Any, str]:
    yield ctx.call_activity(charge, item)
    return f"{item} is on its way"


@registry.orchestrator
def monitor(ctx: durable.OrchestrationContext, order_id: str) -> Generator[Any, Any, str]:
    yield ctx.create_timer(30 * 86_400)
    yield ctx.call_activity(charge, order_id)
    return "done"


def examples(doc: str | None) -> list[str]:
    """The indented blocks that are programs, not tables."""
    assert doc
    blocks = inspect.cleandoc(doc).split("\n\n")
    programs = [textwrap.dedent(block) for block in blocks if block.startswith("    ") and "durable." in block]
    assert programs
    return programs


SHOWN = [
    pytest.param(program, id=f"{name}-{number}")
    for name, where in (
        ("package", durable.testing),
        ("Environment", durable.testing.Environment),
        ("step", durable.testing.step),
        ("replay", durable.testing.replay),
    )
    for number, program in enumerate(examples(where.__doc__))
]


@pytest.mark.parametrize("program", SHOWN)
def test_what_a_docstring_shows_is_true(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "histories").mkdir()
    golden = APP.parents[1] / "tests" / "contracts" / "golden" / "history-1.jsonl"
    (tmp_path / "histories" / "order-42.jsonl").write_bytes(golden.read_bytes())

    def environment() -> durable.testing.Environment:
        return durable.testing.Environment(registry=registry)

    replayed: list[str] = []
    shown = program.replace("durable.testing.Environment()", "environment()")
    shown = shown.replace(
        "durable.testing.replay(", "replay("
    )  # its code is not here; that it fits is tested elsewhere
    names = {"durable": durable, "charge": charge, "order": order, "monitor": monitor, "Path": Path}
    exec(shown, names | {"environment": environment, "replay": lambda file: replayed.append(str(file))})
    assert replayed == (["histories/order-42.jsonl"] if "replay(" in program else [])


def test_the_clients_time_is_its_own() -> None:
    """`utc_now()` in a client would be the wall clock in a test environment: it asks `self._now()`."""
    for name in ("client.py", "steering.py"):
        tree = ast.parse((APP / name).read_text(encoding="utf-8"))
        calls = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "utc_now"]
        assert len(calls) == (name == "steering.py"), (name, calls)
