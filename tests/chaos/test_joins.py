"""A short form of `make joins`: the program itself, as it is run by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # some take 20 s, where the machine has nothing else to do

JOINS = Path(__file__).with_name("joins.py")


@pytest.mark.parametrize("place", ["redis", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def test_joins_fire_once_each_though_their_worker_is_killed(place: str) -> None:
    command = [sys.executable, str(JOINS), "--place", place, "--events", "20000", "--kills", "2", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done
    found = rf"seed 3, {place}: 20,000 events, 2 kills, 200 joins fired once each, \d+ s: all right\n"
    assert re.fullmatch(found, done.stdout), done
