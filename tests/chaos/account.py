"""What the histories say, read through the public client by somebody who knows nothing of how they came to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import durable

_ONCE = ("TimerFired", "SubOrchestrationInstanceCompleted", "TaskScheduled", "ExecutionCompleted")


class Turn(NamedTuple):
    """When, in POSIX seconds, an instance had a turn."""

    instance_id: str
    at: float


class Account(NamedTuple):
    """outcomes: how often the histories hold one for each attempt. recorded: when the turn was that took the first.

    odd: facts that stand twice, and whatever else is not as it must be. instances: it and its children. scheduled:
    attempts. open: the keys of tasks and timers that wait for their outcome.
    """

    outcomes: Counter[str]
    recorded: dict[str, float]
    turns: list[Turn]
    odd: list[str]
    instances: list[str]
    scheduled: set[str]
    open: set[str]


def read(client: durable.Client, instance: str) -> Account:
    """All executions of an instance, its children included."""
    account = Account(Counter(), {}, [], [], [], set(), set())
    _read(client, instance, account)
    return account


def _read(client: durable.Client, instance: str, account: Account) -> None:
    status = client.get_status(instance, history=True)
    if status is None:
        account.odd.append(f"{instance} is lost")
        return
    account.instances.append(instance)
    histories = {status.execution_id: status.history or []}
    # The programs tell of them too, in the first turn of the next one.
    for execution in {*(status.custom_status or ()), *client.backend.store.former([instance])[0]}:
        histories[execution] = client.history(instance, execution_id=execution)
    for execution, history in histories.items():
        account.odd.extend(f"{instance}: {what}" for what in oddities(history))
        account.open.update(_open(execution, history))
        turn = 0.0
        for event in history:
            if event.type == "OrchestratorStarted":
                turn = event.timestamp.timestamp()
                account.turns.append(Turn(instance, turn))
            elif event.type in ("TaskCompleted", "TaskFailed"):
                attempt = f"{execution}/{event.task_id}/{event.attempt}"
                account.outcomes[attempt] += 1
                account.recorded.setdefault(attempt, turn)
            elif event.type == "TaskScheduled":
                account.scheduled.add(f"{execution}/{event.task_id}/{event.attempt}")
            elif event.type == "SubOrchestrationInstanceCreated":
                child = event.instance_id
                if child and client.get_status(child) is not None:  # it may not have been started yet
                    _read(client, child, account)


def _open(execution: str, history: Iterable[durable.HistoryEvent]) -> set[str]:
    keys: set[str] = set()
    for event in history:
        key = f"{execution}/{event.task_id}/{event.attempt or 0}"
        if event.type == "TaskScheduled":
            keys.add(key)
        elif event.type == "TimerCreated" or (event.type == "EventAwaited" and event.fire_at):
            keys.add(f"{key}/timer")
        elif event.event_id is None:  # no turn has taken it yet
            continue
        elif event.type in ("TaskCompleted", "TaskFailed"):
            keys.discard(key)
        elif event.type == "TimerFired":
            keys.discard(f"{key}/timer")
    return keys


def oddities(history: Iterable[durable.HistoryEvent]) -> list[str]:
    """Facts that stand twice in one history, numbers with gaps, events in another order than they were raised."""
    history = list(history)
    found = []
    if [event.event_id for event in history] != list(range(len(history))):
        found.append("its events are not numbered without gaps")
    seen = Counter((e.type, e.task_id, e.attempt) for e in history if e.type in _ONCE)
    found += [f"{key} stands {n} times" for key, n in seen.items() if n > 1]
    raised = [event.input for event in history if event.type == "EventRaised"]
    if raised != list(range(len(raised))):
        found.append(f"events {raised}")
    return found


def disagreements(outcomes: Counter[str], ran: Counter[str]) -> list[str]:
    """Where histories and the ledger of what really ran don't tell the same."""
    return [
        *(f"attempt {key}: {n} outcomes" for key, n in outcomes.items() if n != 1),
        *(f"attempt {key} has an outcome and never ran" for key in outcomes if not ran[key]),
        *(f"attempt {key} ran and has no outcome" for key in ran if not outcomes[key]),
    ]
