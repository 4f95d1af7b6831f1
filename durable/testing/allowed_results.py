"""Which results a random program may have, said without running it.

`fits` looks at a program and a result, and says whether that result could be. Where a program races (task_any,
timeouts), several results could. It shares nothing with the orchestrators that interpret the same programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from .programs import Node

CANCEL: Final = "enough"  # the reason that is always given


class Outcome(NamedTuple):
    """A value, or what a failure comes down to."""

    ok: bool
    value: Any


def fits_program(program: Node, outcome: Outcome) -> bool:
    """Whether a program could end like this."""
    body, repeats, _ = program
    if not outcome.ok:
        return fits(body, outcome)
    values = outcome.value
    if not isinstance(values, list) or len(values) != repeats + 1:
        return False
    return all(fits(body, Outcome(True, value)) for value in values) and _in_order(values)


def fits(node: Node, outcome: Outcome) -> bool:
    return _FITS[node[0]](node, *outcome)


def _fits_act(node: Node, ok: bool, value: Any) -> bool:
    _, key, fails, attempts, *_ = node
    return bool(ok == (fails < attempts) and value == (f"a:{key}" if ok else f"boom {key}"))


def _fits_event(node: Node, ok: bool, value: Any) -> bool:
    if not ok:
        return node[2] is not None and value == "timeout"
    return isinstance(value, str) and value.startswith(f"e:{node[1].casefold()}#")


def _fits_tick(node: Node, ok: bool, value: Any) -> bool:
    if not ok:
        return node[2] is not None and value == "timeout"
    return isinstance(value, str) and value.startswith(f"t:{node[1]}-")


def _fits_all(node: Node, ok: bool, value: Any) -> bool:
    _, children, gather = node
    if not ok:
        # A gathered task_any does not fail itself: its winner does, when it is read.
        return any(fits(c, Outcome(False, value)) for c in children if not gather or c[0] in ("any", "all"))
    if not isinstance(value, list) or len(value) != len(children):
        return False
    return all(
        fits(child, Outcome(False, item[1]))
        if gather and isinstance(item, list) and item[:1] == ["exception"]
        else fits(child, Outcome(True, item))
        for child, item in zip(children, value, strict=True)
    )


def _fits_any(node: Node, ok: bool, value: Any) -> bool:
    if ok and not (isinstance(value, list) and len(value) == 2 and value[0] == "first"):
        return False
    return any(fits(child, Outcome(ok, value[1] if ok else value)) for child in node[1])


def _fits_seq(node: Node, ok: bool, value: Any) -> bool:
    children = node[1]
    if not ok:
        return any(fits(child, Outcome(False, value)) for child in children)
    if not isinstance(value, list) or len(value) != len(children):
        return False
    return all(fits(child, Outcome(True, item)) for child, item in zip(children, value, strict=True))


def _fits_try(node: Node, ok: bool, value: Any) -> bool:
    if not ok:
        return False
    if isinstance(value, list) and len(value) == 2 and value[0] == "caught":
        return fits(node[1], Outcome(False, value[1]))
    return fits(node[1], Outcome(True, value))


def _fits_guard(node: Node, ok: bool, value: Any) -> bool:
    if is_stopped(value):
        return fits(node[2], Outcome(ok, value[2]))
    return fits(node[1], Outcome(ok, value)) or (not ok and fits(node[2], Outcome(ok, value)))


def is_stopped(value: Any) -> bool:
    """Whether this is what comes of being cancelled, and handling it."""
    return isinstance(value, list) and len(value) == 3 and value[:2] == ["stopped", CANCEL]


def shows_a_cancel(value: Any) -> bool:
    """Whether somebody must have cancelled this program, or a part of it."""
    return is_stopped(value) or (isinstance(value, list) and any(map(shows_a_cancel, value)))


_FITS: dict[str, Callable[[Node, bool, Any], bool]] = {
    "act": _fits_act,
    "timer": lambda node, ok, value: ok and value is None,
    "event": _fits_event,
    "tick": _fits_tick,
    "child": lambda node, ok, value: fits_program(node[2], Outcome(ok, value)),
    "all": _fits_all,
    "any": _fits_any,
    "map": lambda node, ok, value: _fits_all([node[0], node[1], node[3]], ok, value),
    "patch": lambda node, ok, value: fits(node[2], Outcome(ok, value)),
    "seq": _fits_seq,
    "try": _fits_try,
    "raise": lambda node, ok, value: not ok and value == node[1],
    "guard": _fits_guard,
    "status": lambda node, ok, value: ok and value == "status",
    "detach": lambda node, ok, value: ok and value == "detach",
    "lose": lambda node, ok, value: ok and value == "lose",
    "tell": lambda node, ok, value: ok and value == node[1],
    "spawn": lambda node, ok, value: ok and value == "spawned",
    "cancel": lambda node, ok, value: ok and value == "cancelled",
    "retake": lambda node, ok, value: fits(node[1], Outcome(ok, value)),
}


def _in_order(values: Any) -> bool:
    """Events of one name are taken oldest first: their numbers grow in the order of the waits."""
    last: dict[str, int] = {}
    for text in _events_in(values):
        name, _, number = text.partition("#")
        if int(number) <= last.get(name, -1):
            return False
        last[name] = int(number)
    return True


def _events_in(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith("e:"):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _events_in(item)
