"""Where a container begins: ``python3 -I <root>/inject/flashq_worker/executor/contained.py PYTHON``.

PYTHON is the version that the function needs ("3.11"); ``<root>/run/sock`` is the socket at which the runner outside
(`flashq_worker.containers.runner`) waits. It passes the descriptors of an executor and says what it is to begin with:
words in a stream, not in a command line or a container's environment, which anybody may list who may use the engine.

This process then stays as the container's first: it starts the executor, passes signals on, takes in orphans, says how
the executor ended, and ends with the runner. When it ends the kernel ends everything in the container.

It may be begun by any Python from 3.7 on, so that a wrong one can be told.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

SOCKET = "run/sock"
FOLDERS = ("sources", "packages")
"""Of modules, where they are there, the first before the second and both before what the image has."""
LENGTH = struct.Struct("!I")
WRONG_PYTHON = 64
"""Exit code: the image's Python is of another version."""
_DESCRIPTORS = 4  # frames, lifeline, pulse, output
# Where the kernel counts what it killed for want of memory: control groups of version 2, and 1.
_KILLS = (
    ("/sys/fs/cgroup/memory.events", "oom_kill "),
    ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill "),
)


def main() -> int:
    """Be the container's first process; its exit status."""
    wanted = sys.argv[1]
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != wanted:
        _say(
            f"the image's python3 is Python {here}, and the function was made by Python {wanted}, whose bytecode it"
            f" cannot run: take an image with Python {wanted}"
        )
        return WRONG_PYTHON
    root = Path(__file__).parents[3]
    control = socket.socket(socket.AF_UNIX)
    control.connect(str(root / SOCKET))
    setup, descriptors = _received(control)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noted)  # before there is a child whose end could be missed
    killed = _killed_for_memory()
    pid = os.fork()
    if not pid:
        _become_executor(root, setup, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return _stand_by(control, woken, pid, killed)


def _say(words: str) -> None:
    os.write(1, f"flashq: {words}\n".encode())


def _received(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What the executor is to begin with, and its descriptors."""
    space = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, _, _ = control.recvmsg(LENGTH.size, space)
    found = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    data += _exactly(control, LENGTH.size - len(data))
    setup: dict[str, Any] = json.loads(_exactly(control, LENGTH.unpack(data)[0]))
    return setup, list(found)


def _exactly(control: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = control.recv(size - len(received))
        if not piece:
            raise EOFError("the runner has ended")
        received += piece
    return received


def _become_executor(root: Path, setup: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """In the child: another program, with the descriptors and variables of an executor."""
    try:
        os.setsid()
        frames, lifeline, pulse, output = descriptors
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, number in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, number)
        for descriptor in (frames, lifeline, pulse):
            os.set_inheritable(descriptor, True)
        # What the image says wins over what is a default; what the endpoint says over both.
        variables = {**setup["defaults"], **os.environ, **setup["env"]}
        folders = [str(root / name) for name in FOLDERS if (root / name).is_dir()]
        folders += [folder for folder in variables.get("PYTHONPATH", "").split(os.pathsep) if folder]
        inject = root / "inject"
        boot = inject / "flashq_worker" / "executor" / "boot.py"
        numbers = [str(number) for number in (frames, lifeline, pulse)]
        words = [
            sys.executable,
            "-I",
            str(boot),
            "executor",
            str(inject),
            *numbers,
            *setup["times"],
            *folders,
        ]
        os.execve(sys.executable, words, variables)  # noqa: S606 - no shell is wanted
    except BaseException as error:  # noqa: BLE001 - a copy of the first process, which must not go on as that
        _say(f"the executor cannot be begun: {error!r}")
    os._exit(1)


def _noted(signum: int, frame: object) -> None:
    """SIGCHLD wakes `_stand_by`."""


def _stand_by(control: socket.socket, woken: int, pid: int, killed: int) -> int:
    """Until the executor or the runner ends."""
    poll = select.poll()
    for number in (control.fileno(), woken):
        poll.register(number, select.POLLIN)
    while True:
        ready = [number for number, _ in poll.poll()]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            code = _reaped(pid)
            if code is not None:
                said = {"code": code, "memory": code == -signal.SIGKILL and _killed_for_memory() > killed}
                with contextlib.suppress(OSError):
                    control.sendall(json.dumps(said).encode() + b"\n")
                return 0
        if control.fileno() in ready and not _passed_on(control, pid):
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            return 0


def _passed_on(control: socket.socket, pid: int) -> bool:
    """Send the executor what signals the runner was sent, a byte each; False where the runner has ended."""
    try:
        numbers = control.recv(64)
    except OSError:
        numbers = b""
    for number in numbers:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    return bool(numbers)


def _reaped(pid: int) -> int | None:
    """Take in all that have ended; the executor's code (negative: a signal), if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == pid:
                found = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            elif not ended:
                break
    return found


def _killed_for_memory() -> int:
    """How many processes of this container the kernel has killed for want of memory."""
    for place, beginning in _KILLS:
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = Path(place).read_text("ascii").splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith(beginning))
    return 0


if __name__ == "__main__":
    sys.exit(main())
