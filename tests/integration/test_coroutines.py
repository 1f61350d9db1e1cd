"""A job may be given to whatever takes a coroutine, as what Flash's functions return may."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING

import pytest

import flashq.testing
from flashq import Endpoint

if TYPE_CHECKING:
    from pathlib import Path


@Endpoint("coroutine-double", cpu="any")
def double(x: int) -> int:
    if x < 0:
        raise ValueError("negative")
    return 2 * x


def test_asyncio_runs_a_call() -> None:
    with flashq.testing.local():
        assert asyncio.run(double(4)) == 8
        with pytest.raises(ValueError, match="negative"):
            asyncio.run(double(-1))


def test_tasks_are_made_of_calls() -> None:
    async def several() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(double(n)) for n in range(3)]
        return [task.result() for task in tasks]

    with flashq.testing.local():
        assert asyncio.run(several()) == [0, 2, 4]


def test_a_job_is_awaited_as_often_as_one_likes() -> None:
    async def twice() -> tuple[int, int, int]:
        job = double(5)
        return await job, await asyncio.create_task(job), await job

    with flashq.testing.local():
        assert asyncio.run(twice()) == (10, 10, 10)


def test_a_cancelled_task_lets_its_job_go_on(tmp_path: Path) -> None:
    @Endpoint("coroutine-held", cpu="any")
    def wait(until: Path) -> str:
        while not until.exists():
            time.sleep(0.01)
        return "done"

    async def give_up() -> None:
        task = asyncio.create_task(job)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with flashq.testing.local():
        job = wait(tmp_path / "go")
        asyncio.run(give_up())
        assert not job.done
        (tmp_path / "go").touch()
        assert job.result(20) == "done"


def test_what_never_waits_leaves_no_warning() -> None:
    with flashq.testing.local() as broker:
        job = double(1)
        assert inspect.isawaitable(job)
        job.close()
        broker.join()
        assert job.output == 2
