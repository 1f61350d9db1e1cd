"""A cancel that races a completion, many times, on a real broker and worker. Row 31."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint, Status
from flashq.errors import JobCancelled
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from flashq.job import EndpointJob

pytestmark = pytest.mark.requires("valkey")
JOBS = 400


@Endpoint(name="raced", cpu="any", max_concurrency=20)
async def raced(folder: str, number: int) -> int:
    Path(folder, str(number)).touch()
    await asyncio.sleep(0.004)
    return number


@pytest.mark.chaos  # how the race ends depends on how fast the machine is
def test_exactly_one_wins_and_everybody_agrees_which(tmp_path: Path) -> None:
    with rig() as made:
        made.ready_worker(raced)
        jobs = [raced(str(tmp_path), number) for number in range(JOBS)]
        said: dict[int, str] = {}

        def cancel(share: range) -> None:
            for number in share:
                time.sleep(random.random() * 0.004)
                said[number] = jobs[number].cancel().result(30)

        people = [threading.Thread(target=cancel, args=(range(n, JOBS, 4),)) for n in range(4)]
        for person in people:
            person.start()
        for person in people:
            person.join(60)
        for job in jobs:
            wait_until(lambda job=job: job.done, what="it ended")  # type: ignore[misc]

        ends = Counter(check(made, tmp_path, number, job, said[number]) for number, job in enumerate(jobs))
        assert ends["finished"] >= 20, "the race was one"
        assert ends["cancelled"] >= 20
        stats = made.broker.execute("HMGET", made.broker.keys.of("stats", "raced"), *ends)
        assert [int(count) for count in stats] == list(ends.values())


def check(made: Rig, folder: Path, number: int, job: EndpointJob[int], said: str) -> str:
    """That all who know of a job's end say the same; its state."""
    state = made.job_field(job.id, "fq_state")
    places = ["finished", "canceled", "failed", "scheduled"]
    score = [made.broker.execute("ZSCORE", made.broker.keys.of(place, "raced"), job.id) for place in places]
    listed = [place for place, found in zip(places, score, strict=True) if found is not None]
    if state == "finished":
        assert job.result(0) == number
        assert job.status().result(10) is Status.COMPLETED
        assert listed == ["finished"]
        assert said in ("requested", "finished")
        assert made.job_field(job.id, "fq_outcome")
    else:
        assert state == "cancelled"
        with pytest.raises(JobCancelled):
            job.result(0)
        assert job.status().result(10) is Status.CANCELLED
        assert listed == ["canceled"]
        assert said in ("requested", "cancelled")
    if said == "cancelled":
        assert not Path(folder, str(number)).exists(), "a job that ended waiting was not run"
    return state
