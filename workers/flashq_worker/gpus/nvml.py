"""Reads the GPUs of this machine: the only module that talks to NVML.

NVML may be missing, fail at any call, lose a device or its driver, and be well again later. Each look takes what can be
read, and names what cannot (`Sample.faults`); after a failure of the whole it is opened anew.
"""

from __future__ import annotations

import ctypes
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from flashq_worker.gpus.records import Gpu, Sample, Use, fault_of, version_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

log = logging.getLogger("flashq.host")
_LIBRARY = "libnvidia-ml.so.1"
_MOST_EVENTS = 100  # taken at one look


class Gpus:
    """The GPUs of this machine, asked of NVML anew each time. Use it from one thread."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._events: Any = None
        self._watched: dict[int, str] = {}  # handles of devices whose errors are told, and their UUIDs
        self._xids: dict[str, int] = {}
        self._known: dict[str, str] = {}  # devices seen since the start, and their names
        self._baseline: dict[str, int] = {}
        self._peaks: dict[str, int] = {}
        self._said: tuple[str, ...] | None = None

    def sample(self, held: Collection[str] = ()) -> Sample:
        """Every GPU now; those in `held` are in use by this host's workers, so by nobody foreign."""
        found = self._look(held)
        if found.faults != self._said:
            for fault in found.faults:
                log.warning("GPUs: %s", fault)
            if self._said is None and not (found.faults or found.gpus):
                log.info("no GPUs: this machine has no NVIDIA driver, or the driver no device")
            self._said = found.faults
        return found

    def close(self) -> None:
        """Let go of NVML."""
        if self._nvml is not None:
            nvml, self._nvml, self._events = self._nvml, None, None
            self._watched = {}
            _told(nvml, nvml.nvmlShutdown)

    # -- NVML itself ---------------------------------------------------------------------------------
    def _look(self, held: Collection[str]) -> Sample:
        if self._nvml is None:
            self._nvml, why = _load()
            if self._nvml is None:
                return Sample(faults=(*([why] if why else []), *self._vanished(())))
            self._watch()
        nvml = self._nvml
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self.close()
            return Sample(faults=(f"NVML does not list them: {error}", *self._vanished(())))
        self._take_events()
        gpus: list[Gpu] = []
        faults: list[str] = []
        for index in range(count):
            self._take(index, held, gpus, faults)
        present = {gpu.parent or gpu.uuid for gpu in gpus}
        self._peaks = {gpu.uuid: gpu.peak_bytes for gpu in gpus if gpu.uuid in held}
        return Sample(
            tuple(gpus),
            (*faults, *self._vanished(present)),
            _told(nvml, nvml.nvmlSystemGetDriverVersion) or "",
            version_text(_told(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2) or 0),
        )

    def _take(self, index: int, held: Collection[str], gpus: list[Gpu], faults: list[str]) -> None:
        """Describe one device, all of it or nothing."""
        nvml = self._nvml
        try:
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = nvml.nvmlDeviceGetUUID(device), nvml.nvmlDeviceGetName(device)
            self._known[uuid] = name
            slices = _slices(nvml, device)
            if slices is None:
                gpus.append(self._describe(device, uuid, held, parent=""))
                return
            found = [self._describe(part, nvml.nvmlDeviceGetUUID(part), held, parent=uuid) for part in slices]
        except nvml.NVMLError as error:
            faults.append(f"GPU {index} cannot be read: {error}")
            return
        gpus += found
        if not found:
            self._known.pop(uuid)
            faults.append(f"GPU {uuid} ({name}) is in MIG mode and has no slices")

    def _vanished(self, present: Collection[str]) -> list[str]:
        gone = [uuid for uuid in self._known if uuid not in present]
        return [f"GPU {uuid} ({self._known[uuid]}) was there before, and is not now" for uuid in gone]

    # -- one device or slice -------------------------------------------------------------------------
    def _describe(self, part: Any, uuid: str, held: Collection[str], parent: str) -> Gpu:
        nvml = self._nvml
        # The second version of the structure counts what the driver keeps for itself apart from `used`.
        memory = _told(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(part, version=nvml.nvmlMemory_v2))
        memory = memory or nvml.nvmlDeviceGetMemoryInfo(part)
        used = int(memory.used)
        drawing = {process.pid: process.usedGpuMemory or 0 for process in _processes(nvml, part, "Graphics")}
        computing = frozenset(process.pid for process in _processes(nvml, part, "Compute"))
        use = Use(used, computing, drawing)
        foreign = uuid not in held and use.busy(self._baseline.get(uuid))
        if uuid not in held and not foreign:
            self._baseline[uuid] = max(0, use.idle_bytes)
        rates = _told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(part))
        capability = _told(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(part))
        xid = self._xids.get(parent or uuid)
        return Gpu(
            uuid=uuid,
            name=nvml.nvmlDeviceGetName(part),
            memory_bytes=int(memory.total),
            foreign=foreign,
            parent=parent,
            capability="" if capability is None else f"{capability[0]}.{capability[1]}",
            used_bytes=used,
            peak_bytes=max(used, self._peaks.get(uuid, 0)) if uuid in held else used,
            utilisation=None if rates is None else int(rates.gpu),
            ecc_errors=_told(
                nvml,
                lambda: nvml.nvmlDeviceGetTotalEccErrors(
                    part, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                ),
            ),
            xid=xid,
            fault=fault_of(xid),
        )

    # -- errors that the driver reports (XID) ----------------------------------------------------------
    def _watch(self) -> None:
        """Ask to be told of errors; a device that does not tell has none here."""
        nvml = self._nvml
        self._events = _told(nvml, nvml.nvmlEventSetCreate)
        if self._events is None:
            return
        for index in range(_told(nvml, nvml.nvmlDeviceGetCount) or 0):
            try:
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                nvml.nvmlDeviceRegisterEvents(device, nvml.nvmlEventTypeXidCriticalError, self._events)
                self._watched[_address(device)] = nvml.nvmlDeviceGetUUID(device)
            except nvml.NVMLError as error:
                log.info("GPU %d does not tell of errors (XID): %s", index, error)

    def _take_events(self) -> None:
        nvml = self._nvml
        for _ in range(_MOST_EVENTS if self._events is not None else 0):
            event = _told(nvml, lambda: nvml.nvmlEventSetWait_v2(self._events, 0))
            if event is None:  # none waits
                return
            uuid = self._watched.get(_address(event.device), "")
            log.warning("GPU %s: the driver reports XID %d", uuid or "(unknown)", event.eventData)
            self._xids[uuid] = int(event.eventData)


