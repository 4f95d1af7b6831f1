"""The laws of the hub (durable/triggers/hub.py), as a machine without a store: what it counts, keeps and tries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import EventPattern, RetryPolicy, actions, conditions
from durable.app.actions import as_action, trigger
from durable.app.calling import CALLING
from durable.app.conditions import as_condition
from durable.engine.instance import Arrival, Env, Instance
from durable.engine.triggering import begin, hub_of, step
from durable.model.history import Event, Raw
from durable.model.limits import Limits
from durable.ports import Commit, Record
from durable.replay.guard import Watch
from durable.triggers.actions import (
    AddTrigger,
    CallActivity,
    CallFunction,
    ChangeTrigger,
    Definition,
    DeleteTrigger,
    Interception,
    Publish,
    RaiseEvent,
    StartOrchestration,
    TerminateWorkspace,
)
from durable.triggers.changes import decode_change, encode_change
from durable.triggers.conditions import JoinSubjects
from durable.triggers.context import Draft
from durable.triggers.drafting import no_function
from durable.triggers.event import Occurrence, read_event
from durable.triggers.hub import CHAINED, Hub, Outgoing
from durable.triggers.state import KEPT, REMEMBERED

many = settings(max_examples=150)
some = settings(max_examples=40)

NOW: Final = datetime(2030, 1, 1, tzinfo=timezone.utc)
ALL: Final = (EventPattern(),)


def event(id: str, type: str = "t", subject: str = "", source: str = "/s", **more: Any) -> bytes:
    attributes = {"specversion": "1.0", "id": id, "source": source, "type": type, **more}
    return json.dumps(attributes | ({"subject": subject} if subject else {})).encode()


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class World:
    """A hub, its clock, and users' functions; `broken` are those that raise today."""

    def __init__(self, hub: Hub | None = None, now: float = 0.0) -> None:
        self.hub = Hub() if hub is None else hub
        self.now = now
        self.functions: dict[str, Callable[[Draft, Any], Any]] = {}
        self.broken: set[str] = set()
        self.called: list[str] = []

    def find(self, wanted: Any) -> Callable[[Draft, Any], Any]:
        function = self.functions[wanted.name]

        def call(context: Draft, given: Any) -> Any:
            self.called.append(wanted.name)
            answer = function(context, given)
            if wanted.name in self.broken:
                raise RuntimeError(f"{wanted.name} is broken")
            return answer

        return call

    def add(self, trigger_id: str, on: Any = ALL, condition: Any = conditions.always, action: Any = actions.pass_,
            context: dict[str, Any] | None = None, transient: bool = False) -> None:  # fmt: skip
        self.hub.add(trigger(trigger_id, on=on, condition=condition, action=action, transient=transient), context or {})

    def publish(self, *bodies: bytes, due: float | None = None) -> None:
        for body in bodies:
            self.hub.publish(body, at(self.now), self.find, None if due is None else at(due).timestamp())

    def due(self) -> list[int]:
        now = at(self.now).timestamp()
        return sorted((n for n, w in self.hub.waiting.items() if w.due_at <= now), key=self._order)

    def _order(self, number: int) -> tuple[float, int]:
        return self.hub.waiting[number].due_at, number

    def wait(self, seconds: float) -> None:
        """Time goes by; each timer fires at its own time."""
        end = self.now + seconds
        while True:
            coming = [w.due_at - NOW.timestamp() for w in self.hub.waiting.values()]
            if not coming or min(coming) > end:
                break
            self.now = max(self.now, min(coming))
            for number in self.due():
                self.hub.wake(number, at(self.now), self.find)
        self.now = end

    def fired(self, trigger_id: str) -> int:
        view = self.hub.view(trigger_id)
        assert view is not None
        return view.firings


def picture(hub: Hub) -> Any:
    """All that can be seen of a hub."""
    seen = {
        "triggers": [hub.view(trigger_id) for trigger_id in hub.ids],
        "workspace": hub.workspace_context,
        "counts": hub.counts,
        "waiting": list(hub.waiting.items()),
        "dead": list(hub.dead.items()),
        "unmatched": list(hub.unmatched),
        "keeps": hub.keeps_unmatched,
        "sources": hub.sources,
    }
    return msgspec.json.decode(msgspec.json.encode(seen))


def left(outgoing: Iterable[Outgoing]) -> list[Any]:
    return [(o.number, o.action, o.trigger_id, bytes(o.event)) for o in outgoing]


# ---- random lives: what may happen to a hub, in order

TYPES: Final = ("a", "ab", "b")
SUBJECTS: Final = ("", "x", "y")
IDS: Final = ("t1", "t2", "t3", "t4")
FUNCTIONS: Final = ("notes", "asks", "halves")

patterns = st.builds(
    EventPattern,
    type=st.sampled_from(["*", "a", "a*", "b"]),
    subject=st.sampled_from(["*", "", "x", "x*"]),
    source=st.sampled_from(["*", "/s", "/other"]),
)
plain_conditions = st.one_of(
    st.just(conditions.always),
    st.integers(1, 3).map(conditions.join),
    st.integers(1, 3).map(conditions.counter),
    st.lists(st.sampled_from(["x", "y"]), min_size=1).map(conditions.join_subjects),
    st.integers(0, 20).map(at).map(conditions.not_before),
    st.integers(0, 20).map(at).map(conditions.not_after),
    st.sampled_from(["subject == 'x'", "type != 'b' && context.seen"]).map(conditions.expression),
    st.sampled_from(["halves"]),
)
some_conditions = st.one_of(
    plain_conditions,
    st.lists(plain_conditions.map(as_condition), max_size=3).map(lambda several: conditions.any(*several)),
)


def made(id: str, type: str, subject: str, delay: float) -> Any:
    return Publish(Raw(event(id, type, subject)), delay)


