"""What the README shows is true: each snippet runs and prints what stands below it, each command exists.

Conventions: a ```python block is a program of its own; a ```text block after it is its output. In ```console blocks,
lines with `$` are commands, and what the README's own program printed is compared without times.
"""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import durable
from tests.product.guide_blocks import ROOT, blocks, environment, run, shape

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(block.kind, block.text) for block in blocks(README)]
FIRST = next(text for kind, text in BLOCKS if kind == "python")
PROGRAMS = [
    pytest.param(text, BLOCKS[i + 1][1], id=str(i))
    for i, (kind, text) in enumerate(BLOCKS)
    if kind == "python" and text != FIRST
]
MOMENT = next(text for kind, text in BLOCKS if kind == "console" and "kill -9" in text)
SHOWN = next(text for kind, text in BLOCKS if kind == "console" and "durable show" in text)


@pytest.mark.parametrize(("program", "output"), PROGRAMS)
def test_each_snippet_prints_what_stands_below_it(program: str, output: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(program, encoding="utf-8")
    assert run(tmp_path, "snippet.py") == output


def test_each_snippet_has_its_output() -> None:
    kinds = [kind for kind, text in BLOCKS if kind in ("python", "text") and text != FIRST]
    assert kinds == ["python", "text"] * (len(kinds) // 2)
    assert len(PROGRAMS) >= 7


def test_the_durable_moment(tmp_path: Path) -> None:
    """Killed in the second step and run again, the first program prints the remaining steps; `show` looks as shown."""
    (tmp_path / "order.py").write_text(FIRST, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "order.py"], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "charge book\n"
        client = durable.connect(f"sqlite:///{tmp_path}/.durable/durable.db")
        seen = 0
        while seen < 2:  # until the second step is recorded as scheduled
            seen = sum(event.type == "TaskScheduled" for event in client.history("order-42"))
        client.close()
        process.send_signal(signal.SIGKILL)
    output = run(tmp_path, "order.py")
    assert output == "pack book\nship book\nbook is on its way\n"
    printed = [line for line in MOMENT.splitlines() if not line.startswith(("$ ", "[1]"))]  # the shell's own: [1]
    assert printed == ["charge book", *output.splitlines()]
    assert [line for line in MOMENT.splitlines() if line.startswith("$ ")] == [
        "$ python order.py &",
        "$ kill -9 %1",
        "$ python order.py",
    ]
    shown = run(tmp_path, "-m", "durable", "show", "order-42")
    assert shape(shown) == shape(SHOWN.partition("\n")[2])


def test_ctrl_c_lets_the_running_step_end(tmp_path: Path) -> None:
    (tmp_path / "order.py").write_text(FIRST, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "order.py"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under a runner that ignores SIGINT, its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "charge book\n"
        with durable.connect(f"sqlite:///{tmp_path}/.durable/durable.db") as client:
            seen = 0
            while seen < 2:
                seen = sum(event.type == "TaskScheduled" for event in client.history("order-42"))
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
            results = sum(event.type == "TaskCompleted" for event in client.history("order-42"))
    assert (out, results) == ("pack book\n", 2)


def test_it_has_the_section_that_messages_name() -> None:
    assert "\n## Ids and names\n" in README


def test_each_target_of_make_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= set(targets)


def test_the_table_of_limits_is_the_real_one() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert named == {field.name for field in dataclasses.fields(durable.Limits)}
