"""How fast, on this machine: each figure beside its target and beside what a bare program needs for the same work.

    make bench
    python tests/benchmarks/run.py [--quick] [--servers none] [--only ROW ...] [--repeats N] [--json FILE] [--dir DIR]

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
from typing import TYPE_CHECKING, Any, Final

from durable.backends.sqlite_core import GROUP
from durable.runtime.loop import Settings

if TYPE_CHECKING:
    from tests.benchmarks import raw_sqlite as raw
    from tests.benchmarks.machine import facts, load
    from tests.benchmarks.places import Kind, Places, missing, versions
    from tests.benchmarks.rows import FULL, HEADINGS, PART, QUICK, RATIO, Line, Row, rows
    from tests.benchmarks.workloads import Measured
else:
    import raw_sqlite as raw
    from machine import facts, load
    from places import Kind, Places, missing, versions
    from rows import FULL, HEADINGS, PART, QUICK, RATIO, Line, Row, rows
    from workloads import Measured

WIDTH: Final = 100
UNSTEADY: Final = 2.0  # when the raw limit itself moves by this factor, something else was using the machine

SERVERS: Final[dict[str, frozenset[Kind]]] = {
    "none": frozenset({"sqlite"}),
    "redis": frozenset({"sqlite", "redis", "streams", "cluster"}),
    "dynamodb": frozenset({"sqlite", "dynamodb"}),
    "all": frozenset({"sqlite", "redis", "streams", "cluster", "eager", "broker", "dynamodb"}),
}


# ---- measuring


def measure(row: Row, places: Places) -> tuple[list[Measured], list[Measured]]:
    """The product and the raw limit in turns, so that both meet the same machine; each in a fresh place."""
    product: list[Measured] = []
    limit: list[Measured] = []
    for _ in range(row.repeats):
        for kind, measured in (row.case.raw, limit), (row.case.product, product):
            if kind is not None:
                with places.place(row.kind) as place:
                    measured.append(kind(place))
    return product, limit


def result_of(row: Row, line: Line, product: Sequence[Measured], limit: Sequence[Measured]) -> dict[str, Any]:
    """One line's figures in the unit shown. `share_of_raw`: 1 is as fast as the bare program, None for ratios, parts
    and where there is none."""
    unit = line.unit
    samples = [m.figures[line.figure] * unit.scale for m in product]
    raw_samples = [m.figures[line.figure] * unit.scale for m in limit if line.figure in m.figures]
    middle, raw_middle = median(samples), median(raw_samples) if raw_samples else None
    met = None
    if line.target is not None:
        met = middle >= line.target if unit.more_is_better else middle <= line.target
    share = None
    if unit not in (RATIO, PART) and raw_middle is not None:
        share = middle / raw_middle if unit.more_is_better else raw_middle / middle
    return {
        "row": row.key,
        "where": row.kind,
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
        "raw_stored_bytes": limit[-1].stored if limit else 0,
        "load": load(),
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
    limit = "" if result["raw_median"] is None else text(result["raw_median"])
    between = f"{low:,.{unit.digits}f} to {high:,.{unit.digits}f}"
    return (
        f"{line.label:37}{text(result['median']):>10}{between:>19}{target:>10} {verdict:6}"
        f"{limit:>10}{share:>6}{'~' if result['unsteady'] else ''}"
    ).rstrip()


def heading(kind: Kind) -> str:
    """What comes before the rows of one kind of place."""
    return f"{HEADINGS[kind]} ({versions(kind)})" if versions(kind) else HEADINGS[kind]


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
        "servers on loopback, their data on this disk; all fresh each time, but for one RabbitMQ",
        f"warm-up {settings['warm_up']} sequences; up to {settings['repeats']} repeats; raw and product in turns",
    ]
    if machine["file_system"] in ("tmpfs", "ramfs"):
        lines.append(f"WARNING: {machine['file_system']} is memory, nothing here is durable; give --dir on a disk")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="how fast, on this machine")
    keys = [row.key for row in rows(FULL, 1, 1)]
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: shows that it runs")
    parser.add_argument("--repeats", type=int, default=5, help="the median is shown (default: 5)")
    parser.add_argument("--only", nargs="+", choices=keys, metavar="ROW", help=f"some of: {', '.join(keys)}")
    parser.add_argument("--servers", choices=SERVERS, default="all", help="which to start: none leaves SQLite's rows")
    parser.add_argument("--json", metavar="FILE", help="write machine, settings and every sample to FILE")
    parser.add_argument("--dir", default=".", metavar="FOLDER", help="make all files below FOLDER (default: here)")
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
        "quick": arguments.quick,
    }
    chosen = [
        row
        for row in rows(QUICK if arguments.quick else FULL, repeats, warm_up)
        if row.kind in SERVERS[arguments.servers] and (not arguments.only or row.key in arguments.only)
    ]
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as folder:
        machine = facts(folder)
        print(*describe(machine, settings), "", table_head(), sep="\n", flush=True)
        with Places(folder) as places:
            results = run(chosen, places, judged=not arguments.quick)
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


def run(chosen: Sequence[Row], places: Places, judged: bool) -> list[dict[str, Any]]:
    """Measure these rows and show each as soon as it is there; a heading where the place changes."""
    results: list[dict[str, Any]] = []
    before = None
    for row in chosen:
        if row.kind != before:
            before = row.kind
            lacking = missing(row.kind)
            print(
                "-" * WIDTH,
                heading(row.kind) if lacking is None else f"{HEADINGS[row.kind]}: left out, {lacking}",
                sep="\n",
            )
        if missing(row.kind) is not None:
            continue
        product, limit = measure(row, places)
        for line in row.lines:
            results.append(result_of(row, line, product, limit))
            print(table_line(line, results[-1], judged), flush=True)
    return results


if __name__ == "__main__":
    main()
