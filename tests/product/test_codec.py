"""Payloads under a codec: what is stored, who can read it, and what happens to those who can't."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import OrchestrationContext
from tests.waiting import SOON

from .command_line import Command
from .conftest import Bench, Heard, Place

pytestmark = pytest.mark.everywhere

SECRET = "hunter2 the unlikely"


class Scrambled:
    """Never the same twice, as encryption with a nonce is, and refused without the key."""

    def __init__(self, key: int = 7) -> None:
        self.key = key

    def encode(self, data: bytes) -> bytes:
        nonce = os.urandom(8)
        return bytes([self.key]) + nonce + self._mixed(data, nonce)

    def decode(self, data: bytes) -> bytes:
        if data[0] != self.key:
            raise KeyError("not this key")
        return self._mixed(data[9:], data[1:9])

    def _mixed(self, data: bytes, nonce: bytes) -> bytes:
        return bytes(byte ^ nonce[number % 8] ^ self.key for number, byte in enumerate(data))


@dataclass
class Card:
    number: str
    limit: int = 3


class Refused(Exception):
    pass


def flows() -> durable.Registry:
    registry = durable.Registry()

    @registry.activity(name="charge")
    def charge(card: Card, note: str) -> Card:
        return Card(card.number + "!", card.limit + 1)

    @registry.activity(name="refuse")
    def refuse(text: str) -> None:
        raise Refused(text) from ValueError(text)

    @registry.orchestrator(name="child")
    def child(ctx: OrchestrationContext, text: str) -> str:
        return text

    @registry.orchestrator(name="all")
    def everything(ctx: OrchestrationContext, card: Card) -> Generator[Any, Any, Any]:
        ctx.set_custom_status({"card": card})
        card = yield ctx.call_activity(charge, card, SECRET)
        inner = yield ctx.call_sub_orchestrator(child, SECRET)
        event = yield ctx.wait_for_external_event("go", type=Card)
        try:
            yield ctx.call_activity(refuse, SECRET)
        except durable.TaskFailedError as error:
            assert error.failure.is_caused_by(Refused)
            return [card, inner, event, str(error)]

    @registry.orchestrator(name="fails")
    def fails(ctx: OrchestrationContext) -> Generator[Any, Any, None]:
        yield ctx.call_activity(refuse, SECRET)

    @registry.orchestrator(name="short")
    def short(ctx: OrchestrationContext) -> Generator[Any, Any, str]:
        return (yield from ctx.wait_for_external_event("go", type=str))

    return registry


@pytest.fixture
def coded(bench: Bench) -> durable.Client:
    return bench.connect(codec=Scrambled())


def serve(bench: Bench, client: durable.Client, stack: ExitStack, registry: durable.Registry) -> durable.Worker:
    cached = 0 if bench.cold else 100
    worker = durable.Worker(client, registry=registry, shutdown_grace=0, max_cached_orchestrations=cached)
    return stack.enter_context(worker)


def test_everything_a_user_passes_is_sealed_and_comes_back(bench: Bench, coded: durable.Client) -> None:
    with ExitStack() as stack:
        serve(bench, coded, stack, flows())
        handle = coded.start_orchestration("all", Card(SECRET), instance_id="order-42", tags={"shop": "north"})
        handle.raise_event("go", Card(SECRET, 9))
        output = handle.result(SOON, on_blocked="raise")
        assert output[:3] == [{"number": SECRET + "!", "limit": 4}, SECRET, {"number": SECRET, "limit": 9}]
        assert SECRET in output[3]
        failed = coded.start_orchestration("fails", instance_id="broken")
        with pytest.raises(durable.OrchestrationFailedError, match=SECRET):
            failed.result(SOON)
        terminated = coded.start_orchestration("short", instance_id="ended")
        terminated.terminate(SECRET)
        with pytest.raises(durable.OrchestrationTerminatedError, match=SECRET):
            terminated.result(SOON)
    with_it = coded.get_status("order-42", history=True)
    assert with_it is not None
    assert with_it.input == {"number": SECRET, "limit": 3}
    assert with_it.custom_status == {"card": with_it.input}

    without = bench.client.get_status("order-42", history=True)
    assert without is not None
    assert without.history is not None
    assert SECRET not in repr(without)
    assert all(str(value).startswith("(encoded by a codec") for value in (without.input, without.output))
    # Names, ids, tags and the types of failures stay readable.
    assert (without.name, without.tags) == ("all", {"shop": "north"})
    assert {event.name for event in without.history} >= {"charge", "child", "go", "refuse"}
    (failure,) = [event.failure for event in without.history if event.failure is not None]
    assert failure.type.endswith("Refused")
    assert failure.is_caused_by(Refused)
    assert "DURABLE_CODEC" in failure.message
    assert SECRET not in repr(bench.client.list_orchestrations().items)
    assert SECRET not in repr(bench.client.history("order-42", as_cloudevents=True))
    with pytest.raises(durable.PayloadError, match=r"output of orchestration 'order-42' .*codec=") as caught:
        bench.client.handle("order-42").result(SOON)
    assert SECRET not in str(caught.value)


def test_every_life_of_an_orchestration_is_sealed(bench: Bench, coded: durable.Client) -> None:
    """Continued as new, rewound, restarted, replaced, forked: each writes what another life had read."""
    registry, broken = flows(), [True]

    @registry.activity(name="ship")
    def ship(card: Card) -> Card:
        if broken:
            raise Refused(card.number)
        return Card(card.number, card.limit + 1)

    @registry.orchestrator(name="rounds")
    def rounds(ctx: OrchestrationContext, cards: list[Card]) -> Generator[Any, Any, Any]:
        event = yield ctx.wait_for_external_event("go", type=Card)
        if len(cards) < 2:
            ctx.continue_as_new([*cards, event])
            return None
        return (yield [ctx.call_activity("charge", card, SECRET) for card in cards])

    @registry.orchestrator(name="ships")
    def ships(ctx: OrchestrationContext, card: Card) -> Generator[Any, Any, Any]:
        event = yield ctx.wait_for_external_event("go", type=Card)
        return [event, (yield ctx.call_sub_orchestrator("child ships", card))]

    @registry.orchestrator(name="child ships")
    def child_ships(ctx: OrchestrationContext, card: Card) -> Generator[Any, Any, Any]:
        return (yield ctx.call_activity(ship, card))

    def sealed(instance_id: str) -> None:
        told = bench.client.get_status(instance_id, history=True)
        assert told is not None
        assert SECRET not in repr(told)
        assert "(encoded by a codec" in str(told.input)

    went, shipped = {"number": SECRET, "limit": 9}, {"number": SECRET, "limit": 4}
    with ExitStack() as stack:
        serve(bench, coded, stack, registry)
        handle = coded.start_orchestration("rounds", [Card(SECRET)], instance_id="order-42")
        for limit in (8, 9):  # the second one is early, and carried over
            handle.raise_event("go", Card(SECRET, limit))
        charged = [{"number": SECRET + "!", "limit": limit} for limit in (4, 9)]
        assert handle.result(SOON, on_blocked="raise") == charged
        sealed("order-42")
        last = len(coded.history("order-42")) - 2
        forked = [coded.fork("order-42", after=after) for after in (0, last)]
        forked[0].raise_event("go", Card(SECRET))
        assert [fork.result(SOON, on_blocked="raise") for fork in forked] == [charged] * 2

        handle = coded.start_orchestration("ships", Card(SECRET), instance_id="order-43")
        handle.raise_event("go", Card(SECRET, 9))
        with pytest.raises(durable.OrchestrationFailedError, match=SECRET):
            handle.result(SOON)
        broken.clear()
        coded.rewind("order-43", {"because": SECRET})
        assert handle.result(SOON, on_blocked="raise") == [went, shipped]
        assert {"because": SECRET} in [event.input for event in coded.history("order-43")]
        for again in (coded.restart("order-43"), coded.restart("order-43", new_instance_id="order-43")):
            again.raise_event("go", Card(SECRET, 9))
            assert again.result(SOON, on_blocked="raise") == [went, shipped]
            sealed(again.instance_id)
        coded.start_orchestration("short", instance_id="order-43", if_exists="replace").raise_event("go", SECRET)
        assert handle.result(SOON, on_blocked="raise") == SECRET
        sealed(forked[1].instance_id)
        # Whoever has no codec sees families and ends all the same, and may purge.
        assert bench.client.purge("order-42") == 1
        assert bench.client.purge_where() == 7
        assert coded.list_orchestrations().items == []


@pytest.mark.embedded("it looks into the file")
def test_the_file_holds_no_secret(tmp_path: Path, bench: Bench, coded: durable.Client) -> None:
    with ExitStack() as stack:
        serve(bench, coded, stack, flows())
        handle = coded.start_orchestration("all", Card(SECRET))
        handle.raise_event("go", Card(SECRET))
        handle.result(SOON)
        coded.start_orchestration("short").terminate(SECRET)
    if bench.place.url.startswith("sqlite"):
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(b"charge" in path.read_bytes() for path in files)
        assert not any(b"hunter2" in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("other", "why"),
    [(None, "that this process does not have"), (Scrambled(8), "its decode raised KeyError")],
    ids=["no codec", "wrong key"],
)
def test_who_cannot_read_it_blocks_it_until_somebody_can(
    bench: Bench, coded: durable.Client, other: Scrambled | None, why: str
) -> None:
    blind = bench.client if other is None else bench.connect(codec=other)
    handle = coded.start_orchestration("short", instance_id="order-42")
    with ExitStack() as stack:
        serve(bench, blind, stack, flows())
        with pytest.raises(durable.OrchestrationBlockedError) as caught:
            blind.handle("order-42").result(SOON, on_blocked="raise")
    assert why in caught.value.reason
    assert "'order-42': its input" in caught.value.reason
    assert "DURABLE_CODEC" in caught.value.reason
    with ExitStack() as stack:
        serve(bench, coded, stack, flows())
        handle.raise_event("go", SECRET)
        assert handle.result(SOON) == SECRET


def test_a_codec_is_introduced_while_orchestrations_live(bench: Bench, coded: durable.Client) -> None:
    registry = flows()
    handle = bench.client.start_orchestration("all", Card(SECRET), instance_id="order-42")
    with ExitStack() as stack:
        serve(bench, bench.client, stack, registry)
        bench.until_recorded(handle, "EventAwaited")
    with ExitStack() as stack:
        serve(bench, coded, stack, registry)
        coded.raise_event("order-42", "go", Card("1", 9))
        assert coded.handle("order-42").result(SOON)[2] == {"number": "1", "limit": 9}
    status = bench.client.get_status("order-42")
    assert status is not None
    assert status.input == {"number": SECRET, "limit": 3}


def test_an_event_that_cannot_be_read_blocks_what_was_plain(bench: Bench, coded: durable.Client) -> None:
    handle = bench.client.start_orchestration("short", instance_id="order-42")
    with ExitStack() as stack:
        serve(bench, bench.client, stack, flows())
        bench.until_recorded(handle, "EventAwaited")
        coded.raise_event("order-42", "go", SECRET)
        assert "the data of event 'go' was encoded by a codec" in bench.blocked(handle)
    with ExitStack() as stack:
        serve(bench, coded, stack, flows())
        assert coded.handle("order-42").result(SOON) == SECRET


def test_why_it_is_blocked_is_sealed_too(bench: Bench, coded: durable.Client) -> None:
    handle = coded.start_orchestration("all", Card(SECRET), instance_id="order-42")
    with ExitStack() as stack:
        serve(bench, coded, stack, flows())
        bench.until_recorded(handle, "EventAwaited")
    changed = durable.Registry()

    @changed.orchestrator(name="all")
    def other(ctx: OrchestrationContext, card: Card) -> Generator[Any, Any, None]:
        yield ctx.call_activity("charge", card, "other")

    with ExitStack() as stack:
        serve(bench, coded, stack, changed)
        handle.raise_event("go", Card("1"))
        with pytest.raises(durable.OrchestrationBlockedError, match=SECRET):
            handle.result(SOON, on_blocked="raise")
    with pytest.raises(durable.OrchestrationBlockedError, match=r"\(encoded by a codec") as caught:
        bench.client.handle("order-42").result(SOON, on_blocked="raise")
    assert SECRET not in str(caught.value)


def test_an_activity_s_worker_that_cannot_read_the_input_leaves_it(
    place_of: Callable[[str], Place], log: Heard
) -> None:
    """The worker that took the turn has the codec but not the activity; the next one has the activity only."""
    place = place_of("redis")
    without_charge, whole = durable.Registry(), flows()
    for registry in (without_charge, whole):

        @registry.orchestrator(name="calls")
        def calls(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
            return (yield ctx.call_activity("charge", Card(SECRET), "x"))

    with place.connect(codec=Scrambled()) as coded, place.connect() as blind:
        handle = coded.start_orchestration("calls", instance_id="order-42")
        with durable.Worker(coded, registry=without_charge, shutdown_grace=0):
            log.wait_for("'charge' (instance 'order-42') waits: no worker here serves it")
        with durable.Worker(blind, registry=whole, shutdown_grace=0):
            log.wait_for("'charge' (instance 'order-42') waits: its input was encoded by a codec")
        with durable.Worker(coded, registry=whole, shutdown_grace=0):
            assert handle.result(SOON, on_blocked="raise") == {"number": SECRET + "!", "limit": 4}


@pytest.mark.parametrize("name", ["charge", "refuse"])
def test_an_outcome_that_cannot_be_read_blocks(place_of: Callable[[str], Place], name: str) -> None:
    """Only the worker that runs the activity has the codec."""
    place = place_of("redis+rabbitmq")
    registry = flows()

    @registry.orchestrator(name="calls")
    def calls(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        arguments = [Card(SECRET), "x"] if name == "charge" else [SECRET]
        try:
            return (yield ctx.call_activity(durable.activity_ref(name, queue="vault"), *arguments))
        except durable.TaskFailedError as error:
            return error.failure.message

    with place.connect() as blind, place.connect(codec=Scrambled()) as coded:
        handle = blind.start_orchestration("calls", instance_id="order-42")
        with durable.Worker(coded, registry=registry, queues=["vault"], groups=["none"], shutdown_grace=0):
            told = pytest.raises(durable.OrchestrationBlockedError)
            with durable.Worker(blind, registry=registry, shutdown_grace=0), told as caught:
                handle.result(SOON, on_blocked="raise")
            assert f"'order-42': the outcome of <activity '{name}'> (task 1)" in caught.value.reason
            assert "DURABLE_CODEC" in caught.value.reason
            with durable.Worker(coded, registry=registry, shutdown_grace=0):
                output = coded.handle("order-42").result(SOON)
        assert output == ({"number": SECRET + "!", "limit": 4} if name == "charge" else SECRET)


@pytest.mark.embedded("no store takes part")
def test_limits_hold_before_and_after_the_codec(bench: Bench) -> None:
    class Padding:
        def encode(self, data: bytes) -> bytes:
            return data + b" " * 1_000

        def decode(self, data: bytes) -> bytes:
            return data[:-1_000]

    limits = durable.Limits(payload_bytes=2_000)
    for codec, size, told in [
        (Padding(), 300, None),
        (Padding(), 1_000, "2,693 bytes as its codec writes it, above the limit of 2,000"),
        (_Zlib(), 1_900, None),
        (_Zlib(), 2_100, "2,102 bytes of JSON, above the limit of 2,000"),
    ]:
        client = bench.connect(codec=codec, limits=limits)
        if told is None:
            client.start_orchestration("short", "x" * size)
        else:
            with pytest.raises(durable.PayloadError, match=rf"input of orchestrator 'short': \$ is {told}"):
                client.start_orchestration("short", "x" * size)


class _Zlib:
    encode = staticmethod(zlib.compress)
    decode = staticmethod(zlib.decompress)


class _Broken(Scrambled):
    broken = False

    def encode(self, data: bytes) -> bytes:
        if self.broken:
            raise OSError("no key service")
        return super().encode(data)


def test_a_codec_that_fails_for_a_while_loses_nothing(bench: Bench) -> None:
    codec = _Broken()
    client = bench.connect(codec=codec)
    handle = client.start_orchestration("short", instance_id="order-42")
    with ExitStack() as stack:
        serve(bench, client, stack, flows())
        bench.until_recorded(handle, "EventAwaited")
        handle.raise_event("go", SECRET)
        codec.broken = True
        with pytest.raises(durable.StoreError, match=r"could not encode a payload \(it raised OSError\)"):
            client.start_orchestration("short")
        codec.broken = False
        assert handle.result(SOON) == SECRET


@pytest.mark.embedded("no store takes part")
@pytest.mark.parametrize(
    ("codec", "error", "told"),
    [
        (object(), TypeError, r"codec= takes an object with encode\(bytes\) and decode\(bytes\), not object"),
        (_Zlib, None, ""),
        (type("Lossy", (), {"encode": lambda s, d: d, "decode": lambda s, d: d[:-1]})(), ValueError, "does not give"),
        (type("Text", (), {"encode": lambda s, d: d.hex(1, "-"), "decode": lambda s, d: d})(), ValueError, "trying it"),
    ],
    ids=["none", "fine", "lossy", "text"],
)
def test_what_is_no_codec_is_told_at_once(bench: Bench, codec: Any, error: type[Exception] | None, told: str) -> None:
    if error is None:
        bench.connect(codec=codec)
        return
    with pytest.raises(error, match=told):
        bench.connect(codec=codec)


@pytest.mark.embedded("no store takes part")
def test_the_mark_of_a_codec_is_reserved(bench: Bench) -> None:
    with pytest.raises(durable.PayloadError, match=r"first key begins with \$durable\."):
        bench.start("short", [{"$durable.codec": "x"}])
    bench.start("short", 'text {"$durable.codec":"x"} is no object')


KEYS = """
import zlib
class codec:
    encode = staticmethod(zlib.compress)
    decode = staticmethod(zlib.decompress)