def _load() -> tuple[Any, str]:
    """The NVML binding, initialised; or None, and why although there is a driver (empty: there is none)."""
    try:
        ctypes.CDLL(_LIBRARY)  # first, because importing the binding takes longer than starting a worker
    except OSError:
        return None, ""
    try:
        import pynvml
    except ImportError:
        return None, "there is a driver, but nvidia-ml-py is not installed (the extra 'worker' has it)"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        return None, "" if error.value in absent else f"NVML does not start: {error}"
    return pynvml, ""


def _slices(nvml: Any, device: Any) -> list[Any] | None:
    """The MIG slices of a device in MIG mode; None: it is in no such mode."""
    mode = _told(nvml, lambda: nvml.nvmlDeviceGetMigMode(device))
    if mode is None or not mode[0]:
        return None
    return list(_filled(nvml, device))


def _filled(nvml: Any, device: Any) -> Iterator[Any]:
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        part = _told(nvml, partial(nvml.nvmlDeviceGetMigDeviceHandleByIndex, device, slot))
        if part is not None:
            yield part


def _processes(nvml: Any, part: Any, kind: str) -> list[Any]:
    """Those on it; none where that is not told for this kind of device: its memory still is."""
    return _told(nvml, lambda: getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses")(part)) or []


def _told(nvml: Any, ask: Callable[[], Any]) -> Any:
    """The answer; None where this device, driver or version gives none."""
    try:
        return ask()
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
            raise
        return None


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
