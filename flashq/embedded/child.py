"""One process of the keeper's: it cannot outlive the keeper, and is started again when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_STABLE_S = 30.0
_PR_SET_PDEATHSIG = 1


def tie_to_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """What a child runs before its program: the kernel is to signal it when its parent (this thread) dies.

    Linux only. Call in the parent; pass the result as `preexec_fn`, from a process with one thread.
    """
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return tie


def guard_command(pid: int) -> list[str]:
    """When its standard input ends, it terminates `pid`; for systems without a parent-death signal."""
    return ["/bin/sh", "-c", 'read -r _; kill -15 "$1"', "flashq-guard", str(pid)]


class Child:
    """A process with a name and a log. `before_exec` runs in the child before its program."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.failures = 0
        """How many times in a row it ended soon after its start."""
        self.last_end = ""
        self._env, self._cwd, self._before_exec = dict(env), cwd, before_exec
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._next_start = 0.0
        self._log_from = 0

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return None if self._process is None else self._process.pid

    def start(self, stdin: bytes = b"", *, pass_fds: Sequence[int] = ()) -> None:
        """Start it, with this on its standard input. Raises OSError where the program cannot be run."""
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C on a terminal is for whoever waits there, not for it
                preexec_fn=self._before_exec,  # safe: the keeper has one thread
            )
        if self._process.stdin is not None:
            with contextlib.suppress(OSError), self._process.stdin as pipe:  # it died at once: `poll` tells
                pipe.write(stdin)

    def poll(self) -> bool:
        """Whether it has ended since the last call; `last_end` says how."""
        if self._process is None or self._process.poll() is None:
            return False
        code = self._process.returncode
        self.failed(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        return True

    def is_running(self) -> bool:
        """Whether it runs now."""
        self.poll()
        return self._process is not None

    @property
    def failing(self) -> bool:
        """Whether it has ended lately, and not run for long since."""
        return self.failures > 0 and (self._process is None or time.monotonic() - self._started < _STABLE_S)

    def failed(self, how: str) -> None:
        """It ended, or could not be started: it waits for its next start, longer each time in a row."""
        self._process = None
        self.last_end = how
        now = time.monotonic()
        self.failures = 1 if now - self._started > _STABLE_S else self.failures + 1
        self._next_start = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 10))

    def due_s(self) -> float | None:
        """Seconds until it is to be started again; None while it runs."""
        return None if self._process is not None else max(0.0, self._next_start - time.monotonic())

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def last_lines(self, most: int = 3) -> str:
        """The end of what it printed since its start, in one line."""
        return tail(self.log, most, since=self._log_from)


def tail(file: Path, most: int, *, since: int = 0) -> str:
    """The last lines of a log beyond its first `since` bytes, joined by ' | '; '' where there are none."""
    try:
        with file.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(since, end - 4096))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return " | ".join([line.strip() for line in lines if line.strip()][-most:])
