"""What a `dynamodb://` URL says.

    dynamodb://REGION/TABLE[?endpoint=https://host:port&partitions=16&timeout=5]

There is no password in it: credentials are found as boto3 finds them (environment, profile, role). Nothing of a URL is
ever shown but region, table, the endpoint's host and port, and the names of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from durable.model.errors import StoreError

from .url_parts import MAX_PARTITIONS, REGION, count, endpoint, parameters, parsed, seconds

DEFAULT_PARTITIONS: Final = 16
DEFAULT_TIMEOUT: Final = 5.0

_SHAPE: Final = "dynamodb://REGION/TABLE, e.g. dynamodb://eu-central-1/durable"
_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")


@dataclass(frozen=True)
class Target:
    """A table and how to reach it. `partitions`: what the URL asks for, None to take the workspace as it is."""

    region: str
    table: str
    endpoint: str | None = None
    partitions: int | None = None
    timeout: float = DEFAULT_TIMEOUT

    @property
    def where(self) -> str:
        """`DynamoDB table NAME in REGION`, to begin a message."""
        at = f" at {urlsplit(self.endpoint).netloc}" if self.endpoint else ""
        return f"DynamoDB table {self.table} in {self.region}{at}"

    @property
    def url(self) -> str:
        """As short as it can be said."""
        return f"dynamodb://{self.region}/{self.table}" + (f"?endpoint={self.endpoint}" if self.endpoint else "")


def parse_url(url: str) -> Target:
    """The target of a URL. Raises StoreError for anything that is not understood."""
    parts = parsed(url)
    if parts is None or parts.scheme != "dynamodb" or not url.startswith("dynamodb://"):
        raise StoreError(f"not the URL of a DynamoDB store: write {_SHAPE}")
    if "@" in parts.netloc or parts.fragment:
        raise StoreError("a DynamoDB URL has no user and no password: credentials are found as boto3 finds them")
    if not REGION.fullmatch(parts.netloc):
        raise StoreError(f"the DynamoDB URL names no region: write {_SHAPE}")
    table = parts.path.removeprefix("/")
    if not _TABLE.fullmatch(table):
        raise StoreError(
            f"the DynamoDB URL names no table: write {_SHAPE}; a table's name has 3 to 255 of A-Z a-z 0-9 _ . -"
        )
    values = parameters(parts.query, _PARAMETERS, "DynamoDB")
    return Target(parts.netloc, table, **values)


def _endpoint(name: str, text: str) -> str:
    return endpoint(text, name, "DynamoDB")


def _partitions(name: str, text: str) -> int:
    return count(text, MAX_PARTITIONS, name, "DynamoDB")


def _seconds(name: str, text: str) -> float:
    return seconds(text, name, "DynamoDB")


_PARAMETERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "endpoint": _endpoint,
    "partitions": _partitions,
    "timeout": _seconds,
}
