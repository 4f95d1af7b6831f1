"""`memory://name`: large payloads in this process, for tests; the same name is the same place."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from durable.ports import Blob, Blobs

_Kept = dict[str, tuple[bytes, float]]
_places: Final[dict[tuple[str, str], _Kept]] = {}


def open_memory_blobs(url: str, workspace: str) -> Blobs:
    """The place of this name; made when it is first asked for."""
    return MemoryBlobs(_places.setdefault((url, workspace), {}))


class MemoryBlobs:
    """What is kept, by name."""

    def __init__(self, kept: _Kept) -> None:
        self.kept = kept

    def put(self, blobs: Mapping[str, bytes]) -> None:
        self.kept.update({name: (data, time.time()) for name, data in blobs.items()})

    def get(self, names: Sequence[str]) -> list[bytes | str]:
        found = map(self.kept.get, names)
        return [entry[0] if entry else "is missing in this process" for entry in found]

    def names(self, prefixes: Sequence[str]) -> list[Blob]:
        begins = tuple(prefixes)
        return [Blob(name, at) for name, (_, at) in list(self.kept.items()) if name.startswith(begins)]

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self.kept.pop(name, None)

    def close(self) -> None:
        """Nothing to give back: the same name can be opened again."""
