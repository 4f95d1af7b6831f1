"""A listing over many partitions: each is in order already, so they are merged.

Each partition is read a page at a time, and the pages of all that run low come in one round trip. Pages grow while a
filter throws away most of what they bring, up to a bound: however long the listing, so much is in memory and no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from durable.model.status import Summary
from durable.ports import Query, Slice

from .listing import Place, encode_place, place_of

MAX_PAGE: Final = 256


class Asked(NamedTuple):
    """A page of one partition, newest first: created at `after` or later, before `before`, beyond `place`."""

    partition: int
    after: float | None
    before: float | None
    place: Place | None
    limit: int


# What was found, None for an instance that has gone meanwhile; fewer than were asked for means that there are no more.
Found = Sequence[tuple[Place, Summary | None]]
Read = Callable[[Sequence[Asked]], Sequence[Found]]


class _Source:
    """One partition of a listing: what was read and not yet taken, and where to read on."""

    def __init__(self, partition: int, place: Place | None) -> None:
        self.partition = partition
        self.place = place
        self.found: deque[tuple[Place, Summary]] = deque()
        self.ended = False

    def take(self, page: Found, asked: int, query: Query) -> None:
        """Keep what fits the query of a page that was asked to have so many."""
        for place, summary in page:
            self.place = place
            if summary is not None and _matches(query, summary):
                self.found.append((place, summary))
        self.ended = len(page) < asked


def find(query: Query, partitions: int, read: Read) -> Slice[Summary]:
    """Answer the query. Raises ValueError for a forged cursor or a limit below 1."""
    place = place_of(query)
    sources = [_Source(number, place) for number in range(partitions)]
    page = min(MAX_PAGE, query.limit // partitions + 8)
    taken: list[tuple[Place, Summary]] = []
    while len(taken) <= query.limit:
        if any(not source.found and not source.ended for source in sources):
            low = [source for source in sources if not source.ended and len(source.found) < page // 2 + 1]
            after, before = query.created_after, query.created_before
            answers = read([Asked(source.partition, after, before, source.place, page) for source in low])
            for source, answer in zip(low, answers, strict=True):
                source.take(answer, page, query)
            page = min(MAX_PAGE, 2 * page)
            continue
        filled = [source for source in sources if source.found]
        if not filled:
            break
        taken.append(max(filled, key=lambda source: source.found[0][0]).found.popleft())
    items = taken[: query.limit]
    return Slice([summary for _, summary in items], encode_place(*items[-1][0]) if len(taken) > len(items) else None)


def _matches(query: Query, summary: Summary) -> bool:
    """The filters but those by time, which the store has applied."""
    return (
        (query.status is None or summary.status in query.status)
        and (query.name is None or summary.name == query.name)
        and (query.prefix is None or summary.instance_id.startswith(query.prefix))
        and (query.tags is None or query.tags.items() <= (summary.tags or {}).items())
    )
