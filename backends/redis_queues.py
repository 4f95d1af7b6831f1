"""Queues in Redis: each is a stream with one consumer group, and this is all that is ever said to one.

Laws.
1. A queue has one key, `<prefix>:{<queue>}:stream`; in a cluster `<prefix>:{<workspace>}:<queue>:stream`, for all that
   one reading waits for must be in one slot.
2. An entry is one CloudEvent in the field `event`. Acknowledged is deleted: what is in a stream is still to be done.
3. What comes back (given back, or its consumer died) is a new entry at the end, whose field `returns` counts: whoever
   is blocked on the queue is woken by it as by any other. After DELIVERY_LIMIT returns it is a dead letter.
4. A consumer that is ours lives while it beats (redis_beat.lua). One of somebody else's, whose name does not begin as
   ours do, lives while it asks for messages now and then.
5. A dead letter is added to its stream before it is acknowledged in the other: at worst it is there twice.
6. What is done with is deleted, then acknowledged. Should the second be lost, its consumer is found to hold what is not
   there any more, and that is let go; an entry acknowledged and not deleted would be there for ever, seen by nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, Final

from redis.exceptions import NoPermissionError, ResponseError

from durable.model.errors import StoreError, TransportError
from durable.ports import Depth, Message, Published

from .queue_names import Names
from .redis_connection import Arg, Connections, Unanswered, explain, pack, read_script

DELIVERY_LIMIT: Final = 20
NO_LIMIT: Final = 1 << 31
GROUP: Final = b"durable"
EVENT: Final = b"event"
OURS: Final = "durable-"  # how the names of our consumers begin
SILENT_SECONDS: Final = 4.0
STRANGERS_SECONDS: Final = 300.0  # after that its invocation is sent again anyway, from the store
LIFECYCLE_EVENTS: Final = 10_000  # about so many are kept for those who look later

_BEAT: Final = read_script("beat")
_GIVE_BACK: Final = read_script("give_back")
_GONE: Final = (
    "NOGROUP",
    "UNBLOCKED",
    "no such key",
    "requires the key to exist",
)  # what Redis says of a missing queue

log = logging.getLogger("durable.redis")


def is_gone(error: Exception) -> bool:
    """Whether Redis says so of a queue."""
    return isinstance(error, ResponseError) and any(mark in str(error) for mark in _GONE)


class Queues:
    """The queues that a workspace has in one Redis. Raises StoreError when that can't be used."""

    def __init__(self, connections: Connections, prefix: str, names: Names, workspace: str) -> None:
        self.connections = connections
        self.names = names
        self._prefix = prefix.encode()
        common = b"%s:{%s}:" % (self._prefix, workspace.encode())
        self._consumers = common + b"consumers"
        shared = connections.target.cluster
        self._before, self._behind = (common, b":stream") if shared else (self._prefix + b":{", b"}:stream")
        self._settled = Unanswered(connections)
        self._announced = Unanswered(connections)

    def key(self, queue: str) -> bytes:
        """The stream's."""
        return self._before + queue.encode(errors="surrogatepass") + self._behind

    def check(self) -> None:
        """Raises TransportError, or StoreError, unless Redis can carry events and this user may."""
        [answer] = self._exchange([pack("XADD", self.key(""), "NOMKSTREAM", "*", EVENT, b"")])
        if isinstance(answer, NoPermissionError):
            raise explain(self.connections.target, answer) from answer
        if isinstance(answer, Exception):
            where = self.connections.target.where
            raise TransportError(f"{where} can't carry events ({answer}); it must be Redis 6.2 or newer, or a Valkey")

    def declare(self, queues: Sequence[str]) -> list[bool]:
        """Make them; whether each was missing. Raises TransportError for a key that is somebody else's."""
        answers = self._exchange([pack("XGROUP", "CREATE", self.key(q), GROUP, "0", "MKSTREAM") for q in queues])
        missing: list[bool] = []
        for queue, answer in zip(queues, answers, strict=True):
            if isinstance(answer, Exception) and "BUSYGROUP" not in str(answer):
                raise TransportError(f"can't make queue {queue!a}: {explain(self.connections.target, answer)}")
            missing.append(not isinstance(answer, Exception))
        return missing

    def depth(self, queue: str) -> Depth | None:
        key = self.key(queue)
        length, groups, consumers, names, time = self._exchange(
            [
                pack("XLEN", key),
                pack("XINFO", "GROUPS", key),
                pack("XINFO", "CONSUMERS", key, GROUP),
                pack("ZRANGE", self._consumers, "0", "-1", "WITHSCORES"),
                pack("TIME"),
            ]
        )
        if any(isinstance(answer, Exception) for answer in (length, groups, consumers)):
            return None
        for refused in (names, time):
            if isinstance(refused, Exception):
                raise explain(self.connections.target, refused) from refused
        earliest = int(time[0]) - SILENT_SECONDS
        alive = {name for name, at in zip(names[::2], names[1::2], strict=True) if float(at) / 1000 >= earliest}
        pending = next(int(g[b"pending"]) for g in map(fields_of, groups) if g[b"name"] == GROUP)
        living = sum(_lives(consumer, alive) for consumer in map(fields_of, consumers))
        return Depth(max(0, int(length) - pending), living)

    def publish(self, messages: Sequence[Message]) -> list[Published]:
        """Never raises for a Redis that is away."""
        return add_all(
            self.connections,
            [pack("XADD", self.key(message.to), "NOMKSTREAM", "*", EVENT, message.body) for message in messages],
        )

    def announce(self, messages: Sequence[Message]) -> None:
        """To the stream of lifecycle events, and to whoever listens at a reply address."""
        topic, replies = self.key(self.names.lifecycle), self.names.reply_prefix
        trouble = self._announced.say(
            [
                pack("PUBLISH", self.address(m.to), m.body)
                if m.to.startswith(replies)
                else pack(
                    "XADD",
                    topic,
                    "MAXLEN",
                    "~",
                    str(LIFECYCLE_EVENTS),
                    "*",
                    "key",
                    m.to.encode(errors="replace"),
                    EVENT,
                    m.body,
                )
                for m in messages
            ]
        )
        if trouble is not None:
            log.debug("lifecycle events may have been lost: %s", trouble)

    def address(self, reply_to: str) -> bytes:
        """The channel of a reply address; publishing knows no databases, so that the number of ours is in it."""
        return b"%s:%s@%d" % (self._prefix, reply_to.encode(errors="surrogatepass"), self.connections.target.db)

    # What consumers do.

    def acknowledge(self, ids: dict[str, list[bytes]]) -> Exception | None:
        """Done with these, by queue; without waiting. What went wrong, with these or with those before."""
        commands: list[bytes] = []
        for queue, some in ids.items():
            key = self.key(queue)
            commands += (pack("XDEL", key, *some), pack("XACK", key, GROUP, *some))
        return self._settled.say(commands)

    def trouble(self) -> Exception | None:
        """What went wrong with the last acknowledgements."""
        return self._settled.hear()

    def give_back(self, queue: str, ids: Sequence[bytes]) -> None:
        """Somebody else shall have these."""
        self._bury(queue, self._run_give_back(queue, "", ids)[1])

    def give_back_all(self, queue: str, consumer: str) -> None:
        """What this consumer holds; then it is gone."""
        more = True
        while more:
            more, buried = self._run_give_back(queue, consumer, ())
            self._bury(queue, buried)

    def park(self, queue: str, ids: Sequence[bytes]) -> None:
        """To the dead letters with these."""
        key = self.key(queue)
        found = self._ask([pack("XRANGE", key, id, id) for id in ids])
        self._bury(queue, [part for entries in found for id, fields in entries for part in (id, event_of(fields))])

    def beat(self, me: str) -> set[bytes]:
        """I live; who else does."""
        [names] = self.connections.run(_BEAT, [(self._consumers, me, round(SILENT_SECONDS * 1000))])
        return set(names)

    def leave(self, me: str) -> None:
        """I don't any more."""
        self._ask([pack("ZREM", self._consumers, me)])

    def take_from_the_dead(self, queues: Sequence[str], alive: Collection[bytes]) -> None:
        """Whatever consumers hold that don't live any more is given back."""
        answers = self._exchange([pack("XINFO", "CONSUMERS", self.key(queue), GROUP) for queue in queues])
        for queue, answer in zip(queues, answers, strict=True):
            if isinstance(answer, Exception):
                continue  # whoever reads from it finds it missing
            for consumer in map(fields_of, answer):
                if not _lives(consumer, alive):
                    name, pending = consumer[b"name"].decode(errors="surrogateescape"), consumer[b"pending"]
                    log.log(
                        logging.WARNING if pending else logging.DEBUG,
                        "consumer %a of queue %a is gone; its %d messages are given to others",
                        name,
                        queue,
                        pending,
                    )
                    self.give_back_all(queue, name)

    def close(self) -> None:
        self._settled.hear()
        self._announced.hear()
        self.connections.close()

    def _run_give_back(self, queue: str, consumer: str, ids: Sequence[bytes]) -> tuple[bool, list[bytes]]:
        limit = NO_LIMIT if queue == self.names.dead_letters else DELIVERY_LIMIT
        name = consumer.encode(errors="surrogateescape")
        call: tuple[Arg, ...] = (self.key(queue), GROUP, str(limit), name, *ids)
        answers, trouble = self.connections.begin(_GIVE_BACK, [call])()
        answer = trouble or answers[0]
        if isinstance(answer, Exception):
            if is_gone(answer):
                return False, []
            raise explain(self.connections.target, answer) from answer
        return bool(answer[0]), answer[1]

    def _bury(self, queue: str, found: Sequence[bytes]) -> None:
        """found: id, body, id, body, ..."""
        if not found:
            return
        ids, bodies = found[::2], found[1::2]
        dead_letters, key = self.key(self.names.dead_letters), self.key(queue)
        self.declare([self.names.dead_letters])
        self._ask([pack("XADD", dead_letters, "*", EVENT, body, "queue", queue) for body in bodies])
        self._ask([pack("XDEL", key, *ids), pack("XACK", key, GROUP, *ids)])

    def _ask(self, commands: Sequence[bytes]) -> list[Any]:
        return self.connections.ask(commands)

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """An answer each, errors of Redis's among them."""
        if not commands:
            return []
        answers, trouble = self.connections.exchange(commands)
        if trouble is not None:
            raise explain(self.connections.target, trouble) from trouble
        return answers


