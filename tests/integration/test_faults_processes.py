"""Rows 12, 13 and 14 of the failure matrix: executors, supervisors, host agents and whole hosts that die.

Most of it with the default lease of 15 s, so that what is quick is not the lease's doing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from flashq import Endpoint
from flashq.errors import WorkerCrashed
from flashq.store.queries_fleet import now_ms
from tests.integration.fleet_rig import alive
from tests.integration.stack import Stack, family
from tests.rig import Rig, halt, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]

LEASE_S = 15.0
NEW_EXECUTOR_S = 2.0
EXECUTOR_GONE_S = 1.0
REQUEUED_S = 2.0
RERUN_S = 18.0


@Endpoint(name="fragile", cpu="any", workers=(0, 2), idle_timeout=60)
def fragile(how: str, record: str, *, deaths: int) -> int:
    """Dies in its first runs; returns how many there were. When each began, and died, is in the record."""
    import ctypes

    runs = Path(record)
    with runs.open("a") as file:
        file.write(f"{os.getpid()} {time.monotonic()}\n")
    count = len(runs.read_text().splitlines())
    if count > deaths:
        return count
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "out of memory":
            os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does then
        case "wait":
            while True:
                time.sleep(0.05)
        case cgroup:
            Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
            hog = bytearray(1 << 30)
            hog[::4096] = b"x" * len(hog[::4096])
    raise AssertionError(f"it survived {how}")


def runs_of(record: Path) -> list[tuple[int, float]]:
    """Of each run its process, and when it began."""
    lines = record.read_text().splitlines() if record.exists() else []
    return [(int(pid), float(at)) for pid, at in map(str.split, lines)]


# -- row 12: the executor ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker() -> Iterator[Rig]:
    with rig(lease_s=LEASE_S) as made:
        made.ready_worker(fragile)
        yield made


DEATHS = {"segfault": "killed by SIGSEGV", "exit": "exited with code 3", "out of memory": "killed by SIGKILL"}


@pytest.mark.parametrize("how", DEATHS)
def test_executor_that_dies_is_replaced_within_2_s(worker: Rig, tmp_path: Path, how: str) -> None:
    """Row 12: and the job in it is run again."""
    record = tmp_path / "runs"
    assert fragile.spawn(how, str(record), deaths=1).result(30) == 2
    (first, died_at), (second, began_at) = runs_of(record)
    assert first != second
    assert began_at - died_at < NEW_EXECUTOR_S


@pytest.mark.parametrize("how", DEATHS)
def test_executor_that_dies_each_time_is_named_to_the_caller(worker: Rig, tmp_path: Path, how: str) -> None:
    """Row 12: with the signal or the exit code, and how often it was tried."""
    record = tmp_path / "runs"
    with pytest.raises(WorkerCrashed, match=DEATHS[how]):
        fragile.spawn(how, str(record), deaths=99).result(30)
    assert len(runs_of(record)) == 3
    assert fragile.spawn("none", str(tmp_path / "other"), deaths=0).result(30) == 1


@pytest.fixture
def small_cgroup() -> Iterator[str]:
    """A control group whose processes get 64 MiB."""
    name = f"flashq-test-{uuid.uuid4().hex[:8]}"
    root = Path("/sys/fs/cgroup")
    first = (root / "memory" / name, "memory.limit_in_bytes")
    folder, limit = first if (root / "memory").is_dir() else (root / name, "memory.max")
    try:
        folder.mkdir()
        (folder / limit).write_text(str(64 << 20))
        if limit == "memory.max":
            (folder / "memory.swap.max").write_text("0")
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no memory control group can be made here: {error}")
    yield str(folder)
    wait_until(lambda: not (folder / "cgroup.procs").read_text(), what="it is empty")
    folder.rmdir()


def test_executor_that_the_kernel_kills_for_its_memory(
    worker: Rig, tmp_path: Path, small_cgroup: str
) -> None:
    """Row 12: out of memory in earnest."""
    record = tmp_path / "runs"
    assert fragile.spawn(small_cgroup, str(record), deaths=1).result(60) == 2
    (event,) = [event for event in worker.events("job-requeued") if "SIGKILL" in event["text"]][-1:]
    assert "killed by SIGKILL" in event["text"]


# -- with host agents ----------------------------------------------------------------------------------


class Hosts:
    """A stack with a second host agent: as far as flashq can tell, two machines."""

    def __init__(self, lease_s: float) -> None:
        self.rig = Rig(lease_s=lease_s)
        self.stack = Stack(self.rig)
        self.other_home = self.rig.server.folder / "other"
        self.agents = {0: self.stack.host}

    def start_other(self) -> None:
        self.agents[1] = self.stack.start("host", name="other-host", home=self.other_home)
        wait_until(lambda: len(self.on_record()) == 2, what="both hosts on record")

    def on_record(self) -> dict[int, str]:
        """The hosts on record, by the process of their agent."""
        broker = self.rig.broker
        names = [name.decode() for name in broker.execute("ZRANGE", broker.keys.of("hosts"), 0, -1)]
        pids = broker.execute_all([("HGET", broker.keys.of("host", name), "pid") for name in names])
        return {int(pid): name for name, pid in zip(names, pids, strict=True)}

    def agent_of(self, worker: dict[str, str]) -> Popen[bytes]:
        """The host agent that runs this worker."""
        pids = {name: pid for pid, name in self.on_record().items()}
        (agent,) = [agent for agent in self.agents.values() if agent.pid == pids[worker["fq_host"]]]
        return agent

    def close(self) -> None:
        with contextlib.closing(self.rig):
            self.stack.close()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with contextlib.closing(Hosts(LEASE_S)) as made:
        yield made


def running(hosts: Hosts, record: Path) -> tuple[Any, dict[str, str], int]:
    """A job that is in the middle of its first run; the worker that has it; its executor."""
    job = fragile.spawn("wait", str(record), deaths=1)
    wait_until(lambda: runs_of(record), 30, what="it runs")
    (worker,) = hosts.stack.workers(fragile).values()
    return job, worker, runs_of(record)[0][0]


def requeued_ms(hosts: Hosts, job: Any) -> int:
    """When the job went back to its queue, by the broker's clock."""
    found = lambda: [e for e in hosts.rig.events("job-requeued") if e["subject"] == job.id]  # noqa: E731
    return int(wait_until(found, 30, what="it is queued again")[0]["at_ms"])


