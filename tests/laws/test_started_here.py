"""What a worker's own process starts: the first turn creates it, in one commit; or whoever wanted it is told so."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from msgspec.structs import replace

import durable
from durable.engine.step import create, uncreated
from durable.model import history as h
from durable.model.history import Event, Raw
from durable.ports import FACTS, Commit, Outcome, Record, Want
from durable.runtime import requests as ask
from tests.laws.driven import NOW, Driven, Registered


def creation(instance_id: str, name: str = "waits", group: str = "") -> Commit:
    started = Event(
        h.EXECUTION_STARTED, NOW, name=name, input=Raw(b"null"), execution_id=f"e {instance_id}", seed="s", group=group
    )
    return create(instance_id, started, 1, f"c {instance_id}")


class Here(Driven):
    """One that notes what it reads, what it commits, whom it tells and what it answers."""

    def __init__(self) -> None:
        app = durable.Registry()

        @app.orchestrator
        def waits(ctx: durable.OrchestrationContext) -> Generator[Any, Any, None]:
            yield ctx.wait_for_external_event("approved")

        super().__init__(codebase=Registered(app))
        self.loaded: list[str] = []
        self.committed: list[list[Commit]] = []
        self.told: list[str] = []
        self.created: dict[str, Outcome | None] = {}
        self.noting(ask.Load, lambda r: self.loaded.extend(want.instance_id for want in r.wants))
        self.noting(ask.Begin, lambda r: self.committed.append(list(r.commits)))
        self.answers[ask.Notify] = lambda r: self.told.extend(r.instance_ids if r.topic == FACTS else ())
        self.answers[ask.Created] = lambda r: self.created.update(r.outcomes)
        self.go_on(2, [ask.Assigned([("default", 0)], ["me"])])
        self.loaded.clear()

    def noting(self, kind: type, note: Callable[[Any], None]) -> None:
        answer = self.answers[kind]

        def noted(request: Any) -> Any:
            note(request)
            return answer(request)

        self.answers[kind] = noted

    def stored(self, instance_id: str) -> Record | None:
        [record] = self.store.load([Want(instance_id)])
        return record


@pytest.fixture
def here() -> Here:
    return Here()


def test_it_is_created_by_its_first_turn_in_one_commit(here: Here) -> None:
    here.go_on(2, [ask.Started([uncreated(creation("a")), uncreated(creation("b"))])])
    [commits] = here.committed
    assert [(commit.instance_id, commit.expect) for commit in commits] == [("a", 0), ("b", 0)]
    assert here.created == {"a": Outcome.COMMITTED, "b": Outcome.COMMITTED}
    assert [record is not None and record.version for record in map(here.stored, "ab")] == [1, 1]
    assert list(here.loop.turns.warm) == ["a", "b"]
    assert here.loaded == []


@pytest.mark.parametrize(
    "start", [creation("a", "unserved"), creation("a", group="night")], ids=["without code", "another group's"]
)
def test_what_can_t_begin_here_is_left_to_whoever_starts_it(here: Here, start: Commit) -> None:
    here.go_on(2, [ask.Started([uncreated(start)])])
    assert here.created == {"a": None}
    assert here.stored("a") is None
    assert here.committed == []


def test_what_lives_here_already_is_not_created_again(here: Here) -> None:
    here.go_on(2, [ask.Started([uncreated(creation("a"))])])
    here.go_on(2, [ask.Started([uncreated(creation("a"))])])
    assert here.created == {"a": None}
    assert len(here.committed) == 1
    assert list(here.loop.turns.warm) == ["a"]


def test_what_was_created_a_moment_ago_goes_on_unread(here: Here) -> None:
    here.store.commit([replace(creation("a"), put=())])  # no row of it is due, so that no sweep finds it first
    record = here.stored("a")
    assert record is not None
    here.go_on(2, [ask.Started([record])])
    assert here.loaded == []
    assert list(here.loop.turns.warm) == ["a"]
    here.go_on(2, [ask.Started([record])])  # once more, or late: it goes on already
    assert here.loaded == []
    assert len(here.committed) == 1


def test_another_groups_worker_is_told_of_what_was_created_here(here: Here) -> None:
    here.store.commit([creation("far", group="night"), creation("near")])
    records = [record for record in map(here.stored, ("far", "near")) if record is not None]
    here.go_on(2, [ask.Started(records)])
    assert here.told == ["far"]
    assert [commit.instance_id for commits in here.committed for commit in commits] == ["near"]
