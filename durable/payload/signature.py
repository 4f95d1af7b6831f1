"""What a function takes and gives, and how its arguments become one JSON input and come back.

Laws (API, "One input").
1. No argument is null, one argument is itself, several are their list.
2. A function of at most one parameter takes the input whole. One of two or more parameters, or with `*args`, takes
   a list spread over them and any other input as its first argument; a call by function always sends it a list.
3. What a missing argument means is the receiver's to say: its defaults fill in, and null as the whole input is
   a missing one where the first parameter has a default.
4. Hints are resolved when they are first needed, so they may name classes defined further down. The hint of the
   context is never looked at: it is often imported for type checkers only.
5. Unions that JSON can't tell apart are refused at decoration, where their names exist by then.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

from durable.model.errors import PayloadError
from durable.model.history import Raw
from durable.model.limits import Limits

from .values import NULL, canonical, decode, encode, refuse_ambiguous, same

_EMPTY: Final = inspect.Parameter.empty
_CONTEXTS: Final = frozenset({"ctx", "context"})  # what people call it
_items: Final = msgspec.json.Decoder(list[Raw])

# Which argument of a generic return annotation is the result; the others of its kind have none.
_GENERATORS: Final = {collections.abc.Generator: 2}
_AWAITABLES: Final = {collections.abc.Coroutine: 2, collections.abc.Awaitable: 0}


def encode_plain_input(args: tuple[Any, ...], where: str, limits: Limits) -> Raw:
    """The one input of a call by name, which knows no signature. Raises `PayloadError`."""
    if len(args) > 1:
        return encode(list(args), where, limits)
    return encode(args[0], where, limits) if args else NULL


class Signature:
    """The input side and the result type of one function. Made by `Signature.of`.

    name: the function's. display: `charge(order: Order, amount: Decimal)`, without the context. spreads: whether a list
    as input is spread over the parameters.
    """

    def __init__(self, fn: Callable[..., Any], name: str, parameters: list[inspect.Parameter], result: Any) -> None:
        self.fn = fn
        self.name = name
        self.parameters = tuple(p for p in parameters if p.kind is not p.VAR_POSITIONAL)
        self.rest = next((p for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self.display = f"{name}({', '.join(map(_shown, parameters))})"
        self.spreads = self.rest is not None or len(self.parameters) > 1
        self.is_bare = self.rest is None and not self.parameters
        self._required = sum(p.default is _EMPTY for p in self.parameters)
        self._result = result

    @classmethod
    def of(cls, fn: Callable[..., Any], leading: int) -> Signature:
        """The signature of `fn` without its first `leading` parameters, which are filled in by the engine.

        Raises TypeError for keyword-only parameters, for `**kwargs`, where there are fewer than `leading`, and for
        unions of types that JSON can't tell apart.
        """
        name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
        name = name.rpartition("<locals>.")[2]
        try:
            signature = _signature(fn)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: its parameters can't be read ({error}); wrap it in a function") from error
        parameters = list(signature.parameters.values())
        for p in parameters:
            if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD):
                shown = f"**{p.name}" if p.kind is p.VAR_KEYWORD else p.name
                what = "takes any keywords" if p.kind is p.VAR_KEYWORD else "is keyword-only"
                raise TypeError(f"{name}: parameter '{shown}' {what}, but arguments are positional; make it positional")
        filled = [p for p in parameters[:leading] if p.kind is not p.VAR_POSITIONAL]
        if len(filled) < leading and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise TypeError(f"{name}: takes {len(parameters)} parameters; the first must be the context")
        made = cls(fn, name, parameters[len(filled) :], signature.return_annotation)
        made._refuse_ambiguous(parameters[len(filled) :])
        return made

    def encode_input(self, args: tuple[Any, ...], where: str, limits: Limits) -> Raw:
        """The one input of a call by function with `args`.

        Raises TypeError for too few or too many arguments, `PayloadError` for what can't be encoded, by its argument.
        """
        if len(args) < self._required:
            missing = ", ".join(repr(p.name) for p in self.parameters[len(args) : self._required])
            first = self.parameters[0]
            unfilled = (
                ""
                if first.name not in _CONTEXTS or first.annotation is not _EMPTY
                else (f"; to have {first.name!r} filled in, annotate it: {first.name}: durable.ActivityContext")
            )
            raise TypeError(f"{where}: {self.display} is called without {missing}{unfilled}")
        if len(args) > len(self.parameters) and self.rest is None:
            raise TypeError(f"{where}: {self.display} takes {self._counts()}, but {len(args)} were given")
        try:
            return encode(list(args), where, limits) if self.spreads else encode_plain_input(args, where, limits)
        except PayloadError as error:
            refused = error
        for index, arg in enumerate(args):
            encode(arg, f"{self._argument(index)} of {self.display}", limits)
        raise refused  # each of them would do, but not all together

    def decode_input(self, raw: Raw, where: str) -> tuple[Any, ...]:
        """The positional arguments for an input, decoded by their hints, defaults filled in.

        A function without parameters takes none, whatever the input. Raises `PayloadError` for what does not fit.
        """
        if self.is_bare:
            return ()
        if self._required == 0 and _is_null(raw):
            return self._filled(())
        if not self.spreads:
            return (decode(raw, self._hints(1)[0], f"{where}, {self._argument(0)}"),)
        count = _count(raw)
        if count is None:
            decode(raw, Any, where)  # what is no JSON at all is told first
            self._check_count(1, where)
            return self._filled((decode(raw, self._hints(1)[0], f"{where}, {self._argument(0)}"),))
        self._check_count(count, where)
        hints = self._hints(count)
        try:
            # A type that is made at run time, which checkers can't know.
            return self._filled(decode(raw, tuple[hints], where) if hints else ())  # type: ignore[valid-type]
        except PayloadError as error:
            refused = error
        for index, item in enumerate(_items.decode(raw)):
            decode(item, hints[index], f"{where}, {self._argument(index)}")
        raise refused

    def input_same(self, recorded: Raw, now: Raw) -> bool:
        """Whether two inputs mean the same to this function; never raises for what they hold."""
        if recorded == now:
            return True
        # Without parameters the input is not idle: `ctx.get_input()` gives it, as plain JSON.
        if not self.is_bare:
            try:
                return canonical(self.decode_input(recorded, "")) == canonical(self.decode_input(now, ""))
            except PayloadError:
                pass
        return same(recorded, now, Any)

    @functools.cached_property
    def result_hint(self) -> Any:
        """The type of the result: what a generator returns, what a coroutine gives; Any where it is not annotated.

        Raises TypeError for a hint that can't be resolved.
        """
        if self._result is _EMPTY:
            return Any
        return self._given_back(self._resolve(self._result, "the return annotation"))

    def _given_back(self, hint: Any) -> Any:
        """Of a return annotation, what the caller gets: what the generator returns, the coroutine gives."""
        origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
        if origin in _GENERATORS:
            # Python 3.13 lets the last two be left out; they are None then.
            return Any if not args else args[2] if len(args) == 3 else type(None)
        if inspect.isgeneratorfunction(inspect.unwrap(self.fn)):
            return Any
        if origin in _AWAITABLES and not inspect.iscoroutinefunction(inspect.unwrap(self.fn)):
            return args[_AWAITABLES[origin]] if args else Any
        return Any if hint in (typing.NoReturn, getattr(typing, "Never", None)) else hint

    def _refuse_ambiguous(self, parameters: list[inspect.Parameter]) -> None:
        """Nothing is kept of what is found here: names may stand for other classes once the module is complete."""
        for what, annotation in (
            *((f"parameter {p.name!r}", p.annotation) for p in parameters),
            ("the return annotation", self._result),
        ):
            try:
                hint = Any if annotation is _EMPTY else self._resolve(annotation, what)
            except TypeError:  # not yet
                continue
            if what == "the return annotation":
                hint = self._given_back(hint)
            refuse_ambiguous(hint, f"{self.name}, {what}")

    def __repr__(self) -> str:
        return f"<Signature {self.display}>"

    def _argument(self, index: int) -> str:
        if index < len(self.parameters):
            return f"argument {self.parameters[index].name!r}"
        return f"argument {index + 1}{f' (of *{self.rest.name})' if self.rest else ''}"

    def _filled(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return values + tuple(p.default for p in self.parameters[len(values) :])

    def _check_count(self, count: int, where: str) -> None:
        if count < self._required or (count > len(self.parameters) and self.rest is None):
            raise PayloadError(
                f"{where}: $ gives {count} of the arguments of {self.display}, which takes {self._counts()}"
            )

    def _counts(self) -> str:
        low, high = self._required, len(self.parameters)
        counts = f"{low} or more" if self.rest else f"{low}" if low == high else f"{low} to {high}"
        return f"{counts} argument{'' if counts == '1' else 's'}"

    def _hints(self, count: int) -> tuple[Any, ...]:
        """The hints of the first `count` arguments."""
        fixed, rest = self._parameter_hints
        return fixed[:count] + (rest,) * (count - len(fixed))

    @functools.cached_property
    def _parameter_hints(self) -> tuple[tuple[Any, ...], Any]:
        return tuple(map(self._hint, self.parameters)), Any if self.rest is None else self._hint(self.rest)

    def _hint(self, parameter: inspect.Parameter) -> Any:
        if parameter.annotation is _EMPTY:
            return Any
        hint = self._resolve(parameter.annotation, f"parameter '{parameter.name}'")
        return typing.Optional[hint] if parameter.default is None else hint  # noqa: UP045 - the hint may be no type

    def _resolve(self, annotation: Any, what: str) -> Any:
        function = _function(self.fn)
        holder = types.SimpleNamespace(
            __annotations__={"hint": annotation}, __type_params__=getattr(function, "__type_params__", ())
        )
        try:
            names = getattr(function, "__globals__", {})
            return typing.get_type_hints(typing.cast(Any, holder), names, include_extras=True)["hint"]
        except Exception as error:  # NameError mostly; whatever the text evaluates to may raise
            raise TypeError(
                f"{self.name}: the type hint {_annotation_text(annotation)!r} of {what} can't be resolved ({error}); "
                "its names must exist in the function's module when it runs, not only under TYPE_CHECKING"
            ) from error


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):  # where reading annotations evaluates them
        import annotationlib

        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def _function(fn: Any) -> Any:
    """The function whose module gives the names in the hints of `fn`: behind wrappers, partials and `__call__`."""
    fn = inspect.unwrap(fn)
    while isinstance(fn, functools.partial):
        fn = inspect.unwrap(fn.func)
    if inspect.isroutine(fn):
        return getattr(fn, "__func__", fn)
    return type(fn).__call__


def _is_null(raw: Raw) -> bool:
    return raw == NULL or not raw or bytes(memoryview(raw)[:64]).strip() == b"null"


def _count(raw: Raw) -> int | None:
    """The number of items of a JSON array, None for other JSON (and for what is none: `decode` tells it)."""
    try:
        return len(_items.decode(raw or NULL))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _shown(parameter: inspect.Parameter) -> str:
    star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    hint = "" if parameter.annotation is _EMPTY else f": {_annotation_text(parameter.annotation)}"
    if parameter.default is _EMPTY:
        return f"{star}{parameter.name}{hint}"
    # Other defaults can be long, secret or hostile.
    default = repr(parameter.default) if type(parameter.default) in (type(None), bool, int, float) else "..."
    return f"{parameter.name}{hint} = {default}" if hint else f"{parameter.name}={default}"


def _annotation_text(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return inspect.formatannotation(annotation).replace("typing.", "")
