"""Turns that need no code because none of it runs: suspended, resumed, or before the time of its start.

Laws.
1. While an instance is suspended no turn takes anything but a resume (and a terminate, which comes before all this).
   What arrives stays in the inbox, or goes there; resumed, it is taken in order of arrival.
2. Suspending twice is suspending once, and resuming what is not suspended is nothing: neither is recorded.
3. A suspend is taken where it arrived: what came before it has been taken, what comes after it waits. Only before its
   first turn is an instance suspended at once, so that its code does not begin.
4. The row of a resume outlives its own turn, and so wakes the turn that goes on; that one drops it as no news.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from ..model import history as h
from ..model.history import Event, encode_events
from ..model.names import partition_of
from ..model.status import RuntimeStatus, Summary
from ..ports import Append, Commit
from .codeless import only_drop, to_inbox
from .effects import start_row
from .instance import Arrival, Env, Instance, Turn, wake_key

WAITS: Final = "it is suspended"


def first_suspend(arrivals: Sequence[Arrival]) -> int | None:
    """Where the first suspend stands among the arrivals."""
    return next((n for n, a in enumerate(arrivals) if a.event.type == h.EXECUTION_SUSPENDED), None)


def suspend(instance: Instance, arrivals: Sequence[Arrival], number: int, now: datetime, env: Env) -> Turn:
    """From here on it is suspended, by arrival `number`; the others stay."""
    used = [a.row_key for a in arrivals[: number + 1] if a.event.type in _SWITCHES]
    others = [a for a in arrivals if a.event.type not in _SWITCHES]
    turn = _switched(instance, others, arrivals[number].event, RuntimeStatus.SUSPENDED, used, now, env)
    return replace(turn, again=len(arrivals) > 1)


def rest(instance: Instance, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
    """The turn of a suspended instance: go on if somebody said so, else keep what has come."""
    resumed = next((n for n, a in enumerate(arrivals) if a.event.type == h.EXECUTION_RESUMED), len(arrivals))
    repeated = [a.row_key for a in arrivals[:resumed] if a.event.type == h.EXECUTION_SUSPENDED]
    others = [a for a in arrivals if a.event.type not in _SWITCHES]
    if resumed < len(arrivals):
        status = RuntimeStatus.RUNNING if instance.begun else RuntimeStatus.PENDING
        turn = _switched(instance, others, arrivals[resumed].event, status, repeated, now, env)
        return replace(turn, again=True)
    undelivered, drop = to_inbox(instance, others, env, now)
    cold = replace(instance, execution=None)
    if not drop and not repeated:
        return Turn(None, cold, parked=WAITS)
    commit = _commit(instance, instance.summary, [*drop, *repeated], env)
    return Turn(commit, replace(cold, version=instance.version + 1), parked=WAITS, undelivered=undelivered)


def keep(turn: Turn, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
    """The same turn, with what came behind a suspend: another turn takes that."""
    instance = turn.instance
    undelivered, drop = to_inbox(instance, arrivals, env, now)
    turn = replace(turn, again=not turn.parked, undelivered=[*turn.undelivered, *undelivered])
    if not drop:
        return turn
    if turn.commit is not None:
        return replace(turn, commit=replace(turn.commit, drop=(*turn.commit.drop, *drop)))
    after = replace(instance, version=instance.version + 1)
    return replace(turn, commit=_commit(instance, instance.summary, drop, env), instance=after)


def before_the_start(instance: Instance, arrivals: Sequence[Arrival], env: Env) -> Turn:
    """Its time has not come: what has arrived waits in the inbox, but for outcomes of the life it took the place of."""
    late = [a for a in arrivals if a.execution_id not in ("", instance.summary.execution_id)]
    turn = only_drop(instance, late, env, len(late))
    return replace(turn, alarm=start_row(instance.summary, instance.started, env.partitions))


def _switched(
    instance: Instance,
    others: Sequence[Arrival],
    event: Event,
    status: RuntimeStatus,
    used: Sequence[str],
    now: datetime,
    env: Env,
) -> Turn:
    undelivered, drop = to_inbox(instance, others, env, now)
    if instance.summary.status is RuntimeStatus.BLOCKED:
        drop.append(wake_key(instance.summary.execution_id))
    summary = replace(instance.summary, status=status, updated_at=now, blocked_reason="", length=instance.length + 1)
    append = Append(summary.execution_id, instance.length, encode_events([event]))
    commit = _commit(instance, summary, [*drop, *used], env, append)
    after = Instance(summary, instance.version + 1, instance.started, instance.length + 1)
    return Turn(commit, after, undelivered=undelivered)


def _commit(instance: Instance, summary: Summary, drop: Sequence[str], env: Env, *appends: Append) -> Commit:
    partition = partition_of(summary.instance_id, env.partitions)
    mine = summary.instance_id, partition, instance.version
    return Commit(env.mint(), *mine, summary, appends, drop=tuple(drop), tells=bool(appends))


_SWITCHES: Final = frozenset({h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED})
