"""SQLite's own: files and URLs that are refused, processes that share a file, crashes, disks that fail."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

import durable
from durable.backends import sqlite_statements as statements
from durable.backends.sqlite import SqliteBackend, SqliteStore, open_sqlite
from durable.backends.sqlite_core import Core
from durable.backends.sqlite_signals import FileSignals
from durable.model.errors import StoreError
from durable.ports import FACTS, Beat, Delivered, Fact, Lease, Outcome, Query, Want
from durable.testing.store_samples import events, fact, turn, work
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def backend(url: str) -> Iterator[SqliteBackend]:
    opened = open_here(url)
    yield opened
    opened.close()


def open_here(url: str) -> SqliteBackend:
    opened = open_sqlite(url)
    assert isinstance(opened, SqliteBackend)
    return opened


def core_of(backend: SqliteBackend) -> Core:
    return backend._core


def other_process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run code that says what it does on stdout and goes on at each line of stdin."""
    head = (
        "import sys, os\n"
        "from durable.backends.sqlite import open_sqlite\n"
        "from durable.testing.store_samples import *\n"
        "backend = open_sqlite(sys.argv[1]); store = backend.store\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def others() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(others: ExitStack, code: str, *arguments: str) -> subprocess.Popen[str]:
    process = other_process(code, *arguments)
    others.callback(_finish, process)
    return process


def _finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(30)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


# URLs and files that are refused.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "names no file|not the URL"),
        ("sqlite:///", "names no file"),
        ("sqlite:////tmp/", "names no file"),
        ("sqlite://host/x.db", "not the URL"),
        ("sqlite:x.db", "not the URL"),
        ("postgres:///x.db", "not the URL"),
        ("sqlite://[", "not a URL"),
        ("sqlite:///x.db#part", "not the URL"),
        ("sqlite:///:memory:", "memory://name"),
        ("sqlite:///x%00.db", "characters"),
        ("sqlite:///x%0a.db", "characters"),
        ("sqlite:///file:x?mode=memory&vfs=unix-none", "unknown parameter mode=memory"),
        ("sqlite:///x.db?immutable=1", "unknown parameter immutable=1"),
        ("sqlite:///x.db?nolock=", "unknown parameter nolock="),
        ("sqlite:///x.db?synchronous=off", "unknown parameter synchronous=off"),
    ],
)
def test_urls_that_are_refused(url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=said):
        open_sqlite(url)
    assert list(tmp_path.iterdir()) == []


def test_relative_and_absolute_and_escaped_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, path in (
        ("sqlite:///a.db", tmp_path / "a.db"),
        (f"sqlite:///{tmp_path}/b.db", tmp_path / "b.db"),
        ("sqlite:///new/deep/c%20%25%3F.db?synchronous=normal", tmp_path / "new/deep/c %?.db"),
        ("sqlite:///file:x", tmp_path / "file:x"),
    ):
        open_sqlite(url).close()
        assert path.is_file()


