"""The watch on a file that other processes write."""

from __future__ import annotations

import threading

import pytest

from durable.backends.sqlite_signals import FileSignals
from durable.model.errors import StoreError
from durable.ports import FACTS


def test_a_close_while_the_watch_looks_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        if looks > 1:
            signals.close()
            raise StoreError("it was closed")
        return looks

    signals = FileSignals(look)
    before = set(threading.enumerate())
    signals.listen(FACTS, lambda _: None)
    for watch in set(threading.enumerate()) - before:
        watch.join(20)
        assert not watch.is_alive()
    assert looks == 2
    assert caplog.text == ""
