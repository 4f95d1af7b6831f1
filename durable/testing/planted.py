"""Bugs that the simulator must find: each takes one of the engine's laws away, inside the simulator only.

They are planted from outside, in the store or over a method, so product code has no switch that breaks it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import datetime
from typing import Any, Final
from unittest.mock import patch

import msgspec

from ..backends.memory import MemoryStore
from ..engine import codeless, step, suspension
from ..engine.effects import Effects
from ..engine.instance import Arrival, Env, Instance, Turn, task_key
from ..model import history as h
from ..model.history import Event
from ..model.status import RuntimeStatus
from ..ports import Append, Commit, Delivered, Fact, Message, Outcome, Published
from ..replay.execution import Execution
from ..runtime import wire
from .programs import CODES
from .simulated_broker import Broker
from .simulated_worker import Worker


class AcknowledgesFirst(MemoryStore):
    """What a turn has taken is forgotten before its commit is known to have happened."""

    def commit(self, commits: Any) -> list[Outcome]:
        for commit in commits:
            for key in commit.drop:
                self._drop(key)
        return super().commit(commits)


class ForgetsFacts(MemoryStore):
    """The same fact delivered twice is two facts."""

    def _deliver(self, fact: Fact) -> Delivered:
        self._seen.pop(fact.instance_id, None)
        return super()._deliver(fact)


class EndsMessagesWhenSent(MemoryStore):
    """A message to another instance is only in the memory of the worker that sends it."""

    def _commit(self, commit: Commit) -> Outcome:
        outcome = super()._commit(commit)
        for row in commit.put:
            if row.kind == "message" and outcome is Outcome.COMMITTED:
                self._drop(row.key)
        return outcome


class DropsWhatIsForNobody(MemoryStore):
    """An event that is sent to an orchestration which does not exist is gone."""

    def _deliver(self, fact: Fact) -> Delivered:
        return super()._deliver(fact._replace(park=False))


class ForgetsInboxAtContinue(MemoryStore):
    """Continuing as new takes the whole inbox with it, whether a turn has read it or not."""

    def _commit(self, commit: Commit) -> Outcome:
        outcome = super()._commit(commit)
        if len(commit.appends) == 2 and outcome is Outcome.COMMITTED:
            for key in [key for key in self._inbox.get(commit.instance_id, ()) if key.startswith("in/")]:
                self._drop(key)
        return outcome


class ChecksNoVersion(MemoryStore):
    """The last writer wins."""

    def _commit(self, commit: Commit) -> Outcome:
        found = self._instances.get(commit.instance_id)
        if found is None or not commit.expect:
            return super()._commit(commit)
        return super()._commit(msgspec.structs.replace(commit, expect=found.version))

    def _append(self, append: Append) -> None:
        self._history.setdefault(append.execution_id, []).append((append.start, append.events))


@contextmanager
def _no_deduplication() -> Iterator[None]:
    expects = Execution.expects

    def always(self: Execution, fact: Event) -> bool:
        return fact.type in (h.TASK_COMPLETED, h.TASK_FAILED) or expects(self, fact)

    with patch.object(Execution, "expects", always):
        yield


@contextmanager
def _ends_rows_when_sent() -> Iterator[None]:
    start = Worker._start

    def start_and_end(self: Worker, invocations: Any) -> None:
        for invocation in invocations:
            self.world.store.inner._drop(invocation.row_key)
        start(self, invocations)

    with patch.object(Worker, "_start", start_and_end):
        yield


@contextmanager
def _ids_without_attempt() -> Iterator[None]:
    def key(execution_id: str, task_id: int, attempt: int) -> str:
        return f"{execution_id}/{task_id}/1"

    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("durable.") and getattr(module, "task_key", None) is task_key:
                stack.enter_context(patch.object(module, "task_key", key))
        yield


@contextmanager
def _after_the_confirm(spoil: Callable[[MemoryStore, str], None]) -> Iterator[None]:
    """Do something to the work row of each invocation that the broker has confirmed."""
    publish = Broker.publish

    def publish_and_spoil(self: Broker, messages: Sequence[Message]) -> list[Published]:
        answers = publish(self, messages)
        for message, answer in zip(messages, answers, strict=True):
            if message.type == wire.SCHEDULED and answer is Published.CONFIRMED:
                spoil(self.world.store.inner, wire.read_work(message.body).invocation.row_key)
        return answers

    with patch.object(Broker, "publish", publish_and_spoil):
        yield


def _ends_rows_at_the_confirm() -> AbstractContextManager[Any]:
    return _after_the_confirm(lambda store, key: store._drop(key))


def _trusts_the_broker_for_ever() -> AbstractContextManager[Any]:
    def never_due(store: MemoryStore, key: str) -> None:
        row = store._rows.get(key)
        if row is not None:
            store._put(msgspec.structs.replace(row, holder="", due_at=1e12))

    return _after_the_confirm(never_due)


def _leaves_rows_behind() -> AbstractContextManager[Any]:
    return patch.object(Effects, "forget_what_ended_at_once", lambda self: None)


def _loses_outcomes_while_suspended() -> AbstractContextManager[Any]:
    to_inbox = codeless.to_inbox

    def to_nowhere(*arguments: Any) -> tuple[list[Fact], list[str]]:
        return [], to_inbox(*arguments)[1]

    return patch.object(suspension, "to_inbox", to_nowhere)


def _goes_on_while_suspended() -> AbstractContextManager[Any]:
    def at_once(instance: Instance, arrivals: Sequence[Arrival], now: datetime, env: Env) -> Turn:
        code = CODES[instance.summary.name]
        running = msgspec.structs.replace(instance.summary, status=RuntimeStatus.RUNNING)
        return step.step(msgspec.structs.replace(instance, summary=running), arrivals, code, "", now, env)

    return patch.object(step, "rest", at_once)


Patch = Callable[[], AbstractContextManager[Any]]

PLANTED: Final[dict[str, tuple[type[MemoryStore], Patch]]] = {
    "acknowledge-first": (AcknowledgesFirst, nullcontext),
    "no-deduplication": (ForgetsFacts, _no_deduplication),
    "no-version-check": (ChecksNoVersion, nullcontext),
    "rows-end-when-sent": (EndsMessagesWhenSent, _ends_rows_when_sent),
    "ids-without-attempt": (MemoryStore, _ids_without_attempt),
    "rows-end-at-the-confirm": (MemoryStore, _ends_rows_at_the_confirm),
    "trusts-the-broker": (MemoryStore, _trusts_the_broker_for_ever),
    "drops-what-is-for-nobody": (DropsWhatIsForNobody, nullcontext),
    "loses-outcomes-while-suspended": (MemoryStore, _loses_outcomes_while_suspended),
    "goes-on-while-suspended": (MemoryStore, _goes_on_while_suspended),
    # Found by the simulator in our own code, and planted again so that it keeps finding them.
    "events-lost-at-continue": (ForgetsInboxAtContinue, nullcontext),
    "rows-left-behind": (MemoryStore, _leaves_rows_behind),
}


@contextmanager
def planted(name: str) -> Iterator[type[MemoryStore]]:
    """Plant one bug by name ('' for none); gives the store to use."""
    store, bug = PLANTED[name] if name else (MemoryStore, nullcontext)
    with bug():
        yield store
