"""Inputs made of good ones, a little or very much wrong. The same random numbers make the same inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

LARGEST: Final = 300_000  # bytes
MOST_CHANGES: Final = 4
_DEEP: Final = (3, 60, 70, 300, 900, 1_500, 20_000, 100_000)

# What has been misread somewhere before: by parsers of JSON, URLs and times, stores, terminals, languages.
_TOKENS: Final = [
    *(b'null true false {} [] "" 0 -0 -1 1e400 -1e400 1E-400 NaN Infinity -Infinity 0x10 1_000 00 1.'.split()),
    *(b"9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616 4294967296".split()),
    b"9" * 400,
    b"9" * 5_000,
    *(rb"\u0000 \ud800 \udc00\ud800 \uFFFF \x \" \\ \u".split()),
    b"\0",
    b"\n",
    b"\r\n",
    b"\x1b[2J",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    "\u202e".encode(),
    "e\u0301".encode(),
    "\U0001f600".encode(),
    *(b"%00 %2f %zz %ff %40 %25 @ : / // ? # & = ; , + * ** .. ../../ [ ] [::1] ::: 99999 65536 -1".split()),
    *(b"0001-01-01T00:00:00+14:00 9999-12-31T23:59:59-14:00 1969-12-31T23:59:59Z 2026-02-30 24:00:00 P1D".split()),
    *(b"2026-01-01T00:00:00 2016-12-31T23:59:60Z @triggers __class__ __proto__ {0.__class__} ${jndi:x} $(id)".split()),
    b'{"$durable.blob":"x","bytes":1}',
    b'{"$durable.codec":"AAAA"}',
    b"; DROP TABLE history;--",
]
_ODD: Final[list[Any]] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, 1e308, -0.0),
    *("", "x", "*", "@triggers", "\0", "\n", "\ud800", "a" * 201, "e\u0301", "\u202e", "/", "..", "9999999999"),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z"),
    *([], {}, [[]], [None], {"": None}, {"a": {"a": {}}}, [1, "1", 1.0], {"kind": "any", "conditions": []}),
]


class Mutator:
    """Of one corpus."""

    def __init__(self, corpus: Sequence[bytes]) -> None:
        self._corpus = corpus

    def make(self, random: Random) -> bytes:
        """One input; seldom it is as good as before."""
        data = random.choice(self._corpus)
        for _ in range(random.randint(1, MOST_CHANGES)):
            data = random.choice(_CHANGES)(self, data, random)[:LARGEST]
        return data

    def flip(self, data: bytes, random: Random) -> bytes:
        if not data:
            return b"\x01"
        at = random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]

    def scatter(self, data: bytes, random: Random) -> bytes:
        at, end = _slice(data, random)
        return data[:at] + random.randbytes(min(end - at, 16)) + data[end:]

    def cut(self, data: bytes, random: Random) -> bytes:
        return data[: random.randint(0, len(data))]

    def drop(self, data: bytes, random: Random) -> bytes:
        at, end = _slice(data, random)
        return data[:at] + data[end:]

    def repeat(self, data: bytes, random: Random) -> bytes:
        at, end = _slice(data, random)
        return data[:at] + data[at:end] * random.choice((2, 2, 3, 10, 300)) + data[end:]

    def swap(self, data: bytes, random: Random) -> bytes:
        first, second = sorted((_slice(data, random), _slice(data, random)))
        if second[0] < first[1]:
            return data
        between = data[first[1] : second[0]]
        return data[: first[0]] + data[slice(*second)] + between + data[slice(*first)] + data[second[1] :]

    def splice(self, data: bytes, random: Random) -> bytes:
        other = random.choice(self._corpus)
        at, end = _slice(other, random)
        place = random.randint(0, len(data))
        return data[:place] + (other[at:end] if random.random() < 0.5 else other[at:])

    def put_token(self, data: bytes, random: Random) -> bytes:
        at, end = _slice(data, random) if random.random() < 0.3 else (random.randint(0, len(data)),) * 2
        return data[:at] + random.choice(_TOKENS) + data[end:]

    def nest(self, data: bytes, random: Random) -> bytes:
        at, depth = random.randint(0, len(data)), random.choice(_DEEP)
        opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b'{"cause":', b"}")))
        inner = random.choice((b"0", b"null", data[at : at + 20]))
        return data[:at] + opening * depth + inner + closing * depth + data[at:]

    def in_json(self, data: bytes, random: Random) -> bytes:
        """Another value, key or order somewhere in a line that is JSON."""
        lines = data.split(b"\n")
        number = random.randrange(len(lines))
        try:
            tree = json.loads(lines[number])
        except (ValueError, RecursionError):
            return self.put_token(data, random)
        holder: dict[str, Any] = {"tree": tree}
        _change_somewhere(holder, random)
        try:
            lines[number] = json.dumps(
                holder.get("tree", tree), separators=(",", ":"), ensure_ascii=random.random() < 0.5
            ).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            return data
        return b"\n".join(lines)


_Change = Callable[[Mutator, bytes, Random], bytes]
_CHANGES: Final[Sequence[_Change]] = (
    *(Mutator.flip, Mutator.scatter, Mutator.cut, Mutator.drop, Mutator.repeat, Mutator.swap, Mutator.splice),
    *(Mutator.put_token, Mutator.put_token, Mutator.nest),
    *(Mutator.in_json,) * 7,
)


def _slice(data: bytes, random: Random) -> tuple[int, int]:
    at = random.randint(0, len(data))
    return at, min(len(data), at + random.choice((0, 1, 1, 2, 4, 8, 32, 200)))


def _change_somewhere(holder: Any, random: Random) -> None:
    """Walk down some way and change what is there. holder: a list or dict."""
    while True:
        keys: list[Any] = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = random.choice(keys)
        below = holder[key]
        if isinstance(below, dict | list) and below and random.random() < 0.85:
            holder = below
            continue
        break
    kind = random.randrange(5)
    if kind == 0 and isinstance(holder, dict):
        holder[random.choice(("", "kind", "\0", key + "x", "ask", "v"))] = holder.pop(key)
    elif kind == 1:
        del holder[key]
    elif kind == 2:
        holder[random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))] = below
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, below)
    else:
        holder[key] = random.choice(_ODD)
