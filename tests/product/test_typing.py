"""What the types promise, asked of mypy and of pyright: good calls pass, each bad one is refused at its line."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import durable
from durable.app.starting import ManyOptions, Options
from durable.replay.arity import Options as ChildOptions

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "typed"

Findings = dict[int, str]  # line -> what the checker says about it
Checker = Callable[[Path, Path], Findings]


def mypy(case: Path, folder: Path) -> Findings:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    output = _run([*command, "--no-error-summary", str(case)])
    shown = re.escape(str(case.relative_to(ROOT)))  # --show-absolute-path is not heeded by what comes from the cache
    found = re.finditer(rf"^{shown}:(\d+): error: (.*)$", output, re.MULTILINE)
    return {int(match[1]): match[2] for match in found} or _unless_silent(output)


def pyright(case: Path, folder: Path) -> Findings:
    # A copy with its own settings: pyproject.toml leaves cases_bad.py out.
    settings = {"include": ["."], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    copy = shutil.copy(case, folder)
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder), "--pythonpath", sys.executable]
    report = json.loads(_run(command))
    assert report["summary"]["filesAnalyzed"] == 1
    errors = [d for d in report["generalDiagnostics"] if d["severity"] == "error" and d["file"] == str(copy)]
    return {error["range"]["start"]["line"] + 1: error["message"] for error in errors}


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def _unless_silent(output: str) -> Findings:
    # An error elsewhere must not look like a clean case.
    assert ": error:" not in output, output
    return {}


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (durable.Client.start_orchestration, Options),
        (durable.start_orchestration, Options),
        (durable.OrchestrationContext.call_sub_orchestrator, ChildOptions),
        (durable.Client.start_many, ManyOptions),
    ],
)
def test_the_typed_options_are_those_of_the_function(function: Callable[..., object], options: type) -> None:
    # Types and code of these stand in two places: durable/replay/arity.py says why.
    named = {p.name: p.annotation for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    named.pop("instance_ids", None)
    typed = {name: getattr(hint, "__forward_arg__", hint) for name, hint in options.__annotations__.items()}
    assert named == typed
    assert (function.__doc__ or "").strip()


def marked(case: Path) -> set[int]:
    lines = case.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if re.search(r"# E: \S", line)}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_good_calls_pass(checker: Checker, tmp_path: Path) -> None:
    assert checker(CASES / "cases_ok.py", tmp_path) == {}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_each_bad_call_is_refused_at_its_line(checker: Checker, tmp_path: Path) -> None:
    case = CASES / "cases_bad.py"
    found = checker(case, tmp_path)
    expected = marked(case)
    assert len(expected) > 30
    assert sorted(expected - set(found)) == [], "accepted, though marked"
    assert {line: said for line, said in found.items() if line not in expected} == {}, "refused, though not marked"
