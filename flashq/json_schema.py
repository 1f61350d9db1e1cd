"""What JSON a value of an annotated type is written as: a JSON Schema (2020-12) of the annotation.

The counterpart of the executor's `from_json`, which makes the values: what one describes the other can make.
Classes of pydantic say it themselves. Knows nothing of functions, and imports no framework.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: No JSON at all is a value of such a type. Its description says which.
_FORMATS: dict[type, dict[str, Any]] = {
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    datetime.timedelta: {"type": "number", "description": "seconds"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    decimal.Decimal: {"anyOf": [{"type": "number"}, {"type": "string"}]},
    complex: {"type": "array", "prefixItems": [{"type": "number"}] * 2, "minItems": 2, "maxItems": 2},
}
_PLAIN: dict[Any, dict[str, Any]] = {
    Any: {},
    object: {},
    None: {"type": "null"},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    set: {"type": "array"},
    frozenset: {"type": "array"},
    dict: {"type": "object"},
}
BYTES = {"type": "string", "contentEncoding": "base64"}
_LISTS = (
    *(list, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence),
    *(collections.abc.Iterable, collections.abc.Collection, collections.abc.Set, collections.abc.MutableSet),
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_ARRAYS = {("numpy", "ndarray"), ("torch", "Tensor")}


class Schemas:
    """Schemas of several annotations that share their definitions."""

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, Any]] = {}
        self._named: dict[type, str] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of an annotation that has been evaluated."""
        if isinstance(kind, typing.TypeVar):
            return self.of(kind.__bound__ or Any)
        if isinstance(kind, typing.NewType):
            return self.of(kind.__supertype__)
        if typing.get_origin(kind) is not None:
            return self._generic(typing.get_origin(kind), typing.get_args(kind), kind)
        try:
            if kind in _PLAIN:
                return dict(_PLAIN[kind])
        except TypeError:  # an annotation may be anything, such as what has no hash
            return {}
        return self._class(kind) if isinstance(kind, type) else self._structured(kind)

    def _class(self, kind: type) -> dict[str, Any]:
        for known, schema in _FORMATS.items():
            if issubclass(kind, known):
                return dict(schema)
        if issubclass(kind, bytes | bytearray):
            return dict(BYTES)
        if issubclass(kind, pathlib.PurePath):
            return {"type": "string", "format": "path"}
        if issubclass(kind, enum.Enum):
            return {"enum": [jsonable(member.value) for member in kind]}
        if (kind.__module__.partition(".")[0], kind.__name__) in _ARRAYS:
            return {"anyOf": [{"type": "array"}, {"type": "number"}, {"type": "boolean"}]}
        if kind.__module__ == "numpy" and hasattr(kind, "tolist"):  # a scalar of it
            return {"type": ["number", "boolean", "string"]}
        if kind in _LISTS or kind in _MAPPINGS:
            return {"type": "object" if kind in _MAPPINGS else "array"}
        return self._structured(kind)

    def _structured(self, kind: Any) -> dict[str, Any]:
        """What has named fields: described once, and referred to."""
        if hasattr(kind, "__pydantic_validator__"):
            return self._of_pydantic(kind)
        fields = _fields(kind)
        if fields is None:
            name = getattr(kind, "__qualname__", repr(kind))
            return {"not": {}, "description": f"no {name} can be given as JSON"}
        if kind not in self._named:
            self._named[kind] = self._free(kind.__name__)
            self.definitions[self._named[kind]] = {}  # a field may be of this very type
            properties = {name: self.of(annotation) for name, (annotation, _) in fields.items()}
            self.definitions[self._named[kind]] = {
                "type": "object",
                "properties": properties,
                "required": [name for name, (_, required) in fields.items() if required],
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{self._named[kind]}"}

    def _free(self, name: str) -> str:
        number, found = 1, name
        while found in self.definitions:
            number += 1
            found = f"{name}-{number}"
        return found

    def _of_pydantic(self, kind: Any) -> dict[str, Any]:
        """Its program has imported pydantic: a class is made by that."""
        if kind in self._named:
            return {"$ref": f"#/$defs/{self._named[kind]}"}
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

        name = self._named[kind] = self._free(kind.__name__)
        self.definitions[name] = {}
        try:
            schema = TypeAdapter(kind).json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        except (
            PydanticInvalidForJsonSchema,
            PydanticSchemaGenerationError,
        ):  # it has fields that JSON can't say: its worker judges
            return {"$ref": f"#/$defs/{name}"}
        inner = schema.pop("$defs", {})
        self.definitions |= {f"{name}.{key}": value for key, value in inner.items()}
        self.definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def _generic(self, origin: Any, args: tuple[Any, ...], kind: Any) -> dict[str, Any]:
        if origin is typing.Annotated:
            return self._annotated(kind, args)
        if origin is typing.Literal:
            return {"enum": [jsonable(value) for value in args]}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(one) for one in args]}
        if origin in (typing.Required, typing.NotRequired, typing.Final, typing.ClassVar):
            return self.of(args[0])
        if origin is tuple:
            return self._tuple(args)
        if origin in _LISTS:
            return {"type": "array", "items": self.of(args[0])}
        if origin in _MAPPINGS:
            return {"type": "object", "additionalProperties": self.of(args[1])}
        return self.of(origin)

    def _annotated(self, kind: Any, args: tuple[Any, ...]) -> dict[str, Any]:
        schema = self.of(args[0])
        if all(
            type(note).__module__.partition(".")[0] not in ("pydantic", "annotated_types")
            for note in args[1:]
        ):
            return schema
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

        try:
            constrained = TypeAdapter(kind).json_schema()
        except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
            return schema
        constrained.pop("$defs", None)
        return schema if "$ref" in str(constrained) else constrained | schema

    def _tuple(self, args: tuple[Any, ...]) -> dict[str, Any]:
        if len(args) == 2 and args[1] is Ellipsis:
            return {"type": "array", "items": self.of(args[0])}
        items = [self.of(one) for one in args if one != ()]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _fields(kind: Any) -> Mapping[str, tuple[Any, bool]] | None:
    """Of a class with named fields: each one's type, and whether it has to be given."""
    if not isinstance(kind, type):
        return None
    named = typing.is_typeddict(kind) or hasattr(kind, "_field_defaults") or dataclasses.is_dataclass(kind)
    if not named:
        return None
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        hints = {}
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return {
            field.name: (
                hints.get(field.name, Any),
                field.default is missing and field.default_factory is missing,
            )
            for field in dataclasses.fields(kind)
            if field.init
        }
    if typing.is_typeddict(kind):
        required: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        return {name: (hints.get(name, Any), name in required) for name in kind.__annotations__}
    names: tuple[str, ...] = getattr(kind, "_fields", ())
    defaults: Mapping[str, Any] = getattr(kind, "_field_defaults", {})
    return {name: (hints.get(name, Any), name not in defaults) for name in names}


def jsonable(value: Any) -> Any:
    """A value that JSON has as it is; of any other, its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value)
