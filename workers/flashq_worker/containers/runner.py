"""The process that stands for an executor in a container: ``python -m flashq_worker.containers.runner``.

To its supervisor it is the executor: it gets the descriptors of one, passes on what signals it is sent, and ends as
the executor ends. It runs the engine in the foreground, and at a socket that the container sees it waits for
`executor.contained` to take the descriptors over. It ends when the supervisor does, and the container when it does.

Where the image serves HTTP by itself, the executor is a process beside the container: see `server`.

It holds neither a key nor the broker's address, and no user code runs in it. While it lives it holds a lock, so that
who finds the folder and can lock it knows that the container is nobody's any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flashq_worker.containers import engine as engines
from flashq_worker.containers.order import TROUBLE, UNFIT, Order, say
from flashq_worker.containers.server import Serving
from flashq_worker.executor import contained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENGINE = "engine"
"""The file in a container's folder that names the program which ran it."""
FIRST = "first"
"""The file that says which process of this host is the container's first."""
PROGRAM = "python3"
"""What the image has to have."""
_SAID_BYTES = 8192
_LAST_S = 8.0  # for an engine to let go of a container whose executor has ended
_HAND_OVER_S = 10.0  # for a container that has connected to take what it is given
_PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def run_folder(folder: Path) -> Path:
    """What of it the container sees."""
    return folder / Path(contained.SOCKET).parent


def make_folder(folder: Path) -> None:
    """Make a container's folder. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    run_folder(folder).mkdir(parents=True, exist_ok=True)
    for place in (folder, run_folder(folder)):
        place.chmod(0o755)  # in the container, others may be who reads it; outside nobody gets so far


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a container's folder. False: it is gone, or another's who is not waited for."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _is_ours(folder / "lock", descriptor, wait=wait)
    finally:
        os.close(descriptor)


def _is_ours(file: Path, descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except (BlockingIOError, FileNotFoundError):
        return False


def main() -> NoReturn:
    """Run the container to its end, and end as its executor did."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    order = Order.from_json(sys.stdin.read())
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (*_PASSED_ON, signal.SIGCHLD):
        signal.signal(number, _noted)
    try:
        code = _in_its_folder(order, woken)
    except OSError as error:
        say(f"the container cannot be begun: {error}")
        code = TROUBLE
    _end(code)


def _in_its_folder(order: Order, woken: int) -> int:
    while True:
        try:
            make_folder(order.folder)
        except FileNotFoundError:
            continue  # as below
        with locked(order.folder, wait=True) as ours:
            if ours:  # else somebody has just removed what an earlier one left
                (order.folder / ENGINE).write_text(order.engine, "utf-8")
                _remove(order)
                code = (Serving if order.port else _Runner)(order, woken, _PASSED_ON).run()
                shutil.rmtree(order.folder, ignore_errors=True)
                return code


def _noted(signum: int, frame: object) -> None:
    """Signals wake the runner; which they were it reads there."""


