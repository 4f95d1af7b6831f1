"""The pure step: an instance, what has arrived, today's code and the time in; one commit and its effects out.

Laws.
1. It does no I/O and reads no clock; identity comes in as `Env`. The same arguments give the same turn.
2. It never raises for a user's mistake: that becomes a failure in the history, or a parked instance.
3. Terminate comes first and needs no code. Then facts in order of arrival; what is suspended waits (`suspension`).
4. Code that does not fit its history, or is missing, adds nothing to the history and sends nothing; facts that were
   only in memory go to the inbox.
5. What each command leaves behind is a table (`effects.EFFECTS`).
6. An instance at version 0 is still to be created: its first turn may do that, in one commit with all that it decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from ..model import history as h
from ..model.history import Event, Raw, UnreadableHistory, encode_events
from ..model.limits import Limits
from ..model.names import partition_of
from ..model.status import DEFAULT_GROUP, RuntimeStatus, Summary
from ..ports import PARKED, Append, Commit, Record, Row
from ..replay.context import OrchestrationContext
from ..replay.execution import Execution
from ..replay.guard import TurnTooLong
from ..replay.live_code import Code
from ..replay.mismatch import Mismatch, line_of_error, refuse_sealed
from ..replay.tasks import CloudEventTask
from .codeless import cancel_before_start, ended_summary, kept_events, only_drop, park, rows_of_start, terminate
from .effects import Effects, start_row, wake_row
from .instance import Arrival, Env, Instance, Turn, outcome_key, row_behind, timer_key
from .messages import child_outcome
from .suspension import before_the_start, first_suspend, keep, rest, suspend


def create(instance_id: str, started: Event, partitions: int, commit_id: str) -> Commit:
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
        group=started.group or DEFAULT_GROUP,
        reply_to=started.reply_to,
        length=1,
    )
    if started.fire_at is None:
        wake = wake_row(summary, partition, at.timestamp(), "")
    else:
        wake = start_row(summary, started, partitions)
    append = Append(started.execution_id, 0, encode_events([started]))
    return Commit(commit_id, instance_id, partition, 0, summary, (append,), (wake,))


def created(commit: Commit) -> Record:
    """What a store loads of an instance that this commit has created."""
    inbox = tuple(row for row in commit.put if row.kind == "inbox")
    return Record(1, commit.id, commit.summary, tuple(append.events for append in commit.appends), inbox)


def uncreated(creation: Commit) -> Record:
    """An instance that this commit would create, as it is before that: at version 0. Its first turn creates it."""
    return Record(0, "", creation.summary, tuple(append.events for append in creation.appends), ())


def in_place_of(record: Record, creation: Commit) -> Commit:
    """The same start, as another life in place of one that has finished. What waits for another one it finds."""
    inbox = tuple(row.key for row in record.inbox if row.group != PARKED)
    before = record.summary.execution_id
    return replace(creation, expect=record.version, drop=inbox, replaces=before)


def step(
    instance: Instance, arrivals: Sequence[Arrival], code: Code | None, missing: str, now: datetime, env: Env
) -> Turn:
    """One turn. `missing` says why `code` is None, in words for the status."""
    summary = instance.summary
    if summary.status.finished:
        return only_drop(instance, arrivals, env, ignored=len(arrivals))
    now = max(now, summary.updated_at)
    facts: list[Event] = []
    request: Event | None = None
    steered = False
    for arrival in arrivals:
        event = arrival.event
        if arrival.execution_id and arrival.execution_id != summary.execution_id:
            continue
        facts.append(event)
        if event.type == h.TIMER_FIRED:
            now = max(now, event.timestamp)  # the clock may have gone back since it was found due
        elif event.type in STEERING:
            steered = True
            if event.type == h.EXECUTION_TERMINATED and event.parent in (None, instance.started.parent):
                request = request or event
    if request is not None:
        return terminate(instance, request, arrivals, now, env)
    if summary.status is RuntimeStatus.SUSPENDED:
        return rest(instance, arrivals, now, env)
    suspending = first_suspend(arrivals) if steered else None
    if summary.status is RuntimeStatus.PENDING:
        turn = _not_begun(instance, arrivals, suspending, code is None, now, env)
        if turn is not None:
            return turn
    if suspending:  # what came before it has a turn of its own
        turn = step(instance, arrivals[:suspending], code, missing, now, env)
        return keep(turn, arrivals[suspending:], now, env)
    if code is None:
        return park(instance, arrivals, missing, now, env, unserved=True)
    execution = instance.execution
    try:
        execution = execution or revive(instance, code, env)
        if suspending == 0:
            execution.let_go()
            return suspend(instance, arrivals, 0, now, env)
        opening = not execution.begun
        is_long = instance.length > env.limits.history_events or instance.size > env.limits.history_bytes
        events = execution.take(facts, now, is_long)
    except (Mismatch, UnreadableHistory, TurnTooLong) as stuck:
        if execution is not None:
            execution.let_go()
        return park(instance, arrivals, _why(stuck, env.limits), now, env)
    ignored = len(arrivals) - execution.taken
    if not events:
        settled = replace(instance, execution=execution, history=())
        return only_drop(settled, arrivals, env, ignored)
    return _commit(instance, execution, events, arrivals, opening, now, env, ignored)


STEERING: Final = frozenset({h.EXECUTION_TERMINATED, h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED, h.EXECUTION_CANCELED})


def _not_begun(
    instance: Instance, arrivals: Sequence[Arrival], suspending: int | None, unserved: bool, now: datetime, env: Env
) -> Turn | None:
    """The turn of what has never run and does not run now; None if it may begin."""
    if suspending is not None:
        return suspend(instance, arrivals, suspending, now, env)
    start_at = instance.started.fire_at
    early = start_at is not None and now < start_at
    if not early and not unserved:
        return None
    cancel = next((a.event for a in arrivals if a.event.type == h.EXECUTION_CANCELED), None)
    if cancel is not None:
        return cancel_before_start(instance, cancel, arrivals, now, env)
    return before_the_start(instance, arrivals, env) if early else None


def revive(instance: Instance, code: Code, env: Env) -> Execution:
    """A live execution at the end of the instance's history. Raises Mismatch, UnreadableHistory, TurnTooLong."""
    refuse_sealed(instance.started, f"instance {instance.summary.instance_id!r}: its input")
    execution = Execution(code, instance.started, instance.summary.instance_id, env.limits, env.watch)
    context = OrchestrationContext(execution)
    raw = instance.started.input

    def begin() -> object:
        where = f"the input of orchestrator {code.name!r}"
        return code.fn(context, *code.signature.decode_input(raw or _NULL, where))

    execution.begin_with(begin)
    try:
        execution.replay(instance.history)
    except BaseException:
        execution.let_go()
        raise
    return execution


