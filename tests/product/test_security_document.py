"""SECURITY.md says nothing that no test shows: for each of its sentences there are tests, here or by name elsewhere."""

from __future__ import annotations

import ast
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pika  # type: ignore[import-untyped]  # pika 1.4 has no py.typed
import pytest
import redis

import durable
from durable import actions
from durable.backends import rabbitmq_url, redis_url
from tests.conftest import need
from tests.product.guide_blocks import ROOT, blocks
from tests.servers.process import HOST
from tests.servers.rabbitmq_server import RabbitServer
from tests.servers.redis_server import RedisServer, missing_redis
from tests.waiting import SOON, until

TEXT: Final = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
HERE: Final = "tests/product/test_security_document.py"

_SIGNED: Final = "tests/laws/test_signed_callables.py::"
_CLI: Final = "tests/product/test_cli_on_servers.py::"
_SQLITE: Final = "tests/contracts/test_sqlite_file.py::"
_SOCKET: Final = "tests/contracts/test_sqlite_handover.py::"
_BLOBS: Final = "tests/contracts/test_blobs.py::"
_HOSTILE: Final = "tests/hostile/"
_FUZZ: Final = "tests/fuzz/test_fuzz.py::"

# How a sentence begins, and the tests behind it. A name alone is a test of this file.
BEHIND: Final[dict[str, tuple[str, ...]]] = {
    "For each sentence up to Reporting": ("test_each_sentence_has_a_test", "test_each_test_is_there"),
    "The code you register is trusted": ("test_registered_code_runs_in_the_process_of_the_worker",),
    "The store and the broker of a workspace are trusted half-way": (
        "test_who_writes_to_a_store_steers_its_workflows",
    ),
    "Whoever can write to them can start, stop and confuse": ("test_who_writes_to_a_store_steers_its_workflows",),
    "They can't run code in a worker, read another": (
        _SIGNED + "test_whatever_is_changed_is_refused_and_nothing_is_unpickled",
        "tests/product/test_bad_names.py::test_a_name_is_only_looked_up_and_never_imported",
        "tests/contracts/test_redis_opening.py::test_workspaces_and_prefixes_see_nothing_of_each_other",
        "tests/laws/test_wire.py::test_an_outcome_cannot_name_payloads_of_others",
        _HOSTILE + "test_a_messages.py::test_healthy_work_goes_on_in_bounded_memory_and_nothing_was_unpickled",
        _FUZZ + "test_no_input_gets_through",
    ),
    "The summary of an instance is the exception": ("test_a_damaged_summary_is_waited_for",),
    "A message, a fact or a history that can't be read": (
        _HOSTILE + "test_a_messages.py::test_it_is_set_aside_once_or_ignored",
        _HOSTILE + "test_h_changed_data.py::test_what_has_lost_its_history_is_blocked_and_nothing_is_guessed",
        "test_a_fact_that_can_not_be_read_stops_nobody",
    ),
    "A workspace is a name and no wall": ("test_one_url_opens_every_workspace",),
    "An exported history is as secret as the store": ("test_an_exported_history_holds_payloads",),
    "It is read as something a stranger wrote": (
        _FUZZ + "test_no_input_gets_through",
        "tests/laws/test_archives.py::test_what_no_engine_wrote_is_refused",
        "tests/laws/test_archives.py::test_export_import_export_is_the_same_bytes_and_fits_its_code",
    ),
    "Payloads are JSON": ("test_one_module_knows_pickles",),
    "Only functions by value are pickled": (
        "test_one_module_knows_pickles",
        _SIGNED + "test_who_lacks_the_key_unpickles_nothing",
    ),
    "There is no key by default": (
        _SIGNED + "test_keys_come_from_the_call_or_the_environment_or_there_are_none",
        _SIGNED + "test_without_keys_or_cloudpickle_the_remedy_is_named",
    ),
    "Whoever has a signing key can run code": (_SIGNED + "test_the_users_own_code_travels_by_value",),
    "A key has 32 bytes or more": (
        _SIGNED + "test_a_key_that_is_none_is_refused_and_not_shown",
        _SIGNED + "test_a_workspace_does_not_run_what_was_signed_in_another",
        _SIGNED + "test_a_condition_is_no_action_and_an_action_no_condition",
        _SIGNED + "test_another_python_does_not_run_it",
    ),
    "A name in a message is looked up": (
        "tests/product/test_bad_names.py::test_a_name_is_only_looked_up_and_never_imported",
    ),
    "Payloads are stored as they are": ("tests/product/test_codec.py::test_the_file_holds_no_secret",),
    "Names, ids, tags, versions and times stay readable": (
        "tests/product/test_codec.py::test_everything_a_user_passes_is_sealed_and_comes_back",
        "tests/product/test_codec.py::test_the_command_line_takes_the_codec_and_says_so_without",
    ),
    "The password of a URL is in no error": (
        _CLI + "test_a_server_that_can_not_be_reached_is_4_and_no_secret_is_told",
        "tests/contracts/test_redis_opening.py::test_wrong_passwords",
        _FUZZ + "test_no_input_gets_through",
        "test_no_repr_shows_a_password",
    ),
    "A URL can come from": ("tests/product/test_bad_stores.py::test_the_environment_names_the_store",),
    "The URL of an event source is stored": (
        "tests/product/test_source_commands.py::test_what_is_no_event_source_is_refused",
    ),
    "Signing keys are neither shown nor pickled": (_SIGNED + "test_a_ring_shows_how_many_keys_and_no_secret",),
    "`rediss://`, `rediss+cluster://` and `amqps://` check": (
        "tests/contracts/test_rabbitmq_tls.py::test_a_certificate_that_nobody_vouches_for_is_refused",
        "tests/contracts/test_rabbitmq_tls.py::test_a_certificate_of_another_name_is_refused",
        "tests/contracts/test_redis_opening.py::test_tls",
        "tests/contracts/test_redis_cluster.py::test_a_cluster_with_slots_that_nobody_has",
        "test_tls_checks_certificate_and_name",
    ),
    "Only `ssl_cert_reqs=none`": ("tests/contracts/test_redis_opening.py::test_tls",),
    "`redis://` and `amqp://` are not encrypted": ("test_tls_checks_certificate_and_name",),
    "Nothing here listens on the network": ("test_a_worker_listens_on_no_port",),
    "A worker on SQLite has a socket": (
        _SOCKET + "test_the_socket_is_private_and_ends_with_the_worker",
        _SOCKET + "test_others_of_another_user_are_turned_away",
    ),
    "A SQLite file, what lies beside it": (
        _SQLITE + "test_file_and_folders_are_private",
        _BLOBS + "test_others_may_not_look_into_it",
    ),
    "What is there keeps the rights it has": ("test_what_is_there_keeps_its_rights",),
    "Neither the name of a blob nor that of a workspace": (
        _BLOBS + "test_what_is_no_name_is_refused",
        _BLOBS + "test_a_workspace_never_leaves_the_folder",
        _BLOBS + "test_no_link_is_followed_and_nothing_else_is_touched",
    ),
    "A blob that has changed is refused": (
        "tests/product/test_blobs.py::test_it_is_blocked_while_its_blob_cannot_be_had_and_goes_on_when_it_is_back",
    ),
    "What commands print of a store moves no cursor": (
        _HOSTILE + "test_g_command_line.py::test_case_111_what_is_stored_is_printed_harmlessly",
        _FUZZ + "test_no_input_gets_through",
    ),
    "Payloads, custom statuses, commands of a turn": (
        "tests/product/test_limits.py::test_payloads_from_outside",
        "tests/product/test_limits.py::test_payloads_inside",
        "tests/product/test_limits.py::test_the_others",
        "tests/product/test_limits.py::test_a_turn_that_takes_too_long_is_blocked_with_its_line",
    ),
    "A message that nests deeper": ("test_a_message_that_nests_too_deep_is_set_aside",),
    "There are no quotas": ("tests/product/test_limits.py::test_the_table_has_every_limit_with_its_default",),
    "A Redis user for the workspace": ("test_a_redis_user_with_these_rights_runs_its_workspace",),
    "With these rights orchestrations and triggers run on": ("test_a_redis_user_with_these_rights_runs_its_workspace",),
    "Redis refuses this user every other workspace": ("test_redis_refuses_this_user_the_rest",),
    "Without `+config|get`": ("tests/contracts/test_redis_opening.py::test_a_user_without_config",),
    "With it this user can read `requirepass`": ("test_config_shows_requirepass_but_no_password_of_the_default_user",),
    "These are the rights for one Redis": ("test_a_redis_user_with_these_rights_runs_its_workspace",),
    "A RabbitMQ user for the workspace": ("test_a_rabbitmq_user_with_these_rights_runs_its_workspace",),
    "With these rights orchestrations run over": ("test_a_rabbitmq_user_with_these_rights_runs_its_workspace",),
    "RabbitMQ refuses this user the queues": ("test_rabbitmq_refuses_this_user_the_rest_but_for_publishing",),
    "It can still publish to them": ("test_rabbitmq_refuses_this_user_the_rest_but_for_publishing",),
    "What trusted code does, and what an operator": ("test_registered_code_runs_in_the_process_of_the_worker",),
}


