"""Calls in JSON: what a signature says of them, and the values that executors make of them and write."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import pathlib
import uuid
from collections.abc import Sequence  # noqa: TC003 — read at run time
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict

import pydantic
import pytest

from flashq import codec, signature
from flashq.class_identity import settle
from flashq_worker.executor import outcome
from flashq_worker.executor.outcome import Unserializable
from flashq_worker.executor.targets import Target, Targets


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Box:
    width: int
    label: str = ""
    inner: Box | None = None


class Place(NamedTuple):
    x: float
    y: float = 0.0


class Row(TypedDict, total=False):
    name: str


class Model(pydantic.BaseModel):
    prompt: str
    steps: Annotated[int, pydantic.Field(ge=1)] = 20
    box: Box | None = None


class Opaque:
    pass


def everything(  # type: ignore[no-untyped-def]
    a: int,
    b: float = 1.5,
    *,
    raw: bytes = b"",
    at: datetime.datetime | None = None,
    colour: Colour = Colour.RED,
    box: Optional[Box] = None,  # noqa: UP045 — as older programs write it
    place: Place | None = None,
    row: Row | None = None,
    model: Model | None = None,
    many: list[Box] | None = None,
    pair: tuple[int, str] = (0, ""),
    names: set[str] | None = None,
    sizes: Sequence[int] = (),
    by_day: dict[datetime.date, int] | None = None,
    key: uuid.UUID | None = None,
    path: pathlib.Path | None = None,
    span: datetime.timedelta | None = None,
    mode: Literal["fast", "good"] = "fast",
    unknown: "NotHere" = None,  # type: ignore[name-defined]  # noqa: F821, UP037
    opaque: Opaque | None = None,
    steps: Annotated[int, pydantic.Field(ge=1)] = 1,
    free=None,  # noqa: ANN001
    **rest: float,
) -> dict[str, Any]:
    return {**locals()}


def target_of(function: Any, *, batch: bool = False) -> Target:
    described = signature.describe({"": function}, batch=batch, methods=False, by_value=(), settle=settle)
    return Targets(function, "sync", {}, described.types).of({})


def call(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    target = target_of(function)
    made, named = target.arguments("json", json.dumps({"args": args, "kwargs": kwargs}).encode())
    return target.run(*made, **named)


def schema_of(function: Any, *, batch: bool = False) -> Any:
    described = signature.describe({"": function}, batch=batch, methods=False, by_value=(), settle=settle)
    return json.loads(described.schemas)[""]


GIVEN = [
    ("a", 3.0, 3),
    ("b", 2, 2.0),
    ("raw", "AAH/", b"\0\1\xff"),
    ("raw", "AAH_", b"\0\1\xff"),
    ("at", "2026-01-02T03:04:05Z", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
    ("at", None, None),
    ("colour", "blue", Colour.BLUE),
    ("box", {"width": 2, "inner": {"width": 1}}, Box(2, "", Box(1))),
    ("place", {"x": 1}, Place(1.0)),
    ("row", {"name": "n"}, {"name": "n"}),
    ("model", {"prompt": "p", "box": {"width": 1}}, Model(prompt="p", box=Box(1))),
    ("many", [{"width": 1}], [Box(1)]),
    ("pair", [1, "x"], (1, "x")),
    ("names", ["x", "y", "x"], {"x", "y"}),
    ("sizes", [1, 2], [1, 2]),
    ("by_day", {"2026-01-02": 1}, {datetime.date(2026, 1, 2): 1}),
    ("key", "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    ("path", "/tmp/x", pathlib.Path("/tmp/x")),
    ("span", 1.5, datetime.timedelta(seconds=1.5)),
    ("span", "P1DT2S", datetime.timedelta(days=1, seconds=2)),
    ("mode", "good", "good"),
    ("unknown", {"x": 1}, {"x": 1}),
    ("free", [{"x": 1}], [{"x": 1}]),
]


@pytest.mark.parametrize(
    ("name", "given", "expected"), GIVEN, ids=[f"{name}-{given}" for name, given, _ in GIVEN]
)
def test_a_value_is_made_what_its_annotation_says(name: str, given: Any, expected: Any) -> None:
    values = call(everything, [], {"a": 1, name: given})
    assert values[name] == expected
    assert type(values[name]) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("a", "x", "argument 'a': int expected, not \"x\""),
        ("a", True, "argument 'a': int expected"),
        ("a", 1.5, "argument 'a': int expected"),
        ("raw", "%%%", "argument 'raw': base64 expected"),
        ("at", "yesterday", "argument 'at'"),
        ("colour", "green", "argument 'colour'"),
        ("box", {"height": 1}, "Box has no field 'height'"),
        ("many", [{"width": 1}, {"width": "w"}], "argument 'many'[1].width: int expected"),
        ("model", {"steps": 0}, "argument 'model'"),
        ("pair", [1], "argument 'pair': a list of 2 expected"),
        ("mode", "bad", "argument 'mode': one of 'fast', 'good' expected"),
        ("opaque", {}, "no Opaque can be made of JSON"),
        ("more", "x", "argument 'more': int or float expected"),
    ],
)
def test_a_value_that_is_not_what_its_annotation_says_is_refused_by_name(
    name: str, given: Any, said: str
) -> None:
    with pytest.raises(TypeError) as raised:
        call(everything, [], {"a": 1, name: given})
    assert said in str(raised.value)


def test_parameters_are_given_by_place_and_by_name() -> None:
    def f(raw: bytes, /, other: int = 0, *more: Place) -> Any:
        return raw, other, more

    assert call(f, ["AA==", 2, {"x": 1}], {}) == (b"\0", 2, (Place(1.0),))
    assert call(f, [], {"raw": "AA==", "other": 2}) == (b"\0", 2, ())


def test_each_call_of_a_batch_gives_an_item() -> None:
    def f(boxes: list[Box]) -> Any:
        return boxes

    args, _ = target_of(f, batch=True).arguments("json", b'{"args": [{"width": 1}]}')
    assert args == (Box(1),)
    found = schema_of(f, batch=True)
    assert found["x-batch"]
    assert found["properties"]["boxes"] == {"$ref": "#/$defs/Box"}


def test_the_schema_names_each_parameter() -> None:
    found = schema_of(everything)
    assert found["required"] == ["a"]
    assert found["x-positional"] == ["a", "b"]
    assert found["additionalProperties"] == {"type": "number"}
    properties = found["properties"]
    assert properties["a"] == {"type": "integer"}
    assert properties["b"] == {"type": "number", "default": 1.5}
    assert properties["raw"] == {"type": "string", "contentEncoding": "base64"}
    assert properties["colour"] == {"enum": ["red", "blue"]}
    assert properties["unknown"] == {"default": None}
    assert properties["free"] == {"default": None}
    assert properties["opaque"]["anyOf"][0]["not"] == {}
    assert properties["steps"] == {"type": "integer", "minimum": 1, "default": 1}
    assert found["$defs"]["Box"]["required"] == ["width"]
    assert found["$defs"]["Box"]["properties"]["inner"]["anyOf"][0] == {"$ref": "#/$defs/Box"}
    assert found["$defs"]["Model"]["properties"]["steps"]["minimum"] == 1
    refs = [word for word in json.dumps(found).split('"') if word.startswith("#/")]
    assert {ref.removeprefix("#/$defs/") for ref in refs} <= found["$defs"].keys()


def test_a_record_without_schemas_is_read_and_written_as_ever() -> None:
    before = codec.Revision(b"f", "f", "sync", "3.11", ("numpy",), 1, "env", "{}")
    raw = before.pack()
    assert b"schemas" not in raw
    assert codec.Revision.unpack(raw) == before
    later = dataclasses.replace(before, schemas='{"":{}}', types=b"x")
    assert codec.Revision.unpack(later.pack()) == later


class Array:
    """What has numpy's way to say what it holds."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def tolist(self) -> list[Any]:
        return self.values


