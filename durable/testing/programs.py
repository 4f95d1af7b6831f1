"""What the simulator runs: orchestrators that interpret programs. `allowed_results` is the second, trivial reading.

A program is JSON, so it travels as the input of an ordinary orchestrator: `[body, repeats, results so far]`. The
orchestrators, a generator and an `async def`, interpret it through the public context. Programs come from
`random_programs`, and by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ..app.calling import CALLING
from ..model.errors import OrchestrationCancelledError, TaskCancelledError, TaskFailedError, TimeoutError
from ..model.failure import FailureDetails
from ..model.history import NO_PAYLOAD, Raw
from ..model.retry import RetryPolicy
from ..payload.signature import Signature
from ..replay.callee import ActivityRef, OrchestratorRef
from ..replay.context import OrchestrationContext
from ..replay.live_code import Code
from ..replay.tasks import Task

Node = list[Any]
Reader = Callable[[Any], Any]
NOBODY = "nobody"  # no instance has this id: what is sent there is kept
EVENTS = ("go", "pay", "strasse")  # what programs wait for, and the last one is written otherwise there
TICK = "tick"  # the type of the CloudEvents that programs wait for
LONG = 5_000.0  # seconds: longer than any simulated run, so a timer row that is left behind shows


# ---- what a program does, as an orchestrator


@lru_cache(maxsize=256)
def _activity(attempts: int, interval: float) -> ActivityRef[..., Any]:
    return ActivityRef("work", retry=_policy(attempts, interval))


@lru_cache(maxsize=64)
def _orchestrator(kind: str, attempts: int) -> OrchestratorRef[..., Any]:
    return OrchestratorRef(kind, retry=_policy(attempts, 0.2))


def _policy(attempts: int, interval: float) -> RetryPolicy | None:
    return RetryPolicy(attempts, interval, 1.5, jitter=0.3) if attempts > 1 else None


def _as_is(value: Any) -> Any:
    return value


def _build(ctx: OrchestrationContext, node: Node) -> tuple[Task[Any], Reader]:
    """The task that a node stands for, and how its result is written down."""
    kind = node[0]
    if kind == "act":
        _, key, fails, attempts, interval, salt = node
        given = [key, fails]
        if salt == "uuid":
            given.append(str(ctx.new_uuid()))
        elif salt == "random":
            given.append(ctx.random.randrange(10**9))
        return ctx.call_activity(_activity(attempts, interval), given), _as_is
    if kind == "timer":
        return ctx.create_timer(node[1]), _as_is
    if kind == "event":
        return ctx.wait_for_external_event(node[1], timeout=node[2]), _as_is
    if kind == "tick":
        return ctx.wait_for_cloudevent(type=node[1], timeout=node[2]), lambda event: f"t:{event.get_id()}"
    if kind == "child":
        return ctx.call_sub_orchestrator(_orchestrator(node[1], node[3]), node[2]), _as_is
    if kind == "map":
        _, acts, at_once, gather = node
        items = [[key, fails] for _, key, fails, *_ in acts]
        return ctx.map("work", items, max_concurrency=at_once, return_exceptions=gather), lambda values: [
            ["exception", cause_of(value)] if isinstance(value, Exception) else value for value in values
        ]
    parts = [_build(ctx, child) for child in node[1]]
    tasks = [task for task, _ in parts]
    if kind == "all":
        return ctx.task_all(tasks, return_exceptions=node[2]), lambda values: [
            ["exception", cause_of(value)] if isinstance(value, Exception) else read(value)
            for (_, read), value in zip(parts, values, strict=True)
        ]
    assert kind == "any", kind

    def read_winner(winner: Task[Any]) -> Any:
        return ["first", next(read for task, read in parts if task is winner)(winner.result())]

    return ctx.task_any(tasks), read_winner


def cause_of(error: BaseException) -> str:
    """What a failure comes down to: the message of its innermost cause, or `timeout`."""
    if isinstance(error, TaskFailedError):
        return root_cause(error.failure)
    return "timeout" if isinstance(error, TimeoutError) else str(error)


def root_cause(failure: FailureDetails) -> str:
    while failure.cause is not None and not failure.type.endswith("TimeoutError"):
        failure = failure.cause
    return "timeout" if failure.type.endswith("TimeoutError") else failure.message


_CAUGHT = (TaskFailedError, TimeoutError, ValueError)


_AT_ONCE = frozenset({"status", "detach", "lose"})


def _do(ctx: OrchestrationContext, node: Node) -> str:
    """What takes no waiting; its name is its result."""
    kind = node[0]
    if kind == "status":
        ctx.set_custom_status(node[1])
    elif kind == "detach":
        ctx.start_orchestration(_orchestrator(node[1], 1), node[2])
    else:
        ctx.send_event(NOBODY, "lost", f"{ctx.execution_id}/{node[1]}")
    return str(kind)


def _tell(ctx: OrchestrationContext, node: Node) -> Task[Any]:
    """Send an event to oneself, and wait for it."""
    ctx.send_event(ctx.instance_id, node[1], f"{node[1]}/{ctx.execution_id}")
    return ctx.wait_for_external_event(node[1])


def _run(ctx: OrchestrationContext, node: Node) -> Generator[Any, Any, Any]:
    kind = node[0]
    if kind == "seq":
        values = []
        for child in node[1]:
            values.append((yield from _run(ctx, child)))
        return values
    if kind == "try":
        try:
            return (yield from _run(ctx, node[1]))
        except _CAUGHT as error:
            return ["caught", cause_of(error)]
    if kind == "guard":
        try:
            return (yield from _run(ctx, node[1]))
        except OrchestrationCancelledError as stopped:
            return ["stopped", stopped.reason, (yield from _run(ctx, node[2]))]
    if kind == "raise":
        raise ValueError(node[1])
    if kind == "patch":
        return (yield from _run(ctx, node[2])) if ctx.patched(node[1]) else "not patched"
    if kind in _AT_ONCE:
        return _do(ctx, node)
    if kind == "tell":
        return (yield _tell(ctx, node)).split("/")[0]
    task, read = _build(ctx, node[1] if kind in ("cancel", "spawn", "retake") else node)
    if kind == "spawn":
        return "spawned"
    if kind == "cancel":
        try:
            task.cancel()
            yield task
        except TaskCancelledError:
            return "cancelled"
    if kind == "retake":
        other, _ = _build(ctx, node[2])
        yield ctx.task_any([task, other])
    return read((yield task))


async def _run_async(ctx: OrchestrationContext, node: Node) -> Any:
    kind = node[0]
    if kind == "seq":
        return [await _run_async(ctx, child) for child in node[1]]
    if kind == "try":
        try:
            return await _run_async(ctx, node[1])
        except _CAUGHT as error:
            return ["caught", cause_of(error)]
    if kind == "guard":
        try:
            return await _run_async(ctx, node[1])
        except OrchestrationCancelledError as stopped:
            return ["stopped", stopped.reason, await _run_async(ctx, node[2])]
    if kind == "raise":
        raise ValueError(node[1])
    if kind == "patch":
        return await _run_async(ctx, node[2]) if ctx.patched(node[1]) else "not patched"
    if kind in _AT_ONCE:
        return _do(ctx, node)
    if kind == "tell":
        return (await _tell(ctx, node)).split("/")[0]
    task, read = _build(ctx, node[1] if kind in ("cancel", "spawn", "retake") else node)
    if kind == "spawn":
        return "spawned"
    if kind == "cancel":
        try:
            task.cancel()
            await task
        except TaskCancelledError:
            return "cancelled"
    if kind == "retake":
        other, _ = _build(ctx, node[2])
        await ctx.task_any([task, other])
    return read(await task)


def _end(ctx: OrchestrationContext, program: Node, value: Any) -> Any:
    body, repeats, done = program
    done = [*done, value]
    if not repeats:
        return done
    ctx.continue_as_new([body, repeats - 1, done])
    return None


def as_generator(ctx: OrchestrationContext, program: Any) -> Generator[Any, Any, Any]:
    return _end(ctx, program, (yield from _run(ctx, program[0])))


async def as_coroutine(ctx: OrchestrationContext, program: Any) -> Any:
    return _end(ctx, program, await _run_async(ctx, program[0]))


def as_function(ctx: OrchestrationContext, program: Any) -> Any:
    """A plain function: only programs whose body is a status."""
    ctx.set_custom_status(program[0][1])
    return _end(ctx, program, "status")


CODES: dict[str, Code] = {
    name: Code(name, fn, Signature.of(fn, leading=1))
    for name, fn in (("generator", as_generator), ("coroutine", as_coroutine), ("function", as_function))
} | {CALLING.name: CALLING}


class Attempted(NamedTuple):
    """The outcome of one attempt: a pure function of the activity's input and the attempt's number."""

    result: Raw
    failure: FailureDetails | None


def attempt_activity(given: Raw, attempt: int) -> Attempted:
    key, fails, *_ = msgspec.json.decode(given)
    if attempt > fails:
        return Attempted(Raw(msgspec.json.encode(f"a:{key}")), None)
    return Attempted(NO_PAYLOAD, FailureDetails("ValueError", f"boom {key}", hierarchy=("ValueError", "Exception")))
