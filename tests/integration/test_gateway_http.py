"""HTTP endpoints and images behind the gateway: what a browser, curl or a client of OpenAI's API asks of them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 - routes are described by their annotations
from typing import Any

import pytest
from pydantic import BaseModel

from flashq import Endpoint
from tests.integration.engine_stand_in import StandIn
from tests.integration.gateway_rig import Gateway, gateway
from tests.integration.test_image_server import IMAGE, SERVER
from tests.rig import Rig, rig, wait_until

pytestmark = pytest.mark.requires("valkey")
api = Endpoint(name="http-shop", cpu="any", max_concurrency=4)


class Item(BaseModel):
    name: str
    price: float = 1.0


@api.post("/items")
async def add(item: Item) -> dict[str, Any]:
    return {"added": item.name, "price": item.price}


@api.get("/items/{number}")
async def find(number: int, tag: list[str] = []) -> dict[str, Any]:  # noqa: B006
    return {"number": number, "tag": tag}


@api.get("/tokens")
async def tokens(to: int = 3) -> AsyncIterator[str]:
    for n in range(to):
        yield f"tök{n} "


@api.get("/rows")
async def rows() -> AsyncIterator[dict[str, int]]:
    for n in range(2):
        yield {"n": n}
    raise KeyError("no more")


@api.get("/slow")
async def slow() -> None:
    import asyncio

    await asyncio.sleep(60)


@api.get("/late")
async def late() -> AsyncIterator[str]:
    import asyncio

    await asyncio.sleep(60)
    yield "late"


@api.post("/sum")
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@api.get("/number")
async def number(value: float) -> float:
    return value


@api.delete("/items/{number}")
async def remove(number: int) -> None:
    raise KeyError(number)


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Gateway]]:
    engine = StandIn(tmp_path_factory.mktemp("engine") / "bin")
    engine.serves(SERVER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", engine.variables["PATH"])
        with rig(lease_s=10.0) as made, gateway(made) as opened:
            made.ready_worker(add)
            yield made, opened
    engine.close()


@pytest.fixture(scope="module")
def shop(theatre: tuple[Rig, Gateway]) -> Gateway:
    return theatre[1]


def test_routes_answer_with_what_their_functions_return(shop: Gateway) -> None:
    assert shop.post("/http-shop/items", {"name": "pen"}).body == {"added": "pen", "price": 1.0}
    found = shop.get("/http-shop/items/7?tag=a&tag=b")
    assert (found.status, found.body) == (200, {"number": 7, "tag": ["a", "b"]})
    assert found.headers["x-flashq-job"].startswith("http-shop-")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/http-shop/items", {"price": 1}, 422, "request.item.name: is missing"),
        ("POST", "/http-shop/items", {"name": "a", "price": "x"}, 422, "request.item.price"),
        ("GET", "/http-shop/items/seven", None, 422, "request.number: must be an integer"),
        ("GET", "/http-shop/items/7?nothing=1", None, 422, "request.nothing: there is no such field"),
        ("POST", "/http-shop/items", b"{", 400, "no JSON"),
        ("POST", "/http-shop/items", b'{"name": NaN}', 400, "NaN is no JSON"),
        ("PUT", "/http-shop/items", {}, 405, "POST alone"),
        ("GET", "/http-shop/nothing", None, 404, "no route /nothing"),
        ("GET", "/nobody/x", None, 404, "no endpoint 'nobody'"),
        ("DELETE", "/http-shop/items/5", None, 500, "KeyError: 5"),
    ],
)
def test_what_is_wrong_is_told(
    shop: Gateway, method: str, path: str, body: Any, status: int, says: str
) -> None:
    found = shop.ask(method, path, body)
    assert (found.status, says in found.body["error"]) == (status, True), found


def test_a_form_is_refused(shop: Gateway) -> None:
    found = shop.ask(
        "POST", "/http-shop/items", b"name=pen", {"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert found.status == 415


def test_what_a_function_yields_comes_as_text_lines_or_events(shop: Gateway) -> None:
    text = shop.get("/http-shop/tokens?to=2")
    assert text.body == "tök0 tök1 "
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.headers["x-content-type-options"] == "nosniff"
    assert shop.get("/http-shop/tokens?to=0").body == ""
    events = shop.get("/http-shop/tokens?to=1", Accept="text/event-stream").body
    assert 'event: chunk\nid: 1-1\ndata: {"output":"tök0 "}' in events
    assert "event: end" in events
    # what fails midway breaks the answer off: its status has been sent
    with pytest.raises(http.client.IncompleteRead) as broken:
        shop.get("/http-shop/rows")
    assert broken.value.partial == b'{"n":0}\n{"n":1}\n'


@pytest.mark.parametrize("path", ["slow", "late"])
def test_a_caller_that_goes_away_cancels_its_job(theatre: tuple[Rig, Gateway], path: str) -> None:
    """Also before the first of what a function yields: nobody waits for that any more."""
    rig_, opened = theatre
    connection = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=10)
    connection.request("GET", f"/http-shop/{path}")
    job = wait_until(lambda: running(rig_), what="the job to run")
    connection.close()
    wait_until(lambda: rig_.job_field(job, "fq_state") == "cancelled", what="the job to be cancelled")


def test_a_number_that_json_has_not_is_refused(shop: Gateway) -> None:
    found = shop.get("/http-shop/number?value=1e999")
    assert (found.status, found.body["field"]) == (422, "input")


@pytest.mark.parametrize(("item", "status"), [(0, 200), ("x", 422)])
def test_a_large_input_keeps_nobody_else_waiting(shop: Gateway, item: object, status: int) -> None:
    """Given one that takes long to be compared with the function's signature, expect others to be answered."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        first = time.monotonic()
        large = pool.submit(shop.post, "/http-shop/sum", [item] * 300_000)
        slowest = 0.0
        while not large.done():
            began = time.monotonic()
            assert shop.get("/healthz").status == 200
            slowest = max(slowest, time.monotonic() - began)
        assert large.result().status == status
        assert slowest < (time.monotonic() - first) / 2


