"""What this machine can give to workers beside GPUs (`gpus`): cores, memory and Python, as its host record says it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_CGROUP = Path("/sys/fs/cgroup")


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
