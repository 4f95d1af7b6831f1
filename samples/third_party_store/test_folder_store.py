"""The public contracts, applied to the store: `pytest samples/third_party_store`. Green means: durable runs on it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from folder_store import FolderStore, open_folder  # type: ignore[import-not-found]  # mypy starts above this folder

from durable.ports import Signals, Store
from durable.testing import SignalsContract, StoreContract, check_store


class TestFolderStore(StoreContract, SignalsContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open_store(self) -> Store:
        store: Store = FolderStore(self.folder)
        return store

    def reopen_store(self, store: Store) -> Store:
        store.close()
        return self.open_store()

    def open_signals(self) -> Signals:
        signals: Signals = open_folder(f"folder://{self.folder}").signals
        return signals


def test_it_does_what_the_reference_does(tmp_path: Path) -> None:
    numbers = itertools.count()
    check_store(lambda: FolderStore(tmp_path / str(next(numbers))), examples=20)
