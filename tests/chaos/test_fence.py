"""One worker, stopped in the middle of a job until it is rerun elsewhere, then continued: who is believed?

The second test shows that the first can fail: with the fence taken out of the scripts the stale outcome is accepted.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from flashq import Endpoint
from tests.chaos.mutants import load_without_fence
from tests.rig import Rig, WorkerProcess, rig, wait_until

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]


@Endpoint(name="slow", cpu="any", workers=(0, 2))
def slow(record: str) -> str:
    """The first run is short, and is stopped in it; the rerun takes longer, so that both end at odds."""
    runs = Path(record)
    first = not runs.exists()
    runs.touch()
    time.sleep(0.6 if first else 4.0)
    return f"{'first' if first else 'second'} {os.getpid()}"


def stale_outcome(made: Rig, tmp_path: Path) -> tuple[str, str]:
    """Stop a worker in the middle of a job until it is rerun elsewhere, then let it go on: who is believed?"""
    stopped = made.ready_worker(slow)
    job = slow.spawn(str(tmp_path / "runs"))
    wait_until(lambda: made.job_field(job.id, "fq_state") == "running")
    _whole_worker(stopped, signal.SIGSTOP)
    made.worker(slow)
    wait_until(lambda: made.job_field(job.id, "fq_fence") == "2", what="the rerun")
    _whole_worker(stopped, signal.SIGCONT)
    wait_until(job_ended := (lambda: job.done), 30, what="the outcome")
    assert job_ended()
    try:
        return job.result(0).split()[0], made.job_field(job.id, "fq_done")
    except Exception as error:  # noqa: BLE001 — what a caller sees is the point
        return type(error).__name__, made.job_field(job.id, "fq_done")


def _whole_worker(worker: WorkerProcess, which: signal.Signals) -> None:
    """Supervisor and executor: the executor has a session of its own."""
    for process in [psutil.Process(worker.process.pid), *psutil.Process(worker.process.pid).children()]:
        process.send_signal(which)


def test_a_stale_outcome_is_refused(tmp_path: Path) -> None:
    with rig(lease_s=1.0) as made:
        assert stale_outcome(made, tmp_path) == ("second", "2")


def test_without_the_fence_a_stale_outcome_gets_in_and_is_caught(tmp_path: Path) -> None:
    with rig(lease_s=1.0) as made:
        load_without_fence(made.broker)
        who, done = stale_outcome(made, tmp_path)
        assert (who, done) != ("second", "2")
