"""The zygote of workers as its host agent has it: started, watched, asked to fork."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from flashq_worker import executor_child
from flashq_worker.executor_child import CannotFork
from flashq_worker.zygote_process import ZygoteProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flashq_worker.executor_child import Forked

log = logging.getLogger("flashq.host")
CALLS = 200
"""The number of the line for calls, in a worker that was forked."""
BEGIN_S = 60.0
DIED_S = 60.0
"""How long none is started in place of one that died or hung."""


class HostWorkerZygote:
    """Call it from one thread, which lives as long as the zygote."""

    def __init__(self, folder: Path, environ: Mapping[str, str], log_file: Path) -> None:
        """`folder`: where it and its workers start; `environ`: what they inherit."""
        self._folder = folder
        self._environ = environ
        self._log_file = log_file
        self._running: ZygoteProcess | None = None
        self._not_before = 0.0

    def tend(self, *, may_start: bool) -> None:
        """Do what is due; returns at once."""
        now = time.monotonic()
        if self._running is not None and (how := self._running.trouble(now)):
            log.warning("the zygote of workers (process %d) %s", self._running.process.pid, how)
            self._running.end()
            self._running = None
            self._not_before = now + DIED_S
        if self._running is None and may_start and now >= self._not_before:
            try:
                self._start(now)
            except OSError as error:
                log.warning("the zygote of workers cannot be started: %s", error)
                self._not_before = now + DIED_S

    def fork(self, fds: Sequence[int]) -> Forked | None:
        """A worker with these descriptors; None where it is to be spawned, which the log says."""
        running = self._running
        if running is None or not self.listens:
            return None
        try:
            return executor_child.fork_by(running.control, running.process.pid, fds)
        except CannotFork as why:
            log.warning("a worker is spawned, not forked: %s", why)
            return None

    @property
    def listens(self) -> bool:
        """Whether it can be asked, as far as is known."""
        return self._running is not None and self._running.listens

    @property
    def begins(self) -> bool:
        """Whether it has been started, and does not listen yet."""
        return self._running is not None and not self._running.listens

    def close(self) -> None:
        """End it; its workers go on."""
        if self._running is not None:
            self._running.end()
            self._running = None

    def _start(self, now: float) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = os.open(
            self._log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flashq_worker.worker_zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                cwd=self._folder,
                env=self._environ,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(output)
        ours.setblocking(False)
        self._running = ZygoteProcess(process, ours, 0, answer_by=now + BEGIN_S)
        log.info("the zygote of workers is process %d", process.pid)