plain_actions = st.one_of(
    st.just(actions.pass_),
    st.sampled_from(["notes", "asks"]),
    st.builds(
        made,
        st.sampled_from(["p1", "p2"]),
        st.sampled_from(TYPES),
        st.sampled_from(SUBJECTS),
        st.sampled_from([0.0, 0.0, 3.0]),
    ),
    st.sampled_from([StartOrchestration("o"), RaiseEvent("e"), CallActivity("act")]),
    st.sampled_from(IDS).map(DeleteTrigger),
    st.builds(ChangeTrigger, st.sampled_from(IDS), st.sampled_from([None, True, False]), st.just({"changed": 1})),
)
unpublishing = plain_actions.filter(lambda action: not isinstance(action, Publish))
few_terminations = st.integers(0, 9).map(lambda n: actions.terminate_workspace if n == 0 else actions.pass_)
definitions: st.SearchStrategy[Definition] = st.builds(
    lambda id, on, condition, action, transient: trigger(
        # Who publishes fires once: a naive hub would follow a chain without an end.
        id,
        on=on,
        condition=condition,
        action=action,
        transient=transient or isinstance(action, Publish),
    ),
    st.sampled_from(IDS),
    st.lists(patterns, min_size=1, max_size=2),
    some_conditions,
    plain_actions | few_terminations | st.deferred(lambda: definitions.map(lambda t: AddTrigger(t, {"by": "action"}))),
    st.booleans(),
)
events = st.builds(
    lambda id, type, subject, source, expires: event(
        id, type, subject, source, **({} if expires is None else {"expirytime": at(expires).isoformat()})
    ),
    st.integers(0, 12).map(str),
    st.sampled_from(TYPES),
    st.sampled_from(SUBJECTS),
    st.sampled_from(["/s", "/s", "/other"]),
    st.sampled_from([None, None, None, 2, 10]),
)
happenings = st.one_of(
    st.tuples(st.just("event"), events),
    st.tuples(st.just("event"), events),
    st.tuples(st.just("event"), events),
    st.tuples(st.just("later"), events),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 3.0, 20.0])),
    st.tuples(st.just("add"), definitions),
    st.tuples(st.just("delete"), st.sampled_from(IDS)),
    st.tuples(st.just("able"), st.tuples(st.sampled_from(IDS), st.booleans())),
    st.tuples(st.just("intercept"), st.tuples(st.sampled_from(IDS), unpublishing, st.booleans())),
    st.tuples(st.just("breaks"), st.frozensets(st.sampled_from(FUNCTIONS), max_size=2)),
    st.tuples(st.just("replay"), st.none()),
    st.tuples(st.just("bury"), st.none()),
    st.tuples(st.just("keep"), st.booleans()),
    st.tuples(st.just("workspace"), st.dictionaries(st.sampled_from(["k"]), st.integers(0, 3))),
    st.tuples(st.just("ended"), st.booleans()),
)
lives = st.tuples(st.lists(definitions, max_size=4), st.lists(happenings, max_size=25))
Life = tuple[list[Definition], list[tuple[str, Any]]]


def notes(context: Draft, given: Any) -> None:
    context["seen"] = [*context.get("seen", []), given.get_id()][-3:]
    context.workspace["noted"] = context.workspace.get("noted", 0) + 1


def asks(context: Draft, given: Any) -> None:
    context["asked"] = context.get("asked", 0) + 1
    context.do(actions.delete_trigger("t2"))
    context.do(actions.start_orchestration("by-function"))
    context.do(actions.add_trigger("t3", on=EventPattern(type="b"), context={"n": context["asked"]}))
    context.do(Publish(Raw(event(f"asked-{context['asked'] % 3}", "b", "y"))))


def halves(context: Draft, given: Any) -> bool:
    context["halves"] = context.get("halves", 0) + 1
    return bool(context["halves"] % 2)


class Random(World):
    """Lives a random life."""

    def __init__(self, hub: Hub | None = None, now: float = 0.0, broken: Iterable[str] = ()) -> None:
        super().__init__(hub, now)
        self.functions = {"notes": notes, "asks": asks, "halves": halves}
        self.broken = set(broken)

    def happens(self, what: str, given: Any) -> None:
        hub = self.hub
        if what == "event":
            self.publish(given)
        elif what == "later":
            self.publish(given, due=self.now + 2)
        elif what == "wait":
            self.wait(given)
        elif what == "add":
            if given.id not in hub.ids:
                hub.add(given, {})
        elif what == "delete":
            hub.delete(given)
        elif what == "able":
            hub.change(given[0], enabled=given[1])
        elif what == "intercept":
            hub.intercept(given[0], Interception(as_action(given[1]), given[2]))
        elif what == "breaks":
            self.broken = set(given)
        elif what == "replay" and hub.dead:
            hub.replay(next(iter(hub.dead)))
        elif what == "bury" and hub.dead:
            hub.bury(next(iter(hub.dead)))
        elif what == "keep":
            hub.keep_unmatched(given)
        elif what == "workspace":
            hub.set_workspace_context(given)
        elif what == "ended":
            failure = None if given else {"type": "Boom"}
            for number in range(1, 200):  # of a number that is no call: nothing
                hub.activity_ended(number, Raw(b"7"), failure, at(self.now), self.find)


@many
@given(life=lives, cut=st.integers(0, 25), fresh=st.booleans())
def test_a_hub_made_from_its_changes_is_the_one_that_lived(life: Life, cut: int, fresh: bool) -> None:
    """After each step; and from there on, it answers as the other does."""
    defined, happened = life
    lived, mirror = Random(), Hub()
    for one in defined:
        lived.happens("add", one)
    mirror.apply(decode_change(encode_change(lived.hub.take_change())))
    follower: Random | None = None
    for n, (what, given_) in enumerate([("wait", 0.0), *happened]):
        if n == cut:
            start = mirror
            if fresh:
                start = Hub()
                start.apply(decode_change(encode_change(lived.hub.everything())))
            follower = Random(start, lived.now, lived.broken)
            mirror = Hub()
            mirror.apply(decode_change(encode_change(lived.hub.everything())))
        lived.happens(what, given_)
        mirror.apply(decode_change(encode_change(lived.hub.take_change())))
        assert picture(mirror) == picture(lived.hub)
        sent = left(lived.hub.take_outgoing())
        if follower is not None:
            follower.happens(what, given_)
            follower.hub.take_change()
            assert picture(follower.hub) == picture(lived.hub)
            assert left(follower.hub.take_outgoing()) == sent


