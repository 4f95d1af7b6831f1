"""Other processes hand their starts and facts to the worker of a SQLite file; whatever goes wrong, they write alone."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

import durable
from durable.backends import sqlite_handover as handover
from durable.backends import sqlite_reception as reception
from durable.backends.sqlite import SqliteBackend, SqliteStore, open_sqlite
from durable.backends.sqlite_core import Core
from durable.backends.sqlite_file import Target
from durable.backends.sqlite_handover import Request, Sender, encode, framed
from durable.ports import FACTS, Beat, Delivered, Fact, Outcome, Store, Want
from durable.testing import StoreContract
from durable.testing.store_samples import fact, turn
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
import os, sys, threading, durable
from durable.backends import sqlite_handover as handover
from durable.backends.sqlite import open_sqlite
from durable.ports import *
from durable.testing.store_samples import *
backend = open_sqlite(sys.argv[1]); store = backend.store
"""
ASKED = """\
for line in sys.stdin:
    try: print(eval(line), flush=True)
    except BaseException as error: print(f"{type(error).__name__}: {error}", flush=True)
"""


WORKER = """\
from durable.backends import sqlite_reception
app = durable.Registry()
@app.orchestrator(name="flow")
def flow(ctx, n):
    return n
    yield
worker = durable.Worker(durable.connect(sys.argv[1]), registry=app)
worker.start()
apply = sqlite_reception.Reception._apply
def die_before(reception, request): os._exit(1)
def die_after(reception, request): apply(reception, request); os._exit(1)
"""
STARTER = """\
client = durable.connect(sys.argv[1])
def start(instance_id):
    try:
        client.start_orchestration("flow", 1, instance_id=instance_id)
        print("started", flush=True)
    except Exception as error: print(type(error).__name__, error, flush=True)
"""


