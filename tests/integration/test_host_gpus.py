"""GPUs of a host, by the agent's own eyes: NVIDIA's client library on machines that are made up. Workers are fakes."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from flashq.store import gpu_leases
from tests.integration.fleet_rig import alive
from tests.nvml.machine import GIB, Device, Machine
from tests.rig import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from flashq.store.gpu_leases import GpuLease
    from tests.integration.fleet_rig import AgentProcess, FleetRig

pytestmark = pytest.mark.requires("valkey", "nvml")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Two GPUs, free."""
    return Machine(tmp_path, Device("GPU-a"), Device("GPU-b"))


@pytest.fixture
def agent(fleet: FleetRig, machine: Machine) -> AgentProcess:
    return fleet.agent(lease_s=1.0, drain_s=2.0, machine=machine)


@pytest.fixture
def host(fleet: FleetRig, agent: AgentProcess) -> str:
    return fleet.host(agent)


def recorded(fleet: FleetRig, host: str) -> dict[str, dict[str, Any]]:
    """The GPUs of a host's record, by UUID."""
    return {gpu["uuid"]: gpu for gpu in json.loads(fleet.host_fields(host)["gpus"])}


def test_record_of_a_host_tells_of_its_gpus_and_what_happens_to_them(
    fleet: FleetRig, agent: AgentProcess, host: str, machine: Machine
) -> None:
    fields = fleet.host_fields(host)
    assert (fields["driver"], fields["cuda"], fields["gpu_faults"]) == ("550.54.15", "12.4", "[]")
    assert recorded(fleet, host)["GPU-a"] == {
        "uuid": "GPU-a", "name": "NVIDIA L4", "memory_bytes": 24 * GIB, "foreign": False, "parent": "",
        "capability": "8.9", "used_bytes": 0, "peak_bytes": 0, "utilisation": 0, "ecc_errors": 0, "xid": None,
        "fault": "",
    }  # fmt: skip
    a, b = machine.devices
    a.computing, a.used, a.utilisation, a.ecc = {4242: 3 * GIB}, 3 * GIB, 88, 1
    b.xid = 79
    machine.write()
    wait_until(lambda: recorded(fleet, host)["GPU-a"]["foreign"], what="another program is seen")
    seen = recorded(fleet, host)
    assert (seen["GPU-a"]["utilisation"], seen["GPU-a"]["ecc_errors"]) == (88, 1)
    assert seen["GPU-b"]["fault"] == "XID 79: it has fallen off the bus"
    machine.unload()
    wait_until(lambda: not recorded(fleet, host), what="they are gone")
    assert len(json.loads(fleet.host_fields(host)["gpu_faults"])) >= 2
    machine.devices[1].xid = a.used = 0
    a.computing = {}
    machine.write()
    wait_until(lambda: fleet.host_fields(host)["gpu_faults"] == "[]", what="they are back")
    assert not recorded(fleet, host)["GPU-a"]["foreign"]
    agent.signal(signal.SIGTERM)
    assert agent.process.wait(10) == 0


def lease(fleet: FleetRig, uuid: str = "GPU-a") -> GpuLease:
    return gpu_leases.of(fleet.broker, [uuid])[uuid]


def running(agent: AgentProcess, worker: str) -> int:
    """The process of a fake worker, once it runs."""
    wait_until(lambda: worker in agent.workers(), what="it runs")
    return int(agent.workers()[worker]["pid"])


def use(machine: Machine, pid: int, memory: int) -> None:
    """Have a process compute on the first GPU; without memory: no more."""
    machine.devices[0].computing = {pid: memory} if memory else {}
    machine.devices[0].used = memory
    machine.write()


def test_gpu_a_worker_leaves_dirty_is_leased_until_it_is_clean(
    fleet: FleetRig, agent: AgentProcess, host: str, machine: Machine
) -> None:
    fleet.register("embed")
    worker = fleet.order(host, "embed", gpu_uuids=("GPU-a",))
    pid = running(agent, worker)
    assert agent.workers()[worker]["gpus"] == ["GPU-a"]
    use(machine, pid, 5 * GIB)
    wait_until(lambda: recorded(fleet, host)["GPU-a"]["peak_bytes"] == 5 * GIB, what="its memory is seen")
    assert not recorded(fleet, host)["GPU-a"]["foreign"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not fleet.workers("embed"), what="its end is told")
    wait_until(lambda: recorded(fleet, host)["GPU-a"]["foreign"], what="what it left is seen")
    assert (lease(fleet).worker, lease(fleet).fence) == (worker, 1)
    use(machine, pid, 0)
    wait_until(lambda: lease(fleet).free, what="it is given back")
    next_one = fleet.order(host, "embed", gpu_uuids=("GPU-a",))
    running(agent, next_one)
    assert (lease(fleet).worker, lease(fleet).fence) == (next_one, 2)


