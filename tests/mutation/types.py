"""Mutants that mypy refuses: they need no test, for none of them gets past `make types`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from .mutants import ROOT, mutated

# What it says about a class that has each of its methods many times over.
_NOISE: Final = {"has-type", "misc", "no-overload-impl", "no-redef", "valid-type", "var-annotated"}


def refused_by_mypy(files: Sequence[Path]) -> set[str]:
    """Their names."""
    refused = set()
    with TemporaryDirectory() as folder:
        there = Path(folder)
        shutil.copytree(ROOT / "durable", there / "durable", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", there)
        places = {str(file.relative_to(ROOT)): file for file in files}
        for place, file in places.items():
            (there / place).write_text(mutated(file).code, "utf-8")
        words = [sys.executable, "-m", "mypy", "--output", "json", "--no-warn-unused-ignores", *places]
        said = subprocess.run(words, cwd=there, capture_output=True, text=True, check=False)
        for line in said.stdout.splitlines():
            found = json.loads(line)
            if found["severity"] != "error" or found["code"] in _NOISE or found["file"] not in places:
                continue
            module = found["file"].removesuffix(".py").replace("/", ".")
            for name, span in mutated(places[found["file"]]).line_span_by_function_name.items():
                if span.start <= found["line"] <= span.end:
                    refused.add(f"{module}.{name}")
    return refused
