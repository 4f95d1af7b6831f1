"""What `durable doctor` finds: who works here, what waits for whom, what is overdue, and what to do about each."""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from datetime import datetime
from typing import Final

import msgspec

from ..engine.ledger import Ledger
from ..engine.triggering import CALL
from ..model.errors import TransportError
from ..model.history import decode_event
from ..model.status import DEFAULT_GROUP, DEFAULT_QUEUE, RuntimeStatus, Summary
from ..payload.claims import concerns_blobs
from ..payload.codec import shown
from ..ports import PARKED, Beat, ExecutionKey, Query, Row, Store, Transport
from ..runtime import wire
from ..triggers.hub import Hub
from .listing import listed

LOOKS_DEAD_AFTER: Final = 10.0  # seconds between two clocks: good enough for people, never for ownership
OVERDUE: Final = 60.0
_LOOKED_AT: Final = 1_000  # unfinished instances, at most
_SHOWN: Final = 10
_TURNS_READ: Final = 1_000  # of one history, at most
_NOBODY_HAS: Final = "no living worker has"

_UNFINISHED: Final = frozenset(
    {RuntimeStatus.PENDING, RuntimeStatus.RUNNING, RuntimeStatus.SUSPENDED, RuntimeStatus.BLOCKED}
)

WAITING: Final = frozenset({RuntimeStatus.PENDING, RuntimeStatus.RUNNING})  # for somebody who serves them


class WorkerSeen(msgspec.Struct, frozen=True):
    """A worker that showed itself.

    orchestrators: None of one that does not say. age: seconds since its last beat, by two clocks. alive: whether that
    is short.
    """

    pid: int
    host: str
    groups: tuple[str, ...]
    queues: tuple[str, ...]
    activities: tuple[str, ...]
    orchestrators: tuple[str, ...] | None
    age: float
    alive: bool


class Finding(msgspec.Struct, frozen=True):
    """Something that needs attention: what, and what to do."""

    what: str
    remedy: str


class Diagnosis(msgspec.Struct, frozen=True):
    """workers: those seen lately. waiting: messages by queue, where there are any. unfinished: instances, by status.

    triggers: how many there are, delayed_events and dead_letters likewise.
    """

    workers: list[WorkerSeen]
    unfinished: dict[str, int]
    waiting: dict[str, int]
    triggers: dict[str, int]
    findings: list[Finding]


def living(beats: Iterable[Beat]) -> list[Beat]:
    """Those that seem to be alive, to somebody who looks once."""
    now = time.time()
    return [beat for beat in beats if not beat.at or abs(now - beat.at) < LOOKS_DEAD_AFTER]


class Service:
    """What somebody serves: living workers say so; of a program of its own, which takes from a work queue, only the
    broker knows, and nobody knows which activities it has."""

    def __init__(self, alive: Sequence[Beat], transport: Transport | None, workspace: str) -> None:
        self._alive = alive
        self._transport = transport
        self._workspace = workspace
        self._others: dict[str, bool] = {}

    def lacks_activity(self, name: str, queue: str) -> str:
        """Why nobody runs this activity, in words; '' where somebody does, or may."""
        workers = [beat for beat in self._alive if queue in beat.queues]
        if any(name in beat.activities for beat in workers) or self._has_others(queue, len(workers)):
            return ""
        if not workers:
            return f"no living worker serves queue {queue!r}"
        return f"{_NOBODY_HAS} it; {_have(name for beat in workers for name in beat.activities)}"

    def lacks_orchestrator(self, summary: Summary) -> str:
        """Why nobody begins with this instance, in words; '' where somebody does, may, or serves its group at all."""
        if summary.name == CALL:  # every worker has it
            return ""
        workers = [beat for beat in self._alive if summary.group in beat.groups]
        if not workers:
            return ""
        known: set[str] = set()
        for beat in workers:
            if beat.orchestrators is None:  # of an older version
                return ""
            known.update(beat.orchestrators)
        name, version = summary.name, summary.version
        fits = {name, f"{name} {version}"} & known if version else {k for k in known if f"{k} ".startswith(f"{name} ")}
        if fits:
            return ""
        return f"{_NOBODY_HAS} orchestrator {name!r}{f' in version {version!r}' if version else ''}; {_have(known)}"

    def _has_others(self, queue: str, workers: int) -> bool:
        if queue not in self._others:
            self._others[queue] = self._consumers(queue) > workers
        return self._others[queue]

    def _consumers(self, queue: str) -> int:
        if self._transport is None:
            return 0
        try:
            depth = self._transport.depth(wire.work_queue(self._workspace, queue))
        except TransportError:  # who asks how an instance stands gets an answer without the broker too
            return 0
        return 0 if depth is None else depth.consumers


