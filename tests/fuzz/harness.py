"""What the table of parsers consists of, and one input shown to one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from .mutator import Mutator

SLOW: Final = 2.0  # seconds for one input; none is larger than `mutator.LARGEST`


class Parser(NamedTuple):
    """corpus: good inputs. read: takes any bytes, and raises `refuses` or nothing. write: `read(write(x)) == x`."""

    corpus: Sequence[bytes]
    read: Callable[[bytes], Any]
    refuses: tuple[type[Exception], ...]
    write: Callable[[Any], bytes] | None = None


class Wrong(Exception):
    """What a parser did with an input that it may not do."""


def made(name: str, parser: Parser, seed: int, number: int) -> bytes:
    """The input of this number."""
    digest = hashlib.blake2b(f"{seed}/{name}/{number}".encode(), digest_size=8).digest()
    return Mutator(parser.corpus).make(Random(int.from_bytes(digest, "big")))


def show(parser: Parser, data: bytes) -> bool:
    """Whether it was accepted. Raises Wrong, chained to what was raised instead."""
    try:
        value = parser.read(data)
    except parser.refuses as error:
        if not str(error):
            raise Wrong("it was refused without a word") from error
        return False
    except Wrong:
        raise
    except BaseException as error:
        raise Wrong(f"{type(error).__name__}: {str(error)[:300]}") from error
    if parser.write is not None:
        try:
            written = parser.write(value)
            again = parser.read(written)
        except BaseException as error:
            raise Wrong(f"accepted, and can't be written, or not read again: {str(error)[:300]}") from error
        if again != value:
            raise Wrong(f"accepted, and another value is read from what is written of it: {written[:300]!r}")
    return True
