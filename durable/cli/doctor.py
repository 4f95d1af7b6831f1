"""`durable doctor`: what works here, and what needs attention, in the order in which to mend it."""

from __future__ import annotations

from importlib.metadata import packages_distributions
from typing import Final

from ..app.diagnosis import Diagnosis, Finding
from .exits import Exit
from .session import Session
from .terminal import Screen, cut, safe

_OURS: Final = "durable-orchestrations"
_LABEL_CELLS: Final = 11


def examine(session: Session, create: bool) -> int:
    """The command `doctor`; exit status 1 when there is a finding. create: make the store first where needed."""
    if create and session.create_store() and not session.as_json:
        _field(session.screen, "made", session.store, "green")
    found = session.client.diagnose()
    findings = [*_about_installation(), *found.findings]
    screen = session.screen
    if session.as_json:
        screen.document({**_plain(found), "findings": [{"what": f.what, "remedy": f.remedy} for f in findings]})
        return Exit.FAILED if findings else Exit.DONE
    screen.say(("store".ljust(_LABEL_CELLS), "bold"), session.store)  # whole, to be copied
    if session.broker or found.waiting:
        waiting = ", ".join(f"{number} in {safe(queue)}" for queue, number in found.waiting.items() if number)
        _field(screen, "broker", f"{session.broker or 'none but the store'}; waiting: {waiting or 'nothing'}")
    counted = ", ".join(f"{number} {status}" for status, number in sorted(found.unfinished.items()))
    _field(screen, "unfinished", counted or "none")
    if any(found.triggers.values()):
        counted = ", ".join(f"{what.replace('_', ' ')} {number}" for what, number in found.triggers.items())
        _field(screen, "events", counted)
    if not found.workers:
        _field(screen, "workers", "none has shown itself")
    for worker in found.workers:
        state = "alive" if worker.alive else f"silent for {worker.age:.0f} s"
        served = f"groups {', '.join(worker.groups) or 'none'}; queues {', '.join(worker.queues)}"
        _field(screen, "worker", f"pid {worker.pid} on {safe(worker.host)}, {state}; {safe(served)}")
        for kind, names in (("orchestrators", worker.orchestrators), ("activities", worker.activities)):
            if names is not None:
                _field(screen, "", f"{kind}: {cut(safe(', '.join(names) or 'none'), 300)}")
    for finding in findings:
        _field(screen, "attention", safe(finding.what), "yellow")
        _field(screen, "", safe(finding.remedy))
    if not findings:
        _field(screen, "well", "nothing needs attention", "green")
    return Exit.FAILED if findings else Exit.DONE


def _field(screen: Screen, label: str, text: str, style: str = "bold") -> None:
    screen.field(label, text, _LABEL_CELLS, screen.table_width, style)


def _plain(found: Diagnosis) -> dict[str, object]:
    return {
        "workers": found.workers,
        "unfinished": found.unfinished,
        "waiting": found.waiting,
        "triggers": found.triggers,
    }


def _about_installation() -> list[Finding]:
    others = sorted(set(packages_distributions().get("durable", [])) - {_OURS})
    if not others:
        return []
    what = f"the package `durable` is also installed by {', '.join(others)}: files of one overwrite the other's"
    return [Finding(what, "keep them in different virtual environments")]
