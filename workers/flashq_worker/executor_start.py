"""Starting an executor: the ends of what connects it to its supervisor, and the process at the other ends.

A forked one may be parked: forked before it is known what for, so that nobody waits for that. It waits for the first
word on its socket then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq_worker import executor, executor_child, memory_group
from flashq_worker.executor_child import CannotFork
from flashq_worker.scrub import scrubbed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq_worker.containers.container import Container
    from flashq_worker.executor_child import Child, Forked

log = logging.getLogger("flashq.worker")


class Ends:
    """Frames, lifeline, pulse and output: this process's ends, and until `hand_over` the executor's."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as on_failure:
            self.sock, self._theirs = socket.socketpair()
            on_failure.callback(self.sock.close)
            on_failure.callback(self._theirs.close)
            pipes = []
            for _ in range(3):
                pipes.append(os.pipe2(os.O_CLOEXEC))
                for end in pipes[-1]:
                    on_failure.callback(os.close, end)
            on_failure.pop_all()
        (lifeline_end, self.lifeline), (pulse_end, self.pulse), (self.output, self.output_end) = pipes
        self.given = (self._theirs.fileno(), lifeline_end, pulse_end)

    def hand_over(self) -> None:
        """The executor has its ends: let go of them here; from now on nothing waits at ours."""
        self._theirs.close()
        for end in (*self.given[1:], self.output_end):
            os.close(end)
        for end in (self.pulse, self.output):
            os.set_blocking(end, False)
        self.sock.setblocking(False)

    def close(self) -> None:
        """Close this process's ends."""
        self.sock.close()
        for end in (self.lifeline, self.pulse, self.output):
            os.close(end)


@dataclass(slots=True)
class Parked:
    """An executor that a zygote forked for whoever comes first."""

    place: Path
    """Where its zygote listened."""
    child: Forked
    ends: Ends

    @property
    def usable(self) -> bool:
        """Whether it runs, and its zygote does, which would tell how it ended."""
        return self.child.exit() is None and self.child.zygote_lives

    def discard(self) -> None:
        """Nobody came: end it."""
        self.child.kill()
        self.child.reap()
        self.ends.close()


def park(place: Path) -> Parked | None:
    """Have the zygote at `place` fork one; None where it does not. Raises OSError."""
    ends = Ends()
    child = _forked(place, ends)
    ends.hand_over()
    if child is None:
        ends.close()
        return None
    return Parked(place, child, ends)


def start(
    python: Path,
    *,
    lease_s: float,
    env: Mapping[str, str],
    cwd: Path,
    inject: Path | None,
    endpoint_env: Mapping[str, str],
    zygote: Path | None,
    parked: Parked | None,
    container: Container | None,
) -> tuple[Child, Ends]:
    """See `ExecutorProcess.start`."""
    variables = {**scrubbed(env), **endpoint_env}
    start_ns = time.monotonic_ns()
    if container is not None:
        if parked is not None:
            parked.discard()
        return _contained(container, lease_s, start_ns, endpoint_env)
    if parked is not None and parked.place == zygote and parked.usable:
        child, ends = parked.child, parked.ends
    else:
        if parked is not None:
            parked.discard()
        ends = Ends()
        found = None if zygote is None else _forked(zygote, ends)
        if found is None:
            return _spawned(python, ends, inject, [str(lease_s), str(start_ns)], cwd=cwd, env=variables), ends
        child = found
        ends.hand_over()
    setup: dict[str, Any] = {"env": variables, "cwd": str(cwd), "cores": [*os.sched_getaffinity(0)]}
    setup["group"] = memory_group.own()
    child.tell({**setup, "lease_s": lease_s, "start_ns": start_ns})
    return child, ends


def _spawned(
    python: Path, ends: Ends, inject: Path | None, times: list[str], *, cwd: Path, env: Mapping[str, str]
) -> Child:
    package = Path(executor.__file__).parent if inject is None else inject / "flashq_worker" / "executor"
    arguments = [str(inject or ""), *map(str, ends.given), *times]
    command = [str(python), "-I", str(package / "boot.py"), "executor", *arguments]
    try:
        child = executor_child.spawn(command, ends.given, ends.output_end, cwd=cwd, env=env)
    except BaseException:
        ends.hand_over()
        ends.close()
        raise
    ends.hand_over()
    return child


def _contained(
    container: Container, lease_s: float, start_ns: int, endpoint_env: Mapping[str, str]
) -> tuple[Child, Ends]:
    ends = Ends()
    try:
        child = container.start(
            ends.given, ends.output_end, lease_s=lease_s, start_ns=start_ns, env=endpoint_env
        )
    except BaseException:
        ends.hand_over()
        ends.close()
        raise
    ends.hand_over()
    return child, ends


def _forked(zygote: Path, ends: Ends) -> Forked | None:
    """An executor that this zygote forked; None where it did not, which the log says."""
    try:
        return executor_child.fork(zygote, ends.given, ends.output_end)
    except CannotFork as why:
        log.info("the executor is spawned, not forked: %s", why)
        return None
