"""A, once more: the same messages in a queue or a stream of somebody else's, from which triggers take events.

What is no CloudEvent is a dead letter of the workspace, once; the others are events that fit no trigger. Between them
come events that do, and each counts once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple
from uuid import uuid4

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest
import redis

import durable
from tests.hostile.messages import HOSTILE, Hostile, Table
from tests.waiting import SOON

BY_ITSELF: Final = [one for one in HOSTILE if not one.case.startswith("case 7 ")]


def is_event(one: Hostile) -> bool:
    """By another reader of JSON than ours: a CloudEvent in structured mode, or with `ce-` headers a binary one."""
    if "ce_specversion" in one.properties.get("headers", {}):
        return True  # whatever its data are: they travel as base64
    if one.case.startswith("case 74 "):
        return False
    try:
        made = json.loads(one.body.decode())
        json.dumps(made, ensure_ascii=False).encode()  # no half characters
    except (ValueError, RecursionError):
        return False
    if not isinstance(made, dict) or made.get("specversion") != "1.0":
        return False
    return all(isinstance(made.get(name), str) and made[name] for name in ("id", "source", "type"))


def shown(body: bytes) -> str:
    """What is kept of one that is no event."""
    text = body[:4096].decode(errors="replace")
    return text + f" ... ({len(body):,} bytes)" if len(body) > 4096 else text


class Brought(NamedTuple):
    """What the worker made of it all. expected: dead letters, as shown. firings: of the trigger for healthy ones."""

    expected: Counter[str]
    letters: Counter[str]
    firings: int
    sent: list[Hostile]


def healthy(number: int) -> bytes:
    event = {"specversion": "1.0", "id": f"healthy {number}", "source": "/a", "type": "fits", "subject": "s"}
    return json.dumps(event).encode()


def distinct(one: Hostile, number: int) -> Hostile:
    """With an id of its own, where it has one: two events of one id count once (case 16)."""
    return one._replace(body=one.body.replace(b'"id": "1"', b'"id": "%d"' % number))


@pytest.fixture(scope="module", params=["rabbitmq", "stream"])
def brought(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brought]:
    workspace = uuid4().hex[:8]
    place = f"hostile-{workspace}"
    registry = durable.Registry()
    rabbit = request.param == "rabbitmq"
    with ExitStack() as after:
        client = after.enter_context(
            durable.connect(f"sqlite:///{tmp_path_factory.mktemp('a')}/store.db", workspace=workspace)
        )
        client.add_trigger("counts", on=durable.EventPattern("fits"), transient=False)
        if rabbit:
            url = request.getfixturevalue("rabbitmq_server").url()
            connection = pika.BlockingConnection(pika.URLParameters(url + "?heartbeat=0"))
            channel = connection.channel()
            channel.queue_declare(place, durable=True)  # a classic one, that counts no deliveries
            after.enter_context(pytest.MonkeyPatch.context()).setenv("HOSTILE_EVENTS", f"{url}?queue={place}")
            client.add_event_source("brings", "env:HOSTILE_EVENTS")
            after.callback(connection.close)
            after.callback(lambda: channel.queue_delete(place))

            def put(one: Hostile) -> None:
                form = Table if "table" in one.properties else pika.BasicProperties
                channel.basic_publish("", place, one.body, form(message_id="x", **one.properties))
        else:
            url = request.getfixturevalue("redis_server").url
            server = after.enter_context(redis.Redis.from_url(url))
            client.add_event_source("brings", f"{url}/0?stream={place}")
            after.callback(lambda: server.delete(place))

            def put(one: Hostile) -> None:
                server.xadd(place, {"event": one.body})

        after.enter_context(durable.Worker(client, registry=registry, shutdown_grace=0))
        sent = [distinct(one, n) for n, one in enumerate(HOSTILE) if rabbit or not one.properties]
        for number, one in enumerate(sent):
            put(one)
            put(Hostile("", healthy(number)))
        client.wait_for_trigger("counts", SOON, firings=len(sent))
        put(Hostile("", healthy(len(sent))))
        client.wait_for_trigger("counts", SOON, firings=len(sent) + 1)
        letters = Counter(str(letter.event) for letter in client.dead_letters())
        trigger = client.get_trigger("counts")
        assert trigger is not None
        yield Brought(Counter(shown(one.body) for one in sent if not is_event(one)), letters, trigger.firings, sent)


@pytest.mark.parametrize(
    "number", [n for n, one in enumerate(HOSTILE) if one in BY_ITSELF], ids=lambda n: HOSTILE[n].case
)
def test_it_is_a_dead_letter_once_or_an_event(brought: Brought, number: int) -> None:
    one = distinct(HOSTILE[number], number)
    if one in brought.sent:  # a stream has no properties
        assert brought.letters[shown(one.body)] == brought.expected[shown(one.body)]


def test_case_7_cut_anywhere_it_is_a_dead_letter_and_nothing_else_is(brought: Brought) -> None:
    assert brought.letters == brought.expected
    assert sum(brought.expected.values()) > 250


def test_events_between_them_count_once_each(brought: Brought) -> None:
    assert brought.firings == len(brought.sent) + 1
