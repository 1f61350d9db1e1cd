"""Keeps what a process holds (keys, the broker's password) from the other processes of its user, on Linux."""

from __future__ import annotations

import sys

_PR_SET_DUMPABLE = 4


def keep() -> None:
    """Close this process's memory, environment and descriptors (/proc, ptrace, core dumps) to all but root.

    User code runs as the same user, and could read them otherwise. A program that this process starts is open again.
    """
    if sys.platform == "linux":
        import ctypes  # here, since the SDK does without

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
