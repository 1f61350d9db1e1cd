"""An endpoint that wants other resources: what runs is finished on the old ones, what is new waits for the new ones."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.requires("valkey"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the larger size wants two cores"),
]

SMALL, LARGE = "cpu5c-1-2", "cpu5c-2-4"


def sized(cpu: str) -> Any:
    """The endpoint `sized` with another size; it tells how many threads it may have, and where it ran."""

    def threads(seconds: float) -> tuple[str, int]:
        import os
        import time

        time.sleep(seconds)
        return os.environ["OMP_NUM_THREADS"], os.getpid()

    return Endpoint(name="sized", cpu=cpu, workers=(0, 2), idle_timeout=60)(threads)


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A host that runs two workers at a time."""
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig, "--slots", "2")) as made:
        yield made


def test_outdated_workers_finish_what_they_have_and_take_nothing_new(stack: Stack) -> None:
    """Given two busy workers, if their endpoint grows, expect nothing of the new on them while they go one by one."""
    small, large = sized(SMALL), sized(LARGE)
    long = small.spawn(4.0)
    wait_until(lambda: stack.states(small) == ["running"], 30, what="one is busy")
    short = small.spawn(1.5)  # it ends while the other one, whose turn to go is first, is at its job
    wait_until(lambda: stack.states(small) == ["running", "running"], 30, what="both are busy")
    new = [large.spawn(0.0) for _ in range(4)]

    assert [job.result(30)[0] for job in (short, long)] == ["1", "1"]
    results = [job.result(30) for job in new]
    assert {threads for threads, _ in results} == {"2"}
    (executor,) = {executor for _, executor in results}
    assert executor not in {short.result(0)[1], long.result(0)[1]}


def test_idle_worker_makes_way_for_a_job_that_it_does_not_suit(stack: Stack) -> None:
    """Given an idle worker, if its endpoint grows, expect the new job on a new one."""
    small, large = sized(SMALL), sized(LARGE)
    assert small.spawn(0.0).result(30)[0] == "1"
    wait_until(lambda: stack.states(small) == ["idle"], what="it is idle")
    assert large.spawn(0.0).result(30)[0] == "2"
    wait_until(lambda: len(stack.workers(large)) == 1, what="the old one is gone")
    (worker,) = stack.workers(large).values()
    assert float(worker["fq_cpus"]) == 2.0