def running(rig_: Rig) -> str:
    """The job that is leased; empty: none is."""
    leased = rig_.broker.execute("ZRANGE", rig_.broker.keys.of("leases", "http-shop"), 0, -1)
    return leased[0].decode() if leased else ""


def test_images_are_asked_as_they_are(theatre: tuple[Rig, Gateway]) -> None:
    rig_, opened = theatre
    llm = Endpoint(name="http-llm", cpu="any", image=IMAGE, env={"PORT": "8000"}, max_concurrency=4)
    rig_.ready_worker(llm.__flashq_function__)
    told = opened.ask(
        "POST", "/http-llm/v1/x%2Fy?a=%C3%BC", b"raw", {"Content-Type": "text/plain", "Authorization": "k"}
    )
    assert (told.body["path"], told.body["said"], told.body["type"]) == (
        "/v1/x%2Fy?a=%C3%BC",
        "raw",
        "text/plain",
    )
    assert opened.get("/http-llm/text").body == "grün"
    assert opened.get("/http-llm/nothing").status == 404
    page = opened.get("/http-llm/text")  # an image's script is no script of the gateway's
    assert "sandbox" in page.headers["content-security-policy"]
    assert "allow-same-origin" not in page.headers["content-security-policy"]
    pieces = opened.get("/http-llm/pieces", Accept="text/event-stream")
    assert (pieces.status, pieces.body) == (200, "piece0piece1piece2")
    streamed = opened.post("/http-llm/v1", {"stream": True})
    assert json.loads(streamed.body["said"]) == {"stream": True}


def test_many_at_once(shop: Gateway) -> None:
    from concurrent.futures import ThreadPoolExecutor

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda n: shop.get(f"/http-shop/items/{n}").body["number"], range(100)))
    assert found == list(range(100))
    assert time.monotonic() - began < 30
