"""A loop on a store in memory, driven by hand: every request is seen, and every wait takes as long as it may."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

import durable
from durable.backends.memory import MemoryStore
from durable.engine.instance import Env
from durable.model.errors import StoreError
from durable.model.limits import Limits
from durable.ports import Store
from durable.replay.guard import Watch
from durable.replay.live_code import Code
from durable.runtime import requests as ask
from durable.runtime.loop import Loop, Settings
from durable.runtime.serving import ALONE, Serving
from durable.runtime.turns import Codebase

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Nothing:
    """A codebase."""

    def orchestrator(self, name: str, version: str, first_turn: bool) -> Code | None:
        return None

    def serves_activity(self, name: str) -> bool:
        return False

    def known(self, kind: str) -> list[str]:
        return []


class Registered(Nothing):
    """The orchestrators of a registry, and no activity."""

    def __init__(self, registry: durable.Registry) -> None:
        self.registry = registry

    def orchestrator(self, name: str, version: str, first_turn: bool) -> Code | None:
        return self.registry.find_orchestrator(name, version, first_turn)


class Driven:
    """A loop on a store that can fail. Every wait takes as long as it may. answers: to its requests; else None."""

    def __init__(self, serving: Serving = ALONE, codebase: Codebase | None = None, part: int = 10) -> None:
        self.store = store = MemoryStore()
        self.now = NOW
        self.reads = self.writes = True
        self.ids = count()
        env = Env("me", 60.0, lambda: f"id{next(self.ids)}", 1, Limits(), Watch())
        self.loop = Loop(env, codebase or Nothing(), lambda: self.now, Settings(batch=10, part=part), serving)
        self.requests = self.loop.run()
        self.pending: Any = next(self.requests)
        self.over = False
        self.outcomes: list[Any] = []
        self.answers: dict[type, Callable[[Any], Any]] = {
            ask.Load: self.reading(lambda r: store.load(r.wants)),
            ask.Due: self.reading(lambda r: store.due(r.partition, r.group, r.until, r.limit, r.after)),
            ask.Read: self.reading(lambda r: store.rows(r.keys)),
            ask.Stands: self.reading(lambda r: store.summaries(r.instance_ids)),
            ask.Begin: self.writing(lambda r: self.outcomes.append(store.commit(r.commits))),
            ask.Finish: lambda r: self.outcomes.pop(),
            ask.Deliver: self.writing(lambda r: store.deliver(r.facts)),
            ask.Claim: self.writing(lambda r: store.lease(r.leases)),
            ask.Halt: lambda r: [],
        }

    def reading(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda request: call(request) if self.reads else refuse()

    def writing(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda request: call(request) if self.writes else refuse()

    def go_on(self, waits: int, news: Sequence[ask.News] = ()) -> None:
        """Until it has waited so often, or has ended."""
        while waits and not self.over:
            answer: Any = None
            error: StoreError | None = None
            if isinstance(self.pending, ask.Wait):
                waits -= 1
                self.now += timedelta(seconds=self.pending.seconds)
                answer, news = list(news), ()
            else:
                try:
                    call = self.answers.get(type(self.pending))
                    answer = call(self.pending) if call else None
                except StoreError as failed:
                    error = failed
            try:
                self.pending = self.requests.throw(error) if error else self.requests.send(answer)
            except StopIteration:
                self.over = True

    @property
    def kept(self) -> int:
        """How much is in memory, to be done when the store is well."""
        loop = self.loop
        return len(loop.work.orphans) + len(loop.outbox.rows) + sum(map(len, loop.turns.arrived.values()))


def refuse() -> Any:
    raise StoreError("not now")


def drive(store: Store, requests: Generator[ask.Request, Any, Any]) -> None:
    """Answer these from the store; what is asked of others is answered with None."""
    answers: dict[type, Callable[[Any], Any]] = {
        ask.Claim: lambda request: store.lease(request.leases),
        ask.Deliver: lambda request: store.deliver(request.facts),
        ask.Load: lambda request: store.load(request.wants),
        ask.Read: lambda request: store.rows(request.keys),
    }
    answer: Any = None
    while True:
        try:
            request = requests.send(answer)
        except StopIteration:
            return
        call = answers.get(type(request))
        answer = call(request) if call else None
