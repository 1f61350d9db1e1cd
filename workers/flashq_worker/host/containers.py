"""Containers that nobody answers for any more: what is left of them where a worker or all of a host was killed.

A container ends by itself when its runner does. One that could not (it was being begun, or is held up) is removed here:
its folder is there, and its lock is free. An engine may take its time, so a thread removes them.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

from flashq_worker.containers import container, engine, runner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger("flashq.host")
_PATIENCE_S = 60.0


class HostContainers:
    """Call it from one thread; `tend` returns at once."""

    def __init__(self, home: Path, variables: Mapping[str, str]) -> None:
        """`variables`: the operator's environment."""
        self._folders = container.folders(home)
        self._variables = dict(variables)
        self._sweeping: threading.Thread | None = None

    def tend(self) -> None:
        """Remove what is nobody's, if there is any."""
        if self._sweeping is not None and self._sweeping.is_alive():
            return
        with contextlib.suppress(OSError):  # as a rule: there has been none
            if any(self._folders.iterdir()):
                self._sweeping = threading.Thread(target=self.sweep, name="containers", daemon=True)
                self._sweeping.start()

    def sweep(self) -> None:
        """Remove each container whose runner has ended, and its folder."""
        for folder in self._folders.iterdir():
            with runner.locked(folder, wait=False) as nobodys:
                if nobodys and self._removed(folder):
                    shutil.rmtree(folder, ignore_errors=True)

    def _removed(self, folder: Path) -> bool:
        """Whether there is no such container any more."""
        try:
            program = (folder / runner.ENGINE).read_text("utf-8")
        except FileNotFoundError:
            return True  # it never came to one
        name = container.container_name(folder.name)
        try:
            removed = subprocess.run(
                engine.remove_words(program, name),
                env=self._variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_PATIENCE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("container %s is not removed: %s", name, error)
            return False
        if removed.returncode and "no such container" not in removed.stderr.lower():
            log.warning("container %s is not removed: %s", name, engine.last_lines(removed.stderr, 2))
            return False
        return True