_NULL = Raw(b"null")


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
    if execution.version != summary.version:
        summary = replace(summary, version=execution.version)
    run = Effects(instance, env, now.timestamp())
    run.of(events, instance.length)
    for task_id in execution.unused_timers:
        run.drop.append(timer_key(summary.execution_id, task_id, 0))
    last = events[-1]
    for task_id in _withdrawn(execution, last):
        run.withdraw(task_id, instance.length + len(events) - 1)
    untaken = _untaken(events, arrivals) if last.type in _LAST else []
    left = {a.row_key for a in untaken if a.event.type in _CARRIED} if last.type == h.CONTINUE_AS_NEW else ()
    run.drop += [a.row_key for a in arrivals if a.row_key and a.row_key not in left]
    if ignored:
        run.drop.extend(key for key in map(row_behind, arrivals) if key)
    if instance.version and (opening or summary.status is RuntimeStatus.BLOCKED):
        run.drop += rows_of_start(instance)
    if instance.version:
        row, first = encode_events(events), instance.length
    else:
        row, first = encode_events([instance.started, *events]), 0
    appends = [Append(summary.execution_id, first, row)]
    custom = execution.custom_status if execution.custom_status is not None else summary.custom_status
    length, size = instance.length + len(events), (instance.size if instance.version else 0) + len(row)
    started = instance.started
    live: Execution | None = execution
    opened: list[Event] = []
    if last.type == h.CONTINUE_AS_NEW:
        run.drop.extend(_timers_left(execution))
        started = _next_execution(started, last, execution.version, now, env)
        opened = [started, *execution.carried_events()]
        row = encode_events(opened)
        appends.append(Append(started.execution_id, 0, row))
        summary = replace(
            summary,
            execution_id=started.execution_id,
            status=RuntimeStatus.RUNNING,
            updated_at=now,
            version=started.version,
            custom_status=custom,
            blocked_reason="",
            length=len(opened),
        )
        run.put.append(wake_row(summary, run.partition, run.now, env.holder))
        live, length, size = None, len(opened), len(row)
    elif last.type == h.EXECUTION_COMPLETED:
        run.drop.extend(_timers_left(execution))
        summary = ended_summary(summary, last, custom, now, length)
        run.put.extend(kept_events(summary, run.partition, instance.version, untaken))
        if started.parent is not None:
            outcome = child_outcome(started.parent, last, summary.instance_id)
            run.send(outcome, outcome_key(summary.execution_id, instance.length))
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
            group=summary.group,
            reply_to=summary.reply_to,
            length=length,
        )
    run.forget_what_ended_at_once()
    began = instance.summary.status is RuntimeStatus.PENDING or instance.version <= 1
    commit = Commit(
        env.mint(),
        summary.instance_id,
        run.partition,
        instance.version,
        summary,
        tuple(appends),
        tuple(run.put),
        tuple(run.drop),
        tells=began or summary.status.finished,
    )
    after = Instance(summary, instance.version + 1, started, length, live, opened, size)
    again = last.type == h.CONTINUE_AS_NEW
    late = summary.status.finished and bool(execution.tasks)
    return Turn(commit, after, run.invocations, run.cancelled, again=again, ignored=ignored, late=late, began=began)


