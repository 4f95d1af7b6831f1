"""What the URLs of several servers have in common: how they are taken apart, and names as a part of a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from durable.model.errors import StoreError

MAX_PARTITIONS: Final = 4096
REGION: Final = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+")  # of Amazon's
_SAFE_NAME: Final = re.compile(r"[a-z][a-z_]{0,39}")


def parsed(url: str) -> SplitResult | None:
    """None instead of an exception: the parser's quotes the URL, and would stay the context of ours."""
    try:
        url.encode()
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def parameters(query: str, known: Mapping[str, Callable[[str, str], Any]], server: str) -> dict[str, Any]:
    """What the parameters give, each read by its function of name and text. Raises StoreError."""
    values: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        name, _, text = part.partition("=")
        read = known.get(name)
        if read is None:
            shown = name if _SAFE_NAME.fullmatch(name) else "(not a plain word)"
            raise StoreError(f"unknown parameter {shown} in the {server} URL; known: {', '.join(sorted(known))}")
        if name in values:
            raise StoreError(f"parameter {name} stands twice in the {server} URL")
        values[name] = read(name, unquote(text))
    return values


def endpoint(text: str, name: str, server: str) -> str:
    """Another address of a service that is Amazon's. Raises StoreError."""
    parts = parsed(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise StoreError(f"parameter {name} in the {server} URL must be like http://127.0.0.1:8000, without a user")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise StoreError(f"parameter {name} in the {server} URL must end with its host and port")
    return f"{parts.scheme}://{parts.netloc}"


def count(text: str, most: int, name: str, server: str) -> int:
    """The whole number that a parameter gives. Raises StoreError for anything but 1 to `most`."""
    if not re.fullmatch("[1-9][0-9]{0,9}", text) or int(text) > most:
        raise StoreError(f"parameter {name} in the {server} URL must be a number from 1 to {most}")
    return int(text)


def seconds(text: str, name: str, server: str) -> float:
    """The duration that a parameter gives. Raises StoreError."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text) or float(text) == 0:
        raise StoreError(f"parameter {name} in the {server} URL must be a number of seconds above 0")
    return float(text)


def quote_part(text: str, what: str) -> str:
    """A prefix or workspace as part of a key: only what no server gives a meaning. Raises ValueError if empty."""
    if not text:
        raise ValueError(f"the {what} is empty; give it a name")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ValueError(f"the {what} {text[:40]!a} is not valid Unicode") from None
