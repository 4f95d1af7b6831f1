"""The simulator for `make mutants`, in pieces: the piece in which a mutant shows ends its trial."""

import logging

import pytest

from durable.testing.simulator import run_seed

PIECE = 10


@pytest.mark.parametrize("first", range(1, 101, PIECE))
def test_seeds(first: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "durable")
    for seed in range(first, first + PIECE):
        assert run_seed(seed).wrong == ""
