"""Signals over Redis between processes, and over the loss of a connection."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from durable.backends import redis_subscriber as subscriber
from durable.backends.redis_backend import open_redis
from durable.ports import FACTS, STATUS, Outcome, Topic
from durable.testing.store_samples import turn
from tests.servers.process import HOST
from tests.servers.redis_place import Heard, Opener, raw, spread
from tests.servers.redis_server import RedisServer
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]


def test_signals_between_processes(open_here: Opener, redis_server: RedisServer, prefix: str) -> None:
    signals = open_here().signals
    heard: dict[tuple[Topic, str | None], Heard] = {}
    topics: tuple[Topic, ...] = (FACTS, STATUS)
    for topic in topics:
        for instance_id in (None, "é😀", "b"):
            heard[topic, instance_id] = Heard()
            signals.listen(topic, heard[topic, instance_id], instance_id)
    code = (
        "import sys; from durable.backends.redis_backend import open_redis\n"
        "backend = open_redis(sys.argv[1], 'w')\n"
        "for topic in ('facts', 'status'):\n"
        "    backend.signals.notify(topic, ['é😀', 'c'])\n"
        "    backend.signals.notify(topic, ['end'])\n"
        "backend.close()\n"
    )
    url = f"{redis_server.url}?prefix={prefix}"
    subprocess.run([sys.executable, "-c", code, url], check=True, cwd=ROOT, env={**os.environ, "PYTHONUTF8": "1"})
    for topic in topics:
        assert heard[topic, None].wait_for("end")
        assert heard[topic, "é😀"].wait_for("é😀")
        assert sorted(map(str, heard[topic, None].ids)) == ["c", "end", "é😀"]
        assert heard[topic, "é😀"].ids == ["é😀"]
        assert heard[topic, "b"].ids == []


def test_who_listens_first_is_told(open_here: Opener) -> None:
    here, there = open_here().signals, open_here().signals
    for n in range(100):
        heard = Heard()
        stop = here.listen(STATUS, heard, f"i{n}")
        there.notify(STATUS, [f"i{n}"])
        assert heard.wait_for(f"i{n}")
        stop()


def test_a_commit_that_tells_is_heard_elsewhere(open_here: Opener) -> None:
    here, there = open_here(), open_here()
    mine, heard = Heard(), Heard()
    here.signals.listen(STATUS, mine)
    there.signals.listen(STATUS, heard)
    for commit in (
        turn("silent", 0),
        turn("é😀", 0, tells=True),
        turn("é😀", 0, tells=True),
        turn("last", 0, tells=True),
    ):
        here.store.commit([spread(commit)])
    assert heard.wait_for("last")
    assert heard.ids == ["é😀", "last"]  # the third one was a conflict
    assert here.store.tells
    here.signals.notify(STATUS, ["here"], here_only=True)
    assert mine.ids == ["here"]
    here.signals.notify(STATUS, ["end"])
    assert heard.wait_for("end")
    assert "here" not in heard.ids


def test_after_a_loss_everybody_is_woken(own_server: RedisServer, open_here: Opener) -> None:
    here, there = (open_here(port=own_server.port).signals for _ in range(2))
    listeners = [Heard() for _ in range(3)]
    here.listen(FACTS, listeners[0])
    here.listen(STATUS, listeners[1], "a")
    own_server.kill()
    here.listen(STATUS, listeners[2])  # returns, although nobody can confirm it
    there.notify(FACTS, ["lost"])
    own_server.start()
    for heard in listeners:
        assert heard.wait_for(None)
    there.notify(FACTS, ["f"])
    there.notify(STATUS, ["a"])
    assert listeners[0].wait_for("f")
    assert listeners[1].wait_for("a")
    assert listeners[2].wait_for("a")
    assert "lost" not in listeners[0].ids


def test_a_server_that_says_nothing_any_more_is_a_loss(
    own_server: RedisServer, open_here: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "PING_SECONDS", 0.2)
    signals = open_here(port=own_server.port).signals
    heard = Heard()
    signals.listen(FACTS, heard)
    lost = threading.Event()
    monkeypatch.setattr(subscriber.log, "warning", lambda *args: lost.set())
    own_server.pause()
    assert lost.wait(20)
    own_server.resume()
    assert heard.wait_for(None)


def test_an_idle_connection_is_kept(
    own_server: RedisServer, open_here: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriber, "PING_SECONDS", 0.3)  # a busy machine may need as long for an answer
    signals = open_here(port=own_server.port).signals
    heard = Heard()
    signals.listen(FACTS, heard)

    def pings() -> int:
        return int(raw(own_server.port, ("INFO", "commandstats")).get("cmdstat_ping", {}).get("calls", 0))

    first = pings()
    until(lambda: pings() >= first + 3, "three pings", 20)
    assert heard.ids == []
    assert [record.message for record in caplog.records] == []


def test_a_connection_is_kept_while_the_disk_of_redis_is_full(
    own_server: RedisServer, open_here: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every PING is answered with an error then, which is no refusal of what anybody wants to hear."""
    monkeypatch.setattr(subscriber, "PING_SECONDS", 0.3)
    here = open_here(port=own_server.port)
    here.signals.listen(STATUS, Heard(), "a")
    (own_server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    raw(own_server.port, ("CONFIG", "SET", "save", "3600 1"), ("BGSAVE",))

    def refused() -> int:
        return int(raw(own_server.port, ("INFO", "errorstats")).get("errorstat_MISCONF", {}).get("count", 0))

    until(lambda: refused() >= 2, "two pings answered with an error", 20)
    assert [record.message for record in caplog.records] == []


def test_a_user_who_may_not_listen_is_told_once(
    own_server: RedisServer, after: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    raw(own_server.port, ("ACL", "SETUSER", "app", "on", ">x", "~durable:*", "resetchannels", "+@all"))
    here = open_redis(f"redis://app:x@{HOST}:{own_server.port}", "w")
    after.callback(here.close)
    heard = Heard()
    here.signals.listen(STATUS, heard)
    here.signals.listen(STATUS, heard, "a")
    here.signals.notify(STATUS, ["a"])
    assert heard.ids == ["a", "a"]
    assert here.store.commit([spread(turn("a", 0, tells=True))]) == [Outcome.COMMITTED]
    assert ["refuses a subscription" in record.message for record in caplog.records] == [True]


def test_news_of_this_process_take_no_subscription(open_here: Opener, redis_server: RedisServer, prefix: str) -> None:
    signals, heard = open_here().signals, Heard()
    signals.listen(STATUS, heard, "a", here_only=True)
    assert raw(redis_server.port, ("PUBSUB", "CHANNELS", f"{prefix}:*")) == []
    signals.notify(STATUS, ["a", "b"])
    assert heard.ids == ["a"]
    signals.listen(STATUS, heard, "a")
    assert len(raw(redis_server.port, ("PUBSUB", "CHANNELS", f"{prefix}:*"))) == 1


def test_messages_of_strangers_are_left_out(
    open_here: Opener, redis_server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = open_here().signals, open_here().signals
    heard = Heard()
    here.listen(FACTS, heard)
    for text in (b"\xff", b"{}", b"[]", b"[1]", b""):
        raw(redis_server.port, ("PUBLISH", f"{prefix}:{{w:3}}:facts@0", text))
    there.notify(FACTS, ["a"])
    assert heard.wait_for("a")
    assert heard.ids == ["a"]
    assert len(caplog.records) == 5
