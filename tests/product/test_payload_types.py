"""Every type of a payload, on each way: argument, result, event, custom status, output; and what can't travel."""

from __future__ import annotations

import collections.abc
import enum
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

import durable
from durable import OrchestrationContext
from tests.waiting import SOON

from .conftest import Bench

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal
    colour: Colour | None = None


@dataclass
class Basket:
    lines: list[Line]
    by_level: dict[Level, int] = field(default_factory=dict)
    parts: Optional[Basket] = None  # noqa: UP045 - a text would not do for a class that names itself


@dataclass
class Boxed(Generic[T]):
    value: T
    more: list[T]


@attrs.define
class Shelf:
    lines: list[Line]
    _hidden: int = 3


class Card(msgspec.Struct, tag=True):
    number: str


class Iban(msgspec.Struct, tag=True):
    code: str
    at: datetime | None = None


class Row(NamedTuple):
    key: int
    text: str = "x"


class Hints(TypedDict, total=False):
    deep: bool
    at: datetime


UserId = NewType("UserId", int)
Keys = dict[Level, dict[datetime, dict[date, dict[float, int]]]]


class Inner(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    amount: Decimal
    when: timedelta = timedelta(hours=1)


class Model(pydantic.BaseModel):
    id: UUID
    at: datetime
    tags: set[str] = set()
    inner: list[Inner] = []
    data: bytes = b"text"
    by_number: dict[int, Inner] = {}
    aliased: int = pydantic.Field(default=1, alias="as-json")
    kind: Literal["a", "b"] = "a"
    choice: Inner | int | str = 3


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Generical(pydantic.BaseModel, Generic[T]):
    value: T


class Money:
    """Nobody's dataclass."""

    def __init__(self, amount: Decimal, currency: str) -> None:
        self.amount, self.currency = amount, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.amount, self.currency))


def money_to_json(money: Money) -> list[Any]:
    return [money.amount, money.currency]


def money_from_json(value: Any) -> Money:
    return Money(Decimal(value[0]), value[1])


durable.register_type(Money, encode=money_to_json, decode=money_from_json)
durable.register_type(PurePosixPath, encode=str, decode=PurePosixPath)


class Moment(datetime):
    """As the ones of several date libraries are."""


durable.register_type(Moment, encode=Moment.isoformat, decode=Moment.fromisoformat)


@dataclass
class Invoice:
    total: Money | None
    by_name: dict[str, list[Money]]
    paths: set[PurePosixPath]
    model: Inner
    at: Moment


UTC = timezone.utc
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
EUR = Money(Decimal("1.50"), "EUR")
INNER = Inner(amount=Decimal("0.10"))
MODEL = Model(
    id=UUID(int=7),
    at=NOON,
    tags={"c", "a", "b"},
    inner=[INNER],
    by_number={3: INNER},
    choice=INNER,
    **{"as-json": 5},  # type: ignore[arg-type]  # the name that only pydantic knows
)
CASES: dict[str, tuple[Any, Any]] = {
    "dataclass": (Basket([Line("a", Decimal("1.10"), Colour.RED)], {Level.HIGH: 3}, Basket([])), Basket),
    "attrs": (Shelf([Line("a", Decimal(2))], 5), Shelf),
    "struct": (Card("1"), Card),
    "union of structs": ([Iban("x", NOON), Card("1"), None], list[Card | Iban | None]),
    "enum": ((Colour.RED, Level.LOW), tuple[Colour, Level]),
    "datetime": (datetime(2026, 7, 1, 12, 0, 0, 1, timezone(timedelta(hours=-3))), datetime),
    "date and time": ((date(2026, 1, 2), time(1, 2, 3)), tuple[date, time]),
    "timedelta": (timedelta(days=-1, microseconds=1), timedelta),
    "uuid": (UUID(int=1), UUID),
    "decimal": ([Decimal("1.10"), Decimal("1E+3"), Decimal("-0.0")], list[Decimal]),
    "bytes": (b"\x00\xff", bytes),
    "set": ({"b", "a"}, set[str]),
    "frozenset": (frozenset({NOON}), frozenset[datetime]),
    "tuple": ((1, "a", None), tuple[int, str, None]),
    "named tuple": ([Row(1), Row(2, "y")], list[Row]),
    "typed dict": ({"deep": True, "at": NOON}, Hints),
    "new type": (UserId(3), UserId),
    "literal": (["a", 3], list[Literal["a", 3]]),
    "optional": (None, Optional[Line]),  # noqa: UP045
    "union": ([1, "a", [2]], list[Union[int, str, list[int]]]),  # noqa: UP007
    "generic": (Boxed(1, [2]), Boxed[int]),
    "nested generics": ({UUID(int=1): [Boxed({3: NOON}, [])]}, dict[UUID, list[Boxed[dict[int, datetime]]]]),
    "keys": ({Level.LOW: {NOON: {date(2026, 1, 1): {1.5: 1}}}}, Keys),
    "pydantic": (MODEL, Model),
    "pydantic in others": ({"k": [MODEL, None]}, dict[str, list[Model | None]]),
    "pydantic root": (Numbers([3, 1]), Numbers),
    "pydantic generic": (Generical[Inner](value=INNER), Generical[Inner]),
    "set of models": ({INNER}, set[Inner]),
    "registered": (EUR, Money),
    "registered or none": (None, Money | None),
    "registered in others": (
        Invoice(EUR, {"x": [EUR]}, {PurePosixPath("/b"), PurePosixPath("/a")}, INNER, Moment(2026, 1, 1)),
        Invoice,
    ),
}  # fmt: skip


