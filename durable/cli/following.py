"""Watching one orchestration change, from any process: new events as they come, until it ends or is blocked.

The store is asked for the status at most four times a second, and for the history only when the status has moved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ..app.client import Client
from ..model.errors import TimeoutError, not_found
from ..model.history import HistoryEvent
from ..model.status import OrchestrationStatus

LOOK_SECONDS: Final = 0.25


class Following:
    """The events of one orchestration that have not been given out yet; it follows continue-as-new."""

    def __init__(self, client: Client, instance_id: str) -> None:
        self._client = client
        self._instance_id = instance_id
        self._execution_id = ""
        self._given = 0
        self._moved: object = None

    def changes(self) -> Iterator[tuple[OrchestrationStatus, list[HistoryEvent]]]:
        """The status and its new events, now and then whenever it has waited for news, for as long as it is asked.

        Ends after the status of a finished orchestration. Raises InstanceNotFoundError.
        """
        while True:
            status = self._status()
            began = time.monotonic()
            yield status, self._new(status)
            if status.runtime_status.finished:
                return
            try:
                # A long history takes long to read: look less often then.
                pause = max(LOOK_SECONDS, 4 * (time.monotonic() - began))
                self._client.wait(self._instance_id, pause)
            except TimeoutError:
                pass

    def _status(self) -> OrchestrationStatus:
        status = self._client.get_status(self._instance_id, payloads=False)
        if status is None:
            raise not_found("follow", self._instance_id)
        return status

    def _new(self, status: OrchestrationStatus) -> list[HistoryEvent]:
        moved = (status.execution_id, status.last_updated_at, status.runtime_status)
        if moved == self._moved:
            return []
        self._moved = moved
        new: list[HistoryEvent] = []
        if self._execution_id and status.execution_id != self._execution_id:
            new += self._client.history(self._instance_id, execution_id=self._execution_id)[self._given :]
            self._given = 0
        self._execution_id = status.execution_id
        events = self._client.history(self._instance_id, execution_id=status.execution_id)
        new += events[self._given :]
        self._given = len(events)
        return new
