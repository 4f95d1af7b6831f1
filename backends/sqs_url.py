"""What an `sqs://` URL says.

    sqs://REGION/QUEUE[?endpoint=https://host:port&timeout=5]

There is no password in it: credentials are found as boto3 finds them (environment, profile, role). Nothing of a URL is
ever shown but region, queue, the endpoint's host and port, and the names of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from durable.model.errors import StoreError

from .url_parts import REGION, endpoint, parameters, parsed, seconds

_SHAPE: Final = "sqs://REGION/QUEUE, e.g. sqs://eu-central-1/orders"
_QUEUE: Final = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")


class Target(NamedTuple):
    """A queue and how to reach it; `timeout` in seconds, of one request."""

    region: str
    queue: str
    endpoint: str | None = None
    timeout: float = 5.0

    @property
    def where(self) -> str:
        """To begin a message."""
        at = f" at {urlsplit(self.endpoint).netloc}" if self.endpoint else ""
        return f"SQS queue {self.queue} in {self.region}{at}"

    @property
    def is_fifo(self) -> bool:
        return self.queue.endswith(".fifo")


def parse_url(url: str) -> Target:
    """The target of a URL. Raises StoreError for anything that is not understood."""
    parts = parsed(url)
    if parts is None or parts.scheme != "sqs" or not url.startswith("sqs://"):
        raise StoreError(f"not the URL of a queue of SQS: write {_SHAPE}")
    if "@" in parts.netloc or parts.fragment:
        raise StoreError("the URL of a queue of SQS has no user and no password: boto3 finds credentials")
    if not REGION.fullmatch(parts.netloc):
        raise StoreError(f"the SQS URL names no region: write {_SHAPE}")
    queue = parts.path.removeprefix("/")
    if not _QUEUE.fullmatch(queue):
        raise StoreError(f"the SQS URL names no queue: write {_SHAPE}; a name has 1 to 80 of A-Z a-z 0-9 _ -")
    return Target(parts.netloc, queue, **parameters(parts.query, _PARAMETERS, "SQS"))


def _endpoint(name: str, text: str) -> str:
    return endpoint(text, name, "SQS")


def _seconds(name: str, text: str) -> float:
    return seconds(text, name, "SQS")


_PARAMETERS: Final[dict[str, Callable[[str, str], Any]]] = {"endpoint": _endpoint, "timeout": _seconds}
