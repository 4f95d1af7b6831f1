"""All parsers: by name, good inputs, what reads them, and which exceptions say no."""

from __future__ import annotations

from typing import Final

from . import messages, people, stored, urls
from .harness import Parser

PARSERS: Final[dict[str, Parser]] = {**messages.PARSERS, **stored.PARSERS, **urls.PARSERS, **people.PARSERS}
