"""The laws of replay, on the pure core alone: no loop, no store, no clock.

Random programs (the simulator's), random orders, batches and repeats of what arrives. Live code that was fed event by
event, code that was replayed cold, and code that got everything at once must be in the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from durable.engine.codeless import terminate_request
from durable.engine.instance import Arrival, Env, Instance, timer_key
from durable.engine.step import create, step, uncreated
from durable.model import history as h
from durable.model.errors import OrchestrationCancelledError
from durable.model.failure import FailureDetails
from durable.model.history import Event, Parent, Raw, decode_events, encode_events
from durable.model.limits import Limits
from durable.model.retry import RetryPolicy
from durable.model.status import RuntimeStatus, Summary
from durable.payload.signature import Signature
from durable.replay.callee import ActivityRef
from durable.replay.context import OrchestrationContext
from durable.replay.execution import Execution
from durable.replay.guard import Watch
from durable.replay.live_code import Code
from durable.replay.mismatch import Mismatch
from durable.replay.task_trees import open_leaves
from durable.replay.tasks import Task
from durable.testing.allowed_results import CANCEL
from durable.testing.programs import CODES, Node, attempt_activity
from durable.testing.random_programs import Script, make_script
from durable.triggers.waiting import fire

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
Orchestration = Callable[..., Any]


def begin(code: Code, given: Any = None) -> Execution:
    """An execution whose code has not been called yet."""
    started = Event(
        h.EXECUTION_STARTED,
        NOW,
        name=code.name,
        input=Raw(msgspec.json.encode(given)),
        execution_id="x",
        seed="seed",
    )
    return begin_as(code, started)


def begin_as(code: Code, started: Event) -> Execution:
    execution = Execution(code, started, "i", Limits(), Watch())
    context = OrchestrationContext(execution)
    execution.begin_with(lambda: code.fn(context, *code.signature.decode_input(started.input, "the input")))
    return execution


def replayed(code: Code, started: Event, history: Sequence[Event]) -> Execution:
    execution = begin_as(code, started)
    execution.replay([started, *history])
    return execution


def code_of(fn: Orchestration) -> Code:
    return Code("o", fn, Signature.of(fn, leading=1))


def stored(events: Sequence[Event]) -> bytes:
    return encode_events(list(events))


# ---- random lives


class Life(NamedTuple):
    """A program, and everything that arrived at it, in order, one fact a turn; `turns` are what it recorded."""

    code: Code
    started: Event
    facts: list[Event]
    turns: list[list[Event]]
    execution: Execution

    @property
    def history(self) -> list[Event]:
        return [event for turn in self.turns for event in turn]


def answers(history: Sequence[Event]) -> list[Event]:
    """The facts that could arrive next: outcomes of what the history has open."""
    opened: dict[tuple[str, int], Event] = {}
    for event in history:
        kind, number = event.type, event.task_id
        if event.status == h.DETACHED:
            continue
        if kind in (h.TASK_SCHEDULED, h.CHILD_CREATED):
            opened["call", number] = event
        elif kind in (h.TASK_COMPLETED, h.TASK_FAILED, h.CHILD_COMPLETED, h.CHILD_FAILED):
            opened.pop(("call", number), None)
        elif kind == h.TIMER_CREATED or (kind == h.EVENT_AWAITED and event.fire_at is not None):
            opened["timer", number] = event
        elif kind in (h.TIMER_FIRED, h.TIMER_CANCELED):
            opened.pop(("timer", number), None)
        elif kind == h.TASK_CANCELED:
            opened.pop(("call", number), None)
            opened.pop(("timer", number), None)
    return [answer(event) for event in opened.values()]


def answer(event: Event) -> Event:
    if event.type == h.TASK_SCHEDULED:
        outcome = attempt_activity(event.input, event.attempt)
        kind = h.TASK_COMPLETED if outcome.failure is None else h.TASK_FAILED
        return Event(
            kind,
            NOW,
            task_id=event.task_id,
            attempt=event.attempt,
            result=outcome.result if outcome.failure is None else h.NO_PAYLOAD,
            failure=outcome.failure,
        )
    if event.type == h.CHILD_CREATED:
        if event.task_id % 3 == 0:
            failure = FailureDetails("ValueError", "raised", hierarchy=("ValueError", "Exception"))
            return Event(h.CHILD_FAILED, NOW, task_id=event.task_id, attempt=event.attempt, failure=failure)
        return Event(h.CHILD_COMPLETED, NOW, task_id=event.task_id, attempt=event.attempt, result=Raw(b"1"))
    return Event(h.TIMER_FIRED, NOW, task_id=event.task_id, attempt=event.attempt)


def raised(name: str, data: str) -> Event:
    return Event(h.EVENT_RAISED, NOW, name=name, input=Raw(msgspec.json.encode(data)))


def cancelled(reason: Any = CANCEL) -> Event:
    return Event(h.EXECUTION_CANCELED, NOW, input=Raw(msgspec.json.encode(reason)))


def live(script: Script, random: Random, most: int = 200) -> Life:
    """Live through a program, one fact a turn, in a random order, until it ends or has had `most` facts."""
    code = CODES[script.kind]
    execution = begin(code, script.program)
    events = [raised(*event) for event in script.events]
    events += [cancelled() for _ in range(random.choice((0, 0, 1, 2)))]
    random.shuffle(events)
    turns = [execution.take([], NOW)]
    facts: list[Event] = []
    stale: list[Event] = []
    while not execution.finished and len(facts) < most:
        possible = [fact for fact in answers([e for turn in turns for e in turn]) if fact not in stale]
        if events and (not possible or random.random() < 0.3):
            fact = events.pop(0)
        elif possible:
            fact = random.choice(possible)
        else:
            break
        turn = execution.take([fact], NOW)
        if turn:
            facts.append(fact)
            turns.append(turn)
            events += [
                raised(e.name, msgspec.json.decode(e.input))
                for e in turn
                if e.type == h.EVENT_SENT and e.instance_id == "i"
            ]
        else:  # the timeout of a wait that has its event: a history does not say which wait took it
            assert fact.type == h.TIMER_FIRED
            stale.append(fact)
    return Life(code, execution.started, facts, turns, execution)


def _around(where: str, mapping: Node) -> Node:
    """A map by itself, raced, gathered and taken up again."""
    act: Node = ["act", "beside", 0, 1, 0, ""]
    return {
        "alone": mapping,
        "race": ["any", [mapping, ["timer", 1]]],
        "retake": ["retake", mapping, act],
        "gather": ["all", [act, mapping], True],
        "deep": ["any", [["timer", 1], ["all", [mapping, act], False]]],
    }[where]


maps: st.SearchStrategy[Node] = st.builds(
    lambda fails, at_once, gather: [
        "map",
        [["act", f"k{number}", times, 1, 0, ""] for number, times in enumerate(fails)],
        at_once,
        gather,
    ],
    st.lists(st.sampled_from((0, 0, 0, 0, 9)), max_size=12),
    st.none() | st.integers(1, 5),
    st.booleans(),
)
mapping_lives = st.builds(
    lambda where, mapping, kind, order: live(
        Script(kind, [["try", _around(where, mapping)], 0, []], []), Random(order)
    ),
    st.sampled_from(("alone", "race", "retake", "gather", "deep")),
    maps,
    st.sampled_from(("generator", "coroutine")),
    st.integers(0, 2**32),
)
lives = (
    st.builds(
        lambda seed, size, order: live(make_script(Random(seed), size), Random(order)),
        st.integers(0, 2**32),
        st.integers(1, 9),
        st.integers(0, 2**32),
    )
    | mapping_lives
)
many = settings(max_examples=150)


def place(execution: Execution) -> object:
    """Everything that decides how an execution goes on."""
    trigger = execution.trigger
    waiting = None if trigger is None else (sorted(_ids(trigger.on)), trigger.action, _shape(trigger.context))
    return (
        execution.finished,
        execution.settled,
        execution.clock,
        execution.custom_status,
        execution.continued,
        waiting,
        {n: (type(t).__name__, t.order, getattr(t, "attempt", 0)) for n, t in execution.tasks.items()},
        [event.input for event in execution.carried_events()],
    )


def _ids(on: object) -> list[int]:
    assert isinstance(on, set | frozenset | tuple)
    return list(on)


def _shape(task: Task[Any]) -> object:
    """The tree of an open task: what is open in it, and what is settled."""
    children = getattr(task, "children", ())
    return type(task).__name__, task.order, getattr(task, "id", 0), [_shape(child) for child in children]


@many
@given(life=lives)
def test_cold_replay_is_in_the_same_place_as_live_code_after_every_turn(life: Life) -> None:
    warm = begin_as(life.code, life.started)
    history: list[Event] = []
    for number, turn in enumerate(life.turns):
        facts = [] if number == 0 else [life.facts[number - 1]]
        cold = replayed(life.code, life.started, history) if history else begin_as(life.code, life.started)
        assert stored(warm.take(facts, NOW)) == stored(cold.take(facts, NOW)) == stored(turn)
        history += turn
        assert place(warm) == place(cold) == place(replayed(life.code, life.started, history))


@many
@given(life=lives)
def test_a_trigger_fires_exactly_when_replay_gets_past_this_point(life: Life) -> None:
    warm = begin_as(life.code, life.started)
    warm.take([], NOW)
    history = list(life.turns[0])
    for fact, turn in zip(life.facts, life.turns[1:], strict=True):
        trigger, ticks, before = warm.trigger, warm.watch.ticks, dict(warm.tasks)
        assert trigger is not None
        cold = replayed(life.code, life.started, history)
        cold_ticks = cold.watch.ticks
        warm.take([fact], NOW)
        history += turn
        settled = [number for number, task in before.items() if task.order]
        fired = any(fire(trigger, number) is not None for number in settled) or fact.type == h.EXECUTION_CANCELED
        resumed = warm.watch.ticks > ticks
        assert fired == resumed
        assert resumed == (warm.trigger is not trigger)
        # The cold one resumes over the longer history exactly where the warm one did.
        assert resumed == (replayed(life.code, life.started, history).watch.ticks > cold_ticks)


@many
@given(life=lives)
def test_a_trigger_listens_to_the_open_leaves_and_to_nothing_else(life: Life) -> None:
    warm = begin_as(life.code, life.started)
    for number in range(len(life.turns)):
        warm.take([life.facts[number - 1]] if number else [], NOW)
        if warm.trigger is not None:
            leaves = {leaf.id for leaf in open_leaves(warm.trigger.context)}
            assert leaves <= set(_ids(warm.trigger.on))
            others = [number for number in range(1, 60) if number not in _ids(warm.trigger.on)]
            assert not any(fire(warm.trigger, other) for other in others)


@many
@given(life=lives, data=st.data())
def test_settled_stays_settled(life: Life, data: st.DataObject) -> None:
    warm = begin_as(life.code, life.started)
    warm.take([], NOW)
    seen: dict[int, tuple[Task[Any], int]] = {}
    past: list[Event] = []
    for fact in life.facts:
        warm.take([fact], NOW)
        if fact.type not in AGAIN:
            past.append(fact)
        seen |= {number: (task, task.order) for number, task in warm.tasks.items()}
        repeats = data.draw(st.lists(st.sampled_from(past), max_size=3)) if past else []
        assert warm.take(repeats, NOW) == []
        contradictions = [
            msgspec.structs.replace(r, type=h.TASK_COMPLETED, failure=None, result=Raw(b'"other"'))
            for r in repeats
            if r.type == h.TASK_FAILED
        ]
        assert warm.take(contradictions, NOW) == []
    for task, order in seen.values():
        assert order in (0, task.order)
    assert place(warm) == place(life.execution)


AGAIN = (h.EVENT_RAISED, h.EXECUTION_CANCELED)  # the same once more is another one


def without_turns(history: Sequence[Event]) -> list[Event]:
    """Without the events that begin a turn or switch it off and on, and without counting them where an event is named
    by its number."""
    kept = [event for event in history if event.type not in _UNCOUNTED]
    return [msgspec.structs.replace(e, rewinds_to=_place_of(history, e.rewinds_to)) for e in kept]


def _place_of(history: Sequence[Event], number: int) -> int:
    """0 stays 0: it names none."""
    return sum(event.type not in _UNCOUNTED for event in history[: number - 1]) if number else 0


_UNCOUNTED = (h.ORCHESTRATOR_STARTED, h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED)


@many
@given(life=lives, data=st.data())
def test_batching_never_shows(life: Life, data: st.DataObject) -> None:
    expected = stored(without_turns(life.history))
    at_once = begin_as(life.code, life.started)
    assert stored(without_turns(at_once.take(life.facts, NOW))) == expected
    batched = begin_as(life.code, life.started)
    history: list[Event] = []
    left = life.facts
    while left:
        size = data.draw(st.integers(1, len(left)))
        repeats = [fact for fact in left[:size] if fact.type not in AGAIN]
        history += batched.take([*left[:size], *repeats], NOW)
        left = left[size:]
    if life.facts:
        assert stored(without_turns(history)) == expected
        assert place(batched) == place(at_once) == place(life.execution)


@many
@given(life=lives, data=st.data())
def test_a_history_cut_between_turns_replays_and_goes_on_as_it_did(life: Life, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(life.turns)))
    cold = replayed(life.code, life.started, [event for turn in life.turns[:cut] for event in turn])
    for fact, turn in zip(life.facts[cut - 1 :], life.turns[cut:], strict=True):
        assert stored(cold.take([fact], NOW)) == stored(turn)
    assert place(cold) == place(life.execution)


class Inbox:
    """An instance as a store has it, and facts in its inbox, through whole steps; each may be cold."""

    def __init__(self, life: Life) -> None:
        self.code = life.code
        summary = Summary("i", "x", life.started.name, RuntimeStatus.PENDING, NOW, NOW)
        self.instance = Instance(summary, 1, life.started, 1, None, [life.started])
        self.history = [life.started]
        self.rows: dict[str, Arrival] = {}
        self.delivered = 0

    def deliver(self, fact: Event) -> None:
        self.delivered += 1
        key = f"in/{self.delivered:05}"
        self.rows[key] = Arrival(fact, "", key)

    def step(self, cold: bool) -> None:
        if self.over:
            return
        if cold:
            self.instance = msgspec.structs.replace(self.instance, execution=None, history=self.history)
        turn = step(self.instance, list(self.rows.values()), self.code, "", NOW, ENV)
        if turn.commit is not None:
            assert turn.commit.expect == self.instance.version
            for append in turn.commit.appends:
                if append.execution_id == "x":
                    assert append.start == len(self.history)
                    self.history += h.decode_events(append.events)
            for key in turn.commit.drop:
                self.rows.pop(key, None)
        live = turn.instance.execution
        self.instance = msgspec.structs.replace(turn.instance, history=() if live is not None else self.history)
        if turn.again:
            self.step(cold)

    @property
    def over(self) -> bool:
        """Whether this execution has ended."""
        return self.instance.summary.status.finished or self.instance.summary.execution_id != "x"


SWITCHES = (h.EXECUTION_SUSPENDED, h.EXECUTION_RESUMED)


@many
@given(life=lives, data=st.data())
def test_what_is_suspended_now_and_then_does_the_same(life: Life, data: st.DataObject) -> None:
    inbox = Inbox(life)
    for fact in [*life.facts, None]:
        for kind in data.draw(st.lists(st.sampled_from(SWITCHES), max_size=3)):
            inbox.deliver(Event(kind, NOW))
            if data.draw(st.booleans()):
                inbox.step(data.draw(st.booleans()))
                if not inbox.over:
                    suspended = inbox.instance.summary.status is RuntimeStatus.SUSPENDED
                    assert suspended == (kind == h.EXECUTION_SUSPENDED)
        if fact is not None:
            inbox.deliver(fact)
        if data.draw(st.booleans()):
            inbox.step(data.draw(st.booleans()))
    inbox.deliver(Event(h.EXECUTION_RESUMED, NOW))
    inbox.step(data.draw(st.booleans()))
    kept = without_turns(inbox.history[1:])
    assert stored(kept) == stored(without_turns(life.history))
    switches = [event.type for event in inbox.history if event.type in SWITCHES]
    assert switches == list(SWITCHES) * (len(switches) // 2)  # by turns, and resumed at the end
    if not life.execution.finished:
        assert not inbox.rows
        assert place(replayed(life.code, life.started, inbox.history[1:])) == place(life.execution)


# ---- code that does not fit its history


class Op(NamedTuple):
    """One command of a simple orchestrator."""

    kind: str
    name: str
    number: int

    def task(self, ctx: OrchestrationContext) -> Task[Any]:
        if self.kind == "activity":
            return ctx.call_activity(self.name, self.number)
        if self.kind == "child":
            return ctx.call_sub_orchestrator(self.name, self.number)
        if self.kind == "event":
            return ctx.wait_for_external_event(self.name, timeout=None if self.number % 2 else self.number + 1)
        return ctx.create_timer(self.number + 1)


def orchestrator(ops: Sequence[Op], at_once: bool) -> Code:
    def run(ctx: OrchestrationContext) -> Generator[Any, Any, str]:
        if at_once:
            yield [op.task(ctx) for op in ops]
        else:
            for op in ops:
                yield op.task(ctx)
        return "done"

    return code_of(run)


KINDS = ("activity", "child", "event", "timer")
MUTATIONS = ("rename", "input", "insert", "drop", "swap", "kind")


def mutate(ops: list[Op], where: int, how: str) -> list[Op]:
    op = ops[where]
    changed = list(ops)
    if how == "rename":
        assume(op.kind != "timer")
        changed[where] = op._replace(name=f"{op.name}-renamed")
    elif how == "input":
        changed[where] = op._replace(number=op.number + 1_000)  # of a wait: its timeout
        assume(op.kind != "event" or op.number % 2 == 0)
    elif how == "insert":
        changed.insert(where, Op("activity", "inserted", 0))
    elif how == "drop":
        del changed[where]
    elif how == "swap":
        assume(where + 1 < len(ops))
        changed[where], changed[where + 1] = changed[where + 1], changed[where]
    else:
        changed[where] = op._replace(kind=KINDS[(KINDS.index(op.kind) + 1) % len(KINDS)])
    return changed


def settle(turn: Sequence[Event]) -> list[Event]:
    """An answer to each command of a turn; a wait gets its event."""
    facts = []
    for event in turn:
        if event.type == h.TASK_SCHEDULED:
            facts.append(Event(h.TASK_COMPLETED, NOW, task_id=event.task_id, attempt=1, result=Raw(b"1")))
        elif event.type == h.CHILD_CREATED:
            facts.append(Event(h.CHILD_COMPLETED, NOW, task_id=event.task_id, attempt=1, result=Raw(b"1")))
        elif event.type == h.EVENT_AWAITED:
            facts.append(raised(event.name, "data"))
        elif event.type == h.TIMER_CREATED:
            facts.append(Event(h.TIMER_FIRED, NOW, task_id=event.task_id))
    return facts


ENV = Env("w", 60.0, iter(f"id{n}" for n in range(10**9)).__next__, 1, Limits(), Watch())


@settings(max_examples=400)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=6),
    at_once=st.booleans(),
    turns=st.integers(0, 5),
    where=st.integers(0, 5),
    how=st.sampled_from(MUTATIONS),
)
@example(kinds=["timer", "timer"], at_once=True, turns=0, where=0, how="input")
@example(kinds=["event", "event"], at_once=False, turns=1, where=1, how="rename")
def test_every_single_change_of_a_recorded_command_is_found_and_named(
    kinds: list[str], at_once: bool, turns: int, where: int, how: str
) -> None:
    ops = [Op(kind, f"{kind}-{number}", number) for number, kind in enumerate(kinds)]
    code = orchestrator(ops, at_once)
    execution = begin(code)
    history = execution.take([], NOW)
    answered = history
    for _ in range(0 if at_once else min(turns, len(ops) - 1)):
        answered = execution.take(settle(answered), NOW)
        history = [*history, *answered]
    assert not execution.finished
    issued = len([event for event in history if event.type in h.COMMANDS])
    assume(where < issued)
    assume(how != "insert" or where < issued)
    changed = mutate(ops, where, how)
    edited = orchestrator(changed, at_once)

    with pytest.raises(Mismatch) as found:
        replayed(edited, execution.started, history)
    reason = found.value.reason
    recorded = [event for event in history if event.type in h.COMMANDS][where]
    position = [execution.started, *history].index(recorded)
    assert f"event {position} is" in reason
    assert f"(task {where + 1})" in reason
    if recorded.name:
        assert repr(recorded.name) in reason
    if how in ("rename", "kind", "insert", "swap"):
        assert where >= len(changed) or changed[where].kind == "timer" or repr(changed[where].name) in reason
    assert "test_replay_laws.py:" in reason  # the line of the user's code

    _records_nothing(edited, execution, history, reason)


def _records_nothing(edited: Code, execution: Execution, history: list[Event], reason: str) -> None:
    """The same through a whole step: blocked, visible, nothing added, nothing sent, the new fact kept."""
    summary = Summary("i", "x", "o", RuntimeStatus.RUNNING, NOW, NOW)
    instance = Instance(summary, 2, execution.started, 1 + len(history), None, [execution.started, *history])
    fact = Event(h.TASK_COMPLETED, NOW, task_id=1, attempt=1, result=Raw(b"1"))
    turn = step(instance, [Arrival(fact, "x")], edited, "", NOW, ENV)
    assert turn.parked
    assert turn.commit is not None
    assert turn.commit.appends == ()
    assert [row.kind for row in turn.commit.put] == ["inbox"]
    assert turn.commit.summary.status is RuntimeStatus.BLOCKED
    assert turn.commit.summary.blocked_reason == reason
    assert turn.invocations == ()
    assert [kept.body for kept in turn.undelivered] == [h.encode_event(msgspec.structs.replace(fact, execution_id="x"))]


def _one_command(call: Callable[[OrchestrationContext], object]) -> Code:
    def run(ctx: OrchestrationContext) -> Generator[Any, Any, None]:
        call(ctx)
        yield ctx.create_timer(1)

    return code_of(run)


@pytest.mark.parametrize(
    ("recorded", "edited", "named"),
    [
        (lambda c: c.send_event("t", "e", 1), lambda c: c.send_event("t", "e", 2), "send_event 'e' .* with input 1"),
        (lambda c: c.send_event("t", "e", 1), lambda c: c.send_event("u", "e", 1), "send_event .* to instance 'u'"),
        (lambda c: c.send_event("t", "e", 1), lambda c: c.send_event("t", "f", 1), "send_event 'f'"),
        (lambda c: c.send_event("t", "e", 1), lambda c: None, "send_event 'e'"),
        (lambda c: c.start_orchestration("s"), lambda c: c.start_orchestration("u"), "start_orchestration 'u'"),
        (lambda c: c.start_orchestration("s", 1), lambda c: c.start_orchestration("s", 2), "with input 2"),
        (lambda c: c.start_orchestration("s", 1), lambda c: c.call_sub_orchestrator("s", 1), "call_sub_orchestrator"),
        (lambda c: c.call_sub_orchestrator("s", 1), lambda c: c.start_orchestration("s", 1), "start_orchestration"),
        (
            lambda c: c.start_orchestration("s", instance_id="a"),
            lambda c: c.start_orchestration("s", instance_id="b"),
            "as instance 'b'",
        ),
    ],
)
def test_what_goes_to_other_instances_must_fit_too(recorded: Any, edited: Any, named: str) -> None:
    execution = begin(_one_command(recorded))
    history = execution.take([], NOW)
    with pytest.raises(Mismatch, match=named):
        replayed(_one_command(edited), execution.started, history)


def test_the_case_of_an_event_s_name_is_no_difference_and_a_recorded_id_wins() -> None:
    ids = []

    def before(ctx: OrchestrationContext) -> None:
        ids.append(ctx.start_orchestration("s"))
        ctx.send_event("t", "Straße", {"a": 1, "b": 2})

    def after(ctx: OrchestrationContext) -> None:
        ids.append(ctx.start_orchestration("s"))
        ctx.send_event("t", "STRASSE", {"b": 2, "a": 1})

    execution = begin(_one_command(before))
    history = execution.take([], NOW)
    history[1] = msgspec.structs.replace(history[1], instance_id="as it was named then")
    assert replayed(_one_command(after), execution.started, history).trigger is not None
    assert ids[1] == "as it was named then"


# ---- cancelling (API, section 3)


def test_a_cancel_is_thrown_at_the_current_yield_and_a_second_one_again() -> None:
    def saga(ctx: OrchestrationContext) -> Generator[Any, Any, list[Any]]:
        seen: list[Any] = []
        try:
            yield ctx.call_activity("a")
        except OrchestrationCancelledError as stop:
            seen.append(stop.reason)
            try:
                yield ctx.call_activity("undo")
            except OrchestrationCancelledError as again:
                seen.append(again.reason)
        return seen

    assert output(drive(saga, cancelled("one"), cancelled("two"))) == ["one", "two"]


def test_a_cancel_that_nobody_handles_ends_it_canceled() -> None:
    def waits(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        return (yield ctx.call_activity("a"))

    async def awaits(ctx: OrchestrationContext) -> Any:
        return await ctx.call_activity("a")

    def raises(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        try:
            return (yield ctx.call_activity("a"))
        finally:
            yield ctx.call_activity("clean up")

    for fn, facts in ((waits, ()), (awaits, ()), (raises, (done(2),))):
        ended = drive(fn, cancelled("why"), *facts)[-1]
        assert (ended.status, bytes(ended.result), ended.failure) == ("CANCELED", b'"why"', None)


@pytest.mark.parametrize(("reason", "said"), [(None, "was cancelled"), ("why", "was cancelled: why")])
def test_what_a_cancel_throws_says_why_if_that_was_said(reason: Any, said: str) -> None:
    def saga(ctx: OrchestrationContext) -> Generator[Any, Any, str]:
        try:
            yield ctx.call_activity("a")
        except OrchestrationCancelledError as stop:
            return str(stop)
        return "never"

    assert output(drive(saga, cancelled(reason))) == f"orchestration 'i' {said}"


def test_an_error_of_the_compensation_is_a_failure() -> None:
    def broken(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        try:
            yield ctx.call_activity("a")
        except OrchestrationCancelledError:
            raise ValueError("can't undo") from None

    ended = drive(broken, cancelled())[-1]
    assert ended.status == "FAILED"
    assert ended.failure is not None
    assert ended.failure.message == "can't undo"


def test_raising_the_error_without_being_cancelled_is_a_failure() -> None:
    def pretends(ctx: OrchestrationContext) -> None:
        raise OrchestrationCancelledError("not asked")

    assert drive(pretends)[-1].status == "FAILED"


@many
@given(life=lives)
def test_a_first_turn_that_creates_its_instance_leaves_what_two_commits_would(life: Life) -> None:
    creation = create("i", life.started, ENV.partitions, "c")
    apart = msgspec.structs.replace(Instance.of_record(uncreated(creation)), version=1)
    together = Instance.of_record(uncreated(creation))
    two, one = (step(instance, [], life.code, "", NOW, ENV) for instance in (apart, together))
    assume(not one.again)  # what continues as new at once takes two
    assert one.commit is not None
    assert two.commit is not None
    both = [*creation.appends, *two.commit.appends]
    assert [e for a in one.commit.appends for e in decode_events(a.events)] == [
        e for a in both for e in decode_events(a.events)
    ]
    assert (one.commit.expect, one.commit.appends[0].start, one.instance.version) == (0, 0, 1)
    assert (one.commit.summary, one.invocations) == (two.commit.summary, two.invocations)
    assert [row.key for row in one.commit.put] == [row.key for row in two.commit.put]
    assert {row.key for row in creation.put} == {*two.commit.drop} - {*one.commit.drop}
    assert one.instance.length == two.instance.length
    assert one.instance.size == sum(len(append.events) for append in one.commit.appends)


def test_terminate_for_somebody_s_child_spares_a_stranger_of_that_id() -> None:
    parent = Parent("p", "px", 1, 1)
    for started, asked, ends in ((None, parent, False), (parent, parent, True), (parent, None, True)):
        execution = begin(orchestrator([Op("activity", "a", 1)], False))
        started_event = msgspec.structs.replace(execution.started, parent=started)
        history = [started_event, *execution.take([], NOW)]
        summary = Summary("i", "x", "o", RuntimeStatus.RUNNING, NOW, NOW)
        instance = Instance(summary, 2, started_event, len(history), None, history)
        request = terminate_request(Raw(b"1"), NOW, recursive=True, parent=asked)
        turn = step(instance, [Arrival(request, "", "in/1")], execution.code, "", NOW, ENV)
        assert turn.instance.summary.status.finished == ends
        assert turn.commit is not None
        assert "in/1" in turn.commit.drop


def test_the_same_code_is_no_mismatch_with_renamed_keys_or_spaces_in_its_input() -> None:
    def before(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        return (yield ctx.call_activity("a", {"x": 1, "y": [1, 2]}))

    def after(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        return (yield ctx.call_activity("a", {"y": [1, 2], "x": 1}))

    execution = begin(code_of(before))
    history = execution.take([], NOW)
    assert replayed(code_of(after), execution.started, history).trigger is not None


def test_code_that_ends_where_its_history_goes_on_is_found() -> None:
    ops = [Op("activity", "a", 1), Op("activity", "b", 2)]
    execution = begin(orchestrator(ops, False))
    history = execution.take([], NOW)
    history += execution.take(settle(history), NOW)
    with pytest.raises(Mismatch, match=r"event 5 is call_activity 'b'.*the code: return"):
        replayed(orchestrator(ops[:1], False), execution.started, history)


def test_code_that_swallows_everything_can_t_hide_a_difference() -> None:
    def greedy(ctx: OrchestrationContext) -> Generator[Any, Any, str]:
        try:
            yield ctx.call_activity("renamed")
        except BaseException:  # what a careless user writes
            yield ctx.call_activity("rescue")
        return "never"

    execution = begin(orchestrator([Op("activity", "a", 1)], False))
    history = execution.take([], NOW)
    with pytest.raises(Mismatch, match="'renamed'"):
        replayed(code_of(greedy), execution.started, history)


# ---- external events (API, section 3)


def drive(fn: Orchestration, *facts: Event) -> list[Event]:
    """Run an orchestrator over these facts, one a turn, then check that batches and replay agree; its history."""
    code = code_of(fn)
    execution = begin(code)
    history = execution.take([], NOW)
    for fact in facts:
        history = [*history, *execution.take([fact], NOW)]
    at_once = begin(code)
    assert stored(without_turns(at_once.take(list(facts), NOW))) == stored(without_turns(history))
    assert place(replayed(code, execution.started, history)) == place(execution) == place(at_once)
    return history


def output(history: Sequence[Event]) -> Any:
    assert history[-1].type == h.EXECUTION_COMPLETED, "it has not ended"
    assert history[-1].failure is None, history[-1].failure
    return msgspec.json.decode(history[-1].result)


def done(number: int, value: str = "done") -> Event:
    return Event(h.TASK_COMPLETED, NOW, task_id=number, attempt=1, result=Raw(msgspec.json.encode(value)))


def fired(number: int, attempt: int = 0) -> Event:
    return Event(h.TIMER_FIRED, NOW, task_id=number, attempt=attempt)


@many
@given(events=st.integers(1, 5), waits=st.integers(1, 5), order=st.integers(0, 2**32))
def test_early_events_are_kept_and_each_satisfies_one_wait_oldest_first(events: int, waits: int, order: int) -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, list[str]]:
        taken = []
        for _ in range(waits):
            yield ctx.call_activity("step", ["step", 0])
            taken.append((yield ctx.wait_for_external_event("Go")))
        return taken

    code = code_of(orchestration)
    execution = begin(code)
    history = execution.take([], NOW)
    random, sent = Random(order), 0
    while not execution.finished:
        possible = answers(history)
        if sent < events and (not possible or random.random() < 0.5):
            fact, sent = raised(random.choice(("go", "GO", "Go")), f"e{sent}"), sent + 1
        elif possible:
            fact = possible[0]
        else:
            break
        history = [*history, *execution.take([fact], NOW)]
    if events >= waits:
        assert output(history) == [f"e{number}" for number in range(waits)]
    else:
        assert not execution.finished
    assert place(replayed(code, execution.started, history)) == place(execution)


def test_waits_that_are_listened_to_get_events_in_order_of_creation() -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        first = ctx.wait_for_external_event("go")
        second = ctx.wait_for_external_event("go")
        return (yield ctx.task_all([second, first]))

    assert output(drive(orchestration, raised("go", "old"), raised("go", "new"))) == ["new", "old"]


def test_an_abandoned_wait_takes_nothing_until_it_is_yielded_again() -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        abandoned = ctx.wait_for_external_event("go")
        yield ctx.task_any([abandoned, ctx.call_activity("a")])
        later = yield ctx.wait_for_external_event("go")
        yield ctx.call_activity("b")
        return [later, abandoned.is_completed, (yield abandoned)]

    history = drive(orchestration, done(2), raised("go", "0"), raised("go", "1"), done(4))
    assert output(history) == ["0", False, "1"]


def test_a_wait_abandoned_when_a_kept_event_won_takes_nothing_while_a_call_is_waited_for() -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        approve, reject = ctx.wait_for_external_event("approve"), ctx.wait_for_external_event("reject")
        yield ctx.create_timer(10)
        yield ctx.task_any([approve, reject])
        yield ctx.call_activity("a")
        return [(yield ctx.wait_for_external_event("reject")), reject.is_completed]

    facts = [raised("approve", "yes"), fired(3), raised("reject", "no"), done(4)]
    assert output(drive(orchestration, *facts)) == ["no", False]


def test_an_event_of_another_name_satisfies_nobody_and_stays() -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        return [(yield ctx.wait_for_external_event("straße")), (yield ctx.wait_for_external_event("other"))]

    assert output(drive(orchestration, raised("OTHER", "o"), raised("STRASSE", "s"))) == ["s", "o"]


def _late(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
    wait = ctx.wait_for_external_event("go", timeout=5)
    yield ctx.call_activity("a")
    try:
        return (yield wait)
    except TimeoutError:
        return "timeout"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ((raised("go", "early"), fired(1), done(2)), "early"),  # recorded before the timer fired: it wins
        ((fired(1), raised("go", "late"), done(2)), "timeout"),
        ((fired(1), done(2)), "timeout"),
        ((done(2), fired(1)), "timeout"),
        ((done(2), raised("go", "in time"), fired(1)), "in time"),
        ((raised("go", "early"), fired(1), fired(1), done(2)), "early"),
    ],
)
def test_a_timeout_against_a_recorded_event(facts: tuple[Event, ...], expected: str) -> None:
    code = code_of(_late)
    execution = begin(code)
    history = execution.take([], NOW)
    for fact in facts:
        history = [*history, *execution.take([fact], NOW)]
    assert output(history) == expected
    assert place(replayed(code, execution.started, history)) == place(execution)


def test_an_event_behind_the_line_of_one_wait_goes_to_the_next() -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        late = ctx.wait_for_external_event("go", timeout=5)
        yield ctx.call_activity("a")
        first = yield ctx.wait_for_external_event("go")
        yield ctx.call_activity("b")
        both = yield ctx.task_all([late, ctx.wait_for_external_event("go")], return_exceptions=True)
        return [first, type(both[0]).__name__, both[1]]

    facts = [raised("go", "early"), fired(1), done(2), raised("go", "behind"), done(4)]
    assert output(drive(orchestration, *facts)) == ["early", "TimeoutError", "behind"]


@pytest.mark.parametrize("early", [["other", "go"], ["go", "other"], ["go"], ["other", "x", "go", "y"]])
def test_the_line_of_a_wait_stays_where_it_is_as_others_take_events_around_it(early: list[str]) -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        late = ctx.wait_for_external_event("go", timeout=5)
        yield ctx.call_activity("a")
        taken = [(yield ctx.wait_for_external_event("other")), (yield late)]
        return [*taken, (yield ctx.wait_for_external_event("go"))]

    before, after = [raised(name, "early") for name in early], [raised(name, "late") for name in ("other", "go")]
    other = "early" if "other" in early else "late"
    assert output(drive(orchestration, *before, fired(1), *after, done(2))) == [other, "early", "late"]


def test_an_event_is_found_behind_others_that_nobody_waits_for() -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        yield ctx.call_activity("a")
        return [(yield ctx.wait_for_external_event("go")), (yield ctx.wait_for_external_event("other"))]

    facts = [raised(name, name) for name in ("x", "other", "y", "go")]
    assert output(drive(orchestration, *facts, done(1))) == ["go", "other"]


@pytest.mark.parametrize(("early", "over"), [([], True), (["other"], True), (["go"], False)])
def test_a_wait_times_out_when_its_timer_fires_unless_an_event_is_there(early: list[str], over: bool) -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        wait = ctx.wait_for_external_event("go", timeout=5)
        yield ctx.call_activity("a")
        return wait.is_completed

    assert output(drive(orchestration, *(raised(name, "") for name in early), fired(1), done(2))) is over


def test_a_repeated_timer_does_not_let_later_events_in() -> None:
    """Found by the simulator: the second firing moved the line between events before and after the timeout."""

    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        wait = ctx.wait_for_external_event("go", timeout=5)
        yield ctx.call_activity("a")
        first = yield ctx.wait_for_external_event("go")
        try:
            return [first, (yield wait)]
        except TimeoutError:
            return [first, "timeout"]

    code = code_of(orchestration)
    execution = begin(code)
    history = execution.take([], NOW)
    for fact in (raised("go", "early"), fired(1), raised("go", "late"), fired(1), done(2)):
        history = [*history, *execution.take([fact], NOW)]
    assert output(history) == ["early", "timeout"]
    assert [event.type for event in history].count(h.TIMER_FIRED) == 1


# ---- the first of several


@many
@given(settled=st.permutations(range(1, 6)), listed=st.permutations(range(5)), seen=st.integers(1, 5))
def test_task_any_takes_the_earliest_in_history_whatever_the_order_of_the_list(
    settled: list[int], listed: list[int], seen: int
) -> None:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        tasks = [ctx.call_activity("a", number) for number in range(5)]
        yield ctx.wait_for_external_event("go")
        winner = yield ctx.task_any([tasks[number] for number in listed])
        return tasks.index(winner)

    facts = [done(number) for number in settled[:seen]]
    assert output(drive(orchestration, *facts, raised("go", ""))) == settled[0] - 1
    assert output(drive(orchestration, raised("go", ""), *facts)) == settled[0] - 1


# ---- retries


def task_failed(number: int, attempt: int) -> Event:
    failure = FailureDetails("ValueError", "boom", hierarchy=("ValueError", "Exception"))
    return Event(h.TASK_FAILED, NOW, task_id=number, attempt=attempt, failure=failure)


def _retrying(policy: RetryPolicy | None) -> Code:
    def orchestration(ctx: OrchestrationContext) -> Generator[Any, Any, str]:
        try:
            yield ctx.call_activity(ActivityRef("flaky", retry=policy))
        except Exception:
            return "gave up"
        return "done"

    return code_of(orchestration)


policies = st.none() | st.builds(
    RetryPolicy,
    st.integers(1, 5),
    st.floats(0, 100),
    st.floats(1, 3),
    st.none() | st.floats(0, 50),
    st.none() | st.floats(0, 200),
    st.floats(0, 1),
)


@many
@given(policy=policies, edited=policies, failures=st.integers(1, 6))
def test_recorded_delays_win_over_an_edited_policy(
    policy: RetryPolicy | None, edited: RetryPolicy | None, failures: int
) -> None:
    execution = begin(_retrying(policy))
    history = execution.take([], NOW)
    attempt = 1
    while attempt <= failures and not execution.finished:
        history = [*history, *execution.take([task_failed(1, attempt)], NOW)]
        attempt += 1
        if not execution.finished:
            assert replayed(_retrying(edited), execution.started, history).tasks[1].order == 0
            history = [*history, *execution.take([fired(1, attempt)], NOW)]
    timers = [event for event in history if event.type == h.TIMER_CREATED]
    scheduled = [event for event in history if event.type == h.TASK_SCHEDULED]
    allowed = 1 if policy is None else policy.max_attempts
    assert len(scheduled) <= allowed
    assert [event.attempt for event in scheduled] == list(range(1, len(scheduled) + 1))
    assert [event.attempt for event in timers] == list(range(2, len(timers) + 2))
    assert {event.task_id for event in (*timers, *scheduled)} == {1}
    cold = replayed(_retrying(edited), execution.started, history)
    assert cold.finished == execution.finished
    if not execution.finished:
        assert stored(cold.take([done_attempt(attempt)], NOW)) == stored(execution.take([done_attempt(attempt)], NOW))


def done_attempt(attempt: int) -> Event:
    return msgspec.structs.replace(done(1), attempt=attempt)


def test_a_pending_retry_goes_on_although_the_policy_is_gone() -> None:
    execution = begin(_retrying(RetryPolicy(3, first_interval=10)))
    history = execution.take([], NOW)
    history += execution.take([task_failed(1, 1)], NOW)
    assert history[-1].fire_at == NOW + timedelta(seconds=10)
    cold = replayed(_retrying(None), execution.started, history)
    assert [event.type for event in cold.take([fired(1, 2)], NOW)][-1] == h.TASK_SCHEDULED
    assert cold.take([task_failed(1, 2)], NOW)[-1].type == h.EXECUTION_COMPLETED  # from now on today's policy decides


def test_a_late_repeat_of_one_retry_timer_does_not_end_the_next_one() -> None:
    """Found by the simulator, with two owners: the timers of all attempts had one key, and the instance was stuck."""
    code = _retrying(RetryPolicy(5, first_interval=1))
    execution = begin(code)
    history = execution.take([], NOW)
    for fact in (task_failed(1, 1), fired(1, 2)):
        history = [*history, *execution.take([fact], NOW)]
    summary = Summary("i", "x", "o", RuntimeStatus.RUNNING, NOW, NOW)
    instance = Instance(summary, 2, execution.started, 1 + len(history), None, [execution.started, *history])
    turn = step(instance, [Arrival(task_failed(1, 2), "x")], code, "", NOW, ENV)
    assert turn.commit is not None
    (timer,) = [row for row in turn.commit.put if row.kind == "timer"]
    repeat = Arrival(fired(1, 2), "x", timer_key("x", 1, 2))
    after = step(turn.instance, [repeat], code, "", NOW, ENV)
    assert after.commit is not None
    assert after.commit.appends == ()
    assert timer.key not in (*turn.commit.drop, *after.commit.drop)


def test_the_outcome_of_a_superseded_attempt_is_ignored() -> None:
    execution = begin(_retrying(RetryPolicy(3, first_interval=1)))
    execution.take([], NOW)
    execution.take([task_failed(1, 1)], NOW)
    assert execution.take([done_attempt(1), done_attempt(2)], NOW) == []  # its next attempt has not begun
    execution.take([fired(1, 2)], NOW)
    assert execution.take([done_attempt(1), fired(1, 2)], NOW) == []
    assert execution.take([done_attempt(2)], NOW)[-1].type == h.EXECUTION_COMPLETED


def test_what_changes_nothing_hides_nothing_that_comes_behind_it() -> None:
    def both(ctx: OrchestrationContext) -> Generator[Any, Any, Any]:
        return (yield [ctx.call_activity("a"), ctx.call_activity("b")])

    execution = begin(code_of(both))
    for facts in ([], [done(1)]):
        execution.take(facts, NOW)
    turn = execution.take([done(1), done(2)], NOW)
    assert (execution.taken, output(turn)) == (1, ["done", "done"])


def test_jitter_is_the_same_for_whoever_takes_the_turn_again() -> None:
    def retried() -> bytes:
        execution = begin(_retrying(RetryPolicy(2, first_interval=10, jitter=0.5)))
        execution.take([], NOW)
        return stored(execution.take([task_failed(1, 1)], NOW))

    assert retried() == retried()


def test_whoever_watches_sees_each_step_of_the_code_as_a_later_one() -> None:
    """Or a long replay would look like code that does not yield."""
    seen: list[int] = []

    def steps(ctx: OrchestrationContext) -> Generator[Any, Any, None]:
        for _ in range(3):
            seen.append(execution.watch.ticks)
            yield []

    execution = begin(code_of(steps))
    execution.take([], NOW)
    assert len(seen) == 3
    assert seen == sorted({*seen})
