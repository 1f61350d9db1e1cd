"""GPUs of a host, by the agent's own eyes: NVIDIA's client library on machines that are made up. Workers are fakes."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.nvml.machine import GIB, Device, Machine
from tests.rig import wait_until

if TYPE_CHECKING:
    from pathlib import Path

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


def test_gpu_a_worker_leaves_dirty_is_not_free_before_it_is_clean(
    fleet: FleetRig, agent: AgentProcess, host: str, machine: Machine
) -> None:
    fleet.register("embed")
    worker = fleet.order(host, "embed", gpu_uuids=("GPU-a",))
    wait_until(lambda: worker in agent.workers(), what="it runs")
    pid = agent.workers()[worker]["pid"]
    held = machine.devices[0]
    held.computing, held.used = {pid: 5 * GIB}, 5 * GIB
    machine.write()
    wait_until(lambda: recorded(fleet, host)["GPU-a"]["peak_bytes"] == 5 * GIB, what="its memory is seen")
    assert not recorded(fleet, host)["GPU-a"]["foreign"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not fleet.workers("embed"), what="its end is told")
    assert recorded(fleet, host)["GPU-a"]["foreign"]
    held.computing, held.used = {}, 0
    machine.write()
    wait_until(lambda: not recorded(fleet, host)["GPU-a"]["foreign"], what="it is clean")
