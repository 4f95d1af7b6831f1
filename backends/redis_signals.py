"""Signals between processes that share a Redis: publish and subscribe, and plain calls inside this process.

Laws.
1. In this process listeners are called directly; what this process published itself is not heard again.
2. `listen` returns when Redis has confirmed: who listens, then reads, then waits, misses nothing (redis_subscriber.py).
3. What can't be published is only logged: a signal is lossy by contract, and whoever waits looks for himself.

Channels: `<partition>facts@<db>` for what was put into inboxes there, `<partition>status@<db>:<instance>` for one
instance; publishing knows no databases, so that the number of ours is in the name. A message is a JSON array: who says
it, then the ids.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Final
from uuid import uuid4

import msgspec

from durable.model.errors import StoreError
from durable.model.names import partition_of
from durable.ports import FACTS, STATUS, Topic

from .local_signals import LocalSignals, Wake
from .redis_connection import Connections, pack
from .redis_subscriber import Subscriber, Subscription

_encode = msgspec.json.Encoder().encode
_said: Final = msgspec.json.Decoder(list[str])

log = logging.getLogger("durable.redis")


class RedisSignals(LocalSignals):
    """`LocalSignals`, and what other processes say. `every` is a pattern for the beginnings of all partitions."""

    def __init__(self, connections: Connections, bases: Sequence[bytes], every: bytes) -> None:
        super().__init__()
        self._connections = connections
        self._bases = bases
        self._facts = [base + b"facts@%d" % connections.target.db for base in bases]
        self._are_facts = frozenset(self._facts)
        self._status = b"status@%d:" % connections.target.db
        self._every_status = Subscription(every + self._status + b"*", True)
        self._me = uuid4().hex
        self._subscriber = Subscriber(connections, self._hear, self.wake_all)

    def notify(self, topic: Topic, instance_ids: Collection[str]) -> None:
        if not instance_ids:
            return
        super().notify(topic, instance_ids)
        try:
            answers, trouble = self._connections.exchange(self._messages(topic, instance_ids))
        except StoreError as error:
            answers, trouble = [], error
        trouble = trouble or next((answer for answer in answers if isinstance(answer, Exception)), None)
        if trouble is not None:
            log.debug("news of %d instances may have been lost: %s", len(instance_ids), trouble)

    def _messages(self, topic: Topic, instance_ids: Collection[str]) -> list[bytes]:
        if topic == STATUS:
            return [
                pack("PUBLISH", self._status_channel(instance_id), _encode([self._me, instance_id]))
                for instance_id in instance_ids
            ]
        groups: dict[int, list[str]] = {}
        for instance_id in instance_ids:
            groups.setdefault(partition_of(instance_id, len(self._bases)), [self._me]).append(instance_id)
        return [pack("PUBLISH", self._facts[number], _encode(some)) for number, some in groups.items()]

    def _status_channel(self, instance_id: str) -> bytes:
        return self._bases[partition_of(instance_id, len(self._bases))] + self._status + instance_id.encode()

    def listen(
        self, topic: Topic, wake: Wake, instance_id: str | None = None, *, here_only: bool = False
    ) -> Callable[[], None]:
        stop_listening = super().listen(topic, wake, instance_id)
        if here_only:
            return stop_listening
        wanted = self._subscriptions(topic, instance_id)
        try:
            self._subscriber.add(wanted)
        except BaseException:
            stop_listening()
            raise
        stopped = threading.Lock()

        def stop() -> None:
            if stopped.acquire(blocking=False):
                stop_listening()
                self._subscriber.remove(wanted)

        return stop

    def _subscriptions(self, topic: Topic, instance_id: str | None) -> list[Subscription]:
        if topic == FACTS:
            facts = self._facts
            return [
                Subscription(channel)
                for channel in (facts if instance_id is None else [facts[partition_of(instance_id, len(facts))]])
            ]
        if instance_id is None:
            return [self._every_status]
        return [Subscription(self._status_channel(instance_id))]

    def _hear(self, channel: bytes, message: bytes, by_pattern: bool) -> None:
        """A message came. While somebody listens to all, those to one come by the pattern too, and count once."""
        try:
            origin, *instance_ids = _said.decode(message)
        except (ValueError, msgspec.MsgspecError):
            log.warning("a message on channel %r is not one of ours; it is left out", channel)
            return
        if origin == self._me:
            return
        topic: Topic = FACTS if channel in self._are_facts else STATUS
        if topic == FACTS or by_pattern or not self._subscriber.has(self._every_status):
            super().notify(topic, instance_ids)

    def close(self) -> None:
        """Listen no more to others; listeners that are left hear of this process only. Idempotent."""
        self._subscriber.close()
