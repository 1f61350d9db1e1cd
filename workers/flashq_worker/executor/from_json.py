"""What calls in JSON say, made into what a function's annotations ask for.

Imports no framework: what an annotation needs has been imported by whoever wrote it, and classes of pydantic make
themselves. The counterpart of `flashq.json_schema`. Imported with the first call in JSON.
"""

from __future__ import annotations

import base64
import binascii
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import pathlib
import pickle
import re
import sys
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ALONE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
_LISTS: dict[Any, Callable[[Any], Any]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    set: set,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    frozenset: frozenset,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Parameters:
    """Of one target: what makes its arguments out of JSON. `raw`: its parameters' types, each pickled."""

    def __init__(self, function: Callable[..., Any], raw: Mapping[str, bytes]) -> None:
        self._raw = raw
        self._kinds: dict[str, Any] = {}
        try:
            self._parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # made in C
            self._parameters = []

    def make(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments to call with. Raises TypeError naming the one that is not what its annotation says."""
        by_place = [p for p in self._parameters if p.kind in _ALONE[:2]]
        further = next((p.name for p in self._parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "")
        rest = next((p.name for p in self._parameters if p.kind is inspect.Parameter.VAR_KEYWORD), "")
        known = {p.name for p in self._parameters if p.kind in _ALONE}
        names = [p.name for p in by_place] + [further] * max(0, len(args) - len(by_place))
        made = [self._one(name, value) for name, value in zip(names, args, strict=False)]
        made += args[len(made) :]
        named = {
            name: self._one(name, value, name if name in known else rest) for name, value in kwargs.items()
        }
        for parameter in by_place[len(args) :]:  # what may only be given by place may be named in JSON
            if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY or parameter.name not in named:
                break
            made.append(named.pop(parameter.name))
        return tuple(made), named

    def _one(self, name: str, value: Any, parameter: str | None = None) -> Any:
        parameter = name if parameter is None else parameter
        if parameter not in self._raw:
            return value
        if parameter not in self._kinds:
            try:
                self._kinds[parameter] = pickle.loads(self._raw[parameter])
            except Exception as error:
                raise TypeError(
                    f"argument {name!r}: its type cannot be had here: {type(error).__name__}: {error}"
                ) from error
        return made_of(value, self._kinds[parameter], f"argument {name!r}")


def made_of(value: Any, kind: Any, where: str) -> Any:
    """`value`, out of JSON, as what the annotation `kind` says. Raises TypeError that begins with `where`."""
    origin = typing.get_origin(kind)
    if origin is not None:
        return _generic(value, origin, typing.get_args(kind), where)
    if isinstance(kind, typing.TypeVar):
        return value if kind.__bound__ is None else made_of(value, kind.__bound__, where)
    if isinstance(kind, typing.NewType):
        return made_of(value, kind.__supertype__, where)
    if kind is None or kind is type(None):
        return _of(value, type(None), where)
    if kind is Any or kind is object or not isinstance(kind, type):
        return value
    return _class(value, kind, where)


def _class(value: Any, kind: type, where: str) -> Any:
    if hasattr(kind, "__pydantic_validator__"):
        return _try(lambda text: kind.__pydantic_validator__.validate_json(text), json.dumps(value), where)
    if issubclass(kind, enum.Enum):
        return _try(kind, value, where)
    if kind in _PLAIN:
        return _PLAIN[kind](value, kind, where)
    for known, make in _MAKERS:
        if issubclass(kind, known):
            return make(value, kind, where)
    if kind.__module__.partition(".")[0] in ("numpy", "torch"):
        return _numeric(value, kind, where)
    return _structured(value, kind, where)


def _structured(value: Any, kind: type, where: str) -> Any:
    """Of a class with named fields."""
    if typing.is_typeddict(kind):
        return _fields(value, kind, where)
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_field_defaults"):
        given = _fields(value, kind, where)
        return _try(lambda fields: kind(**fields), given, where)
    raise TypeError(f"{where}: no {kind.__qualname__} can be made of JSON")


def _generic(value: Any, origin: Any, args: tuple[Any, ...], where: str) -> Any:
    if origin in (typing.Annotated, typing.Required, typing.NotRequired, typing.Final):
        return made_of(value, args[0], where)
    if origin is typing.Literal:
        if not any(value == one and type(value) is type(one) for one in args):
            raise TypeError(f"{where}: one of {', '.join(map(repr, args))} expected, not {_shown(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(value, args, where)
    if origin is tuple:
        return _tuple(_of(value, list, where), args, where)
    if origin in _LISTS:
        items = [made_of(item, args[0], f"{where}[{i}]") for i, item in enumerate(_of(value, list, where))]
        return _try(_LISTS[origin], items, where)
    if origin in _MAPPINGS:
        return {
            _key(key, args[0], where): made_of(item, args[1], f"{where}[{key!r}]")
            for key, item in _of(value, dict, where).items()
        }
    if getattr(origin, "__name__", "") == "ndarray" and len(args) == 2:
        return _array(value, origin, typing.get_args(args[1]), where)
    return made_of(value, origin, where)


def _array(value: Any, kind: type, of: tuple[Any, ...], where: str) -> Any:
    """An array of numpy's whose numbers are to be of a kind of its own."""
    module = sys.modules[kind.__module__.partition(".")[0]]
    if not of or not isinstance(of[0], type):
        return _try(module.asarray, value, where)
    return _try(lambda given: module.asarray(given, dtype=of[0]), value, where)


def _union(value: Any, members: tuple[Any, ...], where: str) -> Any:
    """As its first member that it is already, else as the first that it can be made."""
    for member in members:
        if isinstance(member, type) and type(value) is member:
            return value
    if value is None and any(member in (None, type(None)) for member in members):
        return None
    failures = []
    for member in members:
        try:
            return made_of(value, member, where)
        except TypeError as error:
            failures.append(str(error).removeprefix(f"{where}: "))
    raise TypeError(f"{where}: {'; or '.join(failures)}")


def _tuple(value: list[Any], args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise TypeError(f"{where}: a list of {len(args)} expected, not of {len(value)}")
    return tuple(
        made_of(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, args, strict=True))
    )


def _key(key: str, kind: Any, where: str) -> Any:
    """JSON's keys are strings."""
    if kind in (int, float):
        return _try(kind, key, where)
    return made_of(key, kind, f"a key of {where}")


def _fields(value: Any, kind: Any, where: str) -> dict[str, Any]:
    given = _of(value, dict, where)
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are user code, and may name what is not there
        hints = {}
    names = (
        {field.name for field in dataclasses.fields(kind) if field.init}
        if dataclasses.is_dataclass(kind)
        else set(getattr(kind, "_fields", None) or kind.__annotations__)
    )
    if unknown := sorted(given.keys() - names):
        raise TypeError(f"{where}: {kind.__name__} has no field {unknown[0]!r}")
    required: frozenset[str] = (
        getattr(kind, "__required_keys__", frozenset()) if typing.is_typeddict(kind) else frozenset()
    )
    if missing := sorted(required - given.keys()):
        raise TypeError(f"{where}: field {missing[0]!r} is missing")
    return {name: made_of(item, hints.get(name, Any), f"{where}.{name}") for name, item in given.items()}


def _of(value: Any, kinds: type | tuple[type, ...], where: str) -> Any:
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, wanted) and not (isinstance(value, bool) and bool not in wanted):
        return value
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in wanted)
    raise TypeError(f"{where}: {names} expected, not {_shown(value)}")