@many
@given(life=lives, cuts=st.frozensets(st.integers(0, 25)))
def test_how_events_fall_into_steps_changes_nothing(life: Life, cuts: frozenset[int]) -> None:
    defined, happened = life
    whole, parted, mirror = Random(), Random(), Hub()
    sent: list[Any] = []
    for one in defined:
        whole.happens("add", one)
        parted.happens("add", one)
    for n, (what, given_) in enumerate(happened):
        whole.happens(what, given_)
        parted.happens(what, given_)
        if n in cuts:
            mirror.apply(decode_change(encode_change(parted.hub.take_change())))
            sent += left(parted.hub.take_outgoing())
    mirror.apply(decode_change(encode_change(parted.hub.take_change())))
    once = Hub()
    once.apply(decode_change(encode_change(whole.hub.take_change())))
    assert picture(once) == picture(mirror) == picture(whole.hub)
    assert sent + left(parted.hub.take_outgoing()) == left(whole.hub.take_outgoing())


@many
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ab")), max_size=30), st.randoms(use_true_random=False)
)
def test_the_order_of_events_of_different_subjects_changes_nothing(come: list[tuple[str, str]], chance: Any) -> None:
    def run(order: Sequence[int]) -> Any:
        world = World()
        world.functions["list"] = lambda context, given: context.setdefault("got", []).append(given.get_id())
        for subject in "xyz":
            on = EventPattern(subject=subject)
            world.add(f"{subject}-list", on, action="list")
            world.add(f"{subject}-join", on, conditions.join(3), action="list")
            world.add(f"{subject}-from", on, conditions.counter(3), action="list")
        for n in order:
            world.publish(event(str(n), come[n][1], come[n][0]))
        return picture(world.hub)

    order = list(range(len(come)))
    chance.shuffle(order)
    subjects = [come[n][0] for n in order]
    queues = {s: iter([n for n, (subject, _) in enumerate(come) if subject == s]) for s in "xyz"}
    assert run([next(queues[s]) for s in subjects]) == run(range(len(come)))


# ---- ids


@some
@given(st.lists(st.tuples(st.sampled_from("123"), st.sampled_from(["/s", "/o"])), max_size=20), st.data())
def test_an_event_counts_once_by_source_and_id(come: list[tuple[str, str]], data: st.DataObject) -> None:
    """However it comes: now, delayed, or published by an action, now or later."""
    world = World()
    world.add("count", EventPattern(type="counted"), conditions.counter(1))
    world.functions["forward"] = lambda context, given: context.do(
        Publish(Raw(json.dumps(given.get_data()).encode()), given.get_extension("wait"))
    )
    world.add("forward", EventPattern(type="forward"), action="forward")
    for n, (id, source) in enumerate(come):
        body = event(id, "counted", source=source)
        way = data.draw(st.sampled_from(["now", "later", "by action", "by action, later"]))
        if way == "now":
            world.publish(body)
        elif way == "later":
            world.publish(body, due=world.now + 5)
        else:
            wait = 5.0 if "later" in way else 0.0
            world.publish(event(f"f{n}", "forward", wait=wait, data=json.loads(body)))
        world.wait(data.draw(st.sampled_from([0.0, 3.0, 7.0])))
    world.wait(10)
    assert world.fired("count") == len(set(come))
    assert world.hub.counts.taken == len(set(come)) + world.fired("forward")
    assert world.hub.counts.repeated == len(come) - len(set(come))


def test_the_last_ids_are_remembered_and_no_more() -> None:
    world = World()
    for n in range(REMEMBERED + 1):
        world.publish(event(str(n)))
    world.publish(event("1"))
    assert world.hub.counts.repeated == 1
    world.publish(event("0"))  # the one too many
    assert (world.hub.counts.repeated, world.hub.counts.taken) == (1, REMEMBERED + 2)
    assert len(world.hub.everything().seen) == REMEMBERED * 8


def test_an_event_that_came_too_late_counts_and_fires_nothing() -> None:
    world = World(now=10)
    world.add("any")
    world.publish(event("1", expirytime=at(9).isoformat()), event("2", expirytime=at(10).isoformat()))
    world.publish(event("3", expirytime=at(15).isoformat()), due=16)
    world.wait(10)
    assert (world.fired("any"), world.hub.counts.expired, world.hub.counts.taken) == (1, 2, 3)


def test_events_that_fit_nothing_are_counted_and_the_last_kept_if_asked() -> None:
    world = World()
    world.publish(event("before"))
    world.hub.keep_unmatched(True)
    bodies = [event(str(n)) for n in range(KEPT + 2)]
    world.publish(*bodies)
    world.hub.keep_unmatched(False)
    world.publish(event("after"))
    assert [bytes(body) for body in world.hub.unmatched] == bodies[2:]
    assert world.hub.counts.unmatched == world.hub.counts.taken == KEPT + 4


def test_who_clears_a_workspace_forgets_what_was_kept_till_then() -> None:
    world, follower = World(), Hub()
    for number in range(2):  # before the step that clears, and in it
        world.hub.keep_unmatched(True)
        world.publish(event(str(number)))
        if number:
            world.hub.clear()
            world.hub.keep_unmatched(True)
            world.publish(event("after"))
        follower.apply(decode_change(encode_change(world.hub.take_change())))
    for hub in (world.hub, follower):
        assert [read_event(bytes(body)).id for body in hub.unmatched] == ["after"]
    assert picture(follower) == picture(world.hub)


# ---- failures


def test_what_waited_and_is_no_event_is_a_dead_letter() -> None:
    """Nobody of ours has stored it; whoever did must not end the worker whose turn it is."""
    world = World()
    world.hub.apply(decode_change(Raw(b'{"waiting":{"5":{"due_at":1,"event":{"id":1}}}}')))
    world.hub.wake(5, at(1), no_function)
    assert [letter.stage for letter in world.hub.dead.values()] == ["reading"]
    assert not world.hub.waiting


