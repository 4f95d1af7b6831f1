"""Going on from within a history: what was open there is open again. Rewinding and forking are this, and little else.

Laws.
1. What stands is what is `standing` once an ExecutionRewound has been added. No code is needed to tell it.
2. An activity that was open is run again, in the same execution as its next attempt: the outcome of the one before may
   have come when nobody waited for it, and an outcome is delivered once.
3. What happened after the moment to go back to, and answers something that was open there, happens again: outcomes,
   timers, events and cancellations go back into the inbox. So nothing that was done is done twice. Behind them there
   are the events that it had accepted and not taken when it failed (`codeless.kept_events`).
4. An open sub-orchestration is looked after by a message to it (rewound, or asked for its outcome), or created anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

import msgspec

from ..model import history as h
from ..model.history import Event, encode_event
from ..model.limits import Limits
from ..model.rewinding import standing
from ..model.status import Summary
from ..ports import Row
from ..replay.guard import Watch
from .effects import Effects, wake_row
from .instance import Env, Instance, await_key, task_key, timer_key, wake_key, withdraw_key
from .ledger import Ledger
from .messages import Message

CLOCKS: Final = 30.0  # seconds by which a worker's clock may be behind: to it too, what is to run again is due
PATIENCE: Final = 1.0  # seconds in which whoever asked sees to the children; afterwards a worker does


class Reopened(NamedTuple):
    """What to append (the rewind and what it schedules again), and the rows to put and to drop."""

    events: list[Event]
    put: list[Row]
    drop: list[str]


class Moment(NamedTuple):
    """The moment to go back to: before event `number`, and without the outcome `voids` (0: none) of task `task_id`."""

    number: int
    voids: int = 0
    task_id: int = 0


def reopen(
    summary: Summary,
    history: Sequence[Event],
    back: Moment,
    rewound: Event,
    mint: Callable[[], str],
    partitions: int,
    anew: Callable[[Event], str],
    *,
    rewinds: bool,
    came: Collection[int] = (),
) -> Reopened:
    """Let the execution of `summary`, with this history, go on from `back`.

    rewound: the event to append, without its numbers. anew: the id under which this open child is to be created once
    more; '' for those that are sent `rewound` as a request. rewinds: it is that very execution, not a copy of it.
    came: waits for CloudEvents whose event is in its inbox.
    """
    now = rewound.timestamp
    number = len(history)
    rewound = msgspec.structs.replace(rewound, task_id=back.task_id, rewinds_to=back.number, voids=back.voids)
    stands = standing([*history, rewound])[:-1]
    void = [(n, e) for n, e in standing(history) if n >= back.number]
    ledger = Ledger.of_standing(stands)
    env = Env("", -CLOCKS, mint, partitions, Limits(), Watch())
    run = Effects(Instance(summary, 0, history[0], number), env, now.timestamp())
    run.drop += _rows_of(summary.execution_id, [event for _, event in void])
    answered = _again(run, ledger, [(n, e) for n, e in void if n != back.voids]) | (ledger.waits.keys() & came)
    events = [rewound]
    for task in ledger.tasks.values():
        if task.task_id in answered:
            continue
        last = _last_attempt(history, task)
        if rewinds or last is not None:
            events.append(msgspec.structs.replace(task, timestamp=now, attempt=(last or task.attempt) + 1))
            run.drop.append(_key(summary, task))
        else:
            run.task_scheduled(task)
    given_up = {e.task_id for _, e in stands if e.type == h.TASK_CANCELED}
    for child in ledger.children.values():
        if child.task_id in answered or child.task_id in given_up:
            continue
        name = anew(child)
        if name:
            attempt = child.attempt + 1
            events.append(msgspec.structs.replace(child, timestamp=now, attempt=attempt, instance_id=name))
        else:
            ask = msgspec.structs.replace(
                rewound,
                task_id=child.task_id,
                attempt=child.attempt,
                instance_id=summary.instance_id,
                execution_id=summary.execution_id,
                depth=number,
            )
            run.now = now.timestamp() + CLOCKS + PATIENCE
            run.send(Message("rewind", child.instance_id, ask), f"{_key(summary, child)}/rewind/{number}")
            run.now = now.timestamp()
    run.of(events[1:], number + 1)
    for timer in open_timers([event for _, event in stands]):
        run.timer_set(timer)
    for wait in ledger.waits.values():
        if wait.input and wait.task_id not in answered:
            # The end has taken it back, or was about to.
            run.drop.append(withdraw_key(summary.execution_id, wait.task_id, number - 1))
            run.awaits(wait, f"{await_key(summary.execution_id, wait.task_id)}/{number}", number)
    if not any(event.type == h.ORCHESTRATOR_STARTED for _, event in stands):
        run.put.append(wake_row(summary, run.partition, run.now, ""))
    # The code has nothing to do with it, but a worker shall look at the rows at once.
    run.put.append(_inbox_row(run, number, msgspec.structs.replace(rewound, execution_id=summary.execution_id)))
    return Reopened(events, run.put, run.drop)


def _again(run: Effects, ledger: Ledger, void: Sequence[tuple[int, Event]]) -> set[int]:
    """Back into the inbox with what came after that moment, and answers something open there: the tasks answered."""
    answered: set[int] = set()
    for number, event in void:
        if event.type == h.EXECUTION_CANCELED or (event.type == h.EVENT_RAISED and not event.task_id):
            run.put.append(_inbox_row(run, number, event))
            continue
        call = ledger.tasks.get(event.task_id) or ledger.children.get(event.task_id)
        outcome = event.type in h.OUTCOMES and call is not None and call.attempt == event.attempt
        came = event.type in (h.TIMER_FIRED, h.EVENT_RAISED)
        fired = came and (event.task_id in ledger.timers or event.task_id in ledger.waits)
        if (outcome or fired) and event.task_id not in answered:
            answered.add(event.task_id)
            here = msgspec.structs.replace(event, execution_id=run.execution_id)
            run.put.append(_inbox_row(run, number, here))
    return answered


def _inbox_row(run: Effects, number: int, event: Event) -> Row:
    """A fact that the engine puts into an inbox itself: before whatever is delivered, in the order of the history."""
    summary = run.summary
    key = f"{wake_key(summary.execution_id)}/{number:010}"
    body = encode_event(event)
    return Row(key, "inbox", summary.instance_id, run.partition, run.now, "", 0, body, summary.group)


def _last_attempt(history: Sequence[Event], task: Event) -> int | None:
    """The last attempt of an open activity if its open one can't be waited for: it has an outcome, or a successor."""
    same = [event for event in history if event.task_id == task.task_id]
    last = max(event.attempt for event in same)
    ended = any(event.type in h.OUTCOMES and event.attempt == task.attempt for event in same)
    return last if ended or last > task.attempt else None


def _key(summary: Summary, call: Event) -> str:
    return task_key(summary.execution_id, call.task_id, call.attempt)


def _rows_of(execution_id: str, void: Sequence[Event]) -> list[str]:
    """The rows of what was asked for and is void. Children that were begun go on by themselves."""
    keys: list[str] = []
    for event in void:
        if event.type == h.TASK_SCHEDULED:
            keys.append(task_key(execution_id, event.task_id, event.attempt))
        elif event.type in (h.TIMER_CREATED, h.EVENT_AWAITED):
            keys.append(timer_key(execution_id, event.task_id, event.attempt))
    return keys


def open_timers(events: Sequence[Event]) -> list[Event]:
    """Timers, and time limits of waits: of all waits by name, for a history does not say which one took an
    event."""
    found: dict[int, Event] = {}
    for event in events:
        if event.type in (h.TIMER_CREATED, h.EVENT_AWAITED):
            found[event.task_id] = event
        elif event.type in (h.TIMER_FIRED, h.TIMER_CANCELED, h.TASK_CANCELED, h.EVENT_RAISED):
            found.pop(event.task_id, None)
    return list(found.values())
