"""What a job that waited for a start is told of it, on a real stack: parts that sum to what its caller waited."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq import Job

pytestmark = pytest.mark.requires("valkey")
SPENT_S = 0.3


class Slow:
    """Takes its time when it is unpickled, as an import does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"import time; time.sleep({SPENT_S})",))


@pytest.fixture
def stack() -> Iterator[Stack]:
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
        yield made


SLOW = Slow()


@Endpoint(name="model", cpu="any", workers=(0, 1), idle_timeout=0.1)
class Model:
    def setup(self) -> None:
        import time

        time.sleep(SPENT_S)
        self.kept = SLOW

    def run(self) -> None:
        import time

        time.sleep(SPENT_S)


def test_the_parts_sum_to_what_the_caller_waited(stack: Stack) -> None:
    """Given no worker, expect imports, setup and first job to have taken their time, and all parts all of the time."""
    endpoint: Any = Model
    model = endpoint()
    wait_until(lambda: list((stack.rig.home / "zygotes").glob("*.sock")), what="a zygote")

    def timed() -> tuple[Job[None], float]:
        submitted = time.perf_counter()
        job: Job[None] = model.run.spawn()
        job.result(30)
        waited = time.perf_counter() - submitted
        wait_until(lambda: not stack.workers(endpoint), what="it was idle")
        return job, waited

    timed()
    job, waited = timed()  # now its revision is on record
    startup = job.timing.startup
    assert job.cold_start is True
    assert list(startup) == ["claim", "environment", "fork", "imports", "setup", "first_job"]
    assert sum(startup.values()) == pytest.approx(waited, rel=0.05)
    for part in ("imports", "setup", "first_job"):
        assert SPENT_S <= startup[part] < 2 * SPENT_S
    assert startup["environment"] < 0.05


@Endpoint(name="pair", cpu="any", workers=(0, 1), idle_timeout=5, max_concurrency=2)
async def pair() -> None:
    import asyncio

    await asyncio.sleep(SPENT_S)


def test_each_that_began_with_it_is_told_and_no_other(stack: Stack) -> None:
    """Given three jobs for a worker that runs two at once, expect a breakdown for two, and none for the third."""
    jobs = [pair.spawn() for _ in range(3)]
    for job in jobs:
        job.result(30)
    told = [job.timing for job in jobs if job.timing.startup]
    assert len(told) == 2
    for timing in told:
        assert timing.total_s == pytest.approx(sum(timing.startup.values()), rel=0.05)
    warm = pair.spawn()
    warm.result(30)
    assert warm.timing.startup == {}
