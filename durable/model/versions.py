"""Which of several versions is the highest: by PEP 440 where both parse, else as text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cmp_to_key


def highest(versions: Iterable[str]) -> str:
    """The highest of at least one. The same for any order of them, though text among numbers can go in circles."""
    return max(sorted(versions), key=cmp_to_key(_compare))


def _compare(a: str, b: str) -> int:
    from packaging.version import InvalidVersion, Version  # loaded when used: few have several versions

    try:
        left, right = Version(a), Version(b)
    except InvalidVersion:
        return (a > b) - (a < b)
    return (left > right) - (left < right)
