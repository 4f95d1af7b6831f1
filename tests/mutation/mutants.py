"""The mutants of a file, each as the code object that takes the place of a function's own.

mutmut makes them. Its runner is not used: it wraps every function, so that its own frame is what a mismatch names as
the line of the user's code; and it starts pytest anew for each mutant, which costs more than the tests do.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents
from mutmut.utils.format_utils import mangled_name_from_mutant_name, orig_function_and_class_names_from_key

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """One mistake. before, after: the lines of the function, without its first one."""

    name: str
    file: str
    function: Any  # a FunctionType, which type checkers take for a method here
    code: CodeType
    before: list[str]
    after: list[str]

    def put(self) -> None:
        """For good: in a process of its own."""
        self.function.__code__ = self.code

    def __str__(self) -> str:
        shown = [self.name]
        for line in difflib.unified_diff(self.before, self.after, n=0, lineterm=""):
            if line.startswith("@@"):
                below = int(line.split()[1][1:].split(",")[0])
                shown.append(f"    {self.file}:{self.function.__code__.co_firstlineno + below}")
            elif not line.startswith(("---", "+++")):
                shown.append(f"    {line}")
        return "\n".join(shown)


@cache
def mutated(file: Path) -> MutatedFile:
    """The text of this file with every function many times over, and where each one is."""
    return mutate_file_contents(str(file.relative_to(ROOT)), file.read_text("utf-8"))


def mutants_of(file: Path) -> Iterator[Mutant]:
    """All that mutmut makes of this file, in its order."""
    relative = str(file.relative_to(ROOT))
    module = import_module(relative.removesuffix(".py").replace("/", "."))
    made = mutated(file)
    lines = made.code.splitlines()
    codes = {code.co_name: code for code in _functions(compile(made.code, str(file), "exec", dont_inherit=True))}
    for mutant in made.mutant_names:
        function = _function(module, mutant)
        own, code = function.__code__, codes[mutant]
        if code.co_freevars != own.co_freevars or _deeds(code) == _deeds(own):
            continue  # it can't take the place of the other; only a default is another, which is no part of the code
        code = code.replace(co_name=own.co_name, co_firstlineno=own.co_firstlineno)
        texts = []
        for name in (f"{mangled_name_from_mutant_name(mutant)}__mutmut_orig", mutant):
            span = made.line_span_by_function_name[name]
            text = lines[span.start - 1 : span.end]
            texts.append(text[next(n for n, line in enumerate(text) if f"def {name}(" in line) + 1 :])
        yield Mutant(f"{module.__name__}.{mutant}", relative, function, code, *texts)


Called = tuple[str, str, int]  # the file of a function, its name and its first line


def called_as(function: Any) -> Called:
    code = function.__code__
    return code.co_filename, code.co_name, code.co_firstlineno


def telling(function: Any, call: str) -> CodeType:
    """The code of this function, which first calls what stands under that name among the builtins, with what it is
    called as: a profiler that hears of every call makes the tests ten times as slow, and some of them fail or hang."""
    file, name, line = called_as(function)
    return _telling(Path(file), call)[name, line]


@cache
def _telling(file: Path, call: str) -> dict[tuple[str, int], CodeType]:
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            called: list[ast.expr] = [ast.Constant(value) for value in (str(file), node.name, line)]
            told = ast.Expr(ast.Call(ast.Name(call, ast.Load()), called, []))
            ast.fix_missing_locations(ast.copy_location(told, node))
            node.body.insert(0, told)
    return {(code.co_name, code.co_firstlineno): code for code in _functions(compile(tree, str(file), "exec"))}


def _functions(code: CodeType) -> Iterator[CodeType]:
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            if not part.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
                yield from _functions(part)


def _deeds(code: CodeType) -> object:
    """What it does, wherever it stands."""
    constants = [_deeds(part) if isinstance(part, CodeType) else (type(part), part) for part in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def _function(module: Any, mutant: str) -> FunctionType:
    name, owner = orig_function_and_class_names_from_key(mutant)
    found = vars(getattr(module, owner) if owner else module)[name]
    found = getattr(found, "__func__", found)  # of a class method
    assert isinstance(found, FunctionType)
    return found
