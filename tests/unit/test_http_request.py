"""Requests as arguments: from the path, the query and the body, by the function's own signature."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import BaseModel

from flashq.model.http_request import FIELDS_MARK, NO_BODY, arguments, split
from flashq.model.routes import made
from flashq.signature import describe

if TYPE_CHECKING:
    from collections.abc import Callable


class Item(BaseModel):
    name: str
    price: float = 1.0


def one(item: Item) -> None: ...
def two(item: Item, more: list[int]) -> None: ...
def plain(text: str, times: int = 1) -> None: ...
def mixed(id: int, item: Item, verbose: bool = False) -> None: ...  # noqa: A002
def listed(tag: list[int], ratio: float = 0.5, only: Literal["a", "b"] = "a") -> None: ...
def anything(data) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def open_ended(**values: int) -> None: ...
def maybe(limit: int | None = None) -> None: ...


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    made = describe({"": function}, batch=False, methods=False, by_value=(), settle=lambda cls: None)
    found: dict[str, Any] = json.loads(made.schemas)[""]
    return found


@pytest.mark.parametrize(
    ("function", "method", "path", "query", "body", "expected"),
    [
        (one, "POST", {}, [], {"name": "a"}, {"item": {"name": "a"}}),
        (two, "POST", {}, [], {"item": {"name": "a"}, "more": [1]}, {"item": {"name": "a"}, "more": [1]}),
        (plain, "POST", {}, [], {"text": "a", "times": 2}, {"text": "a", "times": 2}),
        (plain, "POST", {}, [("times", "3")], {"text": "a"}, {"text": "a", "times": 3}),
        (plain, "GET", {}, [("text", "7"), ("times", "3")], NO_BODY, {"text": "7", "times": 3}),
        (
            mixed,
            "PUT",
            {"id": "7"},
            [("verbose", "true")],
            {"name": "a"},
            {"id": 7, "item": {"name": "a"}, "verbose": True},
        ),
        (
            listed,
            "GET",
            {},
            [("tag", "1"), ("tag", "2"), ("ratio", "1e3")],
            NO_BODY,
            {"tag": [1, 2], "ratio": 1000.0},
        ),
        (listed, "GET", {}, [("only", "b"), ("ratio", "nan")], NO_BODY, {"only": "b", "ratio": "nan"}),
        (anything, "POST", {}, [], [1, 2], {"data": [1, 2]}),
        (open_ended, "GET", {}, [("a", "1")], NO_BODY, {"a": "1"}),
        (maybe, "GET", {}, [("limit", "null")], NO_BODY, {"limit": None}),
        # what is wrong stays to be refused by name
        (mixed, "PUT", {"id": "x"}, [], {}, {"id": "x", "item": {}}),
        (plain, "GET", {}, [("other", "1")], NO_BODY, {"other": "1"}),
        (plain, "POST", {}, [("utm_source", "1")], {"text": "a"}, {"text": "a"}),
        (plain, "POST", {}, [], 7, {"body": 7}),
    ],
)
def test_arguments(
    function: Callable[..., Any],
    method: str,
    path: dict[str, str],
    query: list[tuple[str, str]],
    body: Any,
    expected: dict[str, Any],
) -> None:
    route = made(method, "/x" + "".join(f"/{{{name}}}" for name in path))
    assert arguments(route, schema_of(function), path, query, body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"item": {"name": "a"}}, {"item": {"name": "a"}}),
        ({"name": "a"}, {"item": {"name": "a"}}),
        ([1], {"item": [1]}),
    ],
)
def test_bodies_of_flashs_routes_have_parameters_as_their_fields(body: Any, expected: dict[str, Any]) -> None:
    # Given a function of which a program for Flash made a route, with one parameter that could be the whole body
    def greet(item: Item) -> None: ...

    vars(greet)[FIELDS_MARK] = True
    schema = schema_of(greet)

    # Expect its name to be a field of the body; a body that has other fields, to be it
    assert arguments(made("POST", "/x"), schema, {}, [], body) == expected
    assert split(made("POST", "/x"), schema) == (["item"], [])
