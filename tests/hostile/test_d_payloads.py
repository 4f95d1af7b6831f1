"""D: payloads that break readers of JSON. What is refused is refused at the call (`test_bad_input.py`); what is taken
comes back exactly, over a store, an activity, a child and an event.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

import durable
from tests.product.command_line import Here
from tests.waiting import SOON

KB: Final = 1024
Steps = Generator[Any, Any, Any]


@pytest.fixture(
    scope="module",
    params=["memory", "sqlite", "redis", pytest.param("dynamodb", marks=pytest.mark.slow), "rabbitmq", "streams"],
)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[durable.Client]:
    """On each store, and where activities travel over a broker; with a worker."""

    def server(name: str) -> Any:
        return request.getfixturevalue(f"{name}_server")

    workspace = uuid4().hex[:8]
    file = f"sqlite:///{tmp_path_factory.mktemp('d')}/store.db"
    places: dict[str, Callable[[], tuple[str, str | None]]] = {
        "memory": lambda: (f"memory://{workspace}", None),
        "sqlite": lambda: (file, None),
        "redis": lambda: (server("redis").url + "?partitions=1", None),
        "dynamodb": lambda: (server("dynamodb").url("&partitions=1"), None),
        "rabbitmq": lambda: (file, server("rabbitmq").url()),
        "streams": lambda: (file, server("redis").url),
    }
    url, events = places[request.param]()
    registry = durable.Registry()

    @registry.activity(name="same")
    def same(value: Any) -> Any:
        return value

    @registry.orchestrator(name="child")
    def child(ctx: durable.OrchestrationContext, value: Any) -> Steps:
        return (yield ctx.call_activity("same", value))

    @registry.orchestrator(name="echo")
    def echo(ctx: durable.OrchestrationContext, value: Any) -> Steps:
        came = yield ctx.wait_for_external_event("value")
        assert exactly(came, value)
        return (yield ctx.call_sub_orchestrator("child", value))

    with (
        durable.connect(url, events=events, workspace=workspace) as made,
        durable.Worker(made, registry=registry, eager_activities=False if events else None, shutdown_grace=0),
    ):
        yield made


def exactly(one: Any, other: Any) -> bool:
    """Also of one type: 1, 1.0 and True are three things, and -0.0 is not 0.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def comes_back(client: durable.Client, value: Any) -> None:
    handle = client.start_orchestration("echo", value)
    handle.raise_event("value", value)
    assert exactly(handle.result(SOON), value)
    status = handle.status()
    assert exactly(status.input, value)
    assert exactly(status.output, value)


