"""Many wrong inputs for each parser: none crashes, hangs, eats the memory or is half accepted.

    python -m tests.fuzz --inputs 100000
    python -m tests.fuzz --parser archive --seed 1 --number 4711      one input again, with its traceback

Each parser runs in a process of its own: what ends that process, or stands still in it, is found too.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import sys
import time
import traceback
from collections.abc import Iterable
from ctypes import c_long
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from .harness import SLOW, Wrong, made, show
from .parsers import PARSERS

MEMORY: Final = 1 << 30  # bytes that a parser may take beyond what the process has when it begins
HANGS: Final = 60.0  # seconds without a next input, on a machine that may do much else
SHOWN: Final = 5  # different faults of one parser

_fork: Final = multiprocessing.get_context("fork")


class Tally(NamedTuple):
    """Of one parser. faults: numbers of inputs, and what became of each."""

    accepted: int
    refused: int
    seconds: float
    faults: list[tuple[int, str]]


def fuzz(name: str, seed: int, inputs: int) -> Tally:
    """Show a parser so many inputs."""
    at: Any = _fork.Value(c_long, -1, lock=False)
    here, there = _fork.Pipe(duplex=False)
    process = _fork.Process(target=_work, args=(name, seed, inputs, at, there))
    process.start()
    there.close()
    last, since = -1, time.monotonic()
    while not here.poll(0.05) and process.is_alive():
        if at.value != last:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > HANGS:
            process.kill()
            process.join()
            return Tally(0, 0, 0.0, [(last, f"it has not ended after {HANGS:.0f} s")])
    try:
        tally: Tally = here.recv()
    except EOFError:
        process.join()
        return Tally(0, 0, 0.0, [(at.value, f"it ended the process ({process.exitcode})")])
    process.join()
    return tally


def _work(name: str, seed: int, inputs: int, at: Any, result: Connection) -> None:
    logging.disable(logging.CRITICAL)  # what is refused is said in a log too
    with open("/proc/self/statm") as sizes:
        pages = int(sizes.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    parser = PARSERS[name]
    accepted = 0
    faults: dict[str, tuple[int, str]] = {}
    wrong = 0
    began = time.process_time()
    before = began
    for number in range(inputs):
        at.value = number
        try:
            accepted += show(parser, made(name, parser, seed, number))
        except Wrong as error:
            wrong += 1
            faults.setdefault(_kind(error), (number, str(error)))
        now = time.process_time()
        if now - before > SLOW:
            faults.setdefault("slow", (number, f"it took {now - before:.1f} s"))
        before = now
    result.send(Tally(accepted, inputs - accepted - wrong, before - began, list(faults.values())))


def _kind(error: Wrong) -> str:
    """Faults at one line are one fault."""
    cause = error.__cause__
    frames = traceback.extract_tb(cause.__traceback__) if cause is not None else []
    return f"{type(cause).__name__} {frames[-1].filename}:{frames[-1].lineno}" if frames else str(error)[:40]


def again(name: str, seed: int, number: int) -> int:
    """Show one input once more, and what comes of it."""
    data = made(name, PARSERS[name], seed, number)
    print(f"{len(data)} bytes: {data[:2_000]!r}")
    try:
        print("accepted" if show(PARSERS[name], data) else "refused")
    except Wrong:
        traceback.print_exc()
        return 1
    return 0


def main(arguments: Iterable[str] | None = None) -> int:
    """Returns the exit status: 1 if something is wrong."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--inputs", type=int, default=1_000, help="for each parser")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--parser", action="append", choices=sorted(PARSERS), metavar="NAME")
    options.add_argument("--number", type=int, help="only this input of that one parser, with its traceback")
    given = options.parse_args(None if arguments is None else list(arguments))
    names: list[str] = given.parser or list(PARSERS)
    if given.number is not None:
        return again(names[0], given.seed, given.number)
    print(f"{'parser':<26}{'inputs':>9}{'accepted':>10}{'refused':>10}{'seconds':>9}")
    wrong = 0
    for name in names:
        tally = fuzz(name, given.seed, given.inputs)
        print(f"{name:<26}{given.inputs:>9}{tally.accepted:>10}{tally.refused:>10}{tally.seconds:>9.1f}", flush=True)
        for number, fault in tally.faults[:SHOWN]:
            wrong += 1
            print(f"    {fault}\n        python -m tests.fuzz --parser {name} --seed {given.seed} --number {number}")
    print(f"{len(names)} parsers, {wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
