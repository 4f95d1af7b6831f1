"""The laws of the port `Blobs` as tests. A place for blobs is right when its subclass of `BlobsContract` is green.

    class TestMyBlobs(BlobsContract):
        def open_blobs(self, workspace: str) -> Blobs:
            return connect_somehow(workspace)

Several of one test see the same place; another workspace sees nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from uuid import uuid4

import pytest

from durable.ports import Blobs


def part() -> str:
    """The first or second part of a name."""
    return uuid4().hex


def named(place: str, *contents: bytes) -> dict[str, bytes]:
    """Blobs of one place, under their names."""
    return {f"{place}/{sha256(data).hexdigest()}": data for data in contents}


class BlobsContract:
    """The laws of `Blobs`."""

    def open_blobs(self, workspace: str) -> Blobs:
        """The blobs of a workspace, the same ones each time."""
        raise NotImplementedError

    @pytest.fixture
    def workspace(self) -> str:
        return f"w.{uuid4().hex[:8]}"

    @pytest.fixture
    def blobs(self, workspace: str) -> Iterator[Blobs]:
        blobs = self.open_blobs(workspace)
        yield blobs
        blobs.close()

    def test_what_was_put_is_there_for_everybody(self, blobs: Blobs, workspace: str) -> None:
        put = named(f"{part()}/{part()}", b"", b'"a"', bytes(range(256)) * 3_000, "ü\0\r\n".encode())
        blobs.put(put)
        assert blobs.get(list(put)) == list(put.values())
        other = self.open_blobs(workspace)
        assert other.get(list(reversed(put))) == list(reversed(put.values()))
        other.close()

    def test_nothing_is_asked_of_it_for_nothing(self, blobs: Blobs) -> None:
        blobs.put({})
        blobs.delete([])
        assert blobs.get([]) == []
        assert blobs.names([]) == []

    def test_of_what_is_missing_it_says_so(self, blobs: Blobs) -> None:
        place = f"{part()}/{part()}"
        put = named(place, b"1")
        blobs.put(put)
        missing = f"{place}/{'0' * 64}"
        why, data, again = blobs.get([missing, *put, missing])
        assert data == b"1"
        assert why == again
        assert isinstance(why, str)
        assert why.startswith("is missing")

    def test_it_may_be_put_again(self, blobs: Blobs) -> None:
        put = named(f"{part()}/{part()}", b"again")
        for _ in range(2):
            blobs.put(put)
        assert [blob.name for blob in blobs.names([next(iter(put))[:33]])] == list(put)
        assert blobs.get(list(put)) == [b"again"]

    def test_names_are_found_by_their_first_parts(self, blobs: Blobs) -> None:
        owner, execution = part(), part()
        first, second = named(f"{owner}/{execution}", b"1", b"2"), named(f"{owner}/{part()}", b"1")
        other = named(f"{part()}/{execution}", b"1")
        blobs.put(first | second | other)

        def found(*prefixes: str) -> set[str]:
            return {blob.name for blob in blobs.names(prefixes)}

        assert found(f"{owner}/") == first.keys() | second.keys()
        assert found(f"{owner}/{execution}/") == first.keys()
        assert found(f"{owner}/{execution}/", f"{part()}/") == first.keys()
        assert found(f"{owner}/", next(iter(other))[:33]) == first.keys() | second.keys() | other.keys()
        assert found(f"{part()}/") == set()

    def test_it_tells_when_they_were_written(self, blobs: Blobs) -> None:
        put = named(f"{part()}/{part()}", b"1")
        blobs.put(put)
        [blob] = blobs.names([next(iter(put))[:33]])
        assert abs(blob.written_at - time.time()) < 60

    def test_what_was_deleted_is_gone(self, blobs: Blobs) -> None:
        owner = part()
        put, kept = named(f"{owner}/{part()}", b"1", b"2"), named(f"{owner}/{part()}", b"3")
        blobs.put(put | kept)
        for _ in range(2):
            blobs.delete(list(put))
        assert [blob.name for blob in blobs.names([f"{owner}/"])] == list(kept)
        assert blobs.get([*put, *kept])[-1] == b"3"
        blobs.delete(list(kept))
        assert blobs.names([f"{owner}/"]) == []
        blobs.put(put)
        assert blobs.get(list(put)) == list(put.values())

    def test_many_at_a_time(self, blobs: Blobs) -> None:
        owner = part()
        put = named(f"{owner}/{part()}", *(str(number).encode() * 500 for number in range(60)))
        blobs.put(put)
        assert blobs.get(list(put)) == list(put.values())
        blobs.delete(list(put))
        assert blobs.names([f"{owner}/"]) == []

    def test_another_workspace_sees_nothing_of_it(self, blobs: Blobs) -> None:
        put = named(f"{part()}/{part()}", b"1")
        blobs.put(put)
        other = self.open_blobs("another")
        assert isinstance(other.get(list(put))[0], str)
        assert other.names([next(iter(put))[:33]]) == []
        other.delete(list(put))
        other.close()
        assert blobs.get(list(put)) == [b"1"]

    def test_putting_and_deleting_beside_each_other(self, blobs: Blobs) -> None:
        """What one puts is there, however often another takes away what else its owner has."""
        owner = part()

        def put_and_get(number: int) -> bool:
            put = named(f"{owner}/{number:032x}", b"%d" % number)
            blobs.put(put)
            found = blobs.get(list(put)) == list(put.values())
            blobs.delete(list(put))
            return found

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(put_and_get, range(40)))
        assert blobs.names([f"{owner}/"]) == []
