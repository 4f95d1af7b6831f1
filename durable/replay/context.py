"""What an orchestrator sees: the calls that become commands, and a world that is the same on every replay."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID, uuid5

from ..model.errors import LimitError
from ..model.history import Raw
from ..model.moments import to_timedelta, to_utc
from ..model.names import check_name
from ..payload.values import decode, encode, refuse_ambiguous
from .arity import calls_sub_orchestrator
from .callee import ActivityRef, as_activity, as_orchestrator, checked_tags
from .execution import Execution
from .logs import InstanceLogger
from .tasks import Task, is_task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Several = Collection[T] | Iterator[T]  # not Iterable: a single task is one, for `yield from`

_UUIDS = UUID("6c0e7d2c-9a0a-5f0e-8b39-0d1f1f5a3f5d")


class OrchestrationContext:
    """The first argument of every orchestrator. Use it, and only it, for everything that is not pure computation."""

    def __init__(self, execution: Execution) -> None:
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
    def call_activity(self, activity: Any, /, *args: Any) -> Task[Any]:  # type: ignore[misc]
        """Schedule an activity; it runs whether or not the task is ever yielded.

        activity: a decorated function, an `activity_ref`, or a name. Raises TypeError for wrong arguments,
        PayloadError for ones that can't travel. The task fails with TaskFailedError after the last attempt.
        """
        ref = as_activity(activity)
        return self._execution.call_activity(ref, ref.encode_input(args, self._execution.limits))

    @calls_sub_orchestrator
    def call_sub_orchestrator(
        self,
        orchestrator: Any,
        /,
        *args: Any,
        instance_id: str | None = None,
        version: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Task[Any]:
        """Run another orchestrator as a child and wait for its output.

        instance_id: default is derived from the parent's, and is a new one for each attempt. The task fails with
        TaskFailedError when the child fails, is terminated, or its id was taken (durable.InstanceExistsError).
        """
        ref = as_orchestrator(orchestrator)
        if version is not None:
            ref = ref.options(version=version)
        if tags is not None:
            ref = ref.options(tags={**ref.tags, **checked_tags(tags)})
        child = "" if instance_id is None else check_name(instance_id, "instance_id=")
        return self._execution.call_child(ref, ref.encode_input(args, self._execution.limits), child)

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
        refuse_ambiguous(Any if type is None else type, f"wait_for_external_event({name!r}, type=)")
        return self._execution.wait_for_event(name, delta, Any if type is None else type)

    def task_all(self, tasks: Several[Task[T]], *, return_exceptions: bool = False) -> Task[list[T]]:
        """All results, in order. Fails as soon as one fails; return_exceptions=True waits for all (asyncio.gather)."""
        return self._execution.all_of(self._tasks(tasks, "task_all"), return_exceptions)

    def task_any(self, tasks: Several[Task[T]]) -> Task[Task[T]]:
        """The first finished task, failed or not; the others go on. Raises ValueError for no tasks at all."""
        checked = self._tasks(tasks, "task_any")
        if not checked:
            raise ValueError("task_any([]) would wait for ever: give it at least one task")
        return self._execution.any_of(checked)

    def continue_as_new(self, *args: Any, save_events: bool = True) -> None:
        """Start over with a fresh history when this function returns; same instance id, new execution_id.

        Events that nobody took carry over unless save_events=False. Scheduling after it raises RuntimeError.
        """
        execution = self._execution
        where = f"the input of orchestrator {execution.code.name!r}"
        execution.continue_as_new(execution.code.signature.encode_input(args, where, execution.limits), save_events)

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
        raw: Raw = self._started.input
        return decode(raw, Any if type is None else type, "the orchestration's input") if raw else None

    @property
    def instance_id(self) -> str:
        return self._execution.instance_id

    @property
    def parent_instance_id(self) -> str | None:
        parent = self._started.parent
        return None if parent is None else parent.instance_id

    @property
    def execution_id(self) -> str:
        return self._started.execution_id

    @property
    def name(self) -> str:
        return self._started.name

    @property
    def version(self) -> str | None:
        return self._started.version or None

    @property
    def tags(self) -> dict[str, str]:
        return dict(self._started.tags or {})

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
        try:
            return self._execution.clock + delta
        except OverflowError:
            raise ValueError(f"{where}: {delta} from now is past the year 9999") from None

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