def sentences() -> list[str]:
    """All that the document claims: what stands before the first promise and behind the last one is none."""
    text = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL).partition("## Reporting")[0]
    text = text.replace("What you can rely on, and what is left to you. ", "")
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n|\n\* ", re.sub(r"^#.*$", "", text, flags=re.MULTILINE)):
        whole = " ".join(paragraph.removeprefix("* ").split())
        found += [one for one in re.split(r"(?<=\.)\s+(?=[A-Z`])", whole) if one]
    return found


def test_each_sentence_has_a_test() -> None:
    claimed = sentences()
    assert len(claimed) > 40
    for sentence in claimed:
        assert [start for start in BEHIND if sentence.startswith(start)], f"no test is named for: {sentence}"
    for start in BEHIND:
        assert [sentence for sentence in claimed if sentence.startswith(start)], f"nothing claims: {start}"


def test_each_test_is_there() -> None:
    names: dict[str, set[str]] = {}
    for test in {test for tests in BEHIND.values() for test in tests}:
        file, _, name = test.rpartition("::")
        file = file or HERE
        if file not in names:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            names[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names[file], test


# ---- who is trusted


def app() -> durable.Registry:
    """An orchestration with an activity, a child, a timer and an event."""
    registry = durable.Registry()

    @registry.activity
    def process_id(n: int) -> int:
        return os.getpid()

    @registry.orchestrator
    def child(ctx: durable.OrchestrationContext, n: int) -> Generator[Any, Any, int]:
        yield ctx.create_timer(0.01)
        return 2 * n

    @registry.orchestrator
    def flow(ctx: durable.OrchestrationContext, n: int) -> Generator[Any, Any, list[Any]]:
        done = yield [ctx.call_activity(process_id, n), ctx.call_sub_orchestrator(child, n)]
        return [*done, (yield ctx.wait_for_external_event("go"))]

    return registry


def runs(client: durable.Client) -> None:
    """The whole of it, on this client's store and broker."""
    with durable.Worker(client, registry=app(), shutdown_grace=0):
        handle = client.start_orchestration("flow", 2)
        client.wait(handle.instance_id, SOON, until="started")
        handle.raise_event("go", "gone")
        assert handle.result(SOON) == [os.getpid(), 4, "gone"]


@pytest.fixture
def client() -> Iterator[durable.Client]:
    with durable.connect(f"memory://{uuid4().hex}") as client:
        yield client


def test_registered_code_runs_in_the_process_of_the_worker(client: durable.Client) -> None:
    runs(client)


def test_who_writes_to_a_store_steers_its_workflows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with durable.connect(url) as mine:
        handle = mine.start_orchestration("flow", 2, instance_id="order-1")
    with closing(sqlite3.connect(tmp_path / "store.db")) as theirs, theirs:
        theirs.execute("UPDATE history SET events = replace(CAST(events AS TEXT), '\"input\":2', '\"input\":20')")
    with durable.connect(url) as mine, durable.Worker(mine, registry=app(), shutdown_grace=0):
        handle = mine.handle("order-1")
        handle.raise_event("go", 1)
        assert handle.result(SOON)[1] == 40


def test_a_fact_that_can_not_be_read_stops_nobody(client: durable.Client, caplog: pytest.LogCaptureFixture) -> None:
    from durable.ports import Fact

    handle = client.start_orchestration("flow", 2, instance_id="order-1")
    for number, body in enumerate((b"\xff", b"[" * 100_000, b"{}", b'{"type":"EventRaised","timestamp":1}')):
        client.backend.store.deliver([Fact("order-1", 0, f"hostile-{number}", body, 0.0)])
    with durable.Worker(client, registry=app(), shutdown_grace=0):
        handle.raise_event("go", 1)
        assert handle.result(SOON)[1:] == [4, 1]
    said = [record.message for record in caplog.records if "can't be read" in record.message]
    assert len(said) >= 4


def test_a_damaged_summary_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with durable.connect(url) as client:
        client.start_orchestration("flow", 2, instance_id="order-1")
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as theirs:
        [[summary]] = theirs.execute("SELECT summary FROM instances")
        theirs.execute("UPDATE instances SET summary = ?", (b'{"\xff',))
        with durable.connect(url) as client, durable.Worker(client, registry=app(), shutdown_grace=0):
            assert until(lambda: [one for one in caplog.records if "summary can't be read" in one.message])
            theirs.execute("UPDATE instances SET summary = ?", (summary,))
            client.raise_event("order-1", "go", 1)
            assert client.handle("order-1").result(SOON)[1:] == [4, 1]


def test_one_url_opens_every_workspace(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    for workspace in ("mine", "yours"):
        with durable.connect(url, workspace=workspace) as client:
            client.start_orchestration("flow", 1, instance_id=f"of-{workspace}")
            assert [one.instance_id for one in client.list_orchestrations()] == [f"of-{workspace}"]


def test_an_exported_history_holds_payloads(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with durable.connect(url) as client:
        client.start_orchestration("flow", "s3cret", instance_id="order-1")
    done = subprocess.run(
        [sys.executable, "-m", "durable", "export", "order-1", "--url", url], capture_output=True, text=True, check=True
    )
    assert "s3cret" in done.stdout


# ---- code, secrets, connections, files


def test_one_module_knows_pickles() -> None:
    """What imports a pickle, or something that unpickles, evaluates or imports by a text."""
    found: set[str] = set()
    for path in [*(ROOT / "durable").rglob("*.py"), *(ROOT / "backends").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"pickle", "cloudpickle", "marshal", "shelve", "dill", "yaml"} & {
                name.partition(".")[0] for name in names
            }:
                found.add(path.name)
    assert found == {"signed_callables.py"}


def test_no_repr_shows_a_password() -> None:
    stores = redis_url.parse_url("redis://me:S3CRET@localhost:1/0?socket_timeout=2")
    broker = rabbitmq_url.parse_url("amqp://me:S3CRET@localhost:1/")
    for target in (stores, broker):
        assert "S3CRET" not in f"{target!r} {target}"


def test_tls_checks_certificate_and_name() -> None:
    secure = rabbitmq_url.parse_url("amqps://localhost/").tls
    assert secure is not None
    assert secure.check_hostname
    assert secure.verify_mode.name == "CERT_REQUIRED"
    assert redis_url.parse_url("rediss://localhost/").tls
    assert not redis_url.parse_url("redis://localhost/").tls
    assert rabbitmq_url.parse_url("amqp://localhost/").tls is None


def test_a_worker_listens_on_no_port(tmp_path: Path) -> None:
    with durable.connect(f"sqlite:///{tmp_path}/store.db") as client:
        runs(client)
        with durable.Worker(client, registry=app(), shutdown_grace=0):
            mine = {os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd") if _is_open(one)}
            for table in ("tcp", "tcp6", "udp", "udp6"):
                for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                    state, inode = line.split()[3], line.split()[9]
                    assert state not in ("0A", "07") or f"socket:[{inode}]" not in mine, line


def _is_open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def test_what_is_there_keeps_its_rights(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch(mode=0o640)
    (tmp_path / "store.db").chmod(0o640)
    tmp_path.chmod(0o750)
    with durable.connect(f"sqlite:///{tmp_path}/store.db") as client:
        client.start_orchestration("flow", 1)
    assert (tmp_path / "store.db").stat().st_mode & 0o777 == 0o640
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_a_message_that_nests_too_deep_is_set_aside() -> None:
    from datetime import datetime, timezone

    from durable.runtime import wire

    data = b'{"instance_id":"a","execution_id":"b","task_id":1,"attempt":1,"result":%b%b}' % (b"[" * 500, b"]" * 500)
    body = b'{"id":"1","source":"s","type":"durable.task-completed","specversion":"1.0","data":%b}' % data
    with pytest.raises(wire.NotOurs, match="nests deeper"):
        wire.read_outcome(body, datetime.now(timezone.utc))


# ---- rights on the servers, as the document gives them


def given(kind: str) -> list[str]:
    """The commands of a block."""
    [block] = [block for block in blocks(TEXT) if block.kind == kind]
    return block.text.splitlines()


@pytest.fixture(scope="module")
def guarded_redis() -> Iterator[RedisServer]:
    """With the user of the document."""
    need(missing_redis())
    with closing(RedisServer()) as server:
        server.start()
        with redis.Redis(host=HOST, port=server.port) as admin:
            for command in given("redis"):
                admin.execute_command(*command.split())
        yield server


def test_a_redis_user_with_these_rights_runs_its_workspace(
    guarded_redis: RedisServer, rabbitmq_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://shop:PASSWORD@{HOST}:{guarded_redis.port}/0?partitions=2"
    for events in (None, rabbitmq_server.url()):
        with durable.connect(url, events=events, workspace="shop") as client:
            runs(client)
            client.diagnose()
    with durable.connect(url, workspace="shop") as client:
        with durable.Worker(client, registry=app(), shutdown_grace=0):
            client.add_trigger(
                "starts",
                on=durable.EventPattern(type="sold"),
                action=actions.start_orchestration("child", 21, instance_id="by-event"),
            )
            attributes = {"id": "1", "source": "/s", "type": "sold", "specversion": "1.0"}
            client.publish(durable.CloudEvent(attributes, {}))
            client.wait_for_trigger("starts", SOON)
            assert until(lambda: client.get_status("by-event"))
            assert client.handle("by-event").result(SOON) == 42
        assert client.purge("by-event") == 1
    assert [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_config_shows_requirepass_but_no_password_of_the_default_user(guarded_redis: RedisServer) -> None:
    where = f"{HOST}:{guarded_redis.port}/0"

    def told(admin: Any) -> object:
        with redis.Redis.from_url(f"redis://shop:PASSWORD@{where}", decode_responses=True) as shop:
            shown = shop.config_get("requirepass")
        admin.execute_command("ACL SETUSER default nopass")
        return shown

    with redis.Redis.from_url(f"redis://{where}") as admin:
        admin.config_set("requirepass", "SECRET")
        assert "SECRET" in str(told(admin))
        admin.config_set("requirepass", "")
        admin.execute_command("ACL SETUSER default >SECRET")
        assert "SECRET" not in str(told(admin))


def test_redis_refuses_this_user_the_rest(guarded_redis: RedisServer) -> None:
    where = f"{HOST}:{guarded_redis.port}/0"
    with durable.connect(f"redis://{where}", workspace="other") as other:
        other.start_orchestration("flow", 1, instance_id="of-other")
    with pytest.raises(durable.StoreError, match="does not let this user do that"):
        durable.connect(f"redis://shop:PASSWORD@{where}", workspace="other")
    with redis.Redis.from_url(f"redis://shop:PASSWORD@{where}") as shop:
        for command in (
            "KEYS *",
            "FLUSHALL",
            "FLUSHDB",
            "CONFIG SET appendonly no",
            "ACL LIST",
            "SHUTDOWN",
            "EVAL x 0",
            "GET durable:{other}:workspace",
            "HGETALL durable:{other}:workspace",
            "XADD durable:{durable.other.work.default}:stream * event x",
            "PUBLISH durable:{other:0}:facts@0 x",
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                shop.execute_command(*command.split())


@pytest.fixture(scope="module")
def guarded_rabbitmq(rabbitmq_server: RabbitServer) -> Iterator[RabbitServer]:
    """With the user of the document."""
    for command in given("rabbitmq"):
        rabbitmq_server.control(*shlex.split(command)[1:])
    yield rabbitmq_server
    rabbitmq_server.control("delete_user", "shop")


def test_a_rabbitmq_user_with_these_rights_runs_its_workspace(guarded_rabbitmq: RabbitServer) -> None:
    url = f"amqp://shop:PASSWORD@{HOST}:{guarded_rabbitmq.port}/"
    with durable.connect(f"memory://{uuid4().hex}", events=url, workspace="shop") as client:
        runs(client)
        client.diagnose()
    with durable.connect(f"memory://{uuid4().hex}", events=url, workspace="shop") as client:
        runs(client)


def test_rabbitmq_refuses_this_user_the_rest_but_for_publishing(guarded_rabbitmq: RabbitServer) -> None:
    workspace = uuid4().hex[:8]
    queue = f"durable.{workspace}.work.default"
    with durable.connect(f"memory://{uuid4().hex}", events=guarded_rabbitmq.url(), workspace=workspace) as other:
        runs(other)
    mine = pika.PlainCredentials("shop", "PASSWORD")
    parameters = pika.ConnectionParameters(HOST, guarded_rabbitmq.port, "/", mine)
    refused: tuple[Callable[[Any], object], ...] = (
        lambda channel: channel.basic_get(queue),
        lambda channel: channel.queue_delete(queue),
        lambda channel: channel.queue_purge(queue),
        lambda channel: channel.queue_declare("durable.else.work.default", durable=True),
    )
    with closing(pika.BlockingConnection(parameters)) as connection:
        for call in refused:
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match=r"ACCESS_REFUSED|access to"):
                call(connection.channel())
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"junk", mandatory=True)
    with pytest.raises(durable.TransportError, match=r"configure|refuse|permission"):
        durable.connect(
            f"memory://{uuid4().hex}", events=f"amqp://shop:PASSWORD@{HOST}:{guarded_rabbitmq.port}/", workspace="else"
        )
    with closing(pika.BlockingConnection(pika.URLParameters(guarded_rabbitmq.url()))) as admin:
        for part in ("work.default", "outcomes.default.0", "dead-letters"):
            admin.channel().queue_delete(f"durable.{workspace}.{part}")
