"""How fast, on this machine: each figure beside its target and beside what SQLite alone needs for the same rows.

    make bench
    python tests/benchmarks/run.py [--quick] [--repeats N] [--only ROW ...] [--json FILE] [--dir FOLDER]

A missed target says MISSED; the exit status is 0 all the same, since it is a matter of the machine too. What each row
means stands in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from durable.backends.sqlite_core import GROUP
from durable.runtime.loop import Settings

if TYPE_CHECKING:
    from tests.benchmarks import raw_sqlite as raw
    from tests.benchmarks import workloads
    from tests.benchmarks.machine import facts, load
    from tests.benchmarks.workloads import Case, Measured
else:
    import raw_sqlite as raw
    import workloads
    from machine import facts, load
    from workloads import Case, Measured

WIDTH: Final = 100
UNSTEADY: Final = 2.0  # when the raw limit itself moves by this factor, something else was using the machine
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
RATIO: Final = Unit(1, " x", 2)


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


def rows(quick: bool, repeats: int, warm_up: int) -> list[Row]:
    """All rows; `quick` shows only that they work."""
    many, few, some, much = (60, 10, 50, 100) if quick else (2_000, 300, 1_000, 10_000)
    short, long = (40, 80) if quick else (1_000, 5_000)
    edge = min(workloads.EDGE, short // 2)

    def fan(key: str, count: int, target: float) -> Row:
        line = Line(f"{count:,} activities in parallel, joined", "seconds", SECONDS, target)
        return Row(key, workloads.parallel(count, warm_up), (line,), repeats)

    def sequence(key: str, count: int) -> Row:
        lines = (
            Line(f"a step, {count:,} in sequence", "step", MS, 0.5),
            Line(f"  its last {edge} steps over its first", "drift", RATIO, 1.3),
        )
        return Row(key, workloads.in_sequence(count, warm_up), lines, repeats)

    def imported(key: str, label: str, statement: str) -> Row:
        line = Line(label, "seconds", SECONDS, 0.15)
        return Row(key, workloads.importing(statement), (line,), 2 if quick else 10)

    return [
        Row(
            "many",
            workloads.sequences(many, warm_up, bulk=True),
            (Line(f"hello sequences, {many:,} by start_many", "rate", RATE, 4_000),),
            repeats,
        ),
        Row(
            "single",
            workloads.sequences(many, warm_up, bulk=False),
            (Line(f"hello sequences, {many:,} one by one", "rate", RATE, 1_500),),
            repeats,
        ),
        Row(
            "alone",
            workloads.alone(few, warm_up),
            (
                Line(f"hello sequence alone, p50 of {few}", "p50", MS, 2.5),
                Line(f"hello sequence alone, p99 of {few}", "p99", MS),
            ),
            repeats,
        ),
        fan("parallel-1000", some, 0.08),
        fan("parallel-10000", much, 0.8),
        sequence("steps-1000", short),
        sequence("steps-5000", long),
        imported("import", "import durable", "import durable"),
        imported("import-all", "import of all that a worker uses", _IMPORT_ALL),
    ]


# ---- measuring


def measure(row: Row, folder: str) -> tuple[list[Measured], list[Measured]]:
    """The product and the raw limit in turns, so that both meet the same disk; each in a fresh file."""
    product: list[Measured] = []
    limit: list[Measured] = []
    for _ in range(row.repeats):
        for kind, measured in (row.case.raw, limit), (row.case.product, product):
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                measured.append(kind(str(Path(fresh, "bench.db"))))
    return product, limit


def result_of(row: Row, line: Line, product: Sequence[Measured], limit: Sequence[Measured]) -> dict[str, Any]:
    """One line's figures in the unit shown. `share_of_raw`: 1 is as fast as SQLite alone, None for ratios."""
    unit = line.unit
    samples = [m.figures[line.figure] * unit.scale for m in product]
    raw_samples = [m.figures[line.figure] * unit.scale for m in limit]
    middle, raw_middle = median(samples), median(raw_samples)
    met = None
    if line.target is not None:
        met = middle >= line.target if unit.more_is_better else middle <= line.target
    share = None
    if unit is not RATIO:
        share = middle / raw_middle if unit.more_is_better else raw_middle / middle
    return {
        "row": row.key,
        "label": line.label.strip(),
        "unit": unit.suffix.strip(),
        "median": middle,
        "samples": samples,
        "target": line.target,
        "met": met,
        "raw_median": raw_middle,
        "raw_samples": raw_samples,
        "share_of_raw": share,
        "unsteady": share is not None and max(raw_samples) > UNSTEADY * min(raw_samples),
        "stored_bytes": product[-1].stored,
        "raw_stored_bytes": limit[-1].stored,
    }


