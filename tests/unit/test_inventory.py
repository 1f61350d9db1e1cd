"""What a host says of its GPUs, with a stand-in for NVML; of its cores and memory; and what it keeps on disk."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from flashq.errors import SettingsError
from flashq_worker import inventory
from flashq_worker.host_home import LOG_LIMIT_BYTES, LOGS_KEPT, HostHome
from flashq_worker.inventory import Gpu, Gpus

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


class NvmlError(Exception):
    """As pynvml.NVMLError."""


class FakeNvml:
    """The calls of pynvml that inventory makes, over devices given as dicts."""

    NVMLError = NvmlError
    nvmlMemory_v2 = 2  # noqa: N815 — pynvml's name

    def __init__(self, *devices: dict[str, Any]) -> None:
        self._devices = [{"uuid": f"GPU-{n}", "name": "NVIDIA L4", **d} for n, d in enumerate(devices)]

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802
        device = self._devices[index]
        if device.get("lost"):
            raise NvmlError("GPU is lost")
        return device

    def nvmlDeviceGetMigMode(self, device: dict[str, Any]) -> list[int]:  # noqa: N802
        if "slices" not in device:
            raise NvmlError("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: dict[str, Any]) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: dict[str, Any], slot: int) -> Any:  # noqa: N802
        if slot >= len(device["slices"]):
            raise NvmlError("not found")
        return device["slices"][slot]

    def nvmlDeviceGetUUID(self, device: dict[str, Any]) -> str:  # noqa: N802
        return str(device["uuid"])

    def nvmlDeviceGetName(self, device: dict[str, Any]) -> bytes:  # noqa: N802
        return str(device["name"]).encode()

    def nvmlDeviceGetMemoryInfo(self, device: dict[str, Any], version: int = 1) -> Any:  # noqa: N802
        if version == 2 and device.get("old"):
            raise NvmlError("function not found")
        return SimpleNamespace(total=device.get("memory", 24 * GIB), used=device.get("used", 0))

    def nvmlDeviceGetComputeRunningProcesses(self, device: dict[str, Any]) -> list[Any]:  # noqa: N802
        return self._processes(device, "computing")

    def nvmlDeviceGetGraphicsRunningProcesses(self, device: dict[str, Any]) -> list[Any]:  # noqa: N802
        return self._processes(device, "drawing")

    def _processes(self, device: dict[str, Any], kind: str) -> list[Any]:
        if device.get("secretive"):
            raise NvmlError("not supported")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device.get(kind, {}).items()]


@pytest.mark.parametrize(
    ("device", "foreign"),
    [
        ({}, False),
        ({"used": GIB // 2}, False),
        ({"used": 2 * GIB}, True),
        ({"computing": {7: GIB}, "used": GIB}, True),
        ({"computing": {7: None}}, True),
        ({"drawing": {7: 3 * GIB}, "used": 3 * GIB}, False),
        ({"drawing": {7: GIB}, "computing": {7: GIB}, "used": GIB}, False),
        ({"drawing": {7: GIB}, "used": 3 * GIB}, True),
        ({"secretive": True, "used": 2 * GIB}, True),
        ({"secretive": True, "old": True}, False),
    ],
    ids=[
        "free", "the driver's own memory", "memory of nobody shown", "computing", "computing, memory unknown",
        "a display", "a display that computes", "a display and somebody else", "no processes shown", "old driver",
    ],
)  # fmt: skip
def test_gpu_is_foreign_when_somebody_else_computes_on_it(device: dict[str, Any], foreign: bool) -> None:
    gpus = Gpus(FakeNvml(device))
    assert gpus.sample() == [Gpu("GPU-0", "NVIDIA L4", 24 * GIB, foreign)]
    assert gpus.sample(held={"GPU-0"})[0].foreign is False


def test_gpu_that_is_lost_is_left_out() -> None:
    found = Gpus(FakeNvml({"lost": True}, {})).sample()
    assert [gpu.uuid for gpu in found] == ["GPU-1"]


def test_slices_stand_for_a_device_in_mig_mode() -> None:
    slices = [{"uuid": f"MIG-{n}", "name": "NVIDIA H100 MIG 1g.10gb", "memory": 10 * GIB} for n in range(2)]
    found = Gpus(FakeNvml({"slices": slices}, {})).sample()
    assert [(gpu.uuid, gpu.memory_bytes) for gpu in found] == [
        ("MIG-0", 10 * GIB),
        ("MIG-1", 10 * GIB),
        ("GPU-1", 24 * GIB),
    ]


def test_cores_and_memory_are_limited_by_the_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inventory, "_CGROUP", tmp_path)
    unlimited = inventory.cores(), inventory.memory_bytes()
    assert unlimited[0] >= 1
    assert unlimited[1] > 0
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    assert (inventory.cores(), inventory.memory_bytes()) == (0.5, 1 << 20)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (inventory.cores(), inventory.memory_bytes()) == unlimited


def test_host_id_is_made_once(tmp_path: Path) -> None:
    home = HostHome(tmp_path)
    first = home.host_id("box")
    assert re.fullmatch(r"box-[0-9a-f]{8}", first)
    assert HostHome(tmp_path).host_id("box") == first
    assert HostHome(tmp_path).host_id("renamed") == first.replace("box", "renamed")
    (tmp_path / "host-id").write_text("nonsense")
    assert re.fullmatch(r"box-[0-9a-f]{8}", home.host_id("box"))


def test_lock_is_one_agents_and_free_after_it(tmp_path: Path) -> None:
    home = HostHome(tmp_path / "home")
    with home.lock(), pytest.raises(SettingsError, match=rf"process {os.getpid()}\b"), home.lock():
        pass
    with home.lock():
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_logs_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    home = HostHome(tmp_path)
    home.logs.mkdir()
    workers = [f"embed-00000000-0000-0000-0000-{n:012}" for n in range(LOGS_KEPT + 3)]
    for age, worker in enumerate(workers):
        home.log_file(worker).write_text("a line\n")
        os.utime(home.log_file(worker), (age, age))
    with home.log_file(workers[0]).open("ab") as log:
        log.truncate(LOG_LIMIT_BYTES + 1)
    (home.logs / "host.log").write_text("somebody else's\n")
    home.tidy_logs(frozenset({workers[0]}))
    assert home.log_file(workers[0]).stat().st_size == 0
    assert not home.log_file(workers[1]).exists()
    assert not home.log_file(workers[2]).exists()
    assert home.log_file(workers[3]).exists()
    assert (home.logs / "host.log").exists()


def test_tail_is_the_last_lines(tmp_path: Path) -> None:
    home = HostHome(tmp_path)
    assert home.tail("embed-1") == ""
    home.logs.mkdir()
    home.log_file("embed-1").write_bytes(b"".join(b"line %d\n" % n for n in range(1000)) + b"\xff\n")
    assert home.tail("embed-1", lines=2) == "line 999\n�"
    assert len(home.tail("embed-1", lines=10_000).encode()) <= 4096 + 2
