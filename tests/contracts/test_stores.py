"""The public contracts, applied to the stores that need no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from durable.backends.memory import MemoryStore, open_memory
from durable.backends.sqlite import open_sqlite
from durable.ports import Backend, Delivered, Fact, Signals, Store
from durable.testing import SignalsContract, StoreContract
from durable.testing.store_machine import check_store
from durable.testing.store_samples import turn


class TestMemory(StoreContract, SignalsContract):
    def open_store(self) -> Store:
        self.url = f"memory://{uuid4().hex}"
        return open_memory(self.url).store

    def reopen_store(self, store: Store) -> Store:
        store.close()
        return open_memory(self.url).store

    def open_signals(self) -> Signals:
        return open_memory(f"memory://{uuid4().hex}").signals


class TestSqlite(StoreContract, SignalsContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open_backend(self, name: str) -> Backend:
        return open_sqlite(f"sqlite:///{self.folder}/{name}.db")

    def open_store(self) -> Store:
        self.backend = self.open_backend("store")
        return self.backend.store

    def reopen_store(self, store: Store) -> Store:
        self.backend.close()
        return self.open_store()

    def open_signals(self) -> Signals:
        return self.open_backend("signals").signals


def test_sqlite_is_the_reference(tmp_path: Path) -> None:
    check_store(lambda: open_sqlite(f"sqlite:///{tmp_path}/{uuid4().hex}.db").store)


class _Forgetful(MemoryStore):
    """A store that takes no second fact of an instance: wrong on purpose."""

    def deliver(self, facts: Sequence[Fact]) -> list[Delivered]:
        return [
            Delivered.DUPLICATE if fact.id == "f1" else super(_Forgetful, self).deliver([fact])[0] for fact in facts
        ]


def test_the_comparison_finds_a_store_that_is_wrong() -> None:
    with pytest.raises(AssertionError):
        check_store(_Forgetful)


def test_a_name_in_memory_is_one_store() -> None:
    name = uuid4().hex
    first = open_memory(f"memory://{name}")
    first.store.commit([turn("a", 0)])
    first.close()
    assert open_memory(f"memory://{name}").store.summaries(["a"]) != [None]
