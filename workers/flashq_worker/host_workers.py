"""The worker processes of one host: started with all they need to know on standard input, watched, ended.

A worker reads its standard input once it has imported everything, so one that was started ahead of its time and
told nothing yet, the spare, begins at once when its time comes. Keys that were rotated go the same way.

Each has a session of its own and the reading end of one pipe, the lifeline, whose writing end is this
process's alone: however the host agent ends, they see it. Nothing here talks to the broker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flashq_worker.held_keys import word
from flashq_worker.scrub import scrubbed
from flashq_worker.spare import park_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flashq.model.envelope import RootKeys
    from flashq_worker.config import WorkerConfig
    from flashq_worker.host_calls import HostCalls, Line

WORKER_COMMAND = (sys.executable, "-P", "-m", "flashq_worker")
"""-P: the folder it starts in is no place to import from."""


@dataclass(slots=True)
class _Running:
    endpoint: str
    process: subprocess.Popen[bytes]
    gpu_uuids: tuple[str, ...]
    keys: tuple[str, ...]
    """The ids of the keys that it was told."""
    killed: str = ""
    """Why this host killed it, or asked it to end."""


@dataclass(slots=True)
class _Spawned:
    process: subprocess.Popen[bytes]
    log: Path
    line: Line | None
    """For the calls that its jobs will make."""
    inherited: int
    """The number of the other end of it, in the process."""
    zygote: int = 0
    """The process of which it was told to park an executor."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker process that is no more."""

    worker: str
    endpoint: str
    how: str
    """For people: "exited with code 4", "was killed by SIGSEGV"."""
    code: int
    """Its exit code; negative: the signal that ended it."""
    gpu_uuids: tuple[str, ...]
    killed: str
    """Why this host killed it, or asked it to end; empty where it did neither."""


