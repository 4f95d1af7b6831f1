"""`durable worker`: import modules, serve what they register, in the foreground until SIGINT or SIGTERM."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

from ..app.client import Client
from ..app.registry import default_registry
from ..app.worker import Worker
from .exits import CommandError, Exit
from .loading import load
from .logs import show_logs
from .processes import end_with_keeper
from .session import Session
from .terminal import cut, safe


class Part(NamedTuple):
    """What a worker takes part in. grace: seconds; concurrency: activities at a time."""

    grace: float
    eager: bool
    groups: tuple[str, ...]
    queues: tuple[str, ...]
    concurrency: int


def serve(session: Session, modules: Sequence[str], part: Part) -> int:
    """The command `worker`; returns when a signal has ended it and it has drained."""
    for module in modules:
        load(module)
    if not default_registry.names("orchestrator") and not default_registry.names("activity"):
        raise CommandError(
            Exit.USAGE,
            f"{', '.join(modules)}: nothing to serve; decorate functions with @durable.orchestrator or activity",
        )
    show_logs(logging.WARNING)
    end_with_keeper()
    _Foreground(session, session.client, part).run()
    return Exit.DONE


class _Foreground(Worker):
    """A worker that says on stderr when it serves, and when it stops."""

    def __init__(self, session: Session, client: Client, part: Part) -> None:
        super().__init__(
            client,
            groups=part.groups,
            queues=part.queues,
            max_concurrent_activities=part.concurrency,
            eager_activities=part.eager or None,
            shutdown_grace=part.grace,
        )
        self._session = session
        self._part = part
        self._serving = False

    def start(self) -> None:
        super().start()
        self._serving = True
        note = self._session.screen.note
        broker = f", broker {self._session.broker}" if self._session.broker else ""
        note(("worker", "bold"), f"  pid {os.getpid()}, store {self._session.store}{broker}")
        for kind in ("orchestrator", "activity"):
            names = ", ".join(safe(name) for name in default_registry.names(kind)) or "none"
            note(f"  {'orchestrators' if kind == 'orchestrator' else 'activities'}: {cut(names, 400)}")
        for what, served in (("groups", self._part.groups), ("queues", self._part.queues)):
            if served != ("default",):
                note(f"  {what}: {', '.join(safe(name) for name in served)}")
        note("  Ctrl-C or SIGTERM stops it")

    def stop(self) -> None:
        serving, self._serving = self._serving, False
        if serving:
            self._session.screen.note(f"stopping; running activities get {self._part.grace:g} s")
        super().stop()
        if serving:
            self._session.screen.note("stopped")
