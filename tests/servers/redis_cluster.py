"""A Redis Cluster of the tests' own: three masters and a replica of each, which take over within a second or two.

Laws.
1. Joined by hand: `redis-cli --cluster create` needs half a minute for what is done here in two seconds.
2. A node is a server like any other: kill it, freeze it, start it again; it finds its way back.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import redis

from tests.waiting import until

from .process import HOST, free_port
from .redis_server import RedisServer

SLOTS: Final = 16_384
MASTERS: Final = 3
SILENT_MS: Final = 1_000  # after which the others call a node failed
JOIN_SECONDS: Final = 60


class RedisCluster:
    """replicas: of each master, 0 or 1. server: what each is."""

    def __init__(self, replicas: int = 1, masters: int = MASTERS, server: type[RedisServer] = RedisServer) -> None:
        # The bus would take port + 10,000, free or not. A new replica would have to wait 5 s for others.
        self.nodes = [
            server(
                cluster_enabled="yes",
                cluster_port=str(free_port()),
                cluster_node_timeout=str(SILENT_MS),
                cluster_replica_validity_factor="0",
                repl_diskless_sync_delay="0",
            )
            for _ in range(masters * (1 + replicas))
        ]
        self._masters = masters
        self._clients: dict[int, redis.Redis] = {}

    @property
    def address(self) -> str:
        """Of a node."""
        return f"{HOST}:{self.nodes[0].port}"

    @property
    def url(self) -> str:
        return f"redis+cluster://{self.address}"

    def start(self) -> None:
        """All slots are served, all replicas are in step, and everybody knows it."""
        with ThreadPoolExecutor(len(self.nodes)) as starting:
            list(starting.map(lambda node: node.start(), self.nodes))
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for n, node in enumerate(self.nodes):
            self.say(node, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            self.say(self.nodes[0], "CLUSTER", "MEET", HOST, node.port, node.options["cluster-port"])
        for n, node in enumerate(masters):
            slots = range(SLOTS * n // len(masters), SLOTS * (n + 1) // len(masters))
            self.say(node, "CLUSTER", "ADDSLOTS", *slots)
        until(lambda: all(self._sees(node) for node in self.nodes), "all nodes know each other", JOIN_SECONDS)
        for n, node in enumerate(replicas):
            self.say(node, "CLUSTER", "REPLICATE", self.id_of(masters[n % len(masters)]))
        until(self.well, "the cluster is well", JOIN_SECONDS)

    def _sees(self, node: RedisServer) -> bool:
        info = self._info(node, "CLUSTER", "INFO")
        return (info["cluster_known_nodes"], info["cluster_slots_ok"]) == (str(len(self.nodes)), str(SLOTS))

    def well(self) -> bool:
        """Everybody is there, says that all is well, and has its master's data."""
        return all(node.running and self._is_well(node) for node in self.nodes)

    def _is_well(self, node: RedisServer) -> bool:
        info, replication = self._info(node, "CLUSTER", "INFO"), self._info(node, "INFO", "replication")
        if (info["cluster_state"], info["cluster_slots_ok"]) != ("ok", str(SLOTS)):
            return False
        if replication["role"] == "slave":
            return replication["master_link_status"] == "up"
        return replication["connected_slaves"] == str(len(self.nodes) // self._masters - 1)

    def _info(self, node: RedisServer, *command: str) -> dict[str, str]:
        lines = self.say(node, *command).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def say(self, node: RedisServer, *command: Any) -> Any:
        """The answer as it came."""
        client = self._clients.get(node.port)
        if client is None:
            client = self._clients[node.port] = redis.Redis(host=HOST, port=node.port)
            client.response_callbacks.clear()
        answer: Any = client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no types here
        return answer

    def id_of(self, node: RedisServer) -> str:
        return str(self.say(node, "CLUSTER", "MYID").decode())

    def owner_of(self, slot: int) -> RedisServer:
        """Its master, as another master knows: replicas hear of a move a second later."""
        asked = next(node for node in self.nodes if node.running and self.say(node, "ROLE")[0] == b"master")
        ports = [nodes[0][1] for first, last, *nodes in self.say(asked, "CLUSTER", "SLOTS") if first <= slot <= last]
        return next(node for node in self.nodes if node.port == ports[0])

    def masters(self) -> list[RedisServer]:
        """Those that have slots."""
        return list({self.owner_of(slot): None for slot in range(0, SLOTS, SLOTS // 64)})

    def begin_move(self, slot: int, target: RedisServer) -> RedisServer:
        """As `redis-cli --cluster reshard` does it. Returns the node that gives the slot away."""
        source = self.owner_of(slot)
        self.say(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.say(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        return source

    def move_keys(self, source: RedisServer, target: RedisServer, *keys: bytes) -> None:
        self.say(source, "MIGRATE", HOST, target.port, "", 0, 5_000, "KEYS", *keys)

    def refusals(self, node: RedisServer) -> int:
        """How often it has sent somebody on to the node that is getting a slot."""
        return int(self._info(node, "INFO", "errorstats").get("errorstat_ASK", "count=0").partition("=")[2])

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """With all keys that are left."""
        while keys := self.say(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.move_keys(source, target, *keys)
        for node in (target, source, *self.masters()):
            self.say(node, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for node in self.nodes:
            node.close()