@pytest.mark.parametrize("stage", ["condition", "action"])
@pytest.mark.parametrize("transient", [False, True])
def test_a_function_that_raises_changes_nothing_is_tried_again_after_1_and_2_s_and_is_then_a_dead_letter(
    stage: str, transient: bool
) -> None:
    world = World()
    world.broken = {"f"}

    def function(context: Draft, given: Any) -> bool:
        context["n"] += 1
        context["nested"]["list"].append(given.get_id())
        context.workspace["w"] = 1
        context.do(actions.start_orchestration("o"))
        context.do(actions.delete_trigger("other"))
        return True

    world.functions["f"] = function
    start = {"n": 0, "nested": {"list": []}}
    world.add("other")
    if stage == "action":
        world.add("t", EventPattern(type="go"), conditions.join(2), "f", start, transient)
        world.publish(event("0", "go"))
    else:
        world.add("t", EventPattern(type="go"), "f", actions.pass_, start, transient)
    world.publish(event("1", "go"))
    tried = [0.0]
    for pause in (1, 2):
        world.wait(pause - 0.5)
        assert len(world.called) == len(tried), "too early"
        world.wait(0.5)
        tried.append(world.now)
        assert len(world.called) == len(tried)
    world.wait(1_000)
    assert (tried, len(world.called), world.hub.waiting) == ([0, 1, 3], 3, {})
    (letter,) = world.hub.dead.values()
    assert (letter.trigger_id, letter.stage, letter.attempts, letter.at) == ("t", stage, 3, at(3))
    assert letter.error == "RuntimeError: f is broken"
    assert read_event(bytes(letter.event)).id == "1"
    view = world.hub.view("t")
    assert view is not None
    assert (view.context, view.firings, world.hub.workspace_context) == (start, 0, {})
    assert world.hub.ids == ["other", "t"]
    assert world.hub.take_outgoing() == []

    world.broken = set()
    assert world.hub.replay(letter.id)
    world.wait(0)
    assert world.hub.dead == {}
    assert world.hub.workspace_context == {"w": 1}
    after = world.hub.view("t")
    if transient:
        assert after is None
    else:
        assert after is not None
        assert (after.firings, after.context) == (1, {"n": 1, "nested": {"list": ["1"]}})
    if stage == "action":
        assert [o.action for o in world.hub.take_outgoing()] == [actions.start_orchestration("o")]
        assert "other" not in world.hub.ids


def test_a_replayed_dead_letter_has_all_its_attempts_again() -> None:
    world = World()
    world.broken = {"notes"}
    world.functions["notes"] = notes
    world.add("t", action="notes")
    world.publish(event("1"))
    world.wait(3)
    (first,) = world.hub.dead
    world.hub.replay(first)
    world.wait(3)
    (second,) = world.hub.dead
    assert (first != second, len(world.called)) == (True, 6)
    assert not world.hub.replay(first)
    assert world.hub.bury(second)
    assert not world.hub.bury(second)


def test_a_condition_that_raises_has_counted_nothing() -> None:
    world = World()
    world.functions["f"] = lambda context, given: False
    world.broken = {"f"}
    world.add("t", condition=conditions.any(conditions.join(2), as_condition("f")))
    world.publish(event("1"))
    world.wait(1)
    world.broken = set()
    world.wait(2)
    assert (world.fired("t"), world.hub.waiting, len(world.called)) == (0, {}, 3)
    world.publish(event("2"))
    assert world.fired("t") == 1


def test_a_success_after_failures_is_one_firing() -> None:
    world = World()
    world.functions["notes"] = notes
    world.broken = {"notes"}
    world.add("t", action="notes")
    world.publish(event("1"))
    world.wait(2)
    world.broken = set()
    world.publish(event("2"))
    world.wait(20)
    assert (world.fired("t"), world.hub.dead) == (2, {})
    assert world.hub.view("t").context["seen"] == ["2", "1"]  # type: ignore[union-attr]  # it is there


def test_a_transient_trigger_whose_action_fails_fires_once_all_the_same() -> None:
    world = World()
    world.functions["notes"] = notes
    world.broken = {"notes"}
    world.add("t", action="notes", transient=True)
    world.publish(event("1"), event("2"))
    world.wait(2)
    world.broken = set()
    world.publish(event("3"))
    world.wait(20)
    assert (world.hub.ids, world.hub.workspace_context, len(world.called)) == ([], {"noted": 1}, 3)


def test_a_transient_trigger_whose_dead_letter_was_deleted_takes_events_again() -> None:
    world = World()
    world.functions["notes"] = notes
    world.broken = {"notes"}
    world.add("t", action="notes", transient=True)
    world.publish(event("1"))
    world.wait(3)
    (letter,) = world.hub.dead
    world.hub.bury(letter)
    world.broken = set()
    world.publish(event("2"))
    assert (world.hub.ids, world.hub.workspace_context) == ([], {"noted": 1})


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [Unreadable(), SystemExit(3), RecursionError(), Exception("\ud800")])
@pytest.mark.parametrize("stage", ["condition", "action"])
def test_whatever_a_function_raises_is_a_failure_of_that_function(error: BaseException, stage: str) -> None:
    def raises(context: Draft, given: Any) -> None:
        raise error

    world, mirror = World(), Hub()
    world.functions["f"] = raises
    function: dict[str, Any] = {stage: "f"}
    world.add("t", **function)
    world.add("behind")
    world.publish(event("1"))
    world.wait(3)
    mirror.apply(decode_change(encode_change(world.hub.take_change())))
    (letter,) = mirror.dead.values()
    assert type(error).__name__ in letter.error.partition(":")[0]
    assert world.fired("behind") == 1


def test_what_a_function_leaves_must_be_json() -> None:
    world, mirror = World(), Hub()

    def leaves(context: Draft, given: Any) -> None:
        context["x"] = object()

    world.functions["f"] = leaves
    world.add("t", action="f")
    world.publish(event("1"))
    world.wait(3)
    mirror.apply(decode_change(encode_change(world.hub.take_change())))
    assert [letter.trigger_id for letter in mirror.dead.values()] == ["t"]
    assert mirror.view("t").context == {}  # type: ignore[union-attr]  # it is there


def test_a_draft_is_no_door_into_the_hub() -> None:
    world = World()
    kept: list[Any] = []

    def keeps(context: Draft, given: Any) -> None:
        kept.append((context, context.workspace, context.triggers["t"].context, context.get("d")))
        context["d"] = {"n": 1}
        kept.append(context["d"])

    world.functions["f"] = keeps
    world.add("t", action="f", context={"d": {"n": 0}})
    world.publish(event("1"))
    (context, workspace, view, before), after = kept
    context["d"] = workspace["w"] = view["v"] = before["n"] = after["n"] = 99
    assert world.hub.view("t").context == {"d": {"n": 1}}  # type: ignore[union-attr]  # it is there
    assert world.hub.workspace_context == {}


