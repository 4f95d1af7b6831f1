"""A store that never says whether a commit happened: a client tries again for a while, then says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

import pytest

import durable
from durable.ports import Commit, Outcome


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[durable.Client]:
    """One failed instance `failed`; from then on no commit is answered, and none happens."""
    monkeypatch.setattr("durable.app.tries.SECONDS", 0.05)
    app = durable.Registry()

    @app.orchestrator
    def fails(ctx: durable.OrchestrationContext) -> None:
        raise ValueError

    with durable.connect(f"memory://unclear-{datetime.now(timezone.utc).timestamp()}") as client:
        with durable.Worker(client, registry=app):
            client.start_orchestration("fails", instance_id="failed")
            client.wait("failed", 20)
        commits: list[str] = []

        def unknown(some: Sequence[Commit]) -> list[Outcome]:
            commits.extend(commit.instance_id for commit in some)
            assert len(commits) < 50, "without a pause"
            return [Outcome.UNKNOWN] * len(some)

        monkeypatch.setattr(client.backend.store, "commit", unknown)
        monkeypatch.setattr(client.backend.store, "begin", lambda some: lambda: unknown(some))
        yield client


CALLS: list[Callable[[durable.Client], object]] = [
    lambda client: client.start_orchestration("fails", instance_id="new"),
    lambda client: client.start_orchestration("fails", instance_id="failed", if_exists="replace"),
    lambda client: client.start_many("fails", [None, None], instance_ids=["new", "newer"]),
    lambda client: client.rewind("failed"),
    lambda client: client.restart("failed", new_instance_id="failed"),
    lambda client: client.fork("failed", after=0, new_instance_id="new"),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_whose_commit_stays_unclear_ends_with_an_error_that_says_what_to_do(
    client: durable.Client, call: Callable[[durable.Client], object]
) -> None:
    with pytest.raises(durable.StoreError, match=r"'(new|failed)'.* has not said whether that happened.*try again"):
        call(client)
