"""The triggers of a simulated world: what there is of them, who publishes, and what must have come of it in the end.

Laws.
1. Each event counts once; and in the order of its publisher, if all of its events came the straight way.
2. What must have come of it follows from what was published and what has ended; chance decides how much that is.
3. An orchestration that waits for a CloudEvent waits for the next tick: somebody ticks until all have ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ..app.actions import trigger
from ..engine.instance import Arrival, Env, Instance
from ..engine.triggering import ASKED, begin, hub_of, step
from ..model import history as h
from ..model.errors import StoreError
from ..model.history import Event, Raw, decode_event, encode_event
from ..model.limits import Limits
from ..model.names import TRIGGERS, derived_id, partition_of
from ..ports import Fact, Record, Want
from ..replay.guard import Watch
from ..runtime.wire import ENDED
from ..triggers.actions import (
    Action,
    AnyAction,
    Attempts,
    CallActivity,
    CallFunction,
    Definition,
    Publish,
    RaiseEvent,
    StartOrchestration,
)
from ..triggers.asks import Add, AddSource, Ask, encode_ask
from ..triggers.changes import Source
from ..triggers.conditions import Always, AnyCondition, Condition, Join
from ..triggers.conditions import Counter as Count
from ..triggers.drafting import UserFunction
from ..triggers.event import digest_of, read_event
from ..triggers.hub import ATTEMPTS, Hub
from ..triggers.pattern import EventPattern
from .programs import EVENTS, Node
from .simulated_judge import Wrong
from .simulated_publisher import ORDER, SOURCE, Published, Publisher, Ticker
from .simulated_source import SOURCES, TAKES

if TYPE_CHECKING:
    from .simulated_world import World

_ALWAYS: Final = Always()
PARTS: Final = 7  # of a join
FOURTH: Final = 4  # the first that the counter counts
ENDS: Final = 2  # of orchestrations, of a join


def _persistent(id: str, on: str, action: AnyAction, condition: AnyCondition = _ALWAYS) -> Definition:
    patterns = [EventPattern(type) for type in on.split()]
    return trigger(id, on=patterns, condition=condition, action=action, transient=False)


def _publishes(type: str, delay: float = 0.0, to: str = "") -> Publish:
    return Publish(Raw(Published(type, type, type).body), delay, to)


_COUNTS: Final = CallFunction("counts")
_TWICE: Final = Attempts(2, 0.3, 2.0)

# There from the beginning: orchestrations tell of their ends only where somebody listens.
_HEAR: Final = (
    _persistent("ended", ENDED, _COUNTS),
    _persistent("ended twice", ENDED, _publishes("pair"), Join(ENDS)),
)
# Asked for before anybody publishes.
_TAKE: Final = (
    _persistent("each", "part", _COUNTS),
    _persistent("slow", "part", CallFunction("fails at first")),
    _persistent("broken", "bad", CallFunction("fails")),
    _persistent("join", "part", _publishes("joined"), Join(PARTS)),
    _persistent("from the fourth", "part", _COUNTS, Count(FOURTH)),
    _persistent("away", "part", _publishes("away", to=TAKES)),
    _persistent("later", "joined", _publishes("late", 0.7)),
    _persistent("joined", "joined late", _COUNTS),
    _persistent("call", "call", CallActivity("work", retry=_TWICE)),
    _persistent("called", "durable.activity-*", CallFunction("keeps")),
    _persistent("start", ORDER, StartOrchestration("generator", once=True)),
    trigger("once", on=EventPattern(ORDER), condition=_ALWAYS, action=_COUNTS, transient=True),
    *(_persistent(f"raise {name}", f"raise.{name}", RaiseEvent(name)) for name in EVENTS),
)


class Triggers:
    """Of one world. `published`: the events that are there for certain, by type and id, each publisher's in order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.published: dict[str, dict[str, Published]] = {}
        self.ready = False  # they are there, and what is published counts
        self._tried: Counter[str] = Counter()
        self._functions = {"counts": _counts, "keeps": _keeps, "fails": _fails, "fails at first": self._fails_at_first}
        self.publishers = [Publisher(self, f"p{number}") for number in range(world.random.choice((1, 2, 3)))]
        self._ticker = Ticker(self)

    @property
    def busy(self) -> bool:
        """Whether somebody has still to publish something."""
        return self._ticker.busy or any(publisher.busy for publisher in self.publishers)

    def set_up(self) -> None:
        """Whoever has to do with triggers finds some, and knows what they want to hear."""
        world, now = self.world, self.world.time()
        world.store.apply(begin(now, world.mint, world.plan.partitions))
        record = self._record()
        env = Env("", 0.0, world.mint, world.plan.partitions, Limits(), Watch())
        asked = Arrival(Event(ASKED, now, input=_asks("hear", _HEAR, {})))
        turn = step(Instance.of_record(record), [asked], self.find, now, env)
        assert turn.commit is not None
        world.store.apply(turn.commit)

    def act(self) -> None:
        """Ask for the rest of them, then publish."""
        world = self.world
        try:
            self._deliver("ask/take", Event(ASKED, world.time(), input=_asks("take", _TAKE, SOURCES)))
        except StoreError:
            world.later(world.random.random(), self.act)
            return
        self.ready = True
        for act in (*[publisher.act for publisher in self.publishers], self._ticker.act):
            world.later(world.random.random() * 0.5, act)

    def find(self, wanted: Condition | Action) -> UserFunction:
        """As a registry does."""
        assert isinstance(wanted, CallFunction)
        return self._functions[wanted.name]

    def _fails_at_first(self, context: Any, event: Any) -> None:
        """A firing that fails changes nothing: this one is tried a second time, and then does as `counts`."""
        self._tried[event.get_id()] += 1
        if self._tried[event.get_id()] == 1:
            context["n"] = -1
            raise ValueError("not yet")
        _counts(context, event)

    # ---- what clients do

    def publish(self, event: Published, away: float = 0.0) -> None:
        """As a client does, or, by the chance `away`, at an event source. Raises StoreError."""
        world = self.world
        if world.random.random() < away:
            world.sources.bring(event.body)
        else:
            self._publish_here(event)
        self.published.setdefault(event.type, {}).setdefault(event.id, event)

    def is_waiting(self, event: Published) -> bool:
        """Whether it has come and was not taken."""
        return any(bytes(decode_event(row.body).input) == event.body for row in self._record().inbox)

    def _publish_here(self, event: Published) -> None:
        now = self.world.time()
        name = f"cloudevent/{digest_of(read_event(event.body)).hex()}"
        fire_at = now + timedelta(seconds=event.delay) if event.delay else None
        self._deliver(name, Event(h.EVENT_RAISED, now, input=Raw(event.body), fire_at=fire_at))

    def _deliver(self, fact_id: str, event: Event) -> None:
        self.world.front.deliver([self._fact(fact_id, event)])
        self.world.notify([TRIGGERS])

    def _fact(self, fact_id: str, event: Event) -> Fact:
        partition = partition_of(TRIGGERS, self.world.plan.partitions)
        return Fact(TRIGGERS, partition, fact_id, encode_event(event), event.timestamp.timestamp())

    def _record(self) -> Record:
        record = self.world.store.inner.load([Want(TRIGGERS)])[0]
        assert record is not None
        return record

    # ---- what must have come of it

    def check(self) -> None:
        """Raises Wrong."""
        hub = hub_of(Instance.of_record(self._record()))
        views = {view.id: view for view in map(hub.view, hub.ids) if view is not None}
        self._check_counts(hub, {view.id: view.firings for view in views.values()})
        self._check_contexts({view.id: view.context for view in views.values()})
        away = [f"away-{number}" if number > 1 else "away" for number in range(1, len([*self._of("part")]) + 1)]
        if sorted(self.world.sources.sent) != sorted(away):
            raise Wrong(f"sent away was {sorted(self.world.sources.sent)}, not {away}")
        dead = Counter((read_event(bytes(letter.event)).id, letter.attempts) for letter in hub.dead.values())
        if dead != Counter((event.id, ATTEMPTS) for event in self._of("bad")):
            raise Wrong(f"the dead letters are {dead}")

    def _check_counts(self, hub: Hub, firings: dict[str, int]) -> None:
        count = Counter({kind: len(events) for kind, events in self.published.items()})
        ends = self.world.store.judge.ends.total()
        parts, joins, pairs = count["part"], count["part"] // PARTS, ends // ENDS
        wanted = {
            "ended": ends,
            "ended twice": pairs,
            "each": parts,
            "slow": parts,
            "away": parts,
            "broken": 0,
            "join": joins,
        }
        wanted |= {"from the fourth": max(0, parts - FOURTH + 1), "later": joins, "joined": 2 * joins}
        wanted |= {"call": count["call"], "called": count["call"], "start": count[ORDER]}
        wanted |= {f"raise {name}": count[f"raise.{name}"] for name in EVENTS}
        wanted |= {} if count[ORDER] else {"once": 0}
        _same("the triggers have fired", firings, wanted)
        taken = count.total() + ends + pairs + 2 * joins + count["call"]
        if (hub.counts.taken, hub.waiting) != (taken, {}):
            raise Wrong(f"{hub.counts.taken} events have counted, not {taken}; still to come is {hub.waiting}")

    def _check_contexts(self, contexts: dict[str, dict[str, Any]]) -> None:
        for publisher in self.publishers:
            ids = [event.id for event in self._of("part") if event.subject == publisher.name]
            each, slow = (contexts[name].get(publisher.name, []) for name in ("each", "slow"))
            if (each if publisher.in_order else sorted(each), sorted(slow)) != (ids, sorted(ids)):
                raise Wrong(f"of {publisher.name} the triggers have taken {each} and {slow}, published was {ids}")
        told = {subject: len(ids) for subject, ids in contexts["ended"].items()}
        _same("orchestrations have told of their ends", told, dict(self.world.store.judge.ends))
        called = sorted(contexts["called"].get("data", []))
        given = sorted(
            "failed" if event.data[1] >= _TWICE.max_attempts else f"a:{event.id}" for event in self._of("call")
        )
        if called != given:
            raise Wrong(f"the activities that were called have given {called}, not {given}")

    def started(self) -> dict[str, Node]:
        """The programs of orchestrations that were to be started, by their ids."""
        return {derived_id("start", f"{SOURCE}\0{event.id}"): event.data for event in self._of(ORDER)}

    def _of(self, type: str) -> Iterable[Published]:
        return self.published.get(type, {}).values()


def _asks(token: str, definitions: Iterable[Definition], sources: Mapping[str, Source]) -> Raw:
    added = (AddSource(name, source) for name, source in sources.items())
    return encode_ask(Ask(token, (*added, *map(Add, definitions))))


def _same(what: str, found: dict[str, int], wanted: dict[str, int]) -> None:
    other = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    if other:
        raise Wrong(f"{what}: " + ", ".join(f"{key} {found.get(key)}, not {wanted.get(key)}" for key in other))


# ---- functions of actions


def _counts(context: Any, event: Any) -> None:
    """The ids of each subject, in the order they came."""
    context[event.get_subject()] = [*context.get(event.get_subject(), []), event.get_id()]


def _keeps(context: Any, event: Any) -> None:
    data = event.get_data()
    context["data"] = [*context.get("data", []), data if isinstance(data, str) else "failed"]


def _fails(context: Any, event: Any) -> None:
    context["n"] = -1
    raise ValueError("never")
