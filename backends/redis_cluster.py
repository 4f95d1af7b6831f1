"""A Redis Cluster: each command goes to the node that has its key, to all nodes at once.

Laws.
1. Every command names its key first, a script the beginning of its partition's: its slot says which node has it. What
   is for one node travels together, and all nodes are sent to before any is read from.
2. What a node says it has not run (MOVED, ASK, TRYAGAIN, CLUSTERDOWN, NOSCRIPT), and what could not be sent, is sent
   again for up to PATIENCE_SECONDS: long enough for a replica to take over. What was sent and has no answer is not:
   nobody knows what happened.
3. A command of one key follows ASK, once. A script does not: while a slot moves its partition is here in part and there
   in part, and half a turn must never be written. The key that a script names never exists, so that the node which
   gives the slot away refuses it before it runs; it waits until the slot has moved.
4. The map of slots is read again when a node refuses or is lost; who failed last is asked last.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, NoScriptError, TryAgainError

from durable.model.errors import StoreError

from .redis_connection import Answers, Connections, Pool, Script, Wire, explain, pack
from .redis_url import Address, Target

T = TypeVar("T")

SLOTS: Final = 16_384
PATIENCE_SECONDS: Final = 20.0
FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 0.25

_NOT_RUN: Final = (AskError, TryAgainError, ClusterDownError, NoScriptError)  # MovedError is an AskError
_KEY: Final = re.compile(rb"\*\d+\r\n\$\d+\r\n(?:EVALSHA\r\n\$40\r\n.{40}\r\n\$1\r\n1|[A-Z]+)\r\n\$(\d+)\r\n")
_ASKING: Final = pack("ASKING")

_Owners = list["Pool | None"]  # of each slot


class NodeError(StoreError):
    """What kept one node from answering. `not_run`: that much is known."""

    def __init__(self, node: Pool, error: Exception, not_run: bool) -> None:
        super().__init__(str(explain(node.target, error)))
        self.node = node
        self.error = error
        self.not_run = not_run


class Cluster(Connections):
    """To all nodes of one cluster. home: a key whose node everything goes to, for who blocks on several at once."""

    def __init__(self, target: Target, home: bytes | None = None) -> None:
        self.target = target
        self._home = None if home is None else key_slot(home)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._pools: dict[Address, Pool] = {}
        self._failed: set[Address] = set()
        self._owners: _Owners = []
        self._missed: StoreError | None = None  # the last time that no node had one

    # Asking.

    def connect(self) -> Wire:
        owners = self._learn()
        masters = _masters(owners)
        home = None if self._home is None else owners[self._home]
        return self._first_of([home] if home else random.sample(masters, len(masters)), Pool.connect)

    def exchange(self, commands: Sequence[bytes]) -> Answers:
        return self._repeat(None, commands, *self.send(commands)())

    def send(self, commands: Sequence[bytes]) -> Callable[[], Answers]:
        owners = self._owners or self._learn()
        parts: dict[Pool, list[int]] = {}
        for n, command in enumerate(commands):
            node = owners[_slot_of(command) if self._home is None else self._home]
            parts.setdefault(node or _masters(owners)[0], []).append(n)  # who has not got the slot either says so
        sent = [(node, places, self._send_to(node, [commands[n] for n in places])) for node, places in parts.items()]
        return lambda: self._receive(len(commands), sent)

    def _send_to(self, node: Pool, commands: Sequence[bytes]) -> Callable[[], Answers]:
        try:
            return node.send(commands)
        except StoreError as error:
            self._failed.add(node.target.address)
            unsent = NodeError(node, error, not_run=True)
            return lambda: ([unsent] * len(commands), None)

    def _receive(self, count: int, sent: Sequence[tuple[Pool, list[int], Callable[[], Answers]]]) -> Answers:
        """An answer in each place; NodeErrors where there is none."""
        answers: list[Any] = [None] * count
        lost: NodeError | None = None
        for node, places, finish in sent:
            some, trouble = finish()
            if trouble is not None:
                self._failed.add(node.target.address)
                self._owners = []  # another may have its slots by now
                lost = NodeError(node, trouble, not_run=False)
                some += [lost] * (len(places) - len(some))
            for n, answer in zip(places, some, strict=True):
                answers[n] = NodeError(node, answer, not_run=True) if isinstance(answer, _NOT_RUN) else answer
        return answers, lost

    def _repeat(
        self, script: Script | None, commands: Sequence[bytes], answers: list[Any], trouble: Exception | None
    ) -> Answers:
        until = time.monotonic() + PATIENCE_SECONDS
        pause = 0.0
        while refused := [n for n, answer in enumerate(answers) if isinstance(answer, NodeError) and answer.not_run]:
            if time.monotonic() > until or self._closing.wait(pause):
                break
            pause = min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, 2 * pause))
            try:
                again, lost = self._send_again(script, [commands[n] for n in refused], [answers[n] for n in refused])
            except StoreError:
                break  # no node is left that could say who has what
            for n, answer in zip(refused, again, strict=True):
                answers[n] = answer
            trouble = trouble or lost
        return answers, trouble

    def _send_again(self, script: Script | None, commands: list[bytes], refusals: list[NodeError]) -> Answers:
        if script is None and all(type(refusal.error) is AskError for refusal in refusals):
            return self._follow(commands, refusals)
        # Who sends on to another node has that one in its map.
        self._learn(next((refusal.node for refusal in refusals if isinstance(refusal.error, AskError)), None))
        if script is not None:
            for node in {refusal.node for refusal in refusals if isinstance(refusal.error, NoScriptError)}:
                self._send_to(node, [pack("SCRIPT", "LOAD", script.text)])()
        return self.send(commands)()

    def _follow(self, commands: list[bytes], refusals: list[NodeError]) -> Answers:
        """To where ASK points, which serves a key that it does not own yet only to those who say ASKING."""
        parts: dict[Pool, list[int]] = {}
        for n, refusal in enumerate(refusals):
            ask: Any = refusal.error  # which has no types
            parts.setdefault(self._pool((ask.host or refusal.node.target.host, ask.port)), []).append(n)
        sent = [
            (node, places, self._send_asking(node, [commands[n] for n in places])) for node, places in parts.items()
        ]
        return self._receive(len(commands), sent)

    def _send_asking(self, node: Pool, commands: Sequence[bytes]) -> Callable[[], Answers]:
        finish = self._send_to(node, [part for command in commands for part in (_ASKING, command)])

        def answers() -> Answers:
            some, trouble = finish()
            return some[1::2], trouble

        return answers

    # The map.

    def servers(self) -> Sequence[Connections]:
        owners = self._learn()
        masters, served = _masters(owners), SLOTS - owners.count(None)
        for node in masters:
            [info] = node.ask([pack("CLUSTER", "INFO")])
            if b"cluster_state:ok" not in info or served < SLOTS:
                where = node.target.where
                raise StoreError(
                    f"{where} says that not all is well ({served:,} of {SLOTS:,} slots are served); see redis-cli "
                    f"--cluster check {where.rpartition(' ')[2]}"
                )
        return masters

    def _learn(self, first: Pool | None = None) -> _Owners:
        """Read the map anew, if it can be from `first`. Raises StoreError when no node has one."""
        seen, missed = self._owners, self._missed
        with self._lock:
            self._refuse_closed()
            if self._owners and self._owners is not seen:
                return self._owners  # somebody else has just read it
            if self._missed is not None and self._missed is not missed:
                raise StoreError(*self._missed.args)  # or has tried them all in vain, which takes a while
            # In any order: one that the others have lost has an old map, and does not know.
            known = {*self._pools, *self.target.addresses}
            asked = sorted(known, key=lambda address: (address in self._failed, random.random()))
            nodes = [*([first] if first else []), *map(self._pool, asked)]
            try:
                self._owners = self._first_of(nodes, self._read_map)
            except StoreError as error:
                self._missed = error
                raise
            self._missed = None
            return self._owners

    def _refuse_closed(self) -> None:
        if self._closing.is_set():
            raise StoreError(f"{self.target.where}: this store was closed; open it again")

    def _first_of(self, nodes: Iterable[Pool], ask: Callable[[Pool], T]) -> T:
        """What the first says that can be asked."""
        failure: StoreError | None = None
        for node in nodes:
            self._refuse_closed()
            try:
                return ask(node)
            except StoreError as error:
                self._failed.add(node.target.address)
                failure = failure or error
        assert failure is not None, "there is always somebody to ask"
        raise failure

    def _read_map(self, asked: Pool) -> _Owners:
        [slots] = asked.ask([pack("CLUSTER", "SLOTS")])
        if not slots:
            raise StoreError(f"{asked.target.where} knows no node that serves a slot; see redis-cli --cluster check")
        owners: _Owners = [None] * SLOTS
        known = set(self.target.addresses)
        for first, last, *nodes in slots:  # nodes: the master, then its replicas
            addresses = [_address(node, asked.target) for node in nodes]
            known.update(addresses)
            owners[first : last + 1] = [self._pool(addresses[0])] * (last + 1 - first)
        for address in known:
            self._pool(address)
        gone = [self._pools.pop(address) for address in self._pools.keys() - known]
        self._failed = self._failed & known - {asked.target.address}
        for node in gone:
            node.close()
        return owners

    def _pool(self, address: Address) -> Pool:
        found = self._pools.get(address)
        if found is None:
            target = replace(self.target, host=address[0], port=address[1], others=())
            found = self._pools.setdefault(address, Pool(target))
        return found

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            self._owners = []
            for node in self._pools.values():
                node.close()


def _slot_of(command: bytes) -> int:
    found = _KEY.match(command)
    assert found is not None, "every command names its key first"
    return int(key_slot(command[found.end() : found.end() + int(found[1])]))


def _masters(owners: _Owners) -> list[Pool]:
    return [node for node in dict.fromkeys(owners) if node is not None]


def _address(node: Sequence[Any], asked: Target) -> Address:
    """Host and port; a node that does not know its own host is reached as the one that was asked."""
    host = (node[0] or b"?").decode()
    return asked.host if host == "?" else host, int(node[1])