def _try(make: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return make(value)
    except Exception as error:
        raise TypeError(f"{where}: {error}") from error


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _numeric(value: Any, kind: type, where: str) -> Any:
    """An array, a tensor or a scalar of theirs; their module has been imported by whoever had this class."""
    module = sys.modules[kind.__module__.partition(".")[0]]
    if kind.__name__ == "ndarray":
        return _try(module.asarray, value, where)
    if kind.__name__ == "Tensor":
        return _try(module.tensor, value, where)
    if hasattr(kind, "tolist"):
        return _try(kind, value, where)
    raise TypeError(f"{where}: no {kind.__qualname__} can be made of JSON")


def _bytes(value: Any, kind: type, where: str) -> Any:
    text = _of(value, str, where).replace("-", "+").replace("_", "/")
    try:
        return kind(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
    except (binascii.Error, ValueError) as error:
        raise TypeError(f"{where}: base64 expected: {error}") from None


def _parsed(value: Any, kind: Any, where: str) -> Any:
    return _try(kind.fromisoformat, _of(value, str, where), where)


_DURATION = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>[\d.]+)S)?)?"
)


def _duration(value: Any, kind: Any, where: str) -> Any:
    """Seconds, or "P1DT2H3M4.5S"."""
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        return _try(
            lambda parts: kind(**parts), {k: float(v) for k, v in found.groupdict().items() if v}, where
        )
    return _try(lambda seconds: kind(seconds=seconds), _of(value, (int, float), where), where)


def _complex(value: Any, kind: Any, where: str) -> Any:
    return _try(lambda parts: kind(*parts), _of(value, list, where), where)


def _text(value: Any, kind: Any, where: str) -> Any:
    return _try(kind, _of(value, str, where), where)


def _decimal(value: Any, kind: Any, where: str) -> Any:
    try:
        return kind(str(_of(value, (int, float, str), where)))
    except decimal.InvalidOperation:
        raise TypeError(f"{where}: a number expected, not {_shown(value)}") from None


def _int(value: Any, kind: Any, where: str) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else _of(value, kind, where)


def _float(value: Any, kind: Any, where: str) -> Any:
    return float(_of(value, (int, float), where))


def _list(value: Any, kind: Any, where: str) -> Any:
    return _try(_LISTS.get(kind, tuple), _of(value, list, where), where)


def _mapping(value: Any, kind: Any, where: str) -> Any:
    return _of(value, dict, where)


_PLAIN: dict[Any, Callable[[Any, Any, str], Any]] = {
    int: _int,
    float: _float,
    str: _of,
    bool: _of,
    tuple: _list,
    **dict.fromkeys(_LISTS, _list),
    **dict.fromkeys(_MAPPINGS, _mapping),
}
_MAKERS: tuple[tuple[type | tuple[type, ...], Callable[[Any, Any, str], Any]], ...] = (
    ((bytes, bytearray), _bytes),
    ((datetime.datetime, datetime.date, datetime.time), _parsed),
    (datetime.timedelta, _duration),
    ((uuid.UUID, pathlib.PurePath), _text),
    (decimal.Decimal, _decimal),
    (complex, _complex),
)