@pytest.mark.everywhere
@pytest.mark.parametrize("name", CASES)
def test_it_travels_every_way(bench: Bench, name: str) -> None:
    value, hint = CASES[name]
    registry = durable.Registry()

    def act(given: Any) -> Any:
        assert (type(given), given) == (type(value), value)
        return given

    def flow(ctx: OrchestrationContext, given: Any) -> Generator[Any, Any, Any]:
        assert (type(given), given) == (type(value), value)
        assert ctx.get_input(hint) == value
        ctx.set_custom_status(given)
        given = yield ctx.call_activity(activity, given)
        assert (type(given), given) == (type(value), value)
        return (yield ctx.wait_for_external_event("go", type=hint))

    act.__annotations__ = {"given": hint, "return": hint}
    returns: Any = Generator
    flow.__annotations__ = {"given": hint, "return": returns[Any, Any, hint]}
    activity = registry.activity(act)
    orchestrator = registry.orchestrator(flow)
    with durable.Worker(bench.client, registry=registry, max_cached_orchestrations=0, shutdown_grace=0):
        handle = bench.client.start_orchestration(orchestrator, value)
        handle.raise_event("go", value)
        output = handle.result(SOON, on_blocked="raise")
    assert (type(output), output) == (type(value), value)
    status = handle.status()
    assert status.custom_status == status.input == status.output


def sent(client: durable.Client, value: object) -> Any:
    """What was stored of a value, as plain JSON."""
    return client.start_orchestration("nobody", value).status().input


@pytest.fixture
def client() -> collections.abc.Iterator[durable.Client]:
    with durable.connect("memory://payload-types") as client:
        yield client


def refusal(client: durable.Client, value: object) -> str:
    with pytest.raises(durable.PayloadError) as caught:
        client.start_orchestration("nobody", value)
    return str(caught.value)


# ---- registered types


def test_the_same_again_is_fine_and_another_is_refused() -> None:
    class Point:
        pass

    def to_json(value: Point) -> int:
        return 1

    def from_json(value: Any) -> Point:
        return Point()

    for _ in range(2):
        durable.register_type(Point, encode=to_json, decode=from_json)
    with pytest.raises(durable.DuplicateNameError, match=r"register_type\(Point\): other functions are registered"):
        durable.register_type(Point, encode=lambda point: 2, decode=from_json)


def test_the_same_lines_again_are_the_same() -> None:
    class Point:
        pass

    for _ in range(2):
        durable.register_type(Point, encode=lambda point: 1, decode=lambda value: Point())


@pytest.mark.parametrize(
    "cls", [int, str, datetime, list, dict, Line, Shelf, Card, Colour, Row, object, type("L", (list,), {})]
)
def test_what_travels_by_itself_is_not_registered(cls: type) -> None:
    with pytest.raises(TypeError, match="it travels by itself"):
        durable.register_type(cls, encode=str, decode=cls)


