"""A user's code: a file or a module, imported as Python would import it, never as `__main__`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ..app.functions import Orchestrator
from .exits import CommandError, Exit


def load(target: str) -> ModuleType:
    """Import `flows.py`, `folder/flows.py` or `package.flows`. The current folder is searched for dotted names.

    A file's own folder comes first on the path, as when Python runs it; a file within a package is imported as part of
    it. Raises CommandError with the line of the user's code that failed.
    """
    file, function = split_target(target)
    if function is not None:
        raise CommandError(Exit.USAGE, f"{target!r}: give the whole of it, {file}; only `durable run` takes a function")
    if not target.endswith(".py") and os.sep not in target:
        search(Path.cwd())
        return _import(target, target)
    path = Path(target)
    if not os.path.isfile(path):
        raise CommandError(Exit.USAGE, f"there is no file {target!r}")
    if path.suffix != ".py" or "." in path.stem:
        raise CommandError(Exit.USAGE, f"{target!r} can't be imported: give a Python file named like orders.py")
    path = path.resolve()
    folder, name = path.parent, path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    search(folder)
    module = _import(name, target)
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise CommandError(
            Exit.USAGE, f"{target!r} can't be imported: another module is already called {name!r}; rename the file"
        )
    return module


def split_target(target: str) -> tuple[str, str | None]:
    """`FILE` or `FILE:FUNCTION`; a file whose name has a colon is still a file."""
    file, colon, function = target.rpartition(":")
    return (file, function) if colon and not os.path.isfile(target) else (target, None)


def choose(module: ModuleType, function: str | None, file: str) -> Orchestrator[..., Any]:
    """The orchestrator called `function` in the module or by its registered name, or the only one it defines."""
    found = {name: value for name, value in vars(module).items() if isinstance(value, Orchestrator)}
    if function is not None:
        named = [v for v in found.values() if v.name == function]
        chosen = found.get(function) or (named[-1] if named else None)
        if chosen is None:
            known = ", ".join(dict.fromkeys(v.name for v in found.values())) or "none"
            raise CommandError(Exit.USAGE, f"{file} has no orchestrator {function!r}; it has: {known}")
        return chosen
    own = {id(v): v for v in found.values() if v.__module__ == module.__name__} or {id(v): v for v in found.values()}
    if not own:
        raise CommandError(Exit.USAGE, f"{file} has no orchestrator: decorate one with @durable.orchestrator")
    if len(own) > 1:
        names = ", ".join(v.__name__ for v in own.values())
        raise CommandError(Exit.USAGE, f"{file} has several orchestrators: {names}. Name one: {file}:FUNCTION")
    return next(iter(own.values()))


def search(folder: Path) -> None:
    """Import from this folder too, before any other."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _why(error, target) from error
    except SystemExit as error:
        raise CommandError(Exit.USAGE, f"importing {target} ended with sys.exit({error.code!r})") from error


def _why(error: Exception, target: str) -> CommandError:
    """What went wrong, and the user's line it went wrong at."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    *place, said = traceback.format_exception_only(error)  # a SyntaxError has its place here, others in their frames
    if not place and frames:
        last = frames[-1]
        place = [f'  File "{last.filename}", line {last.lineno}, in {last.name}', f"    {last.line}"]
    searched = f" (searched from {os.getcwd()})" if isinstance(error, ModuleNotFoundError) and not frames else ""
    below = "\n".join(line.rstrip("\n") for line in place).split("\n") if place else []
    return CommandError(Exit.USAGE, f"importing {target} failed: {said.strip()}{searched}", *below)


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename == importlib.__file__ or filename == __file__
