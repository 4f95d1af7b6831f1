"""Random orchestrations for the simulator; `allowed_results` is the second, trivial reading of them.

A program is JSON, so it travels as the input of an ordinary orchestrator: `[body, repeats, results so far]`. The
orchestrators below, a generator and an `async def`, interpret it through the public context.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import lru_cache
from random import Random
from typing import Any, Final, NamedTuple

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


# ---- making programs


class Raised(NamedTuple):
    """An event that somebody outside raises: its name as written there, and its data."""

    name: str
    data: str


class Script(NamedTuple):
    """An instance to be: the orchestrator's name, its input, and the events it needs, in order."""

    kind: str
    program: Node
    events: list[Raised]


def make_script(random: Random, size: int = 6, *, ticks: bool = False) -> Script:
    """A random program of about `size` calls. The same random state gives the same program. ticks: it may wait for the
    CloudEvents that somebody publishes all the time."""
    maker = _Maker(random, size, ticks=ticks)
    body = maker.body()
    repeats = random.choice((1, 2, 3)) if random.random() < 0.2 else 0
    events = [
        Raised(random.choice((name, name.upper())), f"e:{name}") for name in maker.waits for _ in range(repeats + 1)
    ]
    random.shuffle(events)
    numbered, count = [], dict.fromkeys(maker.waits, 0)
    for event in events:
        name = event.name.casefold()
        numbered.append(Raised(event.name, f"{event.data}#{count[name]}"))
        count[name] += 1
    kind = "coroutine" if random.random() < 0.35 else "generator"
    return Script(kind, [body, repeats, []], numbered)


# It fails, and rewound it has a wait and a child that are open again.
REWOUND: Final = Script(
    "generator",
    [
        ["all", [["tick", "never", LONG], ["child", "coroutine", [["act", "k0", 9, 1, 0, ""], 0, []], 1]], False],
        0,
        [],
    ],
    [],
)


def make_order(random: Random) -> Node:
    """A program that needs nobody but a ticker."""
    return [_Maker(random, random.randint(1, 3), depth=1, ticks=True).body(), 0, []]


