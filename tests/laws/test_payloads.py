"""The laws of payloads: what is accepted comes back, what can't is refused with a path, and one input means one thing.

Functions whose hints are text are made with `exec`: this file's own hints are objects.
"""

import asyncio
import enum
import functools
import json
import subprocess
import sys
import types
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NoReturn, Optional, TypedDict, TypeVar, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durable.model.errors import PayloadError
from durable.model.history import NO_PAYLOAD, Raw
from durable.model.limits import Limits
from durable.payload.custom_types import register_type
from durable.payload.plain import plain, plain_encode
from durable.payload.signature import Signature, encode_plain_input
from durable.payload.values import decode, encode, same

LIMITS = Limits()


def enc(value: object, limits: Limits = LIMITS) -> Raw:
    return encode(value, "here", limits)


def dec(raw: Raw | bytes, hint: Any = Any) -> Any:
    return decode(Raw(bytes(raw)), hint, "here")


def refusal(value: object, limits: Limits = LIMITS) -> str:
    with pytest.raises(PayloadError) as caught:
        enc(value, limits)
    message = str(caught.value)
    assert message.startswith("here: $"), message
    return message


# --- What is accepted comes back -------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    deep: bool


@dataclass
class Item:
    sku: str
    price: Decimal
    tags: set[str] = field(default_factory=set)


@dataclass
class Order:
    id: UUID
    at: datetime
    items: list[Item]
    colour: Colour | None = None
    note: str | None = None
    weight: float = 0.0
    stock: dict[int, Size] = field(default_factory=dict)


class Camel(msgspec.Struct, rename="camel", tag=True, omit_defaults=True):
    first_name: str
    by_size: dict[int, float] = {}


class Row(msgspec.Struct, array_like=True):
    key: int
    when: datetime | None = None


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    lives: int


T = TypeVar("T")


@dataclass
class Boxed(Generic[T]):
    value: T
    more: list[T]


