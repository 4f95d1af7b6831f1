"""The pure step: an instance, what has arrived, today's code and the time in; one commit and its effects out.

Laws.
1. It does no I/O and reads no clock; identity comes in as `Env`. The same arguments give the same turn.
2. It never raises for a user's mistake: that becomes a failure in the history, or a parked instance.
3. Terminate comes first and needs no code. Then facts in order of arrival.
4. Code that does not fit its history, or is missing, adds nothing to the history and sends nothing; facts that were
   only in memory go to the inbox.
5. A turn's rows are a table: `_EFFECTS` says what each command leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ..model import history as h
from ..model.errors import OrchestrationTerminatedError
from ..model.failure import describe
from ..model.history import Event, Parent, Raw, UnreadableHistory, decode_events, encode_event, encode_events
from ..model.limits import Limits
from ..model.moments import from_timestamp
from ..model.names import partition_of
from ..model.status import RuntimeStatus, Summary
from ..ports import Append, Commit, Fact, Row
from ..replay.context import OrchestrationContext
from ..replay.execution import Code, Execution, TurnTooLong, Watch
from ..replay.mismatch import Mismatch, line_of_error
from .instance import Arrival, Instance, Invocation, Turn, task_key, timer_key, wake_key
from .ledger import Ledger
from .messages import Message, child_outcome, child_start, encode_message


class Env(NamedTuple):
    """What a step needs of its worker: who it is, how long it holds rows (seconds), fresh ids, limits, the watchdog."""

    holder: str
    hold: float
    mint: Callable[[], str]
    partitions: int
    limits: Limits
    watch: Watch


def create(
    instance_id: str, started: Event, partitions: int, commit_id: str, holder: str = "", due_at: float | None = None
) -> Commit:
    """The commit that brings an instance into being: version 0 to 1, event 0, and the row that wakes it."""
    partition = partition_of(instance_id, partitions)
    at = started.timestamp
    summary = Summary(
        instance_id,
        started.execution_id,
        started.name,
        RuntimeStatus.PENDING,
        at,
        at,
        version=started.version,
        tags=started.tags,
        parent_instance_id=started.parent.instance_id if started.parent else "",
    )
    wake = _wake_row(started.execution_id, instance_id, partition, at.timestamp() if due_at is None else due_at, holder)
    append = Append(started.execution_id, 0, encode_events([started]))
    return Commit(commit_id, instance_id, partition, 0, summary, (append,), (wake,))


def step(
    instance: Instance, arrivals: Sequence[Arrival], code: Code | None, missing: str, now: datetime, env: Env
) -> Turn:
    """One turn. `missing` says why `code` is None, in words for the status."""
    summary = instance.summary
    if summary.status.finished:
        return _only_drop(instance, arrivals, env, ignored=len(arrivals))
    now = max(now, summary.updated_at)
    facts: list[Event] = []
    terminate: Event | None = None
    for event, execution_id, _ in arrivals:
        if execution_id and execution_id != summary.execution_id:
            continue
        facts.append(event)
        if event.type == h.TIMER_FIRED:
            now = max(now, event.timestamp)  # the clock may have gone back since it was found due
        elif event.type == h.EXECUTION_TERMINATED and terminate is None:
            terminate = event
    if terminate is not None:
        return _terminate(instance, terminate, arrivals, now, env)
    if code is None:
        return _park(instance, arrivals, missing, now, env)
    try:
        execution = instance.execution or revive(instance, code, env)
        opening = not execution.begun
        events = execution.take(facts, now)
    except Mismatch as mismatch:
        return _park(instance, arrivals, mismatch.reason, now, env)
    except UnreadableHistory as error:
        return _park(instance, arrivals, str(error), now, env)
    except TurnTooLong as stuck:
        return _park(instance, arrivals, _stuck(stuck, env.limits), now, env)
    ignored = len(arrivals) - execution.taken
    if not events:
        settled = instance._replace(execution=execution, history=())
        return _only_drop(settled, arrivals, env, ignored)
    return _commit(instance, execution, events, arrivals, opening, now, env, ignored)


def revive(instance: Instance, code: Code, env: Env) -> Execution:
    """A live execution at the end of the instance's history. Raises Mismatch, UnreadableHistory, TurnTooLong."""
    events = [event for row in instance.history for event in decode_events(row)]
    execution = Execution(code, instance.started, instance.summary.instance_id, env.limits, env.watch)
    context = OrchestrationContext(execution)
    raw = instance.started.input

    def begin() -> object:
        where = f"the input of orchestrator {code.name!r}"
        return code.fn(context, *code.signature.decode_input(raw or _NULL, where))

    execution.begin_with(begin)
    execution.replay(events)
    return execution


_NULL = Raw(b"null")


# ---- a turn that went on


