"""The four scaling lines, on the default rule, with real processes: broker, `flashq host`, `flashq autoscaler`.

First job, no worker → one starts. More jobs while workers are busy → up to max. Jobs done → workers stay for
`idle_timeout`. Nothing new → back to min. And what is a cold start, and what a warm one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.integration.fleet_rig import alive
from tests.integration.stack import Peak, Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.requires("valkey")


@pytest.fixture
def stack() -> Iterator[Stack]:
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
        yield made


@Endpoint(name="work", cpu="any", workers=(0, 3), idle_timeout=2)
def work(seconds: float, value: Any = None) -> Any:
    import os
    import time

    time.sleep(seconds)
    return os.getpid() if value is None else value


def test_first_job_with_no_worker_starts_one(stack: Stack) -> None:
    with Peak(stack, work) as peak:
        job = work.spawn(0, "done")
        assert job.result(20) == "done"
    assert peak.most == 1
    assert job.cold_start is True
    assert stack.states(work) == ["idle"]
    (fields,) = stack.workers(work).values()
    assert float(fields["fq_cold_ms"]) > 0
    assert "start worker 1" in stack.log("autoscaler")


def test_jobs_that_come_while_workers_are_busy_take_them_up_to_max(stack: Stack) -> None:
    with Peak(stack, work) as peak:
        began = time.monotonic()
        jobs = []
        for value in range(8):
            jobs.append(work.spawn(1.5, value))
            time.sleep(0.2)  # they arrive one by one, as calls do
        assert [job.result(30) for job in jobs] == list(range(8))
        took_s = time.monotonic() - began
    assert peak.most == 3
    assert took_s < 8 * 1.5, "they ran side by side"


def test_done_workers_stay_for_idle_timeout_and_then_go_to_min(stack: Stack) -> None:
    jobs = [work.spawn(1.0, value) for value in range(3)]
    assert [job.result(30) for job in jobs] == [0, 1, 2]
    wait_until(lambda: set(stack.states(work)) == {"idle"}, what="all are idle")
    pids = [int(fields["pid"]) for fields in stack.workers(work).values()]
    idle_since = {worker: int(fields["fq_since"]) for worker, fields in stack.workers(work).items()}

    assert work.remote(0, "warm") == "warm"
    wait_until(lambda: not stack.workers(work), what="none is left")

    drained = [row for row in stack.rig.events("worker-drained") if row["subject"] in idle_since]
    assert len(drained) == len(pids)
    for row in drained:
        assert row["at_ms"] - idle_since[row["subject"]] >= 2000
        assert "idle_timeout 2 s" in row["text"]
    wait_until(lambda: not any(alive(pid) for pid in pids), what="their processes ended")
    assert work.spawn(0, "again").result(20) == "again"


@Endpoint(name="ready", cpu="any", workers=(1, 2), idle_timeout=1)
def ready(seconds: float) -> str:
    import time

    time.sleep(seconds)
    return "done"


def test_minimum_of_one_keeps_one_ready_and_its_first_request_is_warm(stack: Stack) -> None:
    stack.rig.register(ready)
    wait_until(lambda: stack.states(ready) == ["idle"], what="one is ready before any call")
    job = ready.spawn(0)
    assert job.result(20) == "done"
    assert job.cold_start is False
    (first,) = stack.workers(ready)
    until = time.monotonic() + 2.5
    wait_until(
        lambda: time.monotonic() > until or stack.states(ready) != ["idle"], what="well past idle_timeout"
    )
    assert list(stack.workers(ready)) == [first]


def test_all_busy_is_a_cold_start_and_marked_so(stack: Stack) -> None:
    stack.rig.register(ready)
    wait_until(lambda: stack.states(ready) == ["idle"], what="one is ready")
    warm = ready.spawn(3.0)
    wait_until(lambda: stack.states(ready) == ["running"], what="it is busy")
    cold = ready.spawn(0)
    assert cold.result(20) == "done"
    assert (warm.result(20), warm.cold_start) == ("done", False)
    assert cold.cold_start is True
    wait_until(lambda: len(stack.workers(ready)) == 1, what="back to the minimum")


def test_busy_worker_killed_by_nobody_while_it_scales(stack: Stack) -> None:
    """A job longer than idle_timeout, beside workers that come and go, runs once and to its end."""
    long = work.spawn(5.0, "long")
    short = [work.spawn(0, value) for value in range(4)]
    assert [job.result(30) for job in short] == [0, 1, 2, 3]
    assert long.result(30) == "long"
    assert stack.rig.job_field(long.id, "fq_attempts") == "1"


def test_worker_killed_with_its_job_is_replaced_and_the_job_runs_again(stack: Stack) -> None:
    job = work.spawn(1.0, "done")
    wait_until(lambda: stack.states(work) == ["running"], what="it runs")
    (fields,) = stack.workers(work).values()
    os.kill(int(fields["pid"]), signal.SIGKILL)
    assert job.result(20) == "done"
    assert stack.rig.job_field(job.id, "fq_attempts") == "2"
    assert len([row for row in stack.rig.events("worker-lost") if "SIGKILL" in row["text"]]) == 1


@Endpoint(name="buffered", cpu="any", workers=(0, 3), idle_timeout=0.5, buffer=1)
def buffered(gate: str) -> None:
    import time
    from pathlib import Path

    while not Path(gate).exists():
        time.sleep(0.01)


def test_a_buffer_is_ready_beside_the_busy_ones_and_goes_when_there_is_nothing_to_do(
    stack: Stack, tmp_path: Path
) -> None:
    def states() -> list[str]:
        return sorted(fields.get("fq_state", "") for fields in stack.workers(buffered).values())

    first = buffered.spawn(str(tmp_path / "gate"))
    wait_until(lambda: states() == ["idle", "running"], 30, "a spare")
    second = buffered.spawn(str(tmp_path / "gate"))
    wait_until(lambda: states() == ["idle", "running", "running"], 30, "another, as it was taken")
    assert second.cold_start is False
    (tmp_path / "gate").touch()
    first.result(30)
    second.result(30)
    wait_until(lambda: states() == [], 30, "all are gone")
