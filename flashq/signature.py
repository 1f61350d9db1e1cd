"""What a call of an endpoint in JSON may say: the parameters of each target, as a JSON Schema and as Python types.

The schema goes into the signed record of a revision for whoever has no Python function: the gateway checks calls by
it. The types go there pickled, each by itself, for executors to make values of: none is needed for a call from Python,
and one that a worker's environment lacks is missed by nobody else.
"""

from __future__ import annotations

import inspect
import json
import typing
from typing import TYPE_CHECKING, Any, NamedTuple

from flashq import codec
from flashq.json_schema import Schemas, jsonable
from flashq.model.http_request import FIELDS_MARK, OF_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_AS_THEY_ARE = (Any, object, str, bool, dict, list, inspect.Parameter.empty)
"""What JSON gives is of these types already."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature(NamedTuple):
    """Of all targets: schemas as JSON, and pickled types; both empty where nothing could be found out."""

    schemas: str
    types: bytes


def describe(
    targets: Mapping[str, Callable[..., Any]],
    *,
    batch: bool,
    methods: bool,
    by_value: Collection[str],
    settle: Callable[[type[Any]], None],
) -> Signature:
    """`targets`: what may be called, by its name there.

    `batch`: each call gives one item of the list it takes. `methods`: an instance comes before what a call gives.
    """
    schemas: dict[str, Any] = {}
    types: dict[str, dict[str, bytes]] = {}
    for name, function in targets.items():
        try:
            signature = inspect.signature(function)
            if methods:
                signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        except (TypeError, ValueError):  # made in C: it says nothing of its parameters
            continue
        hints = _hints(function, signature)
        if batch:
            hints = {name: _item(kind) for name, kind in hints.items()}
        schemas[name] = _schema(signature, hints, batch=batch)
        if getattr(function, FIELDS_MARK, False):
            schemas[name][OF_FIELDS] = True
        found = {
            parameter: codec.dump_type(kind, by_value, settle)
            for parameter, kind in hints.items()
            if not any(kind is plain for plain in _AS_THEY_ARE)
        }
        types[name] = {parameter: raw for parameter, raw in found.items() if raw}
    try:
        text = json.dumps(schemas, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):  # a class of the user's describes itself as no JSON
        return Signature("", codec.dump_types(types))
    return Signature(text, codec.dump_types(types))


def _hints(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """The parameters' annotations, evaluated; Any where one is missing, or names what only type checkers see."""
    target = inspect.unwrap(function)
    scope = {**getattr(target, "__globals__", {})}
    names = getattr(getattr(target, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(target, "__closure__", None) or (), strict=True):
        try:
            scope[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return {name: _evaluated(parameter.annotation, scope) for name, parameter in signature.parameters.items()}


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(holder, scope, include_extras=True)["it"]
    except Exception:  # noqa: BLE001 — an annotation is the user's code, and may name what is not there
        return Any


def _item(kind: Any) -> Any:
    """The type of the items of a list."""
    args = typing.get_args(kind)
    return args[0] if len(args) == 1 or (len(args) == 2 and args[1] is Ellipsis) else Any


def _schema(signature: inspect.Signature, hints: Mapping[str, Any], *, batch: bool) -> dict[str, Any]:
    """An object with a property for each parameter; `x-positional` are those that may be given by place, in order."""
    schemas = Schemas()
    found: dict[str, Any] = {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
        "x-positional": [],
    }
    if batch:
        found["x-batch"] = True
    for name, parameter in signature.parameters.items():
        schema = _of(schemas, hints[name])
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found["additionalProperties"] = schema
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            found["x-further"] = schema
            continue
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            found["x-positional"].append(name)
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            found["x-by-place"] = [*found.get("x-by-place", ()), name]
        if parameter.default is inspect.Parameter.empty:
            found["required"].append(name)
        elif _is_plain(parameter.default):
            schema = {**schema, "default": jsonable(parameter.default)}
        found["properties"][name] = schema
    if schemas.definitions:
        found["$defs"] = schemas.definitions
    return found


def _of(schemas: Schemas, kind: Any) -> dict[str, Any]:
    try:
        return schemas.of(kind)
    except Exception:  # noqa: BLE001 — a class of the user's may raise anything when it is asked what it is
        return {}


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, bool | int | str) and len(str(value)) <= 200)
        or (isinstance(value, float) and value == value and abs(value) != float("inf"))
    )
