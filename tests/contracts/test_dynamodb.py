"""The public contracts on DynamoDB, and its own laws: refusals for the moment, lost answers, turns in pieces."""

from __future__ import annotations

import pytest

from durable.ports import Signals, Store
from durable.testing.store_contract import SignalsContract, StoreContract
from durable.testing.store_machine import check_store
from tests.servers.dynamodb_place import Opener


class TestDynamo(StoreContract, SignalsContract):
    @pytest.fixture(autouse=True)
    def _opener(self, open_table: Opener) -> None:
        self.open_table = open_table

    # A second for hundred requests is what the test server takes: large sizes are left to the slow tests.

    @pytest.mark.parametrize("size", [1, 30, *(pytest.param(size, marks=pytest.mark.slow) for size in (400, 1_300))])
    def test_batches_of_any_size(self, store: Store, size: int) -> None:
        super().test_batches_of_any_size(store, size)

    @pytest.mark.slow
    def test_a_turn_with_many_rows(self, store: Store) -> None:
        super().test_a_turn_with_many_rows(store)

    @pytest.mark.slow
    def test_the_ids_of_a_thousand_facts_are_remembered(self, store: Store) -> None:
        super().test_the_ids_of_a_thousand_facts_are_remembered(store)

    def open_store(self) -> Store:
        self.backend = self.open_table("&partitions=1")
        return self.backend.store

    def reopen_store(self, store: Store) -> Store:
        self.backend.close()
        return self.open_store()

    def open_signals(self) -> Signals:
        return self.open_table().signals


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_dynamodb_is_the_reference(open_table: Opener, examples: int) -> None:
    check_store(lambda: open_table("&partitions=1", fresh=True).store, examples)
