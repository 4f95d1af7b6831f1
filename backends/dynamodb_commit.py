"""A turn as one transaction: the meta item under its version, the events in chunks, rows put and ended.

Laws.
1. The version is checked by the condition on the meta item; nothing is read before, but for the few commits that begin
   another execution or life. What does not fit is told by the item that comes back with the refusal.
2. Reasons of a cancelled transaction are read one by one: the meta item's decides; a row's means that it refers to
   pieces beside it, and the transaction is sent again knowing that; conflicts and throttling alone are sent again.
3. Each transaction has a token of its own, so that its repetitions are one. The token is not the commit's id: DynamoDB
   would answer a commit that comes again after a purge from memory. The commit's id is in the meta item, which settles
   what no answer came to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from durable.model.errors import StoreError
from durable.ports import Commit, Outcome

from .dynamodb_actions import Action, end_row, put
from .dynamodb_connection import Cancelled, Connection, Unknown, key_of
from .dynamodb_items import (
    Item,
    Names,
    chunks,
    digest,
    encode_summary,
    history_key,
    listing_mark,
    pack_row,
    size_of,
)
from .dynamodb_overflow import Overflow, reference_of
from .dynamodb_split import Log, SplitTurns, corrected, fits
from .dynamodb_table import EXPIRES

TRIES: Final = 100  # each follows news about the items; more mean that two disagree about what is there

log = logging.getLogger("durable.dynamodb")


class Commits:
    """Commits one at a time, each alone; safe to use from several threads."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        overflow: Overflow,
        split: SplitTurns,
        empty_inbox: Callable[[str, int], None],
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._names = names
        self._overflow = overflow
        self._split = split
        self._empty_inbox = empty_inbox
        self._clock = clock

    def commit(self, commit: Commit) -> Outcome:
        """Raises StoreError when it is sure that nothing was written."""
        meta_key = self._names.meta(commit.instance_id)
        before: Item = {}
        if commit.continues != commit.summary.execution_id or commit.replaces:
            before = self._connection.get([meta_key]).get(meta_key, {})
        written: list[str] = []  # pieces beside their items
        try:
            meta = self._meta(commit, written)
            actions = self._actions(commit, before, written)
            outcome = self._write(commit, meta, actions, before)
        except Unknown as error:
            log.warning("a commit of instance %r has no answer, it may have happened: %s", commit.instance_id, error)
            outcome = self._settle(commit)
        except StoreError:
            self._overflow.discard(written)
            raise
        if outcome is Outcome.CONFLICT:
            self._overflow.discard(written)
        return outcome

    def _write(self, commit: Commit, meta: Item, actions: list[Action], before: Item) -> Outcome:
        refers = reference_of(before)
        table = self._connection.target.table
        size = size_of(meta)
        for _ in range(TRIES):
            split = None
            if not fits(actions, size):
                rows = self._names.rows(commit.partition)
                execution, group = commit.summary.execution_id, commit.summary.group
                split = self._split.store(actions, execution, commit.instance_id, rows, group, self._clock())
            update = self._update(commit, meta, refers, split)
            others = actions if split is None else [split.mark]
            try:
                self._connection.transact([update, *(action.request(table) for action in others)], uuid4().hex)
            except Cancelled as cancelled:
                if split is not None:
                    self._split.drop(split)
                else:
                    actions = corrected(actions, cancelled.refusals[1:])
                found = cancelled.refusals[0]
                if found is None:
                    continue
                outcome = self._judge(commit, found)
                if outcome is not None:
                    return outcome
                refers = reference_of(found)
                continue
            self._overflow.discard([refers, *(action.refers for action in others)])
            return Outcome.COMMITTED if split is None else self._finish(commit)
        raise StoreError(f"{self._connection.target.where}: instance {commit.instance_id!a} changes all the time")

    def _judge(self, commit: Commit, found: Item) -> Outcome | None:
        """What the meta item that refused the commit says of it; None to try again."""
        version = int(found["v"]["N"]) if "v" in found else 0
        if version == commit.expect + 1 and found["c"]["S"] == commit.id:
            return self._finish(commit)  # the same commit, sent again because its answer was lost
        if version != commit.expect or (version and found["x"]["S"] != commit.continues):
            return Outcome.CONFLICT
        if not version and {"B": _purged(commit)} in found.get("q", {}).get("L", ()):
            return Outcome.CONFLICT
        if "w" in found:
            self._split.finish(commit.instance_id, commit.partition)
        if "z" in found:
            self._empty_inbox(commit.instance_id, commit.partition)
        return None

    def _settle(self, commit: Commit) -> Outcome:
        """By reading. What was sent may still be on its way, so that an unchanged version settles nothing."""
        meta_key = self._names.meta(commit.instance_id)
        try:
            found = self._connection.get([meta_key]).get(meta_key, {})
            if "v" not in found or int(found["v"]["N"]) != commit.expect + 1:
                return Outcome.UNKNOWN
        except StoreError:
            return Outcome.UNKNOWN
        return Outcome.CONFLICT if found["c"]["S"] != commit.id else self._finish(commit)

    def _finish(self, commit: Commit) -> Outcome:
        """It has been decided. UNKNOWN when not all of it could be written yet: whoever reads it finishes it first."""
        try:
            self._split.finish(commit.instance_id, commit.partition)
        except StoreError as error:
            log.warning("a turn of instance %r is written in part, and goes on later: %s", commit.instance_id, error)
            return Outcome.UNKNOWN
        return Outcome.COMMITTED

    def _meta(self, commit: Commit, written: list[str]) -> Item:
        """The attributes that this turn gives the meta item."""
        summary = commit.summary
        meta: Item = {
            "v": {"N": str(commit.expect + 1)},
            "c": {"S": commit.id},
            "x": {"S": summary.execution_id},
            "f": {"N": str(int(summary.status.finished))},
            "g": {"S": summary.group},
        }
        self._overflow.place(meta, "s", encode_summary(summary))
        written.append(reference_of(meta))
        starts = [append.start for append in commit.appends if append.execution_id == summary.execution_id]
        if starts:
            meta["e"] = {"N": str(starts[-1])}
        if commit.expect == 0 or commit.replaces:
            meta["j"] = {"S": listing_mark(summary.created_at.timestamp(), commit.instance_id)}
        return meta

    def _update(self, commit: Commit, meta: Item, refers: str, split: Log | None) -> dict[str, Any]:
        """The action that decides."""
        values: Item = {f":{name}": value for name, value in meta.items()}
        change = "SET " + ", ".join(f"{name} = :{name}" for name in meta)
        if split is not None:
            change += f", {split.change}"
            values.update(split.values)
        gone = [name for name in ("s", "o") if name not in meta]
        if commit.continues != commit.summary.execution_id and "e" not in meta:
            gone.append("e")
        if commit.expect:
            condition = "v = :expect AND x = :continues AND "
            values[":expect"], values[":continues"] = {"N": str(commit.expect)}, {"S": commit.continues}
        else:
            condition = "attribute_not_exists(v) AND attribute_not_exists(z) AND NOT contains(q, :purged) AND "
            values[":purged"] = {"B": _purged(commit)}
            gone.append(EXPIRES)
        condition += "attribute_not_exists(w) AND "
        condition += "o = :refers" if refers else "attribute_not_exists(o)"
        if refers:
            values[":refers"] = {"S": refers}
        if commit.forgotten:
            change += ", r = if_not_exists(r, :forgotten)"
            values[":forgotten"] = {"B": digest(commit.forgotten)}
        change += f" REMOVE {', '.join(gone)}"
        if commit.replaces:
            change += " ADD l :one"
            values[":one"] = {"N": "1"}
        return {
            "Update": {
                "TableName": self._connection.target.table,
                "Key": key_of(*self._names.meta(commit.instance_id)),
                "UpdateExpression": change,
                "ConditionExpression": condition,
                "ExpressionAttributeValues": values,
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _actions(self, commit: Commit, before: Item, written: list[str]) -> list[Action]:
        names, instance_id, summary = self._names, commit.instance_id, commit.summary
        actions: list[Action] = []
        for append in commit.appends:
            pk = names.history(append.execution_id)
            for n, piece in enumerate(chunks(append.events)):
                actions.append(put(pk, history_key(append.start, n), {"y": {"B": piece}}))
        if commit.expect == 0 or commit.replaces:
            pk = names.listing(commit.partition)
            mark = listing_mark(summary.created_at.timestamp(), instance_id)
            if before.get("j", {}).get("S", mark) != mark:
                actions.append(Action(pk, before["j"]["S"]))
            actions.append(put(pk, mark, {"i": {"S": instance_id}}))
        if commit.forgotten:
            actions.append(put(names.purging(commit.partition), commit.forgotten, {}))
        elif commit.expect and commit.continues != summary.execution_id:
            pk, _ = names.meta(instance_id)
            purges = int(before.get("u", {}).get("N", "0"))
            actions.append(put(pk, f"f/{purges:010}/{commit.expect:016}", {"x": {"S": commit.continues}}))
        rows, now = names.rows(commit.partition), self._clock()
        stays = {row.key: row for row in commit.put}
        actions += [end_row(rows, key, now) for key in dict.fromkeys(commit.drop) if key not in stays]
        for row in stays.values():
            item = pack_row(row)
            self._overflow.place(item, "y", row.body)
            written.append(reference_of(item))
            actions.append(put(rows, row.key, item, owner=True))
        return actions


def _purged(commit: Commit) -> bytes:
    return digest(commit.summary.execution_id)


def find_shared_rows(commits: list[Commit]) -> bool:
    """Whether two of them touch the same row: then they must not happen at once."""
    keys = [key for item in commits for key in {*item.drop, *(row.key for row in item.put)}]
    return len(set(keys)) < len(keys)


def purged_with(found: Item, execution_id: str) -> list[Item]:
    """The executions to remember of an instance: those of before, and this one."""
    kept: list[Item] = found.get("q", {}).get("L", [])
    return [*kept[-2_000:], {"B": digest(execution_id)}]