RUN = {"job": "j", "fence": 1, "encoding": "json"}


def test_values_are_written_as_json() -> None:
    value = {
        Colour.RED: Colour.BLUE,
        "raw": b"\0\1\xff",
        "at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "span": datetime.timedelta(seconds=1.5),
        "box": Box(1, inner=Box(2)),
        "model": Model(prompt="p"),
        "set": {1},
        "pair": (1, "x"),
        "place": Place(1.0),
        "path": pathlib.Path("/x"),
        uuid.UUID(int=1): Array([[1, 2.5]]),
    }
    written = json.loads(outcome.returned(RUN, 1.0, value).blob)
    assert written == {
        "red": "blue",
        "raw": "AAH/",
        "at": "2026-01-02T00:00:00+00:00",
        "span": 1.5,
        "box": {"width": 1, "label": "", "inner": {"width": 2, "label": "", "inner": None}},
        "model": {"prompt": "p", "steps": 20, "box": None},
        "set": [1],
        "pair": [1, "x"],
        "place": [1.0, 0.0],
        "path": "/x",
        "00000000-0000-0000-0000-000000000001": [[1, 2.5]],
    }


@pytest.mark.parametrize(
    "value", [math.nan, {"x": [math.inf]}, Array([math.nan]), Opaque(), {(1, 2): 3}, "\ud800"]
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(Unserializable):
        outcome._encoded(RUN, value, "the result")
