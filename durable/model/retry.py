"""When a failed activity or child is tried again. Durable: the delays are timers in the history, never sleeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from .failure import FailureDetails
from .moments import to_timedelta


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and how far apart, a failed attempt is repeated (Durable Functions' RetryOptions, with more).

    max_attempts: attempts in all, the first included. first_interval: wait before the second attempt.
    backoff_coefficient: factor on each further wait. max_interval: upper bound of a wait before jitter, None for none.
    retry_timeout: no attempt starts later than this after the first one was scheduled, None for no bound.
    jitter: a wait is lengthened or shortened by up to this fraction of itself (0 to 1).
    retry_on, give_up_on: exception types, matched by the recorded class hierarchy; `give_up_on` wins.
    Durations are `timedelta` or seconds. Raises ValueError or TypeError on values outside these rules.
    """

    max_attempts: int
    first_interval: timedelta | float = timedelta(seconds=1)
    backoff_coefficient: float = 2.0
    max_interval: timedelta | float | None = None
    retry_timeout: timedelta | float | None = None
    jitter: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        _check_attempts(self.max_attempts)
        for name in ("first_interval", "max_interval", "retry_timeout"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, to_timedelta(value, f"RetryPolicy({name}=)"))
        if not 1.0 <= self.backoff_coefficient < float("inf"):
            raise ValueError(f"RetryPolicy(backoff_coefficient={self.backoff_coefficient!r}): give a number from 1 up")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"RetryPolicy(jitter={self.jitter!r}): give a fraction from 0 to 1")
        for name in ("retry_on", "give_up_on"):
            value = getattr(self, name)
            types = (value,) if isinstance(value, type) else tuple(value)
            if not all(isinstance(item, type) and issubclass(item, BaseException) for item in types):
                raise TypeError(f"RetryPolicy({name}=): give exception types, not {value!r}")
            object.__setattr__(self, name, types)

    def next_attempt_at(
        self, failure: FailureDetails, attempt: int, first_at: datetime, now: datetime, random: Random
    ) -> datetime | None:
        """When the attempt after the failed number `attempt` starts, or None to give up. Pure but for `random`."""
        if attempt >= self.max_attempts or not failure.retryable:
            return None
        if any(failure.is_a(kind) for kind in self.give_up_on):
            return None
        if not any(failure.is_a(kind) for kind in self.retry_on):
            return None
        assert isinstance(self.first_interval, timedelta)
        try:
            delay = self.first_interval * self.backoff_coefficient ** (attempt - 1)
        except OverflowError:
            delay = timedelta.max
        if isinstance(self.max_interval, timedelta):
            delay = min(delay, self.max_interval)
        try:
            if self.jitter:
                delay *= 1 + self.jitter * (2 * random.random() - 1)
            at = now + delay
        except OverflowError:
            return None
        if isinstance(self.retry_timeout, timedelta) and at - first_at > self.retry_timeout:
            return None
        return at


def _check_attempts(given: object) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f"RetryPolicy(max_attempts={given!r}): give a whole number from 1 up")
