"""The keeper's processes: the broker, and beside it the host agent and the autoscaler.

None outlives the keeper. Where the system has it, the kernel kills them with their parent; the processes
beside the broker also end when their lifeline, a pipe, does; elsewhere a guard kills the broker on that sign.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from flashq.embedded import server
from flashq.embedded.child import Child, guard_command, tie_to_parent
from flashq.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flashq.embedded.places import Places
    from flashq.embedded.plan import Plan

    Wait = Callable[[Callable[[], bool], float], bool]
    """Let the keeper go on answering until something is so, at most so many seconds; whether it is."""

_STOP_S = 1.0
"""How long they may take to end when told to, before they are killed."""
_AUTOSCALER = "autoscaler"
_MEANT_FOR_SCRIPTS = frozenset({"FLASHQ_SECRET_KEY", "FLASHQ_JOIN"})
"""Variables of whoever started the keeper that its children must not see."""


class Processes:
    """Started once, by a process with one thread."""

    def __init__(self, plan: Plan, places: Places, sockets: Path, password: str) -> None:
        self._plan, self._places, self._password = plan, places, password
        self._private_socket = sockets / "starting.sock"
        self.socket = sockets / "broker.sock"
        """Where the broker answers once it is open to everybody."""
        self._lifeline_read, self._lifeline = os.pipe()
        self._guard: subprocess.Popen[bytes] | None = None
        self._guard_pipe = -1
        self._env = self._environment()
        # The configuration comes through standard input, the password with it. Not killed outright: while an fsync is
        # under way it may have up to 2 s of what it acknowledged in its own memory alone, and writes that when it ends.
        command = [*(plan.server or (str(server.find_server()),)), "-"]
        self.broker = self._child("broker", command, signal.SIGTERM)
        self._beside = [self._of_ours(name, command) for name, command in plan.commands.items()]

    def _child(self, name: str, command: Sequence[str], end: signal.Signals) -> Child:
        tie = tie_to_parent(end) if self._plan.parent_death_signal else None
        places = self._places
        return Child(name, command, env=self._env, cwd=places.home, log=places.log(name), before_exec=tie)

    def _of_ours(self, name: str, command: Sequence[str]) -> Child:
        return self._child(name, [*command, "--lifeline", str(self._lifeline_read)], signal.SIGKILL)

    def add(self, name: str, command: Sequence[str]) -> None:
        """Start one more beside the broker, which answers."""
        self._beside.append(self._of_ours(name, command))
        self._start(self._beside[-1])

    @property
    def url(self) -> str:
        """The broker's address, with its password where it has one."""
        login = f":{self._password}@" if self._password else ""
        return f"unix://{login}{quoted(self.socket)}"

    @property
    def private_socket(self) -> Path:
        """Where the broker answers the keeper alone, until `open_broker`."""
        return self._private_socket

    def start(self, lock: int) -> None:
        """Start them all. The broker inherits `lock`, so that no second one ever writes the same files.

        Raises BrokerError where the broker's program cannot be run.
        """
        for path in (self._private_socket, self.socket):
            path.unlink(missing_ok=True)
        written = server.configuration(
            data=self._places.data, socket=self._private_socket, password=self._password
        )
        try:
            self.broker.start(written, pass_fds=[lock])
        except OSError as error:
            raise BrokerError(f"{self.broker.command[0]} does not run: {error.strerror}") from None
        if not self._plan.parent_death_signal and self.broker.pid is not None:
            read, self._guard_pipe = os.pipe()
            self._guard = subprocess.Popen(guard_command(self.broker.pid), stdin=read, start_new_session=True)
            os.close(read)
        for process in self._beside:
            self._start(process)

    def open_broker(self) -> None:
        """Let everybody in: put the broker's socket where they look for it."""
        self._private_socket.rename(self.socket)

    def check_broker(self) -> None:
        """Raises BrokerError, saying why, where the broker has ended."""
        if self.broker.poll() or self.broker.pid is None:
            said = self.broker.last_lines() or "it said nothing"
            end = self.broker.last_end
            raise BrokerError(f"the private broker ended ({end}): {said} (log: {self.broker.log})")

    def tend(self) -> list[str]:
        """Start again what has died, in its time. What happened, in words."""
        happened = []
        for process in self._beside:
            if process.poll():
                happened.append(f"{process.name} ended ({process.last_end}): {process.last_lines(1)}")
            if process.due_s() == 0.0:
                self._start(process)
                happened.append(f"{process.name} started again")
        return happened

    def next_start_s(self) -> float | None:
        """Seconds until `tend` has something to start; None while all run."""
        return min((due for process in self._beside if (due := process.due_s()) is not None), default=None)

    def states(self) -> dict[str, dict[str, Any]]:
        """Of each by name: its pid, how it ended last, and whether it keeps doing so."""
        return {
            process.name: {"pid": process.pid, "last_end": process.last_end, "failing": process.failing}
            for process in (self.broker, *self._beside)
        }

    # -- stopping ------------------------------------------------------------------------------------
    def drain(self, wait: Wait, wait_s: float) -> None:
        """Let workers finish what they are doing, for so long at most; nothing new is started."""
        deadline = time.monotonic() + wait_s
        # The autoscaler first: it would replace the workers that leave.
        for process in sorted(self._beside, key=lambda process: process.name != _AUTOSCALER):
            process.send(signal.SIGTERM)
            self._await_end([process], wait, max(0.0, deadline - time.monotonic()))

    def stop(self, wait: Wait) -> None:
        """Stop all: those that run work first, the broker last."""
        os.close(self._lifeline)
        self._end(self._beside, wait)
        self.broker.send(signal.SIGTERM)
        self._end([self.broker], wait)
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            os.close(self._guard_pipe)
        os.close(self._lifeline_read)
        for path in (self._private_socket, self.socket):
            path.unlink(missing_ok=True)

    def _end(self, processes: list[Child], wait: Wait) -> None:
        if not self._await_end(processes, wait, _STOP_S):
            for process in processes:
                process.send(signal.SIGKILL)
            self._await_end(processes, wait, _STOP_S)

    def _await_end(self, processes: list[Child], wait: Wait, timeout_s: float) -> bool:
        return wait(lambda: not [process for process in processes if process.is_running()], timeout_s)

    def _start(self, process: Child) -> None:
        try:
            process.start(pass_fds=[self._lifeline_read])
        except OSError as error:
            process.failed(f"{process.command[0]}: {error.strerror}")

    def _environment(self) -> dict[str, str]:
        """What they are told; the rest is as it was for whoever started the keeper."""
        inherited = os.environ.items()  # noqa: TID251 — handed on, not read
        plan = self._plan
        return {name: value for name, value in inherited if name not in _MEANT_FOR_SCRIPTS} | {
            "FLASHQ_HOME": plan.home,
            "FLASHQ_REDIS_URL": self.url,
            "FLASHQ_SECRET_KEY_FILE": str(self._places.secret),
            "FLASHQ_NAMESPACE": plan.namespace,
            "FLASHQ_LEASE_S": str(plan.lease_s),
            "FLASHQ_PAYLOAD_LIMIT": str(plan.payload_limit),
            "FLASHQ_ENVIRONMENTS_DAYS": str(plan.environments_days),
            "FLASHQ_ENVIRONMENTS_GIB": str(plan.environments_gib),
            "FLASHQ_LABELS": ",".join(plan.labels),
            "RQ_KEY_PREFIX": plan.rq_prefix,
        }


def quoted(path: Path) -> str:
    """A path as part of a URL. (Importing urllib.parse would cost a keeper 5 ms.)"""
    plain = b"/-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in os.fsencode(path))
