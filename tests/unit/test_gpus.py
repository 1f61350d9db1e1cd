"""What a host sees of its GPUs: NVIDIA's own client library, on machines that are made up."""

from __future__ import annotations

import builtins
import ctypes
from typing import TYPE_CHECKING, Any

import pytest

from flashq_worker.gpus.hygiene import Verdict, judge
from flashq_worker.gpus.nvml import Gpus
from flashq_worker.gpus.records import Gpu, Sample, fault_of, version_text
from tests.nvml.machine import GIB, Device, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("nvml")

LOST, MISMATCH, UNKNOWN, NO_PERMISSION, NOT_SUPPORTED, FUNCTION_MISSING = 15, 18, 999, 4, 3, 13


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    found = Gpus()
    yield found
    found.close()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def made(*devices: Device, **about: Any) -> Machine:
        return Machine(tmp_path, *devices, **about).here(monkeypatch)

    return made


# -- what there is -------------------------------------------------------------------------------------


def test_gpus_are_described_by_uuid(machine: Callable[..., Machine], gpus: Gpus) -> None:
    machine(
        Device("GPU-a", "NVIDIA GeForce RTX 4090", used=GIB // 2, utilisation=37, ecc=-1),
        Device("GPU-b", "NVIDIA H100 80GB HBM3", total=80 * GIB, ecc=2, capability="9.0"),
    )

    found = gpus.sample()

    assert found == Sample(
        gpus=(
            Gpu(
                "GPU-a", "NVIDIA GeForce RTX 4090", 24 * GIB, capability="8.9", used_bytes=GIB // 2,
                peak_bytes=GIB // 2, utilisation=37,
            ),
            Gpu("GPU-b", "NVIDIA H100 80GB HBM3", 80 * GIB, capability="9.0", utilisation=0, ecc_errors=2),
        ),
        driver="550.54.15",
        cuda="12.4",
    )  # fmt: skip


def test_slices_stand_for_a_device_in_mig_mode(machine: Callable[..., Machine], gpus: Gpus) -> None:
    slices = [Device(f"MIG-{n}", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * GIB) for n in range(2)]
    machine(Device("GPU-a", mig=1, slices=slices), Device("GPU-b", mig=0))

    found = gpus.sample()

    assert [(gpu.uuid, gpu.parent, gpu.memory_bytes) for gpu in found.gpus] == [
        ("MIG-0", "GPU-a", 10 * GIB),
        ("MIG-1", "GPU-a", 10 * GIB),
        ("GPU-b", "", 24 * GIB),
    ]
    assert found.faults == ()


def test_mig_mode_without_slices_is_said(machine: Callable[..., Machine], gpus: Gpus) -> None:
    made = machine(Device("GPU-a"))
    assert gpus.sample().faults == ()
    made.devices[0].mig = 1
    made.write()

    found = gpus.sample()

    assert found.gpus == ()
    assert found.faults == ("GPU GPU-a (NVIDIA L4) is in MIG mode and has no slices",)


# -- who uses it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "foreign"),
    [
        ({}, False),
        ({"used": GIB // 2}, False),
        ({"used": 2 * GIB}, True),
        ({"computing": {7: GIB}, "used": GIB}, True),
        ({"computing": {7: -1}}, True),
        ({"drawing": {7: 3 * GIB}, "used": 3 * GIB}, False),
        ({"drawing": {7: GIB}, "computing": {7: GIB}, "used": GIB}, False),
        ({"drawing": {7: GIB}, "used": 3 * GIB}, True),
    ],
    ids=[
        "free", "the driver's own memory", "memory of nobody shown", "computing", "computing, memory unknown",
        "a display", "a display that computes", "a display and somebody else",
    ],
)  # fmt: skip
def test_gpu_is_foreign_when_somebody_else_computes_on_it(
    machine: Callable[..., Machine], gpus: Gpus, device: dict[str, Any], foreign: bool
) -> None:
    machine(Device("GPU-a", **device))
    assert [gpu.foreign for gpu in gpus.sample().gpus] == [foreign]
    assert [gpu.foreign for gpu in gpus.sample(held={"GPU-a"}).gpus] == [False]


def test_processes_that_are_not_told_show_by_their_memory(
    machine: Callable[..., Machine], gpus: Gpus
) -> None:
    made = machine(Device("GPU-a", computing={7: GIB}, used=GIB // 2))
    made.fails = dict.fromkeys(
        ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"),
        NOT_SUPPORTED,
    )
    made.write()
    assert [gpu.foreign for gpu in gpus.sample().gpus] == [False]
    made.devices[0].used = 2 * GIB
    made.write()
    assert [gpu.foreign for gpu in gpus.sample().gpus] == [True]


def test_memory_that_stays_after_a_worker_is_foreign_until_it_is_back_where_it_was(
    machine: Callable[..., Machine], gpus: Gpus
) -> None:
    made = machine(Device("GPU-a", used=100 << 20))
    seen = []
    for used, held in [(100, False), (9000, True), (600, True), (600, False), (120, False)]:
        made.devices[0].used = used << 20
        made.write()
        (gpu,) = gpus.sample(held={"GPU-a"} if held else ()).gpus
        seen.append((gpu.foreign, gpu.peak_bytes >> 20))
    assert seen == [(False, 100), (False, 9000), (False, 9000), (True, 600), (False, 120)]


# -- trouble -------------------------------------------------------------------------------------------


def test_old_driver_that_knows_less_still_tells_what_it_can(
    machine: Callable[..., Machine], gpus: Gpus
) -> None:
    made = machine(Device("GPU-a", used=GIB))
    names: tuple[str, ...] = (
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetTotalEccErrors",
    )
    names += ("nvmlDeviceGetCudaComputeCapability", "nvmlSystemGetCudaDriverVersion_v2", "nvmlEventSetCreate")
    made.fails = dict.fromkeys(names, FUNCTION_MISSING)
    made.write()

    (gpu,) = gpus.sample().gpus

    assert gpu == Gpu("GPU-a", "NVIDIA L4", 24 * GIB, used_bytes=GIB, peak_bytes=GIB)


def test_gpu_that_is_lost_is_named_and_the_others_stay(machine: Callable[..., Machine], gpus: Gpus) -> None:
    made = machine(Device("GPU-a"), Device("GPU-b"))
    assert len(gpus.sample().gpus) == 2
    made.devices[0].error = LOST
    made.write()

    found = gpus.sample()

    assert [gpu.uuid for gpu in found.gpus] == ["GPU-b"]
    assert found.faults == (
        "GPU 0 cannot be read: GPU is lost",
        "GPU GPU-a (NVIDIA L4) was there before, and is not now",
    )
    made.devices[0].error = 0
    made.write()
    assert [gpu.uuid for gpu in gpus.sample().gpus] == ["GPU-a", "GPU-b"]


def test_gpu_that_vanishes_is_remembered(machine: Callable[..., Machine], gpus: Gpus) -> None:
    made = machine(Device("GPU-a"), Device("GPU-b"))
    gpus.sample()
    del made.devices[1]
    made.write()
    assert gpus.sample().faults == ("GPU GPU-b (NVIDIA L4) was there before, and is not now",)


@pytest.mark.parametrize("function", ["nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"])
def test_error_midway_leaves_out_the_device_and_says_so(
    machine: Callable[..., Machine], gpus: Gpus, function: str
) -> None:
    made = machine(Device("GPU-a"))
    made.fails = {function: UNKNOWN, function + "_v2": UNKNOWN}
    made.write()
    found = gpus.sample()
    assert found.gpus == ()
    assert "GPU 0 cannot be read: Unknown Error" in found.faults


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
@pytest.mark.parametrize("error", [MISMATCH, NO_PERMISSION, UNKNOWN])
def test_nvml_that_fails_as_a_whole_is_no_machine_without_gpus(
    machine: Callable[..., Machine], gpus: Gpus, function: str, error: int
) -> None:
    made = machine(Device("GPU-a"))
    made.fails = {function: error}
    made.write()
    assert gpus.sample().gpus == ()
    assert len(gpus.sample().faults) == 1
    made.fails = {}
    made.write()
    assert [gpu.uuid for gpu in gpus.sample().gpus] == ["GPU-a"]


def test_driver_that_is_taken_away_and_comes_back(machine: Callable[..., Machine], gpus: Gpus) -> None:
    made = machine(Device("GPU-a"))
    gpus.sample()
    made.unload()
    gone = [gpus.sample() for _ in range(3)]
    assert [found.gpus for found in gone] == [()] * 3
    assert gone[-1].faults == ("GPU GPU-a (NVIDIA L4) was there before, and is not now",)
    made.write()
    assert gpus.sample().faults == ()
    assert len(gpus.sample().gpus) == 1


def test_machine_without_a_driver_has_no_gpus_and_no_faults(
    machine: Callable[..., Machine], gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine().unload()
    assert gpus.sample() == Sample()

    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert gpus.sample() == Sample()


def test_driver_without_the_client_library_is_said(
    machine: Callable[..., Machine], gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(Device("GPU-a"))
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "pynvml":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    (fault,) = gpus.sample().faults
    assert "nvidia-ml-py is not installed" in fault


def test_errors_that_the_driver_reports_are_told_and_the_fatal_ones_make_it_unfit(
    machine: Callable[..., Machine], gpus: Gpus
) -> None:
    made = machine(Device("GPU-a"), Device("GPU-b"))
    assert [gpu.xid for gpu in gpus.sample().gpus] == [None, None]
    made.devices[0].xid, made.devices[1].xid = 31, 79
    made.write()

    found = gpus.sample()

    assert [(gpu.xid, bool(gpu.fault)) for gpu in found.gpus] == [(31, False), (79, True)]
    assert gpus.sample() == found
    assert found.unfit(["GPU-a"]) == ""
    assert found.unfit(["GPU-a", "GPU-b"]) == (
        "its GPU GPU-b (NVIDIA L4) is unfit: XID 79: it has fallen off the bus"
    )


def test_unfit_says_why() -> None:
    busy = Gpu("GPU-a", "NVIDIA L4", GIB, foreign=True)
    found = Sample((busy,), faults=("GPU 1 cannot be read: GPU is lost",))
    assert found.unfit([]) == ""
    assert found.unfit(["GPU-a"]) == "its GPU GPU-a (NVIDIA L4) is in use by another program"
    assert found.unfit(["GPU-b"]) == "its GPU GPU-b is not there; GPU 1 cannot be read: GPU is lost"


def test_words_for_numbers() -> None:
    assert (version_text(12040), version_text(13010), version_text(11080)) == ("12.4", "13.1", "11.8")
    assert (fault_of(None), fault_of(13)) == ("", "")


# -- after a worker's end --------------------------------------------------------------------------------

CLEAN = Gpu("GPU-a", "NVIDIA L4", 24 * GIB)
DIRTY = Gpu("GPU-a", "NVIDIA L4", 24 * GIB, foreign=True, used_bytes=600 << 20)
BROKEN = Gpu("GPU-a", "NVIDIA L4", 24 * GIB, fault="XID 79: it has fallen off the bus")


@pytest.mark.parametrize(
    ("gpu", "held", "kept", "waited_s", "verdict"),
    [
        (CLEAN, False, False, 99.0, None),
        (DIRTY, False, False, 99.0, None),
        (CLEAN, True, False, 0.0, Verdict()),
        (DIRTY, True, False, 9.9, None),
        (DIRTY, True, False, 10.0, Verdict("FOREIGN_MEMORY 600 MiB in use 10 s after its worker's end")),
        (BROKEN, True, False, 10.0, Verdict("UNFIT XID 79: it has fallen off the bus")),
        (DIRTY, False, True, 99.0, None),
        (BROKEN, False, True, 99.0, None),
        (CLEAN, False, True, 0.0, Verdict()),
    ],
)
def test_what_becomes_of_a_gpu_after_its_workers_end(
    gpu: Gpu, held: bool, kept: bool, waited_s: float, verdict: Verdict | None
) -> None:
    assert judge(gpu, held=held, kept=kept, waited_s=waited_s, limit_s=10.0) == verdict
