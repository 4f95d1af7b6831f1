"""From a URL to a backend: the scheme names an entry point of the group `durable.stores`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from ..ports import Backend

GROUP: Final = "durable.stores"
DEFAULT_URL: Final = "sqlite:///.durable/durable.db"


def url_or_default(url: object) -> str:
    """The URL that a user gave, else DURABLE_URL (empty is unset), else the embedded default."""
    if url is None:
        return os.environ.get("DURABLE_URL") or DEFAULT_URL
    if not isinstance(url, str):
        raise TypeError(f"the store's URL must be text, not {url!r}")
    return url


def open_backend(url: str) -> Backend:
    """Open the store behind `url`. Raises ValueError for a URL nobody serves, StoreError for one that can't be used.

    Errors name the scheme only: the rest of a URL may hold a password.
    """
    from importlib.metadata import entry_points  # a third of the import's time, and not needed before

    scheme = urlsplit(url).scheme if "://" in url else ""
    found = entry_points(group=GROUP)
    if not scheme or scheme not in found.names:
        known = ", ".join(f"{name}://" for name in sorted(found.names)) or "none (is the package installed?)"
        what = f"no installed store serves {scheme}:// URLs" if scheme else "the store's URL has no scheme"
        raise ValueError(f"{what}; known: {known}. The embedded default is {DEFAULT_URL}")
    opener: Callable[[str], Backend] = found[scheme].load()
    return opener(url)
