"""The processes of a campaign: started again when they die, found by their parents, signalled without mistaking one
for another. Linux only, as workers are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PAUSE_S = 0.3


class Victim:
    """A process, whoever's child it is, that may be signalled later though its number may be another's by then."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._descriptor = os.pidfd_open(pid)
        except OSError:  # it has ended
            self._descriptor = -1

    def send(self, number: signal.Signals) -> bool:
        """Signal it; False where it has ended."""
        if self._descriptor < 0:
            return False
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def children() -> Mapping[int, Sequence[int]]:
    """The children of each process of this machine, but for those that have died and were not waited for."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = (entry / "stat").read_text("utf-8", "replace").rpartition(") ")[2].split()[:2]
                if state not in "ZX":
                    found[int(parent)].append(int(entry.name))
    return {parent: sorted(pids) for parent, pids in found.items()}


class Kept:
    """A program that is started again, soon, whenever it has died; unless it ended with `done`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        folder: Path,
        lifeline: int,
        done: int | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.starts = 0
        self.done = False
        self._command, self._env, self._folder = [*command, str(lifeline)], dict(env), folder
        self._lifeline, self._done_code = lifeline, done
        self._process: subprocess.Popen[bytes] | None = None
        self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        """Its process; None while it does not run."""
        return None if self._process is None else self._process.pid

    def tend(self, now: float) -> None:
        """Start it where it does not run and its pause is over."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self.done = code == self._done_code
            self._next_start = now + _PAUSE_S
        if self._process is None and not self.done and now >= self._next_start:
            self.start()

    def start(self) -> None:
        """Start it."""
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd=self._folder,
                pass_fds=[self._lifeline],
                start_new_session=True,
            )

    def stop(self, patience_s: float = 0.0) -> None:
        """End it: asked to where there is patience, then killed."""
        if self._process is None:
            return
        if patience_s:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        self._process.kill()
        self._process.wait()
        self._process = None
        self.done = True


def wait_until_gone(pids: Sequence[int], patience_s: float) -> list[int]:
    """Wait for processes that are nobody's child here; those that are still there at the end."""
    deadline = time.monotonic() + patience_s
    left = list(pids)
    while left and time.monotonic() < deadline:
        alive = {pid for pids in children().values() for pid in pids}
        left = [pid for pid in left if pid in alive]
        time.sleep(0.02)
    return left