def add_all(connections: Connections, adds: Sequence[bytes]) -> list[Published]:
    """Say these XADDs, one answer each. Never raises for a Redis that is away."""
    answers: list[Any] = []
    try:
        answers, trouble = connections.exchange(adds)
    except StoreError as error:
        trouble = error
    refused = next((answer for answer in answers if isinstance(answer, Exception)), trouble)
    if refused is not None:
        log.warning("of %d messages some may not have arrived: %s", len(adds), refused)
    return [_published(answer) for answer in answers] + [Published.UNKNOWN] * (len(adds) - len(answers))


def event_of(fields: Sequence[bytes]) -> bytes:
    """The CloudEvent of an entry; nothing for one that has none, which whoever reads it parks."""
    if fields and fields[0] == EVENT:
        return fields[1]
    return next((value for name, value in zip(fields[::2], fields[1::2], strict=True) if name == EVENT), b"")


def _published(answer: Any) -> Published:
    if answer is None:
        return Published.RETURNED
    return Published.UNKNOWN if isinstance(answer, Exception) else Published.CONFIRMED


def fields_of(flat: Sequence[Any]) -> dict[bytes, Any]:
    """What Redis answers flat, name, value, name, value."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _lives(consumer: dict[bytes, Any], alive: Collection[bytes]) -> bool:
    name: bytes = consumer[b"name"]
    if name.startswith(OURS.encode()):
        return name in alive
    return bool(consumer[b"idle"] < STRANGERS_SECONDS * 1000)