class Other:
    """Another process that has the file open, and evaluates what it is told."""

    def __init__(self, url: str, code: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + code + ASKED, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            # Under a runner that ignores SIGINT, its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def tell(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, expression: str) -> str:
        self.tell(expression)
        return self.hear()

    def commit(self, *ids: str) -> list[str]:
        """Create these instances; what became of each."""
        return re.findall(r"Outcome\.(\w+)", self.ask(f"store.commit([turn(i, 0) for i in {ids!r}])"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class News:
    """What the worker's engine would hear."""

    def __init__(self, backend: SqliteBackend) -> None:
        self.heard: list[Collection[str] | None] = []
        self._arrived = threading.Semaphore(0)
        self.stop = backend.signals.listen(FACTS, self._wake)

    def _wake(self, ids: Collection[str] | None) -> None:
        self.heard.append(ids)
        self._arrived.release()

    def next(self) -> Collection[str] | None:
        assert self._arrived.acquire(timeout=30)
        return self.heard[-1]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def socket_file(tmp_path: Path) -> Path:
    return tmp_path / "store.db-worker.sock"


@pytest.fixture
def after() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def backend(url: str, after: ExitStack) -> SqliteBackend:
    opened = open_sqlite(url)
    after.callback(opened.close)
    assert isinstance(opened, SqliteBackend)
    return opened


@pytest.fixture
def worker(backend: SqliteBackend) -> SqliteBackend:
    """This process is the worker."""
    backend.membership.beat(Beat("me"))
    return backend


@pytest.fixture
def other(url: str, after: ExitStack) -> Other:
    return another(url, after)


def another(url: str, after: ExitStack, code: str = "") -> Other:
    process = Other(url, code)
    after.callback(process.close)
    assert process.ask("'ready'") == "ready"
    return process


def went_directly(backend: SqliteBackend, act: Callable[[], object]) -> bool:
    """Whether another process wrote into the file itself while `act` ran."""
    before = backend._core.foreign_version()
    act()
    return backend._core.foreign_version() != before


def receiver(worker: SqliteBackend) -> reception.Reception:
    return worker._lock._reception


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


# What travels, and how.


class TestHandedOver(StoreContract):
    """The contract of stores, every start and fact of which goes through a worker."""

    @pytest.fixture(autouse=True)
    def _place(self, worker: SqliteBackend, after: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        # The sender's side is in this process too, with connections of its own: it must not find out.
        monkeypatch.setattr(handover, "receiving", set())
        self.target = Target(worker._core.path, worker._core.synchronous)
        self.after = after

    def open_store(self) -> Store:
        core = Core(self.target)
        sender = Sender(core)
        self.after.callback(core.close)
        self.after.callback(sender.close)
        store = SqliteStore(core, sender=sender)
        assert store.deliver([fact("nobody", "f")]) == [Delivered.ABSENT]
        assert len(sender._idle) == 1
        return store

    def reopen_store(self, store: Store) -> Store:
        return self.open_store()


def test_the_worker_writes_and_hears_the_ids_at_once(worker: SqliteBackend, other: Other) -> None:
    news = News(worker)
    before = worker._core.foreign_version()
    assert other.commit("a", "b") == ["COMMITTED"] * 2
    assert worker.store.summaries(["a", "b"]) != [None, None]
    assert news.next() == ["a", "b"]
    assert other.commit("c", "a") == ["COMMITTED", "CONFLICT"]
    assert news.next() == ["c", "a"]
    facts = "[fact('a', 'f'), fact('a', 'f'), fact('b', 'g'), fact('nobody', 'h')]"
    answers = other.ask(f"[answer.name for answer in store.deliver({facts})]")
    assert answers == "['NEW', 'DUPLICATE', 'NEW', 'ABSENT']"
    assert news.next() == ["a", "a", "b", "nobody"]
    assert other.ask("store.commit([]) + store.deliver([])") == "[]"
    assert worker._core.foreign_version() == before
    assert None not in news.heard
    news.stop()


def test_a_commit_that_does_not_create_is_written_directly(worker: SqliteBackend, other: Other) -> None:
    worker.store.commit([turn("a", 0)])
    assert went_directly(worker, lambda: other.ask("store.commit([turn('a', 1)])"))
    assert went_directly(worker, lambda: other.ask("store.commit([turn('b', 0), turn('a', 2)])"))
    assert [record and record.version for record in worker.store.load([Want("a"), Want("b")])] == [3, 1]


def test_the_workers_own_process_writes_directly(worker: SqliteBackend, url: str) -> None:
    with closing(open_sqlite(url)) as client:
        assert client.store.commit([turn("a", 0)]) == [Outcome.COMMITTED]
        assert client.store.deliver([fact("a", "f")]) == [Delivered.NEW]
        assert receiver(worker)._lines == {}


def test_several_threads_have_a_connection_each_and_share_transactions(worker: SqliteBackend, other: Other) -> None:
    begun: list[str] = []
    worker._core._writer.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
    with worker._core._lock:
        other.tell("[threading.Thread(target=store.commit, args=([turn(f'i{n}', 0)],)).start() for n in range(5)]")
        until(lambda: len(worker._core._queue) == 5)
    assert other.hear() == str([None] * 5)
    until(lambda: None not in worker.store.summaries([f"i{n}" for n in range(5)]))
    assert begun == ["BEGIN IMMEDIATE"]
    assert len(receiver(worker)._lines) == 5


def test_what_the_workers_store_says_comes_back(worker: SqliteBackend, other: Other) -> None:
    (pages,) = worker._core._writer.execute("PRAGMA page_count").fetchone()
    worker._core._writer.execute(f"PRAGMA max_page_count = {pages + 20}")
    said = other.ask("store.commit([turn('a', 0, events('a', 0, b'x' * 1_000_000))])")
    assert re.match(r"StoreError: SQLite store .*store\.db: .*full; free space", said)
    assert not went_directly(worker, lambda: other.commit("b"))  # the connection lives on
    assert worker.store.summaries(["a", "b"])[0] is None


def test_the_stricter_durability_holds(url: str, after: ExitStack) -> None:
    backend = open_sqlite(url + "?synchronous=normal")
    after.callback(backend.close)
    assert isinstance(backend, SqliteBackend)
    backend.membership.beat(Beat("me"))
    assert another(url + "?synchronous=normal", after).commit("a") == ["COMMITTED"]
    assert backend._core.synchronous == "NORMAL"
    assert another(url, after).commit("b") == ["COMMITTED"]
    assert backend._core.synchronous == "FULL"
    assert backend._core._writer.execute("PRAGMA synchronous").fetchone() == (2,)


# The socket.


def test_the_socket_is_private_and_ends_with_the_worker(backend: SqliteBackend, socket_file: Path) -> None:
    before = os.umask(0)
    try:
        backend.membership.beat(Beat("me"))
    finally:
        os.umask(before)
    mode = socket_file.stat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    backend.membership.leave("me")
    assert not socket_file.exists()
    assert [name for name in names_of_threads() if name.startswith("durable-sqlite")] == []
    backend.membership.beat(Beat("again"))
    assert socket_file.is_socket()


def test_a_stale_socket_is_written_past_and_replaced(backend: SqliteBackend, other: Other, socket_file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_file))
    assert went_directly(backend, lambda: other.commit("a"))
    backend.membership.beat(Beat("me"))
    assert not went_directly(backend, lambda: other.commit("b"))


def test_a_file_in_the_sockets_place_is_left_alone(
    backend: SqliteBackend, other: Other, socket_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    socket_file.write_text("mine")
    assert backend.membership.beat(Beat("me")) == [Beat("me")]
    assert "is no socket; move it away" in caplog.text
    assert went_directly(backend, lambda: other.commit("a"))
    backend.membership.leave("me")
    assert socket_file.read_text() == "mine"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is no way around the limit")
def test_a_path_too_long_for_an_address_is_reached_by_its_folder(
    tmp_path: Path, after: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/{'long' * 30}/store.db"
    backend = open_sqlite(url)
    after.callback(backend.close)
    assert isinstance(backend, SqliteBackend)
    assert backend.membership.beat(Beat("me")) == [Beat("me")]
    assert caplog.text == ""
    other = another(url, after)
    assert not went_directly(backend, lambda: other.commit("a"))
    assert other.ask("store.deliver([fact('a', 'f')])[0].name") == "NEW"
    backend.membership.leave("me")
    assert list(Path(tmp_path, "long" * 30).glob("*.sock")) == []


def test_a_name_too_long_for_an_address(tmp_path: Path, after: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path}/{'long' * 30}.db"
    backend = open_sqlite(url)
    after.callback(backend.close)
    assert isinstance(backend, SqliteBackend)
    assert backend.membership.beat(Beat("me")) == [Beat("me")]
    assert "AF_UNIX path too long" in caplog.text
    other = another(url, after)
    assert went_directly(backend, lambda: other.commit("a"))
    assert other.ask("store.deliver([fact('a', 'f')])[0].name") == "NEW"


def test_others_of_another_user_are_turned_away(
    worker: SqliteBackend, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert went_directly(worker, lambda: other.commit("a"))
    assert receiver(worker)._lines == {}


def test_a_worker_of_another_user_is_given_nothing(worker: SqliteBackend, other: Other) -> None:
    other.ask("setattr(os, 'geteuid', lambda: 12345)")
    assert went_directly(worker, lambda: other.commit("a"))


def test_a_crowd_is_turned_away(worker: SqliteBackend, other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "CONNECTIONS", 0)
    assert went_directly(worker, lambda: other.commit("a"))


@pytest.mark.parametrize("greeting", [handover.GREETING[:-1] + b"\x02", b"SSH-2.0-OpenSSH_9.6", b""])
def test_another_version_is_not_spoken_to(
    backend: SqliteBackend, other: Other, socket_file: Path, greeting: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_file))
        listener.listen()
        other.tell("store.commit([turn('a', 0)])[0].name")
        with listener.accept()[0] as connection:
            connection.sendall(greeting)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        assert other.hear() == "COMMITTED"
        assert other.commit("b") == ["COMMITTED"]  # and not asked again so soon: nobody accepts here


# Junk.


def connected(socket_file: Path, after: ExitStack) -> socket.socket:
    line = after.enter_context(socket.socket(socket.AF_UNIX))
    line.settimeout(30)
    line.connect(str(socket_file))
    assert line.recv(100) == handover.GREETING
    return line


def rest_of(line: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    received = b""
    try:
        while piece := line.recv(65_536):
            received += piece
    except ConnectionResetError:  # it ended it with some of our junk unread
        pass
    return received


NOT_TEXT = encode(Request(False, facts=[Fact("name", 0, "f", b"", 1.0)])).replace(b"name", b"n\xffme")


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        framed(b"hello"),
        framed(b""),
        framed(b"\xc1"),
        framed(b"\x91" * 100_000),
        framed(encode({"full": True})),
        framed(encode([False, [["c", "junk", 0, b"{}", [], [], []]], []])),
        framed(encode([False, [], [["junk", "no number", "f", b"", 1.0]]])),
        framed(NOT_TEXT),
        b"\xff" * 1_000_000,
    ],
    ids=["http", "text", "nothing", "no-msgpack", "deep", "map", "summary", "types", "not-utf8", "flood"],
)
def test_junk_ends_its_own_connection_only(
    worker: SqliteBackend, other: Other, socket_file: Path, after: ExitStack, junk: bytes
) -> None:
    assert other.commit("a") == ["COMMITTED"]
    line = connected(socket_file, after)
    with suppress(BrokenPipeError, ConnectionResetError):
        line.sendall(junk)
    said = rest_of(line)
    assert said == b"" or b"at most" in said
    assert not went_directly(worker, lambda: other.commit("b"))
    assert len(receiver(worker)._lines) == 1
    assert worker.store.summaries(["junk"]) == [None]


def test_half_a_request_hurts_nobody(worker: SqliteBackend, other: Other, socket_file: Path, after: ExitStack) -> None:
    whole = framed(encode([False, [], [["a", 0, "f", b"", 1.0]]]))
    waiting, gone = connected(socket_file, after), connected(socket_file, after)
    for line in (waiting, gone):
        line.sendall(whole[:-1])
    gone.close()
    assert not went_directly(worker, lambda: other.commit("a"))
    waiting.sendall(whole[-1:])
    assert b"new" in waiting.recv(1_000)
    waiting.sendall(whole[:2])
    begun = time.monotonic()
    worker.membership.leave("me")
    assert time.monotonic() - begun < handover.ANSWER_SECONDS / 2  # it does not wait for the rest
    assert rest_of(waiting) == b""


def test_whoever_reads_no_answers_does_not_keep_the_worker(
    worker: SqliteBackend, socket_file: Path, after: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "ANSWER_SECONDS", 0.1)
    many = framed(encode([False, [], [["a", 0, f"f{n}", b"", 1.0] for n in range(20_000)]]))
    line = connected(socket_file, after)
    line.settimeout(0.5)
    with suppress(TimeoutError):
        while True:
            line.sendall(many)
    worker.membership.leave("me")
    until(lambda: receiver(worker)._lines == {})


def test_a_request_too_large_is_refused_in_words(worker: SqliteBackend, socket_file: Path, after: ExitStack) -> None:
    line = connected(socket_file, after)
    line.sendall((handover.LARGEST + 1).to_bytes(4, "big"))
    assert b"67108865 bytes at once; at most 67108864 can be handed over" in rest_of(line)


def test_whoever_has_much_to_say_writes_it(worker: SqliteBackend, other: Other) -> None:
    other.ask("setattr(handover, 'LARGEST', 10)")
    assert went_directly(worker, lambda: other.commit("a"))


def test_what_can_not_travel_is_the_stores_to_refuse(worker: SqliteBackend, other: Other) -> None:
    other.commit("a")
    [line] = receiver(worker)._lines
    assert other.ask("store.commit([turn('b', 0, put=[work(chr(0xd800))])])").startswith("UnicodeEncodeError")
    assert not went_directly(worker, lambda: other.commit("c"))
    assert list(receiver(worker)._lines) == [line]


def test_an_interrupted_call_leaves_its_answer_to_nobody(worker: SqliteBackend, other: Other) -> None:
    with worker._core._lock:
        other.tell("store.commit([turn('a', 0)])")
        until(lambda: len(worker._core._queue) == 1)
        os.kill(other.process.pid, signal.SIGINT)
        assert other.hear().startswith("KeyboardInterrupt")
    assert other.commit("b", "a") == ["COMMITTED", "CONFLICT"]


# Workers that leave, die, freeze.


def test_a_worker_that_leaves_finishes_what_it_took(worker: SqliteBackend, other: Other, socket_file: Path) -> None:
    with worker._core._lock:
        other.tell("store.commit([turn('a', 0)])[0].name")
        until(lambda: len(worker._core._queue) == 1)
        leaving = threading.Thread(target=worker.membership.leave, args=("me",))
        leaving.start()
        until(lambda: not socket_file.exists())
    assert other.hear() == "COMMITTED"
    leaving.join(30)
    assert not leaving.is_alive()
    assert went_directly(worker, lambda: other.commit("b"))
    worker.membership.beat(Beat("next"))
    assert not went_directly(worker, lambda: other.commit("c"))  # the next one is found at once


def test_a_fork_does_not_share_its_parents_connection(worker: SqliteBackend, other: Other) -> None:
    other.commit("a")
    [line] = receiver(worker)._lines
    other.ask("setattr(backend._sender, '_owner', 0)")
    assert not went_directly(worker, lambda: other.commit("b"))
    until(lambda: len(receiver(worker)._lines) == 1)
    assert line not in receiver(worker)._lines


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_dies_with_a_start_leaves_it_unknown(
    backend: SqliteBackend, url: str, after: ExitStack, moment: str
) -> None:
    worker = another(url, after, WORKER)
    worker.ask(f"setattr(sqlite_reception.Reception, '_apply', die_{moment})")
    assert backend.store.commit([turn("a", 0), turn("b", 0)]) == [Outcome.UNKNOWN] * 2
    there = [summary is not None for summary in backend.store.summaries(["a", "b"])]
    assert there == [moment == "after"] * 2
    assert worker.process.wait(30) == 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_client_settles_what_a_dead_worker_left_unknown(url: str, after: ExitStack, moment: str) -> None:
    worker = another(url, after, WORKER)
    worker.ask(f"setattr(sqlite_reception.Reception, '_apply', die_{moment})")
    client = after.enter_context(durable.connect(url))
    client.start_orchestration("flow", 1, instance_id="a")
    assert worker.process.wait(30) == 1
    with pytest.raises(durable.InstanceExistsError):
        client.start_orchestration("flow", 1, instance_id="a")
    another(url, after, WORKER)
    assert client.handle("a").result(30) == 1
    assert executions(url) == ["a"]


@pytest.mark.parametrize(("moment", "answer"), [("before", Delivered.NEW), ("after", Delivered.DUPLICATE)])
def test_facts_of_a_worker_that_died_are_written_directly(
    backend: SqliteBackend, url: str, after: ExitStack, moment: str, answer: Delivered
) -> None:
    worker = another(url, after, WORKER)
    assert backend.store.commit([turn("a", 0, group="nobody's")]) == [Outcome.COMMITTED]
    worker.ask(f"setattr(sqlite_reception.Reception, '_apply', die_{moment})")
    assert backend.store.deliver([fact("a", "f")]) == [answer]
    [record] = backend.store.load([Want("a")])
    assert record is not None
    assert len(record.inbox) == 1


@pytest.mark.parametrize("kill_after", [1, 20, 60])
def test_no_start_is_lost_or_doubled_when_the_worker_is_killed(url: str, after: ExitStack, kill_after: int) -> None:
    worker = another(url, after, WORKER)
    starters = {name: another(url, after, STARTER) for name in "ab"}
    for name, starter in starters.items():
        probe = "store.deliver([fact('nobody', 'f')])[0].name, len(backend._sender._idle)"
        assert starter.ask(probe) == "('ABSENT', 1)"  # it does reach the worker
        starter.tell(f"[start('{name}' + str(n)) for n in range(100)]")
    said = [starters["a"].hear() for _ in range(kill_after)]
    worker.kill()
    said += [starters["a"].hear() for _ in range(100 - kill_after)] + [starters["b"].hear() for _ in range(100)]
    assert said == ["started"] * 200
    another(url, after, WORKER)
    everybody = sorted(f"{name}{n}" for name in "ab" for n in range(100))
    assert executions(url) == everybody
    with durable.connect(url) as client:
        assert [client.handle(instance).result(30) for instance in everybody] == [1] * 200
        assert executions(url) == everybody


def executions(url: str) -> list[str]:
    """The instance of every execution that has a history."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        stored = connection.execute(
            "SELECT instance_id FROM history LEFT JOIN instances USING (execution_id) WHERE start = 0"
        )
        return sorted(instance for (instance,) in stored)


def freeze(worker: Other, url: str) -> None:
    """Stop it between two transactions: within one it would keep the file's lock, and nobody could write."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0.1, isolation_level=None)) as connection:
        while True:
            os.kill(worker.process.pid, signal.SIGSTOP)
            os.waitpid(worker.process.pid, os.WUNTRACED)
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                os.kill(worker.process.pid, signal.SIGCONT)


def test_a_frozen_worker_is_waited_for_once_and_not_for_long(url: str, after: ExitStack) -> None:
    worker = another(url, after, WORKER)
    client = after.enter_context(durable.connect(url))
    assert client.start_orchestration("flow", 0, instance_id="i0").result(30) == 0
    freeze(worker, url)
    begun = time.monotonic()
    client.start_orchestration("flow", 1, instance_id="i1")
    took = time.monotonic() - begun
    assert handover.ANSWER_SECONDS - 0.1 < took < 4
    for n in (2, 3):
        client.start_orchestration("flow", n, instance_id=f"i{n}")
    assert time.monotonic() - begun - took < handover.ANSWER_SECONDS
    os.kill(worker.process.pid, signal.SIGCONT)
    assert [client.handle(f"i{n}").result(30) for n in (1, 2, 3)] == [1, 2, 3]
    assert executions(url) == ["i0", "i1", "i2", "i3"]
    assert worker.ask("'alive'") == "alive"


def test_a_worker_frozen_before_the_greeting(url: str, after: ExitStack) -> None:
    worker = another(url, after, WORKER)
    client = after.enter_context(durable.connect(url))
    freeze(worker, url)
    begun = time.monotonic()
    client.start_orchestration("flow", 1, instance_id="a")
    assert time.monotonic() - begun < 4
    os.kill(worker.process.pid, signal.SIGCONT)
    assert client.handle("a").result(30) == 1