def test_killed_supervisor_takes_its_executor_along_and_its_job_is_queued_again(
    hosts: Hosts, tmp_path: Path
) -> None:
    """Row 13."""
    job, worker, executor = running(hosts, tmp_path / "runs")
    killed_ms, killed_at = now_ms(hosts.rig.broker), time.monotonic()
    os.kill(int(worker["pid"]), signal.SIGKILL)
    wait_until(lambda: not alive(executor), what="its executor is gone")
    assert time.monotonic() - killed_at < EXECUTOR_GONE_S
    assert requeued_ms(hosts, job) - killed_ms < REQUEUED_S * 1000
    assert job.result(30) == 2


def test_killed_host_agent_leaves_no_orphan_and_its_jobs_are_queued_again(
    hosts: Hosts, tmp_path: Path
) -> None:
    """Row 13: its workers end with it, and say so before they go."""
    job, worker, executor = running(hosts, tmp_path / "runs")
    agent = hosts.agent_of(worker)
    below = [process.pid for process in family(agent.pid)]
    assert {int(worker["pid"]), executor} < set(below)
    hosts.start_other()
    killed_ms = now_ms(hosts.rig.broker)
    agent.kill()
    agent.wait()
    wait_until(lambda: not any(map(alive, below)), what="nothing of it is left")
    assert requeued_ms(hosts, job) - killed_ms < REQUEUED_S * 1000
    assert job.result(30) == 2


def test_host_agent_started_again_while_its_workers_live(hosts: Hosts, tmp_path: Path) -> None:
    """Row 13: the next one of that home begins at once, and no worker of the last one is left beside its own."""
    job, worker, _ = running(hosts, tmp_path / "runs")
    below = [process.pid for process in family(hosts.stack.host.pid)]
    killed_ms = now_ms(hosts.rig.broker)
    hosts.stack.host.kill()
    hosts.stack.host.wait()
    successor = hosts.stack.start("host", name="successor")
    wait_until(lambda: not any(map(alive, below)), what="nothing of the last one is left")
    assert requeued_ms(hosts, job) - killed_ms < REQUEUED_S * 1000
    assert job.result(30) == 2
    (now,) = hosts.stack.workers(fragile).values()
    assert now["fq_host"] == worker["fq_host"]
    assert int(now["pid"]) in [process.pid for process in family(successor.pid)]


def test_job_of_a_host_that_is_gone_runs_again_elsewhere_within_18_s(hosts: Hosts, tmp_path: Path) -> None:
    """Row 14: agent, supervisor and executor die at once, and the autoscaler that led; nobody is left to tell."""
    record = tmp_path / "runs"
    job, worker, _ = running(hosts, record)
    hosts.start_other()
    hosts.stack.start("autoscaler", name="standby")
    wait_until(lambda: "stands by" in hosts.stack.log("standby"), what="a standby elsewhere")
    gone = [*family(hosts.agent_of(worker).pid), psutil.Process(hosts.stack.autoscaler.pid)]
    for which in (signal.SIGSTOP, signal.SIGKILL):
        for process in gone:
            process.send_signal(which)
    killed_at = time.monotonic()
    assert job.result(60) == 2
    _, (_, began_at) = runs_of(record)
    assert began_at - killed_at < RERUN_S


def test_stopped_supervisor_whose_host_agent_died_keeps_nothing_for_longer_than_a_lease(
    tmp_path: Path,
) -> None:
    """Row 13: it cannot see that its agent is gone, nor renew; its executor sees that, and ends."""
    lease_s = 3.0
    with contextlib.closing(Hosts(lease_s)) as hosts:
        job, worker, executor = running(hosts, tmp_path / "runs")
        agent, supervisor = hosts.agent_of(worker), int(worker["pid"])
        halt(supervisor)
        stopped_at = time.monotonic()
        agent.kill()
        agent.wait()
        hosts.stack.start("host", name="successor")
        try:
            wait_until(lambda: not alive(executor), what="its executor is gone")
            assert time.monotonic() - stopped_at < lease_s + EXECUTOR_GONE_S
            assert job.result(30) == 2
        finally:
            os.kill(supervisor, signal.SIGCONT)
        wait_until(lambda: not alive(supervisor), what="it ends once it goes on")
        assert job.result(0) == 2
