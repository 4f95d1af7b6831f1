"""`durable worker`: import modules, serve what they register, in the foreground until SIGINT or SIGTERM."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ..app.client import Client
from ..app.registry import default_registry
from ..app.worker import Worker
from .exits import CommandError, Exit
from .loading import load
from .logs import show_logs
from .session import Session
from .terminal import cut, safe


def serve(session: Session, modules: Sequence[str], grace: float) -> None:
    """The command `worker`; returns when a signal has ended it and it has drained."""
    for module in modules:
        load(module)
    if not default_registry.names("orchestrator") and not default_registry.names("activity"):
        raise CommandError(
            Exit.USAGE,
            f"{', '.join(modules)}: nothing to serve; decorate functions with @durable.orchestrator or activity",
        )
    show_logs(logging.WARNING)
    _Foreground(session, session.client, grace).run()


class _Foreground(Worker):
    """A worker that says on stderr when it serves, and when it stops."""

    def __init__(self, session: Session, client: Client, grace: float) -> None:
        super().__init__(client, shutdown_grace=grace)
        self._session = session
        self._seconds = grace
        self._serving = False

    def start(self) -> None:
        super().start()
        self._serving = True
        note = self._session.screen.note
        note(("worker", "bold"), f"  pid {os.getpid()}, store {self._session.store}")
        for kind in ("orchestrator", "activity"):
            names = ", ".join(safe(name) for name in default_registry.names(kind)) or "none"
            note(f"  {'orchestrators' if kind == 'orchestrator' else 'activities'}: {cut(names, 400)}")
        note("  Ctrl-C or SIGTERM stops it")

    def stop(self) -> None:
        serving, self._serving = self._serving, False
        if serving:
            self._session.screen.note(f"stopping; running activities get {self._seconds:g} s")
        super().stop()
        if serving:
            self._session.screen.note("stopped")
