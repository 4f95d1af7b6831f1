"""What orchestrations cost on DynamoDB: write and read units of a hello, of a step, of an idle hour.

Counted from the sizes of items by DynamoDB's published rules, request by request, because no test server counts indexes
and transactions as DynamoDB does: a write is 1 unit a KB, twice that in a transaction; an index entry that is added,
moved or removed is 1, 2 or 1 more (in a transaction twice that: the upper bound, the rules do not say); a consistent
read is 1 unit for 4 KB, at least 1 a request or item. Run it: .venv/bin/python tests/benchmarks/dynamodb_units.py
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import durable
from durable.backends.dynamodb_backend import create_dynamodb
from durable.backends.dynamodb_connection import Connection
from durable.backends.dynamodb_items import Item, size_of
from tests.servers.dynamodb_server import CREDENTIALS, DynamoServer

INDEXED = ("d", "n")
IDLE_SECONDS = 60


class Meter:
    """Counts units of everything this process asks for; keeps a copy of all items, to know what a write replaces."""

    def __init__(self) -> None:
        self.units: Counter[str] = Counter()
        self._items: dict[tuple[str, str], Item] = {}
        self._lock = threading.Lock()
        once = Connection._once
        meter = self

        def counted(connection: Connection, verb: str, asked: dict[str, Any], attempts: Any) -> Any:
            answer = once(connection, verb, asked, attempts)
            with meter._lock:
                meter._count(verb, asked, answer)
            return answer

        every: Any = Connection
        every._once = counted  # the one place where all requests pass

    def _count(self, verb: str, asked: dict[str, Any], answer: Any) -> None:
        if verb == "transact_write_items":
            for action in asked["TransactItems"]:
                [(kind, request)] = action.items()
                self._write(kind, request, 2)
        elif verb == "batch_write_item":
            for requests in asked["RequestItems"].values():
                for request in requests:
                    self._write("Delete", request["DeleteRequest"], 1)
        elif verb in ("put_item", "update_item", "delete_item"):
            self._write(verb.removesuffix("_item").capitalize(), asked, 1)
        elif verb == "get_item":
            self._read([answer["Item"]] if "Item" in answer else [])
        elif verb == "batch_get_item":
            [wanted] = [keys["Keys"] for keys in asked["RequestItems"].values()]
            [found] = answer["Responses"].values() or [[]]
            for item in found:
                self._read([item])
            self.units["read"] += len(wanted) - len(found)
        elif verb == "query":
            self._read(answer["Items"])

    def _read(self, items: list[Item]) -> None:
        self.units["read"] += max(1, math.ceil(sum(map(size_of, items)) / 4096))

    def _write(self, kind: str, request: dict[str, Any], price: int) -> None:
        key = request.get("Key") or {name: request["Item"][name] for name in ("pk", "sk")}
        at = (key["pk"]["S"], key["sk"]["S"])
        before = self._items.pop(at, {})
        after: Item = {}
        if kind == "Put":
            after = request["Item"]
        elif kind == "Update":
            after = _updated(before or dict(key), request)
        if kind == "ConditionCheck":
            after = before
        if after:
            self._items[at] = after
        moved = sum(
            0 if before.get(name) == after.get(name) else (name in before) + (name in after) for name in INDEXED
        )
        self.units["write"] += price * (max(1, math.ceil(max(size_of(before), size_of(after)) / 1024)) + moved)
        self.units[f"of {at[0].split('/')[1]}"] += price


def _updated(before: Item, request: dict[str, Any]) -> Item:
    """The item after an update expression of the form SET a = :a, b = :b REMOVE c, d ADD e :e."""
    values = request.get("ExpressionAttributeValues", {})
    after = dict(before)
    clause = ""
    words = request["UpdateExpression"].replace(",", " ").replace("=", " ").split()
    place = 0
    while place < len(words):
        word = words[place]
        if word in ("SET", "REMOVE", "ADD"):
            clause, place = word, place + 1
        elif clause == "REMOVE":
            after.pop(word, None)
            place += 1
        else:
            after[word] = values[words[place + 1]]
            place += 2
    return after


def main() -> None:
    server = DynamoServer()
    server.start()
    os.environ.update(CREDENTIALS)
    try:
        create_dynamodb(server.url())
        measure(server.url(), Meter().units)
    finally:
        server.close()


def measure(url: str, units: Counter[str]) -> None:
    app = durable.Registry()

    @app.activity(name="hello")
    def hello(name: str) -> str:
        return f"hello {name}"

    @app.orchestrator(name="steps")
    def steps(ctx: durable.OrchestrationContext, count: int) -> Generator[Any, Any, int]:
        for n in range(count):
            yield ctx.call_activity(hello, str(n))
        return count

    @app.orchestrator(name="fan")
    def fan(ctx: durable.OrchestrationContext, count: int) -> Generator[Any, Any, int]:
        return len((yield ctx.task_all([ctx.call_activity(hello, str(n)) for n in range(count)])))

    with durable.connect(url) as client, durable.Worker(client, registry=app):
        client.start_orchestration(steps, 1).result(30)
        before, began = Counter(units), time.monotonic()
        threading.Event().wait(IDLE_SECONDS)
        idle = units - before
        a_second = {name: idle[name] / (time.monotonic() - began) for name in ("write", "read")}
        show("an idle worker, 16 partitions, an hour", {name: 3600 * a_second[name] for name in a_second})

        def cost(orchestrator: Any, count: int, times: int) -> dict[str, float]:
            before, began = Counter(units), time.monotonic()
            for _ in range(times):
                client.start_orchestration(orchestrator, count).result(60)
            took = time.monotonic() - began
            spent = units - before
            return {name: (spent[name] - took * a_second[name]) / times for name in ("write", "read")}

        three, many = cost(steps, 3, 20), cost(steps, 53, 3)
        show("an orchestration of three activities", three)
        show("each further activity, one after another", {name: (many[name] - three[name]) / 50 for name in three})
        fanned = cost(fan, 53, 3)
        show("each further activity, side by side", {name: (fanned[name] - three[name]) / 50 for name in three})


def show(what: str, units: dict[str, float]) -> None:
    print(f"| {what} | {units['write']:,.1f} | {units['read']:,.1f} |", flush=True)


if __name__ == "__main__":
    main()
