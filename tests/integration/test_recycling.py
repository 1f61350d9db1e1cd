"""A fresh process for jobs: after so many, above so much memory, after an error of CUDA."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        yield made


def test_after_so_many_jobs_a_fresh_process_runs_the_next(shared: Rig) -> None:
    @Endpoint(name="recycled", cpu="any", recycle_jobs=3)
    def pid() -> int:
        return os.getpid()

    worker = shared.ready_worker(pid)
    jobs = [pid() for _ in range(9)]
    pids = [job.result(30) for job in jobs]
    assert [pids.count(one) for one in dict.fromkeys(pids)] == [3, 3, 3]
    assert worker.process.poll() is None


def test_an_instance_is_torn_down_before_it_is_replaced(shared: Rig, tmp_path: Path) -> None:
    @Endpoint(name="recycled-class", cpu="any", recycle_jobs=2)
    class Kept:
        def __init__(self, record: str) -> None:
            self.record = record
            self.note("made")

        def note(self, what: str) -> None:
            with Path(self.record).open("a") as file:
                file.write(f"{what} ")

        def teardown(self) -> None:
            self.note("torn")

    kept: Any = Kept(str(tmp_path / "record"))
    shared.ready_worker(kept.note)
    for number in range(4):
        kept.note.remote(str(number))
    wait_until(lambda: (tmp_path / "record").read_text().count("torn") == 2, what="both were torn down")
    assert (tmp_path / "record").read_text().startswith("made 0 1 torn made 2 3 torn")


def test_above_so_much_memory_a_fresh_process_runs_the_next(shared: Rig) -> None:
    kept: list[bytes] = []

    @Endpoint(name="recycled-large", cpu="any", recycle_gib=0.2)
    def grow(mib: int) -> int:
        kept.append(b"x" * (mib << 20))
        return os.getpid()

    shared.ready_worker(grow)
    first, again = grow.remote(1), grow.remote(300)
    assert first == again
    assert grow.remote(1) != first


def test_coroutines_end_before_their_process_is_replaced(shared: Rig) -> None:
    @Endpoint(name="recycled-async", cpu="any", max_concurrency=4, recycle_jobs=6)
    async def pid() -> int:
        import asyncio

        await asyncio.sleep(0.05)
        return os.getpid()

    shared.ready_worker(pid)
    jobs = [pid() for _ in range(24)]
    pids = [job.result(30) for job in jobs]
    assert len(set(pids)) >= 2
    assert all(6 <= pids.count(one) <= 9 for one in list(dict.fromkeys(pids))[:-1])


def test_a_poisoned_cuda_context_fails_its_job_alone(shared: Rig) -> None:
    @Endpoint(name="poisoned", cpu="any")
    def kernel(bad: bool) -> int:
        if bad:
            os.environ["POISONED"] = "1"
        if os.environ.get("POISONED"):  # as every later call in the process would
            raise RuntimeError("CUDA error: device-side assert triggered")
        return os.getpid()

    shared.ready_worker(kernel)
    before = kernel.remote(False)
    jobs = [kernel(bad) for bad in (False, True, False, False)]
    with pytest.raises(RuntimeError, match="device-side assert"):
        jobs[1].result(30)
    assert jobs[0].result(30) == before
    after = {jobs[2].result(30), jobs[3].result(30)}
    assert len(after) == 1
    assert before not in after
