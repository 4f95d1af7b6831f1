"""The laws of `durable.ports.Transport` as tests. A transport is right when its subclass is green.

    class TestMyTransport(TransportContract):
        def open_transport(self, workspace: str) -> Transport:
            return connect_somehow(a_broker, workspace)

        def delete_queue(self, queue: str) -> None:
            an_administrator_does_it(queue)

Several transports of one test talk to the same broker; every test uses a workspace and queues of its own, so they may
share one. What must not happen is shown by what must: the next message in order is another one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import count
from uuid import uuid4

import pytest

from durable.model.errors import TransportError
from durable.ports import Delivery, Message, Published, Transport, Trouble

SOON = 30.0  # seconds; nothing here takes so long
RETURNS = 20  # as often a message may come back before it is a dead letter
CONFIRMED, RETURNED, UNKNOWN = Published.CONFIRMED, Published.RETURNED, Published.UNKNOWN

_numbers = count(1)


def event(to: str, data: object = None, subject: str = "instance") -> Message:
    """A CloudEvent in structured mode, with an id of its own."""
    made = f"event-{next(_numbers)}"
    attributes = {
        "specversion": "1.0",
        "id": made,
        "source": "/workspaces/contract",
        "type": "durable.contract",
        "subject": subject,
        "datacontenttype": "application/json",
        "data": data,
    }
    return Message(to, made, "durable.contract", json.dumps(attributes).encode())


def events(to: str, size: int, first: int = 0) -> list[Message]:
    """Events whose data are numbers in order."""
    return [event(to, number) for number in range(first, first + size)]


def data(delivery: Delivery) -> object:
    """What `event` was given."""
    return json.loads(delivery.body)["data"]


class Receiver:
    """A sink that remembers. `each`: what to do with deliveries, on the transport's thread."""

    def __init__(self, each: Callable[[Sequence[Delivery]], None] | None = None) -> None:
        self._each = each
        self._changed = threading.Condition()
        self.deliveries: list[Delivery] = []

    def __call__(self, deliveries: Sequence[Delivery]) -> None:
        if self._each is not None:
            self._each(deliveries)
        with self._changed:
            self.deliveries += deliveries
            self._changed.notify_all()

    def wait(self, size: int) -> list[Delivery]:
        """The deliveries, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.deliveries) >= size, SOON), (
                f"{len(self.deliveries)} deliveries instead of {size}"
            )
            return list(self.deliveries)

    def data(self, size: int) -> list[object]:
        """The data of the first so many."""
        return [data(delivery) for delivery in self.wait(size)[:size]]

    @property
    def tags(self) -> list[object]:
        return [delivery.tag for delivery in self.deliveries]


class Heard:
    """A callback that remembers what it was called with."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.all: list[object] = []

    def __call__(self, what: object) -> None:
        with self._changed:
            self.all.append(what)
            self._changed.notify_all()

    def subjects(self, about: Collection[str]) -> None:
        """As the callback of `replies`."""
        for subject in about:
            self(subject)

    def wait(self, what: object) -> None:
        """Until it was called with that."""
        with self._changed:
            assert self._changed.wait_for(lambda: what in self.all, SOON), f"{self.all} has no {what}"


