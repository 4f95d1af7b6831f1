"""What people read, kept as files: every screen as it is at 80 columns, in tests/product/golden/.

After a change that is wanted: UPDATE_GOLDEN=1 python -m pytest tests/product/test_screens.py, then read the diff.
Times, durations, bars, process ids and the ids of children are put aside; the code is at /app/shop.py for everybody.
"""

from __future__ import annotations

import linecache
import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

import durable
from durable import CloudEvent, EventPattern, actions, conditions
from tests.product.command_line import Command
from tests.waiting import SOON, until

GOLDEN = Path(__file__).parent / "golden"

SHOP = """\
import time
from datetime import timedelta

import durable

app = durable.Registry()


@app.activity(retry=durable.RetryPolicy(max_attempts=3, first_interval=0.01))
def charge(card: str, amount: int) -> None:
    raise ConnectionError(f"card service is down: {card}")


@app.activity
def reserve(item: str) -> str:
    return f"{item} reserved"


@app.activity(timeout=0.05)
def label(item: str) -> None:
    time.sleep(0.2)


@app.activity(heartbeat_timeout=0.05)
def pack(ctx: durable.ActivityContext, item: str) -> None:
    ctx.heartbeat()
    time.sleep(0.4)


@app.activity(queue="gpu")
def render(item: str) -> None: ...


@app.action
def find(context: durable.TriggerContext, event: durable.CloudEvent) -> None:
    raise LookupError(f"nobody knows where {event.get_subject()} is: ask the carrier")


@app.orchestrator
def pay(ctx, card: str):
    yield ctx.call_activity(charge, card, 12)


@app.orchestrator
def order(ctx, item: str):
    yield ctx.call_activity(reserve, item)
    yield ctx.call_sub_orchestrator(pay, "visa", instance_id=f"{ctx.instance_id}-pay")


@app.orchestrator
def shop(ctx, item: str):
    yield ctx.call_sub_orchestrator(order, item, instance_id=f"{ctx.instance_id}-order")


@app.orchestrator
def reserves(ctx, item: str):
    ctx.set_custom_status({"step": 1})
    return (yield ctx.call_activity(reserve, item))


@app.orchestrator
def labels(ctx, item: str):
    yield ctx.call_activity(label, item)


@app.orchestrator
def packs(ctx, item: str):
    yield ctx.call_activity(pack, item)


@app.orchestrator
def misfit(ctx, item: str):
    yield ctx.call_activity("reserve", 7)


@app.orchestrator
def renders(ctx, item: str):
    yield ctx.call_activity(render, item)


@app.orchestrator
def approval(ctx, item: str):
    return (yield ctx.wait_for_external_event("go"))


@app.orchestrator
def late(ctx, item: str):
    yield ctx.wait_for_external_event("decision", timeout=0.01)


@app.orchestrator
def busy(ctx, item: str):
    reminder = ctx.create_timer(timedelta(days=3))
    child = ctx.call_sub_orchestrator(approval, item, instance_id="busy-approval")
    decision = ctx.wait_for_external_event("decision", timeout=timedelta(hours=2))
    yield ctx.task_all([reminder, child, decision, ctx.call_activity(reserve, item)])
"""
FILE = "/app/shop.py"
RUN = "shop reserves labels packs misfit late".split()
REST = "renders approval busy".split()


