"""The floors of the house: who may import whom, and what the pure floors may not touch.

Every import counts, those inside functions and under TYPE_CHECKING too. Read with `ast`: nothing is imported here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = {
    "model": 0,
    "payload": 1,
    "ports": 1,
    "triggers": 1,
    "replay": 2,
    "engine": 3,
    "runtime": 4,
    "app": 5,
    "cli": 7,
}
ENTRANCES = {"durable", "durable.__main__"}  # `import durable` stands above app and below cli, and may import them all
ENTRANCE_FLOOR = 6
PURE_UP_TO = 3
BACKENDS_UP_TO = 1

IMPURE_MODULES = frozenset(
    """asyncio concurrent ctypes fcntl http io multiprocessing os pathlib queue sched secrets select selectors shutil
    signal socket socketserver sqlite3 ssl subprocess tempfile _thread threading time urllib""".split()
)
IMPURE_NAMES = frozenset(
    """datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today
    uuid.uuid1 uuid.uuid4 uuid.getnode open input print""".split()
)
FROM_RANDOM = "random.Random"  # a seeded one, made from the history
PICKLES = frozenset({"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve"})
PICKLE_PLACE = "durable/payload/signed_callables.py"  # behind a signature, and only when a function needs it
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"})

# file -> what it may use all the same -> why. An entry that nothing needs any more fails the test.
EXCEPTIONS: dict[str, dict[str, str]] = {
    PICKLE_PLACE: {"threading": "what cloudpickle takes by value is a setting of the process; one sets it at a time"},
}


@dataclass(frozen=True)
class Import:
    target: str  # dotted: a module, or a name in one
    line: int
    only_typing: bool
    in_function: bool


@dataclass
class File:
    path: str  # as people know it: durable/model/names.py, backends/sqlite.py
    module: str
    imports: list[Import] = field(default_factory=list)
    uses: list[tuple[str, int]] = field(default_factory=list)  # dotted names resolved through the imports

    @property
    def room(self) -> str:
        parts = self.module.split(".")
        return parts[1] if len(parts) > 1 and self.module not in ENTRANCES else ""


class Reader(ast.NodeVisitor):
    """Collects one file's imports and the dotted names it uses."""

    def __init__(self, file: File, package: str) -> None:
        self.file, self.package = file, package
        self.known: dict[str, str] = {}
        self.only_typing = False
        self.in_function = False

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self.in_function = self.in_function, True
        self.generic_visit(node)
        self.in_function = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.generic_visit(node)
            return
        before, self.only_typing = self.only_typing, True
        for child in node.body:
            self.visit(child)
        self.only_typing = before
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._note(name.name, node.lineno)
            self.known[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            origin = ".".join([*above, *([node.module] if node.module else [])])
        for name in node.names:
            self._note(f"{origin}.{name.name}", node.lineno)
            self.known[name.asname or name.name] = f"{origin}.{name.name}"

    def visit_Attribute(self, node: ast.Attribute) -> None:
        dotted = self._dotted(node)
        if dotted:
            self.file.uses.append((dotted, node.lineno))
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id not in self.known:
            self.file.uses.append((node.func.id, node.lineno))
        self.generic_visit(node)

    def _dotted(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            left = self._dotted(node.value)
            return f"{left}.{node.attr}" if left else None
        return None

    def _note(self, target: str, line: int) -> None:
        self.file.imports.append(Import(target, line, self.only_typing, self.in_function))


def read_house(root: Path) -> list[File]:
    sources = {p: p.relative_to(root) for p in sorted((root / "durable").rglob("*.py"))}
    sources = {p: r for p, r in sources.items() if "backends" not in r.parts}  # the link; read below, once
    sources |= {p: p.relative_to(root) for p in sorted((root / "backends").rglob("*.py"))}
    files = []
    for path, relative in sources.items():
        parts = [*(["durable"] if relative.parts[0] == "backends" else []), *relative.with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        file = File(relative.as_posix(), module)
        reader = Reader(file, module if is_package else module.rpartition(".")[0])
        reader.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        files.append(file)
    return files


def complaints(root: Path, exceptions: dict[str, dict[str, str]] | None = None) -> list[str]:
    """Everything in the house under `root` that breaks a rule, one line each."""
    files = read_house(root)
    modules = {file.module for file in files}
    excused = {(path, name) for path, names in (exceptions or {}).items() for name in names}
    found: list[str] = []
    needed: set[tuple[str, str]] = set()
    for file in files:
        found += _unplaced(file)
        found += _climbs(file, modules)
        found += _pickles(file)
        for name, line in _impure(file):
            if (file.path, name) in excused:
                needed.add((file.path, name))
            else:
                found.append(f"{file.path}:{line}: {name} on floor {FLOORS[file.room]}; take it as an argument")
    found += [f"{path}: needs no exception for {name} any more" for path, name in sorted(excused - needed)]
    found += _cycles(files, modules)
    return found


def _unplaced(file: File) -> Iterator[str]:
    if file.room and file.room not in FLOORS and file.room not in ("testing", "backends"):
        yield f"{file.path}: the room {file.room!r} has no floor"
    if VAGUE_NAMES & set(file.module.split(".")):
        yield f"{file.path}: the name says nothing about what is in it"


def _climbs(file: File, modules: set[str]) -> Iterator[str]:
    if file.room == "testing":
        return
    for imported in file.imports:
        if _top(imported.target) != "durable":
            continue
        target = _module_of(imported.target, modules)
        room = "" if target in ENTRANCES else target.split(".")[1]
        where = f"{file.path}:{imported.line}:"
        if room == "testing":
            yield f"{where} imports {target}; testing is imported by none"
        elif room == file.room:
            continue
        elif room == "backends":
            yield f"{where} imports {target}; backends are loaded by entry point"
        elif file.room == "backends":
            if not room or FLOORS.get(room, 99) > BACKENDS_UP_TO:
                yield f"{where} imports {target}; backends import floors 0 and 1 only"
        elif file.room and _floor(room) >= _floor(file.room):
            yield f"{where} floor {_floor(file.room)} imports {target} of floor {_floor(room)}"


def _pickles(file: File) -> Iterator[str]:
    for imported in file.imports:
        if _top(imported.target) in PICKLES and not (file.path == PICKLE_PLACE and imported.in_function):
            yield f"{file.path}:{imported.line}: imports {imported.target}"


def _impure(file: File) -> Iterator[tuple[str, int]]:
    if FLOORS.get(file.room, 99) > PURE_UP_TO:
        return
    for imported in file.imports:
        if _top(imported.target) in IMPURE_MODULES:
            yield _top(imported.target), imported.line
        elif _is_impure_name(imported.target):
            yield imported.target, imported.line
    for name, line in file.uses:
        if _is_impure_name(name):
            yield name, line


def _is_impure_name(name: str) -> bool:
    other_chance = name.startswith("random.") and name != FROM_RANDOM and not name.startswith(FROM_RANDOM + ".")
    return name in IMPURE_NAMES or other_chance


def _cycles(files: list[File], modules: set[str]) -> Iterator[str]:
    # What only type checkers read makes no cycle; what a function imports late does.
    graph = {
        file.module: {_module_of(i.target, modules) for i in file.imports if not i.only_typing} & modules
        for file in files
        if file.module not in ENTRANCES
    }
    for module, targets in graph.items():
        targets.discard(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "a cycle of imports: " + " -> ".join(reversed(error.args[1]))


def _module_of(target: str, modules: set[str]) -> str:
    while target not in modules and "." in target:
        if target.rpartition(".")[0] == "durable":
            # `from durable import x`: a room without a file here, or a public name of the entrance
            return target if target.split(".")[1] in FLOORS else "durable"
        target = target.rpartition(".")[0]
    return target


def _floor(room: str) -> int:
    return FLOORS.get(room, 99) if room else ENTRANCE_FLOOR


def _top(target: str) -> str:
    return target.split(".")[0]


def test_the_house_stands() -> None:
    assert complaints(ROOT, EXCEPTIONS) == []


def test_every_exception_has_a_reason() -> None:
    assert all(reason.strip() for names in EXCEPTIONS.values() for reason in names.values())


SOUND = {
    "durable/__init__.py": "from .app.worker import Worker\n",
    "durable/__main__.py": "from durable.cli import main\n",
    "durable/ports.py": "from .model import names\n",
    "durable/model/__init__.py": "from .names import check\n",
    "durable/model/names.py": "from random import Random\nfrom datetime import datetime\ndef check(now): ...\n",
    "durable/payload/__init__.py": "from .json import encode\n",
    "durable/payload/json.py": "import durable.model.names\n",
    "durable/payload/signed_callables.py": "def load(text):\n    import cloudpickle\n",
    "durable/replay/__init__.py": "import inspect, traceback, logging\nfrom ..payload import encode\n",
    "durable/engine/__init__.py": "from .step import step\n",
    "durable/engine/step.py": "from ..replay import x\nfrom ..ports import Store\n",
    "durable/runtime/__init__.py": "import os, threading, time\nfrom ..engine.step import step\ntime.sleep(1)\n",
    "durable/app/__init__.py": "",
    "durable/app/worker.py": "from ..runtime import x\n",
    "durable/cli/__init__.py": "import durable\nfrom ..model import names\n",
    "durable/testing/__init__.py": "from ..runtime import x\nfrom ..backends import memory\n",
    "backends/__init__.py": "",
    "backends/memory.py": "import threading, time\nfrom ..ports import Store\nfrom . import sqlite\n",
    "backends/sqlite.py": "import sqlite3\nfrom durable.model.names import check\n",
}

# what is appended to which file -> part of the complaint
FAULTS = [
    ("durable/model/names.py", "from ..ports import Store", "floor 0 imports durable.ports of floor 1"),
    ("durable/model/names.py", "def f():\n    from ..engine import step", "floor 0 imports durable.engine.step"),
    (
        "durable/model/names.py",
        "if TYPE_CHECKING:\n    import durable.app.worker",
        "floor 0 imports durable.app.worker",
    ),
    ("durable/model/names.py", "from durable import Worker", "floor 0 imports durable of floor 6"),
    ("durable/payload/json.py", "from ..ports import Store", "floor 1 imports durable.ports of floor 1"),
    ("durable/payload/json.py", "from .. import ports", "floor 1 imports durable.ports of floor 1"),
    ("durable/engine/step.py", "from ..runtime import x", "floor 3 imports durable.runtime of floor 4"),
    ("durable/app/worker.py", "from durable.cli import main", "floor 5 imports durable.cli of floor 7"),
    ("durable/app/worker.py", "from ..testing import clock", "testing is imported by none"),
    ("durable/__init__.py", "from . import testing", "testing is imported by none"),
    ("durable/runtime/__init__.py", "from ..backends import sqlite", "loaded by entry point"),
    ("backends/memory.py", "from ..engine.step import step", "backends import floors 0 and 1 only"),
    ("backends/memory.py", "import durable", "backends import floors 0 and 1 only"),
    ("durable/model/names.py", "import os.path", "os on floor 0"),
    ("durable/model/names.py", "def f():\n    import threading", "threading on floor 0"),
    ("durable/ports.py", "from pathlib import Path", "pathlib on floor 1"),
    ("durable/replay/__init__.py", "from time import monotonic", "time on floor 2"),
    ("durable/engine/step.py", "from uuid import uuid4", "uuid.uuid4 on floor 3"),
    ("durable/engine/step.py", "import uuid as u\ndef f(new=u.uuid4): ...", "uuid.uuid4 on floor 3"),
    ("durable/engine/step.py", "import random\nrandom.random()", "random.random on floor 3"),
    ("durable/engine/step.py", "import datetime as d\nd.datetime.utcnow()", "datetime.datetime.utcnow on floor 3"),
    ("durable/model/names.py", "def f(): return datetime.now()", "datetime.datetime.now on floor 0"),
    ("durable/model/names.py", "open('x')", "open on floor 0"),
    ("durable/app/worker.py", "import pickle", "imports pickle"),
    ("backends/sqlite.py", "from cloudpickle import dumps", "imports cloudpickle"),
    ("durable/payload/json.py", "def f():\n    import cloudpickle", "imports cloudpickle"),
    ("durable/payload/signed_callables.py", "from pickle import loads", "imports pickle"),
    ("durable/engine/step.py", "from . import x", "a cycle of imports: durable.engine"),
    ("durable/engine/step.py", "def f():\n    from durable.engine import x", "a cycle of imports: durable.engine"),
    ("durable/newroom.py", "", "the room 'newroom' has no floor"),
    ("durable/app/utils.py", "", "the name says nothing"),
]


def build(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def _split(found: list[str]) -> tuple[list[str], list[str]]:
    return [f for f in found if f.startswith("a cycle")], [f for f in found if not f.startswith("a cycle")]


def test_a_sound_house_has_no_complaints(tmp_path: Path) -> None:
    root = build(tmp_path, SOUND)
    (root / "durable/backends").symlink_to("../backends")
    assert complaints(root) == []


@pytest.mark.parametrize(("path", "added", "complaint"), FAULTS)
def test_each_fault_is_found(tmp_path: Path, path: str, added: str, complaint: str) -> None:
    root = build(tmp_path, SOUND | {path: SOUND.get(path, "") + added + "\n"})
    cycles, others = _split(complaints(root))
    assert any(complaint in found for found in cycles + others)
    assert all(found.startswith(path) for found in others)
    assert len(others) <= 1  # who climbs may close a cycle too


def test_an_exception_excuses_its_file_only_and_only_while_it_is_needed(tmp_path: Path) -> None:
    excused = {"durable/replay/__init__.py": {"threading": "a thread-local guard"}}
    (stale,) = complaints(build(tmp_path, SOUND), excused)
    assert stale == "durable/replay/__init__.py: needs no exception for threading any more"
    guarded = {"durable/replay/__init__.py": "import threading\n"}
    assert complaints(build(tmp_path, guarded), excused) == []
    (other,) = complaints(build(tmp_path, guarded | {"durable/model/names.py": "import threading\n"}), excused)
    assert "threading on floor 0" in other