def test_a_condition_may_ask_for_actions_too() -> None:
    """With its changes, whether it holds or not."""
    world = World()

    def asking(context: Draft, given: Any) -> bool:
        context.do(actions.start_orchestration("asked"))
        return False

    world.functions["f"] = asking
    world.add("t", condition="f")
    world.publish(event("1"))
    assert [o.action.name for o in world.hub.take_outgoing()] == ["asked"]  # type: ignore[union-attr]  # a start


# ---- definitions that change while an event is taken


@pytest.mark.parametrize("by", ["action", "function"])
def test_a_trigger_deleted_by_an_action_misses_the_event_that_deleted_it_and_the_next(by: str) -> None:
    world = World()
    world.functions["f"] = lambda context, given: context.do(actions.delete_trigger("behind"))
    world.add("before")
    world.add("deletes", action="f" if by == "function" else actions.delete_trigger("behind"))
    world.add("behind", action=actions.start_orchestration("o"))
    world.publish(event("1"), event("2"))
    assert world.hub.ids == ["before", "deletes"]
    assert (world.fired("before"), world.hub.take_outgoing()) == (2, [])
    Hub().apply(decode_change(encode_change(world.hub.take_change())))


@pytest.mark.parametrize("by", ["action", "function"])
def test_a_trigger_added_by_an_action_takes_the_next_event_of_a_known_subject_not_this_one(
    by: str,
) -> None:
    world = World()
    new = actions.add_trigger("new", on=EventPattern(subject="x"), context={"a": 1}, transient=False)
    world.functions["f"] = lambda context, given: context.do(new)
    world.publish(event("0", subject="x"))
    world.add("adds", EventPattern(subject="x"), action="f" if by == "function" else new)
    world.publish(event("1", subject="x"))
    assert (world.fired("adds"), world.fired("new")) == (1, 0)
    world.publish(event("2", subject="x"))
    assert (world.fired("adds"), world.fired("new")) == (2, 1)
    assert world.hub.view("new").context == {"a": 1}  # type: ignore[union-attr]  # it is there


def test_a_trigger_disabled_by_an_action_misses_the_event_that_disabled_it() -> None:
    world = World()
    world.add("disables", action=actions.change_trigger("behind", enabled=False, context={"why": "so"}))
    world.add("behind", context={"k": 1})
    world.publish(event("1"))
    view = world.hub.view("behind")
    assert view is not None
    assert (view.firings, view.enabled, view.context) == (0, False, {"k": 1, "why": "so"})


def test_a_trigger_that_is_replaced_has_no_part_in_what_the_old_one_had_begun() -> None:
    world = World()
    world.functions["notes"] = notes
    world.broken = {"notes"}
    world.add("t", action="notes")
    world.publish(event("1"))
    world.hub.delete("t")
    world.add("t", EventPattern(type="other"), action=actions.start_orchestration("new"))
    world.wait(20)
    assert (world.fired("t"), world.hub.take_outgoing(), world.hub.waiting) == (0, [], {})


def test_termination_forgets_all_that_waits() -> None:
    world = World()
    world.functions["f"] = lambda context, given: None
    world.broken = {"f"}
    world.add("fails", EventPattern(type="a"), action="f")
    world.add("calls", EventPattern(type="a"), action=actions.call_activity("act"))
    world.add("ends", EventPattern(type="end"), action=actions.terminate_workspace)
    world.add("behind")
    world.publish(event("0", "a"), due=40)
    world.publish(event("1", "a"), event("3", "end"))
    world.publish(event("2", "a"), due=50)
    (call,) = world.hub.take_outgoing()
    world.hub.activity_ended(call.number, Raw(b"1"), None, at(0), world.find)
    assert (world.hub.ids, len(world.hub.waiting)) == ([], 1)  # of what came after the end
    assert world.hub.counts.taken == 2


def test_the_interceptions_come_first_in_order_and_one_may_take_the_place_of_the_action() -> None:
    world = World()
    world.add("t", action=actions.start_orchestration("own"))
    names: list[Any] = ["first", "second", "third"]

    def fires() -> list[Any]:
        world.publish(event(str(world.hub.counts.taken)))
        return [o.action.name for o in world.hub.take_outgoing()]  # type: ignore[union-attr]  # all are starts

    assert fires() == ["own"]
    for name in names[:2]:
        world.hub.intercept("t", Interception(actions.start_orchestration(name)))
    assert fires() == ["first", "second", "own"]
    world.hub.intercept("t", Interception(actions.start_orchestration("third"), instead=True))
    assert fires() == names
    assert not world.hub.intercept("nobody", Interception(actions.pass_))


def test_an_interception_that_raises_keeps_the_action_back() -> None:
    world = World()
    world.functions["notes"] = notes
    world.broken = {"notes"}
    world.add("t", action=actions.start_orchestration("own"))
    world.hub.intercept("t", Interception(as_action("notes")))
    world.publish(event("1"))
    assert world.hub.take_outgoing() == []
    world.broken = set()
    world.wait(1)
    assert len(world.hub.take_outgoing()) == 1


# ---- what actions publish


def test_what_an_action_publishes_is_taken_after_the_event_that_caused_it_in_the_same_step() -> None:
    world, seen = World(), []
    world.functions["log"] = lambda context, given: seen.append((context.trigger_id, given.get_id()))
    world.add("chain", EventPattern(type="t"), action=Publish(Raw(event("next", "u"))))
    world.add("log-1", EventPattern(), action="log")
    world.add("log-2", EventPattern(), action="log")
    world.publish(event("1"), event("2"))
    assert [id for _, id in seen] == ["1", "1", "next", "next", "2", "2", "next-2", "next-2"]
    assert [id for id, _ in seen[:2]] == ["log-1", "log-2"]