def _have(names: Iterable[str]) -> str:
    some = sorted(set(names))
    more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
    return f"they have: {', '.join(some[:_SHOWN]) or 'none'}{more}"


def unserved(store: Store, summary: Summary, service: Service) -> str:
    """What of an instance nobody takes, in words: it, or its open activities; '' for nothing.

    Of a history longer than a thousand turns nothing is said: what its beginning leaves open may have ended since.
    """
    if summary.status is RuntimeStatus.PENDING:
        return service.lacks_orchestrator(summary)
    key = ExecutionKey(summary.instance_id, summary.execution_id)
    rows = store.history(key, 0, _TURNS_READ)
    if rows.next is not None:
        return ""
    waits = [
        f"activity {event.name!r} (task {event.task_id}) waits: {why}"
        for event in Ledger.of_rows([row for _, row in rows.items]).tasks.values()
        if (why := service.lacks_activity(event.name, event.queue or DEFAULT_QUEUE))
    ]
    more = f" (and {len(waits) - 3} more)" if len(waits) > 3 else ""
    return "; ".join(waits[:3]) + more


def diagnose(
    store: Store, members: Sequence[Beat], transport: Transport | None, workspace: str, events: str, hub: Hub
) -> Diagnosis:
    """Look at everything once. events: over what those of this client travel. hub: the triggers. Raises StoreError."""
    alive = living(members)
    findings: list[Finding] = []
    page = listed(store, Query(status=_UNFINISHED, limit=_LOOKED_AT))
    groups = {DEFAULT_GROUP, *(s.group for s in page.items), *(g for beat in members for g in beat.groups)}
    findings += _about_events(alive, events)
    findings += _about_groups(page.items, alive)
    findings += _about_instances(store, page.items, Service(alive, transport, workspace) if alive else None)
    findings += _about_triggers(hub, alive)
    findings += _about_rows(store, groups)
    findings += _about_parked_events(store)
    waiting: dict[str, int] = {}
    if transport is not None:
        waiting, found = _about_queues(transport, workspace, alive)
        findings += found
    now = time.time()
    workers = [
        WorkerSeen(
            b.pid, b.host, b.groups, b.queues, b.activities, b.orchestrators, round(max(0.0, now - b.at), 1), b in alive
        )
        for b in members
    ]
    unfinished = dict(Counter(s.status.value for s in page.items))
    delayed = sum(not waits.stage for waits in hub.waiting.values())
    triggers = {"triggers": len(hub.ids), "delayed_events": delayed, "dead_letters": len(hub.dead)}
    return Diagnosis(workers, unfinished, waiting, triggers, findings)


def _about_events(alive: Sequence[Beat], mine: str) -> list[Finding]:
    """Whether all send to the same place; a worker of an older version does not say."""
    ways: dict[str, list[str]] = {mine: ["this client"]}
    for beat in alive:
        if beat.events is not None:
            ways.setdefault(beat.events, []).append(f"worker {beat.pid} on {beat.host}")
    if len(ways) == 1:
        return []
    told = "; ".join(f"{way} ({', '.join(users[:_SHOWN])})" for way, users in ways.items())
    remedy = "give all clients and workers the same DURABLE_EVENTS_URL, then start these workers again"
    return [
        Finding(
            f"events travel over {told}: unless these are names of one broker, who uses one finds nothing of the other",
            remedy,
        )
    ]


def worker_command(group: str) -> str:
    """What to type in a shell for a worker of this group."""
    return "durable worker MODULE" + ("" if group == DEFAULT_GROUP else f" --group {shlex.quote(group)}")


def _about_groups(unfinished: Sequence[Summary], alive: Sequence[Beat]) -> list[Finding]:
    served = {group for beat in alive for group in beat.groups}
    count = Counter(summary.group for summary in unfinished if summary.group not in served)
    return [
        Finding(
            f"{number} unfinished orchestrations of group {group!r}, and no living worker serves it",
            f"start one: {worker_command(group)}",
        )
        for group, number in count.items()
    ]


