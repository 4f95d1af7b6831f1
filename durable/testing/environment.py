"""A whole system in one process and one thread, whose clock jumps: what takes a month in life ends in milliseconds.

Laws.
1. The real loop, engine, client and memory store; only time, threads and chance are the test's own.
2. Nothing runs in the background. Whatever is due is done before a call on the client or the environment returns, one
   activity after the other, so the same test does the same every time.
3. Time stands still while there is anything to do, and then jumps to the next timer: only while somebody waits for a
   result, or calls `advance`.
4. Whoever waits for what can't come any more is told so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import count
from types import TracebackType
from typing import Any, Final

from ..app.client import Client
from ..app.default import swap_default_client
from ..app.registry import Registry, default_registry
from ..app.starting_on import declare
from ..app.waiting import reached
from ..engine.ledger import Ledger
from ..model.errors import OrchestrationBlockedError, TimeoutError, not_found
from ..model.history import Event
from ..model.limits import Limits
from ..model.moments import to_timedelta, to_utc
from ..model.status import RuntimeStatus, Summary
from ..ports import Want
from ..replay.callee import ActivityRef, OrchestratorRef, as_activity
from ..replay.guard import refuse_inside
from .driver import Clock, Driver, OwnBackend, StuckError
from .stand_ins import Call, Casting

_BEGINS: Final = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Environment:
    """Run orchestrations in a test: no worker, no server, no waiting.

        with durable.testing.Environment() as env:
            env.replace(charge, "receipt-1")
            handle = env.client.start_orchestration(monitor, "order-42")     # polls for 30 days
            assert handle.result() == "done"                                 # milliseconds later
            assert [call.args for call in env.calls(charge)] == [("order-42",)]

    registry: default is that of the module-level decorators. now: when it begins (aware; default: the first moment of
    2026). limits: as for `durable.connect`. max_cached_orchestrations: as for `durable.Worker`; 0 replays every turn,
    which finds orchestrators that are not deterministic.

    Activities really run, in the thread of the test, one at a time and in no time at all, unless something stands in
    for them. Every group and every queue is served. Within the block `durable.start_orchestration` starts here too.
    Triggers are served too: what they delay, and what they try again, waits for the clock.
    """

    def __init__(
        self,
        *,
        registry: Registry | None = None,
        now: datetime | None = None,
        limits: Limits | None = None,
        max_cached_orchestrations: int = 10_000,
    ) -> None:
        self._clock = Clock(_BEGINS if now is None else to_utc(now, "now="))
        self._limits = limits or Limits()
        self._backend = OwnBackend()
        ids = count(1)
        self._client = _Client(self, self._backend, self._limits, lambda: f"{next(ids):032x}")
        self._casting = Casting(
            registry or default_registry, lambda: self._clock.now, lambda: self._client, self._limits
        )
        self._driver = Driver(self._clock, self._backend, self._casting, self._limits, max_cached_orchestrations, ids)
        self._backend.own_signals.heard = self._driver.hinted
        known = registry or default_registry
        self._undo: list[Callable[[], object]] = [
            known.on_change(self._driver.code_changed),
            declare(self._client, known),
        ]

    def __enter__(self) -> Environment:
        before = swap_default_client(self._client)
        self._undo.append(lambda: swap_default_client(before))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything; calling it again does nothing."""
        while self._undo:
            self._undo.pop()()
        self._driver.close()
        self._casting.close()
        self._client.close()

    @property
    def client(self) -> Client:
        """A `durable.Client`, on whose clock time jumps. Timeouts given to it are of that clock too."""
        return self._client

    @property
    def now(self) -> datetime:
        """The time of the environment, aware UTC. Only orchestrators see it: activities have the real one."""
        return self._clock.now

    def advance(self, duration: timedelta | float) -> None:
        """Let time go by (timedelta or seconds), doing all that comes due on the way."""
        self._driver.advance(to_timedelta(duration, "advance"))

    def replace(
        self,
        callee: ActivityRef[..., Any] | OrchestratorRef[..., Any] | str,
        outcome: Any = None,
        *,
        takes: timedelta | float = 0.0,
    ) -> None:
        """From now on, let something stand in for an activity or an orchestrator.

        callee: the function or a reference to it; a name means an activity. It may live elsewhere. outcome: a function
        that is called with the arguments, an exception (or its class) that is raised, or the value that is returned.
        `unittest.mock.Mock(side_effect=[ConnectionError(), "ok"])` fails once. takes: how long it runs on the
        environment's clock (timedelta or seconds); an activity that takes longer than its timeout fails with it.
        """
        chosen = callee if isinstance(callee, OrchestratorRef) else as_activity(callee)
        self._casting.replace(chosen, outcome, to_timedelta(takes, "takes=").total_seconds())
        self._driver.code_changed()

    def calls(self, callee: ActivityRef[..., Any] | OrchestratorRef[..., Any] | str | None = None) -> list[Call]:
        """What was called so far, in order, each attempt by itself; of one activity, or of all."""
        name = callee.name if isinstance(callee, ActivityRef | OrchestratorRef) else callee
        return [call for call in self._casting.calls if name is None or call.name == name]

    # ---- for the driver and the client

    def _wait(self, instance_id: str, timeout: timedelta | None, until: str, blocked_ends: bool) -> Summary:
        """Let time jump until it has ended."""
        driver, store = self._driver, self._backend.store
        ends = None if timeout is None else self._clock.now + timeout
        driver.settle()
        while True:
            summary = store.summaries([instance_id])[0]
            if summary is None:
                raise not_found("wait", instance_id)
            status = summary.status
            if reached(store, summary, until, False):
                return summary
            if status is RuntimeStatus.BLOCKED:
                if blocked_ends:
                    return summary
                message = f"orchestration {instance_id!r} is blocked: {summary.blocked_reason}"
                raise OrchestrationBlockedError(message, summary.blocked_reason)
            if not driver.jump(ends):
                if store.summaries([instance_id])[0] != summary:
                    continue  # another thread has let time jump meanwhile
                if ends is None:
                    raise StuckError(self._why_stuck(summary))
                raise TimeoutError(f"orchestration {instance_id!r} is {status} after {timeout} of the environment")

    def _why_stuck(self, summary: Summary) -> str:
        shown = f"orchestration {summary.instance_id!r} ({summary.name}) is {summary.status}"
        if self._casting.orchestrator(summary.name, summary.version, True) is None:
            return f"{shown}: the registry has no such orchestrator (registry=, or import its module)"
        record = self._backend.store.load([Want(summary.instance_id)])[0]
        ledger = Ledger.of_rows(() if record is None else record.history or ())
        waits = [_awaited(event) for event in ledger.waits.values()]
        waits += [f"activity {event.name!r}, which nobody serves (env.replace)" for event in ledger.tasks.values()]
        waits += [f"sub-orchestration {event.instance_id!r} ({event.name})" for event in ledger.children.values()]
        return f"{shown}, and nothing will happen any more: it waits for {', '.join(waits) or 'nothing that is known'}"


def _awaited(event: Event) -> str:
    if event.input:
        return f"a CloudEvent of {bytes(event.input).decode()} (client.publish)"
    return f"event {event.name!r} (client.raise_event)"


class _Client(Client):
    """The real client: its time is the environment's, and its waits let time jump."""

    def __init__(self, environment: Environment, backend: OwnBackend, limits: Limits, ids: Callable[[], str]) -> None:
        super().__init__(backend, limits)
        self._environment = environment
        self._ids = ids

    def _now(self) -> datetime:
        return self._environment.now

    def wait_summary(
        self, instance_id: str, timeout: timedelta | float | None, until: str, blocked_ends: bool, own: bool = False
    ) -> Summary:
        refuse_inside("wait", "yield")
        patience = None if timeout is None else to_timedelta(timeout, "timeout=")
        return self._environment._wait(instance_id, patience, until, blocked_ends)
