"""The raw limit beside the rows with DynamoDB in run.py: bare boto3 that sends the same transactions to the same table.

It knows nothing of the product. Transactions are made before the clock starts, sent by as many threads as the product
has, which share one client, and their answers thrown away; nothing is read. A hello sequence is four transactions, for
its start and its first turn are one; where starts come one by one they are two. The conditions are sent too: they are
part of the layout.

    python tests/benchmarks/raw_dynamodb.py [--repeats 3] [--dir FOLDER]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from boto3.session import Session  # type: ignore[import-untyped]  # boto3 and botocore have no py.typed
from botocore.config import Config  # type: ignore[import-untyped]  # as above

if TYPE_CHECKING:
    from tests.benchmarks import raw_sqlite as raw
    from tests.benchmarks.raw_messages import PARTITIONS, Shape
else:
    import raw_sqlite as raw
    from raw_messages import PARTITIONS, Shape

THREADS: Final = 16
_WORKSPACE: Final = "raw"
_GROUP: Final = "default"
_HASH: Final = "0123456789abcdef"

Request = dict[str, Any]  # what transact_write_items is given


class Written(NamedTuple):
    """Seconds of all and of each round of requests; processor seconds that the server used; bytes of histories and
    summaries stored."""

    seconds: float
    each: list[float]
    used: float
    stored: int


# ---- what is sent


def _key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": f"{_WORKSPACE}/{pk}"}, "sk": {"S": sk}}


def _mark(at: float) -> str:
    """A time in as many digits as one that sorts."""
    return f"{int(at * 1e6):016x}"


def _update(table: str, version: int, transaction: raw.Transaction) -> dict[str, Any]:
    """The meta item: it decides."""
    [(instance, _, commit_id, execution, status, _, created_at, _, summary)] = transaction.instances
    [(_, start, _)] = transaction.history
    meta: dict[str, Any] = {
        "v": {"N": str(version)},
        "c": {"S": commit_id},
        "x": {"S": execution},
        "f": {"N": str(int(status == "COMPLETED"))},
        "g": {"S": _GROUP},
        "s": {"B": summary},
        "e": {"N": str(start)},
    }
    if version == 1:
        meta["j"] = {"S": _mark(created_at) + instance}
        condition = "attribute_not_exists(v) AND attribute_not_exists(z) AND NOT contains(q, :purged)"
        values: dict[str, Any] = {":purged": {"B": _HASH.encode()}}
    else:
        condition = "v = :expect AND x = :continues"
        values = {":expect": {"N": str(version - 1)}, ":continues": {"S": execution}}
    change = ", ".join(f"{name} = :{name}" for name in meta)
    return {
        "TableName": table,
        "Key": _key(f"i/{instance}", "m"),
        "UpdateExpression": f"SET {change} REMOVE {'o, expires' if version == 1 else 'o'}",
        "ConditionExpression": f"{condition} AND attribute_not_exists(w) AND attribute_not_exists(o)",
        "ExpressionAttributeValues": values | {f":{name}": value for name, value in meta.items()},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _commit(table: str, partition: int, version: int, transaction: raw.Transaction) -> Request:
    [(instance, _, _, _, _, _, created_at, _, _)] = transaction.instances
    rows = f"r/{partition}"
    mine = {
        "TableName": table,
        "ConditionExpression": "attribute_not_exists(o)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    actions: list[dict[str, Any]] = [{"Update": _update(table, version, transaction)}]
    for execution, start, events in transaction.history:
        item = {**_key(f"h/{execution}", f"{start:016}/0000"), "y": {"B": events}}
        actions.append({"Put": {"TableName": table, "Item": item}})
    if version == 1:
        item = {**_key(f"l/{partition}", _mark(created_at) + instance), "i": {"S": instance}}
        actions.append({"Put": {"TableName": table, "Item": item}})
    actions += ({"Delete": {**mine, "Key": _key(rows, key)}} for (key,) in transaction.drop)
    for key, kind, owner, _, due_at, holder, attempt, body in transaction.put:
        item = {
            **_key(rows, key),
            "k": {"S": kind},
            "i": {"S": owner},
            "g": {"S": _GROUP},
            "d": {"S": f"{_HASH}{_mark(due_at)}{key}"},
            "a": {"N": str(attempt)},
            "h": {"S": holder},
            "y": {"B": body},
        }
        if kind == "inbox":
            item["n"] = {"S": f"{instance}0{key}"}
        actions.append({"Put": {**mine, "Item": item}})
    return {"TransactItems": actions, "ClientRequestToken": os.urandom(16).hex()}


def _sequence(table: str, number: int, at_once: bool) -> list[Request]:
    """at_once: the start is one with the first turn."""
    transactions = raw.hello(apart=not at_once)
    return [_commit(table, number % PARTITIONS, version, one) for version, one in enumerate(transactions, 1)]


def rounds(table: str, shape: Shape, count: int) -> Iterator[Sequence[Request]]:
    """What is sent at once. many: each step of all. single: each start alone, then each step of a hundred."""
    size = {"many": raw.TURNS, "single": raw.AHEAD, "alone": 1}[shape]
    sequences = [_sequence(table, number, shape != "single") for number in range(count)]
    for first in range(0, count, size):
        starts, *turns = zip(*sequences[first : first + size], strict=True)
        yield from [starts] if shape == "many" else ([start] for start in starts)
        yield from turns


# ---- sending it


def write(url: str, shape: Shape, count: int, warm_up: int, used: Callable[[], float]) -> Written:
    """Send this to the table of a dynamodb:// URL; the warm-up is not timed. used: what the server has of the
    processors by now, in seconds."""
    client, table = _table(url)
    with closing(client), ThreadPoolExecutor(THREADS) as pool:

        def send(request: Request) -> None:
            client.transact_write_items(**request)

        def send_all(some: Sequence[Request]) -> None:
            if len(some) == 1:
                send(some[0])  # one alone needs no thread
            else:
                list(pool.map(send, some))

        for some in rounds(table, "many", warm_up):
            send_all(some)
        sent = list(rounds(table, shape, count))
        each = []
        before, begun = used(), time.perf_counter()
        last = begun
        for some in sent:
            send_all(some)
            now = time.perf_counter()
            each.append(now - last)
            last = now
        after = used()
    return Written(last - begun, each, after - before, stored_bytes(url, _WORKSPACE))


def _table(url: str) -> tuple[Any, str]:
    """A client, and the table's name."""
    parts = urlsplit(url)
    [endpoint] = parse_qs(parts.query)["endpoint"]
    config = Config(max_pool_connections=THREADS, retries={"total_max_attempts": 1, "mode": "standard"})
    client = Session().client("dynamodb", region_name=parts.netloc, endpoint_url=endpoint, config=config)
    return client, parts.path.removeprefix("/")


