"""A client of a simulation: whoever starts an orchestration, raises its events, and is never sure it worked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from ..engine.codeless import terminate_request
from ..engine.step import create, created
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import Event, Raw, encode_event
from ..model.names import partition_of
from ..ports import Delivered, Fact, Outcome, Want
from .programs import Script

if TYPE_CHECKING:
    from .simulated_world import World


class Client:
    """Starts one instance, raises its events in order, perhaps terminates it, and repeats itself now and then.

    The same verbs as `durable.app.client`, and the same answer to an unclear outcome: look, and try again.
    """

    def __init__(self, world: World, number: int, script: Script, terminate: bool) -> None:
        self.world = world
        self.instance_id = f"i{number}"
        self.script = script
        random = world.random
        acts: list[Callable[[], bool]] = [self._start]
        if random.random() < 0.2:
            acts.append(self._start)
        for count, event in enumerate(script.events):
            deliver = lambda name=event.name, data=event.data, n=count: self._raise(name, data, n)  # noqa: E731
            acts.append(deliver)
            if random.random() < 0.15:
                acts.append(deliver)
        if terminate:
            acts.insert(random.randint(1, len(acts)), self._terminate)
        self.acts = acts
        self.busy = True
        self.terminated = False
        self._fact = f"terminate/{self.instance_id}"

    def act(self) -> None:
        random = self.world.random
        try:
            done = self.acts[0]()
        except StoreError:
            done = False
        if done:
            self.acts.pop(0)
        self.busy = bool(self.acts)
        if self.busy:
            chance = random.random()
            self.world.later(random.random() * (0.01 if chance < 0.5 else 0.3 if chance < 0.9 else 3.0), self.act)

    def _now(self) -> datetime:
        return self.world.time()

    def _start(self) -> bool:
        world = self.world
        started = Event(
            h.EXECUTION_STARTED,
            self._now(),
            name=self.script.kind,
            input=Raw(msgspec.json.encode(self.script.program)),
            execution_id=world.mint(),
            seed=world.mint(),
        )
        commit = create(self.instance_id, started, world.plan.partitions, world.mint())
        outcome = world.store.commit([commit])[0]
        if outcome is Outcome.UNKNOWN:
            return world.store.load([Want(self.instance_id)])[0] is not None
        world.note(self.instance_id, f"start: {outcome.value}")
        if outcome is Outcome.COMMITTED and world.random.random() < 0.5:
            world.hand_over(created(commit))
        else:
            world.notify([self.instance_id])
        return True

    def _raise(self, name: str, data: str, number: int) -> bool:
        event = Event(h.EVENT_RAISED, self._now(), name=name, input=Raw(msgspec.json.encode(data)))
        return self._deliver(f"event/{self.instance_id}-{number}", event)

    def _terminate(self) -> bool:
        self.terminated = True
        return self._deliver(self._fact, terminate_request(Raw(b'"stop"'), self._now(), recursive=True))

    def _deliver(self, fact_id: str, event: Event) -> bool:
        world = self.world
        partition = partition_of(self.instance_id, world.plan.partitions)
        fact = Fact(self.instance_id, partition, fact_id, encode_event(event), event.timestamp.timestamp())
        answer = world.store.deliver([fact])[0]
        world.note(self.instance_id, f"{fact_id}: {answer.value}")
        world.notify([self.instance_id])
        return answer is not Delivered.ABSENT