class TransportContract:
    """Inherit it, give `open_transport` and `delete_queue`, run it with pytest."""

    def open_transport(self, workspace: str) -> Transport:
        """A new connection to the broker of this test."""
        raise NotImplementedError

    def delete_queue(self, queue: str) -> None:
        """Delete a queue behind the back of those who use it."""
        raise NotImplementedError

    @pytest.fixture
    def workspace(self) -> str:
        return f"contract {uuid4().hex[:8]}"

    @pytest.fixture
    def queue(self, workspace: str) -> str:
        return f"durable.{workspace.replace(' ', '%20')}.work"

    @pytest.fixture
    def opened(self, workspace: str) -> Iterator[Callable[[], Transport]]:
        """Opens transports, which are closed when the test ends."""
        with ExitStack() as stack:
            yield lambda: stack.enter_context(closing(self.open_transport(workspace)))

    @pytest.fixture
    def transport(self, opened: Callable[[], Transport], queue: str) -> Transport:
        """A transport that has declared `queue`."""
        transport = opened()
        transport.declare([queue])
        return transport

    # Queues.

    def test_declare_says_what_was_missing(self, transport: Transport, queue: str) -> None:
        other = f"{queue}.other"
        assert transport.declare([other, queue]) == [True, False]
        assert transport.declare([queue, other]) == [False, False]
        assert transport.declare([]) == []

    def test_queues_are_the_same_for_everybody(
        self, transport: Transport, opened: Callable[[], Transport], queue: str
    ) -> None:
        assert opened().declare([queue]) == [False]

    def test_the_depth_of_a_queue(self, transport: Transport, queue: str) -> None:
        assert transport.depth(f"{queue}.missing") is None
        assert transport.depth(queue) == (0, 0)
        transport.publish(events(queue, 3))
        _eventually(lambda: transport.depth(queue) == (3, 0))
        transport.subscribe(queue, 1, Receiver(lambda deliveries: None))
        _eventually(lambda: transport.depth(queue) == (2, 1))

    # Publishing.

    def test_what_is_published_is_received_once_and_in_order(self, transport: Transport, queue: str) -> None:
        receiver = Receiver(lambda deliveries: transport.ack([delivery.tag for delivery in deliveries]))
        transport.subscribe(queue, 50, receiver)
        messages = events(queue, 300)
        for first in range(0, 300, 60):
            assert transport.publish(messages[first : first + 60]) == [CONFIRMED] * 60
        deliveries = receiver.wait(300)
        assert [delivery.body for delivery in deliveries] == [message.body for message in messages]
        assert {(delivery.queue, delivery.redelivered) for delivery in deliveries} == {(queue, False)}
        transport.publish([event(queue, "last")])
        assert data(receiver.wait(301)[300]) == "last"

    def test_what_was_published_before_anybody_listened(self, transport: Transport, queue: str) -> None:
        transport.publish(events(queue, 5))
        receiver = Receiver()
        transport.subscribe(queue, 10, receiver)
        assert receiver.data(5) == [0, 1, 2, 3, 4]

    def test_a_missing_queue_returns_its_messages_alone(self, transport: Transport, queue: str) -> None:
        missing = f"{queue}.missing"
        batch = [event(queue, 0), event(missing), event(queue, 1), event(missing), event(missing), event(queue, 2)]
        assert transport.publish(batch) == [CONFIRMED, RETURNED, CONFIRMED, RETURNED, RETURNED, CONFIRMED]
        assert transport.declare([missing]) == [True]
        assert transport.publish([batch[1]]) == [CONFIRMED]
        receiver = Receiver()
        transport.subscribe(queue, 10, receiver)
        assert receiver.data(3) == [0, 1, 2]

    def test_nothing_published_nothing_answered(self, transport: Transport) -> None:
        assert transport.publish([]) == []
        transport.announce([])
        transport.ack([])

    @pytest.mark.parametrize("size", [0, 1, 4_096, 131_072, 1_000_000])
    def test_bodies_of_any_size_and_content(self, transport: Transport, queue: str, size: int) -> None:
        bodies = [event(queue, "é😀\x00" + "x" * size).body, b"\xff" * size, b"not an event"]
        receiver = Receiver()
        transport.subscribe(queue, 10, receiver)
        assert transport.publish([Message(queue, "i", "t", body) for body in bodies]) == [CONFIRMED] * 3
        assert [delivery.body for delivery in receiver.wait(3)] == bodies

    def test_ids_and_types_of_any_length(self, transport: Transport, queue: str) -> None:
        body = event(queue).body
        messages = [Message(queue, "é" * length, "t" * length, body) for length in (0, 127, 128, 255, 256, 5_000)]
        assert transport.publish(messages) == [CONFIRMED] * 6

    def test_several_threads_publish_at_once(self, transport: Transport, queue: str) -> None:
        receiver = Receiver(lambda deliveries: transport.ack([delivery.tag for delivery in deliveries]))
        transport.subscribe(queue, 100, receiver)
        answers: list[Published] = []

        def publish(name: int) -> None:
            for number in range(25):
                answers.extend(transport.publish([event(queue, [name, number, part]) for part in range(4)]))

        threads = [threading.Thread(target=publish, args=(name,), name=f"publisher-{name}") for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert answers == [CONFIRMED] * 400
        found = receiver.data(400)
        for name in range(4):
            mine = [item for item in found if isinstance(item, list) and item[0] == name]
            assert mine == [[name, number, part] for number in range(25) for part in range(4)]

    # Receiving.

    def test_only_a_declared_queue_can_be_subscribed(self, transport: Transport, queue: str) -> None:
        missing = f"{queue}.missing"
        with pytest.raises(TransportError, match="declare it first"):
            transport.subscribe(missing, 1, Receiver())
        transport.declare([missing])
        transport.publish([event(missing, 1)])
        receiver = Receiver()
        transport.subscribe(missing, 1, receiver)
        assert receiver.data(1) == [1]

    def test_prefetch_is_respected(self, transport: Transport, queue: str) -> None:
        other = f"{queue}.other"
        transport.declare([other])
        transport.publish(events(queue, 10))
        receiver, marker = Receiver(), Receiver()
        transport.subscribe(queue, 3, receiver)
        assert receiver.data(3) == [0, 1, 2]
        transport.ack([receiver.tags[1]])  # not the first: the place is free all the same
        assert receiver.data(4) == [0, 1, 2, 3]
        transport.subscribe(other, 1, marker)
        transport.publish([event(other)])
        marker.wait(1)
        assert len(receiver.deliveries) == 4
        transport.ack(receiver.tags)
        assert receiver.data(7) == [0, 1, 2, 3, 4, 5, 6]

    def test_prefetch_must_be_a_number_of_messages(self, transport: Transport, queue: str) -> None:
        with pytest.raises(ValueError, match="prefetch"):
            transport.subscribe(queue, 0, Receiver())

    def test_prefetch_may_be_more_than_a_broker_can_count(self, transport: Transport, queue: str) -> None:
        receiver = Receiver()
        transport.subscribe(queue, 1_000_000, receiver)
        transport.publish([event(queue, 1)])
        assert receiver.data(1) == [1]

    def test_acknowledging_ends_it(self, opened: Callable[[], Transport], transport: Transport, queue: str) -> None:
        first = opened()
        receiver = Receiver()
        transport.publish(events(queue, 5))
        first.subscribe(queue, 10, receiver)
        receiver.wait(5)
        first.ack([receiver.tags[3], receiver.tags[0], receiver.tags[0]])
        first.ack([receiver.tags[2], receiver.tags[4]])
        first.unsubscribe(queue)
        first.ack([receiver.tags[1]])  # what was delivered may still be acknowledged
        _eventually(lambda: transport.depth(queue) == (0, 0))
        first.close()
        transport.publish([event(queue, "next")])
        second = Receiver()
        transport.subscribe(queue, 10, second)
        assert second.data(1) == ["next"]

    def test_what_is_not_acknowledged_comes_again(
        self, opened: Callable[[], Transport], transport: Transport, queue: str
    ) -> None:
        first = opened()
        receiver = Receiver()
        transport.publish(events(queue, 4))
        first.subscribe(queue, 10, receiver)
        receiver.wait(4)
        first.ack([receiver.tags[1]])
        first.unsubscribe(queue)
        first.close()
        second = Receiver()
        transport.subscribe(queue, 10, second)
        assert second.data(3) == [0, 2, 3]
        assert [delivery.redelivered for delivery in second.deliveries] == [True] * 3

    def test_after_unsubscribing_others_receive(
        self, opened: Callable[[], Transport], transport: Transport, queue: str
    ) -> None:
        first = opened()
        mine, theirs = Receiver(), Receiver()
        first.subscribe(queue, 1, mine)
        transport.publish(events(queue, 3))
        mine.wait(1)
        first.unsubscribe(queue)
        first.unsubscribe(queue)
        first.ack(mine.tags)  # a free place, and no use for it
        transport.subscribe(queue, 10, theirs)
        assert theirs.data(2) == [1, 2]
        assert mine.data(1) == [0]

    def test_a_second_subscription_takes_the_place_of_the_first(self, transport: Transport, queue: str) -> None:
        first, second = Receiver(), Receiver()
        transport.subscribe(queue, 1, first)
        transport.publish(events(queue, 3))
        first.wait(1)
        transport.subscribe(queue, 10, second)
        assert second.data(2) == [1, 2]
        transport.ack(first.tags)  # of the earlier one, and still good
        transport.ack(second.tags)
        transport.publish(events(queue, 5, first=3))
        assert second.data(7) == [1, 2, 3, 4, 5, 6, 7]
        assert len(first.deliveries) == 1

    def test_what_is_given_back_comes_again(self, transport: Transport, queue: str) -> None:
        first, second = Receiver(), Receiver()
        transport.subscribe(queue, 10, first)
        transport.publish(events(queue, 3))
        first.wait(3)
        transport.ack(first.tags[1:2])
        transport.unsubscribe(queue, give_back=True)
        transport.ack(first.tags)  # settles nothing any more
        transport.subscribe(queue, 10, second)
        assert second.data(2) == [0, 2]
        assert all(delivery.redelivered for delivery in second.deliveries)
        transport.ack(second.tags)
        transport.publish([event(queue, "next")])
        assert second.data(3) == [0, 2, "next"]
        assert len(first.deliveries) == 3

    def test_somebody_else_has_what_is_requeued(
        self, opened: Callable[[], Transport], transport: Transport, queue: str
    ) -> None:
        first = opened()
        mine, theirs = Receiver(), Receiver()
        first.subscribe(queue, 10, mine)
        transport.publish(events(queue, 3))
        mine.wait(3)
        first.unsubscribe(queue)
        first.requeue([mine.tags[0], mine.tags[2]])
        transport.subscribe(queue, 10, theirs)
        assert theirs.data(2) == [0, 2]
        assert all(delivery.redelivered for delivery in theirs.deliveries)

    def test_what_is_parked_is_a_dead_letter(
        self, transport: Transport, queue: str, opened: Callable[[], Transport]
    ) -> None:
        receiver, dead = Receiver(), Receiver()
        transport.subscribe(queue, 10, receiver)
        transport.publish(events(queue, 4))
        receiver.wait(4)
        transport.park(receiver.tags[:2])
        transport.ack(receiver.tags[2:])
        transport.subscribe(transport.dead_letters, 10, dead)
        assert sorted(map(str, dead.data(2))) == ["0", "1"]
        transport.close()
        again = Receiver()
        other = opened()
        other.subscribe(queue, 10, again)
        other.publish([event(queue, "next")])
        assert again.data(1) == ["next"]

    def test_what_always_comes_back_is_a_dead_letter(self, transport: Transport, queue: str) -> None:
        receiver = Receiver(lambda deliveries: transport.requeue([delivery.tag for delivery in deliveries]))
        dead = Receiver()
        transport.subscribe(queue, 1, receiver)
        transport.publish([event(queue, "poison")])
        transport.subscribe(transport.dead_letters, 10, dead)
        assert dead.data(1) == ["poison"]
        assert len(receiver.deliveries) == RETURNS + 1

    def test_a_receiver_that_raises_hurts_only_itself(self, transport: Transport, queue: str) -> None:
        other = f"{queue}.other"
        transport.declare([other])

        def broken(deliveries: Sequence[Delivery]) -> None:
            raise RuntimeError("mine alone")

        receiver = Receiver()
        transport.subscribe(queue, 10, broken)
        transport.subscribe(other, 10, receiver)
        transport.publish([event(queue, 0), event(other, 1)])
        assert receiver.data(1) == [1]

    # Announcements and replies.

    def test_nobody_need_listen(self, opened: Callable[[], Transport], transport: Transport, queue: str) -> None:
        gone = opened()
        address = gone.replies(lambda _: None)
        gone.close()
        transport.announce([event("flow.execution-completed"), event(address), event("")])
        assert transport.publish([event(queue)]) == [CONFIRMED]

    def test_replies_reach_the_addressee_alone(self, opened: Callable[[], Transport]) -> None:
        first, second, sender = opened(), opened(), opened()
        mine, theirs = Heard(), Heard()
        to_first, to_second = first.replies(mine.subjects), second.replies(theirs.subjects)
        assert to_first != to_second
        sender.announce([event(to_first, subject="order 1"), event(to_first, subject="ordér 2")])
        mine.wait("order 1")
        mine.wait("ordér 2")
        sender.announce([Message(to_second, "i", "t", b"not an event"), event(to_second, subject="order 3")])
        theirs.wait("order 3")
        assert theirs.all == ["order 3"]
        assert sorted(map(str, mine.all)) == ["order 1", "ordér 2"]

    def test_everybody_who_asked_for_replies_is_woken(self, opened: Callable[[], Transport]) -> None:
        transport = opened()
        one, two = Heard(), Heard()
        assert transport.replies(one.subjects) == transport.replies(two.subjects)
        opened().announce([event(transport.replies(lambda _: None), subject="a")])
        one.wait("a")
        two.wait("a")

    # Mishaps.

    def test_a_deleted_queue_is_made_again_and_told(self, transport: Transport, queue: str) -> None:
        heard, deaf = Heard(), Heard()
        transport.watch(heard)
        transport.watch(deaf)()  # stopped at once
        receiver = Receiver()
        transport.subscribe(queue, 10, receiver)
        transport.publish([event(queue, "before")])
        receiver.wait(1)
        self.delete_queue(queue)
        heard.wait(Trouble(queue))
        transport.ack(receiver.tags)
        assert transport.publish([event(queue, "after")]) == [CONFIRMED]
        assert receiver.data(2) == ["before", "after"]
        assert deaf.all == []

    def test_the_tags_of_a_closed_transport_are_ignored(
        self, opened: Callable[[], Transport], transport: Transport, queue: str
    ) -> None:
        first = opened()
        receiver, second = Receiver(), Receiver()
        transport.publish(events(queue, 2))
        first.subscribe(queue, 10, receiver)
        receiver.wait(2)
        first.close()
        transport.subscribe(queue, 10, second)
        second.wait(2)
        for settle in (first.ack, first.requeue, first.park, transport.ack, transport.requeue, transport.park):
            settle(receiver.tags)
        transport.close()
        third = Receiver()
        other = opened()
        other.subscribe(queue, 10, third)
        assert third.data(2) == [0, 1]

    def test_closing_twice_is_closing_once(
        self, opened: Callable[[], Transport], transport: Transport, queue: str
    ) -> None:
        receiver = Receiver()
        transport.subscribe(queue, 10, receiver)
        transport.close()
        transport.close()
        other = opened()
        assert other.publish([event(queue, 1)]) == [CONFIRMED]
        second = Receiver()
        other.subscribe(queue, 10, second)
        assert second.data(1) == [1]
        assert receiver.deliveries == []

    def test_a_closed_transport_says_so(self, transport: Transport, queue: str) -> None:
        transport.close()
        assert transport.publish([event(queue)]) == [UNKNOWN]
        transport.announce([event("nobody")])
        transport.unsubscribe(queue)
        for call in (lambda: transport.declare([queue]), lambda: transport.depth(queue)):
            with pytest.raises(TransportError, match="closed"):
                call()


def _eventually(condition: Callable[[], bool]) -> None:
    """A broker counts a little later than it confirms."""
    never = threading.Event()
    for _ in range(round(SOON / 0.02)):
        if condition():
            return
        never.wait(0.02)
    raise AssertionError("not within 30 s")