def _commit(
    instance: Instance,
    execution: Execution,
    events: list[Event],
    arrivals: Sequence[Arrival],
    opening: bool,
    now: datetime,
    env: Env,
    ignored: int,
) -> Turn:
    summary = instance.summary
    run = _Effects(instance, env, now.timestamp())
    for event in events:
        effect = _EFFECTS.get(event.type)
        if effect is not None:
            effect(run, event)
    for task_id in execution.unused_timers:
        run.drop.append(timer_key(summary.execution_id, task_id, 0))
    last = events[-1]
    left = _left_for_next(events, arrivals) if last.type == h.CONTINUE_AS_NEW else ()
    run.drop += [a.row_key for a in arrivals if a.row_key and a.row_key not in left]
    if ignored:
        run.drop.extend(key for key in map(_row_of, arrivals) if key)
    if opening or summary.status is RuntimeStatus.BLOCKED:
        run.drop.append(wake_key(summary.execution_id))
    appends = [Append(summary.execution_id, instance.length, encode_events(events))]
    custom = execution.custom_status if execution.custom_status is not None else summary.custom_status
    length = instance.length + len(events)
    started = instance.started
    live: Execution | None = execution
    if last.type == h.CONTINUE_AS_NEW:
        run.drop.extend(_timers_left(execution))
        started = _next_execution(started, last, now, env)
        first = [started, *execution.carried_events()]
        appends.append(Append(started.execution_id, 0, encode_events(first)))
        run.put.append(_wake_row(started.execution_id, summary.instance_id, run.partition, run.now, env.holder))
        summary = msgspec.structs.replace(
            summary,
            execution_id=started.execution_id,
            status=RuntimeStatus.RUNNING,
            updated_at=now,
            custom_status=custom,
            blocked_reason="",
        )
        live, length = None, len(first)
    elif last.type == h.EXECUTION_COMPLETED:
        run.drop.extend(_timers_left(execution))
        summary = _ended(summary, last, custom, now)
        if started.parent is not None:
            run.send(child_outcome(started.parent, last), f"{summary.execution_id}/outcome")
        live = None
    else:
        summary = Summary(
            summary.instance_id,
            summary.execution_id,
            summary.name,
            RuntimeStatus.RUNNING,
            summary.created_at,
            now,
            version=summary.version,
            custom_status=custom,
            tags=summary.tags,
            parent_instance_id=summary.parent_instance_id,
        )
    run.forget_what_ended_at_once()
    commit = Commit(
        env.mint(),
        summary.instance_id,
        run.partition,
        instance.version,
        summary,
        tuple(appends),
        tuple(run.put),
        tuple(run.drop),
    )
    rows = (appends[-1].events,) if last.type == h.CONTINUE_AS_NEW else ()
    after = Instance(summary, instance.version + 1, started, length, live, rows)
    again = last.type == h.CONTINUE_AS_NEW
    return Turn(commit, after, run.invocations, run.cancelled, again=again, ignored=ignored)


def _left_for_next(events: list[Event], arrivals: Sequence[Arrival]) -> set[str]:
    """Inbox rows of events that came after the one which continued as new: the next execution takes them."""
    taken = {id(event) for event in events}
    return {a.row_key for a in arrivals if a.event.type == h.EVENT_RAISED and id(a.event) not in taken}


def _timers_left(execution: Execution) -> list[str]:
    execution_id = execution.started.execution_id
    return [timer_key(execution_id, number, getattr(task, "attempt", 0)) for number, task in execution.tasks.items()]


class _Effects:
    """Rows and invocations that the events of one turn leave behind."""

    def __init__(self, instance: Instance, env: Env, now: float) -> None:
        self.instance_id = instance.summary.instance_id
        self.execution_id = instance.summary.execution_id
        self.partition = partition_of(self.instance_id, env.partitions)
        self.env = env
        self.now = now
        self.put: list[Row] = []
        self.drop: list[str] = []
        self.invocations: list[Invocation] = []
        self.cancelled: list[str] = []

    def task_scheduled(self, event: Event) -> None:
        invocation = invocation_of(self.instance_id, self.execution_id, event)
        due_at = self.now + self.env.hold
        self.put.append(Row(invocation.row_key, "task", self.instance_id, self.partition, due_at, self.env.holder))
        self.invocations.append(invocation)

    def task_ended(self, event: Event) -> None:
        self.drop.append(task_key(self.execution_id, event.task_id, event.attempt))

    def task_canceled(self, event: Event) -> None:
        if event.attempt:
            key = task_key(self.execution_id, event.task_id, event.attempt)
            self.drop += (key, timer_key(self.execution_id, event.task_id, event.attempt))
            self.cancelled.append(key)

    def timer_set(self, event: Event) -> None:
        if event.fire_at is not None:
            key = timer_key(self.execution_id, event.task_id, event.attempt)
            body = _TIMER_BODY.encode((self.execution_id, event.task_id, event.attempt))
            due_at = event.fire_at.timestamp()
            self.put.append(Row(key, "timer", self.instance_id, self.partition, due_at, body=body))

    def timer_ended(self, event: Event) -> None:
        self.drop.append(timer_key(self.execution_id, event.task_id, event.attempt))

    def child_created(self, event: Event) -> None:
        parent = Parent(self.instance_id, self.execution_id, event.task_id, event.attempt)
        message = child_start(event, parent, self.env.mint(), self.env.mint())
        self.send(message, f"{task_key(self.execution_id, event.task_id, event.attempt)}/start")

    def forget_what_ended_at_once(self) -> None:
        """What began and ended in one turn has no row: a store drops first and puts then, so it would stay for ever."""
        if self.put and self.drop:
            ended = set(self.drop)
            if any(row.key in ended for row in self.put):
                self.put = [row for row in self.put if row.key not in ended]
                self.invocations = [i for i in self.invocations if i.row_key not in ended]

    def send(self, message: Message, key: str) -> None:
        due_at = self.now + self.env.hold
        body = encode_message(message)
        self.put.append(Row(key, "message", self.instance_id, self.partition, due_at, self.env.holder, body=body))


