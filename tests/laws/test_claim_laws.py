"""The laws of large payloads outside the store: what goes in comes out, nothing is lost, and nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from hashlib import sha256
from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.app.claiming import SETTLED, ClaimedStore
from durable.app.plugins import open_blobs
from durable.app.sealing import SealedStore
from durable.backends.memory import MemoryStore
from durable.backends.memory_blobs import MemoryBlobs
from durable.model import history as h
from durable.model.errors import PayloadError, StoreError
from durable.model.history import Event, Raw, decode_events, encode_event, encode_events
from durable.model.limits import Limits
from durable.model.status import RuntimeStatus
from durable.payload.claims import Claim, claim_of, names_in, place, why_not_here
from durable.payload.codec import Opening, Sealing, is_sealed
from durable.payload.values import encode
from durable.ports import Append, Blobs, Commit, ExecutionKey, Fact, Outcome, Purged, Query, Store, Want
from durable.testing import BlobsContract, StoreContract
from durable.testing.store_samples import loaded, turn

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
INLINE = 64
COMMITTED, CONFLICT = Outcome.COMMITTED, Outcome.CONFLICT


class Flip:
    def encode(self, data: bytes) -> bytes:
        return bytes(byte ^ 1 for byte in data)

    decode = encode


texts = st.integers(0, 3 * INLINE).map(lambda size: Raw(b'"' + b"x" * size + b'"'))
payloads = st.just(h.NO_PAYLOAD) | texts | st.sampled_from([Raw(b'{"$durable.blob":"x","bytes":1}'), Raw(b"null")])
events = st.builds(
    Event,
    st.sampled_from([h.TASK_SCHEDULED, h.TASK_COMPLETED, h.EVENT_RAISED]),
    st.just(NOW),
    input=payloads,
    result=payloads,
    tags=st.none() | st.just({"input": "x" * 2 * INLINE}),
)
rows = st.lists(events, min_size=1, max_size=4)


def beside(blobs: Blobs | None = None, inner: Store | None = None) -> tuple[ClaimedStore, Store, MemoryBlobs]:
    inner = inner or MemoryStore()
    kept = MemoryBlobs({})
    return ClaimedStore(inner, blobs or kept, INLINE), inner, kept


def text(size: int) -> Raw:
    """A payload of so many bytes."""
    return Raw(b'"' + b"t" * (size - 2) + b'"')


def life(instance_id: str, execution: str, *payloads: Raw, expect: int = 0, replaces: str = "") -> Commit:
    """A finished life in one commit, whose output is the last payload."""
    row = encode_events([Event(h.TASK_COMPLETED, NOW, result=payload) for payload in payloads])
    return turn(
        instance_id,
        expect,
        Append(execution, 0, row),
        status=RuntimeStatus.COMPLETED,
        execution=execution,
        output=bytes(payloads[-1]),
        replaces=replaces,
    )


class TestMemoryBlobs(BlobsContract):
    def open_blobs(self, workspace: str) -> Blobs:
        return open_blobs("memory://contract", workspace)


class TestAStoreBesideBlobs(StoreContract):
    """It is a store like any other."""

    def open_store(self) -> Store:
        self.inner = MemoryStore()
        self.blobs = MemoryBlobs({})
        return ClaimedStore(self.inner, self.blobs, 1)

    def reopen_store(self, store: Store) -> Store:
        return ClaimedStore(self.inner, self.blobs, 1)


@given(st.lists(rows, min_size=1, max_size=3), payloads)
def test_what_goes_in_comes_out_and_the_store_holds_nothing_large(turns: list[list[Event]], output: Raw) -> None:
    store, inner, blobs = beside()
    start = 0
    for version, made in enumerate(turns):
        commit = turn("a", version, Append("e", start, encode_events(made)), execution="e", output=bytes(output))
        assert store.commit([commit]) == [COMMITTED]
        start += len(made)
    key = ExecutionKey("a", "e")
    written = [event for made in turns for event in made]
    record = loaded(store, "a")
    assert record.history is not None
    assert [event for row in record.history for event in decode_events(row)] == written
    assert [event for _, row in store.history(key).items for event in decode_events(row)] == written
    assert record.summary.output == output
    assert store.summaries(["a", "none"]) == [record.summary, None]
    [first] = store.input_of([key])
    assert first is not None
    assert decode_events(first)[0].input == written[0].input

    held = loaded(inner, "a")
    assert held.history is not None
    stored = [raw for row in held.history for event in decode_events(row) for raw in (event.input, event.result)]
    whole = [raw for event in written for raw in (event.input, event.result)]
    for was, now in zip([*whole, output], [*stored, held.summary.output], strict=True):
        assert (claim_of(now) is not None) == (len(was) > INLINE)
        assert is_sealed(now) == (len(was) > INLINE)
        assert len(was) > INLINE or was == now
    named = {name for row in [*held.history, held.summary.output] for name in names_in(row)}
    assert named == blobs.kept.keys()
    assert all(name.startswith(place("a", "e")) for name in named)
    assert store.find(Query()).items == [held.summary]  # which reads nothing


@pytest.mark.parametrize(("size", "inside"), [(INLINE - 1, True), (INLINE, True), (INLINE + 1, False)])
def test_where_the_threshold_is(size: int, inside: bool) -> None:
    store, inner, blobs = beside()
    store.commit([life("a", "e", text(size))])
    assert (not blobs.kept) == inside
    assert loaded(store, "a").summary.output == text(size)
    assert (loaded(inner, "a").summary.output == text(size)) == inside


def test_what_is_under_way_has_its_payload_with_it() -> None:
    store, inner, blobs = beside()
    store.commit([turn("a", 0)])
    body = encode_event(Event(h.EVENT_RAISED, NOW, input=text(1_000)))
    store.deliver([Fact("a", 0, "f", body, 1.0)])
    assert blobs.kept == {}
    assert loaded(store, "a").inbox == loaded(inner, "a").inbox
    assert loaded(store, "a").inbox[0].body == body


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(dict.clear, "is missing in this process"), (lambda kept: kept.update(spoilt(kept)), "its bytes have changed")],
)
def test_what_cannot_be_had_stays_a_claim_with_the_reason_until_it_is_back(spoil: object, why: str) -> None:
    store, inner, blobs = beside()
    store.commit([life("a", "e", text(100))])
    before = dict(blobs.kept)
    spoil(blobs.kept)  # type: ignore[operator]  # mypy does not find the common type of a method and a lambda
    output = loaded(store, "a").summary.output
    claim = claim_of(output)
    assert claim is not None
    assert why in why_not_here(claim)
    assert is_sealed(output)
    # Written once more it is the same claim, of which the store keeps no reason.
    assert store.commit([turn("a", 1, execution="e", output=bytes(output))]) == [COMMITTED]
    assert loaded(inner, "a").summary.output == claim._replace(why="").written
    blobs.kept.update(before)
    assert loaded(store, "a").summary.output == text(100)


def spoilt(kept: dict[str, tuple[bytes, float]]) -> dict[str, tuple[bytes, float]]:
    return {name: (data[:-1] + b"?", at) for name, (data, at) in kept.items()}


def test_a_codec_leaves_a_claim_alone() -> None:
    claim = Claim(f"{'0' * 32}/{'1' * 32}/{'2' * 64}", 70_000, "is missing").written
    for way in (Sealing(Flip()), Opening(Flip())):
        assert way.payload(claim) == claim
    store, inner, blobs = beside()
    sealed = SealedStore(store, Flip())
    sealed.commit([life("a", "e", text(100))])
    [(name, (data, _))] = blobs.kept.items()
    assert b"ttt" not in data
    assert loaded(sealed, "a").summary.output == text(100)
    del blobs.kept[name]
    output = loaded(sealed, "a").summary.output
    assert claim_of(output) == Claim(name, len(data), "is missing in this process")
    assert claim_of(loaded(SealedStore(inner, Flip()), "a").summary.output) == Claim(name, len(data))


def test_nobody_can_make_a_claim() -> None:
    name = f"{'0' * 32}/{'0' * 32}/{'0' * 64}"
    with pytest.raises(PayloadError, match=r"first key begins with \$durable\."):
        encode([{"$durable.blob": name, "bytes": 3}], "x", Limits())
    inside = encode(f'{{"$durable.blob":"{name}","bytes":3}}', "x", Limits())  # a text that says so is a text
    store, _, _ = beside()
    store.commit([life("a", "e", inside)])
    assert loaded(store, "a").summary.output == inside


# ---- purging


def test_a_purge_leaves_nothing_and_touches_no_other_life() -> None:
    store, _, blobs = beside()
    store.commit([life("a", "e1", text(100)), life("b", "e2", text(100))])
    store.commit([life("a", "e3", text(200), expect=1, replaces="e1")])
    assert len(blobs.kept) == 3
    assert store.purge([ExecutionKey("a", "e1"), ExecutionKey("none", "e")]) == [Purged.KEPT, Purged.ABSENT]
    assert len(blobs.kept) == 3
    assert store.purge([ExecutionKey("a", "e3")]) == [Purged.GONE]
    assert [name for name in blobs.kept if not name.startswith(place("b", "e2"))] == []
    store.commit([life("a", "e4", text(100))])
    assert store.purge([ExecutionKey("b", "e2")]) == [Purged.GONE]
    assert loaded(store, "a").summary.output == text(100)
    assert all(name.startswith(place("a", "e4")) for name in blobs.kept)


class Mortal(MemoryBlobs, MemoryStore):
    """Blobs and a store that die together, before or after so many verbs."""

    def __init__(self, dies_at: float) -> None:
        MemoryStore.__init__(self)
        MemoryBlobs.__init__(self, {})
        self.dies_at = dies_at
        self.verbs = count()

    def dies(self) -> None:
        if next(self.verbs) >= self.dies_at:
            raise StoreError("killed")

    def put(self, blobs: Mapping[str, bytes]) -> None:
        self.dies()
        super().put(blobs)
        self.dies()

    def delete(self, names: Sequence[str]) -> None:
        self.dies()
        super().delete(names)
        self.dies()

    def purge(self, executions: Sequence[ExecutionKey]) -> list[Purged]:
        self.dies()
        answers = super().purge(executions)
        self.dies()
        return answers


def test_a_purge_that_was_killed_anywhere_is_taken_up_by_the_next_one_of_anybody() -> None:
    for dies_at in count():
        world = Mortal(float("inf"))
        store = ClaimedStore(world, world, INLINE)
        store.commit([life("a", "e1", text(100)), life("b", "e2", text(100)), life("c", "e3", text(100))])
        world.verbs, world.dies_at = count(), dies_at
        with suppress(StoreError):
            store.purge([ExecutionKey("a", "e1"), ExecutionKey("b", "e2")])
        finished = next(world.verbs) < dies_at
        world.dies_at = float("inf")
        gone = world.summaries(["a"]) == [None]
        if gone:
            store.commit([life("a", "e4", text(300))])  # meanwhile somebody begins another life
        else:
            assert loaded(store, "a").summary.output == text(100)
        assert store.purge([ExecutionKey("c", "e3")]) == [Purged.GONE]
        left = {name.rpartition("/")[0] + "/" for name in world.kept}
        if gone:
            assert left == {place("a", "e4")}
            assert loaded(store, "a").summary.output == text(300)
        else:
            assert left >= {place("a", "e1"), place("b", "e2")}
            assert store.purge([ExecutionKey("a", "e1"), ExecutionKey("b", "e2")]) == [Purged.GONE] * 2
            assert store.purge([]) == []
            assert world.kept == {}
        if finished:
            assert dies_at > 5
            return


def test_what_a_refused_commit_wrote_is_taken_back() -> None:
    store, _, blobs = beside()
    store.commit([life("a", "e1", text(100))])
    kept = dict(blobs.kept)
    assert store.commit([life("a", "e2", text(200))]) == [CONFLICT]
    assert blobs.kept == kept
    # Not what the same commit, sent before, had written: that one may have happened.
    assert store.commit([life("a", "e1", text(100))]) == [CONFLICT]
    assert loaded(store, "a").summary.output == text(100)


def test_what_a_start_without_an_answer_wrote_is_taken_back_unless_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = _Mute()
    store, _, blobs = beside(inner=inner)
    for inner.way in ("unsent", "unanswered", "unknown"):
        for happens in (True, False):
            inner.happens = happens and inner.way != "unsent"
            commit = life(f"{inner.way} {happens}", f"{inner.way} {happens}", text(100))
            try:
                assert store.commit([commit]) == [Outcome.UNKNOWN]
            except StoreError:
                assert inner.way != "unknown"
    inner.way = ""
    assert len(blobs.kept) == 6
    store.commit([life("b", "e2", text(100))])
    assert len(blobs.kept) == 7, "it may still be on its way"
    monkeypatch.setattr("durable.app.claiming.time", _Clock(SETTLED + 1))
    store.commit([life("c", "e3", text(100))])
    happened = ("unanswered True", "unknown True")
    assert {name[: name.rindex("/") + 1] for name in blobs.kept} == {
        place(i, e) for i, e in [("b", "e2"), ("c", "e3"), *((one, one) for one in happened)]
    }
    assert [loaded(store, one).summary.output for one in happened] == [text(100)] * 2


class _Mute(MemoryStore):
    """Answers nothing of what it does, or does not."""

    way = ""
    happens = True

    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        if self.way == "unsent":
            raise StoreError("it can't be reached")
        finish = super().begin(commits) if self.happens or not self.way else lambda: [Outcome.UNKNOWN for _ in commits]

        def finished() -> list[Outcome]:
            if self.way == "unanswered":
                raise StoreError("it did not answer")
            outcomes = finish()
            return [Outcome.UNKNOWN for _ in outcomes] if self.way else outcomes

        return finished


class _Clock:
    def __init__(self, later: float) -> None:
        self._later = later

    def monotonic(self) -> float:
        return time.monotonic() + self._later

    def time(self) -> float:
        return time.time() + self._later


def test_what_can_t_be_deleted_fails_nothing_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = _Witness({})
    store, _, _ = beside(blobs)
    store.commit([life("a", "e1", text(100))])
    blobs.keeps = True
    assert store.commit([life("a", "e2", text(200))]) == [CONFLICT]
    assert len(blobs.kept) == 2
    blobs.keeps = False
    monkeypatch.setattr("durable.app.claiming.time", _Clock(SETTLED + 1))
    store.commit([life("b", "e3", text(100))])
    assert {name[: name.rindex("/") + 1] for name in blobs.kept} == {place("a", "e1"), place("b", "e3")}


def test_what_a_crash_left_of_a_start_goes_with_the_id_once_it_is_old() -> None:
    store, _, blobs = beside()
    lost = ClaimedStore(_Dead(), blobs, INLINE)
    for execution in ("old", "fresh"):
        with pytest.raises(StoreError, match="killed"):
            lost.commit([life("a", execution, text(100))])
    [old, _] = blobs.kept
    blobs.kept[old] = (blobs.kept[old][0], blobs.kept[old][1] - 90_000)
    store.commit([life("a", "e", text(100))])
    store.purge([ExecutionKey("a", "e")])
    assert [name for name in blobs.kept if not name.startswith(place("a", "fresh"))] == []
    assert len(blobs.kept) == 1  # it may be under way


class _Dead(MemoryStore):
    def begin(self, commits: Sequence[Commit]) -> Callable[[], list[Outcome]]:
        raise StoreError("killed")


# ---- the order


class _Witness(MemoryBlobs):
    """Says no to everything once it is told to."""

    away = False
    keeps = False

    def delete(self, names: Sequence[str]) -> None:
        if self.keeps:
            raise StoreError("not for this user")
        super().delete(names)

    def put(self, blobs: Mapping[str, bytes]) -> None:
        if self.away:
            raise StoreError("the bucket is away")
        super().put(blobs)

    def get(self, names: Sequence[str]) -> list[bytes | str]:
        if self.away:
            raise StoreError("the bucket is away")
        return super().get(names)


def test_without_its_blob_nothing_is_committed_and_what_needs_none_goes_on() -> None:
    blobs = _Witness({})
    store, inner, _ = beside(blobs)
    store.commit([life("large", "e1", text(100)), life("small", "e2", text(10))])
    blobs.away = True
    with pytest.raises(StoreError, match="bucket is away"):
        store.commit([life("b", "e3", text(100))])
    assert inner.load([Want("b")]) == [None]
    assert store.commit([life("c", "e4", text(10))]) == [COMMITTED]
    assert loaded(store, "small").summary.output == text(10)
    with pytest.raises(StoreError, match="bucket is away"):
        store.load([Want("large")])
    assert len(store.find(Query()).items) == 3


def test_what_a_turn_writes_goes_by_the_execution_it_continues() -> None:
    """So that what a crash leaves of a turn is found with its instance."""
    store, _, blobs = beside()
    store.commit([turn("a", 0, Append("e1", 0, encode_events([Event(h.EXECUTION_STARTED, NOW)])), execution="e1")])
    continued = Event(h.CONTINUE_AS_NEW, NOW, input=text(100))
    opened = Event(h.EXECUTION_STARTED, NOW, input=text(101))
    appends = Append("e1", 1, encode_events([continued])), Append("e2", 0, encode_events([opened]))
    assert store.commit([turn("a", 1, *appends, execution="e2")]) == [COMMITTED]
    assert len(blobs.kept) == 2
    assert all(name.startswith(place("a", "e1")) for name in blobs.kept)
    store.commit([turn("a", 2, execution="e2", status=RuntimeStatus.COMPLETED)])
    store.purge([ExecutionKey("a", "e2")])
    assert blobs.kept == {}


def anew(expect: int, old: str, new: str, size: int) -> Commit:
    """A turn of `a` with which an execution ends that is not kept, and another begins."""
    ends = Append(old, expect, encode_events([Event(h.CONTINUE_AS_NEW, NOW, input=text(size))]))
    begins = Append(new, 0, encode_events([Event(h.EXECUTION_STARTED, NOW, input=text(size))]))
    return turn("a", expect, ends, begins, execution=new, forgets=True)


def opened(inner: Store | None = None) -> tuple[ClaimedStore, MemoryBlobs]:
    store, _, blobs = beside(inner=inner)
    start = encode_events([Event(h.EXECUTION_STARTED, NOW, input=text(100))])
    assert store.commit([turn("a", 0, Append("e1", 0, start), execution="e1"), life("b", "b1", text(100))])
    return store, blobs


def places(blobs: MemoryBlobs) -> set[str]:
    return {name[: name.rindex("/") + 1] for name in blobs.kept}


def test_an_execution_that_is_forgotten_takes_its_blobs_and_no_others() -> None:
    store, blobs = opened()
    assert store.commit([anew(1, "e1", "e2", 101)]) == [COMMITTED]
    assert places(blobs) == {place("a", "e2"), place("b", "b1")}
    assert store.commit([anew(1, "e1", "e3", 102)]) == [CONFLICT]
    assert store.commit([anew(1, "e1", "e2", 101)]) == [CONFLICT]  # sent again
    assert places(blobs) == {place("a", "e2"), place("b", "b1")}
    assert [decode_events(row)[0].input for row in loaded(store, "a").history or ()] == [text(101)]
    small = turn("a", 2, Append("e3", 0, encode_events([Event(h.EXECUTION_STARTED, NOW)])), execution="e3")
    assert store.commit([msgspec.structs.replace(small, replaces="e2", forgets=True)]) == [COMMITTED]
    assert places(blobs) == {place("b", "b1")}


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.parametrize("way", ["unsent", "unanswered", "unknown"])
def test_what_may_be_forgotten_keeps_its_blobs_until_it_is_known(
    monkeypatch: pytest.MonkeyPatch, way: str, happens: bool
) -> None:
    inner = _Mute()
    store, blobs = opened(inner)
    inner.way, inner.happens = way, happens and way != "unsent"
    with suppress(StoreError):
        assert store.commit([anew(1, "e1", "e2", 101)]) == [Outcome.UNKNOWN]
    inner.way = ""
    store.commit([life("c", "c1", text(100))])
    assert places(blobs) == {place("a", "e1"), place("a", "e2"), place("b", "b1"), place("c", "c1")}
    monkeypatch.setattr("durable.app.claiming.time", _Clock(SETTLED + 1))
    store.commit([life("d", "d1", text(100))])
    now = "e2" if inner.happens else "e1"
    assert places(blobs) == {place("a", now), *(place(name, e) for name, e in [("b", "b1"), ("c", "c1"), ("d", "d1")])}
    assert len(loaded(store, "a").history or ()) == 1


def test_blobs_of_what_was_forgotten_that_can_t_be_deleted_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = _Witness({})
    store, _, _ = beside(kept)
    start = encode_events([Event(h.EXECUTION_STARTED, NOW, input=text(100))])
    store.commit([turn("a", 0, Append("e1", 0, start), execution="e1")])
    kept.keeps = True
    assert store.commit([anew(1, "e1", "e2", 101)]) == [COMMITTED]
    assert places(kept) == {place("a", "e1"), place("a", "e2")}
    kept.keeps = False
    monkeypatch.setattr("durable.app.claiming.time", _Clock(SETTLED + 1))
    store.commit([life("b", "e3", text(100))])
    assert places(kept) == {place("a", "e2"), place("b", "e3")}


def test_names_are_those_of_their_bytes() -> None:
    store, _, blobs = beside()
    store.commit([life("a", "e", text(100), text(101), text(100))])
    assert len(blobs.kept) == 2
    for name, (data, _) in blobs.kept.items():
        assert name == place("a", "e") + sha256(data).hexdigest()
