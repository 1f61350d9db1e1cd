"""A job that does not stop when it is told: SIGTERM for its process, then SIGKILL; what runs beside it goes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.errors import JobCancelled, JobTimedOut
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        yield made


@Endpoint(name="told-stubborn", cpu="any")
def stubborn(record: str, heeds: bool) -> None:
    path = Path(record)

    def on_term(*_: object) -> None:
        path.write_text("SIGTERM")
        if heeds:
            os._exit(3)

    signal.signal(signal.SIGTERM, on_term)
    path.write_text("began")
    while True:
        with contextlib.suppress(BaseException):  # it will not hear of ending
            time.sleep(0.01)


@pytest.mark.parametrize("heeds", [False, True])
def test_sigterm_comes_before_the_end(shared: Rig, tmp_path: Path, heeds: bool) -> None:
    worker = shared.ready_worker(stubborn, grace_s=1.0)
    record = tmp_path / "record"
    job = stubborn.with_options(timeout_s=0.5).spawn(str(record), heeds)
    with pytest.raises(JobTimedOut):
        job.result(20)
    assert record.read_text() == "SIGTERM"
    assert worker.process.poll() is None
    worker.close()


@Endpoint(name="told-beside", cpu="any", max_concurrency=4)
async def beside(record: str, blocks: bool) -> str:
    with Path(record).open("a") as file:
        file.write("x")
    if blocks:
        await asyncio.sleep(0.2)
        with Path(record).open("a") as file:
            file.write(" blocks")
        time.sleep(60)
    await asyncio.sleep(0.5)
    return "done"


def test_what_ran_beside_it_runs_again_uncounted(shared: Rig, tmp_path: Path) -> None:
    shared.ready_worker(beside, grace_s=1.0)
    records = [tmp_path / name for name in ("innocent", "blocker")]
    innocent = beside.spawn(str(records[0]), False)
    blocker = beside.spawn(str(records[1]), True)
    wait_until(
        lambda: records[1].exists() and "blocks" in records[1].read_text(), what="one holds up the other"
    )
    blocker.cancel()
    with pytest.raises(JobCancelled):
        blocker.result(20)
    assert innocent.result(20) == "done"
    assert records[0].read_text() == "xx"
    assert shared.job_field(innocent.id, "fq_losses") in ("", "0")