def test_gpu_that_is_not_clean_in_time_is_kept_from_workers_until_it_is(
    fleet: FleetRig, machine: Machine
) -> None:
    agent = fleet.agent(lease_s=1.0, freeing_s=0.5, machine=machine)
    host = fleet.host(agent)
    fleet.register("embed")
    pid = running(agent, fleet.order(host, "embed", gpu_uuids=("GPU-a",)))
    use(machine, pid, GIB // 2)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: lease(fleet).why, what="it is kept")
    assert lease(fleet).why.startswith("FOREIGN_MEMORY 512 MiB in use")
    assert not lease(fleet).worker
    use(machine, pid, 0)
    wait_until(lambda: lease(fleet).free, what="it is given back")


def test_worker_is_not_started_on_a_gpu_that_is_unfit(
    fleet: FleetRig, agent: AgentProcess, host: str, machine: Machine
) -> None:
    fleet.register("embed")
    machine.devices[0].xid = 79
    use(machine, 4242, 2 * GIB)
    del machine.devices[1]
    machine.write()
    orders = [fleet.order(host, "embed", gpu_uuids=(uuid,)) for uuid in ("GPU-a", "GPU-b")]
    wait_until(lambda: not fleet.workers("embed"), what="both are refused")
    assert agent.logged(f"worker {orders[0]} is not started: its GPU GPU-a (NVIDIA L4) is unfit: XID 79")
    assert agent.logged(f"worker {orders[1]} is not started: its GPU GPU-b is not there")
    assert not agent.workers()


def test_two_agents_of_one_machine_share_its_gpus_without_harm(fleet: FleetRig, machine: Machine) -> None:
    first, second = (fleet.agent(home, lease_s=1.0, machine=machine) for home in ("one", "two"))
    hosts = [fleet.host(first), fleet.host(second)]
    fleet.register("embed")
    worker = fleet.order(hosts[0], "embed", gpu_uuids=("GPU-a",))
    pid = running(first, worker)
    with pytest.raises(AssertionError, match="held"):
        fleet.order(hosts[1], "embed", gpu_uuids=("GPU-a",))
    beat = fleet.host_fields(hosts[1])["beat"]
    wait_until(lambda: fleet.host_fields(hosts[1])["beat"] > beat, what="the other one has looked")
    assert lease(fleet).worker == worker
    first.signal(signal.SIGKILL)
    wait_until(lambda: not alive(pid), what="its worker ends with it")
    fleet.broker.run(fleet.transitions.leave("embed", worker, "its host is gone"))
    wait_until(lambda: lease(fleet).free, what="the other one gives it back")


def test_start_waits_for_a_worker_that_is_ending_though_the_broker_lost_its_lease(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    first = running(agent, fleet.order(host, "embed", gpu_uuids=("GPU-a",)))
    fleet.broker.execute("DEL", fleet.broker.keys.of("gpus"))
    second = fleet.order(host, "embed", gpu_uuids=("GPU-a",))
    third = fleet.order(host, "embed", gpu_uuids=("GPU-b",))
    running(agent, third)
    assert second not in agent.workers()
    os.kill(first, signal.SIGTERM)
    running(agent, second)
    assert not alive(first)


def test_agent_that_comes_back_gives_back_what_the_last_one_left(
    fleet: FleetRig, agent: AgentProcess, host: str, machine: Machine
) -> None:
    fleet.register("embed")
    running(agent, fleet.order(host, "embed", gpu_uuids=("GPU-a",)))
    agent.signal(signal.SIGKILL)
    agent.process.wait()
    fleet.host(fleet.agent(lease_s=1.0, machine=machine))
    wait_until(lambda: lease(fleet).free, what="it is given back")
