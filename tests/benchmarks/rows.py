"""The rows of the table: what is measured where, how it is shown, and the target it is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tests.benchmarks import apart, workloads
    from tests.benchmarks.places import Kind
    from tests.benchmarks.workloads import Case
else:
    import apart
    import workloads
    from places import Kind
    from workloads import Case

_IMPORT_ALL: Final = "from durable import Worker, activity, connect, orchestrator, start_orchestration"


class Unit(NamedTuple):
    """How a figure is shown: `scale` times what was measured, then `suffix`."""

    scale: float
    suffix: str
    digits: int
    more_is_better: bool = False


RATE: Final = Unit(1, "/s", 0, True)
MS: Final = Unit(1e3, " ms", 2)
SECONDS: Final = Unit(1, " s", 3)
LONG: Final = Unit(1, " s", 1)
RATIO: Final = Unit(1, " x", 2)
PART: Final = Unit(100, "%", 0)
MEGABYTES: Final = Unit(1e-6, " MB", 0)
COUNT: Final = Unit(1, "", 0)


class Line(NamedTuple):
    """One line of the table: a figure of a row, and its target in the unit shown."""

    label: str
    figure: str
    unit: Unit
    target: float | None = None


class Row(NamedTuple):
    """One measurement, which may give several lines."""

    key: str
    case: Case
    lines: tuple[Line, ...]
    repeats: int
    kind: Kind = "sqlite"


class Sizes(NamedTuple):
    """How much is measured. few: sequences alone. emulated: many and few where an emulator stores. some, much:
    activities in parallel. idle: seconds."""

    many: int = 2_000
    few: int = 300
    emulated: tuple[int, int] = (200, 100)
    some: int = 1_000
    much: int = 10_000
    steps: tuple[int, int, int] = (1_000, 5_000, 50_000)
    parked: int = 100_000
    idle: float = 15.0


FULL: Final = Sizes()
QUICK: Final = Sizes(60, 10, (30, 5), 50, 100, (40, 80, 120), 50, 0.5)

# Targets of hello sequences: a second by start_many and one by one, then milliseconds alone (p50).
_TARGETS: Final[dict[Kind, tuple[float | None, float | None, float | None]]] = {
    "sqlite": (4_000, 1_500, 2.5),
    "redis": (3_000, None, None),
    "streams": (1_500, None, None),
    "cluster": (None, None, None),
    "eager": (3_000, None, 2.0),
    "broker": (800, None, 10.0),
    "dynamodb": (None, None, None),
}

HEADINGS: Final[dict[Kind, str]] = {
    "sqlite": "SQLite",
    "redis": "Redis alone; eager activities",
    "streams": "Redis alone; every activity through a stream",
    "cluster": "A Redis Cluster of three masters; eager activities",
    "eager": "Redis and RabbitMQ; eager activities",
    "broker": "Redis and RabbitMQ; every activity through RabbitMQ",
    "dynamodb": "An emulator of DynamoDB; eager activities",
}


def rows(sizes: Sizes, repeats: int, warm_up: int) -> list[Row]:
    """All rows; a few that take long, or hardly vary, are repeated less often."""
    return [
        *_hello("sqlite", sizes, repeats, warm_up),
        *_fans(sizes, repeats, warm_up),
        *_sequential(sizes, repeats, warm_up),
        _imported("import", "import durable", "import durable", repeats),
        _imported("import-all", "import of all that a worker uses", _IMPORT_ALL, repeats),
        _parked(sizes, repeats, warm_up),
        _idle("sqlite", sizes, repeats, warm_up),
        *_hello("redis", sizes, repeats, warm_up),
        *_apart("redis", sizes, repeats, warm_up),
        _idle("redis", sizes, repeats, warm_up),
        *_hello("streams", sizes, repeats, warm_up),
        *_apart("streams", sizes, repeats, warm_up),
        *_hello("cluster", sizes, repeats, warm_up),
        *_hello("eager", sizes, repeats, warm_up),
        *_apart("eager", sizes, repeats, warm_up),
        *_hello("broker", sizes, repeats, warm_up),
        *_apart("broker", sizes, repeats, warm_up),
        _idle("broker", sizes, repeats, warm_up),
        *_hello("dynamodb", sizes, repeats, warm_up),
    ]


def _key(kind: Kind, name: str) -> str:
    return name if kind == "sqlite" else f"{kind}-{name}"


def _hello(kind: Kind, sizes: Sizes, repeats: int, warm_up: int) -> list[Row]:
    many, few = sizes.emulated if kind == "dynamodb" else (sizes.many, sizes.few)
    in_bulk, single, median = _TARGETS[kind]
    inside = (Line("  share of time inside the emulator", "inside", PART),) if kind == "dynamodb" else ()
    return [
        Row(
            _key(kind, "many"),
            workloads.sequences(many, warm_up, "many"),
            (Line(f"hello sequences, {many:,} by start_many", "rate", RATE, in_bulk), *inside),
            repeats,
            kind,
        ),
        Row(
            _key(kind, "single"),
            workloads.sequences(many, warm_up, "single"),
            (Line(f"hello sequences, {many:,} one by one", "rate", RATE, single), *inside),
            repeats,
            kind,
        ),
        Row(
            _key(kind, "alone"),
            workloads.alone(few, warm_up),
            (
                Line(f"hello sequence alone, p50 of {few}", "p50", MS, median),
                Line(f"hello sequence alone, p99 of {few}", "p99", MS),
                *inside,
            ),
            repeats,
            kind,
        ),
    ]


def _apart(kind: Kind, sizes: Sizes, repeats: int, warm_up: int) -> list[Row]:
    """The same work with the worker apart, and with two of them."""
    return [
        Row(
            _key(kind, key),
            apart.processes(sizes.many, warm_up, workers),
            (Line(f"  start_many, {said}", "rate", RATE),),
            repeats,
            kind,
        )
        for key, workers, said in (("one", 1, "1 worker process apart"), ("two", 2, "2 worker processes apart"))
    ]


def _fans(sizes: Sizes, repeats: int, warm_up: int) -> list[Row]:
    return [
        Row(
            key,
            workloads.parallel(count, warm_up),
            (Line(f"{count:,} activities in parallel, joined", "seconds", SECONDS, target),),
            repeats,
        )
        for key, count, target in (("parallel-1000", sizes.some, 0.08), ("parallel-10000", sizes.much, 0.8))
    ]


def _sequential(sizes: Sizes, repeats: int, warm_up: int) -> list[Row]:
    edge = min(workloads.EDGE, sizes.steps[0] // 2)
    keys = (("steps-1000", repeats), ("steps-5000", repeats), ("steps-50000", min(repeats, 3)))
    return [
        Row(
            key,
            workloads.in_sequence(count, warm_up),
            (
                Line(f"a step, {count:,} in sequence", "step", MS, 0.5),
                Line(f"  its last {edge} steps over its first", "drift", RATIO, 1.3),
            ),
            times,
        )
        for (key, times), count in zip(keys, sizes.steps, strict=True)
    ]


def _imported(key: str, label: str, statement: str, repeats: int) -> Row:
    return Row(key, workloads.importing(statement), (Line(label, "seconds", SECONDS, 0.15),), 2 * repeats)


def _parked(sizes: Sizes, repeats: int, warm_up: int) -> Row:
    lines = (
        Line(f"{sizes.parked:,} wait for an event: till then", "seconds", LONG),
        Line("  memory of client and worker then", "memory", MEGABYTES, 300),
        Line("  its threads then", "threads", COUNT),
        Line("  one woken, p50 of 100", "wake", MS),
    )
    return Row("parked-100000", apart.parked(sizes.parked, warm_up), lines, min(repeats, 3))


def _idle(kind: Kind, sizes: Sizes, repeats: int, warm_up: int) -> Row:
    """Without RabbitMQ there is no broker's part, without Redis no server's at all."""
    lines = [Line("an idle worker: its CPU a minute", "cpu", SECONDS)]
    if kind != "sqlite":
        lines += [
            Line("  commands that Redis runs a minute", "commands", COUNT),
            Line("  CPU of Redis a minute", "redis_cpu", SECONDS),
        ]
    if kind in ("eager", "broker"):
        lines += [
            Line("  messages published a minute", "publishes", COUNT),
            Line("  CPU of RabbitMQ a minute", "rabbitmq_cpu", SECONDS),
        ]
    return Row(_key(kind, "idle"), apart.idle(sizes.idle, warm_up), tuple(lines), min(repeats, 2), kind)
