"""Orchestrations on a DynamoDB whose network is cut again and again, also between a commit and its answer."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Any
from uuid import uuid4

import pytest

import durable
from tests.servers.dynamodb_server import DynamoServer
from tests.servers.proxy import Proxy
from tests.waiting import SOON

CUT_SECONDS = 0.3


@pytest.fixture
def proxy(dynamodb_server: DynamoServer) -> Iterator[Proxy]:
    proxy = Proxy(dynamodb_server.port)
    yield proxy
    proxy.close()


def test_each_step_is_recorded_once_over_a_network_that_is_cut(dynamodb_server: DynamoServer, proxy: Proxy) -> None:
    registry = durable.Registry()
    cuts = 0

    def cut(answered: int) -> None:
        nonlocal cuts
        cuts += 1
        proxy.answer_bytes(answered)
        proxy.cut()
        threading.Timer(CUT_SECONDS, proxy.answer_bytes, [None]).start()

    @registry.activity(name="step")
    def step(number: int) -> int:
        if number % 4 == 1:
            cut((0, 700)[number % 8 == 1])
        return number + 1

    @registry.orchestrator(name="steps")
    def steps(ctx: durable.OrchestrationContext, number: int) -> Generator[Any, Any, int]:
        for _ in range(4):
            number = yield ctx.call_activity(step, number)
        return number

    workspace = uuid4().hex[:8]
    with (
        durable.connect(dynamodb_server.url("&partitions=2"), workspace=workspace) as client,
        durable.connect(dynamodb_server.url("&timeout=1", port=proxy.port), workspace=workspace) as through,
        durable.Worker(through, registry=registry),
    ):
        handles = client.start_many("steps", [4 * n for n in range(6)])
        assert [handle.result(SOON) for handle in handles] == [4 * n + 4 for n in range(6)]
        for handle in handles:
            types = [event.type for event in client.history(handle.instance_id)]
            assert [types.count(kind) for kind in ("TaskScheduled", "TaskCompleted")] == [4, 4]
        assert cuts >= 6
