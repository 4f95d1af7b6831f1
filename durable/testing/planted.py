"""Bugs that the simulator must find: each takes one of the engine's laws away, inside the simulator only.

They are planted from outside, in the store or over a method, so product code has no switch that breaks it. Each says
why somebody would write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from ..backends.memory import MemoryStore
from . import planted_in_engine as engine
from . import planted_in_store as store
from . import planted_in_worker as worker

Patch = Callable[[], AbstractContextManager[Any]]

_STORES: Final[dict[str, type[MemoryStore]]] = {
    "acknowledge-first": store.AcknowledgesFirst,
    "no-version-check": store.ChecksNoVersion,
    "empties-the-inbox": store.EmptiesTheInbox,
    "events-lost-at-continue": store.ForgetsInboxAtContinue,
    "repeats-count-after-continue": store.ForgetsFactsAtContinue,
    "drops-what-is-for-nobody": store.DropsWhatIsForNobody,
    "leases-without-end": store.HoldsForEver,
    "starts-by-signal": store.StartsBySignal,
    "continues-by-memory": store.ContinuesByMemory,
    "timers-in-memory": store.KeepsNoTimers,
}
_PATCHES: Final[dict[str, Patch]] = {
    "blobs-after-the-commit": store.blobs_after_the_commit,
    "blobs-gone-at-continue": store.blobs_gone_at_continue,
    "ids-without-attempt": engine.ids_without_attempt,
    "outcomes-of-former-executions": engine.outcomes_of_former_executions,
    "one-outcome-a-child": engine.one_outcome_a_child,
    "terminate-forgets-children": engine.terminate_forgets_children,
    "time-goes-back": engine.time_goes_back,
    "chance-without-seed": engine.chance_without_seed,
    "buffered-events-lost": engine.buffered_events_lost,
    "loses-outcomes-while-suspended": engine.loses_outcomes_while_suspended,
    "goes-on-while-suspended": engine.goes_on_while_suspended,
    "resume-ends-its-row": engine.resume_ends_its_row,
    "rows-left-behind": engine.leaves_rows_behind,
    "acts-before-the-commit": worker.acts_before_the_commit,
    "unknown-taken-as-done": worker.unknown_taken_as_done,
    "conflict-taken-as-done": worker.conflict_taken_as_done,
    "gives-nothing-back": worker.gives_nothing_back,
    "live-code-outlives-a-conflict": worker.live_code_outlives_a_conflict,
    "drops-what-is-for-others": worker.drops_what_is_for_others,
    "events-straight-to-a-worker": worker.events_straight_to_a_worker,
    "refuses-its-own-start": worker.refuses_its_own_start,
    "messages-with-fresh-ids": worker.messages_with_fresh_ids,
    "never-sweeps": worker.never_sweeps,
    "recovers-only-at-start": worker.recovers_only_at_start,
    "trusts-the-broker": worker.trusts_the_broker_for_ever,
    "rows-end-at-the-confirm": worker.ends_rows_at_the_confirm,
    "rows-end-with-a-sent-outcome": worker.ends_rows_with_a_sent_outcome,
}
PLANTED: Final[dict[str, tuple[type[MemoryStore], Patch]]] = {
    **{name: (store_type, nullcontext) for name, store_type in _STORES.items()},
    **{name: (MemoryStore, bug) for name, bug in _PATCHES.items()},
    # Those that take both.
    "no-deduplication": (store.ForgetsFacts, engine.no_deduplication),
    "rows-end-when-sent": (store.EndsMessagesWhenSent, worker.ends_rows_when_sent),
    "status-in-a-second-write": (store.WritesStatusLater, worker.writes_twice),
    "rows-in-a-second-write": (store.WritesRowsLater, worker.writes_twice),
}
# Seeds seldom meet the one moment at which these do harm; each shows at the crash points of a program.
AT_CRASH_POINTS: Final = {
    "continues-by-memory": "late",
    "repeats-count-after-continue": "rounds",
    "one-outcome-a-child": "rewound",
    "terminate-forgets-children": "terminated",
    "resume-ends-its-row": "suspended",
    "messages-with-fresh-ids": "detached",
}


@contextmanager
def planted(name: str) -> Iterator[type[MemoryStore]]:
    """Plant one bug by name ('' for none); gives the store to use."""
    store_type, bug = PLANTED[name] if name else (MemoryStore, nullcontext)
    with bug():
        yield store_type