def stored_bytes(url: str, workspace: str) -> int:
    """Bytes of histories and summaries in a workspace of this layout."""
    client, table = _table(url)
    stored = 0
    with closing(client):
        for page in client.get_paginator("scan").paginate(TableName=table):
            for item in page["Items"]:
                pk = item["pk"]["S"]
                if pk.startswith((f"{workspace}/h/", f"{workspace}/i/")):
                    stored += sum(len(item[name]["B"]) for name in ("y", "s") if name in item)
    return stored


def main() -> None:
    if TYPE_CHECKING:
        from tests.benchmarks.places import Places, emulator_seconds
    else:
        from places import Places, emulator_seconds

    parser = argparse.ArgumentParser(description="what bare boto3 needs for the rows of run.py on the emulator")
    parser.add_argument("--repeats", type=int, default=3, help="each in a fresh server; the median is shown")
    parser.add_argument("--dir", default=".", help="where the servers have their folders (default: here)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder, Places(folder) as places:
        for shape, count in _CASES:
            took = []
            for _ in range(arguments.repeats):
                with places.place("dynamodb") as place:
                    took.append(write(place.store, shape, count, 200, partial(emulator_seconds, place)))
            seconds = median(written.seconds for written in took)
            inside = median(written.used / written.seconds for written in took)
            per_unit = f"{seconds / count * 1e3:8.3f} ms each, {count / seconds:9,.0f} a second, {inside:.0%} inside"
            print(f"{count:5,} {shape:8} {seconds:8.3f} s  {per_unit}", flush=True)


_CASES: Final[tuple[tuple[Shape, int], ...]] = (("many", 200), ("single", 200), ("alone", 100))


if __name__ == "__main__":
    main()
