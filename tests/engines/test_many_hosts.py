"""Four hosts in network namespaces: where workers are placed, and what partitions and dead host agents cost.

The GPUs are made up (tests/nvml), and so is nothing else: agents, workers and autoscaler are the shipped ones, and
talk to a broker with a password over a bridge. A lease is 8 s here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.engines.fleet import A100, LEASE_S, Fleet
from tests.engines.lan import missing_lan
from tests.integration.fleet_rig import alive
from tests.nvml.machine import GIB
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flashq.store.gpu_leases import GpuLease

pytestmark = [
    pytest.mark.engines,
    pytest.mark.requires("valkey", "nvml"),
    pytest.mark.timeout(300),
]

PATIENCE_S = 60.0
SHORT_S = 1.5
"""A cut that leaves time for TCP to notice its end within a lease, whose third a renewal may be old."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    reason = missing_lan()
    if reason is not None:
        pytest.skip(reason)
    made = Fleet()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def _quiet(fleet: Fleet, tmp_path: Path) -> Iterator[None]:
    """Each test finds the machines as they were at first: an environment in use would attract its workers."""
    wait_until(fleet.quiet, PATIENCE_S, "no worker, no GPU in use, every host well")
    yield
    Runs(tmp_path).open(*fleet.hosts)  # also where the test failed
    for host in fleet.hosts.values():
        host.machine.heal()


def where(folder: str = "", job: str = "") -> tuple[str, str]:
    """The machine and the GPUs. With a folder: note that it runs there, and wait until its machine's gate is open."""
    import os
    import socket
    import time
    from pathlib import Path

    def computes(pid: str) -> bool:
        try:
            return ") Z " not in Path(f"/proc/{pid}/stat").read_text()  # an init may take its time to reap
        except OSError:
            return False

    machine, gpus = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if folder:
        told = Path(folder, "told")
        before = told.read_text().splitlines() if told.exists() else []
        beside = "-"
        for line in before:
            _, _, _, others, pid = line.split()[:5]
            if gpus and set(others.split(",")) & set(gpus.split(",")) and computes(pid):
                beside = pid
        with told.open("ab", buffering=0) as file:
            file.write(f"run {job} {machine} {gpus or '-'} {os.getpid()} {beside}\n".encode())
        while not Path(folder, f"open-{machine}").exists():
            time.sleep(0.02)
    return machine, gpus


@dataclass(frozen=True)
class Run:
    """One run of a job. `beside`: the process of another run on one of its GPUs that was there when it began."""

    job: str
    machine: str
    gpus: str
    pid: int
    beside: str


