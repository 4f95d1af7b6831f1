"""The example programs of Triggerflow (github.com/triggerflow/triggerflow, examples/), small, on our API.

Its hello_world is samples/hello_triggers.py, federated-learning is samples/federated_learning.py, and load_test and
ingestion_test are tests/benchmarks/triggers.py. The others are here under their names. What its functions did in a
cloud is activities here: a trigger calls one, and its end is an event for the next trigger.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Generator
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

import durable
from durable import CloudEvent, EventPattern, TriggerContext, actions, conditions
from tests.waiting import SOON

if TYPE_CHECKING:
    from tests.product.conftest import Bench

DONE = "durable.activity-completed"

Steps = Generator[Any, Any, Any]


def event(type: str, content: Any = None, **more: str) -> CloudEvent:
    return CloudEvent({"type": type, "source": "/examples", **more}, content)


def data(event: CloudEvent) -> Any:
    """Its data; the SDK's hint leaves out numbers and lists."""
    return event.get_data()


def after(*subjects: str) -> list[EventPattern]:
    """Activities that were called with these subjects have ended."""
    return [EventPattern(type=DONE, subject=subject) for subject in subjects]


@pytest.fixture
def app() -> durable.Registry:
    """`keep` keeps an event's data as the result of its trigger.

    A task of a DAG is a trigger: `upstream_done` collects what the tasks before it gave, {their name: how many} in
    context["upstream"]; `run_task` calls its activity for each item in context["items"], with what was collected.
    """
    app = durable.Registry()

    @app.action
    def keep(context: TriggerContext, event: CloudEvent) -> None:
        context.workspace[context.trigger_id] = data(event)

    @app.condition
    def upstream_done(context: TriggerContext, event: CloudEvent) -> bool:
        given = context.setdefault("given", {})
        given.setdefault(event.get_subject() or "", []).append(data(event))
        return all(len(given.get(name, ())) == count for name, count in context["upstream"].items())

    @app.action
    def run_task(context: TriggerContext, event: CloudEvent) -> None:
        for item in context["items"]:
            order = [item, context["given"]]
            context.do(actions.call_activity(context["activity"], order, subject=context.trigger_id))

    return app


def result(bench: Bench, trigger_id: str) -> Any:
    """What `keep` kept once this transient trigger has fired."""
    assert bench.client.wait_for_trigger(trigger_id, SOON) is None
    return bench.client.get_workspace_context()[trigger_id]


def task(name: str, activity: Any, upstream: dict[str, int], items: list[Any]) -> dict[str, Any]:
    """A task of a DAG, as `client.add_triggers` takes it; the first one waits for the event "start"."""
    return {
        "trigger_id": name,
        "on": after(*upstream) if upstream else EventPattern(type="start"),
        "condition": "upstream_done",
        "action": "run_task",
        "context": {"activity": activity.name, "upstream": upstream, "items": items},
    }


def test_python_callable_example(bench: Bench) -> None:
    def is_123(context: TriggerContext, event: CloudEvent) -> bool:
        return bool((data(event) or {}).get("number") == 123)

    def hello(context: TriggerContext, event: CloudEvent) -> None:
        context.workspace["said"] = [*context.workspace.get("said", []), f"Hello {data(event)['number']}"]

    client = bench.connect(signing_keys=[secrets.token_hex(32)])
    client.add_trigger(
        "hello", on=EventPattern(type="hello"), condition=conditions.python(is_123), action=actions.python(hello)
    )
    client.add_trigger("last", on=EventPattern(type="last"))
    for given in (None, {"number": 122}, {"number": 123}, {"number": 123}):
        client.publish(event("hello", given))
    client.publish(event("last"))
    with durable.Worker(client, registry=durable.Registry(), shutdown_grace=0):
        assert client.wait_for_trigger("last", SOON) is None
    assert client.get_workspace_context() == {"said": ["Hello 123"]}


