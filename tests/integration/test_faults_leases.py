"""Rows 9, 10, 11 and 33 of the failure matrix: workers cut off, stopped and continued, and reapers that die midway.

Overlap is judged by what the jobs wrote themselves: each run notes the time (of this machine's one clock) again and
again, in a file of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from flashq import Endpoint
from tests.chaos.proxy import Partition, Tripwire
from tests.integration.fleet_rig import alive
from tests.rig import Rig, WorkerProcess, halt, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(90)]

LEASE_S = 1.5
RENEW_S = LEASE_S / 3
KILL_S = 1.0
"""For the kernel, and for a machine that others use too, to end a process that is to end."""


@Endpoint(name="leases", cpu="any", workers=(0, 2))
def pulse(folder: str, gate: str) -> int:
    """Note the time until the gate is there; the process id of who ran to the end."""
    with (Path(folder) / str(os.getpid())).open("a") as file:
        while not Path(gate).exists():
            file.write(f"{time.monotonic()}\n")
            file.flush()
            time.sleep(0.005)
    return os.getpid()


@dataclass
class Run:
    """What one run of the job wrote."""

    pid: int
    began: float
    last: float


class Scene:
    """One job with a worker on it, and another worker that waits."""

    def __init__(self, made: Rig, folder: Path, url: str | None = None) -> None:
        self.rig = made
        self.records, self.gate = folder / "runs", folder / "gate"
        self.records.mkdir()
        changes = {} if url is None else {"url": url}
        self.first = made.ready_worker(pulse, **changes)
        self.job: EndpointJob[int] = pulse.spawn(str(self.records), str(self.gate))
        wait_until(self.runs, what="the job runs")
        self.second = made.ready_worker(pulse)

    def runs(self) -> list[Run]:
        """The job's runs so far, in their order."""
        found = []
        for file in self.records.iterdir():
            times = [float(line) for line in file.read_text().splitlines()[:-1]]
            if times:
                found.append(Run(int(file.name), times[0], times[-1]))
        return sorted(found, key=lambda run: run.began)

    def wait_for_rerun(self) -> None:
        wait_until(lambda: len(self.runs()) == 2, 30, "the job runs again")

    def check_overlap(self) -> None:
        """The first run ended in time: at most a renewal's interval, and the time to kill, into the second."""
        first, second = self.runs()
        wait_until(lambda: not alive(first.pid), what="the end of the first executor")
        first, second = self.runs()
        assert first.last - second.began <= RENEW_S + KILL_S

    def check_end(self) -> None:
        """The second run's value is stored, and nothing of the first comes after it."""
        second = self.runs()[1]
        self.gate.touch()
        assert self.job.result(30) == second.pid
        key = self.rig.broker.keys.of("results", self.job.id)
        assert self.rig.broker.execute("XLEN", key) == 1
        assert (
            self.rig.job_field(self.job.id, "fq_fence") == self.rig.job_field(self.job.id, "fq_done") == "2"
        )

    def check_given_up(self) -> None:
        """The first worker learns that it was given up, and ends; the stored value is what it was."""
        before = self.rig.broker.execute("HGETALL", self.rig.broker.keys.of("job", self.job.id))
        assert self.first.wait(30) == 3
        assert self.rig.broker.execute("HGETALL", self.rig.broker.keys.of("job", self.job.id)) == before


@contextlib.contextmanager
def partitioned(tmp_path: Path) -> Iterator[tuple[Scene, Partition, Tripwire]]:
    """The first worker reaches the broker by a tripwire and then a partition."""
    with rig(lease_s=LEASE_S) as made:
        wire = Partition(made.server.folder / "s", made.server.folder / "p")
        trip = Tripwire(made.server.folder / "p", made.server.folder / "t")
        try:
            yield Scene(made, tmp_path, trip.url), wire, trip
        finally:
            trip.close()
            wire.close()


def test_a_worker_that_is_cut_off_ends_its_run_within_the_lease(tmp_path: Path) -> None:
    """Row 9. Given a running job, if its worker is cut off for longer than the lease, expect it killed, and rerun."""
    with partitioned(tmp_path) as (scene, wire, _):
        wire.cut()
        cut = time.monotonic()
        scene.wait_for_rerun()
        scene.check_overlap()
        assert scene.runs()[0].last - cut <= LEASE_S + KILL_S

        # If it is connected again, expect its word to come too late
        scene.check_end()
        wire.heal()
        scene.check_given_up()


