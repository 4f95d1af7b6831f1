"""The laws of the port `Signals` as tests. Signals are right when their subclass of `SignalsContract` is green."""

from __future__ import annotations

import threading
from collections.abc import Collection

from durable.ports import FACTS, STATUS, Signals


class SignalsContract:
    """The laws of `Signals` inside one process."""

    def open_signals(self) -> Signals:
        """Signals nobody listens to yet."""
        raise NotImplementedError

    def test_listeners_hear_their_topic_until_they_stop(self) -> None:
        signals = self.open_signals()
        heard: list[str] = []
        both = threading.Event()

        def wake(ids: Collection[str] | None) -> None:
            heard.extend(ids or ())
            if {"a", "b"} <= set(heard):
                both.set()

        stop = signals.listen(FACTS, wake)
        signals.notify(STATUS, ["other topic"])
        signals.notify(FACTS, ["a"])
        signals.notify(FACTS, ["b"])
        assert both.wait(10)
        stop()
        stop()
        signals.notify(FACTS, ["late"])
        assert sorted(heard) == ["a", "b"]

    def test_a_listener_for_one_instance_hears_only_of_it(self) -> None:
        signals = self.open_signals()
        heard: list[str] = []
        mine = threading.Event()

        def wake(ids: Collection[str] | None) -> None:
            heard.extend(ids or ())
            if "a" in heard:
                mine.set()

        stop = signals.listen(STATUS, wake, "a")
        signals.notify(STATUS, ["b", "c"])
        signals.notify(STATUS, ["b", "a"])
        assert mine.wait(10)
        stop()
        assert heard == ["a"]

    def test_who_wants_news_of_this_process_alone_gets_them(self) -> None:
        signals = self.open_signals()
        heard: list[Collection[str] | None] = []
        stop = signals.listen(STATUS, heard.append, "a", here_only=True)
        signals.notify(STATUS, ["a", "b"])
        assert heard == [("a",)]
        stop()
        stop()
        signals.notify(STATUS, ["a"])
        assert heard == [("a",)]

    def test_a_listener_that_raises_hurts_nobody(self) -> None:
        signals = self.open_signals()
        heard = threading.Event()

        def broken(ids: Collection[str] | None) -> None:
            raise RuntimeError("mine alone")

        stops = [signals.listen(FACTS, broken), signals.listen(FACTS, lambda ids: heard.set())]
        signals.notify(FACTS, ["a"])
        assert heard.wait(10)
        for stop in stops:
            stop()