_TIMER_BODY = msgspec.json.Encoder()
_TIMER_READER = msgspec.json.Decoder(tuple[str, int, int])

# What each event of a turn leaves behind; events that are not here leave nothing.
_EFFECTS: dict[str, Callable[[_Effects, Event], None]] = {
    h.TASK_SCHEDULED: _Effects.task_scheduled,
    h.TASK_COMPLETED: _Effects.task_ended,
    h.TASK_FAILED: _Effects.task_ended,
    h.TASK_CANCELED: _Effects.task_canceled,
    h.TIMER_CREATED: _Effects.timer_set,
    h.TIMER_FIRED: _Effects.timer_ended,
    h.TIMER_CANCELED: _Effects.timer_ended,
    h.EVENT_AWAITED: _Effects.timer_set,
    h.CHILD_CREATED: _Effects.child_created,
}


def invocation_of(instance_id: str, execution_id: str, scheduled: Event) -> Invocation:
    """The activity call that a TaskScheduled event asks for."""
    return Invocation(
        instance_id,
        execution_id,
        scheduled.task_id,
        scheduled.attempt,
        scheduled.name,
        scheduled.input,
        task_key(execution_id, scheduled.task_id, scheduled.attempt),
        scheduled.timeout,
        scheduled.heartbeat_timeout,
    )


def timer_arrival(row: Row, now: datetime) -> Arrival:
    """The fact that a due timer row stands for."""
    execution_id, task_id, attempt = _TIMER_READER.decode(row.body)
    at = max(now, from_timestamp(row.due_at))  # the clock may have gone back since it was found due
    return Arrival(Event(h.TIMER_FIRED, at, task_id=task_id, attempt=attempt), execution_id, row.key)


def _wake_row(execution_id: str, instance_id: str, partition: int, due_at: float, holder: str) -> Row:
    return Row(wake_key(execution_id), "inbox", instance_id, partition, due_at, holder)


def _next_execution(started: Event, continued: Event, now: datetime, env: Env) -> Event:
    return msgspec.structs.replace(
        started, timestamp=now, input=continued.input, execution_id=env.mint(), seed=env.mint()
    )


def _ended(summary: Summary, ended: Event, custom: Raw, now: datetime) -> Summary:
    return msgspec.structs.replace(
        summary,
        status=RuntimeStatus(ended.status),
        updated_at=now,
        completed_at=now,
        output=ended.result,
        failure=ended.failure,
        custom_status=custom,
        blocked_reason="",
    )


# ---- turns that need no code


