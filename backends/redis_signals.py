"""Signals between processes that share a Redis: publish and subscribe, and plain calls inside this process.

Laws.
1. In this process listeners are called directly; what this process published itself is not heard again.
2. `listen` returns when Redis has confirmed: who listens, then reads, then waits, misses nothing (redis_subscriber.py).
3. What can't be published is only logged: a signal is lossy by contract, and whoever waits looks for himself.

Channels: `<partition>facts@<db>` for what was put into inboxes there, `<partition>status@<db>` for instances that
changed; publishing knows no databases, so that the number of ours is in the name. A message is a JSON array: who says
it, then the ids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from uuid import uuid4

import msgspec

from durable.model.history import UNDECODABLE
from durable.model.names import partition_of
from durable.ports import FACTS, STATUS, Topic

from .local_signals import LocalSignals, Wake, with_others
from .redis_connection import Connections, Unanswered, pack
from .redis_format import News
from .redis_subscriber import Subscriber

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[str]).decode

log = logging.getLogger("durable.redis")


class RedisSignals(LocalSignals):
    """`LocalSignals`, and what other processes say. `bases` are the beginnings of the names of all partitions."""

    def __init__(self, connections: Connections, bases: Sequence[bytes]) -> None:
        super().__init__()
        self._channels: dict[Topic, list[bytes]] = {
            topic: [base + b"%s@%d" % (topic.encode(), connections.target.db) for base in bases]
            for topic in (FACTS, STATUS)
        }
        self._topics: dict[bytes, Topic] = {
            channel: topic for topic, channels in self._channels.items() for channel in channels
        }
        self._me = uuid4().hex
        self._subscriber = Subscriber(connections, self._hear, self.wake_all)
        self._mouth = Unanswered(connections)

    def notify(self, topic: Topic, instance_ids: Collection[str], *, here_only: bool = False) -> None:
        if not instance_ids:
            return
        super().notify(topic, instance_ids)
        if here_only:
            return
        channels = self._channels[topic]
        groups: dict[int, list[str]] = {}
        for instance_id in instance_ids:
            groups.setdefault(partition_of(instance_id, len(channels)), [self._me]).append(instance_id)
        messages = [pack("PUBLISH", channels[number], _encode(some)) for number, some in groups.items()]
        trouble = self._mouth.say(messages)
        if trouble is not None:
            log.debug("news of %d instances, or some before, may have been lost: %s", len(instance_ids), trouble)

    def news(self, instance_id: str) -> News:
        """What a commit that tells publishes by itself."""
        channels = self._channels[STATUS]
        return News(channels[partition_of(instance_id, len(channels))], _encode([self._me, instance_id]))

    def listen(
        self, topic: Topic, wake: Wake, instance_id: str | None = None, *, here_only: bool = False
    ) -> Callable[[], None]:
        stop_here = super().listen(topic, wake, instance_id)
        if here_only:
            return stop_here
        channels = self._channels[topic]
        wanted = channels if instance_id is None else [channels[partition_of(instance_id, len(channels))]]
        return with_others(stop_here, lambda: self._subscriber.add(wanted), lambda: self._subscriber.remove(wanted))

    def _hear(self, channel: bytes, message: bytes) -> None:
        try:
            origin, *instance_ids = _decode(message)
        except (ValueError, *UNDECODABLE):
            log.warning("a message on channel %r is not one of ours; it is left out", channel)
            return
        if origin != self._me:
            super().notify(self._topics[channel], instance_ids)

    def close(self) -> None:
        """Listen no more to others; listeners that are left hear of this process only. Idempotent."""
        self._subscriber.close()
        self._mouth.hear()