def test_misuse_of_register_type() -> None:
    wrong: Any = durable.register_type
    with pytest.raises(TypeError, match="takes a class, not 'Money'"):
        wrong("Money", encode=str, decode=str)
    with pytest.raises(TypeError, match="decode= takes a function, not None"):
        wrong(Money, encode=str, decode=None)


def test_subclasses_travel_as_what_is_registered(client: durable.Client) -> None:
    class Rounded(Money):
        pass

    assert sent(client, [Rounded(Decimal("1.0"), "EUR")]) == [["1.0", "EUR"]]


class Bad:
    def __init__(self, mode: str) -> None:
        self.mode = mode


def bad_to_json(bad: Bad) -> Any:
    if bad.mode == "raises":
        raise LookupError("hunter2")
    return {"self": bad, "nan": float("nan"), "other": object()}[bad.mode]


def bad_from_json(value: Any) -> Bad:
    raise LookupError("hunter2")


durable.register_type(Bad, encode=bad_to_json, decode=bad_from_json)


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("raises", "Bad can't be encoded: its encode raised LookupError"),
        ("self", "Bad can't be encoded: its encode returned the same type; return JSON-able values"),
        ("nan", "float is NaN"),
        ("other", "object can't travel"),
    ],
)
def test_an_encode_that_does_not_do_names_the_path(client: durable.Client, mode: str, told: str) -> None:
    message = refusal(client, {"items": [1, Boxed(Bad(mode), [])]})
    assert "$.items[1].value of type " in message
    assert told in message
    assert "hunter2" not in message


def test_a_decode_that_raises_names_the_path(client: durable.Client) -> None:
    registry = durable.Registry()

    @registry.activity
    def take(bads: list[Bad]) -> None: ...

    @registry.orchestrator
    def flow(ctx: OrchestrationContext) -> Generator[Any, Any, None]:
        yield ctx.call_activity("take", [1])

    failure = failure_of(client, registry, "flow").cause
    assert failure is not None
    assert "argument 'bads'" in failure.message
    assert "Bad` can't be decoded: its decode raised LookupError - at `$[0]`" in failure.message
    assert failure.is_caused_by(LookupError)


def failure_of(client: durable.Client, registry: durable.Registry, name: str, *args: Any) -> durable.FailureDetails:
    with durable.Worker(client, registry=registry, shutdown_grace=0):
        handle = client.start_orchestration(name, *args)
        with pytest.raises(durable.OrchestrationFailedError) as caught:
            handle.result(SOON)
    return caught.value.failure


def test_encode_that_never_ends_is_refused(client: durable.Client) -> None:
    class Endless:
        pass

    durable.register_type(Endless, encode=lambda one: [Endless()], decode=lambda value: Endless())
    assert "is nested deeper than 64 arrays and objects" in refusal(client, Endless())

    class Ping:
        pass

    class Pong:
        pass

    durable.register_type(Ping, encode=lambda one: Pong(), decode=lambda value: Ping())
    durable.register_type(Pong, encode=lambda one: Ping(), decode=lambda value: Pong())
    assert "$ is nested deeper than this process can follow" in refusal(client, Ping())


# ---- pydantic


def test_a_model_s_sets_are_sorted_and_its_json_is_pydantic_s(client: durable.Client) -> None:
    assert sent(client, MODEL) == {
        **MODEL.model_dump(mode="json", by_alias=True),
        "tags": ["a", "b", "c"],
    }


class Doubtful(pydantic.BaseModel):
    value: float = 1.0
    decimal: Decimal = Decimal(1)
    models: set[Inner] = set()
    secret: pydantic.SecretStr = pydantic.SecretStr("")
    data: bytes = b""
    big: int = 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"value": float("nan")}, "$[0].value of type float is NaN"),
        ({"decimal": Decimal("Infinity")}, "$[0].decimal of type decimal.Decimal is NaN or infinite"),
        ({"models": {INNER}}, "its model_dump raised TypeError"),
        ({"secret": pydantic.SecretStr("hunter2")}, "holds a pydantic secret, which is masked in JSON"),
        ({"data": b"\xff"}, "its model_dump raised"),
        ({"big": 2**70}, "$[0].big of type int is outside 64 bits"),
    ],
)
def test_what_pydantic_would_lose_is_refused(client: durable.Client, fields: Any, told: str) -> None:
    message = refusal(client, [Doubtful.model_construct(**fields)])
    assert told in message
    assert "$[0]" in message
    assert "hunter2" not in message
    assert sent(client, [Doubtful()])


