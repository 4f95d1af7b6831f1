"""Prints docs/reference.md, made from the docstrings of the public names: `make docs` puts it there.

Only the standard library and the package itself. The text must not depend on the Python that runs this, so signatures
are written here, from annotations as the source has them. What belongs to no user (constructors of objects that others
make, the ports of backends) is left out.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any, Final

import durable
import durable.testing

HEAD: Final = """\
# Reference

Made from the docstrings by `make docs`; a test compares. How it fits together stands in the guides beside this file,
and in [the README](../README.md).
"""

# What a user constructs; objects of other classes come from a call, whose signature is shown there.
CONSTRUCTED: Final = frozenset("Limits Registry RetryPolicy Worker Environment".split())
FOR_BACKENDS: Final = frozenset(
    "BlobsContract EventSourceContract SignalsContract StoreContract TransportContract".split()
)
# Methods with a docstring that the floors below and beside call; users have no use for them.
INTERNAL: Final = {
    "Client": frozenset(
        (
            "backend reply_to events_at open_transport waits worker_started ended worker_stopped wait_summary "
            "ask triggers declare_triggers keys listen_to_triggers"
        ).split()
    ),
    "AsyncClient": frozenset(["wait_summary"]),
    "Registry": frozenset(["find_orchestrator", "find_activity", "find_trigger_function", "on_change", "names"]),
    "durable.actions": frozenset(["always", "as_action", "trigger", "json_context"]),
    "durable.conditions": frozenset(["as_condition"]),
    "Limits": frozenset(["stored_bytes"]),
    "FailureDetails": frozenset(["hierarchy"]),
    "Task": frozenset(["owner"]),
}


def reference() -> str:
    """The whole document."""
    parts = [HEAD]
    for module, title in ((durable, "durable"), (durable.testing, "durable.testing")):
        parts += [f"## {title}\n", described(module.__doc__)] if module is durable.testing else [f"## {title}\n"]
        parts += [entry for name in sorted(module.__all__, key=_place(module)) for entry in _entries(module, name)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _place(module: ModuleType) -> Callable[[str], tuple[int, str]]:
    """Decorators and functions first, then classes, errors at the end."""

    def place(name: str) -> tuple[int, str]:
        value = getattr(module, name)
        if not inspect.isclass(value):
            return 0, name
        return (2 if issubclass(value, BaseException) else 1), name

    return place


def _entries(module: ModuleType, name: str) -> Iterator[str]:
    value = getattr(module, name)
    shown = f"{module.__name__}.{name}"
    yield f"### {shown}\n"
    if isinstance(value, ModuleType):
        yield described(value.__doc__)
        yield from _contents(value, shown)
        return
    if not inspect.isclass(value):
        if callable(value):
            yield code(shown + signature(value))
            yield described(value.__doc__)
        else:  # an object: its class says what it is
            yield f"A `durable.{type(value).__name__}`: that of the module-level decorators.\n"
        return
    if issubclass(value, BaseException):
        bases = ", ".join(f"`{_public(base)}`" for base in value.__bases__)
        yield f"An error; a kind of {bases}.\n"
    if issubclass(value, Enum):
        yield code("\n".join(f"{name}.{member.name}" for member in value))
    elif hasattr(value, "__struct_fields__"):
        yield code("\n".join(f"{field}: {hint}" for field, hint in _fields(value)))
    elif name in CONSTRUCTED:
        yield code(shown + signature(value.__init__, bound=True))
    if name == "CloudEvent":
        yield "The class of the CloudEvents SDK: `cloudevents.core.v1.event.CloudEvent`.\n"
        return
    yield described(value.__doc__)
    if name not in FOR_BACKENDS:
        for method, member in _members(value):
            yield from _member(name, method, member)


def _contents(module: ModuleType, shown: str) -> Iterator[str]:
    """Its functions, and its objects, of which the class says what they are."""
    hidden = INTERNAL[shown]
    for name, value in vars(module).items():
        if name.startswith("_") or name in hidden:
            continue
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            yield f"#### {shown}.{name}\n"
            yield code(f"{shown}.{name}{signature(value)}")
            yield described(value.__doc__)
        elif hasattr(value, "__struct_fields__") and not inspect.isclass(value):
            yield f"#### {shown}.{name}\n"
            yield described(type(value).__doc__)


def _member(owner: str, name: str, member: Any) -> Iterator[str]:
    yield f"#### {owner}.{name}\n"
    if isinstance(member, property | cached_property):
        getter: Any = member.fget if isinstance(member, property) else member.func
        yield code(f"{name}: {hint(getter.__annotations__.get('return', 'Any'))}")
    else:
        getter = member
        said = f"{'async ' if inspect.iscoroutinefunction(member) else ''}{name}{signature(member, bound=True)}"
        if owner.startswith("Async"):  # its methods have the signatures of those of `Client`
            said = re.sub(r"\bOrchestrationHandle", "AsyncOrchestrationHandle", said)
        yield code(said)
    yield described(getter.__doc__)


def _members(cls: type) -> list[tuple[str, Any]]:
    """Public methods and properties, of the class itself first, in the order of the source."""
    found: dict[str, Any] = {}
    hidden = INTERNAL.get(cls.__name__, frozenset())
    for base in cls.__mro__:
        if not base.__module__.startswith("durable"):
            continue
        for name, value in vars(base).items():
            member = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            is_member = isinstance(member, property | cached_property | FunctionType)
            if is_member and not name.startswith("_") and name not in hidden:
                found.setdefault(name, member)
    return list(found.items())


def _fields(cls: Any) -> list[tuple[str, str]]:
    """The fields of a struct, with the hints of the source."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        hints |= inspect.get_annotations(base) if base.__module__.startswith("durable") else {}
    hidden = INTERNAL.get(cls.__name__, frozenset())
    return [(name, hint(hints[name])) for name in cls.__struct_fields__ if name not in hidden]


