"""Users' mistakes in values, orchestrators and activities: a clear error at the right place, and nothing else suffers.

After each test the `world` fixture runs a healthy orchestration on the same worker.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.waiting import SOON

if TYPE_CHECKING:
    from tests.product.conftest import World

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]


# ---- values that can't travel


class Evil:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __iter__(self) -> Any:
        raise RuntimeError("no iter")


class Computed:
    """Its attributes come from a dict, and it does not say AttributeError."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["data"][name]


class Unloaded:
    """A lazy proxy of something that can't be loaded."""

    @property  # type: ignore[misc]  # as lazy proxies have it
    def __class__(self) -> Any:
        raise RuntimeError("not loaded")


class Endless(list[Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("no iter")


def circular() -> list[Any]:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


UNFIT: dict[str, Callable[[], Any]] = {
    "NaN": lambda: {"a": [1.0, math.nan]},
    "infinity": lambda: math.inf,
    "object": lambda: {"x": object()},
    "evil object": lambda: [Evil()],
    "computed attributes": Computed,
    "lazy proxy": Unloaded,
    "function": lambda: len,
    "generator": lambda: (n for n in range(3)),
    "lock": threading.Lock,
    "circular": circular,
    "65 deep": lambda: nested(65),
    "100,000 deep": lambda: nested(100_000),
    "lone surrogate": lambda: {"a": "\ud800"},
    "surrogate key": lambda: {"\udc00": 1},
    "colliding keys": lambda: {1: "a", "1": "b"},
    "key of a strange type": lambda: {(1, 2): 3},
    "2**64": lambda: [2**64],
    "4,301 digits": lambda: 10**4301,
    "naive datetime": lambda: datetime(2024, 1, 1),
    "exception": lambda: ValueError("x"),
    "class": lambda: dict,
    "33 MB": lambda: "x" * 33_600_000,
}
unfit = pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT.keys())


def refuses(where: str, call: Callable[[], object]) -> None:
    """`call` raises a PayloadError that names what the value was for, and the path in it, in a few words."""
    with pytest.raises(durable.PayloadError, match=where) as caught:
        call()
    text = str(caught.value)
    assert "$" in text, text
    assert len(text) < 1000, text
    assert isinstance(caught.value, ValueError)


@unfit
def test_a_client_refuses_it_at_the_call(world: World, make: Callable[[], Any]) -> None:
    waiting = world.start(waits)
    client, bad = world.client, make()
    refuses("input of orchestrator 'healthy'", lambda: client.start_orchestration("healthy", bad, instance_id="x"))
    refuses("input of orchestrator 'healthy'", lambda: client.start_many("healthy", [1, bad], instance_ids=["x", "y"]))
    refuses("data of event 'go'", lambda: waiting.raise_event("go", bad))
    refuses("reason", lambda: waiting.terminate(bad))
    assert client.get_status("x") is None
    waiting.raise_event("go", "on")
    assert waiting.result(SOON) == "on"


@unfit
def test_an_orchestrator_is_told_at_the_line(world: World, make: Callable[[], Any]) -> None:
    def gives(ctx: Ctx, number: int) -> Steps:
        bad = make()
        refuses("healthy.step", lambda: ctx.call_activity("healthy.step", bad))
        refuses("healthy", lambda: ctx.call_sub_orchestrator("healthy", bad))
        refuses("custom status", lambda: ctx.set_custom_status(bad))
        refuses(r"argument 'number' of .*gives\(number: int\)", lambda: ctx.continue_as_new(bad))
        ctx.set_custom_status("good")
        return (yield ctx.call_activity("healthy.step", 1))

    handle = world.start(gives, 1)
    assert handle.result(SOON) == 2
    assert handle.status().custom_status == "good"
    assert [e.task_id for e in world.client.history(handle.instance_id) if e.type == "TaskScheduled"] == [1]


@unfit
def test_an_output_or_a_result_that_can_not_travel_fails_what_made_it(world: World, make: Callable[[], Any]) -> None:
    runs = []

    @world.registry.activity(name="unfit", retry=durable.RetryPolicy(3, first_interval=0))
    def result() -> Any:
        runs.append(1)
        return make()

    def output(ctx: Ctx) -> Steps:
        yield ctx.create_timer(0)
        return make()

    def calls(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_activity(result)
        except durable.TaskFailedError as error:
            assert error.failure.is_caused_by(durable.PayloadError)
            return error.failure.message

    failure = world.fails(output)
    assert failure.type == "durable.PayloadError"
    assert "output of orchestrator" in failure.message
    assert "result of activity 'unfit': $" in world.run(calls)
    assert len(runs) == 1, "it would be the same at the next attempt"


def test_limits_hold_for_each_payload_and_name_themselves(world: World) -> None:
    world.connect(durable.Limits(payload_bytes=100, payload_depth=3, custom_status_bytes=10))
    fits, large, deep = "x" * 98, "x" * 99, nested(4)

    def echo(ctx: Ctx, value: Any) -> Steps:
        with pytest.raises(durable.LimitError, match=r"custom_status_bytes"):
            ctx.set_custom_status("x" * 9)
        ctx.set_custom_status("x" * 8)
        refuses("payload_bytes", lambda: ctx.call_activity("large", large))
        refuses("payload_depth", lambda: ctx.call_activity("large", deep))
        same = yield ctx.call_activity("same", value)
        try:
            yield ctx.call_activity("large", 1)
        except durable.TaskFailedError as error:
            assert "payload_bytes" in error.failure.message
            return same
        return "not refused"

    world.registry.activity(name="same")(lambda value: value)
    world.registry.activity(name="large")(lambda value: large)
    for value in (fits, nested(3)):
        assert world.run(echo, value) == value
    for value, limit in ((large, "payload_bytes"), (deep, "payload_depth")):
        refuses(limit, lambda value=value: world.client.start_orchestration("healthy", value))  # type: ignore[misc]
        refuses(limit, lambda value=value: world.client.raise_event("x", "y", value))  # type: ignore[misc]
        assert limit in world.fails(lambda ctx, value=value: value).message


def test_input_that_does_not_fit_the_declared_type_fails_at_the_receiver(world: World) -> None:
    @world.registry.activity(name="typed")
    def typed(number: int, when: datetime) -> int:
        return number

    def calls(ctx: Ctx, args: list[Any]) -> Steps:
        return (yield ctx.call_activity("typed", *args))

    for args in (["1", "2024-01-01T00:00:00Z"], [1, "yesterday"], [None, None], [1], [1, 2, 3], []):
        failure = world.fails(calls, args)
        assert failure.is_caused_by(durable.PayloadError) or failure.is_caused_by(TypeError), failure
        assert "typed" in failure.message
    failure = world.fails("healthy", {"not": "a number"})
    assert failure.type == "durable.PayloadError"
    assert "int" in failure.message
    waiting = world.start(waits_for_int)
    waiting.raise_event("number", "no number")
    with pytest.raises(durable.OrchestrationFailedError, match="the data of event 'number'"):
        waiting.result(SOON)


# ---- orchestrators that yield something else


def line_of(function: Callable[..., Any], offset: int) -> str:
    return f"line {function.__code__.co_firstlineno + offset}"


async def sleeps(ctx: Ctx) -> None:
    await asyncio.sleep(0.01)


async def hands_over(ctx: Ctx) -> None:
    await asyncio.sleep(0)


def a_number(ctx: Ctx) -> Steps:
    yield 5


def nothing(ctx: Ctx) -> Steps:
    yield


def helper(ctx: Ctx) -> Steps:
    yield ctx.call_activity("healthy.step", 1)


def a_helper(ctx: Ctx) -> Steps:
    yield helper(ctx)


def a_mixed_list(ctx: Ctx) -> Steps:
    yield [ctx.call_activity("healthy.step", 1), 5]


def an_evil_object(ctx: Ctx) -> Steps:
    yield Evil()


def computed_attributes(ctx: Ctx) -> Steps:
    yield Computed()


def a_lazy_proxy(ctx: Ctx) -> Steps:
    yield Unloaded()


def an_evil_list(ctx: Ctx) -> Steps:
    yield Endless([ctx.call_activity("healthy.step", 1), 5])


def no_yield(ctx: Ctx) -> Steps:
    if ctx.call_activity("healthy.step", 1):
        yield ctx.create_timer(0)


def a_result_too_soon(ctx: Ctx) -> Steps:
    ctx.call_activity("healthy.step", 1).result()
    yield ctx.create_timer(0)


def all_of_no_tasks(ctx: Ctx) -> Steps:
    yield ctx.task_all([5])  # type: ignore[list-item]


def any_of_nothing(ctx: Ctx) -> Steps:
    yield ctx.task_any([])


def a_naive_timer(ctx: Ctx) -> Steps:
    yield ctx.create_timer(datetime(2030, 1, 1))


def a_timer_of_nan(ctx: Ctx) -> Steps:
    yield ctx.create_timer(math.nan)


def a_timer_past_all_years(ctx: Ctx) -> Steps:
    yield ctx.create_timer(timedelta(days=4_000_000))


def an_undecorated_function(ctx: Ctx) -> Steps:
    yield ctx.call_activity(len, "x")  # type: ignore[call-overload]


def an_orchestrator_as_activity(ctx: Ctx) -> Steps:
    yield ctx.call_activity(durable.orchestrator_ref("healthy"), 1)  # type: ignore[call-overload]


def an_activity_as_orchestrator(ctx: Ctx) -> Steps:
    yield ctx.call_sub_orchestrator(durable.activity_ref("healthy.step"), 1)  # type: ignore[call-overload]


def a_call_of_an_orchestrator(ctx: Ctx) -> Steps:
    yield ctx.call_sub_orchestrator(helper(ctx))  # type: ignore[call-overload]


def no_yield_in_a_text(ctx: Ctx) -> Steps:
    step = ctx.call_activity("healthy.step", 1)
    yield ctx.call_activity("healthy.step", f"after {step}")


def a_keyword(ctx: Ctx) -> Steps:
    yield ctx.call_activity(durable.activity_ref("healthy.step"), number=1)


def after_continue_as_new(ctx: Ctx) -> Steps:
    ctx.continue_as_new()
    yield ctx.call_activity("healthy.step", 1)


WRONG: list[tuple[Callable[..., Any], str, str]] = [
    (a_number, "TypeError", r"yielded 5, which is no task: yield what ctx\.call_activity"),
    (nothing, "TypeError", r"yielded None, which is no task"),
    (a_helper, "TypeError", r"yield from helper"),
    (a_mixed_list, "TypeError", r"no task"),
    (an_evil_object, "TypeError", r"yielded <.*\.Evil, whose repr raises RuntimeError>, which is no task"),
    (computed_attributes, "TypeError", r"no task"),
    (a_lazy_proxy, "TypeError", r"no task"),
    (an_evil_list, "TypeError", r"no task"),
    (no_yield, "TypeError", r"'healthy\.step'.*did you forget yield"),
    (a_result_too_soon, "RuntimeError", r"yield it first"),
    (all_of_no_tasks, "TypeError", r"item 0 is 5, which is no task"),
    (any_of_nothing, "ValueError", r"at least one task"),
    (sleeps, "RuntimeError", r"no running event loop"),
    (hands_over, "TypeError", r"yielded None"),
    (a_naive_timer, "ValueError", r"aware|naive|time zone|tzinfo"),
    (a_timer_of_nan, "ValueError", r"create_timer"),
    (a_timer_past_all_years, "ValueError", r"past the year 9999"),
    (an_undecorated_function, "TypeError", r"@durable\.activity"),
    (an_orchestrator_as_activity, "TypeError", r"is no activity: ctx\.call_sub_orchestrator runs it"),
    (an_activity_as_orchestrator, "TypeError", r"is no orchestrator: .*ctx\.call_activity"),
    (a_call_of_an_orchestrator, "TypeError", r"give the function, and then its arguments"),
    (no_yield_in_a_text, "TypeError", r"did you forget yield"),
    (a_keyword, "TypeError", r"keyword|positional"),
    (after_continue_as_new, "RuntimeError", r"return now"),
]


@pytest.mark.parametrize(("wrong", "kind", "says"), WRONG, ids=[w[0].__name__ for w in WRONG])
def test_a_mistake_in_an_orchestrator_raises_at_its_line(
    world: World, wrong: Callable[..., Any], kind: str, says: str
) -> None:
    import re

    failure = world.fails(wrong)
    assert failure.type == kind
    assert re.search(says, failure.message), failure.message
    assert __file__ in (failure.stack_trace or ""), failure.stack_trace
    assert f"in {wrong.__name__}" in (failure.stack_trace or ""), failure.stack_trace


def test_such_a_mistake_can_be_caught_and_the_orchestrator_goes_on(world: World) -> None:
    def careless(ctx: Ctx) -> Steps:
        caught = 0
        for wrong in (5, None, "x", helper(ctx), [1]):
            try:
                yield wrong
            except TypeError:
                caught += 1
        return caught + (yield ctx.call_activity("healthy.step", 1))

    assert world.run(careless) == 7


def test_a_task_of_another_orchestration_is_refused(world: World) -> None:
    stolen: list[durable.Task[Any]] = []
    given = threading.Event()

    def gives(ctx: Ctx) -> Steps:
        stolen.append(ctx.wait_for_external_event("go"))
        given.set()
        return (yield stolen[0])

    def takes(ctx: Ctx) -> Steps:
        with pytest.raises(TypeError, match="another orchestration"):
            ctx.task_all(stolen)
        with pytest.raises(TypeError, match="another orchestration"):
            yield stolen
        yield stolen[0]

    owner = world.start(gives)
    assert given.wait(SOON)
    assert "another orchestration" in world.fails(takes).message
    owner.raise_event("go", 7)
    assert owner.result(SOON) == 7


# ---- orchestrators that do too much


def test_an_orchestrator_that_never_yields_is_blocked_with_its_line(world: World) -> None:
    world.connect(durable.Limits(turn_seconds=0.2))
    release: list[int] = []

    def endless(ctx: Ctx) -> Steps:
        yield ctx.call_activity("healthy.step", 1)
        while not release:
            pass
        return "released"

    handle = world.start(endless)
    with pytest.raises(durable.OrchestrationBlockedError, match=r"turn_seconds|0\.2 s") as caught:
        handle.result(SOON, on_blocked="raise")
    first = endless.__code__.co_firstlineno
    assert any(f"{__file__}:{line}" in caught.value.reason for line in (first + 2, first + 3)), caught.value.reason
    world.is_well()
    assert handle.status().runtime_status is durable.RuntimeStatus.BLOCKED
    release.append(1)
    world.registry.activity(name="anything new")(lambda: None)  # code has changed: blocked ones are tried again
    assert handle.result(SOON) == "released"


def test_an_endless_loop_that_catches_everything_is_blocked_too(world: World) -> None:
    world.connect(durable.Limits(turn_seconds=0.2))
    release = threading.Event()

    def stubborn(ctx: Ctx) -> Steps:
        for _ in range(3):
            try:
                while not release.is_set():
                    pass
            except BaseException:
                pass
        yield ctx.call_activity("healthy.step", 1)

    handle = world.start(stubborn)
    with pytest.raises(durable.OrchestrationBlockedError):
        handle.result(SOON, on_blocked="raise")
    release.set()
    handle.terminate()


def test_too_many_commands_in_one_turn(world: World) -> None:
    world.connect(durable.Limits(commands_per_turn=500))

    def floods(ctx: Ctx) -> Steps:
        yield ctx.task_all([ctx.call_activity("healthy.step", n) for n in range(100_000)])

    failure = world.fails(floods)
    assert failure.type == "durable.LimitError"
    assert "500 commands (Limits.commands_per_turn)" in failure.message


def test_children_that_nest_for_ever(world: World) -> None:
    world.connect(durable.Limits(children_depth=4))

    @world.registry.orchestrator(name="deeper")
    def deeper(ctx: Ctx, level: int) -> Steps:
        return (yield ctx.call_sub_orchestrator("deeper", level + 1))

    failure = world.fails("deeper", 1)
    assert failure.is_caused_by(durable.LimitError)
    assert len(world.client.list_orchestrations(name="deeper").items) == 5  # the first, and children four deep


def test_unbounded_recursion(world: World) -> None:
    def recurses(ctx: Ctx) -> Any:
        return recurses(ctx)

    assert world.fails(recurses).type == "RecursionError"


# ---- client calls inside an orchestrator


def test_a_client_call_inside_an_orchestrator_is_refused(world: World) -> None:
    client = world.client
    there = client.start_orchestration("healthy", 1)
    calls: dict[str, Callable[[], Any]] = {
        "start_orchestration": lambda: client.start_orchestration("healthy", 1),
        "durable.start_orchestration": lambda: durable.start_orchestration("healthy", 1),
        "start_many": lambda: client.start_many("healthy", [1]),
        "raise_event": lambda: client.raise_event("x", "y"),
        "terminate": lambda: client.terminate("x"),
        "wait": lambda: client.wait(there.instance_id, 0),
        "result": lambda: there.result(0),
        "get_status": lambda: client.get_status(there.instance_id),
        "status": there.status,
        "list_orchestrations": client.list_orchestrations,
        "history": lambda: client.history(there.instance_id),
    }

    def tries(ctx: Ctx) -> dict[str, str]:
        said = {}
        for name, call in calls.items():
            try:
                call()
            except Exception as error:
                said[name] = f"{type(error).__name__} {error}"
        return said

    said = world.run(tries)
    for name in calls:
        assert said.get(name, "not refused").startswith("RuntimeError"), (name, said.get(name))
        assert "inside orchestration '" in said[name], name
    assert said["raise_event"].endswith("use ctx.send_event")
    assert there.result(SOON) == 4


# ---- functions that can't be what they are decorated as


async def async_generator(ctx: Any) -> AsyncGenerator[int, None]:
    yield 1


def keyword_only(ctx: Any, *, number: int) -> int:
    return number


def generator(number: int) -> Generator[int, None, None]:
    yield number


def any_keywords(ctx: Any, **options: int) -> None: ...


def no_parameter() -> None: ...


class Class:
    pass


@pytest.mark.parametrize(
    ("kind", "function", "says"),
    [
        ("orchestrator", async_generator, "async generator"),
        ("orchestrator", keyword_only, "number"),
        ("orchestrator", any_keywords, "options"),
        ("orchestrator", no_parameter, "ctx|context"),
        ("orchestrator", Class, "functions"),
        ("orchestrator", 5, "functions"),
        ("activity", async_generator, "generator"),
        ("activity", generator, "generator"),
        ("activity", keyword_only, "number"),
        ("activity", any_keywords, "options"),
        ("activity", Class, "functions"),
        ("activity", None, None),
        ("activity", "name", "functions"),
    ],
)
def test_what_can_not_be_one_is_refused_at_decoration(kind: str, function: Any, says: str | None) -> None:
    registry = durable.Registry()
    decorate = getattr(registry, kind)
    if says is None:
        assert callable(decorate(function))  # `@activity()` without a function is the decorator
        return
    with pytest.raises(TypeError, match=says):
        decorate(function)
    assert registry.names(kind) == []


def test_wrong_arguments_are_refused_at_the_call(world: World) -> None:
    client = world.client

    @world.registry.orchestrator(name="pair")
    def pair(ctx: Ctx, one: int, two: int = 0) -> Steps:
        with pytest.raises(TypeError, match="three"):
            ctx.call_activity(triple, 1)  # type: ignore[call-overload]  # the missing arguments are the test
        with pytest.raises(TypeError, match=r"annotate it: context: durable\.ActivityContext"):
            ctx.call_activity(unannotated, 1)
        return (yield ctx.call_activity(triple, one, two, 3))

    @world.registry.activity(name="triple")
    def triple(one: int, two: int, three: int) -> int:
        return one + two + three

    @world.registry.activity(name="unannotated")
    def unannotated(context, one):  # type: ignore[no-untyped-def]  # a newcomer's
        return one

    wrong: Any = client.start_orchestration
    calls: tuple[Callable[[], object], ...] = (
        lambda: wrong(pair),
        lambda: wrong(pair, 1, 2, 3),
        lambda: wrong(pair, one=1),
        lambda: wrong(triple, 1, 2, 3),
        lambda: wrong(len, 1),
        lambda: wrong(None),
        lambda: wrong(pair.fn, 1),
    )
    for call in calls:
        with pytest.raises(TypeError):
            call()
    for bad in (0, -1, 1001, True, "5", 1.5, None):
        with pytest.raises(ValueError, match="limit="):
            client.list_orchestrations(limit=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"status=.*PENDING"):
        client.list_orchestrations(status="DONE")
    with pytest.raises(TypeError, match=r"status=.*PENDING.*5"):
        client.list_orchestrations(status=5)  # type: ignore[arg-type]
    last = datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))
    with pytest.raises(ValueError, match=r"created_before=.* outside"):
        client.list_orchestrations(created_before=last)
    with pytest.raises(ValueError, match=r"start_at=.* outside"):
        client.start_orchestration(pair, 1, 2, start_at=last)
    with pytest.raises(ValueError, match="cursor"):
        client.list_orchestrations(cursor="forged")
    with pytest.raises(ValueError, match="created_after"):
        client.list_orchestrations(created_after=datetime(2024, 1, 1))
    for late in (math.nan, -1, timedelta(seconds=-1)):
        with pytest.raises(ValueError, match="timeout="):
            client.handle("x").result(late)
    with pytest.raises(ValueError, match="on_blocked"):
        client.handle("x").result(on_blocked="ignore")  # type: ignore[arg-type]
    for option in ({"max_attempts": 0}, {"max_attempts": 1.5}, {"first_interval": -1}, {"jitter": 2}):
        with pytest.raises(ValueError, match="RetryPolicy"):
            durable.RetryPolicy(**{"max_attempts": 1, **option})  # type: ignore[arg-type]
    assert world.run("pair", [1, 2]) == 6
    assert world.run("pair", 1) == 4