def test_an_answer_that_comes_late_renews_nothing(tmp_path: Path) -> None:
    """Row 9. Given a renewal whose answer is late, expect the executor not to live by it."""
    with partitioned(tmp_path) as (scene, wire, trip):
        renewed, delivered = threading.Event(), threading.Event()

        def late() -> None:
            wire.cut()
            renewed.set()
            delivered.wait()

        trip.arm("renew", "late", late)
        wait_until(renewed.is_set, what="a renewal")
        since = time.monotonic()

        # If the answer comes just before the executor would end itself, and nothing more gets through
        wait_until(lambda: time.monotonic() > since + LEASE_S - RENEW_S - 0.2)
        delivered.set()

        # Expect the run to end as if nothing had been answered, in time for the next one
        scene.wait_for_rerun()
        scene.check_overlap()
        assert scene.runs()[0].last - since <= LEASE_S + RENEW_S
        scene.check_end()


@pytest.mark.parametrize("who", ["supervisor", "supervisor and executor"])
def test_a_worker_stopped_for_two_leases_changes_nothing(tmp_path: Path, who: str) -> None:
    """Rows 10 and 11. Given a running job, if its worker is stopped for two leases, expect another run's outcome.

    With the supervisor alone stopped, the executor ends by its own watchdog, within the lease.
    """
    with rig(lease_s=LEASE_S) as made:
        scene = Scene(made, tmp_path)
        stopped = whole(scene.first) if "executor" in who else [psutil.Process(scene.first.process.pid)]
        for process in stopped:
            halt(process.pid)
        since = time.monotonic()
        scene.wait_for_rerun()
        if len(stopped) == 1:
            scene.check_overlap()
            assert scene.runs()[0].last - since <= LEASE_S + KILL_S
        scene.check_end()
        wait_until(lambda: time.monotonic() > since + 2 * LEASE_S)

        # If it goes on, expect its executor dead at once, and the value as it was
        for process in stopped:
            process.send_signal(signal.SIGCONT)
        goes_on = time.monotonic()
        scene.check_given_up()
        first, _ = scene.runs()
        assert not alive(first.pid)
        assert first.last <= goes_on + KILL_S


def whole(worker: WorkerProcess) -> list[psutil.Process]:
    """Supervisor and executor."""
    supervisor = psutil.Process(worker.process.pid)
    return [supervisor, *supervisor.children()]


# -- reaping -----------------------------------------------------------------------------------------


@Endpoint(name="reaped", cpu="any", workers=(0, 2))
def number(n: int) -> int:
    return n


def test_whoever_reaps_may_be_killed_midway(tmp_path: Path) -> None:
    """Row 33. Given many leases that ended, if whoever recovers them dies amid it, expect the next to go on."""
    with rig(lease_s=1.0) as made:
        made.register(number)
        jobs = [number(n) for n in range(250)]
        wait_until(lambda: all(job._call.acknowledged.done for job in jobs))
        abandon(made, len(jobs))

        # If the first worker is killed in the reply of its first REAP
        wire = Tripwire(made.server.folder / "s", made.server.folder / "p")
        struck = threading.Event()

        def strike() -> None:
            worker.signal(signal.SIGKILL)
            struck.set()

        wire.arm("reap", "after", strike)
        worker = made.worker(number, url=wire.url)
        wait_until(struck.is_set, 30, "its first REAP")
        worker.wait()
        left = leased(made)
        assert 0 < left < len(jobs)

        # Expect the next one to go on within a second, and every job to run
        made.worker(number)
        for n, job in enumerate(jobs):
            assert job.result(60) == n
        assert leased(made) == 0
        wire.close()


def abandon(made: Rig, count: int) -> None:
    """Have that many jobs claimed, and begun, by a worker that is never heard of again."""
    t = made.broker.transitions
    made.broker.run(t.join("reaped", "ghost", lease_ms=50, booked=False, fields={}))
    claim: Any = t.claim("reaped", "ghost", "n", count=count, lease_ms=50, start=count, holding=0, room=count)
    assert len(made.broker.run(claim).jobs) == count


def leased(made: Rig) -> int:
    return int(made.broker.execute("ZCARD", made.broker.keys.of("leases", "reaped")))
