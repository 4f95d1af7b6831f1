"""While all activities are quick, more of them than there are slots may be at a worker; one slow one ends that."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from durable.engine.instance import Env, Invocation
from durable.model.history import TASK_COMPLETED, Event, Raw
from durable.model.limits import Limits
from durable.replay.guard import Watch
from durable.runtime.courier import Courier
from durable.runtime.requests import Done, Run
from durable.runtime.serving import Serving
from durable.runtime.workload import Workload

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Names:
    def serves_activity(self, name: str) -> bool:
        return True

    def known(self, kind: str) -> list[str]:
        return []


@pytest.fixture
def workload() -> Workload:
    env = Env("me", 60.0, iter(f"id{n}" for n in range(10)).__next__, 16, Limits(), Watch())
    serving = Serving(by_mail=True, eager=True, slots=4)
    return Workload(env, serving, Names(), Courier(env, serving, lambda: NOW), lambda: NOW)


def invocation(number: int) -> Invocation:
    return Invocation(f"i{number}", "e", 1, 1, "quick", Raw(b"null"), f"key{number}")


def began(workload: Workload, numbers: range) -> int:
    """How many of these run here; the others go by mail."""
    requests = list(workload.begin([invocation(number) for number in numbers]))
    return sum(len(request.invocations) for request in requests if isinstance(request, Run))


def end(workload: Workload, numbers: range, seconds: float) -> None:
    for number in numbers:
        workload.ended(Done(invocation(number), Event(TASK_COMPLETED, NOW), seconds))


def test_until_activities_are_known_nobody_queues_for_a_slot(workload: Workload) -> None:
    assert began(workload, range(10)) == 4


def test_quick_activities_queue_here(workload: Workload) -> None:
    end(workload, range(1_000), 0.001)
    assert began(workload, range(40)) == 40


def test_one_slow_activity_sends_the_next_ones_to_whoever_is_free(workload: Workload) -> None:
    end(workload, range(1_000), 0.001)
    end(workload, range(1), 1.0)
    end(workload, range(100), 0.001)
    assert began(workload, range(40)) == 4


def test_threads_that_hang_are_no_room_until_they_are_free_again(workload: Workload) -> None:
    workload.stuck = 3
    list(workload.renew(NOW.timestamp()))
    assert began(workload, range(10)) == 1
    workload.stuck = 0
    list(workload.renew(NOW.timestamp()))
    assert began(workload, range(10, 20)) == 3
