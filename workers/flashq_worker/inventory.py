"""What this machine can give to workers: cores, memory, GPUs and Python, as its host record says it.

The only module that talks to NVML. A GPU is *foreign* when something other than a worker of this host uses
it: no worker can be placed there. A GPU that NVML cannot describe is left out of the list, with a warning.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

log = logging.getLogger("flashq.host")

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
FREE_GPU_MEMORY_BYTES = 1 << 30
"""A GPU on which nothing runs may still have this much in use: by its driver, by a display."""
_NVML = "libnvidia-ml.so.1"
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of one."""

    uuid: str
    name: str
    memory_bytes: int
    foreign: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For the host's record."""
        return asdict(self)


def hostname() -> str:
    """This machine's name, of the letters that keys and ids may have."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in socket.gethostname())
    return name.strip("-_")[:48] or "host"


def cores() -> float:
    """Cores that this process may use: its affinity, within its control group's quota."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _limit("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        return min(count, int(quota) / int(period))
    return count


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, within its control group's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _limit("memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _limit(name: str) -> str:
    """A limit of the control group that a container sees as its root; empty where there is none."""
    try:
        return (_CGROUP / name).read_text("ascii").strip()
    except OSError:
        return ""


class Gpus:
    """The GPUs of this machine, asked of NVML anew each time. Without a driver there are none."""

    def __init__(self, nvml: Any = None) -> None:
        """`nvml`: the binding, initialised; by default `pynvml`, where there is a driver."""
        self._given = nvml

    @cached_property
    def _nvml(self) -> Any:
        return _load() if self._given is None else self._given

    def sample(self, held: Collection[str] = ()) -> list[Gpu]:
        """Every GPU now; those in `held` are in use by this host's workers, so by nobody foreign."""
        nvml = self._nvml
        if nvml is None:
            return []
        found: list[Gpu] = []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                found += self._device(nvml, index, held)
        except nvml.NVMLError as error:
            log.warning("NVML does not list the GPUs: %s", error)
        return found

    def _device(self, nvml: Any, index: int, held: Collection[str]) -> list[Gpu]:
        try:
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            return [_describe(nvml, part, held) for part in _parts(nvml, device)]
        except nvml.NVMLError as error:
            log.warning("GPU %d of this host is left out: %s", index, error)
            return []


def _load() -> Any:
    """The NVML binding, initialised; None where there is no driver (or no binding)."""
    try:
        ctypes.CDLL(_NVML)  # first, because importing the binding takes longer than starting a worker
    except OSError:
        log.info("no GPUs: this machine has no NVIDIA driver")
        return None
    try:
        import pynvml
    except ImportError:
        log.warning("nvidia-ml-py is not installed (flashq[worker] has it): no GPU of this host is used")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.warning("no GPUs: %s", error)
        return None
    return pynvml


def _parts(nvml: Any, device: Any) -> Iterator[Any]:
    """The MIG slices of a device in MIG mode, else the device."""
    try:
        mig, _ = nvml.nvmlDeviceGetMigMode(device)
    except nvml.NVMLError:  # it knows no MIG
        mig = 0
    if not mig:
        yield device
        return
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, slot)
        except nvml.NVMLError:  # an empty slot
            continue


def _describe(nvml: Any, part: Any, held: Collection[str]) -> Gpu:
    uuid = _text(nvml.nvmlDeviceGetUUID(part))
    try:
        # This version of the structure counts what the driver keeps for itself apart from `used`.
        memory = nvml.nvmlDeviceGetMemoryInfo(part, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError:
        memory = nvml.nvmlDeviceGetMemoryInfo(part)
    foreign = uuid not in held and _in_use(nvml, part, int(memory.used))
    return Gpu(uuid, _text(nvml.nvmlDeviceGetName(part)), int(memory.total), foreign)


def _in_use(nvml: Any, part: Any, used_bytes: int) -> bool:
    """Whether somebody computes on it. A display alone does not; in a container processes may not show."""
    drawing = {process.pid: process.usedGpuMemory or 0 for process in _processes(nvml, part, "Graphics")}
    computing = {process.pid for process in _processes(nvml, part, "Compute")} - drawing.keys()
    return bool(computing) or used_bytes - sum(drawing.values()) > FREE_GPU_MEMORY_BYTES


def _processes(nvml: Any, part: Any, kind: str) -> list[Any]:
    try:
        return list(getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses")(part))
    except nvml.NVMLError:  # not told for this kind of device; its memory still is
        return []


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
