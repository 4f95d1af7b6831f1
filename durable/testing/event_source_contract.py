"""The laws of `durable.ports.EventSource` as tests. A source is right when its subclass is green.

    class TestMySource(EventSourceContract):
        def open_source(self, place: str, workspace: str) -> EventSource:
            return connect_somehow(a_server, place, workspace)

        def interrupt(self) -> None:
            an_administrator_restarts_it()

`place` is the name of a queue or a stream, which every test has for itself, so that they may share a server; it is
made by whoever opens it, or by `open_source`. What must not come is shown by what must: the next event is another one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

import pytest

from durable.ports import EventSource, Published

SOON = 60.0  # seconds; nothing here takes so long


def event(number: object, data: object = None) -> bytes:
    """A CloudEvent in structured mode whose id is that number."""
    attributes = {
        "specversion": "1.0",
        "id": str(number),
        "source": "/contract",
        "type": "durable.contract",
        "subject": "é",
        "data": data,
    }
    return json.dumps(attributes).encode()


def events(size: int, first: int = 0) -> list[bytes]:
    """Events whose ids are numbers in order."""
    return [event(number) for number in range(first, first + size)]


def numbers(size: int, first: int = 0) -> list[str]:
    """Their ids."""
    return [str(number) for number in range(first, first + size)]


class Receiver:
    """A sink that remembers; with `ack` it acknowledges at once, on another thread than the one it is called on."""

    def __init__(self, ack: Callable[[Sequence[object]], None] | None = None) -> None:
        self._changed = threading.Condition()
        self.came: list[tuple[str, object]] = []  # id, tag
        self.bodies: list[bytes] = []
        self._unacknowledged: list[object] = []
        if ack is not None:
            threading.Thread(target=self._acknowledge, args=(ack,), name="contract-ack", daemon=True).start()

    def __call__(self, bodies: Sequence[bytes], tag: object) -> None:
        with self._changed:
            self.came += [(json.loads(body)["id"], tag) for body in bodies]
            self.bodies += bodies
            self._unacknowledged.append(tag)
            self._changed.notify_all()

    def _acknowledge(self, ack: Callable[[Sequence[object]], None]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unacknowledged)
                tags, self._unacknowledged = self._unacknowledged, []
            ack(tags)

    @property
    def ids(self) -> list[str]:
        return [id for id, _ in self.came]

    def wait(self, size: int) -> list[str]:
        """The ids of the first so many."""
        return self.until(lambda: len(self.came) >= size, f"{size} events")[:size]

    def until(self, condition: Callable[[], bool], what: str) -> list[str]:
        """All ids, once the condition holds."""
        with self._changed:
            assert self._changed.wait_for(condition, SOON), f"not {what}, but {len(self.came)}: {self.ids[-20:]}"
            return self.ids

    def tags(self, *ids: str) -> list[object]:
        """Under which these came, each tag once."""
        return list(dict.fromkeys(tag for id, tag in self.came if not ids or id in ids))


class EventSourceContract:
    """Inherit it, give `open_source` and `interrupt`, run it with pytest.

    binary: the source can carry attributes beside the data; give `send_binary` then. ordered: it keeps an order.
    many: as many as come in half a minute. connected: what was delivered is given back when its connection breaks, and
    its tag is good for nothing any more.
    """

    binary = False
    ordered = True
    connected = True
    many = 10_000

    def open_source(self, place: str, workspace: str) -> EventSource:
        """A new connection to this queue or stream."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """All connections break, at best because the server ends; when it returns, new ones can be made."""
        raise NotImplementedError

    def send_binary(self, place: str, data: bytes, content_type: str, attributes: Mapping[str, str]) -> None:
        """Put a CloudEvent in binary mode into this place."""
        raise NotImplementedError

    def in_order(self, ids: list[str]) -> list[str]:
        """For a source that keeps no order, sorted: only what comes is the law then."""
        return ids if self.ordered else sorted(ids, key=lambda id: (len(id), id))

    @pytest.fixture
    def place(self) -> str:
        return f"contract-{uuid4().hex}"

    @pytest.fixture
    def opened(self, place: str) -> Iterator[Callable[[], EventSource]]:
        """Opens sources, which are closed when the test ends."""
        with ExitStack() as stack:
            yield lambda: stack.enter_context(closing(self.open_source(place, "contract")))

    @pytest.fixture
    def source(self, opened: Callable[[], EventSource]) -> EventSource:
        return opened()

    def test_what_is_published_is_received_once_and_in_order(self, source: EventSource) -> None:
        receiver = Receiver(source.ack)
        source.receive(100, receiver)
        for first in range(0, 300, 60):
            assert source.publish(events(60, first)) == [Published.CONFIRMED] * 60
        assert self.in_order(receiver.wait(300)) == numbers(300)
        source.publish([event("last")])
        assert receiver.wait(301)[300] == "last"
        assert sorted(receiver.bodies) == sorted([*events(300), event("last")])

    def test_what_was_published_before_anybody_received(self, source: EventSource) -> None:
        assert source.publish(events(5)) == [Published.CONFIRMED] * 5
        receiver = Receiver()
        source.receive(10, receiver)
        assert self.in_order(receiver.wait(5)) == numbers(5)

    def test_nothing_published_nothing_answered(self, source: EventSource) -> None:
        assert source.publish([]) == []
        source.ack([])

    def test_acknowledged_events_do_not_come_again(
        self, source: EventSource, opened: Callable[[], EventSource]
    ) -> None:
        source.publish(events(20))
        receiver, second = Receiver(), Receiver()
        source.receive(50, receiver)
        receiver.wait(20)
        source.ack(receiver.tags())
        source.close()
        other = opened()
        other.publish([event("next")])
        other.receive(50, second)
        assert second.wait(1) == ["next"]

    def test_unacknowledged_events_come_again(self, source: EventSource, opened: Callable[[], EventSource]) -> None:
        receiver, second = Receiver(), Receiver(source.ack)
        source.receive(50, receiver)
        for number in range(5):  # each under a tag of its own
            source.publish(events(1, number))
            receiver.wait(number + 1)
        source.ack(receiver.tags("1", "2"))
        source.ack(receiver.tags("4"))
        source.close()
        other = opened()
        other.receive(50, second)
        assert self.in_order(second.wait(2)) == ["0", "3"]
        other.publish([event("next")])
        assert second.wait(3)[2] == "next"

    def test_what_somebody_holds_is_not_given_to_others(
        self, source: EventSource, opened: Callable[[], EventSource]
    ) -> None:
        source.publish(events(3))
        receiver, second = Receiver(), Receiver()
        source.receive(3, receiver)
        assert self.in_order(receiver.wait(3)) == numbers(3)
        other = opened()
        other.receive(50, second)
        other.publish(events(3, 3))
        assert self.in_order(second.wait(3)) == numbers(3, 3)
        source.close()
        assert self.in_order(second.wait(6)[3:]) == numbers(3)

    def test_prefetch_bounds_what_is_unacknowledged(
        self, source: EventSource, opened: Callable[[], EventSource]
    ) -> None:
        source.publish(events(10))
        receiver, second = Receiver(), Receiver()
        source.receive(4, receiver)
        assert self.in_order(receiver.wait(4)) == numbers(4)
        other = opened()
        other.receive(50, second)  # the others are free for whoever wants them
        assert self.in_order(second.wait(6)) == numbers(6, 4)
        assert len(receiver.came) == 4

    def test_acknowledging_makes_room(self, source: EventSource) -> None:
        receiver = Receiver(source.ack)
        source.receive(3, receiver)
        source.publish(events(50))
        assert self.in_order(receiver.wait(50)) == numbers(50)

    @pytest.mark.parametrize("prefetch", [0, -1])
    def test_prefetch_is_a_number_of_events(self, source: EventSource, prefetch: int) -> None:
        with pytest.raises(ValueError, match="prefetch"):
            source.receive(prefetch, Receiver())

    def test_a_large_event(self, source: EventSource) -> None:
        large = event("large", "é😀\\" * 20_000)  # about 200 KB
        assert len(large) > 200_000
        receiver = Receiver()
        source.receive(10, receiver)
        assert source.publish([event(0), large, event(1)]) == [Published.CONFIRMED] * 3
        receiver.wait(3)
        assert large in receiver.bodies

    def test_many_events(self, source: EventSource) -> None:
        receiver = Receiver(source.ack)
        source.receive(2_000, receiver)
        assert source.publish(events(self.many)) == [Published.CONFIRMED] * self.many
        assert self.in_order(receiver.wait(self.many)) == numbers(self.many)

    def test_binary_mode_is_rewritten(self, source: EventSource, place: str) -> None:
        if not self.binary:
            pytest.skip("this source carries structured mode only")
        attributes = {"specversion": "1.0", "id": "7", "source": "/binary", "type": "made", "subject": "a"}
        receiver = Receiver()
        source.receive(10, receiver)
        self.send_binary(place, b'{"price":9007199254740993}', "application/json", attributes)
        receiver.wait(1)
        found: dict[str, Any] = json.loads(receiver.bodies[0])
        assert found == {**attributes, "datacontenttype": "application/json", "data": {"price": 9007199254740993}}

    def test_a_receiver_that_raises_loses_nothing(self, source: EventSource, opened: Callable[[], EventSource]) -> None:
        called = threading.Event()

        def broken(bodies: Sequence[bytes], tag: object) -> None:
            called.set()
            raise RuntimeError("mine alone")

        source.receive(10, broken)
        source.publish([event(0)])
        assert called.wait(SOON)
        source.close()
        receiver = Receiver()
        opened().receive(10, receiver)
        assert receiver.wait(1) == ["0"]

    def test_an_interruption_loses_nothing(self, source: EventSource) -> None:
        """Unacknowledged ones come again, under tags of the new connection; those of the old one are ignored."""
        if not self.connected:
            pytest.skip("this source has no connection that could break")
        receiver = Receiver()
        source.receive(50, receiver)
        source.publish(events(20))
        receiver.wait(20)
        old = receiver.tags()
        self.interrupt()
        assert self.in_order(receiver.wait(40)[20:]) == numbers(20)
        source.ack(old)
        source.ack([tag for tag in receiver.tags() if tag not in old])
        until_confirmed(source, [event("next")])
        receiver.until(lambda: "next" in receiver.ids, "the next event")
        assert set(receiver.ids[40:]) == {"next"}

    def test_an_interruption_while_much_is_on_its_way(self, source: EventSource) -> None:
        receiver = Receiver(source.ack)
        source.receive(100, receiver)
        for part in range(10):
            until_confirmed(source, events(100, 100 * part))
            if part == 4:
                self.interrupt()
        receiver.until(lambda: set(receiver.ids) >= set(numbers(1_000)), "all 1,000")

    def test_closing_twice_is_closing_once(self, source: EventSource, opened: Callable[[], EventSource]) -> None:
        unused = opened()
        unused.close()
        unused.close()
        receiver, second = Receiver(), Receiver()
        source.receive(10, receiver)
        source.publish(events(3))
        receiver.wait(3)
        tags = receiver.tags()
        source.close()
        source.close()
        source.ack(tags)
        assert source.publish([event("late")]) == [Published.UNKNOWN]
        opened().receive(10, second)
        assert self.in_order(second.wait(3)) == numbers(3)
        assert len(receiver.came) == 3


def until_confirmed(source: EventSource, bodies: list[bytes]) -> None:
    """Publish them until they are confirmed: some may then be there twice."""
    never = threading.Event()
    for _ in range(round(SOON / 0.1)):
        answers = source.publish(bodies)
        bodies = [body for body, answer in zip(bodies, answers, strict=True) if answer is not Published.CONFIRMED]
        if not bodies:
            return
        never.wait(0.1)
    raise AssertionError(f"not confirmed within {SOON:g} s")