def _public(cls: type) -> str:
    name = cls.__name__
    return f"durable.{name}" if cls.__module__.startswith("durable") else name


# ---- signatures


def signature(function: Callable[..., Any], bound: bool = False) -> str:
    """`(item: str, *, timeout: float = 30.0) -> str`, the same under every Python."""
    known = inspect.signature(function)
    kept = [parameter for parameter in known.parameters.values() if parameter.name != "named"]  # there to be refused
    known = known.replace(parameters=kept)
    parts: list[str] = []
    star = slash = False
    parameters = list(known.parameters.values())[1 if bound else 0 :]
    for parameter in parameters:
        if slash and parameter.kind is not parameter.POSITIONAL_ONLY:
            parts.append("/")
        slash = parameter.kind is parameter.POSITIONAL_ONLY
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or parameter.kind in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY)
        parts.append(_parameter(parameter))
    if slash:
        parts.append("/")
    returns = "" if known.return_annotation in (known.empty, "None", None) else f" -> {hint(known.return_annotation)}"
    return f"({', '.join(parts)}){returns}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    said = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        said += f": {hint(parameter.annotation)}"
    return said if parameter.default is parameter.empty else f"{said} = {_default(parameter.default)}"


def _default(value: Any) -> str:
    if type(value) is object:  # of an argument that need not be given, for which None would be a value
        return "..."
    if isinstance(value, tuple):
        inner = ", ".join(map(_default, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if type(value) is object:  # that it was not given
        return "..."
    if inspect.isclass(value):
        return value.__name__
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value).removeprefix("datetime.")


def hint(annotation: Any) -> str:
    """An annotation as the source has it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


# ---- docstrings as Markdown


def code(text: str) -> str:
    """An indented block, wrapped where a signature is long."""
    lines = [line for said in text.splitlines() for line in _wrapped(said)]
    return textwrap.indent("\n".join(lines), "    ") + "\n"


def _wrapped(said: str) -> list[str]:
    if len(said) <= 110 or "(" not in said:
        return [said]
    name, _, rest = said.partition("(")
    inside, close, after = rest.rpartition(") -> ") if ") -> " in rest else rest.rpartition(")")
    return [f"{name}(", *(f"    {part}," for part in _split(inside)), close.lstrip() + after]


def _split(inside: str) -> Iterable[str]:
    """Parameters, split at the commas that are not within brackets."""
    part, depth = "", 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            yield part.strip()
            part = ""
        else:
            part += character
    yield part.strip()


def described(doc: str | None) -> str:
    """A docstring as Markdown: paragraphs, and what is indented or a table as a block of code."""
    paragraphs: list[str] = []
    for block in inspect.cleandoc(doc or "").split("\n\n"):
        if re.search(r"^ *==+( =+)+ *$", block, re.MULTILINE):
            paragraphs.append(textwrap.indent(block, "    "))
        elif block.startswith("    "):
            paragraphs.append(block)
        else:
            paragraphs.append(_prose(block))
    return "\n\n".join(paragraphs) + "\n"


def _prose(block: str) -> str:
    """Lines of which some may be indented (a program right below its sentence); marks of Markdown are escaped."""
    lines: list[str] = []
    for line in block.split("\n"):
        indented = line.startswith("    ")
        if lines and indented != lines[-1].startswith("    "):
            lines.append("")
        lines.append(line if indented else _escaped(line))
    return "\n".join(lines)


def _escaped(line: str) -> str:
    pieces = re.split(r"(`[^`]*`)", line)
    return "".join(piece if piece.startswith("`") else re.sub(r"([*<]|\b__)", r"\\\1", piece) for piece in pieces)


if __name__ == "__main__":
    print(reference(), end="")