@functools.total_ordering
class Celsius:
    """Registered below."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and self.degrees == other.degrees

    def __lt__(self, other: "Celsius") -> bool:
        return self.degrees < other.degrees

    def __hash__(self) -> int:
        return hash(self.degrees)


register_type(Celsius, encode=lambda warmth: {"degrees": warmth.degrees}, decode=lambda v: Celsius(v["degrees"]))


class Inner(pydantic.BaseModel):
    sizes: set[Size] = set()
    notes: dict[int, tuple[str, bool]] = {}


class Model(pydantic.BaseModel):
    id: UUID
    at: datetime
    price: Decimal
    words: set[str]
    inner: list[Inner]
    weight: float
    lasts: timedelta
    colour: Colour | None
    choice: Inner | int | None


@dataclass
class Weather:
    warmth: Celsius
    model: Model | None
    all: set[Celsius]


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ints = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=st.one_of(st.just(timezone.utc), offsets))
items = st.builds(Item, text, decimals, st.sets(text, max_size=3))
orders = st.builds(
    Order,
    st.uuids(),
    moments,
    st.lists(items, max_size=2),
    st.none() | st.sampled_from(Colour),
    st.none() | text,
    floats,
    st.dictionaries(ints, st.sampled_from(Size), max_size=3),
)
cats = st.builds(Cat, ints)
# Zeros are equal, and a set keeps either.
warmths = floats.filter(bool).map(Celsius)
inners = st.builds(
    Inner,
    sizes=st.sets(st.sampled_from(Size)),
    notes=st.dictionaries(ints, st.tuples(text, st.booleans()), max_size=2),
)
models = st.builds(
    Model,
    id=st.uuids(),
    at=moments,
    price=st.decimals(allow_nan=False, allow_infinity=False, min_value=-10_000, max_value=10_000),
    words=st.sets(text, max_size=3),
    inner=st.lists(inners, max_size=2),
    weight=floats,
    lasts=st.timedeltas(min_value=timedelta(days=-999), max_value=timedelta(days=999)),
    colour=st.none() | st.sampled_from(Colour),
    choice=st.none() | inners | ints,
)
plain_json = st.recursive(
    st.none() | st.booleans() | ints | floats | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=12,
)

TYPES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "none": (None, st.none()),
    "bool": (bool, st.booleans()),
    "int": (int, ints),
    "float": (float, floats),
    "text": (str, text),
    "bytes": (bytes, st.binary(max_size=20)),
    "decimal": (Decimal, decimals),
    "uuid": (UUID, st.uuids()),
    "datetime": (datetime, moments),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timedelta": (timedelta, st.timedeltas()),
    "enum": (Colour, st.sampled_from(Colour)),
    "int enum": (Size, st.sampled_from(Size)),
    "literal": (Literal["a", 3], st.sampled_from(["a", 3])),
    "list": (list[Decimal], st.lists(decimals, max_size=3)),
    "tuple": (tuple[int, str], st.tuples(ints, text)),
    "tuple of any length": (tuple[bytes, ...], st.lists(st.binary(max_size=3), max_size=3).map(tuple)),
    "named tuple": (Point, st.builds(Point, ints, floats)),
    "set of texts": (set[str], st.sets(text, max_size=4)),
    "set of ints": (set[int], st.sets(ints, max_size=4)),
    "set of enums": (set[Colour], st.sets(st.sampled_from(Colour))),
    "set of mixed": (set[int | str], st.sets(ints | text, max_size=4)),
    "set of tuples": (set[tuple[int, str]], st.sets(st.tuples(ints, text), max_size=4)),
    "set of sets": (set[frozenset[str]], st.sets(st.frozensets(text, max_size=2), max_size=4)),
    "frozenset": (frozenset[UUID], st.frozensets(st.uuids(), max_size=3)),
    "dict": (dict[str, int], st.dictionaries(text, ints, max_size=3)),
    "dict by int": (dict[int, str], st.dictionaries(ints, text, max_size=3)),
    "dict by uuid": (dict[UUID, int], st.dictionaries(st.uuids(), ints, max_size=3)),
    "dict by enum": (dict[Colour, int], st.dictionaries(st.sampled_from(Colour), ints)),
    "dict by int enum": (dict[Size, int], st.dictionaries(st.sampled_from(Size), ints)),
    "dict by date": (dict[date, int], st.dictionaries(st.dates(), ints, max_size=3)),
    "dict by datetime": (dict[datetime, int], st.dictionaries(moments, ints, max_size=3)),
    "dict by float": (dict[float, int], st.dictionaries(floats, ints, max_size=3)),
    "dict by bytes": (dict[bytes, int], st.dictionaries(st.binary(max_size=3), ints, max_size=3)),
    "optional": (Optional[timedelta], st.none() | st.timedeltas()),  # noqa: UP045
    "union": (Union[int, str, list[int]], ints | text | st.lists(ints, max_size=2)),  # noqa: UP007
    "annotated": (Annotated[int, msgspec.Meta(ge=0)], st.integers(0, 9)),
    "unhashable hint": (Annotated[int, ["a note"]], ints),
    "typed dict": (Options, st.fixed_dictionaries({}, optional={"deep": st.booleans()})),
    "dataclass": (Order, orders),
    "nested dataclass": (
        dict[str, list[Order | None]],
        st.dictionaries(text, st.lists(st.none() | orders, max_size=1)),
    ),
    "struct": (Camel, st.builds(Camel, text, st.dictionaries(ints, floats, max_size=2))),
    "struct as array": (list[Row], st.lists(st.builds(Row, ints, st.none() | moments), max_size=2)),
    "generic": (Boxed[int], st.builds(Boxed, ints, st.lists(ints, max_size=2))),
    "union of structs": (list[Cat | Dog | None], st.lists(st.none() | cats | st.builds(Dog, ints), max_size=3)),
    "registered": (dict[str, list[Celsius | None]], st.dictionaries(text, st.lists(st.none() | warmths, max_size=2))),
    "set of registered": (set[Celsius], st.sets(warmths, max_size=4)),
    "in a dataclass": (Weather, st.builds(Weather, warmths, st.none() | models, st.sets(warmths, max_size=3))),
    "model": (Model, models),
    "models in others": (
        dict[str, list[Model | None]],
        st.dictionaries(text, st.lists(st.none() | models, max_size=2), max_size=3),
    ),
    "any": (Any, plain_json),
    "no hint": (Signature.of(lambda x: x, 0).parameters[0].annotation, plain_json),
}


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=60)
@given(data=st.data())
def test_what_is_accepted_comes_back_and_is_canonical(name: str, data: st.DataObject) -> None:
    hint, values = TYPES[name]
    value = data.draw(values)
    try:
        raw = enc(value)
    except PayloadError:  # no value above is one to refuse
        pytest.fail(f"refused {value!r}")
    back = dec(raw, hint)
    assert back == value
    assert type(back) is type(value)
    assert enc(back) == raw
    assert same(raw, enc(back), hint)
    # Any JSON reader agrees that it is strict JSON.
    json.loads(bytes(raw), parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=30)
@given(data=st.data())
def test_the_fast_and_the_careful_way_write_the_same(name: str, data: st.DataObject) -> None:
    value = {"a": data.draw(TYPES[name][1]), "B": 1, "é": [2]}
    assert plain_encode(plain(value, "here", 64)) == bytes(enc(value))


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**64 - 1, 2**53 + 1, [2**64 - 1], -0.0, 1e308, 5e-324])
def test_numbers_at_the_edges_are_exact(value: Any) -> None:
    assert repr(dec(enc(value))) == repr(value)


@pytest.mark.parametrize("value", [[], {}, [[]], [{}], {"a": []}, "\x00", "\u2028", "'\"\\", {"": {"": None}}])
def test_odd_but_fine_json(value: Any) -> None:
    assert dec(enc(value)) == value


def test_a_zone_comes_back_as_its_offset() -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert bytes(enc([moment])) == b'["2026-07-01T12:00:00+02:00"]'
    assert dec(enc(moment), datetime) == moment


@pytest.mark.parametrize("slots", [True, False])
def test_attrs(slots: bool) -> None:
    attr = pytest.importorskip("attr")
    fields = {
        "size": attr.ib(type=float),
        "_secret": attr.ib(type=int, default=0),
        "note": attr.ib(type=str, default=""),
    }
    cls: Any = attr.make_class("Box", fields, slots=slots)
    value = cls(1.5, 3, "a")
    assert bytes(enc([value])) == b'[{"size":1.5,"_secret":3,"note":"a"}]'
    assert bytes(enc({"k": {"l": value}})) == b'{"k":{"l":{"size":1.5,"_secret":3,"note":"a"}}}'
    assert bytes(enc(Holder((value,)))) == b'{"value":[{"size":1.5,"_secret":3,"note":"a"}]}'
    assert dec(enc(value), cls) == value
    reordered = dec(b'{"note":"a","_secret":3,"size":1.5}', cls)
    assert enc(reordered) == enc(value)
    if not slots:
        value.undeclared = 1
        assert enc(value) == enc(reordered)
    assert "$.size" in refusal(cls(float("nan")))


@dataclass
class Grown:
    a: int
    b: int = 7
    made: int = field(default=3, init=False)


@dataclass(slots=True, frozen=True)
class GrownSlots:
    a: int
    b: int = 7
    c: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("hint", "whole"),
    [(Grown, b'{"a":1,"b":7,"made":3}'), (GrownSlots, b'{"a":1,"b":7,"c":[]}')],
)
def test_defaults_that_the_json_left_out_travel_on(hint: Any, whole: bytes) -> None:
    assert bytes(enc(dec(b'{"a":1}', hint))) == whole
    nested = dec(b'{"k":[{"a":1}]}', dict[str, list[hint]])
    assert bytes(enc(nested)) == b'{"k":[' + whole + b"]}"


def test_a_raw_is_taken_as_the_json_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "attr", raising=False)  # with attrs loaded, all Raws go the careful way anyway
    assert enc(Raw(b'{"b": 1, "a": 2}')) == Raw(b'{"a":2,"b":1}')
    assert "of type msgspec.Raw can't travel" in refusal(Raw(b"NaN"))


def test_containers_are_read_without_their_own_methods() -> None:
    class Endless(list[int]):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield 1

    class Lying(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError

    class Raising(set[str]):
        def __iter__(self) -> Iterator[str]:
            raise RuntimeError

    nested = {1: Endless([1, 2]), 2: Lying(a=Raising({"b"})), 3: OrderedDict(z=1), 4: EvilField(7)}
    assert dec(enc(nested)) == {"1": [1, 2], "2": {"a": ["b"]}, "3": {"z": 1}, "4": {"x": 7}}


# --- What can't come back is refused, by path ------------------------------------------------------------------------


class Evil:
    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("iter")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@dataclass
class EvilField:
    x: int = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise RuntimeError("x")
        return super().__getattribute__(name)


@dataclass
class Holder:
    value: Any


class EvilTimezone(tzinfo):
    def tzname(self, moment: datetime | None) -> str:
        raise RuntimeError("name")

    def dst(self, moment: datetime | None) -> timedelta:
        raise RuntimeError("dst")

    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise RuntimeError("offset")


class Text(str):
    pass


class StructHolder(msgspec.Struct):
    value: Any


def nested_list(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circle() -> Any:
    value: list[Any] = [1]
    value.append({"a": value})
    return value


def circle_of_objects() -> Any:
    value = Holder(None)
    value.value = [value]
    return value


NAN, INF = float("nan"), float("inf")
HOSTILE: list[tuple[Any, str]] = [
    (NAN, "here: $ of type float is NaN or infinite"),
    (-INF, "here: $ of type float is NaN or infinite"),
    ({"items": [1, 2, 3, {"price": NAN}]}, "here: $.items[3].price of type float"),
    ({"a b": [None, INF]}, 'here: $["a b"][1] of type float'),
    (Holder([1.0, NAN]), "here: $.value[1] of type float"),
    (StructHolder(INF), "here: $.value of type float"),
    ([[1.0, 2.0], [3.0, NAN]], "here: $[1][1] of type float"),
    ({NAN}, "here: $[*] of type float"),
    ({"a": {NAN: 1}}, "here: $.a has a key, of type float is NaN"),
    (Point(1, NAN), "here: $[1] of type float"),
    (Camel("a", {3: NAN}), 'here: $.by_size["3"] of type float'),
    (Decimal("NaN"), "here: $ of type decimal.Decimal"),
    ([Decimal("sNaN"), Decimal("Infinity")], "here: $[0] of type decimal.Decimal"),
    ({Decimal("-Infinity")}, "here: $[*] of type decimal.Decimal"),
    (2**70, "here: $ of type int is outside 64 bits"),
    (2**64, "here: $ of type int is outside 64 bits"),
    ([1, -(2**63) - 1], "here: $[1] of type int is outside 64 bits"),
    (Holder({"n": 10**5000}), "here: $.value.n of type int is outside 64 bits"),
    ({2**70: 1}, "here: $ has a key, of type int is outside 64 bits"),
    ("\ud800", "here: $ of type str holds half of a surrogate pair"),
    (["ok", "a\udc00b"], "here: $[1] of type str holds half"),
    ({"a": {"\ud800": 1}}, r'here: $.a["\ud800"] of type str as a key holds half'),
    (nested_list(100_000), "is nested deeper than 64 arrays and objects"),
    (nested_list(65), "is nested deeper than 64 arrays and objects"),
    (Holder(nested_list(64)), "is nested deeper than 64 arrays and objects"),
    (circle(), "here: $[1].a of type list contains itself"),
    (circle_of_objects(), "Holder contains itself"),
    (datetime(2026, 1, 1), "here: $ of type datetime.datetime has no time zone"),
    (Holder(Holder({"at": [datetime(2026, 1, 1, 1, 1, 1, 1)]})), "here: $.value.value.at[0] of type datetime.datetime"),
    ({datetime(2026, 1, 1): 1}, "here: $ has a key, of type datetime.datetime has no time zone"),
    ({datetime(2026, 1, 1)}, "here: $[*] of type datetime.datetime has no time zone"),
    ([datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 1)], "here: $[1] of type datetime.datetime"),
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=61))), "is not of whole minutes"),
    (time(1, tzinfo=ZoneInfo("Europe/Berlin")), "without a fixed offset"),
    (time(1, tzinfo=timezone(timedelta(seconds=61))), "is not of whole minutes"),
    (datetime(2026, 1, 1, tzinfo=EvilTimezone()), "here: $"),
    ({1: "a", "1": "b"}, 'here: $ of type dict has two keys that are both ["1"]'),
    ({"x": {Size.SMALL: 1, "1": 2}}, "here: $.x of type dict has two keys"),
    ({(1, 2): 3}, "here: $ has a key, of type tuple can't be a key"),
    ({True: 3}, "here: $ has a key, of type bool can't be a key"),
    ({None: 3}, "here: $ has a key, of type NoneType can't be a key"),
    ({"a": [Evil()]}, "here: $.a[0] of type"),
    ([object()], "here: $[0] of type object can't travel as JSON"),
    ((n for n in [1]), "here: $ of type generator can't travel"),
    ([1j], "here: $[0] of type complex"),
    ({"f": len}, "here: $.f of type builtin_function_or_method"),
    ([Order], "here: $[0] of type type"),
    ([Text("a")], "Text is a subclass that JSON can't tell from its base; pass a plain str"),
    ([msgspec.UNSET], "here: $[0] of type msgspec.UnsetType"),
]


@pytest.mark.parametrize(("value", "message"), HOSTILE, ids=[message[:60] for _, message in HOSTILE])
def test_what_cannot_come_back_is_refused_with_its_path(value: Any, message: str) -> None:
    assert message in refusal(value)


@settings(max_examples=200)
@given(value=st.one_of([strategy for _, strategy in TYPES.values()]), bad=st.sampled_from([NAN, INF, -INF, 2**64]))
@pytest.mark.parametrize("wrap", [lambda v, bad: [v, bad], lambda v, bad: {"k": Holder([bad]), "v": v}])
def test_a_bad_number_never_hides_beside_anything(value: Any, bad: Any, wrap: Callable[[Any, Any], Any]) -> None:
    refusal(wrap(value, bad))


def test_depth_is_counted_exactly_and_brackets_in_text_are_not() -> None:
    assert dec(enc(nested_list(64))) == nested_list(64)
    wide = [{"a": ["[[[{{{" * 20, '\\"[', "\\", '"']} for _ in range(50)]
    assert dec(enc(wide, Limits(payload_depth=3))) == wide
    refusal(wide, Limits(payload_depth=2))
    refusal(["]", [["]", ["[["]]]], Limits(payload_depth=3))
    for quote in ('"', '\\"', "\\", '\\\\"', '\n"'):  # none of them may hide what stands between two texts
        hidden = [quote, {"a": {"b": {"c": [1]}}}, quote]
        refusal(hidden, Limits(payload_depth=4))
        assert dec(enc(hidden, Limits(payload_depth=5))) == hidden
    refusal(nested_list(200_000), Limits(payload_depth=1_000_000))


tricky_texts = st.sampled_from(["[", "]", '"', "\\", '\\"{', "}", "\n"])


@settings(max_examples=300)
@given(value=st.recursive(tricky_texts, lambda inner: st.dictionaries(tricky_texts, inner, max_size=3)))
def test_depth_agrees_with_a_plain_count(value: Any) -> None:
    # Objects only: `[[` alone is enough to bring a value to the careful way, which counts by itself.
    def depth(node: Any) -> int:
        return 1 + max(map(depth, node.values()), default=0) if isinstance(node, dict) else 0

    enc(value, Limits(payload_depth=max(depth(value), 1)))
    if depth(value) > 1:
        refusal(value, Limits(payload_depth=depth(value) - 1))


def test_what_is_shared_is_no_circle() -> None:
    shared = [Holder(1)]
    assert dec(enc({1: shared, 2: [shared, shared]})) == {"1": [{"value": 1}], "2": [[{"value": 1}], [{"value": 1}]]}


def test_size_is_counted_in_bytes_of_json() -> None:
    enc("é" * 49, Limits(payload_bytes=100))
    assert "$ is 102 bytes of JSON, above the limit of 100" in refusal("é" * 50, Limits(payload_bytes=100))
    assert "above the limit of 33,554,432" in refusal(["x" * 2**25])
    refusal({1: "x" * 100}, Limits(payload_bytes=100))


def test_messages_hold_no_values() -> None:
    assert "hunter2" not in refusal({"password": "hunter2\ud800"})
    assert "hunter2" not in refusal({"password": {"hunter2"}, "x": NAN})


# --- One value, one encoding -----------------------------------------------------------------------------------------

SETS = """
import enum, sys
sys.path.insert(0, {root!r})
from dataclasses import dataclass
from durable.model.limits import Limits
from durable.payload.custom_types import register_type
from durable.payload.values import encode
import pydantic
class Model(pydantic.BaseModel):
    words: set[str]
    by_word: dict[str, frozenset[str]]