def _remove(order: Order) -> None:
    """End what an earlier executor of this worker left, if its runner was killed: a worker has one container."""
    subprocess.run(
        engines.remove_words(order.engine, order.container),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _end(code: int) -> NoReturn:
    if code < 0:
        signal.set_wakeup_fd(-1)
        with contextlib.suppress(OSError):  # SIGKILL has no handler to be set
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


class _Runner:
    def __init__(self, order: Order, woken: int, passed_on: Sequence[int]) -> None:
        self._order = order
        self._woken = woken
        self._passed_on = passed_on
        self._lifeline = os.dup(order.given[1])  # ours: it ends when the supervisor does
        os.set_inheritable(self._lifeline, False)
        self._listener: socket.socket | None = self._listen()
        self._control: socket.socket | None = None
        self._heard = b""
        self._signals: list[int] = []
        self._engine: subprocess.Popen[bytes] | None = None
        self._errors: int | None = None
        self._said = b""  # the last of what the engine wrote there

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        place = run_folder(self._order.folder)
        name = Path(contained.SOCKET).name
        with contextlib.suppress(FileNotFoundError):
            (place / name).unlink()
        folder = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{name}")  # an address is at most 107 bytes long
        finally:
            os.close(folder)
        (place / name).chmod(0o666)
        listener.listen(1)
        return listener

    def run(self) -> int:
        """The code that the executor ended with (negative: a signal), or one of this module's. Raises OSError."""
        self._errors, errors = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._errors, False)
        self._engine = subprocess.Popen(self._order.words, stdin=subprocess.DEVNULL, stderr=errors)
        os.close(errors)
        while True:
            self._wait()
            if (code := self._reported()) is not None:
                self._let_go()
                return code
            if (status := self._engine.poll()) is not None:
                if self._control is not None:
                    self._hear(self._control)  # it may have said so after we listened, and ended
                code = self._reported()
                return self._ended(status) if code is None else code

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._lifeline, select.POLLIN)
        if self._errors is not None:
            poll.register(self._errors, select.POLLIN)
        for sock in (self._listener, self._control):
            if sock is not None:
                poll.register(sock, select.POLLIN)
        ready = {number for number, _ in poll.poll()}
        if self._lifeline in ready:
            os._exit(TROUBLE)  # the supervisor is gone; the container ends since we do
        if self._woken in ready:
            self._signals += [number for number in os.read(self._woken, 4096) if number in self._passed_on]
        self._relay()
        if self._listener is not None and self._listener.fileno() in ready:
            self._hand_over(self._listener)
        if self._control is not None:
            if self._signals:
                with contextlib.suppress(OSError):
                    self._control.sendall(bytes(self._signals))
                self._signals = []
            if self._control.fileno() in ready:
                self._hear(self._control)

    def _relay(self) -> None:
        """Pass on what the engine complains of, as it comes."""
        with contextlib.suppress(BlockingIOError):
            while self._errors is not None:
                piece = os.read(self._errors, 65536)
                if not piece:
                    os.close(self._errors)
                    self._errors = None
                sys.stdout.buffer.write(piece)
                self._said = (self._said + piece)[-_SAID_BYTES:]
        sys.stdout.flush()

    def _hand_over(self, listener: socket.socket) -> None:
        """The container has begun: what connects the supervisor and an executor is its alone from now on."""
        control, _ = listener.accept()
        control.settimeout(_HAND_OVER_S)
        setup = json.dumps(self._order.setup).encode()
        try:
            socket.send_fds(
                control, [contained.LENGTH.pack(len(setup))], [*self._order.given, sys.stdout.fileno()]
            )
            control.sendall(setup)
        except OSError as error:
            say(f"the container does not take what its executor is to begin with: {error}")
            control.close()
            return
        credentials = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        first = struct.unpack("3i", credentials)[0]
        (self._order.folder / FIRST).write_text(f"{first}\n", "ascii")
        control.setblocking(False)
        self._control, self._listener = control, None
        listener.close()
        for descriptor in self._order.given:
            os.close(descriptor)

    def _hear(self, control: socket.socket) -> None:
        try:
            said = control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._heard = (self._heard + said)[:4096]
        if not said:
            control.close()
            self._control = None

    def _reported(self) -> int | None:
        """What the container's first process said of the executor's end."""
        line, whole, _ = self._heard.partition(b"\n")
        if not whole:
            return None
        told: dict[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(line)
            told = found if isinstance(found, dict) else {}
        code = told.get("code")
        if not isinstance(code, int) or not -64 <= code <= 255:
            say("the container's first process says nothing that makes sense of how its executor ended")
            return 1
        if told.get("memory"):
            self._say_memory()
        return code

    def _say_memory(self) -> None:
        limit = self._order.memory_bytes
        of = f"the container's {limit / 2**30:g} GiB of memory" if limit else "the memory there is"
        say(f"it needed more than {of}: the kernel killed it")

    def _let_go(self) -> None:
        """Have the container gone before the end is seen."""
        if self._control is not None:
            self._control.close()
        assert self._engine is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._engine.wait(_LAST_S)

    def _ended(self, status: int) -> int:
        """The engine has ended, and nobody said how the executor did."""
        self._relay()
        said = self._said.decode("utf-8", "replace")
        code, words = judged(status, self._order.image, said, begun=self._listener is None)
        say(words)
        return code


def judged(status: int, image: str, said: str, *, begun: bool) -> tuple[int, str]:
    """What a runner ends with whose engine ended with `status`, and the words for it.

    `said`: what the engine complained of; `begun`: whether the executor had.
    """
    if status in (128 + signal.SIGKILL, -signal.SIGKILL):
        return -signal.SIGKILL, f"the container of image {image} was killed"
    if begun:
        return abs(status) or 1, f"the container of image {image} ended with code {status}"
    if status in engines.NO_PROGRAM and PROGRAM in said:
        return UNFIT, f"image {image} has no {PROGRAM} that runs (code {status})"
    if status in (engines.REFUSED, *engines.NO_PROGRAM):
        why = engines.last_lines(said, 1) or "the engine does not say why"
        return TROUBLE, f"no container of image {image} was begun (code {status}): {why}"
    if status == contained.WRONG_PYTHON:
        return UNFIT, f"image {image} has another Python than the function"
    return (
        UNFIT,
        f"the container of image {image} ended with code {status} before there was an executor in it",
    )


if __name__ == "__main__":
    main()
