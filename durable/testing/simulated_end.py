"""What must be true of a simulated world that has come to its end: all is done, as it had to be, and nothing is left.

The judge (`simulated_judge`) has looked at each commit; here the whole is looked at, with the store as it stands.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from ..app.claiming import ClaimedStore
from ..engine.instance import Env, Instance
from ..engine.step import revive
from ..model import history as h
from ..model.history import Event, Raw, decode_event, decode_events
from ..model.limits import Limits
from ..model.names import TRIGGERS
from ..model.status import RuntimeStatus, Summary
from ..payload.claims import names_in, place, redeemed
from ..ports import KEPT, ExecutionKey, Want
from ..replay.guard import Watch
from ..replay.mismatch import Mismatch
from .allowed_results import CANCEL, Outcome, fits_program, shows_a_cancel
from .programs import CODES, NOBODY, Node, root_cause
from .simulated_client import Client
from .simulated_judge import Wrong
from .simulated_world import World, left


def check_the_end(world: World) -> None:
    """Raises Wrong."""
    store, judge = world.store.inner, world.store.judge
    _put_payloads_back(world)
    if judge.unfinished:
        stuck = ", ".join(f"{i} ({_standing(world, i)})" for i in judge.unfinished)
        raise Wrong(f"stuck {world.now - world.plan.heal:.0f} s after the last fault: {stuck}")
    terminated: set[str] = set()
    for client in world.clients:
        if client.terminated:
            terminated.add(client.instance_id)
        if client.instance_id in judge.gone:
            continue
        summary = _summary(world, client.instance_id)
        _check_result(summary, client.script.program, client.terminated, bool(client.cancels))
        if client.raises_in_order:
            _check_what_was_raised(world, client)
    _check_children(world, terminated)
    if world.triggers is not None:
        world.triggers.check()
        for instance_id, program in world.triggers.started().items():
            _check_result(_summary(world, instance_id), program, terminated=False)
    _check_what_was_sent(world)
    over = [
        row for row in left(store._rows.values()) if not (row.kind == "timer" and _was_stopped(world, row.instance_id))
    ]
    if over:
        raise Wrong(f"rows left behind: {', '.join(f'{row.kind} {row.key} of {row.instance_id}' for row in over)}")
    for row in store._rows.values():
        kept_by = _summary(world, row.instance_id) if row.group == KEPT else None
        if kept_by and (kept_by.status is not RuntimeStatus.FAILED or kept_by.execution_id not in row.key):
            raise Wrong(f"row {row.key} is kept for a rewind, but {row.instance_id} is {kept_by.status}")
    if world.broker.parked:
        raise Wrong(f"messages could not be read: {world.broker.parked}")
    held = [tag for tags in world.broker.unsettled.values() for tag in tags]
    if held:
        raise Wrong(f"deliveries {held} were never settled: each takes a place from its worker for ever")
    for execution_id, (instance_id, _) in judge.executions.items():
        _check_replay(world, instance_id, execution_id)
    if not world.faults:
        several = [key for key, count in world.runs.items() if count != 1]
        if several:
            raise Wrong(f"without any fault, these activities ran more than once: {several}")
    _check_blobs(world)


def _put_payloads_back(world: World) -> None:
    """So that whoever looks into the store from here on sees them."""
    store, blobs = world.store.inner, {name: data for name, (data, _) in world.blobs.kept.items()}
    if blobs:
        missing = {n for rows in store._history.values() for _, row in rows for n in names_in(row)} - blobs.keys()
        if missing:
            raise Wrong(f"blobs that a history names are missing: {sorted(missing)}")
        for execution_id, rows in store._history.items():
            store._history[execution_id] = [(start, redeemed(row, blobs)) for start, row in rows]
        for instance_id, found in store._instances.items():
            output = Raw(redeemed(found.summary.output, blobs))
            summary = msgspec.structs.replace(found.summary, output=output)
            store._instances[instance_id] = found._replace(summary=summary)


def _check_blobs(world: World) -> None:
    """When all is purged, what is left is nobody's: of starts that never were."""
    store = world.store.inner
    known = store.summaries(sorted(store._instances))
    ClaimedStore(store, world.blobs, 0).purge([ExecutionKey(s.instance_id, s.execution_id) for s in known if s])
    places = {place(instance_id, execution) for execution, (instance_id, _) in world.store.judge.executions.items()}
    left = [name for name in world.blobs.kept if name.startswith(tuple(places))]
    if left:
        raise Wrong(f"blobs are left of what was purged: {left}")


def _summary(world: World, instance_id: str) -> Summary:
    record = world.store.inner.load([Want(instance_id)])[0]
    if record is None:
        raise Wrong(f"{instance_id} is not there")
    return record.summary


def _standing(world: World, instance_id: str) -> str:
    summary = _summary(world, instance_id)
    rows = [row.key for row in world.store.inner._rows.values() if row.instance_id == instance_id]
    return f"{summary.status} {summary.blocked_reason} rows {rows}"


def _was_stopped(world: World, instance_id: str) -> bool:
    if instance_id in world.store.judge.gone:
        return True  # a row of it ends when its time has come
    # Which of several waits of one name an event went to, a history does not say: a timer may outlive a termination.
    return _summary(world, instance_id).status is RuntimeStatus.TERMINATED


