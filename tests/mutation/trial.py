"""A pytest plugin that tries mutants instead of running the tests.

The tests run once, to learn which functions each of them calls, and what it costs. Then every mutant has a process of
its own, in which those that call its function run until one fails: first what is quick, and has caught others.
"""

from __future__ import annotations

import builtins
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import pytest
from _pytest.runner import runtestprotocol

from .mutants import Called, Mutant, called_as, telling

_TELL: Final = "_durable_mutants_tell"
HANGS: Final = 10  # seconds beside five times as long as the test takes, after which it waits for what never comes


class Trial:
    """seconds: of tests for one mutant, at most."""

    def __init__(self, mutants: Sequence[Mutant], seconds: float) -> None:
        self.mutants = mutants
        self.seconds = seconds
        self._callers: dict[Called, list[Any]] = {called_as(mutant.function): [] for mutant in mutants}
        self._costs: dict[Any, float] = {}
        self._caught: Counter[Any] = Counter()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not session.testsfailed:
            self._learn(session.items)
            for file, mutants in groupby(self.mutants, key=lambda mutant: mutant.file):
                outcomes = Counter(map(self._tell, mutants))
                kinds = ", ".join(f"{number} {kind}" for kind, number in outcomes.most_common())
                print(f"{file}: {outcomes.total()} tried: {kinds}\n", flush=True)
        return True

    def _tell(self, mutant: Mutant) -> str:
        outcome = self._outcome(mutant)
        if outcome != "caught":
            print(f"{outcome}: {mutant}\n", flush=True)
        return outcome

    def _learn(self, items: Iterable[Any]) -> None:
        seen: set[Called] = set()
        setattr(builtins, _TELL, lambda *called: seen.add(called))
        functions = {called_as(mutant.function): mutant.function for mutant in self.mutants}
        codes = {called: function.__code__ for called, function in functions.items()}
        for function in functions.values():
            function.__code__ = telling(function, _TELL)
        for item in items:
            seen.clear()
            began = time.monotonic()
            failed = _fails(item)
            self._costs[item] = time.monotonic() - began
            if failed:
                print(f"not used, for it fails without any mutant: {item.nodeid}\n")
                continue
            for called in seen & self._callers.keys():
                self._callers[called].append(item)
        for called, function in functions.items():
            function.__code__ = codes[called]

    def _outcome(self, mutant: Mutant) -> str:
        callers = self._callers[called_as(mutant.function)]
        if not callers:
            return "not tested"
        tests = sorted(callers, key=lambda item: self._costs[item] / (1 + self._caught[item]))
        heard, said = os.pipe()
        child = os.fork()
        if not child:
            self._try(mutant, tests, said)
        os.close(said)
        with open(heard, "rb") as pipe:
            answer = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status in (-signal.SIGALRM, -signal.SIGPROF):
            return "hung"
        if answer == b"survived":
            return "survived"
        if answer:
            self._caught[tests[int(answer)]] += 1
        return "caught"

    def _try(self, mutant: Mutant, tests: Sequence[Any], said: int) -> None:
        """The whole life of a child. Its clocks stop what hangs, busy or not."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        mutant.put()
        left = self.seconds
        for number, item in enumerate(tests):
            left -= self._costs[item]
            if left < 0 and number:
                break
            signal.setitimer(signal.ITIMER_PROF, 2 + 5 * self._costs[item])
            signal.setitimer(signal.ITIMER_REAL, HANGS + 5 * self._costs[item])
            if _fails(item):
                os.write(said, b"%d" % number)
                os._exit(1)
        os.write(said, b"survived")
        os._exit(0)


def _fails(item: Any) -> bool:
    item._initrequest()  # an item is made to run once
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))