SMALL: Final[dict[str, Any]] = {
    "case 72 numbers at the edges": [-0.0, 5e-324, 1.7976931348623157e308, 1e-307, 0.1, 1e22],
    "case 73 integers that a double can not hold": [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 9007199254740993],
    "case 74 64 deep": json.loads("[" * 64 + "]" * 64),
    "case 76 odd characters": [
        "\u0000",
        "a\u0000b",
        "\ufffe\uffff",
        "\U0010ffff",
        "\u2028\u2029",
        "\x7f\x1b[31m",
        "e\u0301",
    ],
    "case 78 what is empty": [[], {}, "", [[]], [{}], {"a": []}, {"": {}}, None],
    "case 79 what other libraries would run": [
        {"__class__": "os.system", "args": ["touch ran"]},
        {"py/object": "os.system", "py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["touch ran"]}]},
        {"$type": "System.Diagnostics.Process"},
        {"__reduce__": ["os.system", ["touch ran"]]},
        {"!!python/object/apply:os.system": ["touch ran"]},
        {"__proto__": {"a": 1}, "constructor": {"prototype": 1}},
    ],
    "case 75 keys that look alike": {"a": 1, "A": 2, "\u00e9": 3, "e\u0301": 4, "a ": 5, "": 6},
}
EDGES: Final = {
    f"case 80 {size:,} bytes": size for base in (64, 256, 400) for size in range(base * KB - 1, base * KB + 2)
}
LARGE: Final = 32 * KB * KB


@pytest.mark.parametrize("value", SMALL.values(), ids=SMALL.keys())
def test_it_comes_back_exactly(client: durable.Client, value: Any) -> None:
    comes_back(client, value)


@pytest.mark.parametrize("size", EDGES.values(), ids=EDGES.keys())
def test_it_comes_back_around_the_sizes_at_which_stores_change_their_ways(client: durable.Client, size: int) -> None:
    text = "x" * (size - 2)  # as JSON, in quotes
    handle = client.start_orchestration("child", text)
    assert handle.result(SOON) == text


def test_case_77_a_key_of_a_megabyte_and_keys_of_one_hash(client: durable.Client) -> None:
    value = {"k" * 1_000_000: 1, **{str(n): n for n in range(20_000)}}
    assert client.start_orchestration("child", value).result(SOON) == value


@pytest.mark.slow
def test_case_77_a_million_keys(client: durable.Client) -> None:
    value = {str(n): n for n in range(1_000_000)}
    assert client.start_orchestration("child", value).result(SOON) == value


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_case_80_32_megabytes_are_the_limit(more: int) -> None:
    text = "x" * (LARGE - 2 + more)
    registry = durable.Registry()

    @registry.orchestrator(name="length")
    def length(ctx: durable.OrchestrationContext, text: str) -> int:
        return len(text)

    with durable.connect(f"memory://{uuid4().hex}") as client, durable.Worker(client, registry=registry):
        if more > 0:
            with pytest.raises(durable.PayloadError, match=r"33,554,433 bytes .* Limits\(payload_bytes"):
                client.start_orchestration("length", text)
        else:
            assert client.start_orchestration("length", text).result(SOON) == len(text)


# ---- JSON that somebody wrote: on the command line

WRITTEN: Final = {
    "case 71 NaN": "NaN",
    "case 71 Infinity": "[Infinity]",
    "case 71 minus infinity": '{"a": -Infinity}',
    "case 72 1e400": "1e400",
    "case 73 4,301 digits": "1" * 4301,
    "case 74 65 deep": "[" * 65 + "]" * 65,
    "case 74 100,000 deep": "[" * 100_000 + "]" * 100_000,
    "case 74 100,000 that nobody closes": "[" * 100_000,
    "case 76 half of a character": '"\\ud800"',
    "case 76 two halves in the wrong order": '"\\udc00\\ud800"',
}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, monkeypatch)


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN.keys())
def test_it_is_refused_on_the_command_line(command: Here, text: str) -> None:
    command.says("start", "order", "--id", "there")
    (command.folder / "input.json").write_text(text)
    for arguments in (
        ("start", "order", "--id", "other", "--input", "@input.json"),
        ("raise", "there", "event", "--data", "@input.json"),
    ):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert "JSON" in done.stderr or "$" in done.stderr
        assert len(done.stderr) < 2_000
    assert command.says("--json", "list").count('"instance_id"') == 1
    assert command.says("--json", "history", "there").count("EventRaised") == 0


def test_case_72_minus_zero_and_what_is_too_small_on_the_command_line(command: Here) -> None:
    command.says("start", "order", "--id", "there", "--input", "[-0.0, 1E-400, 5e-324]")
    [shown] = [json.loads(line) for line in command.says("--json", "show", "there").splitlines()]
    assert repr(shown["input"]) == "[-0.0, 0.0, 5e-324]"


def test_case_75_of_two_values_under_one_key_the_last_counts(command: Here) -> None:
    """As RFC 8259 leaves open, and as Python reads it: everywhere the same."""
    command.says("start", "order", "--id", "there", "--input", '{"a":1,"a":2}')
    [shown] = [json.loads(line) for line in command.says("--json", "show", "there").splitlines()]
    assert shown["input"] == {"a": 2}