@pytest.mark.everywhere
def test_dag_sequence(bench: Bench, app: durable.Registry) -> None:
    @app.activity
    def increment(number: int) -> int:
        return number + 1

    steps = [f"step-{number}" for number in range(20)]
    for before, step in zip(["start", *steps], steps, strict=False):
        on = EventPattern(type="start") if before == "start" else after(before)
        bench.client.add_trigger(step, on=on, action=actions.call_activity(increment))
    bench.client.add_trigger("end", on=after(steps[-1]), action="keep")
    bench.client.add_trigger("middle", on=EventPattern(type="middle"), action="keep")
    bench.client.intercept_trigger("step-10", actions.publish(event("middle", "is reached")))
    bench.serve(app)
    bench.client.publish(event("start", 0))
    assert result(bench, "end") == 20
    assert result(bench, "middle") == "is reached"
    assert bench.client.list_triggers() == []


@pytest.mark.everywhere
def test_dag_parallel(bench: Bench, app: durable.Registry) -> None:
    """A map over as many items as the event brings, and its join: the trigger for that is added with the calls."""

    @app.activity
    def double(number: int) -> int:
        return number * 2

    @app.action
    def fan_out(context: TriggerContext, event: CloudEvent) -> None:
        numbers = data(event)
        context.do(actions.add_trigger("joined", on=after("my_map"), condition=conditions.join(len(numbers))))
        context.do(actions.add_trigger("sum", on=after("my_map"), action=add, transient=False))
        for number in numbers:
            context.do(actions.call_activity(double, number, subject="my_map"))

    @app.action
    def add(context: TriggerContext, event: CloudEvent) -> None:
        context["sum"] = context.get("sum", 0) + data(event)

    bench.client.add_trigger("map", on=EventPattern(type="start"), action=fan_out)
    bench.serve(app)
    bench.client.publish(event("start", list(range(40))))
    assert bench.client.wait_for_trigger("map", SOON) is None
    summed = bench.client.wait_for_trigger("sum", SOON, firings=40)
    assert summed is not None
    assert summed.context == {"sum": sum(range(40)) * 2}
    assert bench.client.wait_for_trigger("joined", SOON) is None


TEXT = ["to be or not", "to be that is", "the question"]


@pytest.mark.everywhere
def test_dag_count_words_and_merge_dicts(bench: Bench, app: durable.Registry) -> None:
    """As Triggerflow's own map does, this one tells the join how many there are, by changing its context."""

    @app.activity
    def count_words(text: str) -> dict[str, int]:
        return Counter(text.split())

    @app.activity
    def merge_dicts(dicts: list[dict[str, int]]) -> dict[str, int]:
        return sum(map(Counter, dicts), Counter())

    @app.action
    def count_each(context: TriggerContext, event: CloudEvent) -> None:
        context.do(actions.change_trigger("merge", context={"upstream": {"count": len(data(event))}}))
        for text in data(event):
            context.do(actions.call_activity(count_words, text, subject="count"))

    @app.action
    def merge(context: TriggerContext, event: CloudEvent) -> None:
        context.do(actions.call_activity(merge_dicts, context["given"]["count"]))

    bench.client.add_trigger("count", on=EventPattern(type="start"), action=count_each)
    bench.client.add_trigger("merge", on=after("count"), condition="upstream_done", action=merge)
    bench.client.add_trigger("words", on=after("merge"), action="keep")
    bench.serve(app)
    bench.client.publish(event("start", TEXT))
    assert result(bench, "words") == Counter(" ".join(TEXT).split())


