"""What `durable show` advises: what helps against the cause, what comes next, and the commands for it.

A command stands by itself, apart from the words that lead to it: it is there to be copied, and is never broken.
"""

from __future__ import annotations

import builtins
import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from ..app.diagnosis import worker_command
from ..model.errors import PayloadError, TimeoutError
from ..model.failure import FailureDetails
from ..model.status import DEFAULT_GROUP, OrchestrationStatus, RuntimeStatus
from ..payload.claims import NO_PLACE, concerns_blobs
from .around import Around, group_of
from .tasks import Kind, State, Task, culprit_of, void_by_rewind
from .terminal import cut, preview, safe

_MOST_VOID: Final = 5
_REPAIRED: Final = "Repair the cause, then let it go on from there"


class Advice(NamedTuple):
    """Some words, and the commands they lead to, in order."""

    words: str
    commands: tuple[str, ...] = ()


# What helps against the innermost cause, where more can be said than that it has to be repaired.
_REMEDIES: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (PayloadError, "it is declared as", "Pass what the code declares, or change what it declares."),
    (builtins.TimeoutError, "longer than its timeout", "Give it more time (timeout=), or more tries (retry=)."),
    (
        builtins.TimeoutError,
        "sent no heartbeat",
        "Let it call ctx.heartbeat() more often, or allow more time between (heartbeat_timeout=).",
    ),
    (TimeoutError, "no event", "Give the wait more time (timeout=), or let the code catch durable.TimeoutError."),
)

# What helps a blocked one go on, by words of its reason; the last row is for the others.
_UNBLOCKING: Final = (
    ("ran longer than", "Run a worker whose code yields sooner"),
    ("does not fit its history", "Run a worker with code that fits, or that guards the change with ctx.patched"),
    ("", "Run a worker that can"),
)


def quoted(text: str) -> str:
    """`text` as it can be typed in a shell; what can't be typed is shown escaped."""
    return shlex.quote(safe(text))


def advice(status: OrchestrationStatus, tasks: Sequence[Task], around: Around, now: datetime) -> list[Advice]:
    """What to do about an orchestration, the most useful first. tasks: its own; status: with its history."""
    return _Adviser(status, tasks, around, now).advice()


def is_served(status: OrchestrationStatus, around: Around) -> bool:
    """Whether a living worker serves its group."""
    return any(group_of(status) in beat.groups for beat in around.workers)


