"""Workers killed outright, 50 times each: at transition boundaries, mid-job and idle. Nothing may be lost.

The record is kept outside the broker: what was acknowledged (this process) and what ran (a file the jobs write).
The last tests show that the checks can fail: with the fence disabled a stale outcome is accepted, and caught.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.store.scripts import library
from tests.chaos.proxy import Moment, Tripwire
from tests.rig import Rig, WorkerProcess, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flashq.job import EndpointJob
    from flashq.store.broker import Broker

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(240)]
KILLS = 50


@Endpoint(name="count", cpu="any", workers=(0, 4))
def count(record: str, number: int, seconds: float) -> int:
    with Path(record).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return number * number


class Campaign:
    """Jobs under way, workers that die and are replaced, and the record of both."""

    def __init__(self, made: Rig, record: Path, *, url: str | None = None) -> None:
        self.rig = made
        self.record = record
        self.jobs: dict[int, EndpointJob[int]] = {}
        self.workers: list[WorkerProcess] = []
        self._url = url
        record.touch()

    def submit(self, seconds: float) -> None:
        number = len(self.jobs)
        self.jobs[number] = count.spawn(str(self.record), number, seconds)

    def staff(self, size: int) -> None:
        """Have `size` live workers, and wait until they are ready."""
        self.workers = [w for w in self.workers if w.process.poll() is None]
        changes = {} if self._url is None else {"url": self._url}
        while len(self.workers) < size:
            self.workers.append(self.rig.worker(count, **changes))

    def in_state(self, state: str) -> WorkerProcess:
        """Wait for a worker in this state."""

        def found() -> list[WorkerProcess]:
            return [w for w in self.workers if self.rig.worker_field(w.id, "fq_state") == state]

        return random.choice(wait_until(found, what=f"a worker that is {state}"))

    def settle(self) -> None:
        """Wait for what was submitted, so that no job is hit more often than it may be."""
        for job in self.jobs.values():
            job.result(30)

    def kill(self, worker: WorkerProcess) -> None:
        """As the host agent does it: killed, seen, reported."""
        worker.signal(signal.SIGKILL)
        worker.wait()
        self.rig.broker.run(self.rig.broker.transitions.leave("count", worker.id, "killed by the test"))

    def strike(self, struck: threading.Event) -> Callable[[], None]:
        """Kills all workers, whichever made the call that is struck at."""

        def now() -> None:
            for worker in self.workers:
                worker.signal(signal.SIGKILL)
            struck.set()

        return now

    def check(self, kills: int) -> None:
        """Everything acknowledged completed, once, with the right value; reruns are no more than kills."""
        for number, job in self.jobs.items():
            assert job.result(60) == number * number
        ran = Counter(int(line) for line in self.record.read_text().split())
        assert set(ran) == set(self.jobs), "every job ran"
        assert sum(ran.values()) - len(ran) <= kills, "a job is rerun only for a kill"
        for job in self.jobs.values():
            key = self.rig.broker.keys.of("results", job.id)
            assert self.rig.broker.execute("XLEN", key) == 1, "one outcome a job"
            assert self.rig.job_field(job.id, "fq_done") == self.rig.job_field(job.id, "fq_fence")
        leases = self.rig.broker.keys.of("leases", "count")
        assert self.rig.broker.execute("ZCARD", leases) == 0


@contextlib.contextmanager
def campaign(tmp_path: Path, **options: Any) -> Iterator[Campaign]:
    with rig(lease_s=3.0, **options) as made:
        made.register(count)
        yield Campaign(made, tmp_path / "ran")


def test_fifty_idle_workers_are_killed(tmp_path: Path) -> None:
    with campaign(tmp_path) as run:
        for _ in range(KILLS):
            run.staff(3)
            run.kill(run.in_state("idle"))
            run.submit(0.0)
            run.settle()
        run.staff(2)
        run.check(KILLS)


def test_fifty_workers_are_killed_in_the_middle_of_a_job(tmp_path: Path) -> None:
    with campaign(tmp_path) as run:
        for _ in range(KILLS):
            run.staff(3)
            run.submit(0.15)
            run.kill(run.in_state("running"))
            run.settle()
        run.staff(2)
        run.check(KILLS)


BOUNDARIES: list[tuple[str, Moment]] = [
    ("advance", "before"),
    ("advance", "after"),
    ("advance", "reply"),
    ("worker_join", "after"),
    ("worker_ready", "before"),
    ("worker_ready", "after"),
]


def test_fifty_workers_are_killed_at_transition_boundaries(tmp_path: Path) -> None:
    with rig(lease_s=3.0) as made:
        made.register(count)
        wire = Tripwire(made.server.folder / "s", made.server.folder / "p")
        run = Campaign(made, tmp_path / "ran", url=wire.url)
        try:
            for turn in range(KILLS):
                script, moment = BOUNDARIES[turn % len(BOUNDARIES)]
                run.staff(2)
                struck = threading.Event()
                wire.arm(script, moment, run.strike(struck))
                run.submit(0.01)
                if script != "advance":
                    run.workers.append(made.worker(count, url=wire.url))
                wait_until(struck.is_set, what=f"{script} {moment}")
                for worker in run.workers:
                    worker.signal(signal.SIGKILL)  # one may have been started while the others were struck
                    worker.wait()
                    made.broker.run(made.broker.transitions.leave("count", worker.id, "killed by the test"))
                run.staff(2)
                run.settle()
            run.check(KILLS)
        finally:
            wire.close()


# -- the fence ---------------------------------------------------------------------------------------


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
    import psutil

    for process in [psutil.Process(worker.process.pid), *psutil.Process(worker.process.pid).children()]:
        process.send_signal(which)


LIVE = " and f.fence == fence\n    and (not worker or worker == '' or f.worker == worker)\n"
"""What of `live` tells one delivery of a job from another."""


def test_a_stale_outcome_is_refused(tmp_path: Path) -> None:
    with rig(lease_s=1.0) as made:
        assert stale_outcome(made, tmp_path) == ("second", "2")


def test_without_the_fence_a_stale_outcome_gets_in_and_is_caught(tmp_path: Path) -> None:
    with rig(lease_s=1.0) as made:
        _load_mutant(made.broker, lambda source: _replaced(source, LIVE, "\n"))
        who, done = stale_outcome(made, tmp_path)
        assert (who, done) != ("second", "2")


def _replaced(text: str, old: str, new: str) -> str:
    assert old in text, "the mutation no longer applies"
    return text.replace(old, new)


def _load_mutant(broker: Broker, mutate: Callable[[str], str]) -> None:
    """Put a mutated library in the place of the shipped one, under its name."""
    broker.execute("FUNCTION", "LOAD", "REPLACE", mutate(library().source))