@pytest.mark.parametrize("by", ["action", "function"])
def test_a_chain_that_never_ends_is_cut_and_goes_on_in_the_next_step(by: str) -> None:
    world, mirror = World(), Hub()

    def again(context: Draft, given: Any) -> None:
        context["n"] = context.get("n", 0) + 1
        context.do(Publish(Raw(event(f"link-{context['n']}"))))

    world.functions["f"] = again
    world.add("t", action="f" if by == "function" else Publish(Raw(event("link"))))
    world.publish(event("0"))
    assert world.fired("t") == CHAINED + 1
    (waiting,) = world.hub.waiting.values()
    assert waiting.due_at == at(0).timestamp()
    mirror.apply(decode_change(encode_change(world.hub.take_change())))
    follower = World(mirror)
    follower.functions = world.functions
    (number,) = follower.due()
    follower.hub.wake(number, at(0), follower.find)
    assert follower.fired("t") == 2 * (CHAINED + 1)
    follower.publish(bytes(waiting.event))
    assert follower.hub.counts.repeated == 1, "an event counts once, though the cut came before it"


def test_the_events_of_an_activity_that_a_trigger_called() -> None:
    world, got = World(), []
    world.functions["log"] = lambda context, given: got.append(given)
    world.add("calls", EventPattern(type="go"), action=CallActivity("act", subject="s-1"))
    world.add("calls-too", EventPattern(type="go"), action=CallActivity("act"))
    world.add("hears", EventPattern(type="durable.activity-*"), action="log")
    world.publish(event("1", "go"))
    first, second = world.hub.take_outgoing()
    for _ in range(2):  # the outcome may come twice
        world.hub.activity_ended(first.number, Raw(b'{"a":1}'), None, at(3), world.find)
        world.hub.activity_ended(second.number, Raw(b""), {"type": "Boom"}, at(4), world.find)
    completed, failed = got
    assert (completed.get_type(), completed.get_subject()) == ("durable.activity-completed", "s-1")
    assert (completed.get_data(), completed.get_extension("activity")) == ({"a": 1}, "act")
    assert (completed.get_source(), completed.get_time()) == ("/triggers/calls", at(3))
    assert (failed.get_type(), failed.get_subject()) == ("durable.activity-failed", "calls-too")
    assert failed.get_data() == {"type": "Boom"}


def test_a_call_that_was_stored_before_timeouts_travelled_is_carried_out() -> None:
    ctx = Mock()
    retry = {"max_attempts": 2, "first_interval": 1.0, "backoff_coefficient": 2.0}
    next(CALLING.fn(ctx, {"name": "act", "queue": "", "retry": retry, "input": 7}))
    ref, given = ctx.call_activity.call_args.args
    assert (ref.name, ref.retry, ref.timeout, ref.heartbeat_timeout) == ("act", RetryPolicy(2), 0, 0)
    assert given == 7


def test_a_result_too_deep_for_an_event_is_a_dead_letter() -> None:
    """The limit for payloads may be higher than that for events; the step goes on."""
    world = World()
    world.add("calls", EventPattern(type="go"), action=CallActivity("act"))
    world.add("hears", EventPattern(type="durable.activity-*"))
    world.publish(event("1", "go"))
    (call,) = world.hub.take_outgoing()
    world.hub.activity_ended(call.number, Raw(b"[" * 150 + b"]" * 150), None, at(3), world.find)
    (letter,) = world.hub.dead.values()
    assert letter.stage == "reading"
    assert "128" in letter.error
    assert b"/triggers/calls" in bytes(letter.event)
    assert world.fired("hears") == 0


# ---- patterns and conditions, each against the simplest program that says the same

letters = st.text("ab*.", max_size=4)


def fits(pattern: str, text: str) -> bool:
    regex = re.escape(pattern[:-1]) + ".*" if pattern.endswith("*") else re.escape(pattern)
    return re.fullmatch(regex, text) is not None


@many
@given(st.sampled_from(["type", "subject", "source"]), letters, letters)
def test_a_pattern_matches_as_its_words_say(name: str, wanted: str, found: str) -> None:
    if "*" in wanted[:-1] or (name == "type" and not wanted):
        with pytest.raises(ValueError, match=f"EventPattern\\({name}="):
            EventPattern(**{name: wanted})
        return
    attributes: dict[str, Any] = {"id": "1", "source": "s", "type": "t", "specversion": "1.0", name: found}
    assert EventPattern(**{name: wanted}).matches(Occurrence(**attributes)) == fits(wanted, found)


@many
@given(patterns, st.tuples(st.sampled_from(TYPES), st.sampled_from(SUBJECTS), st.sampled_from(["/s", "/other"])))
def test_a_pattern_matches_if_its_three_parts_do(pattern: EventPattern, found: tuple[str, str, str]) -> None:
    type_, subject, source = found
    parts = ((pattern.type, type_), (pattern.subject, subject), (pattern.source, source))
    assert pattern.matches(Occurrence("1", source, type_, "1.0", subject)) == all(fits(*part) for part in parts)


@many
@given(st.lists(patterns, min_size=1, max_size=3), st.lists(events, max_size=8))
def test_several_patterns_are_one_or_the_other_and_an_event_counts_once_for_them(
    on: list[EventPattern], come: list[bytes]
) -> None:
    world = World()
    world.add("t", on)
    distinct = {(e.source, e.id): e for e in reversed([read_event(body) for body in come])}
    world.publish(*come)
    assert world.fired("t") == sum(any(p.matches(e) for p in on) for e in distinct.values())


@dataclass
class Shown:
    """An event as a naive condition sees it."""

    type: str
    subject: str
    now: float
    context: dict[str, Any] = field(default_factory=dict)


def naive(condition: Any, since: list[Shown], ever: list[Shown]) -> bool:
    """Whether it holds. since: what was shown after it held last, the event among it; ever: all that was shown."""
    last = since[-1]
    kind = type(condition).__name__
    if kind == "Always":
        return True
    if kind == "Join":
        return bool(len(since) == condition.n)
    if kind == "Counter":
        return bool(len(ever) >= condition.n)
    if kind == "JoinSubjects":
        return last.subject in condition.names and {s.subject for s in since} >= set(condition.names)
    if kind == "NotBefore":
        return bool(at(last.now) >= condition.at)
    if kind == "NotAfter":
        return bool(at(last.now) <= condition.at)
    if kind == "Expression":
        return last.subject == "x" if "subject" in condition.text else bool(last.type != "b" and last.context)
    if kind == "AnyOf":
        return not condition.conditions or any(naive(one, since, since) for one in condition.conditions)
    raise AssertionError(kind)


