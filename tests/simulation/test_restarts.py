"""Workers restarted one after the other under load, by a simulated broker that loses nothing and is trusted for long.

In the swarm of the simulator an invocation that nobody has comes back after seconds; here only a hand-over that leaves
none behind ends in time.
"""

from __future__ import annotations

from random import Random

from durable.runtime.loop import Settings
from durable.runtime.serving import Serving
from durable.testing.random_programs import make_script
from durable.testing.simulated_world import HASTY, Plan, World

SEEDS = 25


def stuck(seed: int) -> list[str]:
    """What has not ended a minute after the last of a dozen drains."""
    random = Random(seed)
    plan = Plan(
        workers=3,
        partitions=4,
        settings=Settings(window=5.0, sweep=1.0, retry=0.2),
        hold=60.0,
        scripts=[make_script(random, 7) for _ in range(20)],
        heal=6.0,
        store_rates={},
        message_rates={},
        strikes=sorted((random.uniform(0.0, 6.0), "drain") for _ in range(12)),
        terminate=(),
        slow=0.02,
        serving=Serving(
            by_mail=True, eager=False, slots=4, patience=HASTY._replace(sent=1_000.0, sent_at_most=1_000.0)
        ),
    )
    world = World(random, plan)
    world.run(60.0)
    return [*world.store.judge.unfinished]


def test_what_a_stopping_worker_has_somebody_else_has_soon() -> None:
    assert {seed: left for seed in range(SEEDS) if (left := stuck(seed))} == {}
