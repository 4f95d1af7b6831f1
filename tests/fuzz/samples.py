"""A small workspace that has lived a little: what it has stored and sent are the good inputs of most parsers."""

from __future__ import annotations

import logging
from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any, Final

import durable
from durable import actions, conditions
from durable.app.archive import Archive, archive_of
from durable.engine.instance import Env, Invocation
from durable.model.history import Raw
from durable.model.limits import Limits
from durable.model.names import TRIGGERS
from durable.model.status import Summary
from durable.ports import Record, Store, Want
from durable.replay.guard import Watch
from durable.testing import Environment

NOW: Final = datetime(2026, 6, 1, tzinfo=timezone.utc)
SHOP: Final = durable.Registry()
INVOCATION: Final = Invocation(
    "order-7", "0" * 31 + "1", 3, 1, "charge", Raw(b'["book",1]'), "0" * 31 + "1/3/1", 2.5, 1.0, "heavy", "order"
)


@SHOP.activity(retry=durable.RetryPolicy(2, first_interval=1))
def charge(item: str) -> str:
    if item == "lost":
        raise ConnectionError("no line") from KeyError("cable")
    return f"{item} charged"


@SHOP.orchestrator(version="2", tags={"team": "shop"})
def order(ctx: durable.OrchestrationContext, item: str, rounds: int) -> Generator[Any, Any, Any]:
    receipt = yield ctx.call_activity(charge, item)
    if ctx.patched("fee") and rounds:
        ctx.continue_as_new(item, rounds - 1)
        return None
    ctx.set_custom_status({"receipt": receipt})
    late = ctx.create_timer(timedelta(days=1))
    yield ctx.task_any([late, ctx.wait_for_external_event("hurry", timeout=3600)])
    late.cancel()
    sent = yield ctx.call_sub_orchestrator(parcel, item, instance_id=f"{ctx.instance_id}-parcel")
    ctx.send_event("nobody", "hello", 1)
    stock = ctx.wait_for_cloudevent(type="shop.stock", subject=item)
    decision = yield ctx.task_any([stock, ctx.wait_for_external_event("decision")])
    return [receipt, sent, decision.result()]


@SHOP.orchestrator
def parcel(ctx: durable.OrchestrationContext, item: str) -> str:
    return f"{item} sent"


@SHOP.condition
def dear(context: Any, event: durable.CloudEvent) -> bool:
    context["seen"] = context.get("seen", 0) + 1
    return bool(context["seen"] > 1)


@SHOP.action
def chain(context: Any, event: durable.CloudEvent) -> None:
    context.do(actions.publish(cloudevent("chained", "c-1")))


def cloudevent(kind: str = "shop.sold", id: str = "e-1", data: Any = None) -> durable.CloudEvent:
    attributes = {"id": id, "source": "/shop", "type": kind, "subject": "book", "specversion": "1.0", "time": NOW}
    return durable.CloudEvent(attributes, {"price": 12, "title": "ü"} if data is None else data)


def env() -> Env:
    """A worker's part of a step."""
    numbers = iter(range(10**9))
    return Env("me", 60.0, lambda: f"{next(numbers):032x}", 1, Limits(), Watch())


class Lived:
    """archives: of every instance but the triggers, the records of which are `records`."""

    def __init__(self) -> None:
        with Environment(registry=SHOP) as world:
            client, store = world.client, world.client.backend.store
            self._ask_for_triggers(client)
            self._live(client, world)
            self.archives: list[Archive] = [
                archive_of(store, status.instance_id) for status in client.list_orchestrations()
            ]
            self.triggers: Record = _loaded(store, TRIGGERS)
            self.records: list[Record] = [_loaded(store, a.summary.instance_id) for a in self.archives]
            self.summaries: list[Summary] = [self.triggers.summary, *(record.summary for record in self.records)]

    def _ask_for_triggers(self, client: durable.Client) -> None:
        sold = durable.EventPattern(type="shop.*", subject="book")
        add = client.add_trigger
        add("joined", on=sold, condition=conditions.join(3), action=actions.start_orchestration(parcel))
        add(
            "once", on=sold, condition=conditions.any(conditions.counter(2), dear), action=actions.call_activity(charge)
        )
        add("dear", on=[sold], condition=conditions.expression("data.price > `10`"), action=chain, transient=False)
        add(
            "raises",
            on=durable.EventPattern(source="/shop"),
            action=actions.raise_event("hurry", instance_id="order-2"),
        )
        add("later", on=durable.EventPattern(), action=actions.publish(cloudevent("later"), delay=60), transient=False)
        client.intercept_trigger("once", actions.delete_trigger("joined"))
        client.keep_unmatched_events(True)

    def _live(self, client: durable.Client, world: Environment) -> None:
        client.start_orchestration(order, "book", 1, instance_id="order-1")
        client.start_orchestration(order, "lost", 0, instance_id="order-2")
        client.start_orchestration(order, "pen", 0, instance_id="order-3", start_at=timedelta(days=9))
        client.start_orchestration("nobody", {"a": [1, None]}, instance_id="order-4", tags={"a": "b"})
        client.publish(cloudevent())
        client.publish(cloudevent(id="e-2"))
        client.publish(cloudevent("never", "e-3"), delay=3600)
        world.advance(5)
        client.raise_event("order-1", "hurry", {"at": "once"})
        world.advance(5)
        client.start_orchestration(parcel, "cup", instance_id="order-5")
        world.advance(1)
        client.suspend("order-4")
        client.raise_event("order-4", "go", {"é": "\u2028"})
        client.raise_event("order-3", "hurry")


def _loaded(store: Store, instance_id: str) -> Record:
    [record] = store.load([Want(instance_id)])
    assert record is not None
    return record


@cache
def lived() -> Lived:
    logging.disable(logging.CRITICAL)  # some of it fails, on purpose
    try:
        return Lived()
    finally:
        logging.disable(logging.NOTSET)
