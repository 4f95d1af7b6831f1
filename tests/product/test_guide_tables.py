"""Tables of the guides name what is there: names for newcomers, variables, URLs, options, figures, exit statuses."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import durable
import durable.testing

ROOT = Path(__file__).resolve().parents[2]
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")

# How a table calls an object -> the classes whose names count.
OBJECTS = {
    "ctx": (durable.OrchestrationContext,),
    "client": (durable.Client,),
    "handle": (durable.OrchestrationHandle,),
    "task": (durable.Task,),
}


def rows(page: str, columns: int) -> list[list[str]]:
    """The rows of tables with that many columns, without their heads."""
    found: list[list[str]] = []
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        cells = [re.split(r"(?<!\\) \| ", line.strip("|\n ")) for line in table.splitlines()]
        found += [row for row in cells[2:] if len(row) == columns]
    return found


def helped(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "durable", *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_every_name_of_ours_that_newcomers_are_given_exists() -> None:
    page = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
    named = {name for line in page.splitlines() if line.startswith("| ") for name in _ours(line)}
    assert {name for name in named if not _exists(name)} == set()
    assert len(named) > 60


def _ours(row: str) -> list[str]:
    """The names in the columns that are ours: the second and the third."""
    cells = row.strip("| ").split(" | ", 1)
    owners = "|".join(["durable", *OBJECTS])
    return re.findall(rf"`@?((?:{owners})[. ][a-z_.]+)", cells[1], re.IGNORECASE) if len(cells) == 2 else []


def _exists(name: str) -> bool:
    owner, _, rest = name.partition(".")
    if " " in name:
        return name.partition(" ")[2] in helped()
    if owner != "durable":
        return any(hasattr(cls, rest) for cls in OBJECTS[owner])
    where, _, last = rest.rpartition(".")
    module = getattr(durable, where) if where else durable
    return last in getattr(module, "__all__", dir(module)) and hasattr(module, last)


def test_the_variables_of_the_environment_are_those_that_are_read() -> None:
    files = [*(ROOT / "durable").glob("*/*.py"), *(ROOT / "backends").glob("*.py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    read = set(re.findall(r'environ\.get\(\s*"(\w+)"', source))
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", OPERATING, re.MULTILINE)) == read


def test_the_options_of_a_worker_are_all_there() -> None:
    listed = re.findall(r"^\| `(--\w+)[^`]*` \| (?:`(\w+)`)?", OPERATING, re.MULTILINE)
    said = helped("worker")
    everywhere = {"--url", "--events-url", "--workspace", "--json", "--no-color", "--help"}
    assert {option for option, _ in listed} == set(re.findall(r"(?<=│ )--[a-z-]+", said)) - everywhere
    arguments = inspect.signature(durable.Worker).parameters
    assert {argument for _, argument in listed if argument} <= set(arguments)


def test_the_urls_are_understood() -> None:
    """Each gets as far as a host where nobody listens, or a file of certificates that is not there."""
    urls = re.findall(r"`((?:redis|rediss|amqp|amqps)://[^`]+)`", OPERATING)
    assert {url.partition(":")[0] for url in urls} == {"redis", "rediss", "amqp", "amqps"}
    for url in urls:
        with pytest.raises((durable.StoreError, durable.TransportError)) as caught:
            _open(re.sub("host:[0-9]+", "127.0.0.1:1", url))
        assert re.search("refused|can't be loaded|ca.pem", str(caught.value)), caught.value


def _open(url: str) -> None:
    if url.startswith("redis"):
        durable.connect(url)
    else:
        durable.Worker(durable.connect("memory://urls", events=url)).start()


def test_the_figures_are_those_of_the_benchmarks() -> None:
    measured = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    figures = re.findall(r"[\d,.]+(?:/s| ms)", OPERATING[OPERATING.index("## How fast") :])
    assert len(figures) == 8
    assert [figure for figure in figures if f"| {figure} |" not in measured] == []


def test_the_exit_statuses_are_those_of_the_help() -> None:
    table = OPERATING[OPERATING.index("## Exit statuses") :]
    listed = [int(row[0]) for row in rows(table, 2)]
    said = " ".join(helped().split("Exit status: ")[1].split())
    assert listed == [*map(int, re.findall(r"\b(\d) ", said)), 70, 130]


# ---- the reference


def test_the_reference_is_what_the_docstrings_say() -> None:
    made = subprocess.run(
        [sys.executable, "docs/make_reference.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    committed = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert made.stdout == committed, "run `make docs`"


def test_every_public_name_and_member_says_what_it_is() -> None:
    """In the reference, each heading, and the code below it, is followed by a sentence."""
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    entries = re.split(r"^#{3,4} ", page, flags=re.MULTILINE)[1:]
    silent = [
        entry.split("\n")[0] for entry in entries if not re.search(r"^[A-Za-z`(*]", entry.partition("\n")[2], re.M)
    ]
    assert silent == []
    for module in (durable, durable.testing):
        assert [name for name in module.__all__ if f"### {module.__name__}.{name}\n" not in page] == []
