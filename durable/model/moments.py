"""Moments are aware UTC datetimes, durations are timedelta or seconds: the two conversions, and nothing else."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Annotated

from msgspec import Meta

UTC = timezone.utc
_FIRST = datetime.min.replace(tzinfo=UTC).timestamp()
_LAST = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()
Moment = Annotated[datetime, Meta(tz=True)]  # read from a store, one without a time zone could be compared with none


def to_utc(moment: datetime, where: str) -> datetime:
    """`moment` in UTC. Raises TypeError, or ValueError for a naive one or one that UTC does not have; `where` names the
    argument in the message."""
    if not isinstance(moment, datetime):
        raise TypeError(f"{where}: give an aware datetime, not {moment!r}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ValueError(f"{where}: {moment!r} has no time zone; give an aware one, e.g. datetime.now(timezone.utc)")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{where}: {moment!r} is outside the years 1 to 9999 in UTC") from None


def from_now(now: datetime, delta: timedelta, where: str) -> datetime:
    """That much later. Raises ValueError for what is past the last year; `where` as above."""
    try:
        return now + delta
    except OverflowError:
        raise ValueError(f"{where}: {delta} from now is past the year 9999") from None


def to_timedelta(duration: object, where: str) -> timedelta:
    """A duration from timedelta or seconds. Raises TypeError or ValueError; negative durations are refused."""
    if isinstance(duration, timedelta):
        delta = duration
    elif isinstance(duration, bool) or not isinstance(duration, int | float):
        raise TypeError(f"{where}: give a timedelta or seconds, not {duration!r}")
    elif not math.isfinite(duration):
        raise ValueError(f"{where}: {duration!r} is no duration")
    else:
        try:
            delta = timedelta(seconds=duration)
        except OverflowError:
            raise ValueError(f"{where}: {duration!r} seconds are more than a timedelta holds") from None
    if delta < timedelta(0):
        raise ValueError(f"{where}: {duration!r} is negative")
    return delta


def from_timestamp(seconds: float) -> datetime:
    """An aware UTC datetime from POSIX seconds; for a time that no calendar has, the first or last one that it has."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC)