class _Adviser:
    def __init__(self, status: OrchestrationStatus, tasks: Sequence[Task], around: Around, now: datetime) -> None:
        self.status = status
        self.tasks = tasks
        self.around = around
        self.now = now
        self.instance = quoted(status.instance_id)

    def advice(self) -> list[Advice]:
        status = self.status.runtime_status
        if status is RuntimeStatus.FAILED:
            return self._failed()
        if status.finished:
            return self._left()
        if status is RuntimeStatus.BLOCKED:
            return [
                self._unblocking(self.status.blocked_reason or ""),
                Advice("To end it instead", (f"durable terminate {self.instance}",)),
            ]
        if status is RuntimeStatus.SUSPENDED:
            return [Advice("To let it go on", (f"durable resume {self.instance}",))]
        if status is RuntimeStatus.PENDING:
            return self._pending()
        return self._running()

    # ---- ended

    def _failed(self) -> list[Advice]:
        return [
            *(
                self._other_input()
                or self._other_data()
                or self._other_arguments()
                or [*self._remedy(), *self._again(_REPAIRED)]
            ),
            Advice("Every step", (f"durable history {self.instance}",)),
        ]

    def _again(self, when: str) -> list[Advice]:
        """A rewind, unless that would forget what was done since: what a saga has undone counts as done again."""
        rewind = (f"durable rewind {self.instance}",)
        void = [task for one in (self.status, *self.around.failed) for task in void_by_rewind(one.history or [])]
        if not void:
            return [Advice(when, rewind)]
        steps = "1 finished step" if len(void) == 1 else f"{len(void)} finished steps"
        names = ", ".join(
            f"{safe(t.name)}{'' if t.input is None else f' {preview(t.input)}'}" for t in void[:_MOST_VOID]
        )
        more = f" and {len(void) - _MOST_VOID} more" if len(void) > _MOST_VOID else ""
        return [
            Advice(
                f"By a rewind {steps} would become void, as if never run: {names}{more}. Repair the cause, then rather "
                "start it again",
                (f"durable restart {self.instance}",),
            ),
            Advice("To go on from before the failure all the same", rewind),
        ]

    def _remedy(self) -> list[Advice]:
        """What helps against the innermost cause in particular."""
        link = self._innermost()
        if link is None:
            return []
        return [Advice(text) for kind, words, text in _REMEDIES if link.is_a(kind) and words in link.message][:1]

    def _innermost(self) -> FailureDetails | None:
        link = self.status.failure
        while link is not None and link.cause is not None:
            link = link.cause
        return link

    def _other_input(self) -> list[Advice]:
        """What helps where its own input did not fit: it keeps that for ever."""
        one, failure = self.status, self.status.failure
        where = f"the input of orchestrator {one.name!r}"
        if failure is None or not failure.is_a(PayloadError) or not failure.message.startswith(where):
            return []
        if one.parent_instance_id:  # which calls it again in the same way
            return []
        group = group_of(one)
        options = "" if group == DEFAULT_GROUP else f" --group {quoted(group)}"
        options += f" --version {quoted(one.version)}" if one.version else ""
        start = f"durable start {quoted(one.name)}{options} --input JSON"
        return [
            Advice("Start another one, with an input as the code declares it", (start,)),
            *self._again("If you change what the code declares, let this one go on"),
        ]

    def _other_data(self) -> list[Advice]:
        """What helps where an event's data did not fit: a rewound wait takes the same event again."""
        wait = culprit_of(self.tasks, self.status.failure) if self.status.failure is not None else None
        if wait is None or wait.kind is not Kind.EVENT:
            return []
        rewind = self._again("If you change the declared type, let this one go on, with the same data")
        if wait.came_early:
            return rewind
        new = quoted(f"{self.status.instance_id}-fork")
        fork = f"durable fork {self.instance} --after {wait.ended_by - 1} --new-id {new}"
        other = Advice(
            "If other data should have come, let a fork wait for it again, and raise it there",
            (fork, f"durable raise {new} {quoted(wait.name)} --data JSON"),
        )
        return [other, *rewind]

    def _other_arguments(self) -> list[Advice]:
        """What helps where an activity could not take its arguments: a rewind calls it with the same again."""
        link = self._innermost()
        if link is None or link is self.status.failure:  # else the code itself was refused, and nothing is recorded
            return []
        if not link.is_a(PayloadError) or not link.message.startswith("the input of activity "):
            return []
        again = self._again("If you change what the activity declares, let this one go on, with the same arguments")
        if len(again) > 1:  # a restart comes first there
            return again
        change = "To pass something else, change the call and start this one again"
        return [Advice(change, (f"durable restart {self.instance}",)), *again]

    def _left(self) -> list[Advice]:
        """Work whose outcome the code did not wait for: most often a forgotten yield."""
        left = [t for t in self.tasks if t.state is State.LEFT and t.kind in (Kind.ACTIVITY, Kind.CHILD)]
        if self.status.runtime_status is not RuntimeStatus.COMPLETED or not left:
            return []
        names = cut(", ".join(f"{safe(task.name)} (task {task.id})" for task in left), 200)
        return [Advice(f"It ended without waiting for {names}: is that meant, or is a yield missing?")]

    # ---- not ended

    def _unblocking(self, reason: str) -> Advice:
        worker = (self._worker_command(),)
        if NO_PLACE in reason:
            return Advice("Run a worker that has DURABLE_BLOBS_URL, or connects with blobs=", worker)
        if concerns_blobs(reason):
            return Advice("Put the blob back; then it goes on, within five minutes or when a worker starts")
        return Advice(next(text for words, text in _UNBLOCKING if words in reason), worker)

    def _pending(self) -> list[Advice]:
        """Nobody has taken it."""
        start_at = self.status.history[0].fire_at if self.status.history else None
        if start_at is not None and start_at > self.now:
            return [Advice("It starts by itself when its time has come, which takes a running worker.")]
        start = f"start a worker with a module that has {safe(self.status.name)}"
        if not is_served(self.status, self.around):
            return [Advice(f"No worker has taken it yet; {start}", (self._worker_command(),))]
        if self.status.blocked_reason:
            return [
                Advice(f"{start[0].upper()}{start[1:]}", (self._worker_command(),)),
                Advice("If the name is wrong, end it, and start another one", (f"durable terminate {self.instance}",)),
            ]
        group = group_of(self.status)
        workers = [beat for beat in self.around.workers if group in beat.groups]
        pids = ", ".join(f"{beat.pid} on {safe(beat.host)}" for beat in workers)
        alive = f"A worker of its group is alive (pid {cut(pids, 200)})"
        if any(beat.orchestrators is None for beat in workers):  # of an older version, which does not say what it has
            missing = f"{alive}. If it does not take it now, it has no orchestrator of this name or version; {start}"
            return [Advice(missing, (self._worker_command(),))]
        return [Advice(f"{alive} and has its code. If it does not take it now", ("durable doctor",))]

    def _sends(self, wait: Task) -> str:
        pattern = wait.pattern
        if pattern is None:
            return f"durable raise {self.instance} {quoted(wait.name)} --data JSON"
        kind = "TYPE" if pattern.type.endswith("*") else quoted(pattern.type)
        exact = {"subject": pattern.subject, "source": pattern.source}
        given = [f"--{name} {quoted(text)}" for name, text in exact.items() if text and not text.endswith("*")]
        return " ".join([f"durable publish --type {kind}", *given, "--data JSON"])

    def _running(self) -> list[Advice]:
        waits = [t for t in self.tasks if t.open and t.kind is Kind.EVENT]
        sends = dict.fromkeys(self._sends(wait) for wait in waits)
        found = [] if is_served(self.status, self.around) else [Advice("Start a worker", (self._worker_command(),))]
        if sends:
            found.append(Advice("To send it what it waits for", tuple(sends)[:5]))
        reason = self.status.blocked_reason or ""
        queues = dict.fromkeys(t.queue for t in self.tasks if t.open and t.queue and f"queue {t.queue!r}" in reason)
        found += [Advice("Start a worker for it", (f"durable worker MODULE --queue {quoted(q)}",)) for q in queues]
        for task in self.tasks:
            if task.open and f"activity {task.name!r} (task {task.id}) waits: no living worker has it" in reason:
                queue = f" --queue {quoted(task.queue)}" if task.queue else ""
                words = f"Start a worker with a module that has {safe(task.name)}"
                found.append(Advice(words, (f"durable worker MODULE{queue}",)))
        for child in self.around.children.values():
            if child.blocked_reason or child.runtime_status is RuntimeStatus.SUSPENDED:
                found.append(Advice("A child does not go on", (f"durable show {quoted(child.instance_id)}",)))
        return found

    def _worker_command(self) -> str:
        return worker_command(group_of(self.status))