# ---- showing


def table_head() -> str:
    return f"{'':37}{'median':>10}{'min to max':>19}{'target':>10} {'':6}{'raw limit':>10}{'share':>6}"


def table_line(line: Line, result: dict[str, Any], judged: bool) -> str:
    unit = line.unit

    def text(value: float) -> str:
        return f"{value:,.{unit.digits}f}{unit.suffix}"

    target = verdict = ""
    if line.target is not None:
        target = f"{'>=' if unit.more_is_better else '<='} {line.target:,g}"
        verdict = "" if not judged else "ok" if result["met"] else "MISSED"
    low, high = min(result["samples"]), max(result["samples"])
    share = "" if result["share_of_raw"] is None else f"{result['share_of_raw']:.0%}"
    between = f"{low:,.{unit.digits}f} to {high:,.{unit.digits}f}"
    return (
        f"{line.label:37}{text(result['median']):>10}{between:>19}{target:>10} {verdict:6}"
        f"{text(result['raw_median']):>10}{share:>6}{'~' if result['unsteady'] else ''}"
    ).rstrip()


def describe(machine: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The machine and the settings, as text."""
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}; {machine['system']}",
        f"{machine['python']}, SQLite {machine['sqlite']}, msgspec {machine['msgspec']}",
        f"disk: {machine['file_system']}, {machine['fdatasync_per_second']:,} fdatasync/s of 4 KiB each "
        f"(median {machine['fdatasync_ms']} ms)",
        f"SQLite WAL, synchronous={settings['synchronous']}; one process: client, worker and "
        f"{settings['activity_threads']} activity threads",
        f"batches: up to {settings['turns']} turns, {settings['items']} items a commit "
        f"(raw: {settings['raw_turns']} turns, {settings['raw_starts']} starts, {settings['raw_done']} completions)",
        f"a fresh file each time; warm-up {settings['warm_up']} sequences; repeats: {settings['repeats']}, imports "
        f"{settings['import_repeats']}; raw and product in turns",
    ]
    if machine["file_system"] in ("tmpfs", "ramfs"):
        lines.append(f"WARNING: {machine['file_system']} is memory, nothing here is durable; give --dir on a disk")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="how fast, on this machine")
    keys = [row.key for row in rows(False, 1, 1)]
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: shows that it runs")
    parser.add_argument("--repeats", type=int, default=5, help="the median is shown (default: 5)")
    parser.add_argument("--only", nargs="+", choices=keys, metavar="ROW", help=f"some of: {', '.join(keys)}")
    parser.add_argument("--json", metavar="FILE", help="write machine, settings and every sample to FILE")
    parser.add_argument("--dir", default=".", metavar="FOLDER", help="make the files below FOLDER (default: here)")
    arguments = parser.parse_args()
    repeats, warm_up = (1, 20) if arguments.quick else (max(1, arguments.repeats), 200)
    settings = {
        "synchronous": "FULL",
        "activity_threads": 32,
        "turns": Settings().batch,
        "items": GROUP,
        "raw_turns": raw.TURNS,
        "raw_starts": raw.STARTS,
        "raw_done": raw.DONE,
        "warm_up": warm_up,
        "repeats": repeats,
        "import_repeats": 2 if arguments.quick else 10,
        "quick": arguments.quick,
    }
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder:
        machine = facts(folder)
        print(*describe(machine, settings), "", table_head(), "-" * WIDTH, sep="\n", flush=True)
        for row in rows(arguments.quick, repeats, warm_up):
            if arguments.only and row.key not in arguments.only:
                continue
            product, limit = measure(row, folder)
            for line in row.lines:
                results.append(result_of(row, line, product, limit))
                print(table_line(line, results[-1], not arguments.quick), flush=True)
        machine["fdatasync_ms_after"] = facts(folder)["fdatasync_ms"]
    machine["load_after"] = load()
    missed = sum(result["met"] is False for result in results)
    met = sum(result["met"] is True for result in results)
    said = "quick: sizes are too small to judge" if arguments.quick else f"targets: {met} met, {missed} MISSED"
    after = f"load afterwards {machine['load_after']}, fdatasync {machine['fdatasync_ms_after']} ms"
    print("-" * WIDTH, f"{said}; {after}", sep="\n")
    if any(result["unsteady"] for result in results):
        print(f"~ the raw limit moved by more than {UNSTEADY:g} x: the machine was busy, run this row again")
    if arguments.json:
        document = {"machine": machine, "settings": settings, "results": results}
        Path(arguments.json).write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
