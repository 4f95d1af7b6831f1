"""The raw limit of RabbitMQ's part: bare pika that carries the same number and size of messages as hello sequences.

It knows nothing of the product. Frames are made before the clock starts, and those of a batch go out in one write; one
thread publishes with confirms, consumes and acknowledges on one `SelectConnection`. A round is one step of up to
`ROUND` sequences: their invocations to a quorum queue, the outcome of each delivery to the quorum queue of its
partition, all confirmed, all received, all acknowledged (`multiple`). The first round of a sequence also announces that
it has begun, the last one that it has ended, to a topic that nobody binds: unconfirmed. Where the client is a process
of its own the end is also sent to its reply queue, and the round waits for that. Where activities run eagerly the
announcements are all there is.

    python tests/benchmarks/raw_rabbitmq.py [--repeats 3] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
from pika import frame, spec  # as above

if TYPE_CHECKING:
    from tests.benchmarks.raw_messages import (
        LIFECYCLE,
        OUTCOMES,
        REPLIES,
        STEPS,
        WORK,
        Life,
        Message,
        Sent,
        Shape,
        in_rounds,
    )
else:
    from raw_messages import LIFECYCLE, OUTCOMES, REPLIES, STEPS, WORK, Life, Message, Sent, Shape, in_rounds

PREFETCH: Final = 500
_CONFIRMED, _ANNOUNCED, _WORK, _RECEIVED, _REPLIED = range(1, 6)  # channels


class Round(NamedTuple):
    """Frames to write at once; those of each outcome; how many replies come back."""

    begin: bytes
    invocations: int
    outcomes: list[bytes]
    end: bytes
    replies: int


# ---- what is sent


def rounds(shape: Shape, count: int, carried: bool, answered: bool) -> list[Round]:
    """The rounds of so many sequences. carried: their activities travel, not only the announcements. answered: the end
    is sent to a reply queue too."""
    made = [_round(lives, step, carried, answered) for lives, step in in_rounds(shape, count)]
    return [one for one in made if one.begin or one.end]


def _round(lives: Sequence[Life], step: int, carried: bool, answered: bool) -> Round:
    started = [message for life in lives for message in life.started] if step == 0 else []
    ended = [message for life in lives for message in life.ended] if step == len(STEPS) - 1 else []
    ended = [message for message in ended if answered or message.key != REPLIES]
    invocations = [life.invocations[step] for life in lives] if carried else []
    outcomes = [life.outcomes[step] for life in lives] if carried else []
    return Round(
        b"".join([*(_frames(_ANNOUNCED, m) for m in started), *(_frames(_CONFIRMED, m) for m in invocations)]),
        len(invocations),
        [_frames(_CONFIRMED, m) for m in outcomes],
        b"".join(_frames(_ANNOUNCED, m) for m in ended),
        sum(m.key == REPLIES for m in ended),
    )


def _frames(channel: int, message: Message) -> bytes:
    publish = spec.Basic.Publish(exchange=message.exchange, routing_key=message.key, mandatory=channel == _CONFIRMED)
    properties = pika.BasicProperties(
        content_type="application/cloudevents+json", delivery_mode=2, message_id=message.key, type=message.type
    )
    frames = (
        frame.Method(channel, publish),
        frame.Header(channel, len(message.body), properties),
        frame.Body(channel, message.body),
    )
    return b"".join(one.marshal() for one in frames)


# ---- sending it


class _Carrier:
    """Runs rounds, one after the other, on the thread that calls `run`."""

    def __init__(self, url: str, rounds: Sequence[Round]) -> None:
        self._rounds = iter(rounds)
        self._seconds: list[float] = []
        self._error: BaseException | None = None
        self._channels: dict[int, Any] = {}
        self._consuming = 0
        self._round = Round(b"", 0, [], b"", 0)
        self._begun = 0.0
        self._taken = self._received = self._replied = 0  # in this round
        self._published = 0
        self._unconfirmed: dict[int, None] = {}  # numbers, in order
        self._delivered = {_WORK: 0, _RECEIVED: 0}  # number of the last delivery of a channel
        self._settled = {_WORK: 0, _RECEIVED: 0}
        self._woken = False
        self._connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda _: self._open(_CONFIRMED),
            on_open_error_callback=lambda _, error: self._end(error),
            on_close_callback=lambda _, error: self._end(error),
        )

    def run(self) -> list[float]:
        """Seconds of each round."""
        self._connection.ioloop.start()
        if self._error is not None:
            raise RuntimeError("the raw program has lost its broker") from self._error
        return self._seconds

    def _end(self, error: BaseException) -> None:
        if not isinstance(error, pika.exceptions.ConnectionClosedByClient):
            self._error = error
        self._connection.ioloop.stop()

    def _open(self, number: int) -> None:
        def opened(channel: Any) -> None:
            self._channels[number] = channel
            if number == _CONFIRMED:
                channel.confirm_delivery(self._on_confirmed)
            if number < _REPLIED:
                self._open(number + 1)
            else:
                self._consume()

        self._connection.channel(number, on_open_callback=opened)

    def _consume(self) -> None:
        queues = [(_WORK, WORK, self._on_work), *((_RECEIVED, queue, self._on_outcome) for queue in OUTCOMES)]

        def consuming(_: Any) -> None:
            self._consuming += 1
            if self._consuming == len(queues) + 1:
                self._next()

        for number in (_WORK, _RECEIVED):
            self._channels[number].basic_qos(prefetch_count=PREFETCH)
        for number, queue, call in queues:
            self._channels[number].basic_consume(queue, call, callback=consuming)
        self._channels[_REPLIED].basic_consume(REPLIES, self._on_reply, auto_ack=True, callback=consuming)

    def _next(self) -> None:
        self._begun = time.perf_counter()
        following = next(self._rounds, None)
        if following is None:
            self._connection.close()
            return
        self._round = following
        self._taken = self._received = self._replied = 0
        self._publish(following.begin, following.invocations)
        if not following.invocations:
            self._publish(following.end, 0)
        self._wake()

    def _publish(self, frames: bytes, confirmed: int) -> None:
        """One write of so many messages that will be confirmed, or of announcements."""
        for _ in range(confirmed):
            self._published += 1
            self._unconfirmed[self._published] = None
        if frames:
            self._connection._output_marshaled_frames([frames])  # pika alone writes each message three times

    def _on_confirmed(self, method_frame: Any) -> None:
        method = method_frame.method
        if not isinstance(method, spec.Basic.Ack):
            self._error = RuntimeError("the broker refused a message")
        elif method.multiple:
            for number in list(itertools.takewhile(lambda n: n <= method.delivery_tag, self._unconfirmed)):
                del self._unconfirmed[number]
        else:
            del self._unconfirmed[method.delivery_tag]
        self._wake()

    def _on_work(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._delivered[_WORK] = method.delivery_tag
        self._wake()

    def _on_outcome(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._delivered[_RECEIVED] = method.delivery_tag
        self._wake()

    def _on_reply(self, _channel: Any, _method: Any, _properties: Any, _body: bytes) -> None:
        self._replied += 1
        self._wake()

    def _wake(self) -> None:
        """Go on once all that has been read is dealt with: in batches."""
        if not self._woken:
            self._woken = True
            self._connection.ioloop.call_later(0, self._go_on)

    def _go_on(self) -> None:
        self._woken = False
        taken = self._settle(_WORK)
        if taken:
            first, self._taken = self._taken, self._taken + taken
            self._publish(b"".join(self._round.outcomes[first : self._taken]), taken)
        received = self._settle(_RECEIVED)
        self._received += received
        if received and self._received == self._round.invocations:
            self._publish(self._round.end, 0)
        if not self._unconfirmed and (self._received, self._replied) == (self._round.invocations, self._round.replies):
            self._seconds.append(time.perf_counter() - self._begun)
            self._next()

    def _settle(self, channel: int) -> int:
        """Acknowledge what a channel has delivered; how many that were."""
        last = self._delivered[channel]
        count = last - self._settled[channel]
        if count:
            self._settled[channel] = last
            self._channels[channel].basic_ack(last, multiple=True)
        return count


def carry(url: str, shape: Shape, count: int, warm_up: int, carried: bool, answered: bool = False) -> Sent:
    """Send and receive what so many sequences do, over queues of its own; the warm-up is not timed."""
    before, timed = rounds("many", warm_up, carried, answered), rounds(shape, count, carried, answered)
    with _queues(url):
        seconds = _Carrier(url, [*before, *timed]).run()[len(before) :]
    return Sent(sum(seconds), seconds)


@contextmanager
def _queues(url: str) -> Iterator[None]:
    """The queues and the topic, and in the end none."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0  # nobody answers them meanwhile
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.exchange_declare(LIFECYCLE, "topic", durable=True)
        for queue in (WORK, *OUTCOMES):
            channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_declare(REPLIES)
        yield
        for queue in (WORK, *OUTCOMES, REPLIES):
            channel.queue_delete(queue)
        channel.exchange_delete(LIFECYCLE)
    finally:
        connection.close()


def main() -> None:
    if TYPE_CHECKING:
        from tests.benchmarks.places import Places
    else:
        from places import Places

    parser = argparse.ArgumentParser(description="what RabbitMQ's part of the rows of run.py needs alone")
    parser.add_argument("--repeats", type=int, default=3, help="the median is shown")
    parser.add_argument("--dir", default=".", help="where the server keeps its data (default: here)")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder,
        Places(folder) as places,
        places.place("broker") as place,
    ):
        assert place.events is not None
        for carried, name in ((True, "every activity"), (False, "announcements")):
            for shape, count in _CASES:
                took = [carry(place.events, shape, count, 200, carried).seconds for _ in range(arguments.repeats)]
                seconds = median(took)
                per_unit = f"{seconds / count * 1e3:8.3f} ms each, {count / seconds:9,.0f} a second"
                print(f"{name:15} {count:5,} {shape:8} {seconds:8.3f} s  {per_unit}", flush=True)


_CASES: Final[tuple[tuple[Shape, int], ...]] = (("many", 2_000), ("single", 2_000), ("alone", 300))


if __name__ == "__main__":
    main()