class Runs:
    """What the runs of a test's jobs noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self, job: str = "") -> list[Run]:
        file = self.folder / "told"
        lines = [line.split()[1:] for line in file.read_text().splitlines()] if file.exists() else []
        runs = [Run(name, machine, gpus, int(pid), beside) for name, machine, gpus, pid, beside in lines]
        return [run for run in runs if job in ("", run.job)]

    def open(self, *machines: str) -> None:
        """Let the runs on these machines end."""
        for machine in machines:
            (self.folder / f"open-{machine}").touch()


def endpoint(name: str, **parameters: Any) -> Any:
    return Endpoint(name=name, **{"idle_timeout": 1, "retries": 0, **parameters})(where)


# -- placement ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "machines", "gpus"),
    [
        ("in-the-attic", {"cpu": "any", "hosts": "zone=attic"}, {"attic1", "attic2"}, {""}),
        ("in-the-us", {"cpu": "any", "datacenter": "US-GA-1"}, {"cellar2", "attic2"}, {""}),
        ("both-labels", {"cpu": "any", "hosts": "zone=attic", "datacenter": "EU-RO-1"}, {"attic1"}, {""}),
        ("two-gpus", {"gpu": "any", "gpu_count": 2}, {"cellar1"}, {"GPU-c1a,GPU-c1b"}),
        ("large-gpu", {"gpu": ["A100", "L4"]}, {"cellar2"}, {"GPU-c2"}),
        ("gpu-in-the-attic", {"gpu": "any", "hosts": "zone=attic"}, {"attic2"}, {"GPU-a2"}),
    ],
)
def test_a_worker_runs_where_its_endpoint_asks_for(
    fleet: Fleet, name: str, parameters: dict[str, Any], machines: set[str], gpus: set[str]
) -> None:
    machine, visible = endpoint(name, **parameters).spawn().result(PATIENCE_S)
    assert machine in machines
    assert visible in gpus


def test_the_gpu_named_first_goes_first_and_the_next_to_the_second_worker(
    fleet: Fleet, tmp_path: Path
) -> None:
    runs, pair = Runs(tmp_path), endpoint("a-pair", gpu=["A100", "L4"], workers=(0, 2))
    jobs = [pair.spawn(str(tmp_path), "first")]
    wait_until(runs.all, PATIENCE_S, "the first runs")
    jobs.append(pair.spawn(str(tmp_path), "second"))
    wait_until(lambda: runs.all("second"), PATIENCE_S, "the second runs")
    runs.open(*fleet.hosts)
    (first, second) = [job.result(PATIENCE_S) for job in jobs]
    assert first == ("cellar2", "GPU-c2")
    assert second[1] in ("GPU-a2", "GPU-c1a", "GPU-c1b")


def test_what_no_host_has_is_said_by_what_they_lack(fleet: Fleet) -> None:
    jobs = [
        endpoint("on-the-moon", cpu="any", hosts="zone=moon").spawn(),
        endpoint("three-gpus", gpu="any", gpu_count=3).spawn(),
    ]
    wait_until(lambda: '"NO_LABEL"' in fleet.condition("on-the-moon"), PATIENCE_S)
    wait_until(lambda: '"NO_GPU"' in fleet.condition("three-gpus"), PATIENCE_S)
    assert [job.cancel().result(PATIENCE_S) for job in jobs] == ["cancelled"] * 2


# -- partitions --------------------------------------------------------------------------------------------


def processes(fleet: Fleet, workers: dict[str, str]) -> list[int]:
    """The supervisors of these workers."""
    return [int(pid) for worker in workers if (pid := fleet.rig.worker_field(worker, "pid"))]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["cut", "deafen"])
def test_jobs_of_a_machine_that_is_cut_off_run_elsewhere_once(fleet: Fleet, tmp_path: Path, how: str) -> None:
    """Given four jobs on one machine and one on another, if the first machine is cut off for longer than a lease, or
    hears nothing, expect each of its jobs to run once more, elsewhere, with one outcome, whatever comes late."""
    name, victim, runs = f"off-{how}", "attic1", Runs(tmp_path)
    many = endpoint(name, cpu="any", datacenter="EU-RO-1", workers=(0, 4))
    bystander = endpoint(f"beside-{how}", cpu="any", hosts="zone=attic", datacenter="US-GA-1")
    jobs = {f"job-{n}": many.spawn(str(tmp_path), f"job-{n}") for n in range(4)}
    quiet = bystander.spawn(str(tmp_path), "bystander")
    wait_until(lambda: len(runs.all()) == 5, PATIENCE_S, "all five run")
    assert {run.machine for run in runs.all() if run.job in jobs} == {victim}
    before, first = fleet.workers(name), runs.all()

    # If nothing gets through (and the runs there end just then), expect the jobs to run anew after a lease
    getattr(fleet.hosts[victim].machine, how)()
    cut = time.monotonic()
    if how == "cut":
        runs.open(victim)  # deaf as it is, it could tell the broker
    wait_until(lambda: len(runs.all()) == 9, 2 * LEASE_S + PATIENCE_S, "each of the four runs again")
    assert time.monotonic() - cut > LEASE_S / 2
    assert not fleet.heard(victim)
    assert set(before) == fleet.lost(before)
    assert not before.keys() & fleet.workers(name).keys()

    # If it is connected again, expect its agent back and those workers to end, whatever they had to say
    fleet.hosts[victim].machine.heal()
    wait_until(lambda: fleet.heard(victim), PATIENCE_S, "the host is heard of again")
    gone = [run.pid for run in first if run.job in jobs] + processes(fleet, before)
    wait_until(lambda: not any(alive(pid) for pid in gone), PATIENCE_S, "its old workers end")

    # Expect exactly one outcome of each job: that of its second run
    runs.open(*fleet.hosts)
    assert {job.result(PATIENCE_S)[0] for job in jobs.values()} == {"cellar1"}
    assert quiet.result(PATIENCE_S)[0] == "attic2"
    for tag, job in jobs.items():
        assert [run.machine for run in runs.all(tag)] == [victim, "cellar1"]
        assert fleet.outcomes(job.id) == 1
        assert fleet.rig.job_field(job.id, "fq_attempts") == "2"
    assert fleet.rig.job_field(quiet.id, "fq_attempts") == "1"

    # Expect the machine to be used as before
    assert endpoint(f"back-{how}", cpu="any", hosts="zone=attic", datacenter="EU-RO-1").spawn().result(
        PATIENCE_S
    ) == (victim, "")


@pytest.mark.parametrize("how", ["cut", "deafen"])
def test_a_partition_shorter_than_a_lease_replaces_nothing(fleet: Fleet, tmp_path: Path, how: str) -> None:
    """Given a job on a machine, if that is cut off for less than a lease, expect the same worker to end the job."""
    name, runs = f"short-{how}", Runs(tmp_path)
    job = endpoint(name, cpu="any", hosts="zone=attic", datacenter="EU-RO-1").spawn(str(tmp_path), "job")
    wait_until(runs.all, PATIENCE_S, "it runs")
    before, machine = fleet.workers(name), fleet.hosts["attic1"].machine
    getattr(machine, how)()
    healed = time.monotonic() + SHORT_S
    wait_until(lambda: time.monotonic() >= healed, what="the cut")
    machine.heal()
    wait_until(lambda: time.monotonic() >= healed + LEASE_S, LEASE_S + 15, "a lease")
    assert fleet.workers(name) == before
    assert fleet.heard("attic1")
    runs.open("attic1")
    assert job.result(PATIENCE_S)[0] == "attic1"
    assert len(runs.all()) == 1
    assert not fleet.lost(before)
    assert fleet.rig.job_field(job.id, "fq_attempts") == "1"


def test_gpus_of_a_machine_that_was_cut_off_are_given_again_when_they_are_seen_free(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Given a job on a GPU, if its machine is cut off for longer than a lease, expect the GPU to be nobody's until the
    machine is back and sees that nothing computes there."""
    runs, cellar = Runs(tmp_path), fleet.hosts["cellar1"]
    once = endpoint("gpu-cut-off", gpu="L4", hosts="zone=cellar", workers=(0, 1))
    job = once.spawn(str(tmp_path), "once")
    wait_until(runs.all, PATIENCE_S, "it runs")
    (run,) = runs.all()
    (device,) = [each for each in cellar.gpus.devices if each.uuid == run.gpus]
    device.used, device.computing = 2 * GIB, {run.pid: 2 * GIB}
    cellar.gpus.write()
    before = fleet.workers("gpu-cut-off")

    cellar.machine.cut()
    wait_until(lambda: fleet.lost(before), LEASE_S + PATIENCE_S, "its worker is given up")
    both = endpoint("both-gpus", gpu="L4", gpu_count=2).spawn(str(tmp_path), "both")
    wait_until(lambda: not alive(run.pid), PATIENCE_S, "the executor ends by itself")
    cellar.machine.heal()
    wait_until(lambda: fleet.heard("cellar1"), PATIENCE_S, "the host is back")

    # If something computes on the GPU still, expect it to be kept from workers, and the job for both GPUs to wait
    def lease() -> GpuLease:
        found = fleet.lease(run.gpus)
        assert found is not None
        return found

    assert not lease().free
    wait_until(lambda: lease().why, PATIENCE_S, "the GPU is kept from workers")
    wait_until(lambda: len(runs.all("once")) == 2, PATIENCE_S, "the job runs on the other GPU")
    assert runs.all("once")[1].gpus != run.gpus
    assert not runs.all("both")

    # If it is free, expect both jobs, in turn, and never two processes on it
    device.used, device.computing = 0, {}
    cellar.gpus.write()
    runs.open(*fleet.hosts)
    assert job.result(PATIENCE_S)[0] == "cellar1"
    assert both.result(2 * PATIENCE_S) == ("cellar1", "GPU-c1a,GPU-c1b")
    assert {run.beside for run in runs.all()} == {"-"}
    assert fleet.outcomes(job.id) == 1
    assert fleet.rig.job_field(job.id, "fq_attempts") == "2"