class Opaque:
    def __init__(self, words): self.words = words
register_type(Opaque, encode=lambda o: {{"words": o.words}}, decode=lambda v: Opaque(set(v["words"])))
@dataclass(frozen=True)
class Tag:
    name: str
class Colour(enum.Enum):
    RED = "red"; BLUE = "blue"; GREEN = "green"
words = "the quick brown fox jumps over a lazy dog".split()
print(bytes(encode({{
    "texts": set(words),
    "objects": {{Tag(w) for w in words}},
    "enums": set(Colour),
    "mixed": {{*words, 1, 2, None}},
    "sets": {{frozenset({{a, b}}) for a in words for b in words}},
    "tuples": {{(1, frozenset({{w}})) for w in words}},
    "dict": {{w: {{w, "x"}} for w in set(words)}},
    "model": Model(words=set(words), by_word={{w: {{w, "x", "y"}} for w in set(words)}}),
    "registered": [Opaque(set(words))],
}}, "", Limits())))
"""


def test_sets_are_the_same_in_every_process() -> None:
    root = str(Path(__file__).parents[2])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SETS.format(root=root)],
            env={"PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in range(1, 5)
    }
    assert len(outputs) == 1
    assert b"lazy" in outputs.pop()


def test_small_encodings_are_as_documented() -> None:
    assert bytes(enc({"b": 1, "a": {3, 1, 2}})) == b'{"a":[1,2,3],"b":1}'
    assert bytes(enc({10: 1, 9: 2})) == b'{"10":1,"9":2}'
    assert bytes(enc([-0.0, 0.0, 1, 1.0, True, 1e16, 0.1])) == b"[-0.0,0.0,1,1.0,true,1e16,0.1]"
    assert bytes(enc([Decimal("1.50"), Decimal("1E+3"), Decimal("-0")])) == b'["1.50","1E+3","-0"]'
    noon = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
    assert bytes(enc([noon, noon.astimezone(timezone(timedelta(hours=2)))])) == (
        b'["2026-07-01T12:00:00Z","2026-07-01T14:00:00+02:00"]'
    )
    assert bytes(enc(b"\xff\x00")) == b'"/wA="'
    assert bytes(enc({"t": {10, 9}, "n": {1: {10, 9}}})) == b'{"n":{"1":[9,10]},"t":[9,10]}'


# --- Decoding --------------------------------------------------------------------------------------------------------


class Opaque:
    pass


@dataclass
class Boom:
    x: int

    def __post_init__(self) -> None:
        raise RuntimeError("boom")


@dataclass
class Dangling:
    x: "NoSuchName"  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Checked:
    x: int

    def __post_init__(self) -> None:
        raise ValueError("no such x")


class Nowhere(tzinfo):
    def utcoffset(self, at: datetime | None) -> timedelta:
        raise LookupError("no offset")

    dst = utcoffset

    def tzname(self, at: datetime | None) -> str:
        return "nowhere"


def test_a_refusal_has_a_cause_only_where_somebody_s_code_raised() -> None:
    with pytest.raises(PayloadError, match="no such x") as caught:
        decode(Raw(b'{"x":1}'), Checked, "here")
    assert isinstance(caught.value.__cause__, ValueError)
    assert not isinstance(caught.value.__cause__, msgspec.MsgspecError)
    with pytest.raises(PayloadError) as caught:
        encode([datetime(2026, 1, 1, tzinfo=Nowhere())], "here", LIMITS)
    assert isinstance(caught.value.__cause__, LookupError)
    for own in (lambda: encode([len], "here", LIMITS), lambda: decode(Raw(b"1"), str, "here")):
        with pytest.raises(PayloadError) as caught:
            own()
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


MISFITS: list[tuple[bytes, Any, str]] = [
    (b'{"id":1}', Order, "here: Expected `uuid`, got `int` - at `$.id`; it is declared as"),
    (b'[{"sku":"a","price":"1"},{"sku":"a"}]', list[Item], "missing required field `price` - at `$[1]`"),
    (b'"3"', int, "here: Expected `int`, got `str` - at `$`; it is declared as int"),
    (b"20", timedelta, 'got `int` - at `$` (a duration is text such as "PT1H30M", or "PT20S"); it is declared as'),
    (b'"20s"', timedelta, 'Invalid ISO8601 duration - at `$` (a duration is text such as "PT1H30M", or "PT20S")'),
    (b"20", datetime, 'got `int` - at `$` (a datetime is text such as "2030-01-31T08:00:00Z"); it is declared as'),
    (b"3.0", int, "Expected `int`, got `float`"),
    (b"1", None, "Expected `null`, got `int`"),
    (b"1", type(None), "Expected `null`, got `int`"),
    (b"null", str, "Expected `str`, got `null`"),
    (b'"green"', Colour, "Invalid enum value 'green'"),
    (b"[1]", tuple[int, int], "length 2"),
    (b"1e400", Any, "out of range"),
    (b"[-1e400]", list[float], "out of range - at `$[0]`"),
    (b"1" * 5000, Any, "out of range"),
    (b"NaN", Any, "here: $ is not JSON"),
    (b"[Infinity]", Any, "here: $ is not JSON"),
    (b'"\\ud800"', Any, "here: $ is not JSON"),
    (b'"\xff"', Any, "here: $ is not JSON"),
    (b"\xef\xbb\xbf1", Any, "here: $ is not JSON"),
    (b"[1", Any, "here: $ is not JSON"),
    (b"1 2", Any, "here: $ is not JSON"),
    (b"[" * 100_000, Any, "nested too deep"),
    (b"[" * 100_000, list[Any], "nested too deep"),
    (b'{"x":1}', Boom, "raised RuntimeError"),
    (b"1", Opaque, "Opaque` can't be decoded from JSON; declare a dataclass"),
    (b"[1]", list[Opaque], "at `$[0]`"),
    (b"1", list[int] | set[int], "the type hint list[int] | set[int] can't be decoded"),
    (b'{"x":1}', Dangling, "name 'NoSuchName' is not defined"),
    (b"1", "int", "the type hint 'int' can't be decoded"),
]


@pytest.mark.parametrize(("raw", "hint", "message"), MISFITS, ids=[f"{m[0][:20]!r}-{m[2][:30]}" for m in MISFITS])
def test_json_that_does_not_fit_is_refused_with_path_and_expectation(raw: bytes, hint: Any, message: str) -> None:
    for _ in range(2):  # a refused hint stays refused when it is asked for again
        with pytest.raises(PayloadError) as caught:
            dec(raw, hint)
        assert str(caught.value).startswith("here: ")
        assert message in str(caught.value)
    assert same(Raw(raw), Raw(b"[]"), hint) is False


@settings(max_examples=300)
@given(raw=st.binary(max_size=20) | st.text('[]{}",:019-.eEnul\\', max_size=20).map(str.encode))
@example(raw=b"")
def test_any_bytes_are_json_or_a_payload_error(raw: bytes) -> None:
    for hint in (Any, int, list[Order], Order):
        try:
            value = dec(raw, hint)
        except PayloadError:
            continue
        if hint is Any:
            again = enc(value) if _within_64_bits(value) else None
            assert again is None or dec(again) == value


def _within_64_bits(value: Any) -> bool:
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def test_large_numbers_from_elsewhere_are_exact_and_duplicates_are_json() -> None:
    assert dec(b"1180591620717411303424") == 2**70
    assert dec(b'{"a":1,"a":2}') == {"a": 2}
    assert dec(NO_PAYLOAD) is None


# --- Same ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "now", "hint", "equal"),
    [
        (b'{"a":1}', b'{"a":1,"b":7}', Grown, True),
        (b'{"a":1}', b'{"a":1,"b":8}', Grown, False),
        (b'{"b": 7, "a": 1}', b'{"a":1,"b":7}', Grown, True),
        (b'{"a":1,"gone":2}', b'{"a":1,"b":7}', Grown, True),
        (b'{ "b" : 2, "a" : [1] }', b'{"a":[1],"b":2}', Any, True),
        (b'{"b": "x", "a": 1}', b'{"a":1,"b":"x"}', Grown, True),  # fits the hint no more: plain JSON
        (b'{"a":"1"}', b'{"a":"2"}', Grown, False),
        (b"1", b"1.0", float, True),
        (b"true", b"1", Any, False),
        (b"[3,1]", b"[1,3]", set[int], True),
        (b"[3,1]", b"[1,3]", list[int], False),
        (b'"1.50"', b'"1.5"', Decimal, False),  # Decimals keep their digits
        (b"", b"null", Any, True),
        (b"[1", b"[1 ", Any, False),
        (b'"\\u00e9"', '"é"'.encode(), str, True),
    ],
)
def test_same_compares_meaning(recorded: bytes, now: bytes, hint: Any, equal: bool) -> None:
    assert same(Raw(recorded), Raw(now), hint) is equal


# --- One input -------------------------------------------------------------------------------------------------------


def zero() -> None: ...
def one(a: int) -> None: ...
def one_any(a: Any) -> None: ...
def one_list(a: list[int]) -> None: ...
def one_default(a: int = 5) -> None: ...
def one_optional(a: int | None) -> None: ...
def two(a: int, b: str) -> None: ...
def two_default(a: int, b: str = "x") -> None: ...
def two_defaults(a: int = 1, b: str = "x") -> None: ...
def none_default(a: int, b: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013
def rest(*a: Decimal) -> None: ...
def one_and_rest(a: str, *more: int) -> None: ...
def typed(when: datetime, tags: set[str]) -> None: ...


BY_FUNCTION: list[tuple[Callable[..., Any], tuple[Any, ...], bytes]] = [
    (zero, (), b"null"),
    (one, (3,), b"3"),
    (one_any, (None,), b"null"),
    (one_list, ([1, 2],), b"[1,2]"),
    (one_default, (), b"null"),
    (one_default, (6,), b"6"),
    (two, (1, "b"), b'[1,"b"]'),
    (two_default, (1,), b"[1]"),
    (two_defaults, (), b"[]"),
    (rest, (), b"[]"),
    (rest, (Decimal(1),), b'["1"]'),
    (one_and_rest, ("a", 1, 2), b'["a",1,2]'),
]


@pytest.mark.parametrize(("fn", "args", "raw"), BY_FUNCTION)
def test_a_call_by_function_sends_one_input(fn: Callable[..., Any], args: tuple[Any, ...], raw: bytes) -> None:
    sig = Signature.of(fn, 0)
    assert bytes(sig.encode_input(args, "here", LIMITS)) == raw
    received = sig.decode_input(Raw(raw), "here")
    assert received[: len(args)] == args  # the rest are defaults
    fn(*received)


@pytest.mark.parametrize(
    ("args", "raw"), [((), b"null"), ((1,), b"1"), (([1, 2],), b"[1,2]"), ((1, "b"), b'[1,"b"]'), ((None,), b"null")]
)
def test_a_call_by_name_sends_one_input(args: tuple[Any, ...], raw: bytes) -> None:
    assert bytes(encode_plain_input(args, "here", LIMITS)) == raw


RECEIVED: list[tuple[Callable[..., Any], bytes, Any]] = [
    (zero, b"null", ()),
    (zero, b'{"any": [1]}', ()),
    (one, b"3", (3,)),
    (one, b"null", "Expected `int`, got `null`"),
    (one, b"[3]", "Expected `int`, got `array`"),
    (one_any, b"[1,2]", ([1, 2],)),
    (one_list, b"[1,2]", ([1, 2],)),
    (one_optional, b"null", (None,)),
    (one_default, b"null", (5,)),
    (one_default, b" null\n", (5,)),
    (one_default, b"", (5,)),
    (one_default, b"6", (6,)),
    (two, b'[1,"b"]', (1, "b")),
    (two, b"[1]", "$ gives 1 of the arguments of two(a: int, b: str), which takes 2 arguments"),
    (two, b'[1,"b",3]', "$ gives 3 of the arguments of two(a: int, b: str), which takes 2 arguments"),
    (two, b"1", "$ gives 1 of the arguments of two(a: int, b: str)"),
    (two, b'["b",1]', "here, argument 'a': Expected `int`, got `str` - at `$`; it is declared as int"),
    (two, b"[1,2]", "here, argument 'b': Expected `str`, got `int` - at `$`; it is declared as str"),
    (typed, b'["2026-01-01T00:00:00Z",["b",1]]', "here, argument 'tags': Expected `str`, got `int` - at `$[1]`"),
    (two, b'[1,"b"', "not JSON"),
    (two_default, b"1", (1, "x")),
    (two_default, b"[1]", (1, "x")),
    (two_default, b'{"a":1}', "Expected `int`, got `object`"),
    (two_default, b"null", "Expected `int`, got `null`"),
    (two_default, b"[]", "takes 1 to 2 arguments"),
    (two_defaults, b"null", (1, "x")),
    (two_defaults, b"[]", (1, "x")),
    (two_defaults, b"7", (7, "x")),
    (none_default, b"[1]", (1, None)),
    (none_default, b"[1,null]", (1, None)),
    (rest, b"null", ()),
    (rest, b"[]", ()),
    (rest, b'["1.0","2"]', (Decimal("1.0"), Decimal(2))),
    (rest, b'"1.0"', (Decimal("1.0"),)),
    (one_and_rest, b'["a",1,"b"]', "here, argument 3 (of *more): Expected `int`, got `str` - at `$`"),
    (one_and_rest, b"[]", "takes 1 or more arguments"),
    (one_and_rest, b'"a"', ("a",)),
    (typed, b'["2026-01-01T00:00:00Z",["b","a"]]', (datetime(2026, 1, 1, tzinfo=timezone.utc), {"a", "b"})),
]


@pytest.mark.parametrize(("fn", "raw", "expected"), RECEIVED)
def test_one_input_is_received_by_the_rule(fn: Callable[..., Any], raw: bytes, expected: Any) -> None:
    sig = Signature.of(fn, 0)
    if isinstance(expected, tuple):
        received = sig.decode_input(Raw(raw), "here")
        assert received == expected
        assert list(map(type, received)) == list(map(type, expected))
    else:
        with pytest.raises(PayloadError) as caught:
            sig.decode_input(Raw(raw), "here")
        assert str(caught.value).startswith(("here: ", "here, argument "))
        assert expected in str(caught.value)
        assert caught.value.__cause__ is None  # one traceback, not three
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("fn", "args", "message"),
    [
        (zero, (1,), "here: zero() takes 0 arguments, but 1 were given"),
        (one, (), "here: one(a: int) is called without 'a'"),
        (one, (1, 2), "takes 1 argument, but 2 were given"),
        (two, (1,), "here: two(a: int, b: str) is called without 'b'"),
        (two, (), "without 'a', 'b'"),
        (two_default, (1, "a", 2), "takes 1 to 2 arguments, but 3 were given"),
        (one_and_rest, (), "one_and_rest(a: str, *more: int) is called without 'a'"),
    ],
)
def test_the_number_of_arguments_is_checked_as_python_does(
    fn: Callable[..., Any], args: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(TypeError, match="here: ") as caught:
        Signature.of(fn, 0).encode_input(args, "here", LIMITS)
    assert message in str(caught.value)
    with pytest.raises(TypeError):
        fn(*args)


def test_an_argument_that_cannot_travel_is_named_by_its_place() -> None:
    for fn, args, message in (
        (two, (1, [NAN]), r"^argument 'b' of two\(a: int, b: str\): \$\[0\] of type float"),
        (one, (len,), r"^argument 'a' of one\(a: int\): \$ of type builtin_function_or_method can't travel"),
        (one_and_rest, ("a", 1, 1j), r"^argument 3 \(of \*more\) of one_and_rest\(.*\): \$ of type complex"),
    ):
        with pytest.raises(PayloadError, match=message) as caught:
            Signature.of(fn, 0).encode_input(args, "here", LIMITS)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_arguments_that_only_together_are_too_much_are_refused_as_the_input() -> None:
    with pytest.raises(PayloadError, match=r"^here: \$ is 9 bytes of JSON, above the limit of 7"):
        Signature.of(two, 0).encode_input((1, "abc"), "here", Limits(payload_bytes=7))


def grown(a: Grown, b: int = 2) -> None: ...


@pytest.mark.parametrize(
    ("fn", "recorded", "now", "equal"),
    [
        (grown, b'[{"a":1}]', b'[{"b":7,"a":1},2]', True),
        (grown, b'{"a":1}', b'[{"a":1}]', True),
        (grown, b'[{"a":1}]', b'[{"a":1},3]', False),
        (two, b'[1, "b"]', b'[1,"b"]', True),
        (two, b"[1]", b"[ 1 ]", True),  # neither fits: plain JSON
        (two, b"[1]", b"[2]", False),
        (zero, b"1", b"2", False),  # `ctx.get_input()` would tell them apart
        (zero, b'{"a":1, "b":2}', b'{"b":2,"a":1}', True),
        (one_default, b"null", b"5", True),
    ],
)
def test_inputs_are_compared_by_the_hints(fn: Callable[..., Any], recorded: bytes, now: bytes, equal: bool) -> None:
    assert Signature.of(fn, 0).input_same(Raw(recorded), Raw(now)) is equal


# --- Signatures ------------------------------------------------------------------------------------------------------


def keyword_only(ctx: object, a: int, *, b: int = 3) -> None: ...
def keywords(ctx: object, **options: int) -> None: ...
def no_context() -> None: ...


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (keyword_only, "keyword_only: parameter 'b' is keyword-only, but arguments are positional; make it positional"),
        (keywords, "keywords: parameter '**options' takes any keywords"),
        (no_context, "no_context: takes 0 parameters; the first must be the context"),
        (dict.fromkeys, None),
        (type, "type: its parameters can't be read"),
    ],
)
def test_what_positional_arguments_cannot_reach_is_refused_at_once(fn: Callable[..., Any], message: str | None) -> None:
    if message is None:
        Signature.of(fn, 0)
        return
    with pytest.raises(TypeError) as caught:
        Signature.of(fn, 1)
    assert message in str(caught.value)


FORWARD = """
from dataclasses import dataclass
from decimal import Decimal
def charge(ctx: NeverImported, order: Order, amount: Decimal) -> Receipt: ...
def broken(order: Missing) -> None: ...
def wrong(order: "1 +") -> Lost: ...
@dataclass
class Order:
    id: int