KINDS: Final = {
    "always": st.just(conditions.always),
    "join": st.integers(1, 4).map(conditions.join),
    "counter": st.integers(1, 4).map(conditions.counter),
    "join_subjects": st.lists(st.sampled_from(["x", "y", "z"]), min_size=1).map(tuple).map(JoinSubjects),
    "not_before": st.integers(0, 8).map(at).map(conditions.not_before),
    "not_after": st.integers(0, 8).map(at).map(conditions.not_after),
    "expression": st.just(conditions.expression("subject == 'x'")),
}
KINDS_AND_ANY: Final = {
    **KINDS,
    "any": st.lists(st.one_of(*KINDS.values()), max_size=3).map(lambda several: conditions.any(*several)),
}


@pytest.mark.parametrize("kind", KINDS_AND_ANY)
@some
@given(
    data=st.data(),
    come=st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from("xyz"), st.integers(0, 2)), max_size=20),
)
def test_a_condition_holds_as_its_words_say(kind: str, data: st.DataObject, come: list[tuple[str, str, int]]) -> None:
    condition = data.draw(KINDS_AND_ANY[kind])
    world = World()
    world.add("t", condition=condition)
    since: list[Shown] = []
    ever: list[Shown] = []
    fired = 0
    for n, (type_, subject, pause) in enumerate(come):
        world.now += pause
        shown = Shown(type_, subject, world.now)
        since.append(shown)
        ever.append(shown)
        world.publish(event(str(n), type_, subject))
        if naive(condition, since, ever):
            fired += 1
            since.clear()
        assert world.fired("t") == fired
        world.hub.apply(decode_change(encode_change(world.hub.take_change())))


def test_an_expression_sees_the_event_and_the_context() -> None:
    world = World()
    text = "data.amount > `100` && context.limit == 'on' && region == 'eu' && starts_with(type, 'shop.')"
    world.add("t", condition=conditions.expression(text), context={"limit": "on"})
    good: dict[str, Any] = {"region": "eu", "data": {"amount": 101}}
    world.publish(event("1", "shop.paid", **good))
    world.publish(event("2", "shop.paid", **good | {"data": {"amount": 100}}), event("3", "paid", **good))
    world.publish(event("4", "shop.paid", region="eu"))
    assert world.fired("t") == 1
    world.hub.change("t", context={"limit": "off"})
    world.publish(event("5", "shop.paid", **good))
    assert (world.fired("t"), world.hub.waiting) == (1, {})


def test_an_expression_that_does_not_fit_the_data_is_a_failure_not_a_crash() -> None:
    world = World()
    world.add("t", condition=conditions.expression("abs(data)"))
    world.publish(event("1", data="no number"))
    world.wait(3)
    assert [(d.stage, "abs" in d.error) for d in world.hub.dead.values()] == [("condition", True)]
    world.publish(event("2", data=-2))
    assert world.fired("t") == 1


# ---- the hub against a naive one


@dataclass
class Kept:
    """A trigger of the naive hub."""

    trigger: Definition
    context: dict[str, Any] = field(default_factory=dict)
    enabled: bool = True
    fired: int = 0
    since: list[Shown] = field(default_factory=list)
    ever: list[Shown] = field(default_factory=list)
    firing: bool = False
    interceptions: list[tuple[Any, bool]] = field(default_factory=list)


@dataclass
class Timer:
    due: float
    body: bytes
    trigger: Kept | None = None
    attempt: int = 0


class Naive:
    """What the hub says it does, in the order in which it says so, with lists and copies. Conditions have no code."""

    def __init__(self) -> None:
        self.now = 0.0
        self.triggers: list[Kept] = []
        self.workspace: dict[str, Any] = {}
        self.seen: set[tuple[str, str]] = set()
        self.timers: list[Timer] = []
        self.dead: list[tuple[Kept, bytes, float]] = []
        self.sent: list[Any] = []
        self.broken: set[str] = set()
        self.queue: list[bytes] = []
        self.counts = {"taken": 0, "unmatched": 0, "expired": 0, "repeated": 0}

    def find(self, id: str) -> Kept | None:
        return next((kept for kept in self.triggers if kept.trigger.id == id), None)

    def publish(self, body: bytes, due: float | None = None) -> None:
        if not self.is_new(body):
            return
        if due is not None and due > self.now:
            self.timers.append(Timer(due, body))
        else:
            self.take(body)

    def is_new(self, body: bytes) -> bool:
        given_ = json.loads(body)
        key = (given_["source"], given_["id"])
        self.counts["repeated"] += key in self.seen
        new = key not in self.seen
        self.seen.add(key)
        return new

    def take(self, body: bytes) -> None:
        self.queue = []
        self.show(body)
        self.drain()

    def show(self, body: bytes) -> None:
        given_ = json.loads(body)
        self.counts["taken"] += 1
        expires = given_.get("expirytime")
        if expires is not None and datetime.fromisoformat(expires) < at(self.now):
            self.counts["expired"] += 1
            return
        found = read_event(body)
        fitting = [k for k in self.triggers if any(p.matches(found) for p in k.trigger.on)]
        self.counts["unmatched"] += not fitting
        for kept in fitting:
            if any(kept is k for k in self.triggers) and kept.enabled and not kept.firing:
                shown = Shown(
                    given_["type"], given_.get("subject", ""), self.now, deepcopy(kept.context.get("seen", {}))
                )
                kept.since.append(shown)
                kept.ever.append(shown)
                if naive(kept.trigger.condition, kept.since, kept.ever):
                    kept.since.clear()
                    self.fire(kept, body, 1)

    def fire(self, kept: Kept, body: bytes, attempt: int) -> None:
        wanted = [action for action, _ in kept.interceptions]
        if not any(instead for _, instead in kept.interceptions):
            wanted.append(kept.trigger.action)
        untargeted = not json.loads(body).get("subject")
        if any(
            (isinstance(action, CallFunction) and action.name in self.broken)
            or (isinstance(action, RaiseEvent) and untargeted)
            for action in wanted
        ):
            kept.firing = kept.trigger.transient
            if attempt < 3:
                self.timers.append(Timer(self.now + 2 ** (attempt - 1), body, kept, attempt))
            else:
                self.dead.append((kept, body, self.now))
            return
        kept.firing = False
        asked: list[Any] = []
        for action in wanted:
            if isinstance(action, CallFunction):
                draft = Draft(kept.trigger.id, kept.context, self.workspace, at(self.now), {})
                {"notes": notes, "asks": asks}[action.name](draft, _Named(json.loads(body)["id"]))
                asked += draft.asked
            elif isinstance(action, Publish):
                inner = json.loads(bytes(action.event))
                inner["id"] += f"-{kept.fired + 1}" if kept.fired else ""
                asked.append(Publish(Raw(json.dumps(inner).encode()), action.delay))
            else:
                asked.append(action)
        kept.fired += 1
        if kept.trigger.transient:
            self.drop(kept)
        for action in asked:
            self.do(action, kept.trigger.id)

    def drop(self, kept: Kept) -> None:
        self.triggers = [k for k in self.triggers if k is not kept]

    def do(self, action: Any, by: str) -> None:
        if isinstance(action, Publish):
            body = bytes(action.event)
            if action.delay:
                if self.is_new(body):
                    self.timers.append(Timer(self.now + action.delay, body))
            else:
                self.queue.append(body)
        elif isinstance(action, DeleteTrigger):
            self.triggers = [k for k in self.triggers if k.trigger.id != action.trigger_id]
        elif isinstance(action, AddTrigger):
            self.add(action.trigger, action.context)
        elif isinstance(action, ChangeTrigger):
            kept = self.find(action.trigger_id)
            if kept is not None:
                kept.enabled = kept.enabled if action.enabled is None else action.enabled
                kept.context.update(action.context)
        elif isinstance(action, TerminateWorkspace):
            self.triggers, self.timers, self.queue = [], [], []
        elif type(action).__name__ != "Pass":
            self.sent.append((type(action).__name__, by))

    def add(self, one: Definition, context: dict[str, Any]) -> None:
        if self.find(one.id) is None:
            self.triggers.append(Kept(one, dict(context)))

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and min(t.due for t in self.timers) <= end:
            self.now = max(self.now, min(t.due for t in self.timers))
            timer = min(self.timers, key=lambda t: t.due)
            self.timers.remove(timer)
            if timer.trigger is None:
                self.take(timer.body)
            elif any(timer.trigger is k for k in self.triggers):
                self.queue = []
                self.fire(timer.trigger, timer.body, timer.attempt + 1)
                self.drain()
        self.now = end

    def drain(self) -> None:
        while self.queue:
            body = self.queue.pop(0)
            if self.is_new(body):
                self.show(body)