class HostWorkers:
    """Starts, watches and ends worker processes. Call it from one thread, which lives as long as they do."""

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        command: Sequence[str] = WORKER_COMMAND,
        calls: HostCalls | None = None,
    ) -> None:
        """`folder` is where they start; `environ` what they inherit, less what is flashq's own.

        `calls`: serves the calls that their jobs make; None: these are refused.
        """
        self._folder = folder
        self._environ = scrubbed(environ)
        self._command = command
        self._calls = calls
        self._running: dict[str, _Running] = {}
        self._spare: _Spawned | None = None
        self._lifeline, self._held_end = os.pipe2(os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the lifeline: what still runs ends."""
        self.drop_spare()
        for end in (self._lifeline, self._held_end):
            os.close(end)

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, worker: str) -> bool:
        return worker in self._running

    def endpoints(self) -> dict[str, str]:
        """The endpoint of each running worker."""
        return {worker: running.endpoint for worker, running in self._running.items()}

    def gpus(self) -> dict[str, str]:
        """The GPUs held, and the worker that holds each until its process has ended."""
        return {uuid: worker for worker, running in self._running.items() for uuid in running.gpu_uuids}

    def start(self, config: WorkerConfig, log: Path) -> int:
        """Start a worker that writes to `log`; its process id. Raises OSError where it cannot be started."""
        process = self._take_spare(config, log)
        if process is None:
            spawned = self._spawn(log)
            process = spawned.process
            _configure(spawned, config)  # it may have died already: `ended` will tell
        self._running[config.worker] = _Running(config.endpoint, process, config.gpu_uuids, config.keys.ids)
        return process.pid

    def _spawn(self, log: Path) -> _Spawned:
        line, theirs = (None, None) if self._calls is None else self._calls.connect()
        number = -1 if theirs is None else theirs.fileno()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                [*self._command, "--lifeline", str(self._lifeline)],
                stdin=subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=[fd for fd in (self._lifeline, number) if fd >= 0],
                cwd=self._folder,
                env=self._environ,
                start_new_session=True,
            )
            return _Spawned(process, log, line, number)
        finally:
            os.close(descriptor)
            if theirs is not None:
                theirs.close()

    # -- the spare -----------------------------------------------------------------------------------
    def prepare(self, log: Path) -> bool:
        """Have a spare, which writes to `log` until it is somebody; False where the last one died unused.

        Raises OSError where it cannot be started.
        """
        if self._spare is None:
            self._spare = self._spawn(log)
            return True
        if self._spare.process.poll() is None:
            return True
        self.drop_spare()
        return False

    def park(self, place: Path, zygote: int) -> None:
        """Have the spare, if there is one, park an executor of the zygote at `place`, which is process `zygote`."""
        spare = self._spare
        if spare is not None and spare.zygote != zygote:
            spare.zygote = zygote
            _write(spare.process, park_word(place))  # it may have died: `prepare` will tell

    @property
    def prepared(self) -> bool:
        """Whether there is a spare, as far as is known."""
        return self._spare is not None

    def drop_spare(self) -> None:
        """Do without a spare."""
        if self._spare is not None:
            process, self._spare = self._spare.process, None
            process.kill()
            process.wait()
            _hang_up(process)

    def _take_spare(self, config: WorkerConfig, log: Path) -> subprocess.Popen[bytes] | None:
        """The spare, made a worker by what it was waiting for; None where there is none alive."""
        if self._spare is None or self._spare.process.poll() is not None:
            return None
        try:
            self._spare.log.rename(log)
            told = _configure(self._spare, config)
        except OSError:
            told = False
        if not told:
            self.drop_spare()
            return None
        process, self._spare = self._spare.process, None
        return process

    # -- their keys ----------------------------------------------------------------------------------
    def share(self, keyring: RootKeys) -> None:
        """Tell each worker of the keys in force, if it was told of others. One that does not listen is told later."""
        ids = keyring.ids
        for running in self._running.values():
            if running.keys != ids and _tell(running.process, word(keyring.for_endpoint(running.endpoint))):
                running.keys = ids

    # -- their ends ----------------------------------------------------------------------------------
    def ended(self) -> list[Ended]:
        """The workers that have ended since the last call."""
        found: list[Ended] = []
        for worker, running in list(self._running.items()):
            code = running.process.poll()
            if code is not None:
                del self._running[worker]
                _hang_up(running.process)
                how = _description(code)
                found.append(Ended(worker, running.endpoint, how, code, running.gpu_uuids, running.killed))
        return found

    def terminate(self, why: str) -> None:
        """Ask every worker to finish what it holds and end; one that has hardly begun simply dies."""
        for running in self._running.values():
            if running.process.returncode is None:
                running.killed = running.killed or why
                running.process.terminate()

    def kill(self, worker: str, why: str) -> bool:
        """End a worker and what runs in its session now; whether there was one."""
        running = self._running.get(worker)
        if running is None:
            return False
        running.killed = why
        self._kill(running)
        return True

    def kill_all(self, why: str) -> None:
        """`kill` every worker; may be called from a signal handler."""
        for worker in list(self._running):
            self.kill(worker, why)

    @staticmethod
    def _kill(running: _Running) -> None:
        # It is not reaped yet, so its id, which is its group's too, cannot have passed to somebody else.
        if running.process.returncode is None:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    kill(running.process.pid, signal.SIGKILL)


def _configure(spawned: _Spawned, config: WorkerConfig) -> bool:
    """Write a worker's first line; whether it lives to read it."""
    if spawned.line is not None:
        spawned.line.endpoint = config.endpoint
    written = replace(config, calls=spawned.inherited).to_json().encode() + b"\n"
    if not _write(spawned.process, written):
        return False
    assert spawned.process.stdin is not None
    os.set_blocking(spawned.process.stdin.fileno(), False)
    return True


def _write(process: subprocess.Popen[bytes], written: bytes) -> bool:
    assert process.stdin is not None
    try:
        process.stdin.write(written)
        process.stdin.flush()
    except OSError:
        return False
    return True


def _tell(process: subprocess.Popen[bytes], said: bytes) -> bool:
    """Write a further line (at most PIPE_BUF bytes, so all or nothing); False where there is no room for it now."""
    assert process.stdin is not None
    try:
        return os.write(process.stdin.fileno(), said) == len(said)
    except OSError:
        return False


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _description(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
