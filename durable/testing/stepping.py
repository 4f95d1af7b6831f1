"""One orchestrator, step by step, in a unit test: no worker, no store, no time but the test's own.

Built on the engine's pure step. Every step replays the whole history, as after a restart, so an orchestrator that is
not deterministic is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..app.functions import Orchestrator
from ..app.views import event_view
from ..engine.instance import Arrival, Env, Instance
from ..engine.step import create
from ..engine.step import step as engine_step
from ..model import history as h
from ..model.errors import OrchestrationBlockedError
from ..model.failure import FailureDetails, describe
from ..model.history import Event, HistoryEvent, Raw, decode_events
from ..model.limits import Limits
from ..model.moments import to_timedelta, to_utc
from ..model.names import check_name
from ..model.status import RuntimeStatus
from ..payload.values import decode, encode
from ..ports import Append
from ..replay.execution import Execution
from ..replay.guard import Watch
from ..replay.live_code import Code
from ..replay.tasks import CallTask, CloudEventTask, Leaf, TimerTask, WaitTask
from ..triggers.event import from_sdk, read_event
from ..triggers.pattern import EventPattern

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

_BEGINS: Final = datetime(2026, 1, 1, tzinfo=timezone.utc)
_LIMITS: Final = Limits()


class Scheduled(msgspec.Struct, frozen=True):
    """An activity or a sub-orchestration that was called and has no outcome yet.

    kind: "activity" or "orchestrator". input: the one input, as plain JSON. task_id: its number in the execution, from
    1. attempt: from 1. instance_id: of a sub-orchestration.
    """

    name: str
    input: Any
    task_id: int
    attempt: int = 1
    kind: str = "activity"
    instance_id: str | None = None


class Timer(msgspec.Struct, frozen=True):
    """What goes on by itself at `fire_at` (aware UTC): a timer, the timeout of a wait, or the next try of a call.

    name: of the event that is waited for, or of what is tried again; None for a timer.
    """

    task_id: int
    fire_at: datetime
    name: str | None = None


class Wait(msgspec.Struct, frozen=True):
    """A wait for an external event that none has satisfied yet; with a `pattern`, for a CloudEvent."""

    name: str
    task_id: int
    pattern: EventPattern | None = None


def step(
    orchestrator: Orchestrator[..., Any], *args: Any, instance_id: str = "test", now: datetime | None = None
) -> Run:
    """Start an orchestrator for a unit test, up to its first wait.

        run = durable.testing.step(order, "book")
        assert run.scheduled[0].name == "charge"
        run.complete("charge", "receipt-1")
        assert run.output == "book is on its way"

    args: as for `start_orchestration`. now: when it starts (aware; default: the first moment of 2026). Activities are
    not run: the test says what became of them. Raises TypeError and PayloadError for arguments that don't fit.
    """
    if not isinstance(orchestrator, Orchestrator):
        raise TypeError(f"step takes a function under @durable.orchestrator, not {orchestrator!r}")
    check_name(instance_id, "instance_id=")
    return Run(orchestrator, args, instance_id, _BEGINS if now is None else to_utc(now, "now="))


class Run:
    """One orchestration under test. In each step something happens, and the code goes on to its next wait.

    A step raises OrchestrationBlockedError when the code does not repeat what it did before.
    """

    def __init__(
        self, orchestrator: Orchestrator[..., Any], args: tuple[Any, ...], instance_id: str, now: datetime
    ) -> None:
        assert orchestrator.signature is not None
        self._orchestrator = orchestrator
        self._code = Code(orchestrator.name, orchestrator.fn, orchestrator.signature)
        self._minted = 0
        self._env = Env("test", 0.0, self._mint, 1, _LIMITS, Watch())
        self._now = now
        self._events: list[Event] = []
        self._execution: Execution | None = None
        started = Event(
            h.EXECUTION_STARTED,
            now,
            name=orchestrator.name,
            input=orchestrator.encode_input(args, _LIMITS),
            instance_id=instance_id,
            execution_id=self._mint(),
            version=orchestrator.version,
            tags=orchestrator.tags or None,
            seed=self._mint(),
            group=orchestrator.group,
        )
        created = create(instance_id, started, 1, self._mint())
        self._instance = Instance(created.summary, 1, started, 1)
        self._append(created.appends)
        self._take(())

    # ---- what it waits for

    @property
    def scheduled(self) -> list[Scheduled]:
        """Activities and sub-orchestrations without an outcome, in the order of their calls."""
        return [self._scheduled(task) for task in self._open() if isinstance(task, CallTask) and not task.retry_timer]

    @property
    def timers(self) -> list[Timer]:
        """Timers, timeouts of waits and next tries, the soonest first."""
        due = [timer for timer in map(self._timer, self._open()) if timer is not None]
        return sorted(due, key=lambda timer: (timer.fire_at, timer.task_id))

    @property
    def waits(self) -> list[Wait]:
        """External events and CloudEvents that are waited for, in the order of the calls."""
        return [wait for wait in map(_wait, self._open()) if wait is not None]

    # ---- what happens to it

    def complete(self, task: Scheduled | int | str, value: Any = None) -> None:
        """An activity or a sub-orchestration returned `value`.

        task: an item of `scheduled`, its task_id, or its name where only one of that name is open.
        """
        call = self._call(task)
        result = encode(value, f"the result of {call.ref.kind} {call.ref.name!r}", _LIMITS)
        kind = h.TASK_COMPLETED if call.ref.kind == "activity" else h.CHILD_COMPLETED
        self._take([Event(kind, self._now, task_id=call.id, attempt=call.attempt, result=result)])

    def fail(self, task: Scheduled | int | str, error: BaseException | type[BaseException]) -> None:
        """An activity or a sub-orchestration raised `error`. With a retry policy this is one attempt: see `timers`."""
        call = self._call(task)
        failure = describe(error() if isinstance(error, type) else error)
        kind = h.TASK_FAILED if call.ref.kind == "activity" else h.CHILD_FAILED
        self._take([Event(kind, self._now, task_id=call.id, attempt=call.attempt, failure=failure)])

    def raise_event(self, name: str, data: Any = None) -> None:
        """Somebody raised an event, waited for or not."""
        check_name(name, "the event's name")
        payload = encode(data, f"the data of event {name!r}", _LIMITS)
        self._take([Event(h.EVENT_RAISED, self._now, name=name, input=payload)])

    def publish(self, event: CloudEvent) -> None:
        """Somebody published an event: whatever waits for one like it gets it. Raises TypeError for another object."""
        body = from_sdk(event)
        occurrence = read_event(body)
        fits = [w.task_id for w in self.waits if w.pattern is not None and w.pattern.matches(occurrence)]
        self._take([Event(h.EVENT_RAISED, self._now, task_id, h.CLOUD_EVENT, input=Raw(body)) for task_id in fits])

    def fire_timer(self, timer: Timer | None = None) -> None:
        """Time goes by until a timer (default: the soonest) fires; `now` moves there."""
        due = self.timers
        if not due or (timer is not None and timer not in due):
            raise ValueError(f"{timer or 'no timer'} is set; timers: {due or 'none'}")
        chosen = timer or due[0]
        self._now = max(self._now, chosen.fire_at)
        task = next(task for task in self._open() if task.id == chosen.task_id)
        attempt = task.attempt if isinstance(task, CallTask) else 0
        self._take([Event(h.TIMER_FIRED, self._now, task_id=task.id, attempt=attempt)])

    def advance(self, duration: timedelta | float) -> None:
        """Time goes by (timedelta or seconds): timers that come due fire, the soonest first."""
        until = self._now + to_timedelta(duration, "advance")
        while (due := self.timers) and due[0].fire_at <= until:
            self.fire_timer()
        self._now = until

    # ---- how it stands

    @property
    def now(self) -> datetime:
        """The time of the test, aware UTC: what `ctx.current_utc_datetime` shows in the next step."""
        return self._now

    @property
    def status(self) -> RuntimeStatus:
        """RUNNING while it waits; COMPLETED or FAILED at its end."""
        return self._instance.summary.status

    @property
    def output(self) -> Any:
        """What it returned, decoded by its return type; None before."""
        output = self._instance.summary.output
        return decode(output, self._orchestrator.returns, "the output") if output else None

    @property
    def failure(self) -> FailureDetails | None:
        """What ended it, if it failed."""
        return self._instance.summary.failure

    @property
    def custom_status(self) -> Any:
        """What `ctx.set_custom_status` set last, as plain JSON."""
        custom = self._instance.summary.custom_status
        return decode(custom, Any, "the custom status") if custom else None

    @property
    def input(self) -> Any:
        """Its input, as plain JSON; after continue-as-new, the new one."""
        raw = self._instance.started.input
        return decode(raw, Any, "the input") if raw else None

    @property
    def history(self) -> list[HistoryEvent]:
        """The events of the current execution; `durable.testing.replay` takes them."""
        return [event_view(event, number) for number, event in enumerate(self._events)]

    def __repr__(self) -> str:
        return f"<Run of {self._orchestrator.name!r}: {self.status}, {self.scheduled + self.timers + self.waits}>"

    # ---- the engine

    def _mint(self) -> str:
        self._minted += 1
        return f"{self._minted:032x}"

    def _take(self, facts: Sequence[Event]) -> None:
        if self._events[-1].type == h.EXECUTION_COMPLETED:
            raise ValueError(f"it has ended ({self.status}); nothing can happen to it any more")
        arrivals = [Arrival(fact) for fact in facts]
        again = True
        while again:
            cold = msgspec.structs.replace(
                self._instance, execution=None, history=self._events, length=len(self._events)
            )
            turn = engine_step(cold, arrivals, self._code, "", self._now, self._env)
            if turn.parked:
                raise OrchestrationBlockedError(turn.parked, turn.parked)
            self._instance, self._execution = turn.instance, turn.instance.execution
            if turn.commit is not None:
                self._append(turn.commit.appends)
            arrivals, again = [], turn.again

    def _append(self, appends: Sequence[Append]) -> None:
        for append in appends:
            events = decode_events(append.events)
            self._events = [*self._events, *events] if append.start else events

    def _open(self) -> list[Leaf[Any]]:
        return [] if self._execution is None else list(self._execution.tasks.values())

    def _call(self, wanted: Scheduled | int | str) -> CallTask[Any]:
        calls = [task for task in self._open() if isinstance(task, CallTask) and not task.retry_timer]
        fits = _fits(wanted)
        found = [task for task in calls if fits(task)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(f"{task.ref.name!r} (task_id {task.id})" for task in calls) or "nothing"
        what = f"{len(found)} calls of that name are" if found else "it is not"
        raise ValueError(f"{wanted!r}: {what} open; open: {known}")

    def _recorded(self, task: Leaf[Any], *kinds: str) -> Event:
        return next(e for e in reversed(self._events) if e.task_id == task.id and e.type in kinds)

    def _scheduled(self, task: CallTask[Any]) -> Scheduled:
        event = self._recorded(task, h.TASK_SCHEDULED, h.CHILD_CREATED)
        given = decode(event.input, Any, "its input") if event.input else None
        return Scheduled(event.name, given, task.id, event.attempt, task.ref.kind, event.instance_id or None)

    def _timer(self, task: Leaf[Any]) -> Timer | None:
        if isinstance(task, TimerTask) or (isinstance(task, CallTask) and task.retry_timer):
            name = task.ref.name if isinstance(task, CallTask) else None
            fire_at = self._recorded(task, h.TIMER_CREATED).fire_at
        elif isinstance(task, WaitTask):
            name, fire_at = task.name, self._recorded(task, h.EVENT_AWAITED).fire_at
            if task.expired_at is not None:
                return None
        elif isinstance(task, CloudEventTask):
            name, fire_at = h.CLOUD_EVENT, self._recorded(task, h.EVENT_AWAITED).fire_at
        else:
            return None
        return None if fire_at is None else Timer(task.id, fire_at, name)


def _wait(task: Leaf[Any]) -> Wait | None:
    if isinstance(task, WaitTask):
        return Wait(task.name, task.id)
    return Wait(h.CLOUD_EVENT, task.id, task.pattern) if isinstance(task, CloudEventTask) else None


def _fits(wanted: Scheduled | int | str) -> Callable[[CallTask[Any]], bool]:
    if isinstance(wanted, Scheduled):
        return lambda task: (task.id, task.attempt) == (wanted.task_id, wanted.attempt)
    if isinstance(wanted, int):
        return lambda task: task.id == wanted
    return lambda task: task.ref.name == wanted
