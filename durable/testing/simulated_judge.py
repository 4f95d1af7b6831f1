"""The judge of a simulation: it reads every commit that took effect, and knows nothing of the engine.

It is a table of what may follow what in a history. It raises `Wrong`, which ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from ..model import history as h
from ..model.history import Event, decode_events
from ..model.names import TRIGGERS
from ..model.rewinding import standing
from ..ports import Commit, ExecutionKey


class Wrong(AssertionError):
    """The engine broke one of its promises; the message says which."""


class _Open:
    """What the judge knows of one execution."""

    def __init__(self) -> None:
        self.length = 0
        self.events: list[Event] = []
        self.rewound = False  # what follows was scheduled again by a rewind
        self.ended = ""
        self.suspended = False
        self.turn_at: datetime | None = None
        self.tasks: dict[int, int] = {}  # open ones: task id -> attempt
        self.children: dict[int, int] = {}
        self.timers: dict[int, Event] = {}
        self.waits: set[int] = set()
        self.attempts: dict[int, int] = {}  # task id -> its last attempt
        self.raised: set[bytes] = set()
        self.patches: set[str] = set()


class Judge:
    """Every stored prefix is a valid history, events only grow, an accepted event is recorded once."""

    def __init__(self) -> None:
        self.unfinished: dict[str, None] = {}
        self.finished: dict[str, None] = {}
        self.executions: dict[str, tuple[str, _Open]] = {}
        self.gone: set[str] = set()
        self.sent_by_gone: list[Event] = []
        self._current: dict[str, str] = {}
        self._gone_executions: set[str] = set()
        self._where = ""
        self.ends: Counter[str] = Counter()  # how often each instance has ended, but for those of triggers
        self._changes = 0  # of triggers, since their history began

    def purged(self, executions: Iterable[ExecutionKey]) -> None:
        """These are gone: nothing may bring them back."""
        for instance_id, _ in executions:
            if instance_id in self.unfinished:
                raise Wrong(f"instance {instance_id!r} was purged before it had finished")
            self.gone.add(instance_id)
            self.finished.pop(instance_id, None)
            self._current.pop(instance_id, None)
            for execution in [execution for execution, (owner, _) in self.executions.items() if owner == instance_id]:
                self._forget(execution)

    def _forget(self, execution: str) -> None:
        _, state = self.executions.pop(execution)
        self._gone_executions.add(execution)
        self.sent_by_gone += [event for event in state.events if event.type == h.EVENT_SENT]

    def committed(self, commit: Commit) -> None:
        instance_id = commit.instance_id
        if instance_id == TRIGGERS:
            self._triggers_changed(commit)
            return
        if commit.summary.execution_id in self._gone_executions:
            raise Wrong(f"instance {instance_id!r} has come back with an execution that was purged or forgotten")
        if commit.replaces:
            if instance_id not in self.finished:
                raise Wrong(f"instance {instance_id!r} was replaced before it had finished")
            self._current.pop(instance_id)
        for append in commit.appends:
            self._where = f"instance {instance_id!r}, execution {append.execution_id}, event"
            self._append(instance_id, append.execution_id, append.start, decode_events(append.events))
        summary = commit.summary
        if commit.appends and self._current[instance_id] != summary.execution_id:
            raise Wrong(f"{self._where}: the summary names execution {summary.execution_id}")
        if commit.appends:
            self._tells_children(commit)
        if commit.forgotten:
            self._forget(commit.forgotten)
        if summary.status.finished:
            self.unfinished.pop(instance_id, None)
            self.finished[instance_id] = None
            last = self.executions[summary.execution_id][1].events[-1]
            if (last.type, last.status, bytes(last.result)) != (_END, summary.status.value, bytes(summary.output)):
                raise Wrong(f"instance {instance_id!r} is {summary.status} with {bytes(summary.output)!r}, not {last}")
        elif self.executions[summary.execution_id][1].ended:
            raise Wrong(f"instance {instance_id!r} is {summary.status}, its history has ended")
        elif instance_id in self.finished and not commit.replaces and not self._was_rewound(commit):
            raise Wrong(f"instance {instance_id!r} was finished and is {summary.status}")
        else:
            self.finished.pop(instance_id, None)
            self.unfinished[instance_id] = None

    def _triggers_changed(self, commit: Commit) -> None:
        """Their history is one list of changes, which may begin anew."""
        for append in commit.appends:
            if append.start != (0 if commit.replaces else self._changes):
                raise Wrong(f"the triggers have {self._changes} changes, and not {append.start}")
            self._changes = append.start + len(decode_events(append.events))

    def _tells_children(self, commit: Commit) -> None:
        state = self.executions[commit.summary.execution_id][1]
        terminated = state.events[-2:][0]
        if terminated.type == h.EXECUTION_TERMINATED and terminated.status:
            told = sum(row.key.endswith("/terminate") for row in commit.put)
            if told < len(state.children):
                raise Wrong(f"{self._where}: {told} of its {len(state.children)} children are told")

    def _was_rewound(self, commit: Commit) -> bool:
        return any(decode_events(append.events)[0].type == h.EXECUTION_REWOUND for append in commit.appends)

    def _append(self, instance_id: str, execution_id: str, start: int, events: list[Event]) -> None:
        known = self.executions.get(execution_id)
        if known is None:
            before = self._current.get(instance_id)
            if before is not None and self.executions[before][1].ended != h.CONTINUE_AS_NEW:
                raise Wrong(f"{self._where} {start}: a new execution while {before} has not continued as new")
            known = self.executions[execution_id] = (instance_id, _Open())
            self._current[instance_id] = execution_id
        state = known[1]
        if start != state.length:
            raise Wrong(f"{self._where} {start}: the history has {state.length} events so far")
        for event in events:
            problem = self._follow(state, event)
            if problem:
                raise Wrong(f"{self._where} {state.length}: {event.type} of task {event.task_id}: {problem}")
            state.length += 1
            state.events.append(event)
            if event.type == h.EXECUTION_COMPLETED and not state.events[0].name.startswith("@"):
                self.ends[instance_id] += 1

    def _follow(self, state: _Open, event: Event) -> str:
        if event.type == h.EXECUTION_REWOUND:
            return self._rewind(state, event)
        if state.ended:
            return f"nothing may follow {state.ended}"
        if (state.length == 0) != (event.type == h.EXECUTION_STARTED):
            return "a history begins with ExecutionStarted, which stands nowhere else"
        if state.suspended and event.type not in _WHILE_SUSPENDED:
            return "it is suspended"
        follow = _FOLLOW.get(event.type)
        return "an unknown type" if follow is None else follow(state, event)

    def _rewind(self, state: _Open, event: Event) -> str:
        """What is open once it is rewound: what a history of the events that stand has open."""
        if state.ended != h.EXECUTION_COMPLETED:
            return "a rewind of what has not ended"
        events = [*state.events, event]
        anew = _Open()
        for _, stands in standing(events)[:-1]:
            problem = "" if stands.type == h.EXECUTION_REWOUND else self._follow(anew, stands)
            anew.rewound = stands.type == h.EXECUTION_REWOUND or (anew.rewound and stands.type in _AGAIN)
            if problem:
                return f"what stands is no history: {stands.type} of task {stands.task_id}: {problem}"
            anew.length += 1
        anew.length, anew.events, anew.rewound = state.length, state.events, True
        state.__dict__.update(anew.__dict__)
        return ""


_AGAIN: Final = (h.TASK_SCHEDULED, h.CHILD_CREATED)


def _turn(state: _Open, event: Event) -> str:
    state.rewound = False
    if state.turn_at is not None and event.timestamp < state.turn_at:
        return f"the time of turns goes back, from {state.turn_at} to {event.timestamp}"
    state.turn_at = event.timestamp
    return ""


def _started(state: _Open, event: Event) -> str:
    state.turn_at = event.timestamp
    return ""


def _scheduled(state: _Open, event: Event) -> str:
    last = state.attempts.get(event.task_id, 0)
    if state.rewound and last:
        state.tasks.pop(event.task_id, None)
        state.children.pop(event.task_id, None)
        state.timers.pop(event.task_id, None)
        last = event.attempt - 1 if event.attempt > last else last
    if event.attempt != last + 1:
        return f"attempt {event.attempt} after attempt {last}"
    if event.task_id in state.tasks or event.task_id in state.children:
        return f"attempt {event.attempt} while another is open"
    state.attempts[event.task_id] = event.attempt
    if event.status == h.DETACHED:
        return ""
    (state.tasks if event.type == h.TASK_SCHEDULED else state.children)[event.task_id] = event.attempt
    return ""


def _outcome(state: _Open, event: Event) -> str:
    if state.tasks.pop(event.task_id, None) != event.attempt:
        return f"the outcome of attempt {event.attempt}, which is not open"
    return ""


def _child_outcome(state: _Open, event: Event) -> str:
    if state.children.pop(event.task_id, None) != event.attempt:
        return f"the outcome of attempt {event.attempt}, which is not open"
    return ""


def _timer_created(state: _Open, event: Event) -> str:
    if event.task_id in state.timers:
        return "a second timer for the same task"
    state.timers[event.task_id] = event
    return ""


def _timer_fired(state: _Open, event: Event) -> str:
    timer = state.timers.pop(event.task_id, None)
    if timer is None or timer.attempt != event.attempt:
        return f"no such timer is open (attempt {event.attempt})"
    assert timer.fire_at is not None
    if state.turn_at is None or state.turn_at < timer.fire_at:
        return f"fired at {state.turn_at}, before it is due at {timer.fire_at}"
    state.waits.discard(event.task_id)
    return ""


def _awaited(state: _Open, event: Event) -> str:
    state.waits.add(event.task_id)
    return "" if event.fire_at is None else _timer_created(state, event)


def _raised(state: _Open, event: Event) -> str:
    if event.name == h.CLOUD_EVENT:
        state.timers.pop(event.task_id, None)
        if event.task_id not in state.waits:
            return "nobody waits for this CloudEvent"
        state.waits.remove(event.task_id)
        return ""
    data = bytes(event.input)
    if data in state.raised:
        return f"the event with the data {data!r} is recorded twice"
    state.raised.add(data)
    return ""


def _patched(state: _Open, event: Event) -> str:
    if event.name in state.patches:
        return f"patch {event.name!r} is recorded twice"
    state.patches.add(event.name)
    return ""


def _canceled(state: _Open, event: Event) -> str:
    number = event.task_id
    found = [book.pop(number, None) for book in (state.tasks, state.children, state.timers)]
    if all(item is None for item in found) and number not in state.waits:
        return "nothing to cancel"
    state.waits.discard(number)
    return ""


def _sent(state: _Open, event: Event) -> str:
    if event.task_id in state.attempts:
        return "its number is taken"
    state.attempts[event.task_id] = 1
    return ""


def _suspended(state: _Open, event: Event) -> str:
    state.suspended = True
    return ""


def _resumed(state: _Open, event: Event) -> str:
    if not state.suspended:
        return "it is not suspended"
    state.suspended = False
    return ""


def _no_matter(state: _Open, event: Event) -> str:
    return ""


def _ended(state: _Open, event: Event) -> str:
    state.ended = event.type
    return ""


_END: Final = h.EXECUTION_COMPLETED
# A turn that only terminates.
_WHILE_SUSPENDED: Final = frozenset(
    {h.EXECUTION_RESUMED, h.ORCHESTRATOR_STARTED, h.EXECUTION_TERMINATED, h.EXECUTION_COMPLETED}
)
_FOLLOW: Final[dict[str, Callable[[_Open, Event], str]]] = {
    h.EXECUTION_STARTED: _started,
    h.ORCHESTRATOR_STARTED: _turn,
    h.TASK_SCHEDULED: _scheduled,
    h.CHILD_CREATED: _scheduled,
    h.TASK_COMPLETED: _outcome,
    h.TASK_FAILED: _outcome,
    h.CHILD_COMPLETED: _child_outcome,
    h.CHILD_FAILED: _child_outcome,
    h.TIMER_CREATED: _timer_created,
    h.TIMER_FIRED: _timer_fired,
    h.TIMER_CANCELED: _canceled,
    h.TASK_CANCELED: _canceled,
    h.EVENT_AWAITED: _awaited,
    h.EVENT_RAISED: _raised,
    h.PATCH_RECORDED: _patched,
    h.EVENT_SENT: _sent,
    h.EXECUTION_SUSPENDED: _suspended,
    h.EXECUTION_RESUMED: _resumed,
    h.EXECUTION_CANCELED: _no_matter,
    h.EXECUTION_TERMINATED: _no_matter,
    h.EXECUTION_COMPLETED: _ended,
    h.CONTINUE_AS_NEW: _ended,
}
