"""A worker of a simulation: the real loop, with everything outside of it, from news to activities, made of chance."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ..engine.instance import Env, Invocation
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import Event
from ..model.limits import Limits
from ..ports import Outcome, Row
from ..replay.guard import Watch
from ..replay.live_code import Code
from ..runtime import requests as ask
from ..runtime.loop import Loop
from ..triggers.drafting import no_function
from .programs import CODES, attempt_activity
from .simulated_judge import Wrong

if TYPE_CHECKING:
    from .simulated_world import World


class Worker:
    """A process: the real loop, its news, its running activities, its clock. A crash leaves nothing but the name."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"worker {number}"
        self.holder = ""
        self.offset = 0.0
        self.epoch = 0
        self.paused = False
        self.owned: set[int] = set()
        self.codeless = False
        self.requests: Any = None
        self.pending: Any = None
        self.inbox: list[ask.News] = []
        self.running: dict[str, bool] = {}
        self.sleeping = 0
        self.naps = 0
        self.missed: list[Callable[[], None]] = []
        self.watch = Watch()
        self.finish: Callable[[], list[Outcome]] = list
        self.answer: Callable[[Any], Any] = lambda request: self._answers[type(request)](request)
        self._answers: dict[type, Callable[[Any], Any]] = {
            ask.Load: lambda r: world.front.load(r.wants),
            ask.Begin: self._begin,
            ask.Finish: lambda r: self.finish(),
            ask.Deliver: lambda r: world.front.deliver(r.facts),
            ask.Claim: lambda r: world.front.lease(r.leases),
            ask.Read: lambda r: world.front.rows(r.keys),
            ask.Stands: lambda r: world.front.summaries(r.instance_ids),
            ask.Due: lambda r: world.front.due(r.partition, r.group, r.until, r.limit, r.after),
            ask.Run: lambda r: self._start(r.invocations),
            ask.Cancel: self._cancel,
            ask.Halt: lambda r: [key for key, begun in [*self.running.items()] if not begun and not self._forget(key)],
            ask.Notify: lambda r: world.notify(r.instance_ids),
            ask.Changed: lambda r: None,  # clients look by themselves
            ask.Ended: lambda r: None,
            ask.Created: lambda r: None,
            ask.Publish: lambda r: world.broker.publish(r.messages),
            ask.Announce: lambda r: None,
            ask.Clear: lambda r: 0,
            ask.Settle: lambda r: world.broker.settle(self, r),
            ask.Declare: lambda r: world.broker.declare(r.queues),
            ask.Receive: lambda r: world.broker.receive(self, r),
            ask.Sources: lambda r: world.sources.serve(self, r),
            ask.Taken: lambda r: world.sources.taken(self, r),
            ask.Emit: lambda r: world.sources.emit(r),
        }

    @property
    def up(self) -> bool:
        return self.requests is not None and not self.paused

    def is_concerned(self, row: Row) -> bool:
        """Whether it has this row, or looks after it."""
        return row.holder == self.holder or row.partition in self.owned

    def clock(self) -> datetime:
        return self.world.time(self.offset)

    # ---- life

    def boot(self) -> None:
        world = self.world
        self.epoch += 1
        self.holder = f"{self.name}.{self.epoch}"
        self.codeless = world.chance("code missing", lambda row: True)
        if self.codeless:
            world.later(world.random.uniform(0.1, 3.0), self.learn)
        self.inbox, self.running, self.missed, self.sleeping = [], {}, [], 0
        env = Env(self.holder, world.plan.hold, world.mint, world.plan.partitions, Limits(), self.watch)
        find = no_function if world.triggers is None else world.triggers.find
        self.requests = Loop(env, self, self.clock, world.plan.settings, world.plan.serving, find).run()
        world.note(self.name, f"boots as {self.holder}")
        self.pending = next(self.requests)
        self._schedule()

    def crash(self) -> None:
        """Everything in memory is gone; an activity that goes on reports to nobody."""
        self.world.note(self.name, "crashes")
        self.requests = None
        self.epoch += 1
        self.world.broker.gone(self)
        self.world.sources.gone(self)

    def reboot(self) -> None:
        if self.requests is None:
            self.boot()
            self.world.assign()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            missed, self.missed = self.missed, []
            for call in missed:
                self.world.soon(call)
            self.world.broker.mend(self)
            self.world.reassign()

    def learn(self) -> None:
        """The code that was missing is there."""
        if self.codeless:
            self.codeless = False
            self.tell(ask.CodeChanged())

    # ---- the loop's requests

    def tell(self, news: ask.News) -> None:
        if self.requests is None:
            return
        self.inbox.append(news)
        if self.sleeping:
            self.sleeping = 0
            self._schedule()

    def _schedule(self) -> None:
        epoch = self.epoch
        self.world.soon(lambda: self._act(epoch))

    def _act(self, epoch: int) -> None:
        if epoch != self.epoch:
            return
        if self.paused:
            self.missed.append(lambda: self._act(epoch))
            return
        request = self.pending
        if type(request) is ask.Wait and not self.inbox and request.seconds > 0:
            self.naps += 1
            self.sleeping = nap = self.naps
            self.world.later(request.seconds, lambda: self._wake(epoch, nap))
            return
        self._answer(request)

    def _wake(self, epoch: int, nap: int) -> None:
        if epoch == self.epoch and self.sleeping == nap:
            self.sleeping = 0
            if self.paused:
                self.missed.append(lambda: self._act(epoch))
                return
            self._answer(self.pending)

    def _answer(self, request: Any) -> None:
        world = self.world
        error: StoreError | None = None
        answer: Any = None
        kind = type(request)
        if kind is ask.Wait:
            answer, self.inbox = self.inbox, []
        else:
            try:
                answer = self.answer(request)
            except StoreError as failed:
                error = failed
            if self.requests is None:  # it has died of that
                return
        world.note(self.holder, kind.__name__)
        if world.tell_reader is not None:
            world.tell_reader(f"{'':24} {_short(request)}")
            world.tell_reader(f"{'':24} -> {_short(error if error is not None else answer)}")
        try:
            self.pending = self.requests.send(answer) if error is None else self.requests.throw(error)
        except StopIteration:
            self._drained()
            return
        except Wrong:
            raise
        except Exception as broken:
            raise Wrong(f"the loop of {self.name} raised {broken!r}") from broken
        self._schedule()

    def _drained(self) -> None:
        world = self.world
        world.note(self.name, "has drained")
        self.requests = None
        self.epoch += 1
        world.broker.gone(self)
        world.sources.gone(self)
        world.soon(world.assign)
        world.later(world.random.uniform(0.0, 2.0), self.reboot)

    # ---- activities

    def _start(self, invocations: Sequence[Invocation]) -> None:
        world, random = self.world, self.world.random
        for invocation in invocations:
            key = invocation.row_key
            if key in self.running:
                continue  # it runs here already, under an older lease
            world.runs[key] += 1
            chance = random.random()
            self.running[key] = chance >= 0.1  # whether it has a thread at once; if not, a drain hands it back
            lasts = random.random() * (0.02 if chance < 0.75 else 0.5 if chance < 0.92 else 8.0)
            epoch = self.epoch
            # Bound now, not at the call; mypy can't infer such a lambda.
            world.later(lasts, lambda i=invocation, e=epoch: self._finish(i, e))  # type: ignore[misc]

    def _finish(self, invocation: Invocation, epoch: int) -> None:
        if epoch != self.epoch or self._forget(invocation.row_key):
            return
        outcome = attempt_activity(invocation.input, invocation.attempt)
        event = Event(
            h.TASK_COMPLETED if outcome.failure is None else h.TASK_FAILED,
            self.clock(),
            invocation.task_id,
            attempt=invocation.attempt,
            result=outcome.result,
            failure=outcome.failure,
        )
        done = ask.Done(invocation, event)
        world = self.world
        if world.chance("done late", lambda row: row.key == invocation.row_key):
            world.later(world.random.uniform(0.0, 5.0), lambda: self._report(done, epoch))
        else:
            self._report(done, epoch)
        if world.chance("done twice", lambda row: row.key == invocation.row_key):
            world.later(world.random.uniform(0.0, 5.0), lambda: self._report(done, epoch))

    def _report(self, done: ask.Done, epoch: int) -> None:
        if epoch == self.epoch:
            self.tell(done)

    def _forget(self, key: str) -> bool:
        """True when it was not running here."""
        return self.running.pop(key, None) is None

    def _begin(self, request: ask.Begin) -> None:
        self.finish = self.world.front.begin(request.commits)

    def _cancel(self, request: ask.Cancel) -> None:
        for key in request.row_keys:
            self.running.pop(key, None)

    # ---- the codebase

    def orchestrator(self, name: str, version: str, first_turn: bool) -> Code | None:
        return None if self.codeless else CODES.get(name)

    def serves_activity(self, name: str) -> bool:
        return not self.codeless

    def known(self, kind: str) -> list[str]:
        return []


def _short(value: object) -> str:
    text = _RAW.sub("…", repr(value))
    return text if len(text) <= 600 else text[:599] + "…"


_RAW: Final = re.compile(r"<msgspec.Raw object at \w+>")
