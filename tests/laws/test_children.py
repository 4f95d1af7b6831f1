"""Whoever cancels or kills an activity in a process never waits for that process."""

from __future__ import annotations

import threading

import pytest

from durable.model.history import Raw
from durable.model.limits import Limits
from durable.runtime.child_messages import Call
from durable.runtime.children import Child, Children
from tests.waiting import SOON, until

LARGE = 4_000_000  # bytes, that no buffer of a pipe takes


class Attempt:
    """What a child knows of an attempt."""

    def __init__(self) -> None:
        self.cancelled = False
        self.child: Child | None = None

    def beat(self) -> None: ...


def test_a_process_that_does_not_read_its_order_yet_holds_up_no_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable.runtime.children._PROGRAM", "import time; time.sleep(1000)")
    call = Call("m", "f", "", "f", False, Raw(b'["%s"]' % (b"x" * LARGE)), "i", "x", 1, 1)
    children, attempt = Children(Limits(), None), Attempt()
    died: list[ChildProcessError] = []

    def run() -> None:
        with pytest.raises(ChildProcessError) as caught:
            children.run(call, attempt, lambda: None)
        died.append(caught.value)

    def end(child: Child) -> None:
        attempt.cancelled = True
        child.cancel(attempt)
        child.kill(attempt)

    running = threading.Thread(target=run)
    running.start()
    child = until(lambda: attempt.child, "a process")
    assert child is not None
    until(child._sending.locked, "an order under way")
    ending = threading.Thread(target=end, args=[child])
    ending.start()
    ending.join(SOON / 4)
    waited = ending.is_alive()
    child._process.kill()  # where it was not
    running.join(SOON)
    children.close()
    assert not waited
    assert "ended by signal 9" in str(died[0])
