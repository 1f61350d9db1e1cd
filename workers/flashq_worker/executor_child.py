"""An executor as a process: how it is started (spawned, or forked by a zygote), signalled, seen to end and reaped.

Two ways, one face (`Child`). A spawned one is this process's child. A forked one is its zygote's, which keeps its id
from passing to others until it is reaped, and says how it ended; where the zygote has died there is still a
descriptor of the process, which never means another.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flashq_worker.executor import zygote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ANSWER_S = 1.0  # a zygote answers within milliseconds; one that does not hangs
_MOST_ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    code: int | None
    """Its exit code; negative: the signal that ended it; None: whoever would know has died."""

    def __str__(self) -> str:
        if self.code is None:
            return "ended (how is not known: its zygote has ended too)"
        if self.code >= 0:
            return f"exited with code {self.code}"
        try:
            return f"killed by {signal.Signals(-self.code).name}"
        except ValueError:
            return f"killed by signal {-self.code}"


class Child(Protocol):
    """A process that this one answers for until it is reaped."""

    pid: int
    how: Literal["fork", "spawn"]

    @property
    def descriptor(self) -> int | None:
        """What is readable when it may have ended; None: SIGCHLD tells."""

    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""

    def kill(self) -> None:
        """SIGKILL it and its process group. Not to be called once it is reaped."""

    def reap(self) -> None:
        """Let go of it once it has ended."""


class Spawned:
    """A child process."""

    how: Literal["fork", "spawn"] = "spawn"

    descriptor = None

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._exit: Exit | None = None

    def exit(self) -> Exit | None:
        """See `Child`. It is not reaped by this."""
        if self._exit is None:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                killed = found.si_code != os.CLD_EXITED
                self._exit = Exit(-found.si_status if killed else found.si_status)
        return self._exit

    def signal(self, number: signal.Signals) -> None:
        """See `Child`."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """See `Child`. It is not reaped yet, so its id, which is the group's, cannot have passed to somebody else."""
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)

    def reap(self) -> None:
        """See `Child`."""
        self._process.wait()


class CannotFork(Exception):
    """A zygote was asked in vain; its text says why."""


class Forked:
    """A zygote's child.

    `connection`: to the zygote, which reaps it when that is closed. `content`: a file that it alone reads, if any.
    """

    how: Literal["fork", "spawn"] = "fork"

    def __init__(self, pid: int, pidfd: int, connection: socket.socket, content: int | None) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._connection = connection
        self._content = content
        self.zygote_lives = True
        self._exit: Exit | None = None
        connection.setblocking(False)

    def exit(self) -> Exit | None:
        """See `Child`."""
        if self._exit is None and self.zygote_lives:
            self._hear()
        if self._exit is None and not self.zygote_lives and self._ended:
            self._exit = Exit(None)
        return self._exit

    def tell(self, setup: Mapping[str, Any]) -> None:
        """Once: what it is to begin with, when the first frame comes. It reads that, and its zygote never does."""
        assert self._content is not None
        rest = memoryview(json.dumps(setup).encode())
        while rest:
            rest = rest[os.write(self._content, rest) :]
        self._close_content()

    def _close_content(self) -> None:
        if self._content is not None:
            os.close(self._content)
            self._content = None

    @property
    def descriptor(self) -> int:
        """Readable when it may have ended."""
        return self._connection.fileno() if self.zygote_lives else self._pidfd

    def _hear(self) -> None:
        try:
            said = self._connection.recv(_MOST_ANSWER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        code = _answer(said).get("code")
        if isinstance(code, int):
            self._exit = Exit(code)
        else:
            self.zygote_lives = False

    def signal(self, number: signal.Signals) -> None:
        """See `Child`."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """See `Child`."""
        self.exit()
        if self._has_its_group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)

    @property
    def _has_its_group(self) -> bool:
        """Whether the group of this number is its own, and not another's by now.

        While the zygote lives it is not reaped. Else its number stays taken while the group has members: if it has
        ended, and yet there is a process of that number, it is another's.
        """
        if self.zygote_lives or not self._ended:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    @property
    def _ended(self) -> bool:
        return bool(select.select([self._pidfd], [], [], 0)[0])

    def reap(self) -> None:
        """See `Child`."""
        self._connection.close()
        os.close(self._pidfd)
        self._close_content()


def spawn(
    command: Sequence[str | Path],
    fds: Sequence[int],
    output: int,
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
) -> Spawned:
    """Start a program that inherits `fds` and writes to `output`. Raises OSError."""
    return Spawned(
        subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=output,
            pass_fds=tuple(fds),
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    )


def fork(at: Path, fds: Sequence[int], output: int) -> Forked:
    """Have the zygote that listens `at` fork an executor, which waits to be told. Raises CannotFork."""
    content = os.memfd_create("setup")

    def ask(connection: socket.socket) -> None:
        _connect(connection, at)
        socket.send_fds(connection, [zygote.REQUEST], [*fds, output, content])

    try:
        return _asked(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), ask, content=content)
    except BaseException:
        os.close(content)
        raise


def fork_by(control: socket.socket, parent: int, fds: Sequence[int]) -> Forked:
    """Have the zygote at the other end of `control`, which is process `parent`, fork. Raises CannotFork."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def ask(_: socket.socket) -> None:
        with theirs:
            socket.send_fds(control, [zygote.REQUEST], [theirs.fileno(), *fds])

    return _asked(ours, ask, parent=parent)


def _asked(
    connection: socket.socket,
    ask: Callable[[socket.socket], None],
    *,
    parent: int = 0,
    content: int | None = None,
) -> Forked:
    try:
        connection.settimeout(_ANSWER_S)
        ask(connection)
        return _forked(connection, parent, content)
    except BaseException as error:
        connection.close()  # should it fork after all, what it forks finds nobody at its other ends
        if isinstance(error, TimeoutError):
            raise CannotFork(f"the zygote did not answer within {_ANSWER_S:g} s") from None
        if isinstance(error, OSError):
            raise CannotFork(str(error)) from error
        raise


def _connect(connection: socket.socket, at: Path) -> None:
    """By way of its folder, for an address is at most 107 bytes long."""
    folder = os.open(at.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{at.name}")
    finally:
        os.close(folder)


def _forked(connection: socket.socket, parent: int, content: int | None) -> Forked:
    answer = _answer(connection.recv(_MOST_ANSWER_BYTES))
    pid = answer.get("pid")
    if not isinstance(pid, int):
        raise CannotFork(str(answer.get("refused", "the zygote ended")))
    pidfd = os.pidfd_open(pid)
    if not parent:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        parent = struct.unpack("3i", credentials)[0]
    if _parent(pid) != parent:
        os.close(pidfd)
        raise CannotFork(f"the zygote named process {pid}, which is not its child")
    return Forked(pid, pidfd, connection, content)


def _parent(pid: int) -> int:
    """The parent's id. Raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def _answer(said: bytes) -> dict[str, Any]:
    """What a zygote said; nothing where it is no answer (the environment's code runs in it, and it may lie)."""
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
