"""What a run came to: how often each fault happened, whether the load was there, and what was wrong.

A run whose faults or load did not take place proves nothing: "a test may trivially pass because all nodes returned a
service error" (restatedev/jepsen). It is no pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

ENOUGH_FAULTS: Final = 0.90
ENOUGH_LOAD: Final = 0.95
WELL_WITHIN: Final = 30.0  # seconds from the last fault until `durable doctor` has nothing to say


class Outcome(NamedTuple):
    """planned: how often each fault was to happen, where that was said; reached: how often it did.

    asked: instances that were to be started; started: those that were. wrong: whatever is not as it must be.
    doctor_after: seconds from the last fault until `durable doctor` was first asked.
    """

    planned: Mapping[str, int]
    reached: Mapping[str, int]
    asked: int
    started: int
    wrong: Sequence[str]
    figures: Sequence[str]
    doctor_after: float = 0.0

    def missing(self) -> Iterator[str]:
        """What did not take place."""
        for fault, planned in self.planned.items():
            if self.reached.get(fault, 0) < ENOUGH_FAULTS * planned:
                yield f"{fault} happened {self.reached.get(fault, 0)} times, not {planned}"
        if self.started < ENOUGH_LOAD * self.asked or not self.started:
            yield f"{self.started} instances were started, not {self.asked}"
        if self.doctor_after > WELL_WITHIN:
            yield f"durable doctor was first asked {self.doctor_after:.0f} s after the last fault, by a busy machine"

    @property
    def verdict(self) -> str:
        if self.wrong:
            return f"{len(self.wrong)} WRONG"
        return "NOT RUN" if any(self.missing()) else "all right"


def complaint(url: str, events: str, workspace: str) -> str:
    """What `durable doctor` says to somebody who asks; empty when nothing needs attention."""
    asked = {"DURABLE_URL": url, "DURABLE_EVENTS_URL": events, "DURABLE_WORKSPACE": workspace}
    command = [sys.executable, "-m", "durable", "doctor"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""