def _about_instances(store: Store, unfinished: Sequence[Summary], service: Service | None) -> list[Finding]:
    """service: None where nobody works at all, which is a finding of its own."""
    findings: list[Finding] = []
    for summary in unfinished:
        if summary.status is RuntimeStatus.BLOCKED:
            why = shown(summary.blocked_reason)
            goes_on = "as this says" if concerns_blobs(why) else "under a worker whose code fits"
            findings.append(
                Finding(f"{summary.instance_id!r} is blocked: {why}", f"it goes on {goes_on}; or terminate it")
            )
        elif service and summary.status in WAITING and (why := unserved(store, summary, service)):
            what = f"{summary.instance_id!r}: {why}"
            code = f"start a worker with a module that has it: {worker_command(summary.group)}"
            findings.append(Finding(what, code if _NOBODY_HAS in why else "start a worker with --queue for it"))
    return findings


def _about_triggers(hub: Hub, alive: Sequence[Beat]) -> list[Finding]:
    findings: list[Finding] = []
    if hub.ids and not any(DEFAULT_GROUP in beat.groups for beat in alive):
        what = f"{_number(hub.ids, 'trigger')}, and no living worker serves group {DEFAULT_GROUP!r}, which they need"
        findings.append(Finding(what, f"start one: {worker_command(DEFAULT_GROUP)}"))
    if hub.dead:
        what = f"{_number(hub.dead, 'dead letter')}: events for which a trigger raised each time, or that are none"
        findings.append(Finding(what, "look at them: durable trigger dead-letter list; then replay or delete each"))
    return findings


def _number(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _about_rows(store: Store, groups: Iterable[str]) -> list[Finding]:
    """Work that should have been looked at a minute ago."""
    until = time.time() - OVERDUE
    overdue: Counter[str] = Counter()
    oldest: Row | None = None
    for group in groups:
        for partition in range(store.partitions):
            for row in store.due(partition, group, until, _LOOKED_AT).items:
                overdue[row.kind] += 1
                if oldest is None or row.due_at < oldest.due_at:
                    oldest = row
    if oldest is None:
        return []
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(overdue.items()))
    since = datetime.fromtimestamp(oldest.due_at).astimezone().isoformat(timespec="seconds")
    what = f"overdue rows: {kinds}; the oldest is {oldest.key!r} of {oldest.instance_id!r}, due since {since}"
    return [Finding(what, "workers look every 5 s: is one running, is the machine overloaded, does its log complain?")]


def _about_parked_events(store: Store) -> list[Finding]:
    """What orchestrations sent to others that do not exist, or have ended."""
    parked: dict[str, list[str]] = {}
    for partition in range(store.partitions):
        for row in store.due(partition, PARKED, math.inf, _LOOKED_AT).items:
            parked.setdefault(row.instance_id, []).append(decode_event(row.body).name)
    findings: list[Finding] = []
    for target, names in list(parked.items())[:_SHOWN]:
        wait = "event waits" if len(names) == 1 else "events wait"
        what = f"{len(names)} {wait} for an orchestration {target!r}, which does not exist or has ended: "
        shown = ", ".join(map(repr, dict.fromkeys(names[:5])))
        findings.append(Finding(what + shown, "one that starts under this id takes them"))
    if len(parked) > _SHOWN:
        more = f"events wait for {len(parked) - _SHOWN} more orchestrations that do not exist or have ended"
        findings.append(Finding(more, "look for a wrong id in ctx.send_event"))
    return findings


def _about_queues(transport: Transport, workspace: str, alive: Sequence[Beat]) -> tuple[dict[str, int], list[Finding]]:
    queues = {DEFAULT_QUEUE, *(queue for beat in alive for queue in beat.queues)}
    waiting: dict[str, int] = {}
    findings: list[Finding] = []
    for queue in sorted(queues):
        depth = transport.depth(wire.work_queue(workspace, queue))
        if depth is not None:
            waiting[queue] = depth.messages
        elif any(queue in beat.queues for beat in alive):
            findings.append(Finding(f"work queue {queue!r} is missing at the broker", "its workers make it again"))
    parked = transport.depth(transport.dead_letters)
    if parked is not None and parked.messages:
        kind = "that nobody understood, or that failed 20 times"
        what = f"{parked.messages} messages {kind}, are in {transport.dead_letters}"
        findings.append(
            Finding(what, "look at them with the tools of RabbitMQ or Redis, then delete them; no instance needs them")
        )
    return waiting, findings
