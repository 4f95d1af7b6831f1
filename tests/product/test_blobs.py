"""Large payloads outside the store: they come back, they are missed where they are missing, they go with a purge."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]  # boto3 has no py.typed
import pytest

import durable
from durable import OrchestrationContext
from tests.servers.dynamodb_server import REGION, DynamoServer
from tests.waiting import SOON, until

from .command_line import Command, Here
from .conftest import Bench, Heard, Place

LARGE = 70_000
Blobs = Callable[[], list[Path]]


def large(letter: str) -> str:
    return letter * LARGE


class Reversed:
    """Not a cipher; enough to see that something was done."""

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    decode = encode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: Path) -> Blobs:
    """The files that are there."""
    return lambda: [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def beside(bench: Bench, folder: Path) -> durable.Client:
    """A client of the store that keeps what is large in the folder."""
    return bench.connect(blobs=f"file://{folder}")


def serve(bench: Bench, client: durable.Client, stack: ExitStack, registry: durable.Registry) -> durable.Worker:
    cached = 0 if bench.cold else 100
    worker = durable.Worker(client, registry=registry, shutdown_grace=0, max_cached_orchestrations=cached)
    return stack.enter_context(worker)


def flows(broken: list[bool] | None = None) -> durable.Registry:
    registry = durable.Registry()

    @registry.activity(name="grow")
    def grow(text: str, letter: str) -> str:
        if broken:
            raise ValueError(text)
        return text + letter

    @registry.orchestrator(name="child")
    def child(ctx: OrchestrationContext, text: str) -> Generator[Any, Any, Any]:
        return (yield ctx.call_activity(grow, text, "c"))

    @registry.orchestrator(name="all")
    def everything(ctx: OrchestrationContext, text: str) -> Generator[Any, Any, list[str]]:
        ctx.set_custom_status(text[:16_000])
        grown = yield ctx.call_activity(grow, text, "a")
        inner = yield ctx.call_sub_orchestrator(child, grown)
        event = yield ctx.wait_for_external_event("go", type=str)
        return [grown, inner, event]

    @registry.orchestrator(name="rounds")
    def rounds(ctx: OrchestrationContext, texts: list[str]) -> Generator[Any, Any, list[str] | None]:
        event = yield ctx.wait_for_external_event("go", type=str)
        if len(texts) < 2:
            ctx.continue_as_new([*texts, event])
            return None
        return [*texts, event]

    @registry.orchestrator(name="waits")
    def waits(ctx: OrchestrationContext, text: str) -> Generator[Any, Any, int]:
        grown = yield ctx.call_activity(grow, text, "w")
        event = yield ctx.wait_for_external_event("go", type=str)
        return len(grown + event)

    return registry


@pytest.mark.everywhere
@pytest.mark.parametrize("codec", [None, Reversed()], ids=["plain", "codec"])
def test_what_is_large_comes_back_on_every_road(
    bench: Bench, folder: Path, blobs: Blobs, codec: durable.Codec | None
) -> None:
    client = bench.connect(blobs=f"file://{folder}", codec=codec)
    a, b = large("a"), large("b")
    with ExitStack() as stack:
        serve(bench, client, stack, flows())
        handle = client.start_orchestration("all", a, instance_id="order-42")
        handle.raise_event("go", b)
        grown = [a + "a", a + "ac", b]
        assert handle.result(SOON, on_blocked="raise") == grown
        status = client.get_status("order-42", history=True)
        assert status is not None
        assert (status.input, status.output, status.custom_status) == (a, grown, a[:16_000])
        assert status.history is not None
        assert {a + "a", a + "ac"} <= {event.result for event in status.history if isinstance(event.result, str)}

        # Lives that begin with what another one had, which is purged.
        rounds = client.start_orchestration("rounds", [a], instance_id="order-43")
        for text in (b, a):
            rounds.raise_event("go", text)
        assert rounds.result(SOON, on_blocked="raise") == [a, b, a]
        again = client.restart("order-43", new_instance_id="order-43")
        again.raise_event("go", a)
        assert again.result(SOON, on_blocked="raise") == [a, b, a]
        forked = client.fork("order-42", after=len(status.history) - 2)
        assert client.purge("order-42") == 2
        assert forked.result(SOON, on_blocked="raise") == grown
    contents = [file.read_bytes() for file in blobs()]
    assert len(contents) > 4
    assert any(b"aaaa" in data for data in contents) == (codec is None)
    assert client.purge_where() == 2
    assert blobs() == []


@pytest.mark.everywhere
def test_failures_and_rewinds(bench: Bench, beside: durable.Client, blobs: Blobs) -> None:
    broken = [True]
    with ExitStack() as stack:
        serve(bench, beside, stack, flows(broken))
        handle = beside.start_orchestration("all", large("a"), instance_id="order-42")
        handle.raise_event("go", large("b"))
        with pytest.raises(durable.OrchestrationFailedError, match="ValueError: aaa"):
            handle.result(SOON)
        broken.clear()
        handle.rewind(large("r"))
        assert handle.result(SOON, on_blocked="raise")[2] == large("b")
        assert large("r") in [event.input for event in beside.history("order-42")]
        ended = beside.start_orchestration("waits", large("a"), instance_id="order-43")
        ended.terminate(large("t"))
        with pytest.raises(durable.OrchestrationTerminatedError) as caught:
            ended.result(SOON)
        assert caught.value.reason == large("t")
    assert beside.purge_where() == 3
    assert blobs() == []


def test_a_store_that_has_no_blobs_yet_goes_on_with_them(bench: Bench, beside: durable.Client, blobs: Blobs) -> None:
    handle = bench.client.start_orchestration("waits", large("a"), instance_id="order-42")
    with ExitStack() as stack:
        serve(bench, bench.client, stack, flows())
        bench.until_recorded(handle, "EventAwaited")
    assert blobs() == []
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        beside.raise_event("order-42", "go", large("b"))
        assert beside.handle("order-42").result(SOON) == 2 * LARGE + 1
    assert len(blobs()) == 1


# ---- blobs that can't be had


@pytest.fixture
def waiting(bench: Bench, beside: durable.Client) -> durable.OrchestrationHandle[Any]:
    """An orchestration whose activity has ended, and whose history nobody has in memory."""
    handle = beside.start_orchestration("waits", large("a"), instance_id="order-42")
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        until(lambda: [e for e in beside.history("order-42") if e.type == "EventAwaited"])
    return handle


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2] + b'?"')


@pytest.mark.parametrize(
    ("spoil", "why"), [(Path.unlink, "is missing in"), (change, "its bytes have changed")], ids=["missing", "changed"]
)
@pytest.mark.everywhere
def test_it_is_blocked_while_its_blob_cannot_be_had_and_goes_on_when_it_is_back(
    bench: Bench,
    beside: durable.Client,
    waiting: durable.OrchestrationHandle[Any],
    blobs: Blobs,
    spoil: Callable[[Path], None],
    why: str,
) -> None:
    kept = {path: path.read_bytes() for path in blobs()}
    assert len(kept) == 3
    for path in kept:
        spoil(path)
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        waiting.raise_event("go", "b")
        reason = bench.blocked(waiting)
        assert reason.startswith("instance 'order-42': its input can't be had: blob ")
        assert why in reason
        assert "goes on when the blob is back" in reason
        healthy = beside.start_orchestration("waits", large("h"))
        healthy.raise_event("go", "b")
        assert healthy.result(SOON) == LARGE + 2
        status = beside.get_status("order-42")
        assert status is not None
        assert why in status.input
        with pytest.raises(durable.PayloadError, match=why):
            beside.fork("order-42", after=1)
        for path, data in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with suppress(durable.InstanceFinishedError):  # somebody has looked by himself
            waiting.raise_event("go", "c")  # else somebody has to: news, a new worker, or the next five minutes
        assert waiting.result(SOON) == LARGE + 2


def test_what_was_asked_for_is_compared_only_with_its_blob(
    bench: Bench, beside: durable.Client, waiting: durable.OrchestrationHandle[Any], blobs: Blobs
) -> None:
    [asked] = [path for path in blobs() if path.read_bytes().startswith(b"[")]
    data = asked.read_bytes()
    asked.unlink()
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        waiting.raise_event("go", "b")
        assert bench.blocked(waiting).startswith("the input that event 2 of the history has can't be had: blob ")
        asked.write_bytes(data)
        with suppress(durable.InstanceFinishedError):  # it has gone on by itself
            waiting.raise_event("go", "c")
        assert waiting.result(SOON) == LARGE + 2


def test_an_output_that_cannot_be_had_is_an_error_and_can_be_purged(
    bench: Bench, beside: durable.Client, blobs: Blobs
) -> None:
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        handle = beside.start_orchestration("child", large("a"), instance_id="order-42")
        handle.result(SOON)
    for path in blobs():
        path.unlink()
    with pytest.raises(durable.PayloadError, match=r"output of .* 'order-42' .* can't be had: .* is missing in"):
        beside.handle("order-42").result(SOON)
    with pytest.raises(durable.PayloadError, match="restart: orchestration 'order-42': a payload of its Execution"):
        beside.restart("order-42")
    assert beside.purge("order-42") == 1
    assert blobs() == []


def test_it_can_be_ended_without_its_blobs(
    bench: Bench, beside: durable.Client, waiting: durable.OrchestrationHandle[Any], folder: Path
) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)
        path.mkdir()
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        waiting.terminate("enough")
        with pytest.raises(durable.OrchestrationTerminatedError):
            waiting.result(SOON)
    assert beside.purge("order-42") == 1


def test_a_purge_without_the_place_is_refused_and_with_it_leaves_nothing(
    bench: Bench, beside: durable.Client, blobs: Blobs
) -> None:
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        handle = beside.start_orchestration("all", large("a"), instance_id="order-42")
        handle.raise_event("go", "b")
        handle.result(SOON)
    [child] = [status.instance_id for status in beside.list_orchestrations(name="child")]
    assert blobs()
    refused: list[Callable[[], int]] = [
        lambda: bench.client.purge("order-42"),
        lambda: bench.client.purge(child, recursive=False),
        lambda: bench.client.purge_where(name="all", recursive=False),
    ]
    for purge in refused:
        with pytest.raises(
            durable.PayloadError, match=r"purge: orchestration .* give connect\(blobs=\.\.\.\), or DURABLE"
        ):
            purge()
    assert len(beside.list_orchestrations().items) == 2
    assert beside.purge("order-42") == 2
    assert blobs() == []
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        small = beside.start_orchestration("child", "a", instance_id="small")
        small.result(SOON)
    assert bench.client.purge("small") == 1


def test_a_worker_without_blobs_says_what_it_needs(
    bench: Bench, beside: durable.Client, waiting: durable.OrchestrationHandle[Any]
) -> None:
    with ExitStack() as stack:
        serve(bench, bench.client, stack, flows())
        waiting.raise_event("go", "b")
        reason = bench.blocked(waiting)
    assert "this process has no blobs: give connect(blobs=...), or DURABLE_BLOBS_URL" in reason
    [remedy] = [found.remedy for found in bench.client.diagnose().findings if "is blocked" in found.what]
    assert remedy == "it goes on as this says; or terminate it"
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        assert waiting.result(SOON) == LARGE + 2


def test_a_folder_that_is_away_is_waited_for(
    bench: Bench, beside: durable.Client, waiting: durable.OrchestrationHandle[Any], folder: Path, log: Heard
) -> None:
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(durable.StoreError, match=r"folder for blobs .* can't be used"):
        beside.start_orchestration("waits", large("b"), instance_id="order-43")
    assert beside.get_status("order-43") is None
    with ExitStack() as stack:
        serve(bench, beside, stack, flows())
        waiting.raise_event("go", "b")
        log.wait_for("the store did not answer", "folder for blobs")
        away.rename(folder)
        assert waiting.result(SOON, on_blocked="raise") == LARGE + 2


# ---- what is not looked at is not read


def test_a_listing_reads_no_blob(place_of: Callable[[str], Place], folder: Path, blobs: Blobs) -> None:
    beside = place_of("sqlite").connect(blobs=f"file://{folder}")
    with durable.Worker(beside, registry=flows(), shutdown_grace=0):
        handles = beside.start_many("child", [large("a")] * 100)
        assert [len(handle.result(SOON)) for handle in handles] == [LARGE + 1] * 100
    for path in blobs():  # whoever looked for one would say that it is missing
        path.unlink()
    page = beside.list_orchestrations()
    assert len(page) == 100
    for item in page:
        assert (
            item.output
            == f"({LARGE + 3:,} bytes outside the store: get_status reads them, given blobs= or DURABLE_BLOBS_URL)"
        )
        assert item.input.startswith("(70,00")
    one = beside.get_status(page.items[0].instance_id, payloads=False)
    assert one is not None
    assert one.runtime_status is durable.RuntimeStatus.COMPLETED
    assert beside.purge_where() == 100
    beside.close()


# ---- kill -9, the command line, S3

STARTS = """
import durable, sys
url, blobs, large = sys.argv[1:]
client = durable.connect(url, blobs=blobs)
print("connected", flush=True)
sys.stdin.read()
client.start_orchestration("child", "k" * int(large), instance_id="order-42")
"""


def test_killed_between_the_blob_and_its_commit(tmp_path: Path, folder: Path, blobs: Blobs) -> None:
    url, place = f"sqlite:///{tmp_path}/store.db", f"file://{folder}"
    with durable.connect(url, blobs=place) as client:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTS, url, place, str(LARGE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"connected\n"
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")  # and no commit gets through
            assert process.stdin is not None
            process.stdin.close()
            while not any(len(path.name) == 64 for path in blobs()):
                assert process.poll() is None
                threading.Event().wait(0.005)
            process.kill()
            process.wait()
            process.stdout.close()
        assert client.get_status("order-42") is None
        with durable.Worker(client, registry=flows(), shutdown_grace=0):
            handle = client.start_orchestration("child", large("k"), instance_id="order-42")
            assert handle.result(SOON) == large("k") + "c"
        assert client.purge("order-42") == 1
        [left] = blobs()  # for all that anybody knows, it is about to be committed
        os.utime(left, (0, 0))
        client.start_orchestration("child", "small", instance_id="order-42").terminate()
        with durable.Worker(client, registry=flows(), shutdown_grace=0):
            client.wait("order-42", SOON)
        client.purge("order-42")
    assert blobs() == []


def test_the_command_line_takes_payloads_to_another_store(
    tmp_path: Path, folder: Path, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Here(tmp_path, monkeypatch)
    monkeypatch.setenv("DURABLE_BLOBS_URL", f"file://{folder}")
    run = "run", "flows.py:order", "--input", f'"{large("a")}"', "--id", "order-42"
    done = Command.__call__(command, *run, DURABLE_BLOBS_URL=f"file://{folder}")  # a process: it loads code
    assert done.returncode == 0, done
    assert len(blobs()) == 2
    assert large("a") not in command.says("list", "--json")
    assert large("a") in command.says("show", "order-42", "--json")
    command.says("export", "order-42", "-o", "order-42.jsonl")
    command.says("import", "order-42.jsonl", "--as", "copy")
    command.says("purge", "order-42", "--yes")
    assert len(blobs()) == 2
    assert large("a") in command.says("show", "copy", "--json")
    for path in blobs():
        path.unlink()
    done = command("export", "copy", "-o", "copy.jsonl")
    assert done.returncode != 0
    assert "export: orchestration 'copy': a payload of its ExecutionStarted can't be had" in " ".join(
        done.stderr.split()
    )


def test_in_a_bucket(dynamodb_server: DynamoServer, place_of: Callable[[str], Place]) -> None:
    bucket = boto3.client("s3", region_name=REGION, endpoint_url=dynamodb_server.endpoint)
    bucket.create_bucket(Bucket="product", CreateBucketConfiguration={"LocationConstraint": REGION})

    def objects() -> list[str]:
        return [entry["Key"] for entry in bucket.list_objects_v2(Bucket="product").get("Contents", ())]

    with place_of("sqlite").connect(blobs=dynamodb_server.bucket("product")) as client:
        with durable.Worker(client, registry=flows(), shutdown_grace=0, max_cached_orchestrations=0):
            handle = client.start_orchestration("all", large("a"), instance_id="order-42")
            handle.raise_event("go", large("b"))
            assert handle.result(SOON, on_blocked="raise") == [large("a") + "a", large("a") + "ac", large("b")]
        assert len(objects()) > 4
        assert all(key.startswith("a/place/") for key in objects())
        assert client.purge("order-42") == 2
        assert objects() == []
    bucket.close()


@pytest.mark.parametrize("url", ["ftp://x", "/srv/blobs", "file:/srv"])
def test_urls_that_nobody_serves(url: str) -> None:
    with pytest.raises(ValueError, match=r"blobs.*e\.g\. file:///srv/blobs"):
        durable.connect("memory://blobs", blobs=url)
