"""Exported histories: what goes out comes in again and goes out with the same bytes, and nothing else comes in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import durable
from durable.app.archive import Archive, ArchiveError, archive_of
from durable.app.archive_file import read_archive, write_archive
from durable.app.fitting import first_difference
from durable.app.restoring import restore
from durable.backends.memory import MemoryBackend, MemoryStore
from durable.testing import Environment
from durable.testing.programs import CODES
from durable.testing.random_programs import make_script
from durable.testing.simulated_world import World, make_plan

GOLDEN: Final = Path(__file__).resolve().parents[1] / "contracts" / "golden" / "history-1.jsonl"
NOW: Final = datetime(2026, 6, 1, tzinfo=timezone.utc)
Flow = Generator[Any, Any, Any]
Lines = list[Any]


def text_of(archive: Archive) -> bytes:
    return b"".join(write_archive(archive))


def parsed(text: bytes, limits: durable.Limits | None = None) -> Archive:
    return read_archive(io.BytesIO(text), limits)


# ---- round trips, over what simulated systems have written when they are stopped somewhere


def lives(seed: int) -> list[tuple[MemoryStore, str]]:
    """Random orchestrations and their children, at some moment of their lives."""
    random = Random(seed)
    scripts = [make_script(random) for _ in range(2)]
    world = World(random, make_plan(random, scripts, faults=random.random() < 0.5))
    world.run(patience=random.choice((random.uniform(0.4, 2.0) - world.plan.heal, 0.0, 30.0)))
    store = world.store.inner
    return [(store, instance_id) for instance_id in list(store._instances)]


@given(st.integers(0, 2**32))
@settings(max_examples=60)
def test_export_import_export_is_the_same_bytes_and_fits_its_code(seed: int) -> None:
    for store, instance_id in lives(seed):
        text = text_of(archive_of(store, instance_id))
        archive = parsed(text)
        assert text_of(archive) == text
        assert first_difference(archive, lambda name, version, first_turn: CODES.get(name)) == ""
        other = MemoryBackend(partitions=2)
        restore(other, archive, NOW, go_on=True)
        assert text_of(archive_of(other.store, instance_id)) == text
        with pytest.raises(durable.InstanceExistsError, match="taken"):
            restore(other, archive, NOW, go_on=True)


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_a_copy_differs_in_its_ids_only(seed: int) -> None:
    for store, instance_id in lives(seed):
        archive = archive_of(store, instance_id)
        other = MemoryBackend()
        restore(other, archive, NOW, go_on=True)
        assert restore(other, archive, NOW, instance_id="copy", go_on=True) == "copy"
        copy = archive_of(other.store, "copy")
        assert [e.events[1:] for e in copy.executions] == [e.events[1:] for e in archive.executions]
        assert not {e.id for e in copy.executions} & {e.id for e in archive.executions}
        assert (copy.summary.status, copy.summary.output) == (archive.summary.status, archive.summary.output)
        parsed(text_of(copy))


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_lines_that_are_missing_doubled_or_moved_are_found(seed: int, random: Random) -> None:
    for store, instance_id in lives(seed):
        lines = text_of(archive_of(store, instance_id)).splitlines(keepends=True)
        place = random.randrange(len(lines))
        cut = lines[: random.randrange(len(lines))]
        for wrong in (lines[:place] + lines[place + 1 :], lines[: place + 1] + lines[place:], cut):
            with pytest.raises(ArchiveError):
                parsed(b"".join(wrong))
        events = [number for number, line in enumerate(lines) if b'"event_id"' in line]
        if len(events) > 1:
            first, second = random.sample(events, 2)
            lines[first], lines[second] = lines[second], lines[first]
            with pytest.raises(ArchiveError):
                parsed(b"".join(lines))


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_whatever_is_in_a_file_it_is_read_or_refused(seed: int, random: Random) -> None:
    text = bytearray(GOLDEN.read_bytes())
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(text))
        text[place : place + random.randint(0, 8)] = random.randbytes(random.randint(0, 4))
    try:
        archive = parsed(bytes(text))
    except ArchiveError as error:
        assert str(error)
    else:
        restore(MemoryBackend(), archive, NOW, go_on=True)


# ---- the format

registry = durable.Registry()


@registry.activity(retry=durable.RetryPolicy(max_attempts=3, first_interval=60))
def charge(item: str) -> str:
    return f"{item} charged"


@registry.orchestrator(version="2", tags={"team": "shop"})
def order(ctx: durable.OrchestrationContext, item: str, rounds: int) -> Flow:
    receipt = yield ctx.call_activity(charge, item)
    if rounds:
        ctx.continue_as_new(item, rounds - 1)
        return None
    ctx.set_custom_status({"receipt": receipt})
    hurry = ctx.create_timer(timedelta(days=1))
    yield ctx.task_any([hurry, ctx.wait_for_external_event("hurry", timeout=timedelta(hours=1))])
    hurry.cancel()
    child = yield ctx.call_sub_orchestrator(parcel, item, instance_id="parcel-7")
    decision = yield ctx.wait_for_external_event("decision")
    return [receipt, child, decision]


@registry.orchestrator
def parcel(ctx: durable.OrchestrationContext, item: str) -> str:
    return f"{item} sent"


def ordered() -> Archive:
    """The same in every run."""
    with Environment(registry=registry) as env:
        env.replace(charge, Mock(side_effect=["charged", ConnectionError("no line"), "charged again"]))
        handle = env.client.start_orchestration(order, "book", 1, instance_id="order-7")
        handle.raise_event("hurry", "ü\u2028")
        env.advance(3600)
        return archive_of(env.client.backend.store, "order-7")


def without_traces(text: bytes) -> bytes:
    """A traceback names files and lines of this machine."""
    lines = []
    for line in text.splitlines():
        value = json.loads(line)
        value.get("event", {}).get("failure", {}).pop("stack_trace", None)
        lines.append(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return ("\n".join(lines) + "\n").encode()


def test_format_1_is_what_it_was() -> None:
    """Never change the golden file: histories that were exported once must open for ever."""
    golden = GOLDEN.read_bytes()
    archive = parsed(golden)
    assert text_of(archive) == golden
    assert len(archive.executions) == 2
    assert [event.type for event in archive.pending] == ["EventRaised"]
    assert first_difference(archive, registry.find_orchestrator) == ""
    with pytest.raises(ValueError, match=r"'order-7' is RUNNING: imported, it would go on here"):
        restore(MemoryBackend(), archive, NOW)
    with Environment(registry=registry) as env:
        assert restore(env.client.backend, archive, env.now, go_on=True) == "order-7"
        handle = env.client.handle("order-7")
        assert handle.result() == ["charged again", "book sent", {"approved": True}]
        assert handle.status().created_at.year == 2026


def test_what_is_written_today_is_the_golden_file() -> None:
    now = text_of(ordered())
    golden = GOLDEN.read_bytes().splitlines(keepends=True)
    # The golden instance has one more fact in its inbox, as no turn has taken it.
    pending, end = golden.pop(-2), golden.pop(-1)
    assert b'"pending":{' in pending
    assert json.loads(end)["end"] == {"events": len(golden) - 1, "pending": 1}
    assert without_traces(now).splitlines(keepends=True)[:-1] == without_traces(b"".join(golden)).splitlines(True)


# ---- what is refused, and in which words


def changed(change: Callable[[Lines], object]) -> bytes:
    lines = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").split("\n") if line]
    change(lines)
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def renumber(lines: Lines, first: int, last: int) -> None:
    """After lines were added or taken away: what somebody would do who wants it to look right."""
    numbers: dict[str, int] = {}
    for line in lines:
        if "event_id" in line:
            line["event_id"] = numbers.get(line["execution_id"], 0)
            numbers[line["execution_id"]] = line["event_id"] + 1
    lines[-1]["end"]["events"] = sum(numbers.values())


def without(kind: str) -> Callable[[Lines], object]:
    def change(lines: Lines) -> None:
        lines.remove(next(line for line in lines if line.get("event", {}).get("type") == kind))
        renumber(lines, 0, 0)

    return change


def with_event(place: int, **fields: Any) -> Callable[[Lines], object]:
    return lambda lines: lines[place]["event"].update(fields)


def header(**fields: Any) -> Callable[[Lines], object]:
    return lambda lines: lines[0]["instance"].update(fields)


REFUSED: Final[dict[str, tuple[Callable[[Lines], object], str]]] = {
    "a newer format": (lambda lines: lines[0].update(format=2), "its format is 2; this version reads 1"),
    "no format": (lambda lines: lines[0].pop("format"), "its format is none"),
    "another file": (lambda lines: lines.__setitem__(0, {"some": "json"}), "it is no exported history"),
    "an unknown field": (with_event(1, colour="red"), "line 2: this version does not know the field 'colour'"),
    "an unknown field of the instance": (header(colour="red"), "line 1: this version does not know the field 'colour'"),
    "an unknown line": (lambda lines: lines.insert(3, {"what": 1}), "line 4: .*unknown field"),
    "a line that is two": (lambda lines: lines[3].update(pending={}), "line 4: it is neither an event in its place"),
    "an unknown type": (with_event(3, type="Exploded"), "event 2 .* 'Exploded', which this version does not know"),
    "a wrong type": (with_event(3, attempt="one"), "line 4: Expected `int`"),
    "a bad id": (header(instance_id="a/b"), "holds the character '/'"),
    "a bad name": (with_event(3, name="a/b"), "event 2 of execution .* breaks a rule: .*'/'"),
    "a child without an id": (
        lambda lines: next(
            x for x in lines if x.get("event", {}).get("type", "").endswith("Created") and "name" in x["event"]
        )["event"].pop("instance_id"),
        "breaks a rule: its instance id",
    ),
    "a bad status": (header(status="DANCING"), "line 1: Invalid enum value 'DANCING'"),
    "a status that is not so": (header(status="COMPLETED"), "the status is COMPLETED, but the last event is"),
    "another execution": (
        header(execution_id="other"),
        "the events of the current execution, 'other', do not come last",
    ),
    "another orchestrator": (with_event(1, name="other"), "event 0 .* starts another orchestration"),
    "another instance": (with_event(1, instance_id="other"), "event 0 .* starts instance 'other', not 'order-7'"),
    "no start": (without("ExecutionStarted"), "event 0 .* a history begins with ExecutionStarted"),
    "no task": (without("TaskScheduled"), "is TaskCompleted of task 1, which no event before it began"),
    "no turn": (without("OrchestratorStarted"), "is TaskScheduled, before the first OrchestratorStarted"),
    "no end of the first execution": (without("ContinueAsNew"), "does not end in ContinueAsNew, but another follows"),
    "a naive time": (with_event(3, timestamp="2026-01-01T00:00:00"), "timezone"),
    "a time that goes back": (with_event(4, timestamp="2025-01-01T00:00:00Z"), "begins before the one before it"),
    "a second start": (with_event(2, type="ExecutionStarted"), "starts the execution once more"),
    "a pending command": (lambda lines: lines[-2]["pending"].update(type="TaskScheduled"), "waits in no inbox"),
    "wrong counts": (lambda lines: lines[-1]["end"].update(events=3), "lines are missing, or were added"),
    "a line after the end": (lambda lines: lines.append(lines[-1]), "something follows the line that ends it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_engine_wrote_is_refused(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(ArchiveError, match=message):
        parsed(changed(change))


def test_what_is_no_archive_is_refused() -> None:
    deep = GOLDEN.read_bytes().replace(b'"input":["book",1]', b'"input":' + b"[" * 100_000 + b"]" * 100_000, 1)
    for text, message in (
        (b"", "no exported history"),
        (b"\xff\xfe\x00", "no exported history"),
        (b"[" * 100_000, "no exported history"),
        (GOLDEN.read_bytes()[:-30], "line .*"),
        (deep, "line 2: it is nested too deeply"),
    ):
        with pytest.raises(ArchiveError, match=message):
            parsed(text)


def test_a_line_larger_than_any_payload_is_not_read_to_its_end() -> None:
    class Endless(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            buffer[:] = b" " * len(buffer)
            return len(buffer)

        def readable(self) -> bool:
            return True

    with pytest.raises(ArchiveError, match=r"line 1 is longer than 1,048,776 bytes \(Limits.payload_bytes\)"):
        read_archive(io.BufferedReader(Endless()), durable.Limits(payload_bytes=100))


# ---- going on elsewhere


def test_a_child_that_came_first_gives_its_outcome_to_the_parent_that_follows() -> None:
    own = durable.Registry()

    @own.orchestrator
    def outer(ctx: durable.OrchestrationContext) -> Flow:
        return (yield ctx.task_all([ctx.call_sub_orchestrator("inner", instance_id=f"c{n}") for n in range(3)]))

    @own.orchestrator
    def inner(ctx: durable.OrchestrationContext) -> Flow:
        return (yield ctx.wait_for_external_event("go"))

    with Environment(registry=own) as env:
        env.client.start_orchestration(outer, instance_id="p")
        parent = archive_of(env.client.backend.store, "p")
        env.client.raise_event("c0", "go", "ended")
        children = [archive_of(env.client.backend.store, f"c{n}") for n in range(2)]
    with Environment(registry=own) as env:
        for archive in (*children, parent):
            restore(env.client.backend, archive, env.now, go_on=True)
        env.replace("any")  # an environment looks for rows that others wrote when its code has changed
        env.client.raise_event("c1", "go", "went on")
        env.client.raise_event("c2", "go", "began again")
        assert env.client.handle("p").result() == ["ended", "went on", "began again"]


def test_timers_keep_their_moments_and_open_activities_run_again() -> None:
    own = durable.Registry()

    @own.orchestrator
    def flow(ctx: durable.OrchestrationContext) -> Flow:
        done = yield ctx.call_activity("elsewhere", 1)
        yield ctx.create_timer(3600)
        return [done, ctx.current_utc_datetime.isoformat()]

    with Environment(registry=own) as env:
        env.client.start_orchestration(flow, instance_id="f")
        waiting = archive_of(env.client.backend.store, "f")
        env.replace("elsewhere", lambda number: number + 1)
        env.advance(60)
        sleeping = archive_of(env.client.backend.store, "f")
    for archive, calls in ((waiting, 1), (sleeping, 0)):
        with Environment(registry=own) as env:
            restore(env.client.backend, archive, env.now, go_on=True)
            env.replace("elsewhere", lambda number: number + 1)
            assert env.client.handle("f").result() == [2, "2026-01-01T01:00:00+00:00"]
            assert len(env.calls()) == calls


def test_a_wait_keeps_its_timeout_though_a_later_wait_of_its_name_took_the_event() -> None:
    own = durable.Registry()

    @own.orchestrator
    def flow(ctx: durable.OrchestrationContext) -> Flow:
        first = ctx.wait_for_external_event("go", timeout=3600)
        yield ctx.create_timer(1)
        got = yield ctx.wait_for_external_event("go")
        try:
            yield first
        except durable.TimeoutError:
            return [got, ctx.current_utc_datetime.isoformat()]

    with Environment(registry=own) as env:
        env.client.start_orchestration(flow, instance_id="f")
        env.advance(2)
        env.client.raise_event("f", "go", 1)
        archive = archive_of(env.client.backend.store, "f")
        outcome = env.client.handle("f").result()
    with Environment(registry=own) as env:
        restore(env.client.backend, archive, env.now, go_on=True)
        env.replace("any")  # an environment looks for rows that others wrote when its code has changed
        assert env.client.handle("f").result() == outcome == [1, "2026-01-01T01:00:00+00:00"]


def test_a_wait_for_a_cloudevent_goes_on_where_it_is_imported() -> None:
    own = durable.Registry()

    @own.orchestrator
    def flow(ctx: durable.OrchestrationContext) -> Flow:
        first = yield ctx.wait_for_cloudevent(type="shop.paid")
        second = yield ctx.wait_for_cloudevent(type="shop.sent")
        return [first.get_data()["number"], second.get_data()["number"]]

    def event(kind: str, number: int) -> durable.CloudEvent:
        return durable.CloudEvent({"type": kind, "source": "/shop", "id": kind}, {"number": number})

    with Environment(registry=own) as env:
        env.client.start_many(flow, [None] * 20)  # so that "f" has an id that the other environment does not give too
        env.client.start_orchestration(flow, instance_id="f")
        env.client.publish(event("shop.paid", 1))
        env.advance(1)
        archive = archive_of(env.client.backend.store, "f")
    with Environment(registry=own) as env:
        restore(env.client.backend, archive, env.now, go_on=True)
        env.replace("any")  # an environment looks for rows that others wrote when its code has changed
        env.advance(1)
        assert len(env.client.list_triggers()) == 1
        env.client.publish(event("shop.sent", 2))
        assert env.client.handle("f").result() == [1, 2]
