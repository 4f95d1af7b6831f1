"""The short form of `make fuzz`, inputs that got through once, and what the fuzzer itself must notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import __main__ as program
from tests.fuzz.harness import Parser, show
from tests.fuzz.parsers import PARSERS

ROOT = Path(__file__).resolve().parents[2]

_EVENT = b'{"id":"1","source":"/s","type":"t","specversion":"1.0",%b}'
_CLAIM = b'{"$durable.blob":"%b/%b/%b","bytes":7,"why":"%b"}'
_TURN = PARSERS["turn"].corpus[3]
_RUNNING = PARSERS["turn"].corpus[8]
_AT = b'"2026-01-01T00:00:00Z"'
_STARTS = b'[1,[{"type":"ExecutionStarted","timestamp":"2026-01-01T00:00:00%b","name":"order"}]]'

# What got through once: the parser, and what it could not take.
FOUND: dict[str, tuple[str, bytes]] = {
    "text that is no UTF-8": ("history-row", _STARTS.replace(b"order", b"\xff") % b"Z"),
    "nesting": (
        "history-event",
        b'{"type":"x","timestamp":"2026-01-01T00:00:00Z","a":%b}' % (b"[" * 9_000 + b"]" * 9_000),
    ),
    "a time without a zone": ("turn", _TURN.replace(b'Z"', b'"')),
    "a history without a beginning": ("turn", _TURN.partition(b"\n")[0]),
    "a timer that is none": ("timer-body", b"\xff"),
    "a message that is none": ("instance-message", b'{"kind":"\xff"}'),
    "the reason of a claim": ("claim", _CLAIM % (b"0" * 32, b"1" * 32, b"2" * 64, b"\xff")),
    "a state of no trigger": ("triggers-snapshot", b'{"states":{"nosuch":{}}}'),
    "data that are no base64": ("cloudevent-sdk", _EVENT % b'"data_base64":{}'),
    "a short item": ("item-redis", b"x"),
    "a group longer than any": ("turn", _TURN.replace(b'"tags"', b'"group":"%b","tags"' % (b"g" * 70_000), 1)),
    "the summary of another instance": (
        "turn",
        _RUNNING.replace(b'"instance_id":"', b'"instance_id":"%b' % (b"[" * 70_000), 1),
    ),
    "a reason that can't be read": (
        "turn",
        _RUNNING + b'\n{"type":"ExecutionCanceled","timestamp":%b,"input":"\xff"}' % _AT,
    ),
    "a file that can't be": ("url-rabbitmq", b"amqps://localhost/?cacertfile=a%00b"),
    "an address in brackets": ("url-nobody-serves", b"amqp://u:s3cr3t@[s3cr3t]/"),
    "a scheme with a piece of a password": ("url-nobody-serves", b"amqphlocs3cr3t://u@localhost/"),
    "a scheme that is none": ("url-event-source", b"my_amqp://u:s3cr3t@localhost/?queue=q"),
    "a secret parameter": ("url-event-source", b"rediss://localhost/?stream=s&ssl_password=s3cr3t"),
    "a URL for a variable": ("url-event-source", b"env:amqp://u:s3cr3t@localhost/?queue=q"),
    "an @ in a path": ("url-shown", b"amqps:x//u:s3cr3t@localhost/"),
    "a start of another instance": (
        "archive",
        PARSERS["archive"].corpus[3].replace(b'"instance_id":"', b'"instance_id":"x', 1),
    ),
    "a nested expression": ("condition", b"(" * 5_000 + b"a" + b")" * 5_000),
    "a time that UTC has not": ("times", b"0001-01-01T00:00:00+14:00"),
    "a name that no file has": ("times", b"a" * 5_000 + b":f"),
}


def test_no_input_gets_through() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--inputs", "200"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(PARSERS) + 2


@pytest.mark.parametrize("case", FOUND)
def test_what_got_through_once_does_so_no_more(case: str) -> None:
    name, data = FOUND[case]
    show(PARSERS[name], data)


def raises(data: bytes) -> object:
    raise KeyError(data)


def hangs(data: bytes) -> object:
    while True:
        pass


def dies(data: bytes) -> object:
    os.kill(os.getpid(), signal.SIGKILL)  # without a word, unlike abort, whose traceback would stand among the tests'
    return None


def grows(data: bytes) -> object:
    return bytearray(2 * program.MEMORY)


def lies(data: bytes) -> bytes:
    return data + b"x"


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (raises, "KeyError"),
        (hangs, "it has not ended"),
        (dies, "it ended the process"),
        (grows, "MemoryError"),
        (lies, "another value"),
    ],
)
def test_the_fuzzer_notices(read: Callable[[bytes], object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARSERS, "broken", Parser([b"abc"], read, (ValueError,), bytes))
    monkeypatch.setattr(program, "HANGS", 0.5)
    tally = program.fuzz("broken", 1, 3)
    [(_, fault)] = tally.faults
    assert said in fault


def test_one_input_can_be_shown_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARSERS, "broken", Parser([b"abc"], raises, (ValueError,)))
    assert program.main(["--parser", "broken", "--inputs", "1"]) == 1
    said = capsys.readouterr().out
    assert "python -m tests.fuzz --parser broken --seed 1 --number 0" in said
    assert program.main(["--parser", "broken", "--seed", "1", "--number", "0"]) == 1
    assert "bytes: b" in capsys.readouterr().out
