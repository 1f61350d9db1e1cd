"""The worker processes of one host: started with all they need to know on standard input, watched, ended.

A worker is forked by the zygote of workers, its imports done, or spawned where there is none. It reads its standard
input once it has imported everything, so one that was started ahead of its time and told nothing yet, the spare, begins
at once when its time comes. Keys that were rotated go the same way.

Each has a session of its own and the reading end of one pipe, the lifeline, whose writing end is this
process's alone: however the host agent ends, they see it. Nothing here talks to the broker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flashq_worker import executor_child
from flashq_worker.held_keys import word
from flashq_worker.host.cores import choose
from flashq_worker.host.memory import MemoryGroups
from flashq_worker.host.worker_zygote import CALLS, HostWorkerZygote
from flashq_worker.scrub import scrubbed
from flashq_worker.spare import park_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flashq.model.envelope import RootKeys
    from flashq_worker.config import WorkerConfig
    from flashq_worker.executor_child import Child
    from flashq_worker.host.calls import HostCalls, Line

WORKER_COMMAND = (sys.executable, "-P", "-m", "flashq_worker")
"""-P: the folder it starts in is no place to import from."""


@dataclass(slots=True)
class _Process:
    """A worker's process, and the writing end of its standard input."""

    child: Child
    stdin: int
    code: int | None = None
    how: str = ""

    def poll(self) -> int | None:
        """Its exit code (negative: a signal; 255: nobody could tell); None while it runs. It is reaped by that."""
        if self.code is None and (ended := self.child.exit()) is not None:
            self.code = 255 if ended.code is None else ended.code
            self.how = f"was {ended}" if self.code < 0 else str(ended)
            self.child.reap()
            os.close(self.stdin)
        return self.code

    def write(self, said: bytes) -> bool:
        """Write to its standard input: all of it, or nothing where it does not read; whether it was written."""
        try:
            return self.code is None and os.write(self.stdin, said) == len(said)
        except OSError:
            return False

    def end(self) -> None:
        """Kill it, and wait until it has ended."""
        if self.code is None:
            self.child.kill()
            while self.poll() is None:
                time.sleep(0.001)


@dataclass(slots=True)
class _Running:
    endpoint: str
    process: _Process
    gpu_uuids: tuple[str, ...]
    cores: tuple[int, ...]
    keys: tuple[str, ...]
    """The ids of the keys that it was told."""
    killed: str = ""
    """Why this host killed it, or asked it to end."""