@dataclass
class Receipt:
    ok: bool
"""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with every hint as text, as `from __future__ import annotations` makes them."""
    module = types.ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", module)
    exec(compile("from __future__ import annotations\n" + FORWARD, "made.py", "exec"), module.__dict__)
    return module


def test_hints_may_name_what_comes_later_and_the_context_is_not_resolved(made: Any) -> None:
    sig = Signature.of(made.charge, 1)
    assert sig.display == "charge(order: Order, amount: Decimal)"
    order = made.Order(3)
    raw = sig.encode_input((order, Decimal("1.5")), "here", LIMITS)
    assert sig.decode_input(raw, "here") == (order, Decimal("1.5"))
    assert sig.result_hint is made.Receipt


def test_hints_that_cannot_be_resolved_name_function_parameter_and_hint(made: Any) -> None:
    broken, wrong = Signature.of(made.broken, 0), Signature.of(made.wrong, 0)
    with pytest.raises(TypeError, match="broken: the type hint 'Missing' of parameter 'order' can't be resolved"):
        broken.decode_input(Raw(b"1"), "here")
    assert broken.result_hint is type(None)
    with pytest.raises(TypeError, match=r"wrong: the type hint .* of parameter 'order' can't be resolved"):
        wrong.decode_input(Raw(b"1"), "here")
    with pytest.raises(TypeError, match="wrong: the type hint 'Lost' of the return annotation can't be resolved"):
        _ = wrong.result_hint
    made.Missing = int
    assert broken.decode_input(Raw(b"1"), "here") == (1,)


