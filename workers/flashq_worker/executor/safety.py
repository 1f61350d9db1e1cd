"""Whether a process can be forked and both go on: Linux's word for its threads and descriptors."""

from __future__ import annotations

import contextlib
from pathlib import Path

_DEVICES = (
    "/dev/nvidia",
    "/dev/kfd",
    "/dev/dxg",
)  # open once a GPU runtime is initialised, which no fork survives


def unsafe() -> str:
    """Why this process cannot fork as it is; empty: it can.

    A thread would be missing in the child, with whatever locks it held; a GPU runtime does not work there.
    """
    count = threads()
    if count > 1:
        return f"it has {count} threads"
    for number in descriptors():
        with contextlib.suppress(FileNotFoundError):
            opened = str(Path(f"/proc/self/fd/{number}").readlink())
            if opened.startswith(_DEVICES):
                return f"it has {opened} open"
    return ""


def threads() -> int:
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def descriptors() -> frozenset[int]:
    """Those that are open, but for the listing's own."""
    found = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return frozenset(number for number in found if Path(f"/proc/self/fd/{number}").is_symlink())
