"""A monitor: look at a job now and then until it is done. It may take months; between two looks nothing runs.

    python samples/monitor.py

Each look is a fresh history (continue-as-new), so the history stays short however long this goes on. Kill it and run it
again: it goes on where it was.
"""

from collections.abc import Generator
from datetime import datetime, timedelta, timezone
from typing import Any

import durable


@durable.activity
def percent_done(job: str, look: int) -> int:
    return min(100, 40 * look)  # a call of the service that does the job, in real life


@durable.activity
def alert(text: str) -> None:
    print(text, flush=True)


@durable.orchestrator
def monitor(
    ctx: durable.OrchestrationContext, job: str, every: timedelta, deadline: datetime, look: int = 1
) -> Generator[Any, Any, str]:
    percent = yield from ctx.call_activity(percent_done, job, look)
    ctx.set_custom_status({"look": look, "percent": percent})
    if percent == 100:
        return f"{job} is done after {look} looks"
    if ctx.current_utc_datetime + every > deadline:
        yield ctx.call_activity(alert, f"{job} is late: {percent} %")
        return f"{job} is late"
    yield ctx.create_timer(every)
    ctx.continue_as_new(job, every, deadline, look + 1)
    return ""  # nobody sees it: the next look goes on under the same instance id


if __name__ == "__main__":
    with durable.Worker():
        deadline = datetime.now(timezone.utc) + timedelta(minutes=1)
        handle = durable.start_orchestration(
            monitor, "the backup", timedelta(seconds=1), deadline, instance_id="backup-1", if_exists="return"
        )
        print(handle.result(), handle.status().custom_status)
