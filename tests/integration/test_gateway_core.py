"""What the gateway rests on: one connection for all that wait, brokers that go and come, every kind of endpoint."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

from flashq import Endpoint
from tests.integration.gateway_rig import Gateway
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey")]


class Order(pydantic.BaseModel):
    item: str
    count: int = 1
    due: datetime.date | None = None


@dataclasses.dataclass
class Bill:
    order: Order
    raw: bytes
    at: datetime.datetime


@Endpoint(name="gc-bill", cpu="any")
async def bill(order: Order, raw: bytes, at: datetime.datetime) -> Bill:
    assert isinstance(order, Order)
    return Bill(order, raw + b"!", at + datetime.timedelta(days=1))


@Endpoint(name="gc-lengths", cpu="any", batch=(4, 20))
def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


@Endpoint(name="gc-counter", cpu="any")
class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def upto(self, to: int) -> Iterator[int]:
        yield from range(to)


@Endpoint(name="gc-gate", cpu="any")
def gate(folder: str) -> str:
    while not Path(folder, "open").exists():
        time.sleep(0.01)
    return "open"


@Endpoint(name="gc-nobody", cpu="any")
def nobody(number: int) -> int:
    return number


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig(appendonly="always")
    for endpoint in (bill, lengths, gate):
        made.worker(endpoint)
    made.worker(Counter(10).add)  # type: ignore[arg-type]  # see pyproject.toml: class decorators
    made.register(nobody)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(rig: Rig) -> Iterator[Gateway]:
    made = Gateway(rig)
    yield made
    made.close()


def test_what_a_program_annotates_is_what_it_gets(gateway: Gateway) -> None:
    given = {
        "order": {"item": "owl", "due": "2026-01-02"},
        "raw": "aGk=",
        "at": "2026-01-02T03:04:05+00:00",
    }
    said = gateway.post("/v2/gc-bill/runsync", {"input": given}).body
    assert said["output"] == {
        "order": {"item": "owl", "count": 1, "due": "2026-01-02"},
        "raw": "aGkh",
        "at": "2026-01-03T03:04:05+00:00",
    }
    reply = gateway.post("/v2/gc-bill/run", {"input": {**given, "order": {"count": "x"}}})
    assert (reply.status, reply.body["field"].rpartition(".")[0]) == (422, "input.order")


def test_items_of_a_batch(gateway: Gateway) -> None:
    with ThreadPoolExecutor(4) as threads:
        texts = ["a", "bb", "ccc", "dddd"]
        replies = threads.map(lambda text: gateway.post("/v2/gc-lengths/runsync", {"input": text}), texts)
        assert [reply.body["output"] for reply in replies] == [1, 2, 3, 4]
    assert gateway.post("/v2/gc-lengths/run", {"input": 5}).body["field"] == "input"


def test_methods_of_a_class(gateway: Gateway) -> None:
    first = gateway.post("/v2/gc-counter/runsync?method=add", {"input": {"by": 2}}).body["output"]
    assert gateway.post("/v2/gc-counter/runsync", {"input": {"method": "add"}}).body["output"] == first + 1
    said = gateway.post("/v2/gc-counter/runsync", {"input": {"method": "upto", "to": 2}}).body
    assert said["output"] == [{"output": 0}, {"output": 1}]
    reply = gateway.post("/v2/gc-counter/runsync", {"input": {"by": 2}})
    assert reply.status == 400
    assert "it has add, upto" in reply.body["error"]
    assert gateway.post("/v2/gc-counter/run?method=add", {"input": {"by": "x"}}).body["field"] == "input.by"


def test_what_waits_has_one_connection_and_asks_for_nothing(gateway: Gateway, rig: Rig) -> None:
    """Given 50 callers that wait, expect as many connections as before, and no command of theirs meanwhile."""

    def connections() -> int:
        return len(rig.broker.execute("CLIENT", "LIST").decode().splitlines())

    def asked() -> int:
        lines = rig.broker.execute("INFO", "commandstats").decode().splitlines()
        counts = [line.partition("calls=")[2].partition(",")[0] for line in lines if "cmdstat_hmget:" in line]
        return int(counts[0]) if counts else 0

    gateway.post("/v2/gc-nobody/runsync?wait=1000", {"input": 1})
    before = connections()
    with ThreadPoolExecutor(50) as threads:
        waiting = [
            threads.submit(gateway.post, "/v2/gc-nobody/runsync?wait=2500", {"input": number})
            for number in range(50)
        ]
        wait_until(lambda: gateway.get("/v2/gc-nobody/health").body["jobs"]["inQueue"] >= 50)
        first = asked()
        assert connections() <= before + 8  # of the threads that ask for this very count
        time.sleep(0.5)
        assert asked() - first < 50
        assert {one.result().status for one in waiting} == {200}
    gateway.post("/v2/gc-nobody/purge-queue")


def test_a_broker_that_goes_and_comes_back(gateway: Gateway, rig: Rig, tmp_path: Path) -> None:
    """Given a caller that waits while the broker is started again, expect its answer; meanwhile others are told 503."""
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(gateway.post("/v2/gc-gate/runsync", {"input": str(tmp_path)}))
    )
    asking.start()
    wait_until(lambda: gateway.get("/v2/gc-gate/health").body["jobs"]["inProgress"] == 1)
    rig.server.kill()
    reply = wait_until(lambda: (r := gateway.get("/v2/gc-gate/health")).status != 200 and r)
    assert reply.status == 503
    assert int(reply.headers["retry-after"]) > 0
    assert gateway.get("/readyz").status == 503
    assert gateway.get("/healthz").status == 200
    rig.server.start()
    Path(tmp_path, "open").touch()
    asking.join(40)
    assert answers[0].body["output"] == "open"
    wait_until(lambda: gateway.get("/readyz").status == 200)