def _check_result(summary: Summary, program: Node, terminated: bool, cancelled: bool = False) -> None:
    if not summary.status.finished:
        raise Wrong(f"{summary.instance_id} is {summary.status}, and its history has ended")
    if summary.status is RuntimeStatus.CANCELED:
        if not cancelled or msgspec.json.decode(summary.output) != CANCEL:
            raise Wrong(f"{summary.instance_id} is CANCELED with {bytes(summary.output)!r}, and nobody asked for it")
        return
    if summary.status is RuntimeStatus.TERMINATED:
        if not terminated or bytes(summary.output) != b'"stop"':
            raise Wrong(f"{summary.instance_id} is TERMINATED with {bytes(summary.output)!r}, and nobody asked for it")
        return
    if summary.status is RuntimeStatus.FAILED:
        assert summary.failure is not None
        outcome = Outcome(False, root_cause(summary.failure))
    else:
        outcome = Outcome(True, msgspec.json.decode(summary.output))
    if shows_a_cancel(outcome.value) and not cancelled:
        raise Wrong(f"{summary.instance_id} ended with {outcome}, and nobody cancelled it")
    if not fits_program(program, outcome):
        raise Wrong(f"{summary.instance_id} ended with {outcome}, which its program can't give: {program}")


def _check_what_was_raised(world: World, client: Client) -> None:
    """Of what was raised nothing is left out but what came last, when it had ended."""
    mine = [e for e, (instance_id, _) in world.store.judge.executions.items() if instance_id == client.instance_id]
    events = [event for execution_id in mine for event in _events(world, execution_id)]
    recorded = {bytes(event.input) for event in events if event.type == h.EVENT_RAISED}
    raised = [msgspec.json.encode(event.data) for event in client.script.events]
    lost = [data for data in raised[: len(recorded.intersection(raised))] if data not in recorded]
    if lost:
        raise Wrong(f"{client.instance_id} has taken what came after {lost}, and not that")


def _check_children(world: World, terminated: set[str]) -> None:
    for execution_id, (instance_id, _) in world.store.judge.executions.items():
        started = _events(world, execution_id)[0]
        if started.parent is None or started.parent.instance_id == TRIGGERS:
            continue
        root = instance_id.split(":")[0]
        summary = _summary(world, instance_id)
        if summary.execution_id == execution_id:
            program = msgspec.json.decode(started.input)
            if summary.status is not RuntimeStatus.FAILED and summary.status is not RuntimeStatus.TERMINATED:
                program = [program[0], program[1] + len(program[2]), []]
            _check_result(summary, program, root in terminated)


def _check_what_was_sent(world: World) -> None:
    """Detached starts have started, and what was sent to nobody is kept, each of it once."""
    sent = Counter(bytes(event.input) for event in world.store.judge.sent_by_gone if event.instance_id == NOBODY)
    for execution_id, (instance_id, _) in world.store.judge.executions.items():
        events = _events(world, execution_id)
        start_at = events[0].fire_at
        first = next((e for e in events if e.type == h.ORCHESTRATOR_STARTED), None)
        ended_at_once = len(events) > 2 and events[-2].type == h.EXECUTION_TERMINATED
        if start_at is not None and first is not None and first.timestamp < start_at and not ended_at_once:
            raise Wrong(f"{instance_id} began at {first.timestamp}, and not at {start_at}")
        for event in events:
            if event.type == h.EVENT_SENT and event.instance_id == NOBODY:
                sent[bytes(event.input)] += 1
            elif (
                event.type == h.CHILD_CREATED
                and event.status == h.DETACHED
                and event.instance_id not in world.store.judge.gone
            ):
                summary = _summary(world, event.instance_id)
                _check_result(summary, msgspec.json.decode(event.input), terminated=False)
    rows = world.store.inner._rows.values()
    kept = Counter(bytes(decode_event(row.body).input) for row in rows if row.instance_id == NOBODY)
    if kept != sent:
        raise Wrong(f"sent to nobody was {sent}, kept is {kept}")


def _events(world: World, execution_id: str) -> list[Event]:
    return [event for _, row in world.store.inner._history[execution_id] for event in decode_events(row)]


def _check_replay(world: World, instance_id: str, execution_id: str) -> None:
    """A fresh execution, fed with the stored history, asks for the very commands that are stored."""
    turns = [decode_events(row) for _, row in world.store.inner._history[execution_id]]
    events = [event for turn in turns for event in turn]
    if len(events) > 1 and events[-2].type == h.EXECUTION_TERMINATED:
        turns = turns[:-1]
    started = events[0]
    summary = msgspec.structs.replace(
        _summary(world, instance_id), execution_id=execution_id, status=RuntimeStatus.RUNNING
    )
    stored = [event for turn in turns for event in turn]
    env = Env("replay", 1.0, str, world.plan.partitions, Limits(), Watch())
    try:
        execution = revive(
            Instance(summary, 1, started, len(events), None, stored),
            CODES[started.name],
            env,
        )
    except Mismatch as mismatch:
        raise Wrong(f"{instance_id}: its own history does not replay: {mismatch.reason}") from mismatch
    ended = events[-1].type in (h.EXECUTION_COMPLETED, h.CONTINUE_AS_NEW) and events[-2].type != h.EXECUTION_TERMINATED
    if execution.finished != ended:
        raise Wrong(f"{instance_id}: replayed, it is {'' if execution.finished else 'not '}finished")
