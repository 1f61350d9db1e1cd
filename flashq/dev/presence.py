"""Which live endpoints other `flashq run`s of this FLASHQ_HOME serve too: theirs are not taken away.

A lock file for each name, shared by those who serve it; the kernel lets go of it however a process ends. Knows nothing
of the broker.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Presence:
    """What this process serves. `folder`: made if need be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def hold(self, names: Iterable[str]) -> None:
        """These are served here. Waits while another process takes one of them away. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            if name not in self._held:
                lock = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_SH)
                self._held[name] = lock

    def alone(self, name: str) -> bool:
        """Whether nobody else serves it; if so, nobody begins to before `leave`."""
        lock = self._held.get(name)
        if lock is None:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leave(self, name: str) -> None:
        """It is served here no more."""
        lock = self._held.pop(name, None)
        if lock is not None:
            os.close(lock)
