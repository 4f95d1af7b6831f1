"""Large payloads kept outside the store (claim check): what stands in their place, and how it is told.

Laws.
1. In a stored history a payload kept elsewhere is `{"$durable.blob":"NAME","bytes":N}`, its name and its length. These
   bytes occur for no other reason: `values.encode` refuses them.
2. A name is owner/execution/digest: who is purged with it, and the SHA-256 by which its bytes are checked.
3. What can't be had stays a claim, with the reason, and goes on as a claim. Nobody's code gets it as a value.
4. Only what stays is kept elsewhere: histories and outputs. What is under way (inboxes, messages between instances,
   what a broker carries) has its payload with it, so it never outlives it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from durable.model.errors import PayloadError
from durable.model.failure import FailureDetails
from durable.model.history import Event, Raw

MARK: Final = b'{"$durable.blob":'
_CLAIM: Final = re.compile(
    rb'\{"\$durable\.blob":"((?:[0-9a-f]{32}/){2}[0-9a-f]{64})","bytes":([0-9]{1,19})(?:,"why":"([ !#-\[\]-~]*)")?\}'
)
_LONGEST_REASON: Final = 200
_LONGEST: Final = 400 + _LONGEST_REASON  # bytes of a claim
_NOT_PLAIN: Final = re.compile(r'[^ -~]|["\\]')


class Claim(NamedTuple):
    """Of a payload that is elsewhere. size: its bytes. why: the reason that this process could not have it."""

    name: str
    size: int
    why: str = ""

    @property
    def written(self) -> Raw:
        """What stands in the place of the payload."""
        reason = f',"why":"{_NOT_PLAIN.sub("?", self.why)[:_LONGEST_REASON]}"' if self.why else ""
        return Raw(f'{{"$durable.blob":"{self.name}","bytes":{self.size}{reason}}}'.encode())


def claim_of(raw: Raw) -> Claim | None:
    """The claim that stands in the place of a payload; None for a payload."""
    if len(raw) > _LONGEST or bytes(memoryview(raw)[: len(MARK)]) != MARK:
        return None
    found = _CLAIM.fullmatch(bytes(raw))
    return None if found is None else _claim(found)


def _claim(found: re.Match[bytes]) -> Claim:
    return Claim(found[1].decode(), int(found[2]), (found[3] or b"").decode())


def owner(instance_id: str) -> str:
    """How the names of everything begin that goes with an instance."""
    return f"{_short(instance_id)}/"


def place(instance_id: str, execution_id: str) -> str:
    """How the names begin of what goes with one of its executions."""
    return f"{owner(instance_id)}{_short(execution_id)}/"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest(data: bytes) -> str:
    """The last part of the name of these bytes."""
    return hashlib.sha256(data).hexdigest()


def checked(name: str, data: bytes | str) -> bytes | str:
    """What was read under a name; why not, if it is something else."""
    if isinstance(data, bytes) and digest(data) != name.rpartition("/")[2]:
        return "is not what was written: its bytes have changed"
    return data


class Depositing:
    """A `codec.Way` from memory to the store: what is large is put into `blobs`, under the name it will have."""

    def __init__(self, place: str, inline: int, blobs: dict[str, bytes]) -> None:
        self._place = place
        self._inline = inline
        self._blobs = blobs

    def payload(self, raw: Raw) -> Raw:
        known = claim_of(raw)
        if known is not None:
            return known._replace(why="").written
        if len(raw) <= self._inline:
            return raw
        data = bytes(raw)
        name = self._place + digest(data)
        self._blobs[name] = data
        return Claim(name, len(data)).written

    def failure(self, failure: FailureDetails) -> FailureDetails:
        return failure  # what is recorded of an exception is cut to a size

    def text(self, text: str) -> str:
        return text


def names_in(stored: bytes | Raw) -> Iterator[str]:
    """The names of what is kept elsewhere of a stored row, event or payload."""
    text = bytes(stored)
    return (found[1].decode() for found in _CLAIM.finditer(text)) if MARK in text else iter(())


def redeemed(stored: bytes | Raw, found: Mapping[str, bytes | str]) -> bytes:
    """The same with payloads in their places again. found: of a name its bytes, or why there are none; others stay."""

    def payload(match: re.Match[bytes]) -> bytes:
        claim = _claim(match)
        data = found.get(claim.name, claim.why)
        return data if isinstance(data, bytes) else bytes(claim._replace(why=data).written)

    return _CLAIM.sub(payload, stored)


NO_PLACE: Final = "this process has no blobs"
_NOT_HAD: Final = "can't be had: blob"


def concerns_blobs(reason: str) -> bool:
    """Whether an instance is BLOCKED because of where a payload is."""
    return NO_PLACE in reason or _NOT_HAD in reason


def why_not_here(claim: Claim) -> str:
    """What is wrong with it, and what to do, in words that follow the name of what it stands for."""
    if claim.why:
        return f"{_NOT_HAD} {claim.name} {claim.why}. It goes on when the blob is back where it was"
    return f"is in blob {claim.name}, and {NO_PLACE}: give connect(blobs=...), or DURABLE_BLOBS_URL"


def shown(claim: Claim) -> str:
    """For people, in place of the payload."""
    if claim.why:
        return f"(blob {claim.name} {claim.why})"
    return f"({claim.size:,} bytes outside the store: get_status reads them, given blobs= or DURABLE_BLOBS_URL)"


def refuse_claims(events: Iterable[Event], what: str) -> None:
    """Raises PayloadError when events are to be copied whose payloads are not all there."""
    for event in events:
        for claim in map(claim_of, (event.input, event.result)):
            if claim is not None:
                raise PayloadError(f"{what}: a payload of its {event.type} {why_not_here(claim)}")
