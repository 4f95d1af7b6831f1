"""The machine that a table of figures comes from, without its name."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec


def facts(folder: str) -> dict[str, Any]:
    """Processor, interpreter, SQLite, and how fast `folder` makes 4 KiB durable."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "msgspec": msgspec.__version__,
        "file_system": _file_system(folder),
        "load": load(),
        **_syncs(folder),
    }


def load() -> float:
    """Processes that wanted a core in the last minute."""
    return round(os.getloadavg()[0], 2)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _file_system(folder: str) -> str:
    """The type of the file system that holds `folder`; 'unknown' where the system does not tell."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    path = Path(folder).resolve()
    holding = [(len(m[1]), m[2]) for m in mounts if path == Path(m[1]) or Path(m[1]) in path.parents]
    return max(holding)[1] if holding else "unknown"


def _syncs(folder: str, count: int = 400) -> dict[str, float]:
    """Appends of 4 KiB made durable one after the other: how many a second, and the median in milliseconds."""
    sync = getattr(os, "fdatasync", os.fsync)
    path = Path(folder, "sync")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        page = os.urandom(4096)
        seconds = []
        for _ in range(count):
            begun = time.perf_counter()
            os.write(descriptor, page)
            sync(descriptor)
            seconds.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
        path.unlink()
    return {"fdatasync_per_second": round(count / sum(seconds)), "fdatasync_ms": round(median(seconds) * 1e3, 3)}
