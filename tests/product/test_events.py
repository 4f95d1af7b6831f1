"""External events: kept until somebody waits, each given once, in order, and never to a wait that was given up."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.waiting import SOON, until

pytestmark = pytest.mark.everywhere

if TYPE_CHECKING:
    from tests.product.conftest import Bench, Place

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]


@pytest.fixture
def app() -> durable.Registry:
    """`take(names, end)` waits for these events, one after the other, and gives their data."""
    app = durable.Registry()

    @app.orchestrator
    def take(ctx: Ctx, names: list[str]) -> Steps:
        got = []
        for name in names:
            got.append((yield ctx.wait_for_external_event(name)))
        return got

    return app


def test_an_event_reaches_the_wait_for_it(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", ["go"])
    bench.until_recorded(handle, "EventAwaited")
    handle.raise_event("go", {"amount": 3})
    assert handle.result(SOON) == [{"amount": 3}]
    awaited, raised = (e for e in bench.history(handle) if e.type.startswith("Event"))
    assert (awaited.type, awaited.name, awaited.task_id) == ("EventAwaited", "go", 1)
    assert (raised.type, raised.name, raised.input) == ("EventRaised", "go", {"amount": 3})


def test_data_of_a_wrong_type_can_be_caught_and_waited_for_again(bench: Bench, app: durable.Registry) -> None:
    @app.orchestrator
    def asks(ctx: Ctx) -> Steps:
        refused = []
        while True:
            try:
                answer = yield ctx.wait_for_external_event("decision", type=bool)
            except durable.PayloadError as error:
                refused.append(str(error))
            else:
                return [refused, answer]

    bench.serve(app)
    handle = bench.start(asks)
    bench.until_recorded(handle, "EventAwaited")
    handle.raise_event("decision", "yes")
    bench.until_recorded(handle, "EventAwaited", 2)
    handle.raise_event("decision", True)
    (said,), answer = handle.result(SOON)
    assert said == "the data of event 'decision': Expected `bool`, got `str` - at `$`; it is declared as bool"
    assert answer is True


@pytest.mark.on_dynamodb
def test_early_events_are_kept_in_order_and_each_satisfies_one_wait(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("take", ["b", "a", "a", "b", "a"])
    for number, name in enumerate("aabba"):
        handle.raise_event(name, number)
    bench.serve(app)
    assert handle.result(SOON) == [2, 0, 1, 3, 4]


def test_events_of_one_client_arrive_in_call_order(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", ["n"] * 50)
    for number in range(50):
        handle.raise_event("n", number)
    assert handle.result(SOON) == list(range(50))


@pytest.mark.parametrize(
    ("waits_for", "raised"),
    [("go", "GO"), ("Straße", "STRASSE"), ("Ωmega", "ωMEGA"), ("İ", unicodedata.normalize("NFC", "İ"))],
)
def test_names_match_case_insensitively(bench: Bench, app: durable.Registry, waits_for: str, raised: str) -> None:
    bench.serve(app)
    handle = bench.start("take", [waits_for, waits_for])
    handle.raise_event(raised, 1)
    bench.until_recorded(handle, "EventAwaited", 2)
    handle.raise_event(raised.swapcase() if raised.isascii() else raised, 2)
    assert handle.result(SOON) == [1, 2]


def test_events_of_other_names_are_not_taken(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", ["go"])
    handle.raise_event("gone", 1)
    handle.raise_event("g", 2)
    handle.raise_event("go", 3)
    assert handle.result(SOON) == [3]


def test_events_without_data_give_none(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", ["a", "b"])
    handle.raise_event("a")
    bench.client.raise_event(handle.instance_id, "b", None)
    assert handle.result(SOON) == [None, None]


# ---- which wait takes an event


def test_several_waits_take_events_in_order_of_creation(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        first, second, third = (ctx.wait_for_external_event("go") for _ in range(3))
        return (yield ctx.task_all([third, first, second]))

    bench.serve(app)
    handle = bench.start(flow)
    for number in (1, 2, 3):
        handle.raise_event("go", number)
    assert handle.result(SOON) == [3, 1, 2]


def test_a_wait_that_lost_a_race_takes_nothing_until_it_is_yielded_again(bench: Bench) -> None:
    """The trap of other engines: the wait of round one swallows the event that round three waits for."""
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        abandoned = ctx.wait_for_external_event("go")
        yield ctx.task_any([abandoned, ctx.create_timer(0)])
        ctx.set_custom_status("abandoned")
        yield ctx.wait_for_external_event("next")
        taken = abandoned.is_completed
        fresh = yield ctx.wait_for_external_event("go")
        again = yield abandoned
        return [taken, fresh, again]

    bench.serve(app)
    handle = bench.start(flow)
    until(lambda: handle.status().custom_status == "abandoned")
    handle.raise_event("go", 1)
    handle.raise_event("next")
    handle.raise_event("go", 2)
    assert handle.result(SOON) == [False, 1, 2]


def test_a_loop_that_races_a_wait_with_a_timer_loses_no_event(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        while True:
            go = ctx.wait_for_external_event("go")
            first = yield ctx.task_any([go, ctx.create_timer(0.01)])
            if first is go:
                return go.result()

    bench.serve(app)
    handle = bench.start(flow)
    bench.until_recorded(handle, "TimerFired", 3)
    handle.raise_event("go", "came")
    assert handle.result(SOON) == "came"


def test_a_wait_under_a_finished_composite_takes_nothing(bench: Bench) -> None:
    """Reachable means through unfinished tasks: the pair below is done once its first half is."""
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        hidden = ctx.wait_for_external_event("go")
        pair = ctx.task_any([hidden, ctx.create_timer(0)])
        yield pair
        fresh = ctx.wait_for_external_event("go")
        yield ctx.task_all([pair, fresh])
        return [hidden.is_completed, fresh.result()]

    bench.serve(app)
    handle = bench.start(flow)
    bench.until_recorded(handle, "EventAwaited", 2)
    handle.raise_event("go", 1)
    assert handle.result(SOON) == [False, 1]


def test_a_cancelled_wait_takes_nothing(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        cancelled = ctx.wait_for_external_event("go", timeout=60)
        cancelled.cancel()
        return (yield ctx.wait_for_external_event("go"))

    bench.serve(app)
    handle = bench.start(flow)
    handle.raise_event("go", 1)
    assert handle.result(SOON) == 1


# ---- timeouts


@pytest.mark.parametrize("timeout", [0, 0.005, timedelta(milliseconds=5)])
def test_a_wait_can_time_out(bench: Bench, timeout: float | timedelta) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        try:
            yield ctx.wait_for_external_event("go", timeout=timeout)
        except TimeoutError as error:
            return [isinstance(error, durable.TimeoutError), "go" in str(error)]

    bench.serve(app)
    handle = bench.start(flow)
    assert handle.result(SOON) == [True, True]
    awaited = next(e for e in bench.history(handle) if e.type == "EventAwaited")
    assert awaited.fire_at is not None


def test_an_uncaught_timeout_of_a_wait_fails_the_orchestration(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        yield ctx.wait_for_external_event("go", timeout=0)

    bench.serve(app)
    failure = bench.fails(flow)
    assert failure.type == "durable.TimeoutError"
    assert failure.is_caused_by(TimeoutError)


def test_a_timeout_counts_from_the_call_not_from_the_yield(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        wait = ctx.wait_for_external_event("go", timeout=0.001)
        yield ctx.create_timer(0.03)
        before = ctx.current_utc_datetime
        try:
            yield wait
        except durable.TimeoutError:
            return [wait.is_failed, ctx.current_utc_datetime == before]

    bench.serve(app)
    assert bench.run(flow) == [True, True]


def test_an_event_recorded_before_the_timeout_wins(bench: Bench) -> None:
    """The wait is not yielded when either comes; the event is first in the history, so the wait gets it."""
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        wait = ctx.wait_for_external_event("go", timeout=0.05)
        yield ctx.create_timer(0.1)
        return (yield wait)

    handle = bench.start(flow)
    handle.raise_event("go", "in time")
    bench.serve(app)
    assert handle.result(SOON) == "in time"


def test_an_event_after_the_timeout_is_for_the_next_wait(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        try:
            yield ctx.wait_for_external_event("go", timeout=0)
        except durable.TimeoutError:
            ctx.set_custom_status("late")
        return (yield ctx.wait_for_external_event("go", timeout=60))

    bench.serve(app)
    handle = bench.start(flow)
    until(lambda: handle.status().custom_status == "late")
    handle.raise_event("go", "second")
    assert handle.result(SOON) == "second"


# ---- data


@dataclass
class Payment:
    amount: int
    at: datetime


def test_data_is_decoded_to_the_type_that_the_wait_names(bench: Bench) -> None:
    app = durable.Registry()
    at = datetime(2030, 1, 2, tzinfo=timezone.utc)

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        payment = yield ctx.wait_for_external_event("paid", type=Payment)
        plain = yield ctx.wait_for_external_event("paid")
        union = yield ctx.wait_for_external_event("paid", type=Payment | None)
        return [payment == Payment(3, at), plain["amount"], union]

    bench.serve(app)
    handle = bench.start(flow)
    for data in (Payment(3, at), Payment(4, at), None):
        handle.raise_event("paid", data)
    assert handle.result(SOON) == [True, 4, None]


def test_data_that_does_not_fit_raises_at_the_yield(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx) -> Steps:
        try:
            yield ctx.wait_for_external_event("paid", type=Payment)
        except durable.PayloadError as error:
            return "amount" in str(error)

    bench.serve(app)
    handle = bench.start(flow)
    handle.raise_event("paid", {"amount": "three", "at": "2030-01-02T00:00:00Z"})
    assert handle.result(SOON) is True


def test_data_that_cannot_travel_is_refused_by_the_call(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("take", ["go"])
    client = bench.connect(limits=durable.Limits(payload_bytes=1_000))
    for data in (float("nan"), object(), "x" * 1_001):
        with pytest.raises(durable.PayloadError):
            client.raise_event(handle.instance_id, "go", data)
    handle.raise_event("go", "fine")
    bench.serve(app)
    assert handle.result(SOON) == ["fine"]


# ---- once and only once


def test_the_same_event_id_is_one_event(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("take", ["go", "go"])
    for data in ("first", "repeated", "repeated"):
        handle.raise_event("go", data, event_id="e-1")
    bench.serve(app)
    bench.until_recorded(handle, "EventAwaited", 2)
    handle.raise_event("go", "repeated", event_id="e-1")
    handle.raise_event("GO", "repeated", event_id="e-1")
    handle.raise_event("go", "second", event_id="e-2")
    assert handle.result(SOON) == ["first", "second"]
    assert bench.types(handle).count("EventRaised") == 2


@pytest.mark.everywhere
def test_the_id_of_an_event_may_be_what_others_have_given_it(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("take", ["go"] * 4)
    given = ["https://shop/orders?n=1#42", "@" + "é" * 199, "/", "a\\b"]
    for event_id in (*given, *given):
        handle.raise_event("go", event_id, event_id=event_id)
    bench.serve(app)
    assert handle.result(SOON) == given
    for refused in ("", "x" * 201, "a\nb", "\ud800", "e\u0301"):
        with pytest.raises(ValueError, match="event_id="):
            handle.raise_event("go", event_id=refused)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_more_than_a_thousand_event_ids_are_remembered(place_of: Callable[[str], Place], kind: str) -> None:
    """Within a day nothing is forgotten, however many there are."""
    with place_of(kind).connect() as client, ThreadPoolExecutor(16) as pool:
        handle = client.start_orchestration("take", ["last"])

        def send(number: int) -> None:
            handle.raise_event("go", number, event_id=f"e-{number}")

        for _ in range(2):
            list(pool.map(send, range(1_200)))
        raised = [e.input for e in client.history(handle.instance_id, pending=True) if e.type == "EventRaised"]
        assert sorted(raised) == list(range(1_200))


@pytest.mark.on_dynamodb
def test_event_ids_are_remembered_over_continue_as_new(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: Ctx, got: list[str]) -> Steps:
        got.append((yield ctx.wait_for_external_event("go")))
        if len(got) < 3:
            ctx.continue_as_new(got)
        return got

    bench.serve(app)
    handle = bench.start(flow, [])
    for number in (1, 2, 3):
        until(lambda: len(handle.status().input) == number - 1)  # noqa: B023  # called before the next round
        handle.raise_event("go", f"event {number}", event_id=f"e-{number}")
        for repeated in range(1, number + 1):
            if number < 3:
                handle.raise_event("go", "repeated", event_id=f"e-{repeated}")
    assert handle.result(SOON) == ["event 1", "event 2", "event 3"]


def test_the_same_event_id_at_two_instances_is_two_events(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handles = [bench.start("take", ["go"]) for _ in range(2)]
    for handle in handles:
        handle.raise_event("go", handle.instance_id, event_id="same")
    assert [h.result(SOON) for h in handles] == [[h.instance_id] for h in handles]


def test_many_clients_at_once_lose_nothing(bench: Bench, app: durable.Registry) -> None:
    bench.serve(app)
    handle = bench.start("take", ["n"] * 60)

    def send(sender: int) -> None:
        with bench.place.connect() as client:
            for number in range(15):
                client.raise_event(handle.instance_id, "n", [sender, number])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    got = handle.result(SOON)
    for sender in range(4):
        assert [number for s, number in got if s == sender] == list(range(15))


def test_events_for_nobody_are_refused(bench: Bench, app: durable.Registry) -> None:
    with pytest.raises(durable.InstanceNotFoundError, match="nobody"):
        bench.client.raise_event("nobody", "go")
    bench.serve(app)
    handle = bench.start("take", [])
    assert handle.result(SOON) == []
    with pytest.raises(durable.InstanceFinishedError, match=handle.instance_id):
        handle.raise_event("go")


def test_an_event_that_no_turn_has_taken_shows_as_pending(bench: Bench, app: durable.Registry) -> None:
    handle = bench.start("take", ["go"])
    handle.raise_event("go", 7)
    events = bench.client.history(handle.instance_id, pending=True)
    assert [(e.type, e.event_id) for e in events] == [("ExecutionStarted", 0), ("EventRaised", None)]
    assert (events[1].name, events[1].input) == ("go", 7)
    assert [e.type for e in bench.client.history(handle.instance_id)] == ["ExecutionStarted"]
    bench.serve(app)
    assert handle.result(SOON) == [7]
    assert all(e.event_id is not None for e in bench.client.history(handle.instance_id, pending=True))
