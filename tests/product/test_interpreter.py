"""A worker tunes the interpreter of its process, and leaves it as it was."""

from __future__ import annotations

import gc
import sys
from uuid import uuid4

import durable


def tuning() -> tuple[float, tuple[int, int, int]]:
    return sys.getswitchinterval(), gc.get_threshold()


def worker() -> durable.Worker:
    return durable.Worker(f"memory://{uuid4().hex}", registry=durable.Registry())


def test_the_last_worker_sets_back_what_the_first_one_set() -> None:
    before = tuning()
    first, second = worker(), worker()
    with second:
        with first:
            assert tuning() != before
            assert sys.getswitchinterval() < before[0]
        assert sys.getswitchinterval() < before[0]
    assert tuning() == before


def test_who_switches_more_often_keeps_that() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)
    try:
        with worker():
            assert sys.getswitchinterval() < 0.00002
        assert sys.getswitchinterval() < 0.00002
    finally:
        sys.setswitchinterval(before)