@dataclass(slots=True)
class _Begun:
    process: _Process
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
        self._memory = MemoryGroups()
        self._spare: _Begun | None = None
        self._zygote: HostWorkerZygote | None = None
        self._lifeline, self._held_end = os.pipe2(os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the lifeline: what still runs ends."""
        self._memory.tidy(self._running)
        self.drop_spare()
        if self._zygote is not None:
            self._zygote.close()
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
        cores = choose(
            config.cpus, os.sched_getaffinity(0), (running.cores for running in self._running.values())
        )
        self._memory.tidy(self._running)
        group = self._memory.make(config.worker, config.memory_bytes)
        config = replace(config, cores=cores, memory_group=group)
        process = self._take_spare(config, log)
        if process is None:
            begun = self._begin(log)
            process = begun.process
            _configure(begun, config)  # it may have died already: `ended` will tell
        self._running[config.worker] = _Running(
            config.endpoint, process, config.gpu_uuids, config.cores, config.keys.ids
        )
        return process.child.pid

    def _begin(self, log: Path) -> _Begun:
        """A process that waits to be told what it is."""
        line, theirs = (None, None) if self._calls is None else self._calls.connect()
        with contextlib.ExitStack() as childs_ends, contextlib.ExitStack() as on_failure:
            if theirs is not None:
                childs_ends.callback(theirs.close)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            childs_ends.callback(os.close, output)
            reader, writer = os.pipe2(os.O_CLOEXEC)
            childs_ends.callback(os.close, reader)
            on_failure.callback(os.close, writer)
            os.set_blocking(writer, False)
            calls = reader if theirs is None else theirs.fileno()
            child: Child | None = None
            if self._zygote is not None:
                child = self._zygote.fork((reader, output, self._lifeline, calls))
                calls = CALLS
            if child is None:
                calls = -1 if theirs is None else theirs.fileno()
                child = executor_child.spawn(
                    [*self._command, "--lifeline", str(self._lifeline)],
                    [fd for fd in (self._lifeline, calls) if fd >= 0],
                    output,
                    cwd=self._folder,
                    env=self._environ,
                    stdin=reader,
                )
            on_failure.pop_all()
            return _Begun(_Process(child, writer), log, line, -1 if theirs is None else calls)

    def descriptors(self) -> list[int]:
        """What is readable when a worker may have ended, of those whose end no signal tells."""
        processes = [running.process for running in self._running.values()]
        if self._spare is not None:
            processes.append(self._spare.process)
        found = [process.child.descriptor for process in processes if process.code is None]
        return [descriptor for descriptor in found if descriptor is not None]

    @property
    def forks(self) -> bool:
        """Whether a worker is begun by a fork, as far as is known, and so costs next to nothing."""
        return self._zygote is not None and self._zygote.listens

    @property
    def will_fork(self) -> bool:
        """Whether that will be so shortly: its zygote has begun, and does not listen yet."""
        return self._zygote is not None and self._zygote.begins

    # -- what is kept ready --------------------------------------------------------------------------
    def keep_zygote(self, log: Path, *, may_start: bool) -> None:
        """Have a zygote of workers, which writes to `log`; returns at once."""
        if self._command == WORKER_COMMAND:
            if self._zygote is None:
                self._zygote = HostWorkerZygote(self._folder, self._environ, log)
            self._zygote.tend(may_start=may_start)

    def prepare(self, log: Path) -> bool:
        """Have a spare, which writes to `log` until it is somebody; False where the last one died unused.

        Raises OSError where it cannot be started.
        """
        if self._spare is None:
            self._spare = self._begin(log)
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
            spare.process.write(park_word(place))  # it may have died: `prepare` will tell

    @property
    def prepared(self) -> bool:
        """Whether there is a spare, as far as is known."""
        return self._spare is not None

    def drop_spare(self) -> None:
        """Do without a spare."""
        if self._spare is not None:
            process, self._spare = self._spare.process, None
            process.end()

    def _take_spare(self, config: WorkerConfig, log: Path) -> _Process | None:
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
            if running.keys != ids and running.process.write(word(keyring.for_endpoint(running.endpoint))):
                running.keys = ids

    # -- their ends ----------------------------------------------------------------------------------
    def ended(self) -> list[Ended]:
        """The workers that have ended since the last call."""
        found: list[Ended] = []
        for worker, running in list(self._running.items()):
            code = running.process.poll()
            if code is not None:
                del self._running[worker]
                how = running.process.how
                found.append(Ended(worker, running.endpoint, how, code, running.gpu_uuids, running.killed))
        if found:
            self._memory.tidy(self._running)
        return found

    def terminate(self, why: str) -> None:
        """Ask every worker to finish what it holds and end; one that has hardly begun simply dies."""
        for running in self._running.values():
            if running.process.code is None:
                running.killed = running.killed or why
                with contextlib.suppress(ProcessLookupError):
                    running.process.child.signal(signal.SIGTERM)

    def kill(self, worker: str, why: str) -> bool:
        """End a worker and what runs in its session now; whether there was one."""
        running = self._running.get(worker)
        if running is None:
            return False
        running.killed = why
        if running.process.code is None:
            running.process.child.kill()
        return True

    def kill_all(self, why: str) -> None:
        """`kill` every worker; may be called from a signal handler."""
        for worker in list(self._running):
            self.kill(worker, why)


def _configure(begun: _Begun, config: WorkerConfig) -> bool:
    """Write a worker's first line; whether it lives to read it."""
    if begun.line is not None:
        begun.line.endpoint = config.endpoint
    return begun.process.write(replace(config, calls=begun.inherited).to_json().encode() + b"\n")