"""


@pytest.mark.embedded("a folder of its own")
def test_the_environment_names_the_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "codec_keys.py").write_text(KEYS)
    with durable.connect("sqlite:///s.db") as plain:
        monkeypatch.setenv("DURABLE_CODEC", "codec_keys:codec")
        with durable.connect("sqlite:///s.db") as client:
            client.start_orchestration("short", SECRET, instance_id="order-42")
        status = plain.get_status("order-42")
        assert status is not None
        assert str(status.input).startswith("(encoded by a codec")
    monkeypatch.setenv("DURABLE_CODEC", "codec_keys:zlib")
    with pytest.raises(TypeError, match="codec= takes an object with"):
        durable.connect("sqlite:///s.db")
    for wrong in ("codec_keys", "codec_keys:none", "no_such_module:codec", ":x"):
        monkeypatch.setenv("DURABLE_CODEC", wrong)
        with pytest.raises(ValueError, match=f"DURABLE_CODEC='{wrong}'"):
            durable.connect("sqlite:///s.db")


@pytest.mark.embedded("a folder of its own")
def test_the_command_line_takes_the_codec_and_says_so_without(tmp_path: Path) -> None:
    command = Command(tmp_path)
    (tmp_path / "codec_keys.py").write_text(KEYS)
    with_it = {"DURABLE_CODEC": "codec_keys:codec"}
    said = command.says("run", "flows.py:order", "--input", f'"{SECRET}"', "--id", "order-42", **with_it)
    assert SECRET in said
    assert SECRET in command.says("show", "order-42", **with_it)
    for arguments in ("show order-42", "show order-42 --json", "history order-42", "list", "doctor"):
        assert SECRET not in command.says(*arguments.split())
    page = " ".join(command.says("show", "order-42").split())
    assert "order-42 COMPLETED" in page
    assert 'input "(encoded by a codec: give connect(codec=...), or DURABLE_CODEC, the codec and key' in page