def gen_full(ctx: object) -> Generator[Any, Any, Order]:
    yield
    raise AssertionError


def gen_bare(ctx: object) -> Generator:  # type: ignore[type-arg]
    yield


def gen_iterator(ctx: object) -> Iterator[int]:
    yield 1


def gen_iterable(ctx: object) -> Iterable[int]:
    yield 1


def gen_unhinted(ctx: object):  # type: ignore[no-untyped-def]
    yield 1


async def coro(ctx: object) -> set[int]:
    await asyncio.sleep(0)
    return set()


def coroutine(ctx: object) -> Coroutine[Any, Any, Item]:
    raise NotImplementedError


def awaitable(ctx: object) -> Awaitable[Item]:
    raise NotImplementedError


def returns_none(ctx: object) -> None: ...
def returns_never(ctx: object) -> NoReturn: raise NotImplementedError  # fmt: skip


def returns_list(ctx: object) -> list[Item]: raise NotImplementedError  # fmt: skip


def returns_iterable(ctx: object) -> Iterable[int]: return [1]  # fmt: skip


def returns_unhinted(ctx): return 1  # type: ignore[no-untyped-def]  # fmt: skip


@functools.wraps(gen_full)
def wrapped(*args: Any) -> Any:
    return gen_full(*args)


class Callables:
    def method(self, ctx: object, a: int) -> Item:
        raise NotImplementedError

    def __call__(self, ctx: object, a: "Item") -> "Order":
        raise NotImplementedError


