"""Rows 26 and 27 of the failure matrix: workers and hosts that are restarted in turn while jobs flow."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.acceptance.stage import Stage, stage
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from flashq.job import EndpointJob

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]


@Endpoint(name="rolling", cpu="any", workers=(2, 4), idle_timeout=60)
def note(record: str, number: int, seconds: float) -> int:
    with Path(record).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return number


class Flow:
    """Jobs that are submitted one after the other, as long as the block lasts, by a thread."""

    def __init__(self, record: Path, least: int, ahead: int = 50) -> None:
        self.record = record
        self.jobs: list[EndpointJob[Any]] = []
        self._least, self._ahead = least, ahead
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._submit)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._enough.set()
        self._thread.join()

    def _submit(self) -> None:
        while len(self.jobs) < self._least or not self._enough.is_set():
            number = len(self.jobs)
            if number >= self._ahead:
                self.jobs[number - self._ahead].result(60)  # so that it is a flow, and no heap
            self.jobs.append(note(str(self.record), number, 0.1 if number % 20 == 0 else 0.005))

    def reached(self, number: int) -> bool:
        return len(self.jobs) >= number

    def check(self) -> None:
        """No error, and no run too many."""
        assert [job.result(60) for job in self.jobs] == list(range(len(self.jobs)))
        ran = Counter(int(line) for line in self.record.read_text().split())
        assert {number: times for number, times in ran.items() if times != 1} == {}


def keep_going(flow: Flow) -> None:
    """Wait until so many more jobs have been taken that whoever is new has had its share."""
    aim = len(flow.jobs) + 40
    wait_until(lambda: flow.reached(aim), 60, "jobs flow")


@pytest.mark.parametrize(
    "jobs", [300, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])]
)
def test_workers_restarted_in_turn_under_load_fail_and_repeat_nothing(tmp_path: Path, jobs: int) -> None:
    """Row 26. Given jobs that flow, if each worker is replaced by another, expect every value, each job run once."""
    with rig() as made:
        with Flow(tmp_path / "record", jobs) as flow:
            workers = [made.worker(note) for _ in range(3)]
            keep_going(flow)
            restarts = 0
            while restarts < len(workers) or not flow.reached(jobs):
                old, new = workers[restarts % 3], made.worker(note)
                wait_until(lambda w=new: made.worker_field(w.id, "fq_state") in ("idle", "running"), 60)  # type: ignore[misc]
                old.signal(signal.SIGTERM)
                assert old.wait(60) == 0
                workers[restarts % 3] = new
                keep_going(flow)
                restarts += 1
        flow.check()


def test_hosts_restarted_in_turn_under_load_fail_and_repeat_nothing(tmp_path: Path) -> None:
    """Row 26. Given a host and jobs that flow, if another host comes and the first ends, expect the same."""
    with stage() as made:
        made.start_stack()
        with Flow(tmp_path / "record", 0) as flow:
            keep_going(flow)
            hosts = [made._stack[0].process]
            for name in ("second", "third"):
                hosts.append(start_host(made, name))
                wait_until(lambda: len(hosts_on_record(made)) == 2, 30, f"the {name} host on record")
                hosts[-2].send_signal(signal.SIGTERM)
                assert hosts[-2].wait(60) == 0
                keep_going(flow)
        flow.check()


def start_host(made: Stage, name: str) -> Any:
    home = made.folder() / name
    return made.start(command=["-m", "flashq", "host"], env={"FLASHQ_HOME": str(home)}).process


def hosts_on_record(made: Rig) -> list[bytes]:
    found: list[bytes] = made.broker.execute("ZRANGE", made.broker.keys.of("hosts"), 0, -1)
    return found


@Endpoint(name="rolling-held", cpu="any", workers=(0, 2))
def hold(record: str, gate: str) -> str:
    with Path(record).open("a") as file:
        file.write("x")
    while not Path(gate).exists():
        time.sleep(0.01)
    return "let go"


def test_what_is_not_finished_within_the_grace_is_given_back_uncounted(tmp_path: Path) -> None:
    """Row 27. Given a job longer than its worker may drain, if that is told to end, expect the job to run elsewhere."""
    record, gate = tmp_path / "record", tmp_path / "gate"
    with rig() as made:
        worker = made.ready_worker(hold, drain_s=0.5)
        job = hold.spawn(str(record), str(gate))
        wait_until(record.exists, what="it runs")
        since = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert time.monotonic() - since >= 0.5
        assert made.job_field(job.id, "fq_state") == "queued"
        assert made.job_field(job.id, "fq_attempts") == "0"

        made.worker(hold)
        wait_until(lambda: record.read_text() == "xx", 30, "it runs elsewhere")
        gate.touch()
        assert job.result(30) == "let go"
        assert made.job_field(job.id, "fq_attempts") == "1"
        assert made.job_field(job.id, "fq_losses") == ""
