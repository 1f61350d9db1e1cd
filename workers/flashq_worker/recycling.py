"""When the process that runs jobs is to be replaced by a fresh one. Pure.

After so many jobs, above so much memory, or because its CUDA context is poisoned: after some errors every later call of
CUDA in the process fails, whatever it does (CUDA Runtime API, error types: "the process must be terminated and
relaunched").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1 << 30
# Of those error types, the names that libraries show, and the texts that PyTorch and others put in their place.
_NAMES = (
    "IllegalAddress|LaunchTimeout|Assert|HardwareStackError|IllegalInstruction|MisalignedAddress|InvalidAddressSpace"
    "|InvalidPc|LaunchFailure|ECCUncorrectable|NvlinkUncorrectable"
)
_DRIVER_NAMES = (
    "ILLEGAL_ADDRESS|LAUNCH_TIMEOUT|ASSERT|HARDWARE_STACK_ERROR|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS"
    "|INVALID_ADDRESS_SPACE|INVALID_PC|LAUNCH_FAILED|ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE"
)
_TEXTS = (
    "an illegal memory access was encountered|the launch timed out and was terminated|device-side assert triggered"
    "|hardware stack error|an illegal instruction was encountered|misaligned address"
    "|operation not supported on global/shared address space|invalid program counter|unspecified launch failure"
    "|uncorrectable ECC error encountered|uncorrectable NVLink error"
)
_POISON = re.compile(rf"cudaError({_NAMES})\b|CUDA_ERROR_({_DRIVER_NAMES})\b|CUDA error: ({_TEXTS})")


def is_poisoned(error: Mapping[str, Any]) -> bool:
    """Whether an exception, as an OUTCOME describes it, says that nothing of CUDA works where it was raised."""
    return any(_POISON.search(error[part]) is not None for part in ("type", "message"))


def is_due(terms: Mapping[str, Any], *, jobs: int, rss_bytes: int) -> str:
    """Why a process that has run so many jobs and has so much memory is to be replaced; empty: it is not.

    `terms`: the revision's, see `flashq.model.spec.process`.
    """
    most_jobs, most_gib = terms.get("recycle_jobs"), terms.get("recycle_gib")
    if most_jobs is not None and jobs >= most_jobs:
        return f"it has run {jobs} jobs"
    if most_gib is not None and rss_bytes > most_gib * GIB:
        return f"it has {rss_bytes / GIB:.2f} GiB of memory, more than {most_gib:g}"
    return ""
