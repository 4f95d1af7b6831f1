"""The raw limit of hello sequences at a place: the bare programs of what is there, one after the other.

With two servers, or with streams, the times of both programs are added. They could overlap a little, as the product's
do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tests.benchmarks import raw_sqlite
    from tests.benchmarks.places import Place, emulator_seconds
    from tests.benchmarks.raw_redis import Shape
else:
    import raw_sqlite
    from places import emulator_seconds

_SQLITE: Final = {
    "many": raw_sqlite.sequences_in_bulk,
    "single": raw_sqlite.sequences_one_by_one,
    "alone": raw_sqlite.sequences_alone,
}


class Limit(NamedTuple):
    """Seconds of all; of each sequence, where they run alone; bytes of histories and summaries stored; processor
    seconds of the emulator, where there is one."""

    seconds: float
    each: list[float]
    stored: int
    emulator: float = 0.0


def sequences(place: Place, shape: Shape, count: int, warm_up: int, apart: bool = False) -> Limit:
    """What so many hello sequences need there at least. `apart`: client and worker are not one process."""
    if place.path:
        transactions = _SQLITE[shape](count)
        written = raw_sqlite.write(place.path, raw_sqlite.sequences_in_bulk(warm_up), transactions)
        return Limit(written.seconds, _of_each(written.each, count), written.stored)
    # Only here: without the clients of the servers the other rows can be measured all the same.
    if TYPE_CHECKING:
        from tests.benchmarks import raw_dynamodb, raw_rabbitmq, raw_redis, raw_streams
    elif place.emulator is not None:
        import raw_dynamodb
    else:
        import raw_redis
    if place.emulator is not None:
        asked = raw_dynamodb.write(place.store, shape, count, warm_up, partial(emulator_seconds, place))
        return Limit(asked.seconds, _of_each(asked.each, count), asked.stored, asked.used)
    reply_to = raw_redis.REPLY_TO if place.events else ""
    stored = raw_redis.write(place.nodes, shape, count, warm_up, reply_to, apart)
    limit = Limit(stored.seconds, _of_each(stored.each, count), stored.stored)
    if place.events is not None:
        if not TYPE_CHECKING:
            import raw_rabbitmq
        sent = raw_rabbitmq.carry(place.events, shape, count, warm_up, not place.eager, apart)
    elif not place.eager:
        if not TYPE_CHECKING:
            import raw_streams
        sent = raw_streams.carry(place.store, shape, count, warm_up)
    else:
        return limit
    both = zip(limit.each, _of_each(sent.each, count), strict=True)
    return Limit(limit.seconds + sent.seconds, [one + other for one, other in both], limit.stored)


def _of_each(seconds: Sequence[float], count: int) -> list[float]:
    """The same number of consecutive parts is one sequence's; nothing sensible where they were batched."""
    parts = len(seconds) // count
    return [sum(seconds[n * parts : (n + 1) * parts]) for n in range(count)] if parts else [0.0] * count
