"""What a function returns or yields, as JSON: for calls that came in JSON.

Imports no framework: values of numpy, torch and pydantic say themselves what they are. Imported where a value is
more than JSON's own kinds.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from typing import Any


def encode(value: Any) -> str:
    """Its JSON. Raises TypeError, ValueError (NaN and infinities are none), RecursionError."""
    return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """The same of JSON's own kinds."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _plain(_one(value))


def _one(value: Any) -> Any:
    """What a value of another kind is written as."""
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | pathlib.PurePath | decimal.Decimal):
        return str(value)
    if isinstance(value, complex):
        return [value.real, value.imag]
    if hasattr(type(value), "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(type(value), "tolist"):  # arrays, tensors and scalars of numpy and its like
        return value.tolist()
    raise TypeError(f"an object of type {type(value).__qualname__} is no JSON")


def _key(key: Any) -> Any:
    if isinstance(key, enum.Enum):
        key = key.value
    if key is None or isinstance(key, bool | int | float | str):
        return key
    if isinstance(key, list | tuple | dict | set | frozenset):
        raise TypeError(f"a {type(key).__qualname__} is no key of a JSON object")
    plain = _one(key)
    if not isinstance(plain, bool | int | float | str):
        raise TypeError(f"a {type(key).__qualname__} is no key of a JSON object")
    return plain
