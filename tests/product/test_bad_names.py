"""Ids and names that are hostile, taken or unknown: a clear refusal, or they work like any other."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

import durable
from tests.hostile.names import ALLOWED, REFUSED
from tests.waiting import SOON

if TYPE_CHECKING:
    from tests.product.conftest import Heard, Place, World

Ctx = durable.OrchestrationContext
Steps = Generator[Any, Any, Any]

NO_TEXT = [1, 1.5, b"id", ["id"], object(), True]


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED.keys())
def test_a_name_outside_the_rules_is_refused_everywhere(world: World, name: str) -> None:
    client, registry = world.client, world.registry
    client.start_orchestration("healthy", 1, instance_id="there")
    calls: list[Callable[[], object]] = [
        lambda: client.start_orchestration("healthy", 1, instance_id=name),
        lambda: client.start_many("healthy", [1, 2], instance_ids=["fine", name]),
        lambda: client.start_orchestration(name),
        lambda: client.start_orchestration("healthy", 1, tags={name: "x"}),
        lambda: client.raise_event(name, "event"),
        lambda: client.raise_event("there", name),
        lambda: client.terminate(name),
        lambda: client.suspend(name),
        lambda: client.resume(name),
        lambda: client.cancel(name),
        lambda: client.rewind(name),
        lambda: client.restart(name),
        lambda: client.restart("there", new_instance_id=name),
        lambda: client.fork(name, after=0),
        lambda: client.fork("there", after=0, new_instance_id=name),
        lambda: client.purge(name),
        lambda: client.get_status(name),
        lambda: client.history(name),
        lambda: client.wait(name, 0),
        lambda: client.handle(name),
        lambda: durable.activity_ref(name, returns=int),
        lambda: durable.orchestrator_ref(name, returns=int),
        lambda: registry.orchestrator(name=name)(lambda ctx: None),
        lambda: registry.activity(name=name)(lambda: None),
        lambda: registry.orchestrator(group=name)(lambda ctx: None),
        lambda: registry.activity(queue=name)(lambda: None),
        lambda: durable.Worker(client, registry=registry, groups=[name]),
        lambda: durable.Worker(client, registry=registry, queues=[name]),
        lambda: durable.connect("memory://names", workspace=name),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(ValueError, match="Ids and names") as caught:
            call()
        assert len(str(caught.value)) < 800, number
        assert str(caught.value).isprintable(), number
        assert str(caught.value).isascii(), number
    assert client.get_status("fine") is None

    def asks(ctx: Ctx) -> Steps:
        calls: tuple[Callable[[], object], ...] = (
            lambda: ctx.call_activity(name),
            lambda: ctx.call_sub_orchestrator(name),
            lambda: ctx.call_sub_orchestrator("healthy", 1, instance_id=name),
            lambda: ctx.wait_for_external_event(name),
        )
        for call in calls:
            with pytest.raises(ValueError, match="Ids and names"):
                call()
        return (yield ctx.call_activity("healthy.step", 1))

    assert world.run(asks) == 2


def called(name: str, registry: durable.Registry) -> None:
    """Activity, orchestrator, event and (as far as there is room) child of this name."""

    @registry.activity(name=name)
    def step(value: str) -> str:
        return f"{name}: {value}"

    @registry.orchestrator(name=name)
    def parent(ctx: Ctx) -> Steps:
        first = yield ctx.wait_for_external_event(name)
        second = yield ctx.call_activity(step, first)
        return (yield ctx.call_sub_orchestrator(child, second))

    @registry.orchestrator(name=f"{name[:50]} child")
    def child(ctx: Ctx, value: str) -> Steps:
        return (yield ctx.call_activity(step, value))


@pytest.mark.everywhere
def test_any_other_name_works_end_to_end(world: World) -> None:
    client = world.client
    for name in ALLOWED.values():
        called(name, world.registry)
    world.work()
    handles = [client.start_orchestration(name, instance_id=name, tags={name: name}) for name in ALLOWED.values()]
    for name in ALLOWED.values():
        client.raise_event(name, name, "data", event_id=name)
        client.raise_event(name, name, "data again", event_id=name)
    for handle, name in zip(handles, ALLOWED.values(), strict=True):
        assert handle.result(SOON) == f"{name}: {name}: data"
        status = client.get_status(name)
        assert status is not None
        assert (status.instance_id, status.name, status.tags) == (name, name, {name: name})
        assert [s.instance_id for s in client.list_orchestrations(prefix=name, tags={name: name})] == [name]
        assert [e.name for e in client.history(name) if e.type == "EventRaised"] == [name]
        assert not list(client.list_orchestrations(prefix=name + "!"))


@pytest.mark.parametrize("kind", ["sqlite", "redis+rabbitmq"])
def test_so_do_workspaces_groups_and_queues(
    request: pytest.FixtureRequest, place_of: Callable[[str], Place], kind: str
) -> None:
    place = place_of(kind)
    odd = [form.format(place.workspace) for form in ("..{}", "{{{}}}*", "[{}] %2f \u00e9")]
    for name in odd:
        registry = durable.Registry()

        @registry.activity(queue=name)
        def where(value: str) -> str:
            return value

        @registry.orchestrator(group=name)
        def calls(ctx: Ctx, value: str) -> Steps:
            return (yield ctx.call_activity(where, value))

        with place._replace(workspace=name).connect() as client:
            assert client.list_orchestrations().items == []
            with durable.Worker(client, registry=registry, groups=[name], queues=[name], shutdown_grace=0):
                assert client.start_orchestration(calls, name, instance_id="same").result(SOON) == name
            [alone] = client.list_orchestrations()
            assert alone.input == name
        if place.events is not None:
            remove = request.getfixturevalue("queue_remover")
            remove(name, f"work.{name}", f"outcomes.{name}.0", "dead-letters")


@pytest.mark.parametrize("name", NO_TEXT, ids=lambda name: type(name).__name__)
def test_a_name_that_is_no_text_is_a_type_error(world: World, name: Any) -> None:
    for call in (
        lambda: world.client.start_orchestration("healthy", 1, instance_id=name),
        lambda: world.client.raise_event("x", name),
        lambda: world.client.get_status(name),
        lambda: world.client.handle(name),
        lambda: world.client.start_orchestration(name),
    ):
        with pytest.raises(TypeError, match=r"must be text|is no orchestrator"):
            call()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a/b", "instance_id='a/b' holds the character '/', which is not allowed; use - or : instead (see"),
        ("a\tb", "instance_id='a\\tb' holds the character '\\t', which is not allowed; leave it out (see"),
        ("@a", "instance_id='@a' begins with '@', which is reserved; begin with another character (see"),
    ],
)
def test_a_refused_id_comes_with_a_remedy(world: World, name: str, says: str) -> None:
    world.work()
    with pytest.raises(ValueError, match="Ids and names") as caught:
        world.client.start_orchestration("healthy", 1, instance_id=name)
    assert str(caught.value).startswith(says)
    with pytest.raises(TypeError, match=r"^instance_id must be text, not int$"):
        world.client.start_orchestration("healthy", 1, instance_id=5)  # type: ignore[call-overload]


def test_what_is_no_activity_is_named_as_in_the_code(world: World) -> None:
    def plain(text: str) -> str:
        return text

    def careless(ctx: Ctx, wrong: str) -> Steps:
        callee: Any = {"function": plain, "class": dict}[wrong]
        yield ctx.call_activity(callee, "x")

    for wrong, named in (("function", "function 'plain'"), ("class", "class 'dict'")):
        message = world.fails(careless, wrong).message
        assert message == f"{named} is no activity: decorate it with @durable.activity, or give its name"


@pytest.mark.everywhere
def test_ids_that_differ_in_case_or_look_alike_are_different(world: World) -> None:
    world.work()
    ids = ["ID", "id", "Id", " id", "id ", "paypal", "\u0440aypal", "a:b", "a", "b"]
    handles = [world.client.start_orchestration("healthy", n, instance_id=i) for n, i in enumerate(ids)]
    assert [handle.result(SOON) for handle in handles] == [n + 3 for n in range(len(ids))]


# ---- taken, unknown, finished


@pytest.mark.everywhere
def test_a_taken_id(world: World) -> None:
    client = world.client
    first = client.start_orchestration("healthy", 1, instance_id="one")
    for state in ("pending", "finished"):
        with pytest.raises(durable.InstanceExistsError, match=r"'one'.*if_exists='return'") as caught:
            client.start_orchestration("healthy", 10, instance_id="one")
        assert caught.value.existing == ["one"]
        assert client.start_orchestration("healthy", 10, instance_id="one", if_exists="return").instance_id == "one"
        if state == "pending":
            world.work()
            assert first.result(SOON) == 4
    with pytest.raises(durable.InstanceExistsError) as caught:
        client.start_many("healthy", [1, 2, 3], instance_ids=["two", "one", "three"])
    assert (caught.value.existing, caught.value.started) == (["one"], ["two", "three"])
    assert [client.handle(i).result(SOON) for i in ("one", "two", "three")] == [4, 4, 6]
    with pytest.raises(ValueError, match="instance_ids must differ"):
        client.start_many("healthy", [1, 2], instance_ids=["four", "four"])
    with pytest.raises(ValueError, match="2 inputs, but 1 instance_ids"):
        client.start_many("healthy", [1, 2], instance_ids=["four"])
    assert client.get_status("four") is None
    with pytest.raises(ValueError, match="if_exists='overwrite'"):
        client.start_orchestration("healthy", 1, if_exists="overwrite")  # type: ignore[call-overload]  # the wrong value is the test


def test_a_child_whose_id_is_taken_fails_its_task(world: World) -> None:
    world.client.start_orchestration("healthy", 1, instance_id="taken")

    def parent(ctx: Ctx) -> Steps:
        try:
            yield ctx.call_sub_orchestrator("healthy", 5, instance_id="taken")
        except durable.TaskFailedError as error:
            assert error.failure.is_caused_by(durable.InstanceExistsError)
            return error.failure.type
        return "not refused"

    assert world.run(parent) == "durable.InstanceExistsError"
    assert world.client.handle("taken").result(SOON) == 4


def test_an_instance_nobody_knows(world: World) -> None:
    client = world.client
    assert client.get_status("nobody") is None
    for call in (
        lambda: client.raise_event("nobody", "event"),
        lambda: client.terminate("nobody"),
        lambda: client.history("nobody"),
        lambda: client.wait("nobody", SOON),
        lambda: client.handle("nobody").result(SOON),
        lambda: client.handle("nobody").status(),
    ):
        with pytest.raises(durable.InstanceNotFoundError, match="'nobody'"):
            call()
    # An event that was refused is not kept for an instance of that name.
    world.start("healthy", 1).result(SOON)
    client.start_orchestration("healthy", 1, instance_id="nobody")
    assert client.handle("nobody").result(SOON) == 4
    with pytest.raises(durable.InstanceNotFoundError, match="no execution 'what'"):
        client.history("nobody", execution_id="what")


def test_an_instance_that_has_ended(world: World) -> None:
    handle = world.start("healthy", 1)
    assert handle.result(SOON) == 4
    with pytest.raises(durable.InstanceFinishedError, match=f"'{handle.instance_id}' has ended"):
        handle.raise_event("late")
    before = world.client.history(handle.instance_id)
    handle.terminate("too late")
    world.is_well()
    assert handle.result(SOON) == 4
    assert world.client.history(handle.instance_id, pending=True) == before


# ---- names nobody serves


def test_an_activity_nobody_serves_waits_until_somebody_does(world: World, log: Heard) -> None:
    def caller(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity("late.step", 20))

    handle = world.start(caller)
    assert "healthy.step" in log.wait_for("WARNING", "'late.step'", handle.instance_id)
    world.is_well()
    assert handle.status().runtime_status is durable.RuntimeStatus.RUNNING
    world.registry.activity(name="late.step")(_double)
    assert handle.result(SOON) == 40


def test_an_orchestrator_nobody_serves_waits_until_somebody_does(world: World, log: Heard) -> None:
    handle = world.start("late.orchestrator", 1)
    assert "healthy" in log.wait_for("WARNING", "'late.orchestrator'", handle.instance_id)
    world.is_well()
    assert handle.status().runtime_status is durable.RuntimeStatus.PENDING
    with pytest.raises(durable.TimeoutError, match="PENDING"):
        handle.result(timeout=0)

    @world.registry.orchestrator(name="late.orchestrator")
    def late(ctx: Ctx, number: int) -> Steps:
        return (yield ctx.call_activity("healthy.step", number))

    assert handle.result(SOON) == 2


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "name", ["os.system", "builtins:eval", "__import__", "a.__class__", "{0.__init__.__globals__}"]
)
def test_a_name_is_only_looked_up_and_never_imported(world: World, log: Heard, name: str) -> None:
    def caller(ctx: Ctx) -> Steps:
        return (yield ctx.call_activity(name, "touch pwned"))

    stuck = [world.start(caller), world.start(name, "touch pwned")]
    log.wait_for("activity", repr(name))
    log.wait_for("orchestrator", repr(name))
    world.is_well()
    assert {handle.status().runtime_status.value for handle in stuck} == {"RUNNING", "PENDING"}
    for handle in stuck:
        handle.terminate("give up")
        with pytest.raises(durable.OrchestrationTerminatedError, match="give up"):
            handle.result(SOON)


def test_two_functions_under_one_name(world: World) -> None:
    @world.registry.activity(name="same")
    def one() -> None: ...

    @world.registry.orchestrator(name="same")  # another kind, so another name
    def two(ctx: Ctx) -> None: ...

    with pytest.raises(durable.DuplicateNameError, match=r"activity 'same'.*one.*another name.*name="):

        @world.registry.activity(name="same")
        def three() -> None: ...

    with pytest.raises(durable.DuplicateNameError, match=r"orchestrator 'same'.*two.*another name.*name="):

        @world.registry.orchestrator(name="same")
        def four(ctx: Ctx) -> None: ...


def _double(number: int) -> int:
    return number * 2
