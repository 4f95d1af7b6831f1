"""What a disk may hold of a SQLite file and its log after a power cut, made from copies of a living one.

Laws.
1. A frame counts when it and all before it have arrived: an image says how many of its frames do.
2. Behind the frames that arrived lies what was there before: frames of an earlier log, or nothing.
3. Between two restarts of the log the file itself changes only by a checkpoint, which begins when the whole log is on
   the disk; then any of its pages may have arrived, and half of one.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

HEADER: Final = 32
FRAME_HEADER: Final = 24
SECTOR: Final = 512


class Position(NamedTuple):
    """salt: of this log, which a restart changes. frames: committed ones."""

    salt: bytes
    frames: int


def position(store: Path) -> Position:
    """As the index that the processes share says, now."""
    with Path(f"{store}-shm").open("rb") as index:
        head = index.read(40)
    return Position(head[32:40], int(struct.unpack_from("I", head, 16)[0]))


class Copy(NamedTuple):
    """The bytes of the file and of its log, taken while nobody wrote."""

    file: bytes
    log: bytes
    at: Position


def copied(store: Path) -> Copy:
    return Copy(store.read_bytes(), Path(f"{store}-wal").read_bytes(), position(store))


class Image(NamedTuple):
    """kind and what: how it was cut, in words. frames: how many of its log count."""

    kind: str
    what: str
    file: bytes
    log: bytes
    frames: int

    def write(self, store: Path) -> None:
        store.write_bytes(self.file)
        Path(f"{store}-wal").write_bytes(self.log)


class Images:
    """Of the time between two copies, in which the log was not restarted."""

    def __init__(self, before: Copy, after: Copy, random: Random) -> None:
        assert before.at.salt == after.at.salt, "the log was restarted"
        assert before.file == after.file, "there was a checkpoint"
        self._before = before
        self._after = after
        self._random = random
        self._page = int.from_bytes(after.log[8:12], "big")
        self.boundaries = range(before.at.frames, after.at.frames + 1)

    def _end(self, frames: int) -> int:
        return HEADER + frames * (FRAME_HEADER + self._page)

    def _arrived(self, kind: str, what: str, end: int, frames: int) -> Image:
        return Image(kind, what, self._after.file, self._after.log[:end] + self._before.log[end:], frames)

    def at_boundaries(self) -> Iterator[Image]:
        """The log cut behind each frame; every other time the file ends there."""
        for frames in self.boundaries:
            whole = self._arrived("behind a frame", f"cut behind frame {frames}", self._end(frames), frames)
            yield whole if frames % 2 else whole._replace(log=self._after.log[: self._end(frames)])

    def torn(self) -> Image:
        """Some sectors of a frame have arrived."""
        frames = self._random.choice(self.boundaries[:-1])
        part = self._random.randrange(1, self._page // SECTOR + 1) * SECTOR
        return self._arrived("within a frame", f"{part} bytes of frame {frames + 1}", self._end(frames) + part, frames)

    def with_a_hole(self) -> Image:
        """A frame has not arrived, and all later ones have."""
        frames = self._random.choice(self.boundaries[:-1])
        first, end = self._end(frames), self._end(frames + 1)
        old = self._before.log[first:end].ljust(end - first, b"\0")
        log = self._after.log[:first] + old + self._after.log[end:]
        return Image("with a frame missing", f"frame {frames + 1} is missing", self._after.file, log, frames)

    def in_a_checkpoint(self) -> Image:
        """Some pages of the file are new, some old, and one is half new."""
        new = self._folded()
        old = self._after.file.ljust(len(new), b"\0")
        pages = range(0, len(new), self._page)
        file = b"".join((new if self._random.random() < 0.5 else old)[n : n + self._page] for n in pages)
        torn = self._random.choice([n for n in pages if new[n : n + self._page] != old[n : n + self._page]])
        half = torn + self._page // 2
        file = file[:torn] + new[torn:half] + old[half : torn + self._page] + file[torn + self._page :]
        grown = self._random.choice([len(file), len(self._after.file)])
        frames = self._after.at.frames
        return Image(
            "within a checkpoint", "within a checkpoint", file[:grown], self._after.log[: self._end(frames)], frames
        )

    def _folded(self) -> bytes:
        """The file as a whole checkpoint leaves it."""
        with TemporaryDirectory() as folder:
            store = Path(folder, "store.db")
            self._arrived("", "", self._end(self._after.at.frames), self._after.at.frames).write(store)
            connection = sqlite3.connect(store)
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            folded = store.read_bytes()
            connection.close()
            return folded