def test_file_and_folders_are_private(url: str, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        opened = open_sqlite(f"sqlite:///{tmp_path}/new/deep/store.db")
        opened.membership.beat(Beat("me"))
        opened.store.commit([turn("a", 0)])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
        opened.close()
    finally:
        os.umask(before)
    assert modes.pop("deep") == 0o700
    assert {"store.db", "store.db-wal", "store.db-shm", "store.db-worker"} <= set(modes)
    assert set(modes.values()) == {0o600}


def _not_sqlite(path: Path) -> None:
    path.write_bytes(b"This is a text, long enough to be looked at." * 100)


def _short(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def _of_something_else(path: Path) -> None:
    _sqlite(path, "CREATE TABLE instances (x)")


def _marked_by_something_else(path: Path) -> None:
    _sqlite(path, "PRAGMA application_id = 7")


def _newer(path: Path) -> None:
    open_sqlite(f"sqlite:///{path}").close()
    _sqlite(path, "PRAGMA user_version = 99")


def _with_trigger(path: Path) -> None:
    open_sqlite(f"sqlite:///{path}").close()
    _sqlite(path, "CREATE TRIGGER evil AFTER INSERT ON instances BEGIN DELETE FROM history; END")


def _without_table(path: Path) -> None:
    open_sqlite(f"sqlite:///{path}").close()
    _sqlite(path, "DROP TABLE seen")


def _corrupt(path: Path) -> None:
    open_sqlite(f"sqlite:///{path}").close()
    data = bytearray(path.read_bytes())
    data[100:4000] = b"\xff" * 3900
    path.write_bytes(data)


def _sqlite(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_not_sqlite, "not a SQLite file"),
        (_short, "not a SQLite file|damaged|something else"),
        (_of_something_else, "belongs to something else"),
        (_marked_by_something_else, "belongs to something else"),
        (_newer, "schema 99.*upgrade"),
        (_with_trigger, "not those of a store"),
        (_without_table, "not those of a store"),
        (_corrupt, "damaged"),
        (Path.mkdir, "a folder"),
        (os.mkfifo, "no regular file"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "bad.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=said) as caught:
        open_sqlite(f"sqlite:///{path}")
    assert str(path) in str(caught.value)
    if path.is_file():
        assert path.read_bytes() == before  # what is not ours is not changed


def test_a_device_is_refused() -> None:
    with pytest.raises(StoreError, match="/dev/zero: this is no regular file"):
        open_sqlite("sqlite:////dev/zero")


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    open_sqlite(f"sqlite:///{path}").close()
    assert path.stat().st_size > 0


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_read_only_is_refused(what: str, others: ExitStack) -> None:
    # As another user where this runs as root, for whom nothing is read-only; so not in pytest's own private folder.
    folder = Path(others.enter_context(tempfile.TemporaryDirectory()))
    path = folder / "store.db"
    if what == "file":
        open_sqlite(f"sqlite:///{path}").close()
        path.chmod(0o444)
        folder.chmod(0o777)
    else:
        folder.chmod(0o555)
    code = (
        "import os, sys\n"
        "from durable.backends.sqlite import open_sqlite\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: open_sqlite(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.startswith("StoreError")
    assert str(path) in process.stdout
    assert "owner and mode" in process.stdout


# A life with accidents.


@pytest.mark.parametrize("accident", ["deleted", "replaced"])
def test_a_file_that_is_gone_is_not_written_into(backend: SqliteBackend, url: str, accident: str) -> None:
    path = Path(core_of(backend).path)
    backend.store.commit([turn("a", 0)])
    path.unlink()
    if accident == "replaced":
        path.write_bytes(b"")
    for verb in (
        lambda: backend.store.commit([turn("a", 1)]),
        lambda: backend.store.load([Want("a")]),
        lambda: backend.store.find(Query()),
        lambda: open_sqlite(url),
    ):
        with pytest.raises(StoreError, match=r"store\.db: the file was deleted or replaced"):
            verb()


def test_a_closed_store_says_so(url: str) -> None:
    opened = open_sqlite(url)
    opened.close()
    opened.close()
    with pytest.raises(StoreError, match="closed; connect again"):
        opened.store.commit([turn("a", 0)])
    with pytest.raises(StoreError, match="closed; connect again"):
        opened.store.load([Want("a")])


def test_a_full_disk_is_an_error_and_changes_nothing(backend: SqliteBackend) -> None:
    writer = core_of(backend)._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages + 20}")
    backend.store.commit([turn("a", 0)])
    with pytest.raises(StoreError, match=r"store\.db: .*full; free space"):
        backend.store.commit([turn("b", 0), turn("a", 1, events("a", 0, b"x" * 1_000_000))])
    assert [s.instance_id for s in backend.store.find(Query()).items] == ["a"]
    writer.execute("PRAGMA max_page_count = 100000")
    assert backend.store.commit([turn("a", 1)]) == [Outcome.COMMITTED]


def test_a_lock_that_stays_is_an_error(backend: SqliteBackend, url: str, others: ExitStack) -> None:
    core_of(backend)._writer.execute("PRAGMA busy_timeout = 50")
    code = "import sqlite3; c = sqlite3.connect(sys.argv[2], isolation_level=None); c.execute('BEGIN IMMEDIATE')\n"
    process = started(others, code + "print('locked', flush=True); input()\n", url, core_of(backend).path)
    assert line(process) == "locked"
    with pytest.raises(StoreError, match="locked; another process"):
        backend.store.commit([turn("a", 0)])
    assert backend.store.load([Want("a")]) == [None]  # readers don't wait for writers
    _finish_politely(process)
    assert backend.store.commit([turn("a", 0)]) == [Outcome.COMMITTED]


def _finish_politely(process: subprocess.Popen[str]) -> None:
    go_on(process)
    assert process.wait(30) == 0


class _Wire:
    """A connection whose COMMIT fails, before or after it happened."""

    def __init__(self, connection: sqlite3.Connection, happens: bool) -> None:
        self._connection = connection
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if sql == "COMMIT":
            if self._happens:
                self._connection.execute(sql)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, values)


@pytest.mark.parametrize("happens", [True, False])
def test_when_commit_fails_the_outcome_is_unknown(backend: SqliteBackend, happens: bool) -> None:
    core = core_of(backend)
    backend.store.commit([turn("a", 0, put=[work("k")])])
    connection = core._writer
    core._writer = _Wire(connection, happens)  # type: ignore[assignment]
    batch = [turn("a", 1), turn("b", 0), turn("c", 7)]
    assert backend.store.commit(batch) == [Outcome.UNKNOWN] * 3
    with pytest.raises(StoreError, match="not known"):
        backend.store.deliver([fact("a", "f")])
    with pytest.raises(StoreError, match="not known"):
        backend.store.lease([Lease(0, "k", "", 0, 1.0)])
    core._writer = connection
    [a, b] = backend.store.load([Want("a"), Want("b")])
    assert a is not None
    assert (a.version, b is not None) == ((2, True) if happens else (1, False))
    assert backend.store.deliver([fact("a", "f")]) == [Delivered.DUPLICATE if happens else Delivered.NEW]


def test_one_bad_ticket_does_not_lose_the_others(backend: SqliteBackend) -> None:
    """Callers meet in one transaction; one of them gave something that SQLite can't store."""
    core = core_of(backend)
    backend.store.commit([turn("old", 0, events("old", 0))])
    batches = [
        [turn("a", 0)],
        [turn("bad", 0, put=[work("\ud800")])],
        [turn("old", 1, events("old", 0))],  # an event number that is taken
        [turn("b", 0), turn("c", 3)],
    ]
    answers: dict[int, object] = {}

    def commit(index: int) -> None:
        try:
            answers[index] = backend.store.commit(batches[index])
        except Exception as error:
            answers[index] = type(error)

    threads = [threading.Thread(target=commit, args=(index,)) for index in range(len(batches))]
    with core._lock:  # so that all of them queue up
        for thread in threads:
            thread.start()
        while len(core._queue) < len(batches):
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join(30)
    assert answers == {
        0: [Outcome.COMMITTED],
        1: UnicodeEncodeError,
        2: StoreError,
        3: [Outcome.COMMITTED, Outcome.CONFLICT],
    }
    assert [item is not None for item in backend.store.summaries(["a", "bad", "b", "c"])] == [True, False, True, False]


def test_concurrent_callers_share_a_transaction(backend: SqliteBackend, url: str) -> None:
    core = core_of(backend)
    client = open_here(url)
    assert core_of(client) is core
    begun: list[str] = []
    core._writer.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
    stores = (backend.store, client.store)
    threads = [threading.Thread(target=stores[n % 2].commit, args=([turn(f"i{n}", 0)],)) for n in range(10)]
    with core._lock:
        for thread in threads:
            thread.start()
        while len(core._queue) < len(threads):
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join(30)
    client.close()
    assert begun == ["BEGIN IMMEDIATE"]
    assert len(backend.store.find(Query()).items) == 10


def test_a_writer_interrupted_while_it_gathers_leaves_nobody_waiting(backend: SqliteBackend) -> None:
    class Interrupted(deque[Any]):
        left = 2

        def popleft(self) -> Any:
            ticket = super().popleft()
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return ticket

    core = core_of(backend)
    core._queue = Interrupted()
    raised: list[BaseException] = []

    def write(name: str) -> None:
        try:
            backend.store.commit([turn(name, 0)])
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    with core._lock:
        for thread in threads:
            thread.start()
        until(lambda: len(core._queue) == 2)
    for thread in threads:
        thread.join()
    assert sorted(type(error).__name__ for error in raised) == ["KeyboardInterrupt", "StoreError"]
    assert backend.store.commit([turn("a", 0), turn("b", 0)]) == [Outcome.COMMITTED] * 2


def test_an_interrupted_writer_leaves_nobody_waiting(backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> list[Outcome]:
        raise KeyboardInterrupt

    monkeypatch.setattr(statements, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.store.commit([turn("a", 0)])
    monkeypatch.undo()
    assert backend.store.commit([turn("a", 0)]) == [Outcome.COMMITTED]


def test_old_facts_are_forgotten_but_not_the_newest_thousand(backend: SqliteBackend) -> None:
    now = 1_000_000.0
    store = SqliteStore(core_of(backend), now=lambda: now)
    store.commit([turn("a", 0), turn("b", 0)])
    store.deliver([Fact("b", 0, "f0", b"", 0.0)])
    store.deliver([fact("a", f"f{n}") for n in range(3_000)])
    count = "SELECT count(*) FROM seen WHERE instance_id = 'a'"
    assert core_of(backend)._writer.execute(count).fetchone() == (3_000,)  # within a day nothing is forgotten
    now += 25 * 3600
    store.deliver([fact("a", f"g{n}") for n in range(3_000)])
    (left,) = core_of(backend)._writer.execute(count).fetchone()
    assert left == 3_000  # all of today's, none of yesterday's
    assert store.deliver([fact("a", "g0"), fact("b", "f0"), fact("a", "f0")]) == [
        Delivered.DUPLICATE,
        Delivered.DUPLICATE,
        Delivered.NEW,
    ]


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a\0b", b"\xed\xa0\x80", b"", b"x" * 100_000])
def test_bodies_need_not_be_text(backend: SqliteBackend, body: bytes) -> None:
    backend.store.commit([turn("a", 0, events("a", 0, body)), turn("b", 0, events("b", 0))])
    backend.store.deliver([Fact("a", 0, "f", body, 1.0), fact("b", "f")])
    [a, b] = backend.store.load([Want("a"), Want("b")])
    assert a is not None
    assert b is not None
    assert (a.history, a.inbox[0].body) == ((body,), body)
    assert (b.history, b.inbox[0].body) == ((b'[1,"e"]',), b'"f"')


# Several processes.


def test_a_file_of_schema_1_is_brought_up_to_date_and_goes_on(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "sqlite-schema-1.sql"
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(golden.read_text())
    app = durable.Registry()

    @app.activity
    def double(n: int) -> int:
        return 2 * n

    @app.orchestrator(name="golden")
    def flow(ctx: durable.OrchestrationContext, n: int) -> Generator[Any, Any, list[Any]]:
        n = yield ctx.call_activity(double, n)
        return [n, (yield ctx.wait_for_external_event("go"))]

    with durable.connect(f"sqlite:///{tmp_path}/old.db") as client, durable.Worker(client, registry=app):
        assert client.handle("golden-1").result(20) == [42, {"late": True}]
        assert client.handle("golden-2").result(20) == [2, "early"]
        assert client.start_orchestration(flow, 4).status().runtime_status is not None
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_file_of_schema_2_is_brought_up_to_date_and_its_executions_are_known(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "sqlite-schema-2-ended.sql"
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(golden.read_text())
    with durable.connect(f"sqlite:///{tmp_path}/old.db") as client:
        assert client.handle("golden-rounds").result(20) == 8
        [former] = client.backend.store.former(["golden-rounds"])
        assert len(former) == 2
        for execution in former:
            assert client.history("golden-rounds", execution_id=execution)[-1].type == "ContinueAsNew"
        assert client.purge("golden-rounds") == 1
        assert client.handle("golden-1").status().runtime_status is durable.RuntimeStatus.RUNNING
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        left = connection.execute("SELECT count(DISTINCT execution_id) FROM history").fetchone()
        assert left == (2,)  # of the other two


def test_a_failure_recorded_before_there_were_rewinds_is_rewound(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "sqlite-schema-2-ended.sql"
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(golden.read_text())
    app = durable.Registry()
    ran: list[str] = []

    @app.activity
    def double(n: int) -> int:
        ran.append("double")
        return 2 * n

    @app.activity
    def broken(n: int) -> int:
        ran.append("broken")
        return n

    @app.orchestrator(name="golden-failed")
    def flow(ctx: durable.OrchestrationContext, n: int) -> Generator[Any, Any, str]:
        yield ctx.call_activity(double, n)
        yield ctx.call_activity(broken, n)
        return "mended"

    with durable.connect(f"sqlite:///{tmp_path}/old.db") as client, durable.Worker(client, registry=app):
        client.rewind("golden-failed")
        assert client.handle("golden-failed").result(20) == "mended"
    assert ran == ["broken"]


def test_one_worker_serves_and_the_others_stand_by(backend: SqliteBackend, url: str, others: ExitStack) -> None:
    first, second = Beat("first", pid=1), Beat("second", pid=2)
    other_client = open_here(url)
    assert other_client.membership.members() == []
    assert backend.membership.beat(first) == [first]
    assert backend.membership.beat(first) == [first]
    assert [b.pid for b in other_client.membership.beat(second)] == [1]  # not admitted, and told who is
    assert [b.pid for b in other_client.membership.members()] == [1]
    backend.membership.leave("another")
    assert [b.pid for b in other_client.membership.beat(second)] == [1]
    backend.membership.leave("first")
    backend.membership.leave("first")
    assert other_client.membership.beat(second) == [second]
    other_client.close()
    code = (
        "from durable.ports import Beat\nfound = backend.membership.beat(Beat('there'))\n"
        "print(found[0].incarnation, flush=True); input()"
    )
    process = started(others, code, url)
    assert line(process) == "there"
    assert backend.membership.beat(first)[0].incarnation == "there"
    process.kill()
    process.wait(30)
    assert backend.membership.members() == []
    assert backend.membership.beat(first) == [first]  # a dead worker's seat is free


@pytest.mark.parametrize("left", ["", '{"incarnation":"killed","pid":1}'])
def test_whoever_looks_for_workers_sends_none_to_stand_by(
    backend: SqliteBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    lock = tmp_path / "store.db-worker"
    lock.write_text(left)
    with lock.open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)  # as `members` has it for a moment
        monkeypatch.setattr("time.sleep", lambda seconds: look.close())
        assert backend.membership.beat(Beat("me")) == [Beat("me")]


def test_a_beat_that_can_not_be_written_is_a_store_error_and_leaves_the_seat_free(tmp_path: Path) -> None:
    (tmp_path / "a.db-worker").symlink_to("/dev/full")  # it can be locked, and takes nothing
    with closing(open_sqlite(f"sqlite:///{tmp_path}/a.db")) as backend:
        with pytest.raises(StoreError, match=r"a\.db-worker.*disk"):
            backend.membership.beat(Beat("me"))
        (tmp_path / "a.db-worker").unlink()
        assert backend.membership.beat(Beat("me")) == [Beat("me")]
        with open("/dev/full") as full:
            fcntl.flock(full, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has it


@pytest.mark.parametrize("part", ["os.ftruncate", "durable.backends.sqlite_reception.Reception.close"])
def test_whoever_leaves_gives_up_the_seat_whatever_fails_in_it(
    backend: SqliteBackend, url: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    real = resolve_name(part)

    def failing(*arguments: object) -> None:
        real(*arguments)
        raise OSError(errno.EIO, "Input/output error")

    backend.membership.beat(Beat("first"))
    monkeypatch.setattr(part, failing)
    with pytest.raises(OSError, match="Input/output"):
        backend.membership.leave("first")
    monkeypatch.undo()
    with closing(open_here(url)) as other:
        assert other.membership.beat(Beat("second")) == [Beat("second")]


def test_news_from_another_process_arrive(backend: SqliteBackend, url: str, others: ExitStack) -> None:
    backend.store.commit([turn("a", 0)])
    heard = threading.Event()

    def wake(ids: Collection[str] | None) -> None:
        if ids is None:
            heard.set()

    process = started(others, "print('ready', flush=True); input(); store.deliver([fact('a', 'f')]); input()", url)
    assert line(process) == "ready"
    stop = backend.signals.listen(FACTS, wake, "a")
    backend.store.commit([turn("b", 0)])
    go_on(process)
    assert heard.wait(30)
    record = backend.store.load([Want("a")])[0]
    assert record is not None
    assert len(record.inbox) == 1
    stop()
    stop()


def test_own_writes_wake_nobody(backend: SqliteBackend) -> None:
    looks = threading.Semaphore(0)

    def look() -> int:
        version = core_of(backend).foreign_version()
        looks.release()
        return version

    signals = FileSignals(look)
    heard: list[object] = []
    stop = signals.listen(FACTS, heard.append)
    for n in range(5):
        backend.store.commit([turn(f"i{n}", 0)])
        assert looks.acquire(timeout=30)
    stop()
    assert heard == []


def test_watching_ends_with_the_last_listener(backend: SqliteBackend) -> None:
    def watchers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "durable-sqlite-watch"]

    first = backend.signals.listen(FACTS, lambda ids: None)
    second = backend.signals.listen(FACTS, lambda ids: None, "a")
    [thread] = watchers()
    first()
    assert watchers() == [thread]
    second()
    thread.join(30)
    assert not thread.is_alive()
    third = backend.signals.listen(FACTS, lambda ids: None)
    assert len(watchers()) == 1
    third()


def test_a_kill_in_the_middle_leaves_whole_groups(url: str, others: ExitStack) -> None:
    """Batches of two instances that count together; whatever was acknowledged is there, and the two are never apart."""
    code = (
        "for n in range(1_000_000):\n"
        "    rows = [work(f'{name}{n}', name) for name in 'ab']\n"
        "    drop = lambda name: [f'{name}{n - 1}']\n"
        "    pairs = zip('ab', rows)\n"
        "    store.commit([turn(name, n, events(name, n), put=[row], drop=drop(name)) for name, row in pairs])\n"
        "    os.write(1, f'{n + 1}\\n'.encode())\n"
    )
    acknowledged = 0
    process = started(others, code, url)
    while acknowledged < 50:
        acknowledged = int(line(process))
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    assert process.stdout is not None
    for rest in process.stdout:
        if rest.endswith("\n"):
            acknowledged = int(rest)
    backend = open_here(url)
    a, b = backend.store.load([Want("a"), Want("b")])
    assert a is not None
    assert b is not None
    assert a.version == b.version
    assert a.version in (acknowledged, acknowledged + 1)
    assert len(a.history or ()) == len(b.history or ()) == a.version
    last = a.version - 1
    assert [row.key for row in backend.store.due(0, "default", 1e9, 10).items] == [f"a{last}", f"b{last}"]
    backend.close()


def test_closing_folds_the_log_into_the_file(url: str, tmp_path: Path) -> None:
    first, second = open_here(url), open_here(url)
    first.store.commit([turn("a", 0)])
    first.close()
    assert second.store.summaries(["a"]) != [None]
    second.close()
    assert not (tmp_path / "store.db-wal").exists()
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "store.db").read_bytes())
    third = open_here(f"sqlite:///{copy}")
    assert third.store.summaries(["a"]) != [None]
    third.close()


def test_many_processes_can_make_a_file_at_once(url: str, others: ExitStack) -> None:
    # Started and imported first, so that all of them open the same new files in the same moments.
    code = (
        "print('ready', flush=True); input()\n"
        "try:\n"
        "    for n in range(30):\n"
        "        new = open_sqlite(f'{sys.argv[1]}{n}')\n"
        "        assert new.store.commit([turn(sys.argv[2], 0)]) == [COMMITTED]\n"
        "    print('done', flush=True)\n"
        "except Exception as error: print(error, flush=True)\n"
        "input()\n"
    )
    processes = [started(others, code, url, f"i{n}") for n in range(4)]
    assert [line(process) for process in processes] == ["ready"] * 4
    for process in processes:
        go_on(process)
    assert [line(process) for process in processes] == ["done"] * 4
    for n in range(30):
        backend = open_here(f"{url}{n}")
        assert len(backend.store.find(Query()).items) == 4
        backend.close()
