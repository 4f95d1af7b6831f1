"""One rule for the names of everything (instances, functions, events), and the numbers derived from them.

A name is 1 to 200 characters and at most 512 bytes of UTF-8, in NFC, without control, format, surrogate,
private-use or separator characters, without `/ \\ # ?`, and does not begin with `@`.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache
from typing import Final

MAX_CHARS = 200
MAX_BYTES = 512
_FORBIDDEN = frozenset("/\\#?")
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def check_name(name: object, what: str) -> str:
    """Return `name` if it obeys the rule above, else raise TypeError or ValueError; `what` begins the message."""
    return _checked(name, what, _FORBIDDEN)


def check_foreign_id(text: object, what: str) -> str:
    """The same for an id that others give, such as a CloudEvent's: it may hold `/ \\ # ?` and begin with `@`."""
    return _checked(text, what, frozenset())


def _checked(name: object, what: str, forbidden: frozenset[str]) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{what.rstrip('=')} must be text, not {type(name).__name__}")
    problem = _problem(name, forbidden)
    if problem:
        shown = ascii(name if len(name) <= 60 else name[:60] + "...")
        joint = "" if what.endswith("=") else " "
        raise ValueError(f"{what}{joint}{shown} {problem} (see 'Ids and names' in the README)")
    return name


@lru_cache(maxsize=4096)
def _problem(name: str, forbidden: frozenset[str]) -> str | None:
    if not name:
        return "is empty"
    if len(name) > MAX_CHARS:
        return f"has {len(name)} characters; at most {MAX_CHARS} are allowed"
    if name.isascii() and name.isprintable():
        bad = next((c for c in name if c in forbidden), None)
    else:
        bad = next((c for c in name if c in forbidden or unicodedata.category(c) in _FORBIDDEN_CATEGORIES), None)
        if bad is None and len(name.encode()) > MAX_BYTES:
            return f"has {len(name.encode())} bytes; at most {MAX_BYTES} are allowed"
        if bad is None and not unicodedata.is_normalized("NFC", name):
            return "is not in NFC; normalise it with unicodedata.normalize('NFC', ...)"
    if bad is not None:
        remedy = "use - or : instead" if bad in forbidden else "leave it out"
        return f"holds the character {bad!a}, which is not allowed; {remedy}"
    if forbidden and name[0] == "@":
        return "begins with '@', which is reserved; begin with another character"
    return None


TRIGGERS: Final = "@triggers"  # the instance that all triggers of a workspace are; no user can give this name


def child_id(parent_id: str, execution_id: str, task_id: int, attempt: int) -> str:
    """The default id of a sub-orchestration: the parent's, cut to 150 characters and 400 bytes, and 12 hex digits."""
    return f"{_cut(parent_id)}:{_digest(f'{execution_id}/{task_id}/{attempt}', 12)}"


def derived_id(prefix: str, key: str) -> str:
    """An id that is the same for the same prefix and key: the prefix, cut as above, and 32 hex digits."""
    return f"{_cut(prefix)}:{_digest(key, 32)}"


def numbered_id(prefix: str, number: int) -> str:
    """An id of its own, for a number that its prefix has only once: the prefix, cut as above, and the number."""
    return f"{_cut(prefix)}:{number}"


def _cut(text: str) -> str:
    # Cutting can end on a base character whose combining mark was cut off; NFC stays NFC for every prefix.
    return text[:150].encode()[:400].decode(errors="ignore")


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def sequence(number: int) -> str:
    """The CloudEvents extension of that name: an event's number in its execution, in digits that sort as text."""
    return f"{number:010d}"


def traceparent(execution_id: str, task_id: int = 0, attempt: int = 0) -> str:
    """The CloudEvents extension of that name, a W3C trace context: the trace is the execution, whose id is 32 hex
    digits, and the span is the attempt of a task, or else the execution itself."""
    span = f"{task_id:08x}{attempt:08x}" if task_id else execution_id[-16:]
    return f"00-{execution_id}-{span}-01"


@lru_cache(maxsize=32_768)  # a turn asks three or four times
def partition_of(instance_id: str, partitions: int) -> int:
    """The partition an instance lives in: stable over processes, versions and machines."""
    if partitions == 1:
        return 0
    return int.from_bytes(hashlib.sha256(instance_id.encode()).digest()[:8], "big") % partitions
