"""Planted bugs of stores, and of what a commit leaves in one; see `planted`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from msgspec.structs import replace

from ..app.claiming import ClaimedStore
from ..backends.memory import MemoryStore
from ..payload.claims import place
from ..ports import Append, Commit, Delivered, Fact, Outcome, Row

NEVER: Final = 1e12  # a due time


class AcknowledgesFirst(MemoryStore):
    """What a turn has taken is let go of before its commit: it is in good hands by then."""

    def commit(self, commits: Any) -> list[Outcome]:
        for commit in commits:
            for key in commit.drop:
                self._drop(key)
        return super().commit(commits)


class ForgetsFacts(MemoryStore):
    """The same fact delivered twice is two facts: who would send it twice?"""

    def _deliver(self, fact: Fact) -> Delivered:
        self._seen.pop(fact.instance_id, None)
        return super()._deliver(fact)


class EndsMessagesWhenSent(MemoryStore):
    """A message to another instance is only in the memory of the worker that sends it: that is quick."""

    def _commit(self, commit: Commit) -> Outcome:
        outcome = super()._commit(commit)
        for row in commit.put:
            if row.kind == "message" and outcome is Outcome.COMMITTED:
                self._drop(row.key)
        return outcome


class DropsWhatIsForNobody(MemoryStore):
    """An event that is sent to an orchestration which does not exist is gone: nobody waits for it."""

    def _deliver(self, fact: Fact) -> Delivered:
        return super()._deliver(fact._replace(park=False))


class ForgetsInboxAtContinue(MemoryStore):
    """Continuing as new takes the whole inbox with it, whether a turn has read it or not: begin with a clean slate."""

    def _commit(self, commit: Commit) -> Outcome:
        outcome = super()._commit(commit)
        if len(commit.appends) == 2 and outcome is Outcome.COMMITTED:
            _empty_inbox(self, commit.instance_id)
        return outcome


class EmptiesTheInbox(MemoryStore):
    """A turn that has taken something from the inbox empties it: one statement, and no list of keys."""

    def _commit(self, commit: Commit) -> Outcome:
        outcome = super()._commit(commit)
        if any(key.startswith("in/") for key in commit.drop) and outcome is Outcome.COMMITTED:
            _empty_inbox(self, commit.instance_id)
        return outcome


def _empty_inbox(store: MemoryStore, instance_id: str) -> None:
    for key in [key for key in store._inbox.get(instance_id, ()) if key.startswith("in/")]:
        store._drop(key)


class ForgetsFactsAtContinue(MemoryStore):
    """Which facts have been seen is remembered for each execution: the table would grow for ever."""

    def _commit(self, commit: Commit) -> Outcome:
        outcome = super()._commit(commit)
        if len(commit.appends) == 2 and outcome is Outcome.COMMITTED:
            self._seen.pop(commit.instance_id, None)
        return outcome


class ChecksNoVersion(MemoryStore):
    """The last writer wins: there is only one owner."""

    def _commit(self, commit: Commit) -> Outcome:
        found = self._instances.get(commit.instance_id)
        if found is None or not commit.expect:
            return super()._commit(commit)
        return super()._commit(replace(commit, expect=found.version))

    def _append(self, append: Append) -> None:
        self._history.setdefault(append.execution_id, []).append((append.start, append.events))


class HoldsForEver(MemoryStore):
    """A row that somebody holds is never due: its holder will let go of it."""

    def _put(self, row: Row) -> None:
        super()._put(replace(row, due_at=NEVER) if row.holder else row)


class StartsBySignal(MemoryStore):
    """Nothing but the signal wakes what has been started: signals are quicker than rows."""

    def _commit(self, commit: Commit) -> Outcome:
        return super()._commit(commit if commit.expect else _without_inbox_rows(commit))


class ContinuesByMemory(MemoryStore):
    """Nothing wakes the next execution: its worker goes on with it at once anyway."""

    def _commit(self, commit: Commit) -> Outcome:
        return super()._commit(_without_inbox_rows(commit) if len(commit.appends) == 2 else commit)


def _without_inbox_rows(commit: Commit) -> Commit:
    return replace(commit, put=tuple(row for row in commit.put if row.kind != "inbox"))


class KeepsNoTimers(MemoryStore):
    """Timers are in the memory of the worker that has set them: there they are exact."""

    def _commit(self, commit: Commit) -> Outcome:
        rows = commit.put if not commit.expect else tuple(row for row in commit.put if row.kind != "timer")
        return super()._commit(replace(commit, put=rows))


class InTwoWrites(MemoryStore):
    """A turn of which a part is written when the first part is known to be: `unwritten`, lost with its worker."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__(partitions)
        self.unwritten: list[Callable[[], None]] = []

    def _commit(self, commit: Commit) -> Outcome:
        found = self._instances.get(commit.instance_id)
        if found is None or found.summary.status.finished or not commit.appends:
            return super()._commit(commit)
        outcome = super()._commit(self.first(commit))
        if outcome is Outcome.COMMITTED:
            self.unwritten.append(lambda: self.second(commit))
        return outcome

    def first(self, commit: Commit) -> Commit:
        raise NotImplementedError

    def second(self, commit: Commit) -> None:
        raise NotImplementedError


class WritesStatusLater(InTwoWrites):
    """History first, then the status, which is but a view of it."""

    def first(self, commit: Commit) -> Commit:
        before = self._instances[commit.instance_id].summary
        return replace(commit, summary=replace(before, execution_id=commit.summary.execution_id))

    def second(self, commit: Commit) -> None:
        written = self._instances.get(commit.instance_id)
        if written is not None and written.commit_id == commit.id:
            self._instances[commit.instance_id] = written._replace(summary=commit.summary)


class WritesRowsLater(InTwoWrites):
    """History first, then what is to be done: nothing is to be done that is not written."""

    def first(self, commit: Commit) -> Commit:
        return replace(commit, put=())

    def second(self, commit: Commit) -> None:
        for row in commit.put:
            self._put(row)


# ---- payloads beside the store


def blobs_after_the_commit() -> AbstractContextManager[Any]:
    """First the commit, which may be refused, and then its blobs: that leaves no rubbish."""

    def begin(self: ClaimedStore, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        blobs: dict[str, bytes] = {}
        finish = self._inner.begin([self._deposited(commit, blobs) for commit in commits])

        def finished() -> list[Outcome]:
            outcomes = finish()
            self._blobs.put(blobs)
            return outcomes

        return finished

    return patch.object(ClaimedStore, "begin", begin)


def blobs_gone_at_continue() -> AbstractContextManager[Any]:
    """The payloads of an execution that has continued as new go with it: nobody will ask for them."""
    begin = ClaimedStore.begin

    def begin_and_delete(self: ClaimedStore, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        finish = begin(self, commits)

        def finished() -> list[Outcome]:
            outcomes = finish()
            ended = [place(commit.instance_id, commit.continues) for commit in commits if len(commit.appends) == 2]
            self._blobs.delete([blob.name for blob in self._blobs.names(ended)] if ended else [])
            return outcomes

        return finished

    return patch.object(ClaimedStore, "begin", begin_and_delete)