def test_dag_pi_montecarlo_and_array_average(bench: Bench, app: durable.Registry) -> None:
    """15 simulations of 50 points; unlike there, the average gets what they have found."""

    @app.activity
    def pi_montecarlo(seed: int, given: Any) -> float:
        chance = random.Random(seed)
        return sum(chance.random() ** 2 + chance.random() ** 2 <= 1 for _ in range(50)) * 4 / 50

    @app.activity
    def array_average(what: str, given: dict[str, list[float]]) -> float:
        return fmean(given[what])

    tasks = [
        task("simulation", pi_montecarlo, {}, list(range(15))),
        task("average", array_average, {"simulation": 15}, ["simulation"]),
        {"trigger_id": "pi", "on": after("average"), "action": "keep"},
    ]
    assert bench.client.add_triggers(tasks).refused == {}
    bench.serve(app)
    bench.client.publish(event("start"))
    assert result(bench, "pi") == fmean(pi_montecarlo(seed, None) for seed in range(15))


def test_eventsourcing_example(bench: Bench, app: durable.Registry) -> None:
    """A workflow as code: a call, a map over what it gave, an event from outside."""

    @app.activity
    def numbers(count: int) -> list[int]:
        return list(range(count))

    @app.activity
    def square(number: int) -> int:
        return number * number

    @app.orchestrator
    def workflow(ctx: durable.OrchestrationContext, count: int) -> Steps:
        found = yield ctx.call_activity(numbers, count)
        squares = yield ctx.map(square, found)
        factor = yield ctx.wait_for_external_event("factor")
        return sum(squares) * factor

    bench.serve(app)
    handle = bench.start(workflow, 5)
    tell = actions.raise_event("factor", instance_id=handle.instance_id)
    bench.client.add_trigger("factor", on=EventPattern(type="factor"), action=tell)
    bench.client.publish(event("factor", 10))
    assert handle.result(SOON) == 300


def test_geospatial_workflow(bench: Bench, app: durable.Registry) -> None:
    """Two sources, four interpolations in 2 x 2 blocks after both of them, five merges, and what combines these."""

    @app.activity
    def get_stations(item: Any, given: Any) -> str:
        return "stations"

    @app.activity
    def asc_to_geotiff(key: str, given: Any) -> str:
        return key.replace(".asc", ".tif")

    @app.activity
    def interpolate(block: tuple[str, int, int], given: dict[str, list[str]]) -> int:
        assert given == {"get_stations": ["stations"], "asc_to_geotiff": ["tile.tif"]}
        what, x, y = block
        return len(what) * (x + 2 * y)

    @app.activity
    def gather_blocks(what: str, given: dict[str, list[int]]) -> dict[str, int]:
        return {what: sum(given[what])}

    @app.activity
    def combine(item: Any, given: dict[str, list[dict[str, int]]]) -> dict[str, int]:
        return {what: total for found in given.values() for what, total in found[0].items()}

    kinds = ("radiance", "temperature", "wind", "humidity")
    merges = {**{f"merge_{kind}": kind for kind in kinds}, "merge_extraterrestrial": "radiance"}
    sources = {"get_stations": 1, "asc_to_geotiff": 1}
    tasks = [
        task("get_stations", get_stations, {}, [None]),
        task("asc_to_geotiff", asc_to_geotiff, {}, ["tile.asc"]),
        *(task(kind, interpolate, sources, [[kind, x, y] for x in (0, 1) for y in (0, 1)]) for kind in kinds),
        *(task(name, gather_blocks, {kind: 4}, [kind]) for name, kind in merges.items()),
        task("combine", combine, dict.fromkeys(merges, 1), [None]),
        {"trigger_id": "water", "on": after("combine"), "action": "keep"},
    ]
    assert bench.client.add_triggers(tasks).refused == {}
    bench.serve(app)
    bench.client.publish(event("start"))
    assert result(bench, "water") == {kind: len(kind) * 6 for kind in kinds}
    assert bench.client.list_triggers() == []