class _Maker:
    def __init__(self, random: Random, size: int, depth: int = 0, ticks: bool = False) -> None:
        self.random = random
        self.left = max(1, size)
        self.depth = depth
        self.ticks = ticks
        self.waits: list[str] = []
        self.keys = 0

    def body(self) -> Node:
        """A sequence until the size is used up; perhaps with an error that nobody catches."""
        statements: list[Node] = []
        while self.left > 0:
            statements.append(self.statement())
        if self.random.random() < 0.08:
            statements.append(["raise", "raised"])
        body = ["seq", statements] if len(statements) != 1 else statements[0]
        return ["guard", body, self.safe(self.act())] if self.random.random() < 0.4 else body

    def statement(self) -> Node:
        chance = self.random.random()
        if chance < 0.42:
            leaf = self.safe(self.leaf())
            return ["patch", f"p{self.keys % 3}", leaf] if chance < 0.06 else leaf
        if chance < 0.60:
            return self.safe(self.group("all"))
        if chance < 0.70:
            return self.safe(self.group("any"))
        if chance < 0.76:
            self.left -= 1
            some = [self.act(), ["timer", LONG], ["event", "never", LONG], *([["tick", "never", LONG]] * self.ticks)]
            return ["cancel", self.random.choice(some)]
        if chance < 0.80:
            return ["spawn", self.act()]
        if chance < 0.84:
            self.left -= 1
            return ["status", {"done": self.left}]
        if chance < 0.90 and not self.depth:
            return ["retake", self.event(None), self.act()]
        if chance < 0.93:
            self.left -= 3
            acts = [self.act() for _ in range(self.random.randint(5, 20))]
            if chance < 0.92:
                once = [[*act[:2], 9 if act[2] else 0, 1, 0, ""] for act in acts]  # or a rewind could let it pass
                return self.safe(["map", once, len(acts) // 3, chance < 0.91])
            return self.safe(["all", acts, True])
        if chance < 0.96:
            return self.safe(["seq", [self.leaf(), self.leaf()]])
        return self.apart()

    def apart(self) -> Node:
        """What concerns other instances, or this one as if it were another."""
        self.left -= 1
        self.keys += 1
        kind = self.random.choice(("tell", "tell", "lose", "detach"))
        if kind != "detach":
            return [kind, f"self{self.keys}"]
        if self.depth >= 2:
            return ["lose", f"self{self.keys}"]
        maker = self.below()
        return ["detach", self.random.choice(("generator", "coroutine")), [maker.body(), 0, []]]

    def safe(self, node: Node) -> Node:
        """What may fail is caught, nearly always: otherwise most programs would end at once."""
        return node if not _may_fail(node) or self.random.random() < 0.12 else ["try", node]

    def group(self, kind: str, depth: int = 0) -> Node:
        children: list[Node] = []
        for _ in range(self.random.randint(2, 4)):
            nested = depth < 2 and self.random.random() < 0.2
            children.append(
                self.group(self.random.choice(("all", "any")), depth + 1)
                if nested
                else self.leaf(kind == "any" and bool(children))
            )
        return ["all", children, self.random.random() < 0.4] if kind == "all" else ["any", children]

    def leaf(self, may_last: bool = False) -> Node:
        if self.ticks and self.random.random() < 0.2:
            return self.tick()
        chance = self.random.random()
        if chance < 0.62:
            return self.act()
        if chance < 0.76:
            self.left -= 1
            if may_last and self.random.random() < 0.3:
                return ["timer", LONG]
            return ["timer", self.random.choice((0, 0.01, 0.1, 0.5, 2.0))]
        if chance < 0.90:
            if self.depth:  # nobody outside knows the ids of children
                self.left -= 1
                return ["event", "never", self.random.choice((0.05, 0.4))]
            return self.event(self.random.choice((None, None, 0.05, 0.5, LONG)))
        return self.child()

    def act(self) -> Node:
        self.left -= 1
        self.keys += 1
        chance = self.random.random()
        fails, attempts = 0, 1
        if chance < 0.12:
            fails = 9
        elif chance < 0.24:
            fails, attempts = self.random.choice(((1, 2), (1, 3), (2, 3), (9, 2), (0, 3)))
        salt = self.random.choice(("", "", "", "uuid", "random"))
        return ["act", f"k{self.keys}", fails, attempts, self.random.choice((0, 0.1, 0.6)), salt]

    def event(self, timeout: float | None) -> Node:
        self.left -= 1
        name = self.random.choice(("go", "pay", "straße"))
        self.waits.append(name.casefold())
        return ["event", name, timeout]

    def tick(self) -> Node:
        self.left -= 1
        if self.random.random() < 0.2:
            return ["tick", "never", self.random.choice((0.05, 0.4))]
        return ["tick", TICK, self.random.choice((None, None, 0.05, 0.5, LONG))]

    def below(self) -> _Maker:
        return _Maker(self.random, self.random.randint(1, 3), self.depth + 1, self.ticks)

    def child(self) -> Node:
        self.left -= 2
        if self.depth >= 2 or self.random.random() < 0.2:
            return ["child", "function", [["status", "plain"], 0, []], 1]
        maker = self.below()
        kind = self.random.choice(("generator", "coroutine"))
        repeats = 1 if self.random.random() < 0.1 else 0
        return ["child", kind, [maker.body(), repeats, []], self.random.choice((1, 1, 2))]


def _may_fail(node: Node) -> bool:
    kind = node[0]
    if kind == "act":
        return bool(node[2] >= node[3])
    if kind in ("event", "tick"):
        return node[2] is not None
    if kind == "child":
        return _may_fail(node[2][0])
    if kind == "patch":
        return _may_fail(node[2])
    if kind in ("all", "any", "seq", "map"):
        return any(_may_fail(child) for child in node[1])
    if kind == "guard":
        return _may_fail(node[1]) or _may_fail(node[2])
    return bool(kind == "raise")