@pytest.mark.parametrize(
    ("fn", "hint"),
    [
        (gen_full, Order),
        (gen_bare, Any),
        (gen_iterator, Any),
        (gen_iterable, Any),
        (gen_unhinted, Any),
        (coro, set[int]),
        (coroutine, Item),
        (awaitable, Item),
        (returns_none, type(None)),
        (returns_never, Any),
        (returns_list, list[Item]),
        (returns_iterable, Iterable[int]),
        (returns_unhinted, Any),
        (wrapped, Order),
        (Callables().method, Item),
        (Callables(), Order),
        (functools.partial(Callables()), Order),
        (lambda ctx: 1, Any),
    ],
)
def test_the_result_hint_is_what_the_caller_gets(fn: Callable[..., Any], hint: Any) -> None:
    sig = Signature.of(fn, 1)
    assert sig.result_hint == hint
    assert "ctx" not in sig.display


def many(ctx, a, b: "list[Item]", c: dict[str, Any] | None = None, d: float = 1.5, e: str = "s", *f: int):  # type: ignore[no-untyped-def]
    ...


def test_the_display_form_leaves_out_the_context_and_long_defaults() -> None:
    assert Signature.of(many, 1).display == (
        "many(a, b: list[Item], c: dict[str, Any] | None = None, d: float = 1.5, e: str = ..., *f: int)"
    )
    assert Signature.of(lambda x, y=3: x, 0).display == "<lambda>(x, y=3)"


def test_a_context_may_hide_in_star_args() -> None:
    sig = Signature.of(lambda *args: args, 1)
    assert sig.decode_input(Raw(b"[1,2]"), "here") == (1, 2)
