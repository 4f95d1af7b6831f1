"""Loggers that say which instance speaks, and stay silent while the past is run again."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter  # Python 3.10 can't subscript it


class InstanceLogger(_Adapter):
    """Adds its fields to each record, beside those that the call gives; silent while `silent()` is true."""

    def __init__(self, name: str, fields: dict[str, Any], silent: Callable[[], bool] = lambda: False) -> None:
        super().__init__(logging.getLogger(name), fields)
        self._silent = silent

    def isEnabledFor(self, level: int) -> bool:  # the name is logging's
        return not self._silent() and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs
