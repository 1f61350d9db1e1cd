"""Dynamic batching: calls gathered into one call of the function, each with a value or an error of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import JobCancelled, JobTimedOut, ResultNotSerializable, SpecError, WorkerCrashed
from flashq.testing import LocalBroker, flashq_local
from tests.acceptance.stage import stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.stage import Stage

__all__ = ["flashq_local"]
pytestmark = pytest.mark.timeout(90)
real = pytest.mark.requires("valkey")


@Endpoint(name="gathers", cpu="any", workers=(0, 1), batch=(8, 200))
def _gathers(items: list[Any]) -> list[Any]:
    """Each item with how many there were; words do other things."""
    if "bad" in items:
        raise ConnectionError("a bad item")
    if "short" in items:
        return items[1:]
    for item in items:
        if isinstance(item, Path):
            with item.with_suffix(".ran").open("a") as file:
                file.write("x")
            while not item.exists():
                time.sleep(0.01)
    special = {"error": KeyError("mine"), "generator": (n for n in items), "pid": os.getpid()}
    return [special.get(item, (item, len(items))) for item in items]


@Endpoint(name="gathers-crashes", cpu="any", workers=(0, 1), batch=(4, 200), max_deliveries=2)
def _crashes(items: list[Any]) -> list[Any]:
    if "die" in items:
        os._exit(3)
    return [(item, len(items)) for item in items]


crashes: Any = _crashes
gathers: Any = _gathers
"""A call gives one item and gets its value, where the function takes and returns lists."""


@Endpoint(name="gathers-methods", cpu="any", batch=(4, 50))
class Upper:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def up(self, words: list[str]) -> list[str]:
        return [word.upper() + self.mark for word in words]


upper: Any = Upper
"""Mypy ignores what a decorator makes of a class."""


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(gathers)
        made.ready_worker(upper("!").up)
        yield made


@pytest.fixture(autouse=True)
def goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever happened, the same process serves the next call."""
    if "theatre" not in request.fixturenames:
        yield
        return
    request.getfixturevalue("theatre")
    before = gathers.remote("pid")
    yield
    assert gathers.remote("pid") == before


def at_once(*items: Any) -> list[Any]:
    """What becomes of these calls, made at once: values and errors."""
    return list(gathers.map(items, return_exceptions=True, progress=False))


@real
def test_calls_are_gathered_up_to_the_size(theatre: Stage) -> None:
    found = at_once(*range(40))
    assert [value for value, _ in found] == list(range(40))
    sizes = [size for _, size in found]
    assert max(sizes) == 8
    assert sum(1 / size for size in sizes) < 12  # batches


@real
def test_one_call_does_not_wait_for_long(theatre: Stage) -> None:
    began = time.monotonic()
    assert gathers.remote(1) == (1, 1)
    assert time.monotonic() - began > 0.15
    assert list(upper("!").up.map("abcdef", progress=False)) == ["A!", "B!", "C!", "D!", "E!", "F!"]


@real
def test_a_bad_item_fails_alone(theatre: Stage) -> None:
    one, bad, two = at_once(1, "bad", 2)
    assert (one, two) == ((1, 1), (2, 1))
    assert isinstance(bad, ConnectionError)

    # So does one whose error the function returns, and one whose value cannot travel; the others stay together
    one, mine, lost = at_once(1, "error", "generator")
    assert one == (1, 3)
    assert isinstance(mine, KeyError)
    assert isinstance(lost, ResultNotSerializable)


@real
def test_an_item_that_ends_its_process_fails_alone(theatre: Stage) -> None:
    # Given a batch of which one item ends the process: what is delivered again runs by itself
    theatre.ready_worker(crashes)
    one, die, two = crashes.map([1, "die", 2], return_exceptions=True, progress=False)
    assert (one, two) == ((1, 1), (2, 1))
    assert isinstance(die, WorkerCrashed)
    assert {size for _, size in crashes.map(range(4), progress=False)} == {4}


@real
def test_an_answer_of_another_length_is_an_error(theatre: Stage) -> None:
    one, short = at_once(1, "short")
    assert one == (1, 1)
    assert isinstance(short, ValueError)
    assert "a batch of 1 items was answered with 0 values" in str(short)


@real
def test_a_cancelled_call_leaves_its_batch(theatre: Stage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = [gathers.spawn(item) for item in (gate, 1)]
    wait_until(gate.with_suffix(".ran").exists, what="the batch runs")

    # If one of two is cancelled, expect it to end at once, and the other to have its value
    assert jobs[1].cancel().result(5) == "requested"
    with pytest.raises(JobCancelled):
        jobs[1].result(5)
    gate.touch()
    assert jobs[0].result(10) == (gate, 2)
    assert gate.with_suffix(".ran").read_text() == "x"


@real
def test_a_call_that_runs_out_of_time_lets_the_others_go_on(theatre: Stage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = gathers.with_options(timeout_s=1).spawn(gate)
    quick = gathers.spawn(2)
    with pytest.raises(JobTimedOut):
        slow.result(10)
    assert quick.result(10) == (2, 1)


@real
def test_all_of_a_batch_may_be_cancelled(theatre: Stage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = [gathers.spawn(item) for item in (gate, gate)]
    wait_until(gate.with_suffix(".ran").exists, what="the batch runs")
    for job in jobs:
        job.cancel()
    for job in jobs:
        with pytest.raises(JobCancelled):
            job.result(5)


def test_batches_here_are_of_one(flashq_local: LocalBroker) -> None:
    assert gathers.remote(3) == (3, 1)
    with pytest.raises(KeyError):
        gathers.remote("error")
    assert upper("?").up.remote("a") == "A?"


def test_what_does_not_fit_is_refused_at_once() -> None:
    for args, named in (((1, 2), {}), ((), {"items": 1}), ((), {})):
        with pytest.raises(TypeError, match="each gives one item"):
            gathers(*args, **named)
    with pytest.raises(SpecError, match="takes and returns a list"):

        @Endpoint(name="gathers-async", cpu="any", batch=(4, 10))
        async def wrong(items: list[int]) -> list[int]:
            return items

    with pytest.raises(SpecError, match="max_concurrency has to stay 1"):
        Endpoint(name="gathers-many", cpu="any", batch=(4, 10), max_concurrency=2)
    with pytest.raises(SpecError, match="at_most_once rules out"):
        Endpoint(name="gathers-once", cpu="any", batch=(4, 10), delivery="at_most_once")
    with pytest.raises(SpecError, match="item by item"):
        gathers.with_options(delivery="at_most_once")