_LAST: Final = (h.CONTINUE_AS_NEW, h.EXECUTION_COMPLETED)  # events of an execution
_CARRIED: Final = (h.EVENT_RAISED, h.EXECUTION_CANCELED)  # came after a continue-as-new: the next execution takes them


def _untaken(events: Sequence[Event], arrivals: Sequence[Arrival]) -> list[Arrival]:
    """What has arrived and is not among the events of this turn."""
    taken = {id(event) for event in events}
    return [arrival for arrival in arrivals if id(arrival.event) not in taken]


def _withdrawn(execution: Execution, last: Event) -> list[int]:
    """The waits for CloudEvents that this turn has ended, all of them if it was the last one."""
    if last.type not in _LAST:
        return execution.withdrawn
    left = [number for number, task in execution.tasks.items() if isinstance(task, CloudEventTask)]
    return [*execution.withdrawn, *left]


def _timers_left(execution: Execution) -> list[str]:
    execution_id = execution.started.execution_id
    return [timer_key(execution_id, number, getattr(task, "attempt", 0)) for number, task in execution.tasks.items()]


def _next_execution(started: Event, continued: Event, version: str, now: datetime, env: Env) -> Event:
    return replace(
        started,
        timestamp=now,
        input=continued.input,
        execution_id=env.mint(),
        version=continued.version or version,
        seed=env.mint(),
        fire_at=None,
        previous=started.execution_id,
        formerly=(),
    )


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


def _why(stuck: Mismatch | UnreadableHistory | TurnTooLong, limits: Limits) -> str:
    if not isinstance(stuck, TurnTooLong):
        return str(stuck)
    return (
        f"the orchestrator ran longer than {limits.turn_seconds:g} s without yielding ({line_of_error(stuck)}); "
        "move the work into an activity, or raise Limits.turn_seconds"
    )
