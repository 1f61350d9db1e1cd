"""What is known of this machine's GPUs, as plain records, and what follows from it. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FREE_GPU_MEMORY_BYTES = 1 << 30
"""A GPU on which nothing runs may still have this much in use: by its driver, by a display."""
LEFTOVER_BYTES = 256 << 20
"""So much more than before a worker had it may be in use after that one's end."""
_FATAL_XIDS = {
    48: "memory error that cannot be corrected",
    64: "a bad part of its memory cannot be retired",
    79: "it has fallen off the bus",
    95: "memory error that was not contained",
    119: "its system processor does not answer",
    120: "its system processor failed",
}
"""Errors (XID) after which nothing runs on a GPU until it is reset; others are of programs, or mend themselves."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of one. What NVML does not tell of it is None."""

    uuid: str
    name: str
    memory_bytes: int
    foreign: bool = False
    """In use by something that is not a worker of this host."""
    parent: str = ""
    """Of a slice: the UUID of its GPU."""
    capability: str = ""
    """CUDA compute capability, such as "8.9"; empty: not told."""
    used_bytes: int = 0
    peak_bytes: int = 0
    """The most in use at any look since a worker has it."""
    utilisation: int | None = None
    """Percent of time in which something ran."""
    ecc_errors: int | None = None
    """Memory errors that could not be corrected, since the driver was loaded."""
    xid: int | None = None
    """The last error that the driver reported while this was watched."""
    fault: str = ""
    """Why no worker may have it, whoever uses it; empty: it is sound."""

    def as_dict(self) -> dict[str, Any]:
        """For the host's record."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """All GPUs at one moment."""

    gpus: tuple[Gpu, ...] = ()
    faults: tuple[str, ...] = ()
    """What could not be read, or has vanished; while there are any, "none" is not known to be true."""
    driver: str = ""
    cuda: str = ""
    """The newest CUDA that the driver can run, such as "12.4"."""

    def of(self, uuid: str) -> Gpu | None:
        """The GPU of this UUID."""
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)

    def unfit(self, uuids: Collection[str]) -> str:
        """Why a worker cannot begin on these GPUs; empty: it can."""
        for uuid in uuids:
            gpu = self.of(uuid)
            if gpu is None:
                return f"its GPU {uuid} is not there" + "".join(f"; {fault}" for fault in self.faults)
            if gpu.fault:
                return f"its GPU {uuid} ({gpu.name}) is unfit: {gpu.fault}"
            if gpu.foreign:
                return f"its GPU {uuid} ({gpu.name}) is in use by another program"
        return ""


@dataclass(frozen=True, slots=True)
class Use:
    """Who is on a GPU, and what memory is in use there."""

    used_bytes: int
    computing: frozenset[int] = frozenset()
    drawing: Mapping[int, int] = field(default_factory=dict)
    """Processes that only draw, and the memory of each."""

    @property
    def idle_bytes(self) -> int:
        """Memory in use that no display accounts for."""
        return self.used_bytes - sum(self.drawing.values())

    def busy(self, baseline_bytes: int | None) -> bool:
        """Whether somebody computes on it. A display alone does not; in a container processes may not show.

        `baseline_bytes`: what was in use before a worker had it; None: none has had it since this was watched.
        """
        limit = FREE_GPU_MEMORY_BYTES if baseline_bytes is None else baseline_bytes + LEFTOVER_BYTES
        return bool(self.computing - self.drawing.keys()) or self.idle_bytes > limit


def fault_of(xid: int | None) -> str:
    """Why nothing runs on a GPU after this error; empty: something does."""
    return f"XID {xid}: {_FATAL_XIDS[xid]}" if xid in _FATAL_XIDS else ""


def version_text(number: int) -> str:
    """CUDA's number for a version, 12040, as people write it: "12.4"."""
    return f"{number // 1000}.{number % 1000 // 10}"
