"""`durable publish`: one event for the triggers of the workspace."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import uuid4

from ..app.clock import utc_now
from ..triggers.event import read_event, to_sdk
from .exits import CommandError, Exit
from .run import json_argument
from .session import Session
from .terminal import safe

SOURCE: Final = "/durable/publish"


def publish(session: Session, attributes: dict[str, str | None], data: str | None, delay: float | None) -> None:
    """An event of these attributes (those that are None were not given). data: JSON."""
    event: dict[str, Any] = {key: value for key, value in attributes.items() if value is not None}
    if "type" not in event:
        raise CommandError(Exit.USAGE, "give the event's --type, or a whole CloudEvent: --file FILE")
    if data is not None:
        event |= {"datacontenttype": "application/json", "data": json_argument(data, "--data")}
    now = utc_now().isoformat()
    _publish(session, {"specversion": "1.0", "id": uuid4().hex, "source": SOURCE, "time": now, **event}, delay)


def publish_file(session: Session, file: str, delay: float | None) -> None:
    """A CloudEvent in structured mode, as JSON. file: - is standard input."""
    _publish(session, json_argument(file if file == "-" else f"@{file}", "--file"), delay)


def _publish(session: Session, event: Any, delay: float | None) -> None:
    body = json.dumps(event).encode()
    event_id = read_event(body).id
    session.client.publish(to_sdk(body), delay=delay)
    session.screen.answer({"published": event_id}, safe(event_id))