def code(source: str) -> durable.Registry:
    """The registry of a program at FILE; tracebacks show its lines as if it were there."""
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    module: dict[str, durable.Registry] = {"__name__": "shop"}  # type: ignore[dict-item]  # what exec takes
    exec(compile(source, FILE, "exec"), module)
    return module["app"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A store with one orchestration in each state, named after how it stands; a worker serves it all the time."""
    command = Command(tmp_path_factory.mktemp("screens"))
    with command.client() as client:
        with durable.Worker(client, registry=code(SHOP), shutdown_grace=0):
            client.add_trigger("lost", on=EventPattern("com.shop.lost", source="/carrier"), action="find")
            client.publish(event("com.shop.lost", "order-41"))
            for name in RUN:
                client.start_orchestration(name, "book", instance_id=name, tags={"of": "today"})
                client.wait(name, SOON)
            for name in REST:
                client.start_orchestration(name, "book", instance_id=name)
                client.wait(name, SOON, until="started")
            for name in ("blocked", "suspended", "cancelled"):
                client.start_orchestration("approval", "book", instance_id=name)
                client.wait(name, SOON, until="started")
            client.suspend("suspended", "stocktaking")
            client.cancel("cancelled", "out of stock")
            client.start_orchestration("nosuch", "book", instance_id="nosuch")
            client.start_orchestration("pay", "visa", instance_id="tomorrow", start_at=86_400)
            client.start_many(durable.orchestrator_ref("pay", group="billing"), ["visa"], instance_ids=["billing"])
            stands(client, "suspended", "SUSPENDED")
            stands(client, "cancelled", "CANCELED")
            client.handle("busy-approval").suspend()
            stands(client, "busy-approval", "SUSPENDED")
            triggers(client)
        with durable.Worker(client, registry=code(SHOP.replace('"go"', '"went"')), shutdown_grace=0):
            client.raise_event("blocked", "go", True)
            stands(client, "blocked", "BLOCKED")
            yield command


def event(kind: str, subject: str) -> CloudEvent:
    """With an id of its own that is the same every time."""
    at = datetime(2026, 11, 24, 8, 30, tzinfo=timezone.utc)
    attributes = {"type": kind, "source": "/carrier", "subject": subject, "id": f"{kind}-{subject}", "time": at}
    return CloudEvent(attributes, {"item": "book"})


def triggers(client: durable.Client) -> None:
    """One that counts, one that called an activity, one that is off, one in the shelf; each has had what it needs."""
    until(lambda: client.dead_letters().items)
    client.keep_unmatched_events()
    shipped = [EventPattern("com.shop.parcel.*", subject="order-42"), EventPattern("com.shop.sold-out", subject="")]
    client.add_trigger(
        "third",
        on=shipped,
        condition=conditions.join(3),
        action=actions.start_orchestration("approval", "book", instance_id="after-third"),
        context={"order": 42},
    )
    client.intercept_trigger("third", actions.delete_trigger("lost"))
    client.add_trigger("books", on=EventPattern("com.shop.book"), action=actions.call_activity("reserve", "book"))
    client.add_trigger(
        "night",
        on=EventPattern(source="/warehouse/*"),
        condition=conditions.expression("data.amount > `100`"),
        transient=False,
    )
    client.disable_trigger("night")
    for kind in ("com.shop.parcel.sent", "com.shop.parcel.lost", "com.shop.book"):
        client.publish(event(kind, "order-42"))
    until(client.unmatched_events)  # how that activity ended


def stands(client: durable.Client, instance_id: str, status: str) -> None:
    until(lambda: client.handle(instance_id).status().runtime_status == status, f"{instance_id} {status}")


_DURATION = r"\d+(?:ms|\.\ds|m \d\ds|h \d\dm|d \d\dh)"
_ASIDE = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "YYYY-MM-DD HH:MM:SS UTC"),
    (r"^( *(?:\d+|-))  \d\d:\d\d:\d\d\.\d{3} .{8}  ", r"\1  HH:MM:SS.mmm   +DELTA  "),
    (r" +[█░]+(?: +|$)", " BAR "),
    (rf"─+ {_DURATION}", "─── DURATION"),
    (rf"(?<! )  +{_DURATION}", "  DURATION"),
    (rf"(?<=\S ){_DURATION} ago", "DURATION ago"),
    (rf"\b(?<!timer ){_DURATION}", "DURATION"),
    (r"\b\d\d:\d\d:\d\d\b", "HH:MM:SS"),
    (r"pid \d+ on [\w.-]+", "pid PID on HOST"),
    ("<bool>", "      "),  # not every typer says so
    (r" +$", ""),
)


def put_aside(text: str) -> str:
    for pattern, instead in _ASIDE:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


def laid_out(text: str) -> str:
    """As it is compared: where a process and its host are named, lines break elsewhere on another day."""
    return " ".join(text.split()) if "pid PID on HOST" in " ".join(text.split()) else text


SCREENS = {
    "help": "--help",
    "list": "list",
    "doctor": "doctor",
    "history": "history shop-order-pay",
    "triggers": "trigger list",
    "trigger": "trigger show third",
    "trigger-counts": "trigger counts",
    "trigger-unmatched": "trigger unmatched",
    "trigger-help": "trigger --help",
    "dead-letters": "trigger dead-letter list",
    "dead-letter": "trigger dead-letter show 3",
    "show-called": "show books:4",
    **{
        f"show-{instance}": f"show {instance}"
        for instance in (
            *(*RUN, *REST, "blocked", "suspended", "cancelled", "nosuch", "tomorrow", "billing", "shop-order-pay"),
        )
    },
}


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_it_was(shop: Command, name: str) -> None:
    said = shop(*SCREENS[name].split()).stdout.replace(str(shop.folder), "/app")
    assert max(map(len, said.splitlines())) <= 80
    found, golden = put_aside(said), GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found, encoding="utf-8")
    assert laid_out(found) == laid_out(golden.read_text(encoding="utf-8"))


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(SCREENS)