def _terminate(instance: Instance, request: Event, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
    """End it, whatever its code would do. Open children are told when the request is recursive."""
    summary = instance.summary
    run = _Effects(instance, env, now.timestamp())
    ledger = Ledger.of_rows(instance.history)
    reason = request.input
    ended = Event(h.EXECUTION_COMPLETED, now, result=reason, status=RuntimeStatus.TERMINATED.value)
    events = [Event(h.ORCHESTRATOR_STARTED, now), request, ended]
    for event in ledger.tasks.values():
        key = task_key(summary.execution_id, event.task_id, event.attempt)
        run.drop.append(key)
        run.cancelled.append(key)
    run.drop.extend(
        timer_key(summary.execution_id, event.task_id, event.attempt)
        for event in (*ledger.timers.values(), *ledger.waits.values())
    )
    run.drop.extend(key for key in (a.row_key or _row_of(a) for a in arrivals) if key)  # also of older executions
    run.drop.append(wake_key(summary.execution_id))
    if request.status == RECURSIVE:
        for child in ledger.children.values():
            key = f"{task_key(summary.execution_id, child.task_id, child.attempt)}/terminate"
            run.send(Message("fact", child.instance_id, terminate_request(reason, now, recursive=True)), key)
    if instance.started.parent is not None:
        run.send(child_outcome(instance.started.parent, _as_failure(ended, summary)), f"{summary.execution_id}/outcome")
    summary = _ended(summary, ended, summary.custom_status, now)
    append = Append(summary.execution_id, instance.length, encode_events(events))
    commit = Commit(
        env.mint(),
        summary.instance_id,
        run.partition,
        instance.version,
        summary,
        (append,),
        tuple(run.put),
        tuple(run.drop),
    )
    after = Instance(summary, instance.version + 1, instance.started, instance.length + 3)
    return Turn(commit, after, cancelled=run.cancelled, ignored=len(arrivals) - 1)


RECURSIVE = "RECURSIVE"


def terminate_request(reason: Raw, at: datetime, *, recursive: bool) -> Event:
    """The fact that asks an instance to end."""
    return Event(h.EXECUTION_TERMINATED, at, input=reason, status=RECURSIVE if recursive else "")


def _as_failure(ended: Event, summary: Summary) -> Event:
    error = OrchestrationTerminatedError(f"sub-orchestration {summary.instance_id!r} was terminated")
    return msgspec.structs.replace(ended, failure=describe(error))


def _only_drop(instance: Instance, arrivals: Sequence[Arrival], env: Env, ignored: int) -> Turn:
    drop = [a.row_key or _row_of(a) for a in arrivals]
    drop = [key for key in drop if key]
    if not drop:
        return Turn(None, instance, ignored=ignored)
    summary = instance.summary
    partition = partition_of(summary.instance_id, env.partitions)
    commit = Commit(env.mint(), summary.instance_id, partition, instance.version, summary, drop=tuple(drop))
    return Turn(commit, instance._replace(version=instance.version + 1), ignored=ignored)


def _row_of(arrival: Arrival) -> str:
    """The work row behind an outcome that came straight from an activity."""
    event = arrival.event
    if event.type in (h.TASK_COMPLETED, h.TASK_FAILED) and arrival.execution_id:
        return task_key(arrival.execution_id, event.task_id, event.attempt)
    return ""


def _park(instance: Instance, arrivals: Sequence[Arrival], reason: str, now: datetime, env: Env) -> Turn:
    """Nothing is added to the history. The status says why; facts that were only in memory go to the inbox."""
    summary = instance.summary
    partition = partition_of(summary.instance_id, env.partitions)
    undelivered: list[Fact] = []
    drop: list[str] = []
    for arrival in arrivals:
        key = _row_of(arrival)
        if key and not arrival.row_key:
            event = msgspec.structs.replace(arrival.event, execution_id=arrival.execution_id)
            undelivered.append(
                Fact(summary.instance_id, partition, f"task/{key}", encode_event(event), now.timestamp())
            )
            drop.append(key)
    never_ran = summary.status is RuntimeStatus.PENDING and instance.length == 1
    unchanged = summary.blocked_reason == reason
    if never_ran and reason.startswith(UNSERVED):
        unchanged, blocked = True, summary  # nothing has happened yet: PENDING says it better than BLOCKED
    else:
        blocked = msgspec.structs.replace(summary, status=RuntimeStatus.BLOCKED, blocked_reason=reason, updated_at=now)
    if unchanged and not drop:
        return Turn(None, instance._replace(execution=None), parked=reason)
    wake = _wake_row(summary.execution_id, summary.instance_id, partition, now.timestamp() + env.hold, env.holder)
    commit = Commit(
        env.mint(), summary.instance_id, partition, instance.version, blocked, put=(wake,), drop=tuple(drop)
    )
    after = instance._replace(summary=blocked, version=instance.version + 1, execution=None)
    return Turn(commit, after, parked=reason, undelivered=undelivered)


def _stuck(error: TurnTooLong, limits: Limits) -> str:
    return (
        f"the orchestrator ran longer than {limits.turn_seconds:g} s without yielding ({line_of_error(error)}); "
        "move the work into an activity, or raise Limits.turn_seconds"
    )


UNSERVED = "no worker here serves"


def inbox_arrivals(rows: Iterable[Row]) -> tuple[list[Arrival], list[Row]]:
    """The facts in an inbox, in order, and the rows that can't be read. A row without a body only wakes."""
    arrivals: list[Arrival] = []
    unreadable: list[Row] = []
    for row in rows:
        if not row.body:
            continue
        try:
            event = h.decode_event(row.body)
        except UnreadableHistory:
            unreadable.append(row)
            continue
        arrivals.append(Arrival(event, event.execution_id, row.key))
    return arrivals, unreadable