# -- an agent that is killed -------------------------------------------------------------------------------


def test_an_agent_killed_while_its_workers_go_on(fleet: Fleet, tmp_path: Path) -> None:
    """Given a job on a GPU, if its host agent is killed, expect the worker to end with it and tell the broker at once,
    and the next agent of the machine to have the job run on that GPU, alone."""
    runs, cellar = Runs(tmp_path), fleet.hosts["cellar2"]
    job = endpoint("orphaned", gpu=A100).spawn(str(tmp_path), "job")
    wait_until(runs.all, PATIENCE_S, "it runs")
    (run,) = runs.all()
    before = fleet.workers("orphaned")
    family = [run.pid, *processes(fleet, before)]

    cellar.kill()
    wait_until(lambda: not any(alive(pid) for pid in family), PATIENCE_S, "its workers end with it")
    wait_until(lambda: fleet.rig.job_field(job.id, "fq_state") == "queued", PATIENCE_S, "the job is queued")
    cellar.start()
    wait_until(lambda: len(runs.all()) == 2, PATIENCE_S, "it runs again")
    runs.open("cellar2")

    assert job.result(PATIENCE_S) == ("cellar2", "GPU-c2")
    assert [each.beside for each in runs.all()] == ["-", "-"]
    assert fleet.outcomes(job.id) == 1
    assert fleet.rig.job_field(job.id, "fq_attempts") == "2"
    assert len(fleet.listed()) == len(fleet.hosts), "it is the same host as before"
