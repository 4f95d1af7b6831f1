"""What the URLs of several servers have in common: how they are taken apart, and names as a part of a key."""

from __future__ import annotations

from urllib.parse import SplitResult, quote, urlsplit


def parsed(url: str) -> SplitResult | None:
    """None instead of an exception: the parser's quotes the URL, and would stay the context of ours."""
    try:
        url.encode()
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def quote_part(text: str, what: str) -> str:
    """A prefix or workspace as part of a key: only what no server gives a meaning. Raises ValueError if empty."""
    if not text:
        raise ValueError(f"the {what} is empty; give it a name")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ValueError(f"the {what} {text[:40]!a} is not valid Unicode") from None
