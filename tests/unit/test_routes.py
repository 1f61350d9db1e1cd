"""Routes: which templates are right, and which of them a request is for."""

from __future__ import annotations

import pytest

from flashq.model.routes import allowed, find, made, parse
from flashq.request import segments

TARGETS = ("GET /items/{id}", "GET /items/new", "POST /items", "GET /files/{rest:path}", "GET /", "predict")


@pytest.mark.parametrize(
    ("method", "path", "target", "names"),
    [
        ("GET", "/items/7", "GET /items/{id}", {"id": "7"}),
        ("GET", "/items/a%2Fb%20c", "GET /items/{id}", {"id": "a/b c"}),
        ("GET", "/items/new", "GET /items/new", {}),
        ("POST", "/items", "POST /items", {}),
        ("GET", "/files/a/b.txt", "GET /files/{rest:path}", {"rest": "a/b.txt"}),
        ("GET", "/", "GET /", {}),
    ],
)
def test_the_most_literal_route_that_fits(method: str, path: str, target: str, names: dict[str, str]) -> None:
    found = find(TARGETS, method, segments(path))
    assert found is not None
    assert (found[0].target, found[1]) == (target, names)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/items/7"), ("GET", "/items"), ("GET", "/items/"), ("GET", "/items/7/"), ("GET", "/x")],
)
def test_no_route_fits(method: str, path: str) -> None:
    assert find(TARGETS, method, segments(path)) is None


def test_what_a_path_allows() -> None:
    assert allowed(TARGETS, segments("/items")) == ["POST"]
    assert allowed(TARGETS, ("nothing",)) == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("items", "begins with '/'"),
        ("/a//b", "neither a plain segment"),
        ("/a b", "neither a plain segment"),
        ("/a%20b", "neither a plain segment"),
        ("/x-{id}", "neither a plain segment"),
        ("/{rest:path}/x", "comes last"),
        ("/{a}/{a}", "stands twice"),
        ("/" + "x" * 1000, "at most 1000 bytes"),
        (7, "begins with '/'"),
    ],
)
def test_a_wrong_path_is_refused_with_why(path: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made("GET", path)


def test_shapes_tell_which_routes_clash() -> None:
    assert made("GET", "/a/{x}").shape == made("GET", "/a/{y}").shape
    assert made("GET", "/a/{x}").shape != made("GET", "/a/{y:path}").shape
    assert made("GET", "/a/{x}").shape != made("PUT", "/a/{x}").shape
    assert made("GET", "/a/{x}").names == ("x",)
    assert parse("predict") is None
