from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """What a simulated worker has to complain about is meant to happen."""
    logger = logging.getLogger("durable")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)
