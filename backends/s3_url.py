"""What an `s3://` URL says.

    s3://BUCKET/PREFIX[?region=eu-central-1&endpoint=https://host:port&timeout=5]

There is no password in it: credentials are found as boto3 finds them (environment, profile, role). Nothing of a URL is
ever shown but bucket, prefix, the endpoint's host and port, and the names of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from durable.model.errors import StoreError

from .url_parts import endpoint, parameters, parsed, seconds

_SHAPE: Final = "s3://BUCKET/PREFIX, e.g. s3://my-company/durable"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_.=-]+/)*[A-Za-z0-9_.=-]+")
_REGION: Final = re.compile(r"[a-z0-9-]{2,30}")
_LONGEST_PREFIX: Final = 200  # of the 1,024 bytes of a key


class Target(NamedTuple):
    """A place in a bucket and how to reach it. `prefix` is empty or ends in a slash."""

    bucket: str
    prefix: str
    region: str | None = None
    endpoint: str | None = None
    timeout: float = 5.0

    @property
    def where(self) -> str:
        """To begin a message."""
        at = f" at {urlsplit(self.endpoint).netloc}" if self.endpoint else ""
        return f"S3 bucket {self.bucket}{at}"


def parse_url(url: str) -> Target:
    """The target of a URL. Raises StoreError for anything that is not understood."""
    parts = parsed(url)
    if parts is None or parts.scheme != "s3" or not url.startswith("s3://"):
        raise StoreError(f"not the URL of a bucket: write {_SHAPE}")
    if "@" in parts.netloc or parts.fragment:
        raise StoreError("the URL of a bucket has no user and no password: credentials are found as boto3 finds them")
    if not _BUCKET.fullmatch(parts.netloc):
        raise StoreError(f"the URL names no bucket: write {_SHAPE}")
    prefix = parts.path.strip("/")
    if prefix and not (_PREFIX.fullmatch(prefix) and len(prefix) <= _LONGEST_PREFIX):
        raise StoreError(
            f"the prefix in the URL of a bucket has at most {_LONGEST_PREFIX} of A-Z a-z 0-9 _ . = - and single slashes"
        )
    values = parameters(parts.query, _PARAMETERS, "S3")
    return Target(parts.netloc, f"{prefix}/" if prefix else "", **values)


def _endpoint(name: str, text: str) -> str:
    return endpoint(text, name, "S3")


def _region(name: str, text: str) -> str:
    if not _REGION.fullmatch(text):
        raise StoreError(f"parameter {name} in the S3 URL must be like eu-central-1")
    return text


def _seconds(name: str, text: str) -> float:
    return seconds(text, name, "S3")


_PARAMETERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "endpoint": _endpoint,
    "region": _region,
    "timeout": _seconds,
}
