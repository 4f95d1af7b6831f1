"""What an orchestrator sees: the calls that become commands, and a world that is the same on every replay."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload
from uuid import UUID, uuid5

from ..model.errors import LimitError
from ..model.moments import from_now, to_timedelta, to_utc
from ..model.names import check_name
from ..payload.values import decode, encode, refuse_ambiguous
from ..triggers.pattern import EventPattern
from .arity import calls_sub_orchestrator, starts_detached
from .callee import ActivityRef, OrchestratorRef, as_activity, as_orchestrator, checked_tags
from .live_code import LiveCode
from .logs import InstanceLogger
from .tasks import Task, is_task

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Several = Collection[T] | Iterator[T]  # not Iterable: a single task is one, for `yield from`

_UUIDS = UUID("6c0e7d2c-9a0a-5f0e-8b39-0d1f1f5a3f5d")


class OrchestrationContext:
    """The first argument of every orchestrator. Use it, and only it, for everything that is not pure computation."""

    def __init__(self, execution: LiveCode) -> None:
        self._execution = execution
        self._started = execution.started
        self._random: Random | None = None
        self._uuids = 0
        self._logger: InstanceLogger | None = None

    # ---- tasks

    @overload
    def call_activity(
        self, activity: ActivityRef[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Task[R]: ...
    @overload
    def call_activity(self, activity: ActivityRef[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Task[R]: ...
    @overload
    def call_activity(self, activity: str, /, *args: Any) -> Task[Any]: ...
    # ParamSpec can't leave P.kwargs out; arguments are positional, and a keyword raises TypeError.
    def call_activity(self, activity: Any, /, *args: Any, **named: Any) -> Task[Any]:
        """Schedule an activity; it runs whether or not the task is ever yielded.

        activity: a decorated function, an `activity_ref`, or a name. A name alone brings no options: `retry=` and
        `queue=` of the decorator come with the function, timeouts hold wherever it runs. Raises TypeError for wrong
        arguments, PayloadError for ones that can't travel. The task fails with TaskFailedError after the last attempt.
        """
        ref = as_activity(activity)
        if named:
            ref.refuse_named("call_activity", named)
        return self._execution.call_activity(ref, ref.encode_input(args, self._execution.limits))

    @overload
    def map(
        self,
        callee: ActivityRef[..., Coroutine[Any, Any, R]],
        /,
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        callee: ActivityRef[..., R] | OrchestratorRef[..., R],
        /,
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        callee: str,
        /,
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> Task[list[Any]]: ...
    def map(
        self,
        callee: Any,
        /,
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> Task[list[Any]]:
        """Call an activity or a sub-orchestrator for each item, at most `max_concurrency` at a time (default: all).

        callee: a decorated function, a reference, or the name of an activity. items: read once; each is an input, so
        a list is spread over a function of several parameters. The results come in the order of the items. After a
        failure no further item starts, and the task fails; return_exceptions=True calls for all. Raises TypeError or
        PayloadError for an item that does not fit or can't travel, ValueError for a max_concurrency that is no positive
        int, LimitError where more than Limits.commands_per_turn would start at once.
        """
        ref = as_orchestrator(callee) if isinstance(callee, OrchestratorRef) else as_activity(callee)
        at_once: object = max_concurrency
        if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1):
            raise ValueError(f"map(max_concurrency={at_once!r}): give a positive int, or None for all at once")
        if isinstance(items, Task):
            raise TypeError(f"map: {items!r} is a task, not its result: yield it first")
        inputs = [ref.encode_item(item, self._execution.limits) for item in items]
        return self._execution.map(ref, inputs, max_concurrency, return_exceptions)

    @calls_sub_orchestrator
    def call_sub_orchestrator(
        self,
        orchestrator: Any,
        /,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
        **named: Any,
    ) -> Task[Any]:
        """Run another orchestrator as a child and wait for its output.

        orchestrator: a decorated function, an `orchestrator_ref`, or a name, which brings none of the decorator's
        options. instance_id: default is derived from the parent's, and is a new one for each attempt. The task fails
        with TaskFailedError when the child fails, is terminated, or its id was taken (durable.InstanceExistsError).
        """
        ref = as_orchestrator(orchestrator)
        if named:
            ref.refuse_named("call_sub_orchestrator", named)
        if version is not None:
            ref = ref.options(version=version)
        if tags is not None:
            ref = ref.options(tags={**ref.tags, **checked_tags(tags)})
        child = "" if instance_id is None else check_name(instance_id, "instance_id=")
        return self._execution.call_child(ref, ref.encode_input(args, self._execution.limits), child)

    @starts_detached
    def start_orchestration(
        self, orchestrator: Any, /, *args: Any, instance_id: str | None = None, **named: Any
    ) -> str:
        """Start another orchestration that has a life of its own: its end is not heard of here. Returns its id.

        instance_id: default is derived from this one's. If the id is taken, what has it goes on, and the worker's log
        says so. Raises TypeError for wrong arguments, PayloadError for ones that can't travel.
        """
        ref = as_orchestrator(orchestrator)
        if named:
            ref.refuse_named("start_orchestration", named)
        given = "" if instance_id is None else check_name(instance_id, "instance_id=")
        return self._execution.start_detached(ref, ref.encode_input(args, self._execution.limits), given)

    def send_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Send an event to another orchestration, once for each call, with the commit of this turn.

        To one that does not exist or has ended, it is kept and shown by `durable doctor`, until an orchestration starts
        under that id and takes it. Raises PayloadError, ValueError for an id or name outside the rules.
        """
        check_name(instance_id, "instance_id")
        check_name(name, "the event's name")
        payload = encode(data, f"the data of event {name!r}", self._execution.limits)
        self._execution.send_event(instance_id, name, payload)

    def create_timer(self, when: datetime | timedelta | float) -> Task[None]:
        """A durable timer of any length. when: an aware datetime, a timedelta, or seconds from now."""
        if isinstance(when, datetime):
            return self._execution.create_timer(to_utc(when, "create_timer"))
        return self._execution.create_timer(self._after(to_timedelta(when, "create_timer"), "create_timer"))

    @overload
    def wait_for_external_event(
        self, name: str, *, timeout: timedelta | float | None = None, type: type[T]
    ) -> Task[T]: ...
    @overload
    def wait_for_external_event(
        self, name: str, *, timeout: timedelta | float | None = None, type: object = None
    ) -> Task[Any]: ...
    def wait_for_external_event(
        self, name: str, *, timeout: timedelta | float | None = None, type: object = None
    ) -> Task[Any]:
        """Wait for `raise_event(instance_id, name, data)`; the result is the data, decoded to `type`.

        Names match case-insensitively. Early events are kept, each satisfies one wait. timeout: counted from this
        call; it raises durable.TimeoutError, unless an event was recorded before.
        """
        check_name(name, "the event's name")
        delta = None if timeout is None else to_timedelta(timeout, "wait_for_external_event(timeout=)")
        if delta is not None:
            self._after(delta, "wait_for_external_event(timeout=)")
        refuse_ambiguous(type, f"wait_for_external_event({name!r}, type=)")
        return self._execution.wait_for_event(name, delta, Any if type is None else type)

    def wait_for_cloudevent(
        self,
        *,
        type: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        timeout: timedelta | float | None = None,
    ) -> Task[CloudEvent]:
        """Wait for an event that is published in this workspace (`client.publish`); the result is a CloudEvent.

        type, source, subject: as in `durable.EventPattern`, exact or with a `*` at the end; None for any. It takes the
        first event that fits of those published after the workspace's triggers have heard of the wait: they have once
        an activity or a sub-orchestration that is called in the same turn begins, so ask for the event before you call
        what will publish it. Others who wait for the same event get it too. timeout: counted from this call; it raises
        durable.TimeoutError. Raises TypeError, ValueError for a `*` before the end.
        """
        delta = None if timeout is None else to_timedelta(timeout, "wait_for_cloudevent(timeout=)")
        if delta is not None:
            self._after(delta, "wait_for_cloudevent(timeout=)")
        given = {"type": type, "source": source, "subject": subject}
        pattern = EventPattern(**{name: text for name, text in given.items() if text is not None})
        return self._execution.wait_for_cloudevent(pattern, delta)

    def task_all(self, tasks: Several[Task[T]], *, return_exceptions: bool = False) -> Task[list[T]]:
        """All results, in order. Fails as soon as one fails; return_exceptions=True waits for all (asyncio.gather)."""
        return self._execution.all_of(self._tasks(tasks, "task_all"), return_exceptions)

    def task_any(self, tasks: Several[Task[T]]) -> Task[Task[T]]:
        """The first finished task, failed or not; the others go on. Raises ValueError for no tasks at all."""
        checked = self._tasks(tasks, "task_any")
        if not checked:
            raise ValueError("task_any([]) would wait for ever: give it at least one task")
        return self._execution.any_of(checked)

    def continue_as_new(self, *args: Any, save_events: bool = True, version: str | None = None) -> None:
        """Start over with a fresh history when this function returns; same instance id, new execution_id.

        Events that nobody took carry over unless save_events=False. version: of the function that goes on; default is
        the one that this execution has. Another one may take other arguments, so they are sent as to a name. Scheduling
        after it raises RuntimeError.
        """
        execution = self._execution
        ref = OrchestratorRef[..., Any](execution.code.name, execution.code.signature, version=version)
        if ref.version and ref.version != execution.version:
            ref = OrchestratorRef(ref.name, version=ref.version)
        execution.continue_as_new(ref.encode_input(args, execution.limits), save_events, ref.version)

    # ---- state that others see

    def set_custom_status(self, value: Any) -> None:
        """Show any JSON value (at most Limits.custom_status_bytes encoded) in the status, with this turn's commit."""
        limit = self._execution.limits.custom_status_bytes
        raw = encode(value, "the custom status", self._execution.limits)
        if len(raw) > limit:
            raise LimitError(f"the custom status has {len(raw)} bytes; at most {limit} (Limits.custom_status_bytes)")
        self._execution.custom_status = raw

    @property
    def custom_status(self) -> Any:
        """What `set_custom_status` set last, as plain JSON; None before."""
        raw = self._execution.custom_status
        return None if raw is None else decode(raw, Any, "the custom status")

    # ---- the instance

    @overload
    def get_input(self, type: type[T]) -> T: ...
    @overload
    def get_input(self, type: object = None) -> Any: ...
    def get_input(self, type: object = None) -> Any:
        """The one input this execution was started with, decoded to `type` (default: plain JSON)."""
        return decode(self._started.input, Any if type is None else type, "the orchestration's input")

    @property
    def instance_id(self) -> str:
        """The id of this orchestration; continue_as_new keeps it.

        A fork, or what was imported under another id, hears the former one while it replays what it shares, here and in
        the two that follow: so code that puts it into what it asks for fits its history.
        """
        former = self._execution.formerly
        return self._execution.instance_id if former is None else former.instance_id

    @property
    def parent_instance_id(self) -> str | None:
        """The id of the orchestration that called this one and waits for it; None without one."""
        former = self._execution.formerly
        if former is not None:
            return former.parent_instance_id or None
        parent = self._started.parent
        return None if parent is None else parent.instance_id

    @property
    def execution_id(self) -> str:
        """The id of this execution: a new one after each continue_as_new."""
        former = self._execution.formerly
        return self._started.execution_id if former is None else former.execution_id

    @property
    def name(self) -> str:
        """The registered name of this orchestrator."""
        return self._started.name

    @property
    def version(self) -> str | None:
        """The version it was started with, else the one that its first turn fixed; None: the unversioned function."""
        return self._execution.version or None

    @property
    def tags(self) -> dict[str, str]:
        """The tags it was started with, those of its orchestrator included."""
        return dict(self._started.tags or {})

    # ---- code and history that grow

    def patched(self, change_id: str) -> bool:
        """Guard a change of code that instances in flight must not see: `if ctx.patched("new-fee"): ... else: ...`.

        True, and recorded in the history, where it is first asked past what is recorded; False where code from before
        got past this point without asking. The answer stays until the execution ends; continue_as_new asks anew.
        change_id: obeys the rule of names (ValueError).
        """
        return self._execution.patched(check_name(change_id, "patched: change_id"))

    @property
    def suggest_continue_as_new(self) -> bool:
        """True once the history before this turn passes Limits.history_events or Limits.history_bytes.

        Nothing is refused then; a long history only takes longer to replay. Recorded with the turn.
        """
        return self._execution.is_long

    # ---- a world that replays

    @property
    def current_utc_datetime(self) -> datetime:
        """The recorded time of this turn (aware UTC); never goes back."""
        return self._execution.clock

    def new_uuid(self) -> UUID:
        """A UUID that is the same on every replay, from the seed in the history."""
        self._uuids += 1
        return uuid5(_UUIDS, f"{self._started.seed}/{self._uuids}")

    @property
    def random(self) -> Random:
        """A `random.Random` seeded from the history."""
        if self._random is None:
            self._random = Random(self._started.seed)
        return self._random

    @property
    def is_replaying(self) -> bool:
        """True while recorded history is run again; a warm instance does not replay."""
        return self._execution.journal.replaying or not self._execution.awake

    @property
    def logger(self) -> InstanceLogger:
        """Logs to `durable.orchestration`, silent while replaying."""
        if self._logger is None:
            fields = {"instance_id": self.instance_id, "orchestration": self.name}
            self._logger = InstanceLogger("durable.orchestration", fields, lambda: self.is_replaying)
        return self._logger

    # ---- details

    def _after(self, delta: timedelta, where: str) -> datetime:
        return from_now(self._execution.clock, delta, where)

    def _tasks(self, tasks: Iterable[object], where: str) -> list[Task[Any]]:
        if isinstance(tasks, Task):
            raise TypeError(f"{where}: {tasks!r} is one task; give a list of tasks")
        checked: list[Task[Any]] = []
        for number, task in enumerate(tasks):
            if not is_task(task):
                raise TypeError(f"{where}: item {number} is {task!r}, which is no task")
            if task.owner is not self._execution:
                raise TypeError(f"{where}: item {number} belongs to another orchestration")
            checked.append(task)
        return checked
