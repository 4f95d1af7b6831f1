"""The public contracts on DynamoDB, and its own laws: refusals for the moment, lost answers, turns in pieces."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import msgspec
import pytest

import durable
from durable.backends.dynamodb_backend import open_dynamodb
from durable.backends.memory import MemoryStore
from durable.model.errors import StoreError
from durable.ports import (
    Append,
    Backend,
    Beat,
    Delivered,
    ExecutionKey,
    Fact,
    Lease,
    Outcome,
    Purged,
    Query,
    RowKey,
    Signals,
    Store,
    Want,
)
from durable.testing import SignalsContract, StoreContract
from durable.testing.store_machine import check_store
from durable.testing.store_samples import ended, events, fact, keys, loaded, turn, work
from tests.servers.dynamodb_faults import FaultyWay
from tests.servers.dynamodb_place import Opener
from tests.servers.dynamodb_server import REGION, DynamoServer
from tests.servers.proxy import Proxy
from tests.servers.redis_place import spread
from tests.waiting import SOON, until

COMMITTED, CONFLICT, UNKNOWN = Outcome.COMMITTED, Outcome.CONFLICT, Outcome.UNKNOWN


class TestDynamo(StoreContract, SignalsContract):
    @pytest.fixture(autouse=True)
    def _opener(self, open_table: Opener) -> None:
        self.open_table = open_table

    # A second for hundred requests is what the test server takes: large sizes are left to the slow tests.

    @pytest.mark.parametrize("size", [1, 30, *(pytest.param(size, marks=pytest.mark.slow) for size in (400, 1_300))])
    def test_batches_of_any_size(self, store: Store, size: int) -> None:
        super().test_batches_of_any_size(store, size)

    @pytest.mark.slow
    def test_a_turn_with_many_rows(self, store: Store) -> None:
        super().test_a_turn_with_many_rows(store)

    @pytest.mark.slow
    def test_the_ids_of_a_thousand_facts_are_remembered(self, store: Store) -> None:
        super().test_the_ids_of_a_thousand_facts_are_remembered(store)

    def open_store(self) -> Store:
        self.backend = self.open_table("&partitions=1")
        return self.backend.store

    def reopen_store(self, store: Store) -> Store:
        self.backend.close()
        return self.open_store()

    def open_signals(self) -> Signals:
        return self.open_table().signals


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_dynamodb_is_the_reference(open_table: Opener, examples: int) -> None:
    check_store(lambda: open_table("&partitions=1", fresh=True).store, examples)


# Refusals for the moment, and answers that are lost: no test server gives them by itself.


@pytest.fixture
def way(dynamodb_server: DynamoServer) -> Iterator[FaultyWay]:
    way = FaultyWay(dynamodb_server.port)
    yield way
    way.close()


@pytest.fixture
def store(open_table: Opener, way: FaultyWay) -> Store:
    """Behind `way`."""
    return open_table("&partitions=1", port=way.port).store


@pytest.fixture
def hurried(open_table: Opener, way: FaultyWay) -> Store:
    """Likewise, and soon out of patience: for tests of that alone, since a busy machine tries it too."""
    return open_table("&partitions=1&timeout=0.4", port=way.port).store


@pytest.fixture
def direct(open_table: Opener) -> Store:
    """The same workspace, reached without faults."""
    return open_table("&partitions=1").store


CANCELLED = "TransactionCanceledException"


@pytest.mark.parametrize(
    ("code", "reasons"),
    [
        (CANCELLED, ["TransactionConflict", "None", "None", "None"]),
        (CANCELLED, ["None", "ThrottlingError", "TransactionConflict", "None"]),
        (CANCELLED, ["ProvisionedThroughputExceeded", "None", "None", "None"]),
        ("ProvisionedThroughputExceededException", []),
        ("ThrottlingException", []),
        ("TransactionInProgressException", []),
        ("InternalServerError", []),
    ],
)
def test_a_transaction_refused_for_the_moment_is_sent_again(
    store: Store, way: FaultyWay, code: str, reasons: list[str]
) -> None:
    way.refuse("TransactWriteItems", code, *reasons, times=3)
    commit = turn("a", 0, events("a", 0), put=[work("k")])
    assert store.commit([commit]) == [COMMITTED]
    assert way.asked["TransactWriteItems"] == 4
    record = loaded(store, "a")
    assert (record.version, record.commit_id, record.history) == (1, commit.id, (b'[1,"e"]',))


def test_a_reason_that_lasts_is_an_error_that_names_it(store: Store, way: FaultyWay) -> None:
    way.refuse("TransactWriteItems", CANCELLED, "None", "TransactionConflict", "ItemCollectionSizeLimitExceeded")
    with pytest.raises(StoreError, match=r"DynamoDB table durable in .*ItemCollectionSizeLimitExceeded"):
        store.commit([turn("a", 0, events("a", 0))])
    assert way.asked["TransactWriteItems"] == 1
    assert store.load([Want("a")]) == [None]


def test_patience_has_an_end_and_nothing_was_written(hurried: Store, way: FaultyWay) -> None:
    way.refuse("TransactWriteItems", CANCELLED, "TransactionConflict", "None", "None", times=9_999)
    with pytest.raises(StoreError, match=r"throttled or contended .* nothing was done; try again later"):
        hurried.commit([turn("a", 0, events("a", 0))])
    way.heal()
    assert hurried.load([Want("a")]) == [None]
    way.refuse("TransactWriteItems", CANCELLED, "TransactionConflict", "None", "None", times=9_999)
    begun = hurried.begin([turn("a", 0)])
    with pytest.raises(StoreError, match="contended"):
        begun()


@pytest.mark.parametrize("code", ["ThrottlingException", "TransactionConflictException", "InternalServerError"])
def test_every_verb_is_asked_again(store: Store, way: FaultyWay, code: str) -> None:
    store.commit([turn("a", 0, events("a", 0), put=[work("k"), work("l")])])
    verbs: list[tuple[str, Callable[[], object], object]] = [
        ("PutItem", lambda: store.deliver([fact("a", "f")]), [Delivered.NEW]),
        ("UpdateItem", lambda: store.lease([Lease(0, "k", "", 0, 3.0, "me")]), [True]),
        ("DeleteItem", lambda: store.lease([Lease(0, "l", "", 0, None)]), [True]),
        ("Query", lambda: [row.key for row in store.due(0, "default", 9.0, 9).items][1:], ["k"]),
        ("GetItem", lambda: [s and s.instance_id for s in store.summaries(["a"])], ["a"]),
        ("BatchGetItem", lambda: [s and s.instance_id for s in store.summaries(["a", "b"])], ["a", None]),
    ]
    for operation, verb, answer in verbs:
        way.refuse(operation, code, times=2)
        before = way.asked[operation]
        assert verb() == answer, operation
        assert way.asked[operation] >= before + 3, operation


def test_an_answer_that_is_lost_is_asked_for_again(store: Store, way: FaultyWay, direct: Store) -> None:
    commit = turn("a", 0, events("a", 0), put=[work("k"), work("l")])
    way.lose("TransactWriteItems")
    assert store.commit([commit]) == [COMMITTED]
    assert loaded(direct, "a").version == 1
    way.lose("PutItem")
    assert store.deliver([fact("a", "f")]) == [Delivered.NEW]
    assert store.deliver([fact("a", "f")]) == [Delivered.DUPLICATE]
    way.lose("UpdateItem")
    assert store.lease([Lease(0, "k", "", 0, 3.0, "me")]) == [True]
    way.lose("DeleteItem")
    assert store.lease([Lease(0, "l", "", 0, None)]) == [True]
    [fact_row] = loaded(store, "a").inbox
    way.lose("UpdateItem")
    assert store.lease([Lease(0, fact_row.key, "", 0, None)]) == [True]
    assert [(row.key, row.attempt) for row in direct.due(0, "default", 99.0, 9).items] == [("k", 1)]
    assert store.deliver([fact("a", "f")]) == [Delivered.DUPLICATE]
    way.lose("TransactWriteItems")
    parked = fact("b", "f")._replace(park=True)
    assert store.deliver([parked]) == [Delivered.PARKED]
    store.commit([ended("a", 1)])
    way.lose("TransactWriteItems")
    assert store.purge([ExecutionKey("a", "x/a")]) == [Purged.GONE]


@pytest.mark.parametrize("heard", [0.0, 0.5])
def test_an_answer_that_is_cut_off_says_nothing(store: Store, way: FaultyWay, heard: float) -> None:
    way.cut_off("TransactWriteItems", heard)
    assert store.commit([turn("a", 0, events("a", 0), put=[work("k", due_at=3.0)])]) == [COMMITTED]
    way.cut_off("GetItem", heard)
    assert loaded(store, "a").version == 1
    way.cut_off("Query", heard)
    assert keys(store) == ["k"]
    way.cut_off("PutItem", heard)
    assert store.deliver([fact("a", "f")]) == [Delivered.NEW]
    for operation in ("GetItem", "BatchGetItem", "Query"):
        way.cut_off(operation, heard)
    assert [row.body for row in loaded(store, "a").inbox] == [b'"f"']


def test_a_commit_that_is_never_answered_is_settled_by_reading(hurried: Store, way: FaultyWay, direct: Store) -> None:
    way.lose("TransactWriteItems", times=9_999)
    commit = turn("a", 0, events("a", 0))
    assert hurried.commit([commit]) == [COMMITTED]
    assert loaded(direct, "a").commit_id == commit.id
    way.lose("GetItem", times=9_999)
    again = turn("a", 1, events("a", 1))
    assert hurried.commit([again]) == [UNKNOWN]
    way.heal()
    assert loaded(direct, "a").commit_id == again.id
    assert hurried.commit([again]) == [COMMITTED]  # sent again, applied once
    assert loaded(direct, "a").version == 2
    assert direct.commit([turn("a", 2)]) == [COMMITTED]
    assert hurried.commit([again]) == [CONFLICT]


def test_a_commit_that_another_has_overtaken_is_a_conflict(hurried: Store, way: FaultyWay, direct: Store) -> None:
    direct.commit([turn("a", 0)])
    way.refuse("TransactWriteItems", "InternalServerError", times=9_999)  # it may have been done: it says no more
    assert hurried.commit([turn("a", 1)]) == [UNKNOWN]
    direct.commit([turn("a", 1)])
    assert hurried.commit([turn("a", 1)]) == [CONFLICT]


LARGE = b'"' + b"x" * 10**6 + b'"'  # too large for its item


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_what_a_gateway_answers_leaves_it_open_what_was_done(
    hurried: Store, way: FaultyWay, direct: Store, status: int
) -> None:
    way.answer_as_gateway("TransactWriteItems", status, times=9_999)
    commit = turn("a", 0, events("a", 0), put=[msgspec.structs.replace(work("k"), body=LARGE)], output=LARGE)
    assert hurried.commit([commit]) == [COMMITTED]
    assert loaded(direct, "a").commit_id == commit.id
    assert bytes(loaded(direct, "a").summary.output) == LARGE
    assert [row and row.body for row in direct.rows([RowKey(0, "k")])] == [LARGE]


def test_a_refusal_says_nothing_about_an_attempt_before_it(store: Store, way: FaultyWay, direct: Store) -> None:
    way.lose("TransactWriteItems")
    way.refuse("TransactWriteItems", "AccessDeniedException")
    commit = turn("a", 0, events("a", 0), output=LARGE)
    assert store.commit([commit]) == [COMMITTED]
    assert loaded(direct, "a").commit_id == commit.id
    assert bytes(loaded(direct, "a").summary.output) == LARGE


# Turns that do not fit into one transaction.


def test_a_turn_of_many_rows_and_large_events_is_one_turn(store: Store, way: FaultyWay) -> None:
    store.commit([turn("a", 0, events("a", 0), put=[work(f"old{n:03}") for n in range(120)])])
    large = b"[" + b"1," * 3_000_000 + b"1]"
    rows = [work(f"new{n:03}") for n in range(130)]
    dropped = [f"old{n:03}" for n in range(1, 120)]
    assert store.commit([turn("a", 1, events("a", 1, large), put=rows, drop=dropped)]) == [COMMITTED]
    record = loaded(store, "a")
    assert (record.version, record.history) == (2, (b'[1,"e"]', large))
    assert keys(store) == [*(row.key for row in rows), "old000"]


def test_a_turn_in_pieces_conflicts_as_a_whole(store: Store) -> None:
    store.commit([turn("a", 0, events("a", 0))])
    late = turn("a", 0, events("a", 0), put=[work(f"k{n:03}") for n in range(200)])
    assert store.commit([late]) == [CONFLICT]
    assert keys(store) == []
    assert loaded(store, "a").history == (b'[1,"e"]',)


WAYS_ON: dict[str, Callable[[Store], object]] = {
    "load": lambda store: store.load([Want("a")]),
    "the next turn": lambda store: store.commit([turn("a", 2)]),
    "a sweep": lambda store: store.due(0, "default", 1e12, 1_000),
    "the same turn": lambda store: None,
}


@pytest.mark.parametrize("way_on", WAYS_ON)
@pytest.mark.parametrize("written", [0, 2])
def test_a_turn_whose_writer_dies_half_way_is_finished_by_whoever_meets_it(
    store: Store, way: FaultyWay, direct: Store, way_on: str, written: int
) -> None:
    store.commit([turn("a", 0, events("a", 0), put=[work("old")])])
    rows = [work(f"k{n:03}") for n in range(250)]
    commit = turn("a", 1, events("a", 1, b"[2]"), put=rows, drop=["old"])
    way.refuse("TransactWriteItems", "AccessDeniedException", after=1 + written, times=9_999)
    assert store.commit([commit]) == [UNKNOWN]
    if way_on == "the same turn":
        assert direct.commit([commit]) == [COMMITTED]
    WAYS_ON[way_on](direct)
    [last] = direct.rows([RowKey(0, "k249")])  # which goes on with nothing
    assert last is not None
    record = loaded(direct, "a")
    assert record.history == (b'[1,"e"]', b"[2]")
    assert keys(direct) == [row.key for row in rows]
    way.heal()
    assert store.commit([commit]) == ([CONFLICT] if way_on == "the next turn" else [COMMITTED])
    assert keys(direct) == [row.key for row in rows]


@pytest.mark.parametrize("written", [0, 2])
def test_a_turn_in_pieces_forgets_as_another_does(store: Store, way: FaultyWay, direct: Store, written: int) -> None:
    store.commit([turn("a", 0, events("a", 0))])
    rows = [work(f"k{n:03}") for n in range(250)]
    commit = turn("a", 1, events("a", 1), Append("y", 0, b"[9]"), put=rows, execution="y", forgets=True)
    way.refuse("TransactWriteItems", "AccessDeniedException", after=1 + written, times=9_999)
    assert store.commit([commit]) == [UNKNOWN]
    assert loaded(direct, "a").history == (b"[9]",)
    assert direct.commit([commit]) == [COMMITTED]
    while direct.clear(0, 100):
        pass
    assert direct.history(ExecutionKey("a", "x/a")).items == []
    assert direct.former(["a"]) == [[]]
    assert loaded(direct, "a").history == (b"[9]",)
    assert keys(direct) == [row.key for row in rows]


def test_a_piece_that_was_written_unheard_is_not_written_again(store: Store, way: FaultyWay, direct: Store) -> None:
    way.lose("TransactWriteItems", after=1)
    way.refuse("TransactWriteItems", "AccessDeniedException", times=9_999)
    assert store.commit([turn("a", 0, events("a", 0), put=[work(f"k{n:03}") for n in range(250)])]) == [UNKNOWN]
    assert direct.lease([Lease(0, "k000", "", 0, None)]) == [True]
    direct.load([Want("a")])
    assert keys(direct) == [f"k{n:03}" for n in range(1, 250)]


def test_two_who_finish_the_same_turn_write_each_piece_once(store: Store, way: FaultyWay, open_table: Opener) -> None:
    others = [open_table("&partitions=1").store for _ in range(4)]
    way.refuse("TransactWriteItems", "AccessDeniedException", after=1, times=9_999)
    store.commit([turn("a", 0, events("a", 0), put=[work(f"k{n:03}") for n in range(600)])])
    done = [threading.Thread(target=other.load, args=([Want("a")],)) for other in others]
    for thread in done:
        thread.start()
    # What is written already may be worked on before all is.
    mine = others[0].lease([Lease(0, "k000", "", 0, None)]) == [True]
    for thread in done:
        thread.join(60)
    assert keys(others[0]) == [f"k{n:03}" for n in range(1 if mine else 0, 600)]


# Many partitions.


def test_a_listing_over_partitions_is_the_reference(open_table: Opener) -> None:
    store, reference = open_table().store, MemoryStore(16)
    chance = random.Random(7)
    commits = [
        spread(turn(f"i{n:03}", 0, created=chance.randrange(20), name=f"n{n % 9}", tags={"t": str(n % 3)}))
        for n in range(80)
    ]
    for one in (store, reference):
        assert one.commit(commits) == [COMMITTED] * 80
    for query in (
        Query(limit=7),
        Query(limit=1_000),
        Query(limit=5, name="n7"),
        Query(limit=50, tags={"t": "1"}, created_after=commits[0].summary.created_at.timestamp()),
    ):
        assert pages(store, query) == pages(reference, query)


def pages(store: Store, query: Query) -> list[list[str]]:
    found: list[list[str]] = []
    while True:
        page = store.find(query)
        found.append([summary.instance_id for summary in page.items])
        if page.next is None:
            return found
        query = msgspec.structs.replace(query, cursor=page.next)


def test_workspaces_see_nothing_of_each_other(open_table: Opener, dynamodb_server: DynamoServer, prefix: str) -> None:
    after: list[Backend] = []
    try:
        for n, workspace in enumerate([prefix, prefix + "/i", prefix + "%2F", prefix + " é😀"]):
            after.append(backend := open_dynamodb(dynamodb_server.url("&partitions=1"), workspace))
            assert backend.store.find(Query()).items == []
            assert backend.membership.beat(Beat(f"w{n}")) == [Beat(f"w{n}")]
            backend.store.commit([turn("i", 0, events("i", 0), put=[work(f"k{n}", "i")], name=f"n{n}")])
            assert [summary.name for summary in backend.store.find(Query()).items] == [f"n{n}"]
            assert keys(backend.store) == [f"k{n}"]
    finally:
        for backend in after:
            backend.close()


# What expires, and what is left.


def test_what_purges_and_facts_leave_behind_expires(
    open_table: Opener, dynamodb_server: DynamoServer, prefix: str
) -> None:
    import boto3  # type: ignore[import-untyped]  # boto3 has no py.typed

    store = open_table("&partitions=1").store
    store.commit([turn("a", 0, events("a", 0), put=[work("wake/x", kind="inbox")], output=b'"' + b"x" * 10**6 + b'"')])
    store.deliver([fact("a", "f"), Fact("a", 0, "large", b"x" * 10**6, 1.0), fact("a", "never taken")])
    store.commit([turn("a", 1, drop=[row.key for row in loaded(store, "a").inbox[:3]])])
    store.commit([ended("a", 2)])
    store.purge([ExecutionKey("a", "x/a")])
    while store.clear(0, 100):
        pass
    client = boto3.client("dynamodb", region_name=REGION, endpoint_url=dynamodb_server.endpoint)
    left = [
        item
        for page in client.get_paginator("scan").paginate(TableName="durable")
        for item in page["Items"]
        if item["pk"]["S"].startswith(prefix)
    ]
    lasting = [item["pk"]["S"] for item in left if "expires" not in item]
    assert lasting == [f"{prefix}/s"]
    assert len(left) == 5  # the workspace, the instance's id, the ids of three facts
    day = 24 * 3600
    ages = sorted(round((int(item["expires"]["N"]) - time.time()) / day) for item in left if "expires" in item)
    assert ages == [30, 30, 30, 60]
    ttl = client.describe_time_to_live(TableName="durable")["TimeToLiveDescription"]
    assert (ttl["AttributeName"], ttl["TimeToLiveStatus"]) == ("expires", "ENABLED")


def test_many_facts_that_nobody_took_go_with_their_instance(open_table: Opener) -> None:
    store = open_table("&partitions=1").store
    store.commit([turn("a", 0, events("a", 0))])
    store.deliver([fact("a", f"f{n}") for n in range(130)])
    store.commit([ended("a", 1)])
    assert store.purge([ExecutionKey("a", "x/a")]) == [Purged.GONE]
    assert keys(store) == []
    assert store.commit([turn("a", 0, Append("y", 0, b"[9]"), execution="y")]) == [COMMITTED]
    assert loaded(store, "a").inbox == ()


def test_a_purge_that_died_half_way_is_finished_before_another_life_begins(
    store: Store, way: FaultyWay, direct: Store
) -> None:
    store.commit([turn("a", 0, events("a", 0))])
    store.deliver([fact("a", f"f{n}") for n in range(130)])
    store.commit([ended("a", 1)])
    way.refuse("TransactWriteItems", "AccessDeniedException", after=1, times=9_999)
    with pytest.raises(StoreError, match="refuses what this user asked"):
        store.purge([ExecutionKey("a", "x/a")])
    assert direct.load([Want("a")]) == [None]
    start = turn("a", 0, Append("y", 0, b"[9]"), execution="y", put=[work("wake/y", kind="inbox")])
    assert direct.commit([start]) == [COMMITTED]
    assert [row.key for row in loaded(direct, "a").inbox] == ["wake/y"]


# Pieces beside their items that somebody has lost.


def lose_pieces(server: DynamoServer, prefix: str) -> None:
    """Half of each large value of a workspace."""
    import boto3

    client = boto3.client("dynamodb", region_name=REGION, endpoint_url=server.endpoint)
    for page in client.get_paginator("scan").paginate(TableName="durable"):
        for item in page["Items"]:
            if item["pk"]["S"].startswith(f"{prefix}/o/") and item["sk"]["S"] == "000001":
                client.delete_item(TableName="durable", Key={"pk": item["pk"], "sk": item["sk"]})


def test_what_has_lost_its_summary_is_blocked_and_the_others_go_on(
    open_table: Opener, dynamodb_server: DynamoServer, prefix: str
) -> None:
    registry = durable.Registry()

    @registry.orchestrator(name="flow")
    def flow(ctx: durable.OrchestrationContext) -> Generator[Any, Any, Any]:
        ctx.set_custom_status("x" * 10**6)
        return (yield ctx.wait_for_external_event("go"))

    url = dynamodb_server.url("&partitions=1")
    with durable.connect(url, workspace=prefix, limits=durable.Limits(custom_status_bytes=2 * 10**6)) as client:
        with durable.Worker(client, registry=registry, shutdown_grace=0):
            client.start_orchestration("flow", instance_id="done").raise_event("go")
            client.wait("done", SOON)
            client.start_orchestration("flow", instance_id="damaged")
            until(lambda: client.handle("damaged").status().custom_status)
        lose_pieces(dynamodb_server, prefix)
        client.start_orchestration("flow", instance_id="sound").raise_event("go", 1)
        client.handle("damaged").raise_event("go", 1)
        with durable.Worker(client, registry=registry, shutdown_grace=0):
            with pytest.raises(durable.OrchestrationBlockedError, match="pieces of its summary are missing"):
                client.handle("damaged").result(SOON, on_blocked="raise")
            assert client.handle("sound").result(SOON) == 1
            assert {found.instance_id for found in client.list_orchestrations()} == {"done", "damaged", "sound"}
            client.terminate("damaged", "it is damaged")
            assert client.wait("damaged", SOON).runtime_status is durable.RuntimeStatus.TERMINATED
            with pytest.raises(durable.OrchestrationFailedError, match="pieces of its summary are missing"):
                client.handle("done").result(SOON)
        assert client.purge("damaged") == client.purge("done") == 1


def test_a_row_that_has_lost_its_body_is_passed_over_and_said_once(
    open_table: Opener, dynamodb_server: DynamoServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_table("&partitions=1").store
    large = msgspec.structs.replace(work("large"), body=LARGE)
    store.commit([turn("a", 0, events("a", 0), put=[large, work("small")])])
    lose_pieces(dynamodb_server, prefix)
    for _ in range(2):
        assert keys(store) == ["small"]
        assert store.rows([RowKey(0, "large")]) == [None]
    [said] = [record.getMessage() for record in caplog.records if record.name == "durable.dynamodb"]
    assert "'large'" in said


# Networks that are cut.


def test_other_verbs_without_an_answer_raise(open_table: Opener, dynamodb_server: DynamoServer) -> None:
    proxy = Proxy(dynamodb_server.port)
    try:
        backend = open_table("&partitions=1&timeout=0.2", port=proxy.port)
        store = backend.store
        store.commit([turn("a", 0, events("a", 0), put=[work("k")])])
        verbs: list[Callable[[], object]] = [
            lambda: store.load([Want("a")]),
            lambda: store.deliver([fact("a", "f")]),
            lambda: store.lease([Lease(0, "k", "", 0, 1.0)]),
            lambda: store.due(0, "default", 1.0, 1),
            lambda: store.rows([RowKey(0, "k")]),
            lambda: store.find(Query()),
            lambda: store.purge([ExecutionKey("a", "x/a")]),
            lambda: backend.membership.beat(Beat("w")),
        ]
        for verb in verbs:
            proxy.answer_bytes(0)
            with pytest.raises(StoreError, match=r"DynamoDB table durable in .* did not answer"):
                verb()
            proxy.answer_bytes(None)
            verb()
        assert store.deliver([fact("a", "f")]) == [Delivered.DUPLICATE]
    finally:
        proxy.close()


def test_a_closed_store_says_so(open_table: Opener) -> None:
    backend = open_table()
    backend.close()
    backend.close()
    with pytest.raises(StoreError, match="closed; open it again"):
        backend.store.find(Query())


def test_a_store_that_is_closed_while_others_ask_says_so(open_table: Opener, dynamodb_server: DynamoServer) -> None:
    """More at once than there are threads, so that some have not begun."""
    proxy = Proxy(dynamodb_server.port)
    try:
        backend = open_table("&partitions=1&timeout=1", port=proxy.port)
        proxy.be_silent()
        begun = backend.store.begin([turn(f"i{n}", 0) for n in range(60)])
        backend.close()
        proxy.refuse()
        assert begun() == [UNKNOWN] * 60
        with pytest.raises(StoreError, match="closed; open it again"):
            backend.store.begin([turn("a", 0), turn("b", 0)])
    finally:
        proxy.close()