# ---- exceptions


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Wordy(Exception):
    def __str__(self) -> str:
        return "x" * 50_000_000


class Strange(Exception):
    def __str__(self) -> Any:
        return 5


class Secretive(Exception):
    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # a class may
        raise RuntimeError("no attributes")


class Proxied(Exception):
    @property  # type: ignore[misc]  # as lazy proxies have it
    def __class__(self) -> Any:
        raise RuntimeError("not loaded")


def carrying(value: object) -> BaseException:
    error = ValueError("x")
    error.value = value  # type: ignore[attr-defined]  # as libraries do
    return error


def looped() -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def of_task(task_id: Any) -> BaseException:
    error = durable.TaskFailedError("made up", durable.FailureDetails("made.Up", "made up"))
    error.task_id = task_id
    return error


RAISED: dict[str, Callable[[], BaseException]] = {
    "str raises": Silent,
    "50 MB": Wordy,
    "str is no text": Strange,
    "carries a lazy proxy": lambda: carrying(Unloaded()),
    "carries an evil object": lambda: carrying(Evil()),
    "its task is no number": lambda: of_task([1]),
    "its task is none of this world": lambda: of_task(1 << 70),
    "attributes raise": Secretive,
    "class raises": Proxied,
    "surrogate": lambda: ValueError("\ud800"),
    "nul and escape": lambda: ValueError("\x00\x1b[31m"),
    "circular cause": looped,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(3),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "MemoryError": MemoryError,
    "not ours": type("Odd", (BaseException,), {}),
}


