"""One worker, stopped in the middle of a job until it is rerun elsewhere, then continued: who is believed?

The second test shows what the fence is for: taken out of the scripts, the stale outcome is accepted.
"""

from __future__ import annotations

import os
import pathlib
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from flashq import Endpoint
from flashq.store.records import Settlement
from tests.chaos.mutants import load_without_fence
from tests.rig import Rig, WorkerProcess, halt, rig, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.job import EndpointJob

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]


@Endpoint(name="slow", cpu="any", workers=(0, 2))
def slow(record: str) -> str:
    """The first run is short, and is stopped in it; the rerun takes longer, so that both end at odds."""
    runs = pathlib.Path(record)
    first = not runs.exists()
    runs.touch()
    time.sleep(0.6 if first else 4.0)
    return f"{'first' if first else 'second'} {os.getpid()}"


def taken_away(made: Rig, tmp_path: Path) -> tuple[WorkerProcess, EndpointJob[str]]:
    """Stop a worker in the middle of a job until it is rerun elsewhere."""
    stopped = made.ready_worker(slow)
    job = slow.spawn(str(tmp_path / "runs"))
    wait_until(lambda: made.job_field(job.id, "fq_state") == "running")
    _whole_worker(stopped, signal.SIGSTOP)
    made.worker(slow)
    wait_until(lambda: made.job_field(job.id, "fq_fence") == "2", what="the rerun")
    return stopped, job


def _whole_worker(worker: WorkerProcess, which: signal.Signals) -> None:
    """Supervisor and executor: the executor has a session of its own."""
    supervisor = psutil.Process(worker.process.pid)
    parts = [supervisor, *supervisor.children()]
    # Continued last, the supervisor does not kill the executor before that one is continued.
    if which is signal.SIGSTOP:
        for process in parts:
            halt(process.pid)
    else:
        for process in reversed(parts):
            process.send_signal(which)


def test_a_stale_outcome_is_refused(tmp_path: Path) -> None:
    with rig(lease_s=1.0) as made:
        stopped, job = taken_away(made, tmp_path)

        # If the stopped worker goes on, and says what it has before the rerun has ended
        _whole_worker(stopped, signal.SIGCONT)

        # Expect the rerun's value
        assert job.result(30).split()[0] == "second"
        assert made.job_field(job.id, "fq_done") == "2"


def test_without_the_fence_a_stale_outcome_gets_in(tmp_path: Path) -> None:
    with rig(lease_s=1.0) as made:
        stopped, job = taken_away(made, tmp_path)
        late = Settlement(job.id, 1, "finished", outcome=b"late")
        # said here: a worker that goes on kills its executor as soon as it sees that its lease is over, and may
        # be quicker at that than at saying what it has
        say = made.broker.transitions.finish(late, stopped.id)
        assert made.broker.run(say) == "stale"

        # If the fence is taken out of the scripts
        load_without_fence(made.broker)

        # Expect what the first run says to stand, while the second one runs
        assert made.broker.run(say) == "ok"
        assert made.job_field(job.id, "fq_outcome") == "late"
