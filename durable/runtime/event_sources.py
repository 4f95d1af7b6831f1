"""The event sources that a worker receives from: those that the triggers of its workspace name, while it serves them.

Laws.
1. Connecting takes its time and may fail: it happens on a thread of its own, again and again, and the engine goes on.
   Closing has one of its own too, and a server that does not answer holds it up: only the end of a worker waits for it,
   some seconds.
2. What came over a connection is acknowledged over that one, or not at all: then it comes again.
3. What a source brings that is wanted no more is not told.
4. Publishing waits for the source's word, on the engine's thread: a server that gives none would stop that for seconds,
   again and again. So after it took nothing, it is left alone for ten times as long as that took, up to half a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Final

import tenacity

from ..model.errors import TransportError
from ..ports import EventSource, Published
from ..triggers.changes import Source
from .requests import Occurred, SourceTag

log = logging.getLogger("durable.worker")

PREFETCH: Final = 10_000  # events that are received and not taken yet: some steps' worth
_FIRST_PAUSE: Final = 0.5  # seconds between two tries to connect
_LONGEST_PAUSE: Final = 15.0
_ALONE: Final = 10  # times as long as it took to take nothing
_LONGEST_ALONE: Final = 30.0  # seconds
_CLOSING: Final = 5.0  # seconds that the end of a worker waits for each

Opener = Callable[[str], EventSource]


class EventSources:
    """See above. Used by the engine's thread; closed by whoever stops the worker, once that has ended."""

    def __init__(
        self, open_source: Opener, tell: Callable[[Occurred], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_source = open_source
        self._tell = tell
        self._now = now
        self._served: dict[str, _Served] = {}

    def serve(self, wanted: Mapping[str, Source]) -> None:
        """From now on these, by name, and no others."""
        for name in [name for name, served in self._served.items() if wanted.get(name) != served.wanted]:
            self._served.pop(name).close()
        for name, source in wanted.items():
            if name not in self._served:
                self._served[name] = _Served(name, source, self._open_source, self._tell, self._now)

    def ack(self, tags: Sequence[SourceTag]) -> None:
        """These events are taken."""
        by_name: dict[str, list[object]] = {}
        for tag in tags:
            served = self._served.get(tag.source)
            if served is not None and served.life is tag.life:
                by_name.setdefault(tag.source, []).append(tag.tag)
        for name, some in by_name.items():
            self._served[name].ack(some)

    def publish(self, name: str, bodies: Sequence[bytes]) -> list[Published]:
        """One answer each. UNKNOWN too where there is no connection now, or the source is left alone."""
        served = self._served.get(name)
        return [Published.UNKNOWN] * len(bodies) if served is None else served.publish(bodies)

    def close(self) -> None:
        """Receive no more; soon others can. Idempotent."""
        closing = [served.close() for served in self._served.values()]
        self._served = {}
        for thread in closing:
            if thread is not None:
                thread.join(_CLOSING)


class _Served:
    """One source, from its first connection on. life: an identity of its own, in the tags of what it brought."""

    def __init__(
        self,
        name: str,
        wanted: Source,
        open_source: Opener,
        tell: Callable[[Occurred], None],
        now: Callable[[], float],
    ) -> None:
        self.wanted = wanted
        self.life = object()
        self._name = name
        self._open_source = open_source
        self._tell = tell
        self._now = now
        self._publish_at = 0.0  # law 4: not before
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._source: EventSource | None = None
        threading.Thread(target=self._connect, name=f"durable-source-{name}", daemon=True).start()

    def ack(self, tags: Sequence[object]) -> None:
        if self._source is not None:
            self._source.ack(tags)

    def publish(self, bodies: Sequence[bytes]) -> list[Published]:
        began = self._now()
        answers = [Published.UNKNOWN] * len(bodies)
        if self._source is None or began < self._publish_at:
            return answers
        try:
            answers = self._source.publish(bodies)
        except TransportError as error:
            log.warning("event source %r does not take events now, trying again: %s", self._name, error)
        if Published.CONFIRMED not in answers:
            now = self._now()
            self._publish_at = now + min(_ALONE * (now - began), _LONGEST_ALONE)
        return answers

    def close(self) -> threading.Thread | None:
        """The thread on which it is closed; None where there is nothing to close."""
        with self._lock:
            self._closed.set()
            source, self._source = self._source, None
        if source is None:
            return None
        thread = threading.Thread(target=source.close, name=f"durable-closes-{self._name}", daemon=True)
        thread.start()
        return thread

    def _connect(self) -> None:
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((TransportError, ValueError)),
            wait=tenacity.wait_exponential(_FIRST_PAUSE, _LONGEST_PAUSE),
            stop=tenacity.stop_when_event_set(self._closed),
            sleep=tenacity.sleep_using_event(self._closed),
            before_sleep=self._say,
            retry_error_callback=lambda _: None,
        ):
            with attempt:
                self._open()

    def _say(self, state: tenacity.RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        log.warning("event source %r can't be used now, trying again: %s", self._name, error)

    def _open(self) -> None:
        with ExitStack() as unless_used:
            source = self._open_source(self.wanted.url)
            unless_used.callback(source.close)
            with self._lock:
                if self._closed.is_set():
                    return
                if self.wanted.receives:
                    source.receive(PREFETCH, self._bring)
                self._source = source
            unless_used.pop_all()

    def _bring(self, bodies: Sequence[bytes], tag: object) -> None:
        if not self._closed.is_set():
            self._tell(Occurred(bodies, SourceTag(self._name, self.life, tag)))