def test_montage_workflow(bench: Bench, app: durable.Registry) -> None:
    """Three branches of stages; how wide a map is, only the stage before it says. A stage adds the trigger of the next.

    The images are in a bucket, as there: the mosaic only waits until each branch has put its own there.
    """
    ran: list[tuple[str, str]] = []
    bucket: dict[str, str] = {}

    @app.activity
    def execute(colour: str, stage: str, images: list[str]) -> list[str]:
        ran.append((colour, stage))
        if stage == "download":
            return [f"{colour}-{number}" for number in range(len(colour))]
        if stage == "view":
            bucket[colour] = " ".join(sorted(images))
        return images

    @app.activity
    def mosaic(colours: list[str]) -> list[str]:
        return [bucket[colour] for colour in colours]

    def following(name: str, on: list[EventPattern], context: dict[str, Any]) -> Any:
        return actions.add_trigger(name, on=on, condition="upstream_done", action=run_stage, context=context)

    @app.action
    def run_stage(context: TriggerContext, event: CloudEvent) -> None:
        colour, (stage, *later) = context["colour"], context["stages"]
        images = [image for found in context["given"].values() for part in found for image in part]
        jobs = [[image] for image in images] if stage in ("project", "diff", "background") else [images]
        for job in jobs:
            context.do(actions.call_activity(execute, [colour, stage, job], subject=context.trigger_id))
        if later:
            kept = {"colour": colour, "stages": later, "upstream": {context.trigger_id: len(jobs)}}
            context.do(following(f"{colour}.{later[0]}", after(context.trigger_id), kept))

    colours = ["blue", "red", "ir"]
    stages = ["download", "project", "diff", "concat", "model", "background", "add"]
    for colour in colours:
        brighter = ["background"] * 5 if colour == "blue" else []  # so that the others are there long before
        kept = {"colour": colour, "stages": [*stages, *brighter, "view"], "given": {}}
        bench.client.add_trigger(f"{colour}.download", on=EventPattern(type="start"), action=run_stage, context=kept)
    views = [f"{colour}.view" for colour in colours]
    merge = actions.call_activity(mosaic, colours)
    bench.client.add_trigger("mosaic", on=after(*views), condition=conditions.join_subjects(views), action=merge)
    bench.client.add_trigger("merged", on=after("mosaic"), action="keep")
    bench.serve(app)
    bench.client.publish(event("start"))
    assert result(bench, "merged") == ["blue-0 blue-1 blue-2 blue-3", "red-0 red-1 red-2", "ir-0 ir-1"]
    assert Counter(ran)["ir", "project"] == 2
    assert Counter(ran)["ir", "model"] == 1


@pytest.mark.parametrize("drawn", [-3, 3])
def test_state_machine_example_as_triggers(bench: Bench, app: durable.Registry, drawn: int) -> None:
    """Its mixed.json: a Choice is two triggers for one event, a Parallel is two as well, a Map adds its join."""

    @app.activity
    def generate_random() -> dict[str, int]:
        return {"random": drawn}

    @app.activity
    def absolute(given: dict[str, int]) -> int:
        return abs(given["random"])

    @app.activity
    def generate_list(size: int) -> list[int]:
        return list(range(size))

    @app.activity
    def add(x: int, y: int) -> int:
        return x + y

    def output(name: str, content: Any) -> Any:
        return actions.publish(event("output", content, subject=name))

    @app.action
    def pass_number(context: TriggerContext, event: CloudEvent) -> None:
        context.do(output("number", data(event)["random"]))

    def join(name: str, on: list[EventPattern], context: dict[str, Any]) -> Any:
        return actions.add_trigger(name, on=on, condition="upstream_done", action=put_out, context=context)

    @app.action
    def map_add(context: TriggerContext, event: CloudEvent) -> None:
        name, items = context.trigger_id, data(event)
        kept = {"upstream": {name: len(items)}, "output": name}
        context.do(join(f"{name}.join", after(name), kept))
        for item in items:
            context.do(actions.call_activity(add, [item, context["y"]], subject=name))

    @app.action
    def put_out(context: TriggerContext, event: CloudEvent) -> None:
        (found,) = context["given"].values()
        context.do(output(context["output"], sorted(found)))

    @app.action
    def end(context: TriggerContext, event: CloudEvent) -> None:
        context.workspace["End"] = {name: found for name, [found] in context["given"].items()}
        context.do(actions.terminate_workspace)  # the way that was not chosen is still there

    choice = after("GenerateRandom")
    add_trigger, call = bench.client.add_trigger, actions.call_activity
    add_trigger("GenerateRandom", on=EventPattern(type="start"), action=call(generate_random))
    negative, positive = conditions.expression("data.random < `0`"), conditions.expression("data.random > `0`")
    add_trigger("ToPositive", on=choice, condition=negative, action=call(absolute, subject="number"))
    add_trigger("Pass", on=choice, condition=positive, action=pass_number)
    add_trigger("GenerateList", on=EventPattern(subject="number"), action=call(generate_list))
    for name, y in (("MapAdd1", 100), ("MapAdd2", -100)):
        add_trigger(name, on=after("GenerateList"), action=map_add, context={"y": y})
    outputs = [EventPattern(type="output", subject=name) for name in ("MapAdd1", "MapAdd2")]
    both = {"upstream": {"MapAdd1": 1, "MapAdd2": 1}}
    add_trigger("End", on=outputs, condition="upstream_done", action=end, context=both)
    bench.serve(app)
    bench.client.publish(event("start"))
    assert result(bench, "End") == {"MapAdd1": [100, 101, 102], "MapAdd2": [-100, -99, -98]}
    assert bench.client.list_triggers() == []


