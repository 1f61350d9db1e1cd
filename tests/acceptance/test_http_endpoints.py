"""HTTP endpoints from Python: several routes on the same workers, requests that mean what they mean over HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator  # noqa: TC003 - routes are described by their annotations
from datetime import date  # noqa: TC003
from typing import Any

import pytest
from pydantic import BaseModel

from flashq import Endpoint
from flashq.errors import EndpointExists, RemoteError, SerializationError, SpecError, UnsupportedCall
from tests.acceptance.stage import Stage, stage

pytestmark = pytest.mark.requires("valkey")

api = Endpoint(name="shop", cpu="any", workers=(0, 1))


class Item(BaseModel):
    name: str
    price: float = 1.0


@api.post("/items")
async def add(item: Item) -> dict[str, Any]:
    return {"added": item.name, "price": item.price, "kind": type(item).__name__, "pid": os.getpid()}


@api.get("/items/{id}")
def find(id: int, since: date | None = None, tag: list[str] = []) -> dict[str, Any]:  # noqa: A002, B006
    return {"id": id, "since": since, "kind": type(since).__name__, "tag": tag, "pid": os.getpid()}


@api.get("/items/new")
def newest() -> str:
    return "the newest"


@api.get("/count/{to}")
def count(to: int) -> Iterator[int]:
    yield from range(to)


@api.delete("/items/{id}")
def remove(id: int) -> None:  # noqa: A002
    raise KeyError(id)


def plain() -> None: ...


@pytest.fixture(scope="module", autouse=True)
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


def test_routes_share_their_workers_and_take_path_query_and_body() -> None:
    async def ask() -> tuple[Any, Any, Any]:
        return await asyncio.gather(
            api.post("/items", {"name": "pen"}),
            api.get("/items/7", params={"since": "2026-01-02", "tag": ["a", "b"]}),
            api.get("/items/new"),
        )

    added, found, newest_ = asyncio.run(ask())
    assert (added["added"], added["price"], added["kind"]) == ("pen", 1.0, "Item")
    assert found["id"] == 7
    assert (found["since"], found["kind"], found["tag"]) == ("2026-01-02", "date", ["a", "b"])
    assert newest_ == "the newest"
    assert added["pid"] == found["pid"]


def test_from_blocking_code_and_as_the_function_that_it_is() -> None:
    assert api.get("/items/7?tag=x").result(30)["tag"] == ["x"]
    assert add.remote(Item(name="ink"))["added"] == "ink"
    assert find.local(3)["id"] == 3
    assert list(api.get("/count/3").stream()) == [0, 1, 2]
    assert api.get("/items/new").spawn().result(30) == "the newest"


def test_deployed_endpoints_are_asked_by_name() -> None:
    add.remote(Item(name="ink"))
    shop = Endpoint(id="shop")
    assert shop.post("/items", {"name": "pad", "price": 2}).result(30)["price"] == 2.0
    with pytest.raises(
        UnsupportedCall, match=r"no route GET /nothing: it has POST /items, GET /items/\{id\}"
    ):
        shop.get("/nothing").result(30)
    with pytest.raises(UnsupportedCall, match="takes no more routes"):
        shop.get("/more")(plain)


def test_what_goes_wrong_is_told() -> None:
    with pytest.raises(RemoteError, match="KeyError: 5"):
        api.delete("/items/5").result(30)
    with pytest.raises(RemoteError, match="argument 'item'"):
        api.post("/items", {"price": 1}).result(30)
    with pytest.raises(UnsupportedCall, match="no route PUT /items"):
        api.put("/items", {}).result(30)
    with pytest.raises(SerializationError, match="cannot be written as JSON"):
        api.post("/items", {"name": object()}).result(30)
    with pytest.raises(UnsupportedCall, match="a route's function sees none"):
        api.get("/items/7", headers={"x": "y"}).result(30)


def test_routes_that_cannot_be() -> None:
    with pytest.raises(EndpointExists, match=r"GET /items/\{name\} is find already, as GET /items/\{id\}"):

        @api.get("/items/{name}")
        def other(name: str) -> None: ...

    with pytest.raises(SpecError, match="has no parameter 'key'"):

        @api.get("/keys/{key}")
        def keyless() -> None: ...

    with pytest.raises(SpecError, match="begins with '/'"):
        api.get("items")(plain)
    with pytest.raises(SpecError, match="a route is a path alone"):
        api.post("/x", {})(plain)
    with pytest.raises(SpecError, match="has routes"):
        api(plain)
    with pytest.raises(SpecError, match="an endpoint with routes needs one"):
        Endpoint(cpu="any").get("/x")(plain)
    with pytest.raises(SpecError, match="gathers calls of one function"):
        Endpoint(name="shop-batch", cpu="any", batch=(2, 10)).get("/x")(plain)
    with pytest.raises(SpecError, match="to be `async def`"):
        Endpoint(name="shop-wide", cpu="any", max_concurrency=2).get("/x")(plain)
    with pytest.raises(UnsupportedCall, match="answers no requests"):
        Endpoint(name="shop-empty", cpu="any").get("/x").result(1)