@dataclass
class _Named:
    """The event as far as the functions above look at it."""

    id: str

    def get_id(self) -> str:
        return self.id


def without_code(happened: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(what, given_) for what, given_ in happened if what not in ("keep", "workspace", "ended")]


def has_code(one: Definition) -> bool:
    if isinstance(one.action, AddTrigger) and has_code(one.action.trigger):
        return True
    several = getattr(one.condition, "conditions", (one.condition,))
    return any(type(condition).__name__ == "Function" for condition in several)


@settings(max_examples=200)
@given(lives)
def test_the_hub_does_what_a_naive_one_does(life: Life) -> None:
    defined, happened = life
    real, model = Random(), Naive()
    for one in defined:
        if not has_code(one):
            real.happens("add", one)
            model.add(one, {})
    sent: list[Any] = []
    for what, given_ in without_code(happened):
        if what == "add" and has_code(given_):
            continue
        real.happens(what, given_)
        kept = None
        if what == "event":
            model.publish(given_)
        elif what == "later":
            model.publish(given_, model.now + 2)
        elif what == "wait":
            model.wait(given_)
        elif what == "add":
            model.add(given_, {})
        elif what == "delete":
            model.do(DeleteTrigger(given_), "")
        elif what == "able":
            model.do(ChangeTrigger(given_[0], given_[1]), "")
        elif what == "breaks":
            model.broken = set(given_)
        elif what == "intercept":
            kept = model.find(given_[0])
            if kept is not None:
                kept.interceptions.append((as_action(given_[1]), given_[2]))
        elif what == "bury" and model.dead:
            kept, *_ = model.dead.pop(0)
            kept.firing = False
        elif what == "replay" and model.dead and model.find(model.dead[0][0].trigger.id):
            old, body, when = model.dead.pop(0)
            kept = model.find(old.trigger.id)
            model.timers.append(Timer(when, body, kept))
        sent += [(type(o.action).__name__, o.trigger_id) for o in real.hub.take_outgoing()]
        views = [real.hub.view(id) for id in real.hub.ids]
        assert [(v.id, v.context, v.enabled, v.firings) for v in views if v] == [
            (k.trigger.id, k.context, k.enabled, k.fired) for k in model.triggers
        ]
        assert real.hub.workspace_context == model.workspace
        assert sent == model.sent
        assert msgspec.to_builtins(real.hub.counts) == {name: count for name, count in model.counts.items() if count}
        assert [d.trigger_id for d in real.hub.dead.values()] == [kept.trigger.id for kept, *_ in model.dead]


# ---- the history that the hub is stored as


def test_a_history_that_has_grown_long_is_replaced_but_not_because_of_what_it_began_with() -> None:
    ids = iter(range(1_000))
    env = Env("me", 60.0, lambda: f"id{next(ids)}", 1, Limits(), Watch())
    commit: Commit | None = begin(NOW, env.mint, 1)
    rows: tuple[bytes, ...] = ()
    lengths: list[int] = []
    replaced: list[bool] = []
    for n in range(6):
        assert commit is not None
        (append,) = commit.appends
        rows = (append.events,) if commit.replaces else (*rows, append.events)
        instance = Instance.of_record(Record(n + 1, commit.id, commit.summary, rows, ()))
        lengths.append(len(append.events))
        replaced.append(bool(commit.replaces))
        assert hub_of(instance).counts.taken == (REMEMBERED + n - 1 if n else 0)
        # As many ids as are remembered: a megabyte, once a history begins with them.
        bodies = [event(f"{n}-{m}") for m in range(1 if n else REMEMBERED)]
        commit = step(instance, [Arrival(Event("EventsBrought", NOW), bodies=bodies)], World().find, NOW, env).commit
    assert replaced == [False, False, True, False, False, False]
    assert lengths[2] > 1_000_000
    assert max(lengths[3:]) < 1_000
