"""Planted bugs of the pure part: ids, time, and what a turn takes and leaves behind; see `planted`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from random import Random
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from ..engine import codeless, instance, step, suspension
from ..engine.effects import Effects
from ..engine.instance import Arrival, Env, Instance, Turn
from ..engine.ledger import Ledger
from ..model import history as h
from ..model.history import Event
from ..model.moments import from_timestamp
from ..model.status import RuntimeStatus
from ..ports import Fact
from ..replay.context import OrchestrationContext
from ..replay.execution import Execution
from ..runtime import turns
from .programs import CODES


def no_deduplication() -> AbstractContextManager[Any]:
    """Every outcome counts: there is one for each task."""
    expects = Execution.expects

    def always(self: Execution, fact: Event) -> bool:
        return fact.type in (h.TASK_COMPLETED, h.TASK_FAILED) or expects(self, fact)

    return patch.object(Execution, "expects", always)


# ---- ids


@contextmanager
def _everywhere(function: Callable[..., str], instead: Callable[..., str]) -> Iterator[None]:
    """Instead of a function of `engine.instance`, wherever it was imported."""
    name = function.__name__
    with ExitStack() as stack:
        for module in [module for path, module in sys.modules.items() if path.startswith("durable.")]:
            if getattr(module, name, None) is function:
                stack.enter_context(patch.object(module, name, instead))
        yield


def ids_without_attempt() -> AbstractContextManager[Any]:
    """A task has one row, whichever attempt it is at."""
    return _everywhere(instance.task_key, lambda execution_id, task_id, attempt: f"{execution_id}/{task_id}/1")


def one_outcome_a_child() -> AbstractContextManager[Any]:
    """The outcome of a child is told under the id of the child, which ends once."""
    return _everywhere(instance.outcome_key, lambda execution_id, length: f"{execution_id}/outcome")


def outcomes_of_former_executions() -> AbstractContextManager[Any]:
    """Task 1 is task 1: nobody compares executions."""

    def stepped(instance: Instance, arrivals: Sequence[Arrival], *given: Any) -> Turn:
        current = instance.summary.execution_id
        taken = [replace(a, execution_id=current) if a.execution_id else a for a in arrivals]
        return step.step(instance, taken, *given)

    return patch.object(turns, "step", stepped)


# ---- time and chance


def time_goes_back() -> AbstractContextManager[Any]:
    """The time of a turn is what the clock shows."""

    def stepped(instance: Instance, *given: Any) -> Turn:
        unaware = replace(instance.summary, updated_at=from_timestamp(0.0))
        return step.step(replace(instance, summary=unaware), *given)

    return patch.object(turns, "step", stepped)


def chance_without_seed() -> AbstractContextManager[Any]:
    """The orchestrator's random numbers are random."""
    chance = Random(1)
    return patch.object(OrchestrationContext, "random", chance)


# ---- what is taken, kept and left behind


def buffered_events_lost() -> AbstractContextManager[Any]:
    """The next execution begins without the events that nobody has taken."""
    return patch.object(Execution, "carried_events", lambda self: [])


def terminate_forgets_children() -> AbstractContextManager[Any]:
    """What is terminated ends; its children will find out."""

    class Childless(Ledger):
        def _of(self, stands: Any) -> None:
            super()._of(stands)
            self.children = {}

    return patch.object(codeless, "Ledger", Childless)


def loses_outcomes_while_suspended() -> AbstractContextManager[Any]:
    """What arrives while an instance is suspended has been taken."""
    return patch.object(suspension, "to_inbox", _to_nowhere)


_to_inbox = codeless.to_inbox


def _to_nowhere(*given: Any) -> tuple[list[Fact], list[str]]:
    return [], _to_inbox(*given)[1]


def goes_on_while_suspended() -> AbstractContextManager[Any]:
    """Suspending keeps the code from nothing that it waits for."""

    def at_once(instance: Instance, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
        code = CODES[instance.summary.name]
        running = replace(instance.summary, status=RuntimeStatus.RUNNING)
        return step.step(replace(instance, summary=running), arrivals, code, "", now, env)

    return patch.object(step, "rest", at_once)


def resume_ends_its_row() -> AbstractContextManager[Any]:
    """A resume is taken by the turn that records it, which lets go of its row."""

    def rest(instance: Instance, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
        turn = suspension.rest(instance, arrivals, now, env)
        taken = [a.row_key for a in arrivals if a.event.type == h.EXECUTION_RESUMED]
        if turn.commit is None or not turn.again:
            return turn
        return replace(turn, commit=replace(turn.commit, drop=(*turn.commit.drop, *taken)))

    return patch.object(step, "rest", rest)


def leaves_rows_behind() -> AbstractContextManager[Any]:
    """What begins and ends in one turn is put and dropped, in whatever order."""
    return patch.object(Effects, "forget_what_ended_at_once", lambda self: None)
