"""Four machines that run workers, on a network of their own, with GPUs that are made up; broker and autoscaler here."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

from flashq.store import gpu_leases
from tests.acceptance.stage import Program, environment
from tests.engines.lan import Lan
from tests.nvml.machine import GIB, Device
from tests.nvml.machine import Machine as GpuMachine
from tests.rig import BrokerServer, Rig, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

PASSWORD = "of-four-machines"
LEASE_S = 8.0
A100 = "NVIDIA A100-SXM4-80GB"
MACHINES: dict[str, tuple[tuple[str, ...], tuple[Device, ...]]] = {
    "cellar1": (("zone=cellar", "datacenter=EU-RO-1"), (Device("GPU-c1a"), Device("GPU-c1b"))),
    "cellar2": (("zone=cellar", "datacenter=US-GA-1"), (Device("GPU-c2", A100, 80 * GIB),)),
    "attic1": (("zone=attic", "datacenter=EU-RO-1"), ()),
    "attic2": (("zone=attic", "datacenter=US-GA-1"), (Device("GPU-a2"),)),
}
"""Each one's labels and GPUs."""


class Host:
    """A `flashq host` on one of the machines."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.name = name
        self.machine = fleet.lan.machines[name]
        labels, devices = MACHINES[name]
        folder = fleet.folder / name
        folder.mkdir()
        self.gpus = GpuMachine(folder, *devices)
        self._fleet, self._labels, self._home = fleet, labels, folder / "h"
        self.programs: list[Program] = []
        self.start()

    def start(self) -> None:
        """Start it: with the home that it had before, if it had one."""
        folder = self._home.parent / f"start-{len(self.programs)}"
        folder.mkdir()
        labels = [word for label in self._labels for word in ("--label", label)]
        command = self.machine.within([sys.executable, "-P", "-m", "flashq", "host", *labels])
        env = environment(self._fleet.rig, FLASHQ_HOME=str(self._home))
        self.programs.append(Program(command, folder, self.gpus.environ(env), None))

    def kill(self) -> None:
        """SIGKILL for the agent, and nobody else."""
        self.programs[-1].process.kill()
        self.programs[-1].process.wait()


class Fleet:
    """All of it."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self.lan = Lan(*MACHINES)
            stack.callback(self.lan.close)
            port = free_port()
            server = BrokerServer(
                arguments=("--port", str(port), "--bind", self.lan.address),
                url=f"redis://:{PASSWORD}@{self.lan.address}:{port}/0",
                password=PASSWORD,
            )
            stack.callback(server.close)
            self.rig = Rig(server, lease_s=LEASE_S)
            stack.callback(self.rig.close)
            self.folder = server.folder / "machines"
            here = self.folder / "here"
            here.mkdir(parents=True)
            self.hosts: dict[str, Host] = {}
            stack.callback(self._end)
            command = [sys.executable, "-P", "-m", "flashq", "autoscaler"]
            self.autoscaler = Program(command, here, environment(self.rig), None)
            for name in MACHINES:
                self.hosts[name] = Host(self, name)
            wait_until(lambda: len(self.listed()) == len(MACHINES), 120, "all hosts on record")
            self.close = stack.pop_all().close

    def _end(self) -> None:
        for host in self.hosts.values():
            host.machine.heal()
        programs = [self.autoscaler, *(each for host in self.hosts.values() for each in host.programs)]
        for patience_s in (5, 10):  # the second signal ends what still runs on a host
            for program in programs:
                program.process.terminate()
            for program in programs:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.ended(patience_s)
        for program in programs:
            program.close()

    # -- what the broker says ----------------------------------------------------------------------------
    def _read(self, kind: str, *subject: str) -> dict[str, float]:
        flat = self.rig.broker.execute("ZRANGE", self.rig.broker.keys.of(kind, *subject), 0, -1, "WITHSCORES")
        return {name.decode(): float(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}

    def listed(self) -> dict[str, str]:
        """The names of the machines whose hosts are on record, by the hosts' ids."""
        return {host: host.rpartition("-")[0] for host in self._read("hosts")}

    def now_ms(self) -> int:
        seconds, micros = self.rig.broker.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def heard(self, name: str, *, lately: bool = False) -> bool:
        """Whether the host of a machine is on record, its lease not ended; `lately`: not half of it has passed."""
        until = {host.rpartition("-")[0]: at for host, at in self._read("hosts").items()}
        return until.get(name, 0.0) > self.now_ms() + lately * LEASE_S * 600

    def quiet(self) -> bool:
        """Whether every host is well, and no worker and no GPU is anybody's."""
        names = [
            name.decode()
            for name in self.rig.broker.execute("SMEMBERS", self.rig.broker.keys.of("endpoints"))
        ]
        leases = gpu_leases.of(self.rig.broker, [gpu.uuid for _, gpus in MACHINES.values() for gpu in gpus])
        return (
            not any(self.workers(name) for name in names)
            and all(lease.free for lease in leases.values())
            and all(self.heard(name, lately=True) for name in MACHINES)
        )

    def workers(self, endpoint: str) -> dict[str, str]:
        """Its workers on record, with the machine of each."""
        found = self._read("endpoint_workers", endpoint)
        return {worker: self.rig.worker_field(worker, "fq_host").rpartition("-")[0] for worker in found}

    def condition(self, endpoint: str) -> str:
        key = self.rig.broker.keys.of("endpoint", endpoint)
        return (self.rig.broker.execute("HGET", key, "condition") or b"").decode()

    def lease(self, uuid: str) -> gpu_leases.GpuLease | None:
        return gpu_leases.of(self.rig.broker, [uuid]).get(uuid)

    def lost(self, workers: Mapping[str, str]) -> set[str]:
        """Those of these workers that were given up."""
        return {event["subject"] for event in self.rig.events("worker-lost")} & workers.keys()

    def outcomes(self, job: str) -> int:
        """How many outcomes are stored of a job."""
        return int(self.rig.broker.execute("XLEN", self.rig.broker.keys.of("results", job)))
