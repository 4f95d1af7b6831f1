"""`file:///srv/blobs`: large payloads in a folder, one file each, below one folder for each workspace.

Laws.
1. A file is complete or not there: written beside its place, forced to the disk, then put into it.
2. Nothing of a URL or a name is followed out of the folder: names are hex digits, checked, and links are not opened.
3. The folder of a workspace is made 0700, files are made 0600. Folders that are empty go.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote
from uuid import uuid4

from durable.model.errors import StoreError
from durable.ports import Blob, Blobs

from .url_parts import parsed, quote_part

_SHAPE: Final = "file:///srv/blobs"
# The last part is that of a file which was being written when its process died.
_NAME: Final = re.compile(r"(?:[0-9a-f]{32}/){2}[0-9a-f]{64}(?:\.[0-9a-f]{32})?")
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_OF_ONE: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR})  # concerns one file, not the folder
_TRIES: Final = 1_000  # at a folder that others take away whenever it is empty


def open_folder(url: str, workspace: str) -> Blobs:
    """Open or make the folder. Raises StoreError for a URL that names none, or one that can't be used."""
    folder = Path(_path(url)) / quote_part(workspace, "workspace").replace(".", "%2E")
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _explained(folder, error) from error
    return FolderBlobs(folder)


def _path(url: str) -> str:
    parts = parsed(url)
    if parts is None or not url.startswith("file:///") or parts.query or parts.fragment:
        raise StoreError(f"not the URL of a folder for blobs: write {_SHAPE}, an absolute path and nothing else")
    path = unquote(parts.path)
    if not path.startswith("/") or not path.isprintable() or ".." in path.split("/"):
        raise StoreError(f"the URL of a folder for blobs names no absolute path: write {_SHAPE}")
    return os.path.realpath(path)


class FolderBlobs:
    """Made by `open_folder`; several processes, also of several machines, may use the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, blobs: Mapping[str, bytes]) -> None:
        try:
            folders = {self._written(name, data) for name, data in blobs.items()}
            for folder in {path for place in folders for path in (place, place.parent, self._folder)}:
                _force(folder)
        except OSError as error:
            raise _explained(self._folder, error) from error

    def _written(self, name: str, data: bytes) -> Path:
        """The folder it is in now."""
        path = self._path(name)
        for left in reversed(range(_TRIES)):
            part = path.with_name(f"{path.name}.{uuid4().hex}")
            try:
                # Not the folder itself: where it is away, what takes its place is another disk.
                path.parent.parent.mkdir(0o700, exist_ok=True)
                path.parent.mkdir(0o700, exist_ok=True)
                with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
                return path.parent
            except (FileNotFoundError, FileExistsError):
                # Somebody has just taken away a folder that was empty; mkdir may say that it is there, and not there.
                if not left or not self._folder.is_dir():
                    raise
            except BaseException:
                with suppress(OSError):  # what went wrong with it was raised
                    part.unlink(missing_ok=True)  # a disk that is full needs its room
                raise
        raise AssertionError("the last try returns or raises")

    def get(self, names: Sequence[str]) -> list[bytes | str]:
        return [self._read(name) for name in names]

    def _read(self, name: str) -> bytes | str:
        try:
            with open(os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                return file.read()
        except OSError as error:
            if error.errno not in _MISSING | _OF_ONE or not self._folder.is_dir():
                raise _explained(self._folder, error) from error
            if error.errno in _OF_ONE:
                return f"can't be read from {self._folder}: {error.strerror}"
            return f"is missing in {self._folder}"

    def names(self, prefixes: Sequence[str]) -> list[Blob]:
        try:
            return [blob for prefix in dict.fromkeys(prefixes) for blob in self._below(prefix.rstrip("/"))]
        except OSError as error:
            raise _explained(self._folder, error) from error

    def _below(self, name: str) -> Iterator[Blob]:
        try:
            entries = list(os.scandir(self._folder / name))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            below = f"{name}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(below)
            elif _NAME.fullmatch(below):
                try:
                    yield Blob(below, entry.stat(follow_symlinks=False).st_mtime)
                except FileNotFoundError:
                    continue  # it has just gone, or come to its place

    def delete(self, names: Sequence[str]) -> None:
        try:
            paths = [self._path(name) for name in names]
            for path in paths:
                path.unlink(missing_ok=True)
            for place in dict.fromkeys(path.parent for path in paths):
                _remove_empty(place)
                _remove_empty(place.parent)
        except OSError as error:
            raise _explained(self._folder, error) from error

    def close(self) -> None:
        """Nothing to give back."""

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise StoreError(f"{name[:200]!a} is not the name of a blob")
        return self._folder / name


def _force(folder: Path) -> None:
    """What was put into it is there after a loss of power too."""
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # purged meanwhile
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


def _explained(folder: Path, error: OSError) -> StoreError:
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    return StoreError(
        f"the folder for blobs {folder} can't be used ({why}): it must be there, writable for this user, and have room"
    )
