"""`make mutants`: small mistakes, one at a time, in durable/engine, replay and runtime. Which ones does no test see?"""

from __future__ import annotations

import argparse
import sys
from itertools import groupby
from pathlib import Path

import pytest

from .mutants import ROOT, mutants_of
from .trial import Trial
from .types import refused_by_mypy

PLACES = ("durable/engine", "durable/replay", "durable/runtime")
TESTS = ("tests/laws", "tests/mutation/seeds.py")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("places", nargs="*", default=PLACES, help=f"files or folders (default: {' '.join(PLACES)})")
    parser.add_argument("--tests", nargs="+", default=TESTS, help=f"default: {' '.join(TESTS)}")
    parser.add_argument("--seconds", type=float, default=10, help="of tests for one mutant, at most (default: 10)")
    given = parser.parse_args()
    files = [file for place in given.places for file in _files(ROOT / place)]
    refused = refused_by_mypy(files)
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    for file, made in groupby(mutants, key=lambda mutant: mutant.file):
        names = [mutant.name for mutant in made]
        print(f"{file}: {len(names)} mutants, {len(refused.intersection(names))} of them refused by mypy", flush=True)
    trial = Trial([mutant for mutant in mutants if mutant.name not in refused], given.seconds)
    words = ["-q", "-s", "-p", "no:cacheprovider", "-p", "tests.mutation.quick", "-m", "not slow"]
    return int(pytest.main([*words, *given.tests], plugins=[trial]))


def _files(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


if __name__ == "__main__":
    sys.exit(main())