def test_a_misfit_names_the_fields_and_not_the_values(client: durable.Client) -> None:
    registry = durable.Registry()

    @registry.orchestrator
    def flow(ctx: OrchestrationContext, models: list[Model]) -> int:
        return len(models)

    failure = failure_of(client, registry, "flow", [{"id": "hunter2", "at": "hunter2"}])
    assert "argument 'models'" in failure.message
    assert "Model` does not fit: id: Input should be a valid UUID" in failure.message
    assert "at `$[0]`" in failure.message
    assert "hunter2" not in repr(failure)


def test_pydantic_and_attrs_are_not_imported_for_those_who_have_neither() -> None:
    program = """
import sys
import durable
from dataclasses import dataclass
@dataclass
class Order:
    item: str
@durable.activity
def act(order: Order) -> Order:
    return order
@durable.orchestrator
def flow(ctx, order: Order) -> Order:
    return (yield ctx.call_activity(act, order))
client = durable.connect("memory://x")
with durable.Worker(client):
    assert client.start_orchestration(flow, Order("a")).result(20) == {"item": "a"}
    try:
        client.start_orchestration(flow, object())
    except durable.PayloadError:
        pass
print(sorted({"attr", "attrs", "pydantic", "cryptography"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# ---- what can't be told apart


def two_dataclasses(given: Line | Basket) -> None: ...
def two_models(given: list[Inner | Model]) -> None: ...
def two_texts(given: datetime | str) -> None: ...
def registered_or_text(given: dict[str, Money | str]) -> None: ...
def a_model_or_a_number(given: Model | int) -> None: ...
def gives_one_of_two() -> Line | Shelf: raise NotImplementedError  # fmt: skip


@dataclass
class Inside:
    either: Line | Basket


def inside(given: list[Inside]) -> None: ...


@pytest.mark.parametrize(
    "fn", [two_dataclasses, two_models, two_texts, registered_or_text, a_model_or_a_number, gives_one_of_two, inside]
)
def test_unions_that_json_cannot_tell_apart_are_refused_at_decoration(fn: Any) -> None:
    for decorate in (durable.Registry().activity, lambda f: durable.Registry().orchestrator(_with_context(f))):
        what = "the return annotation" if fn is gives_one_of_two else "parameter 'given'"
        with pytest.raises(TypeError, match=rf"{fn.__name__}, {what}: the types in .* can't be told apart in JSON"):
            decorate(fn)


def _with_context(fn: Any) -> Any:
    def orchestrator(ctx: Any, given: Any = None) -> Any: ...

    orchestrator.__annotations__ = {"ctx": Any, "return": Any} | fn.__annotations__
    orchestrator.__qualname__ = fn.__name__
    return orchestrator


def test_a_wait_for_what_json_cannot_tell_apart_is_refused_at_that_line(bench: Bench) -> None:
    app = durable.Registry()

    @app.orchestrator
    def flow(ctx: durable.OrchestrationContext) -> str:
        with pytest.raises(TypeError, match=r"'go', type=.* can't be told apart in JSON"):
            ctx.wait_for_external_event("go", type=Line | Basket)
        return "refused"

    bench.serve(app)
    assert bench.run(flow) == "refused"


def test_names_that_do_not_exist_yet_are_no_matter_at_decoration() -> None:
    @durable.Registry().activity
    def act(later: DefinedLater, other: NeverDefined) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert act.signature is not None


class DefinedLater(msgspec.Struct):
    pass


def test_a_wait_for_what_cannot_be_told_apart_fails_at_its_line(client: durable.Client) -> None:
    registry = durable.Registry()

    @registry.orchestrator
    def flow(ctx: OrchestrationContext) -> Generator[Any, Any, str]:
        try:
            yield ctx.wait_for_external_event("go", type=Line | Basket)
        except TypeError as error:
            return str(error)
        return ""

    with durable.Worker(client, registry=registry, shutdown_grace=0):
        said = client.start_orchestration("flow").result(SOON)
    assert said.startswith("wait_for_external_event('go', type=): the types in ")