def test_statemachines_as_an_orchestrator(bench: Bench, app: durable.Registry) -> None:
    """Pass, Task, Choice, Map and Parallel of the Amazon States Language: an orchestrator that interprets them."""

    @app.activity
    def double(number: int) -> int:
        return number * 2

    @app.activity
    def reduce(pairs: list[list[int]]) -> int:
        return sum(map(sum, pairs))

    @app.orchestrator
    def machine(ctx: durable.OrchestrationContext, states: dict[str, Any], start: str, data: Any) -> Steps:
        name: str | None = start
        while name is not None:
            state = states[name]
            if state["Type"] == "Pass":
                data = state.get("Result", data)
            elif state["Type"] == "Task":
                data = yield ctx.call_activity(state["Resource"], data)
            elif state["Type"] == "Map":
                inner = state["Iterator"]
                data = yield ctx.map(machine, [[inner["States"], inner["StartAt"], item] for item in data])
            elif state["Type"] == "Parallel":
                data = yield [
                    ctx.call_sub_orchestrator(machine, branch["States"], branch["StartAt"], data)
                    for branch in state["Branches"]
                ]
            else:
                chosen = (choice["Next"] for choice in state["Choices"] if data > choice["NumericGreaterThan"])
                name = next(chosen, state["Default"])
                continue
            name = state.get("Next")
        return data

    twice = {"StartAt": "Twice", "States": {"Twice": {"Type": "Task", "Resource": "double"}}}
    same = {"StartAt": "Same", "States": {"Same": {"Type": "Pass"}}}
    both = {"StartAt": "Both", "States": {"Both": {"Type": "Parallel", "Branches": [same, twice]}}}
    states: dict[str, Any] = {
        "SetUp": {"Type": "Pass", "Result": [1, 2, 3], "Next": "Map"},
        "Map": {"Type": "Map", "Iterator": both, "Next": "Reduce"},
        "Reduce": {"Type": "Task", "Resource": "reduce", "Next": "Large?"},
        "Large?": {"Type": "Choice", "Choices": [{"NumericGreaterThan": 17, "Next": "Large"}], "Default": "Small"},
        "Large": {"Type": "Pass", "Result": "large"},
        "Small": {"Type": "Pass", "Result": "small"},
    }
    bench.serve(app)
    assert bench.run(machine, states, "SetUp", None) == "large"
    assert bench.run(machine, {**states, "SetUp": {**states["SetUp"], "Result": [1, 2]}}, "SetUp", None) == "small"