@pytest.mark.parametrize("make", RAISED.values(), ids=RAISED.keys())
def test_whatever_is_raised_becomes_a_failure(world: World, make: Callable[[], BaseException]) -> None:
    @world.registry.activity(name="raises")
    def raises() -> None:
        raise make()

    @world.registry.activity(name="raises.async")
    async def raises_async() -> None:
        raise make()

    def calls(ctx: Ctx, name: str) -> Steps:
        yield ctx.call_activity(name)

    def raises_itself(ctx: Ctx) -> Steps:
        yield ctx.call_activity("healthy.step", 1)
        raise make()

    def raises_at_once(ctx: Ctx) -> None:
        raise make()

    name = type(make()).__name__
    for failure in (
        world.fails(calls, "raises").cause,
        world.fails(calls, "raises.async").cause,
        world.fails(raises_itself),
        world.fails(raises_at_once),
    ):
        assert failure is not None
        # Python itself turns a StopIteration that leaves a generator or coroutine into a RuntimeError.
        assert failure.type.rpartition(".")[2] in (name, "RuntimeError" if name.startswith("Stop") else name)
        assert len(failure.message) < 100_000


def test_exit_in_an_activity_ends_neither_thread_nor_worker(world: World) -> None:
    @world.registry.activity(name="exits")
    def exits() -> None:
        sys.exit("bye")

    def calls(ctx: Ctx) -> Steps:
        return (yield ctx.task_all([ctx.call_activity("exits") for _ in range(50)], return_exceptions=True))

    def counts(ctx: Ctx) -> Steps:
        outcomes = yield ctx.task_all([ctx.call_activity("exits") for _ in range(50)], return_exceptions=True)
        return sorted({outcome.failure.type for outcome in outcomes})

    assert "can't" in world.fails(calls).message or world.fails(calls).type == "durable.PayloadError"
    assert world.run(counts) == ["SystemExit"]


def waits(ctx: Ctx) -> Steps:
    return (yield ctx.wait_for_external_event("go"))


def waits_for_int(ctx: Ctx) -> Steps:
    return (yield ctx.wait_for_external_event("number", type=int))
