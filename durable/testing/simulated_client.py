"""A client of a simulation: whoever starts an orchestration, raises its events, and is never sure it worked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from ..engine.codeless import terminate_request
from ..engine.step import create, in_place_of
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import Event, Raw, encode_event
from ..model.names import partition_of
from ..model.status import RuntimeStatus
from ..ports import Commit, Delivered, ExecutionKey, Fact, Outcome, Record, Row, Want
from ..runtime.rewinding import Part, answer_requests, drive, end_rows, requests_of, rewind_instance
from .allowed_results import CANCEL
from .random_programs import Script
from .simulated_publisher import Published

INTERVENTIONS: Final = ("rewound", "restarted", "purged")
MOST_REWINDS: Final = 2  # the activities that are to fail always do so nine times
LATE_SECONDS: Final = 0.6  # after which no start of which nobody knows can still happen

if TYPE_CHECKING:
    from .simulated_world import World


class Client:
    """Starts one instance, raises its events in order, perhaps steers it, and repeats itself now and then.

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
        self.suspends = 0
        self.cancels = 0
        if random.random() < 0.25:
            for _ in range(random.choice((1, 1, 2))):
                place = random.randint(1, len(acts))
                acts.insert(place, self._suspend)
                acts.insert(random.randint(place + 1, len(acts)), self._resume)
            acts.append(self._resume)  # the last word, whatever the order of the others
        if random.random() < 0.2:
            for _ in range(random.choice((1, 1, 2))):
                acts.insert(random.randint(1, len(acts)), self._cancel)
        self.delay = random.uniform(0.1, 4.0) if random.random() < 0.15 else None
        if random.random() < 0.5:
            acts += [self._rewind] * random.choice((1, 2))
        if not script.events and random.random() < 0.1:
            acts.append(self._restart)
        if random.random() < 0.15:
            acts.append(self._purge)
        self.acts = acts
        names = [event.name.casefold() for event in script.events]
        # By triggers they come in any order, and are kept for another life when this one has ended.
        any_order = len({*names}) == len(names) and self._rewind not in acts
        self._publishes = world.triggers is not None and any_order
        self.raises_in_order = not self._publishes and self._rewind not in acts
        self._started_at = 0.0
        self._asks_worker = self.delay is None and random.random() < 0.5
        self._creating: Commit | None = None
        self._refused: list[Callable[[], bool]] = []
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

    def _is_mine(self, row: Row) -> bool:
        return row.instance_id.split(":")[0] == self.instance_id

    def _now(self) -> datetime:
        return self.world.time()

    def _start(self) -> bool:
        world = self.world
        self._started_at = world.now
        commit = self._creating = self._creating or self._creation()
        if self._asks_worker:
            self._asks_worker = False
            world.create(commit)
            return False  # nobody answers in time, so the same one is committed from here
        outcome = world.front.commit([commit])[0]
        if outcome is Outcome.UNKNOWN:
            return world.front.load([Want(self.instance_id)])[0] is not None
        self._creating = None
        world.note(self.instance_id, f"start: {outcome.value}")
        if outcome is Outcome.COMMITTED and world.random.random() < 0.5:
            world.hand_over(commit)
        else:
            world.notify([self.instance_id])
        return True

    def _creation(self) -> Commit:
        world = self.world
        started = Event(
            h.EXECUTION_STARTED,
            self._now(),
            name=self.script.kind,
            input=Raw(msgspec.json.encode(self.script.program)),
            execution_id=world.mint(),
            seed=world.mint(),
            fire_at=None if self.delay is None else self._now() + timedelta(seconds=self.delay),
        )
        return create(self.instance_id, started, world.plan.partitions, world.mint())

    def _rewind(self) -> bool:
        """As `durable.app.renewing` does it; an error in the middle leaves the rest to the workers."""
        world = self.world
        record = self._finished()
        if record is None:
            return False
        rewound = sum(row.count(b'"ExecutionRewound"') for row in record.history or ())
        if record.summary.status is not RuntimeStatus.FAILED or rewound >= MOST_REWINDS:
            return True
        world.count("rewound", self._is_mine)
        store = world.front
        part = Part(self._now, world.mint, world.plan.partitions)
        commit = drive(rewind_instance(record, Raw(b"null"), part), store)
        if commit is None:
            return False
        touched = [self.instance_id]
        if world.random.random() < 0.5:
            answered = drive(answer_requests(requests_of(commit), part), store)
            drive(end_rows(answered.answered), store)
            touched += answered.touched
        if world.random.random() < 0.5:  # else it is gone before it can say so, and its rows lie there
            world.notify(touched)
        return True

    def _restart(self) -> bool:
        record = self._finished()
        if record is None:
            return False
        outcome = self.world.front.commit([in_place_of(record, self._creation())])[0]
        self.world.count("restarted", self._is_mine)
        self.world.notify([self.instance_id])
        return outcome is Outcome.COMMITTED

    def _purge(self) -> bool:
        """Children first; what has not ended is left."""
        store = self.world.store
        if self.world.front.load([Want(self.instance_id)])[0] is None:
            return True  # it was done before, though the answer was an error
        record = self._finished()
        if record is None:
            return False
        below = [i for i in sorted(store.inner._instances) if i.startswith(f"{self.instance_id}:")]
        ended = [s for s in store.inner.summaries(below) if s is not None and s.status.finished]
        family = [*reversed(ended), record.summary]
        self.world.count("purged", self._is_mine)
        for summary in family:
            self.world.front.purge([ExecutionKey(summary.instance_id, summary.execution_id)])
        return True

    def _finished(self) -> Record | None:
        """The instance, once it has ended and no start of it can still be under way."""
        record = self.world.front.load([Want(self.instance_id)])[0]
        late = self.world.now < self._started_at + LATE_SECONDS
        return None if late or record is None or not record.summary.status.finished else record

    def _raise(self, name: str, data: str, number: int) -> bool:
        triggers = self.world.triggers
        if self._publishes and triggers is not None:
            if triggers.ready:
                kind = f"raise.{name.casefold()}"
                triggers.publish(Published(f"{self.instance_id}-{number}", kind, self.instance_id, data))
            return triggers.ready
        event = Event(h.EVENT_RAISED, self._now(), name=name, input=Raw(msgspec.json.encode(data)))
        answer = self._deliver(f"event/{self.instance_id}-{number}", event)
        if answer is Delivered.FINISHED and self._rewind in self.acts:
            # Rewound, it may wait for what it has refused, in order.
            place = self.acts.index(self._rewind) + 1
            while self.acts[place : place + 1] and self.acts[place] in self._refused:
                place += 1
            self._refused.append(again := lambda: self._raise(name, data, number))
            self.acts.insert(place, again)
        return answer is not Delivered.ABSENT

    def _terminate(self) -> bool:
        self.terminated = True
        request = terminate_request(Raw(b'"stop"'), self._now(), recursive=True)
        return self._deliver(self._fact, request) is not Delivered.ABSENT

    def _suspend(self) -> bool:
        self.suspends += self._steer("suspend", h.EXECUTION_SUSPENDED, self.suspends)
        return True

    def _resume(self) -> bool:
        return self._steer("resume", h.EXECUTION_RESUMED, len(self.acts))

    def _cancel(self) -> bool:
        self.cancels += 1
        return self._steer("cancel", h.EXECUTION_CANCELED, len(self.acts))

    def _steer(self, verb: str, kind: str, number: int) -> bool:
        event = Event(kind, self._now(), input=Raw(msgspec.json.encode(CANCEL)))
        return self._deliver(f"{verb}/{self.instance_id}-{number}", event) is not Delivered.ABSENT

    def _deliver(self, fact_id: str, event: Event) -> Delivered:
        world = self.world
        partition = partition_of(self.instance_id, world.plan.partitions)
        fact = Fact(self.instance_id, partition, fact_id, encode_event(event), event.timestamp.timestamp())
        answer = world.front.deliver([fact])[0]
        world.note(self.instance_id, f"{fact_id}: {answer.value}")
        world.notify([self.instance_id])
        return answer
