"""A machine with GPUs that tests make up: NVIDIA's own client library reads them from a stand-in for its driver's part.

`nvml.c` is built once a run, and found by LD_LIBRARY_PATH in other processes (`environ`), or by `here` in this one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

GIB = 1 << 30
COMPILER = "cc"
_STATE = "NVML_STUB"


@dataclass
class Device:
    """A GPU of the machine. `error`: what every call about it returns; `xid`: reported at once, if it is another."""

    uuid: str
    name: str = "NVIDIA L4"
    total: int = 24 * GIB
    used: int = 0
    utilisation: int = 0
    ecc: int = 0
    capability: str = "8.9"
    mig: int = -1
    error: int = 0
    xid: int = 0
    computing: dict[int, int] = field(default_factory=dict)
    """Processes and their memory; -1: it is not told."""
    drawing: dict[int, int] = field(default_factory=dict)
    slices: list[Device] = field(default_factory=list)


class Machine:
    """The GPUs of one machine. Change its fields, then `write`."""

    def __init__(self, folder: Path, *devices: Device, cuda: int = 12040, driver: str = "550.54.15") -> None:
        self.devices = list(devices)
        self.cuda, self.driver = cuda, driver
        self.fails: dict[str, int] = {}
        """NVML's functions that return an error, whatever they are asked about."""
        self.file = folder / "nvml.txt"
        self.write()

    def write(self) -> None:
        """Have it be so from the next call on."""
        lines = [f"driver {self.driver}", f"cuda {self.cuda}"]
        lines += [f"fail {name} {error}" for name, error in self.fails.items()]
        number = 0
        for device in self.devices:
            d, parent = device, number
            health = (d.utilisation, d.ecc, d.capability, d.mig, d.error, d.xid)
            lines.append("gpu " + "|".join(map(str, (d.uuid, d.name, d.total, d.used, *health))))
            lines += _processes(device, number)
            number += 1
            for part in device.slices:
                lines.append(f"mig {parent}|{part.uuid}|{part.name}|{part.total}|{part.used}")
                lines += _processes(part, number)
                number += 1
        fresh = self.file.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.rename(self.file)

    def unload(self) -> None:
        """Take the driver away."""
        self.file.unlink()

    def environ(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process that runs on this machine."""
        return {**inherited, "LD_LIBRARY_PATH": str(library().parent), _STATE: str(self.file)}

    def here(self, monkeypatch: pytest.MonkeyPatch) -> Machine:
        """Have this process run on it. (Later tests see a library that finds no driver.)"""
        ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)
        monkeypatch.setenv(_STATE, str(self.file))
        return self


def _processes(device: Device, number: int) -> list[str]:
    kinds = (("compute", device.computing), ("graphics", device.drawing))
    return [f"process {number}|{kind}|{pid}|{used}" for kind, of in kinds for pid, used in of.items()]


@cache
def library() -> Path:
    """The stand-in, built by the system's compiler."""
    home = os.environ.get("FLASHQ_HOME") or tempfile.gettempdir()  # the tests' own, removed after them
    folder = Path(tempfile.mkdtemp(prefix="nvml-", dir=home))
    built = folder / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("nvml.c")
    named = f"-Wl,-soname,{built.name}"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", named, "-o", str(built), str(source)], check=True
    )
    return built


def missing() -> str | None:
    """Why there can be no such machine here; None where there can."""
    return (
        None
        if shutil.which(COMPILER)
        else f"no compiler ({COMPILER}) on this machine, for a stand-in for NVML"
    )
