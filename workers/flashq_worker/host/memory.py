"""Workers of a `cpu=` size held to their memory, by a control group each, where this process may make one.

As root that is so; under systemd with `Delegate=yes`, too. Elsewhere memory is counted when workers are placed, and no
more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING

from flashq_worker import memory_group

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

log = logging.getLogger("flashq.host")
_AGENT = "flashq-agent"
_LEFT_S = 600.0  # a group of nobody we know is left over, not just made by another agent on this machine


class MemoryGroups:
    """One folder a worker, below the group that this process is in."""

    def __init__(self, root: Path = memory_group.ROOT, told: str | None = None) -> None:
        self._parent: Path | None = None
        self.lacking = ""
        """Why none can be made; empty: they can, as far as is known."""
        try:
            self._parent = self._found(root, told)
        except OSError as error:
            self.lacking = f"{error.filename or root}: {error.strerror}"
        self._said = False
        self._ours: set[str] = set()  # workers whose groups this agent made

    def _found(self, root: Path, told: str | None) -> Path | None:
        parent = memory_group.of_this_process(root, told)
        if parent is None:
            self.lacking = "no control group counts this process's memory"
        elif parent.name == _AGENT:  # it was put there by an earlier look
            parent = parent.parent
        elif not (parent / "memory.limit_in_bytes").exists():
            self._delegate(parent)
        return parent

    def _delegate(self, parent: Path) -> None:
        """Version 2: a group whose memory is shared out may hold no process itself, so this one moves below it."""
        control = parent / "cgroup.subtree_control"
        if "memory" in control.read_text("ascii").split():
            return
        if "memory" not in (parent / "cgroup.controllers").read_text("ascii").split():
            raise OSError(0, "the memory controller is not there", str(parent))
        others = set((parent / memory_group.PROCS).read_text("ascii").split()) - {str(os.getpid())}
        if others:
            raise OSError(0, f"{len(others)} other processes are in its control group", str(parent))
        agent = parent / _AGENT
        agent.mkdir(exist_ok=True)
        (agent / memory_group.PROCS).write_text(str(os.getpid()), "ascii")
        control.write_text("+memory", "ascii")

    def make(self, worker: str, memory_bytes: int) -> str:
        """A group for this worker, by its folder; '' where it has no bound, or none can be set."""
        if not memory_bytes:
            return ""
        if self._parent is not None and not self.lacking:
            folder = self._parent / f"{memory_group.PREFIX}{worker}"
            try:
                folder.mkdir(exist_ok=True)
                old = folder / "memory.limit_in_bytes"
                (old if old.exists() else folder / "memory.max").write_text(str(memory_bytes), "ascii")
            except OSError as error:
                self.lacking = f"{error.filename or folder}: {error.strerror}"
                with contextlib.suppress(OSError):
                    folder.rmdir()
            else:
                self._ours.add(worker)
                return str(folder)
        if not self._said:
            self._said = True
            log.warning("workers are not held to the memory of their size: %s", self.lacking)
        return ""

    def tidy(self, running: Collection[str]) -> None:
        """Remove the groups of workers that run no more; one in which a process is ending yet goes the next time.

        Those of another host agent on this machine are its own to remove, but for what one that was killed left.
        """
        if self._parent is None:
            return
        for folder in self._parent.glob(f"{memory_group.PREFIX}*"):
            worker = folder.name.removeprefix(memory_group.PREFIX)
            if worker not in running:
                with contextlib.suppress(OSError):
                    if worker in self._ours or time.time() - folder.stat().st_mtime > _LEFT_S:
                        folder.rmdir()  # refused while a process is in it
                        self._ours.discard(worker)
