"""What becomes of a GPU that no worker here runs on: free, waited for, or kept from workers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq_worker.gpus.records import Gpu


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to tell the broker of a lease."""

    why: str = ""
    """Why the GPU is kept from workers; empty: it is free."""


def judge(gpu: Gpu, *, held: bool, kept: bool, waited_s: float, limit_s: float) -> Verdict | None:
    """None: nothing is to be told, now.

    `held`: its lease is a worker's, which does not run here; `kept`: it is nobody's, and kept from all; `waited_s`:
    since that was seen first; `limit_s`: how long a GPU may take to be free.
    """
    if not (held or kept):
        return None
    if not gpu.foreign and not gpu.fault:
        return Verdict()
    if kept or waited_s < limit_s:
        return None
    if gpu.fault:
        return Verdict(f"UNFIT {gpu.fault}")
    return Verdict(
        f"FOREIGN_MEMORY {gpu.used_bytes >> 20} MiB in use {waited_s:.0f} s after its worker's end"
    )
