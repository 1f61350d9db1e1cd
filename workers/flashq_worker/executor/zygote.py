"""A zygote: a process of an environment's interpreter that forks executors, which saves them its start.

It listens at a socket in the folder where it was started, which its host agent's user alone can enter. A supervisor
connects and sends one message with five descriptors: the executor's end of the frames, of the lifeline, of the pulse,
its output, and a file of what only the executor is to know (its variables, which may be secrets: the zygote never reads
it). The answer is the executor's process id, or why there is none; a second message says how the executor ended. It
is reaped when the supervisor hangs up, so that until then its id is nobody else's.

One thread, by which it can fork; it ends when its host agent does. It holds neither key nor broker address.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flashq_worker.executor import output, preimport, safety, session

REQUEST = b"fork"
PING = b"."
RETIRE = b"x"
"""From the host agent: listen no more, and end when what was forked has."""
READY = b"+"
"""To the host agent: it listens now."""
DESCRIPTORS = 5

_EVERY_EXECUTORS = (
    "asyncio",
    "cloudpickle",
    "flashq_worker.executor.run_async",
    "flashq_worker.executor.run_batch",
)


class Given(NamedTuple):
    """The descriptors that a forked executor begins with."""

    sock: int
    lifeline: int
    pulse: int
    output: int
    setup: int


@dataclass(slots=True)
class _Child:
    pid: int
    pidfd: int
    asked_by: socket.socket | None
    """The supervisor's connection; None once it has hung up."""
    ended: bool = False


def run(control: int, name: str, modules: str) -> int:
    """Be a zygote that listens at `name` until `control`, the host agent's end of a socket pair, closes.

    `modules`: a file of what to import ahead; empty: nothing. In a forked executor: be that until it ends. Returns the
    exit status.
    """
    output.open_for_forks()
    for module in _EVERY_EXECUTORS:
        importlib.import_module(module)
    if modules:
        preimport.run(Path(modules), Path(name).with_suffix(".tried"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(FileNotFoundError):
        Path(name).unlink()
    listener.bind(name)
    listener.listen(64)
    gc.collect()
    gc.freeze()  # so that collections in executors write to no page that they share
    os.write(control, READY)
    zygote = Zygote(socket.socket(fileno=control), listener, DESCRIPTORS)
    given = zygote.serve()
    if given is None:
        return 0
    zygote.leave_behind()
    return be_executor(Given(*given))


class Zygote:
    """The loop of a zygote: whoever connects, or whose connection the host agent sends, may have it fork once."""

    def __init__(self, control: socket.socket, listener: socket.socket | None, descriptors: int) -> None:
        """`descriptors`: how many come with a request."""
        self._control = control
        self._listener = listener
        self._descriptors = descriptors
        self._connections: dict[int, socket.socket] = {}
        self._by_pidfd: dict[int, _Child] = {}
        self._by_connection: dict[int, _Child] = {}
        self._retiring = False
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._listening = -1
        if listener is not None:
            self._listening = listener.fileno()
            self._poll.register(listener, select.POLLIN)

    def serve(self) -> list[int] | None:
        """Fork until the host agent is gone or has had enough, then None; in a forked process: what it was given."""
        while not (self._retiring and not self._connections and not self._by_pidfd):
            for fd, _ in self._poll.poll():
                given: list[int] | None = None
                if fd == self._control.fileno():
                    said, fds, _, _ = socket.recv_fds(self._control, 64, self._descriptors + 1)
                    if not said:
                        return None
                    given = self._on_agent(said, fds)
                elif fd == self._listening:
                    self._accept()
                elif fd in self._by_pidfd:
                    self._on_end(self._by_pidfd[fd])
                elif fd in self._connections:
                    given = self._on_word(self._connections[fd])
                if given is not None:
                    return given
        return None

    def _on_agent(self, said: bytes, fds: list[int]) -> list[int] | None:
        if said == REQUEST and len(fds) == self._descriptors + 1:
            connection = socket.socket(fileno=fds[0])
            self._know(connection)
            return self._asked(connection, fds[1:])
        _close(fds)
        if RETIRE not in said:
            self._control.send(said)
        elif not self._retiring:
            self._retiring = True
            if self._listener is not None:
                self._poll.unregister(self._listener)
                self._listener.close()
                self._listening = -1
        return None

    def leave_behind(self) -> None:
        """In a forked executor: let go of what is the zygote's."""
        if self._listener is not None:
            self._listener.close()
        for connection in self._connections.values():
            connection.close()
        for child in self._by_pidfd.values():
            os.close(child.pidfd)
        self._control.close()

    def _accept(self) -> None:
        assert self._listener is not None
        self._know(self._listener.accept()[0])

    def _know(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def _on_word(self, connection: socket.socket) -> list[int] | None:
        try:
            said, fds, _, _ = socket.recv_fds(connection, len(REQUEST), self._descriptors)
        except BlockingIOError:
            return None
        except OSError:
            said, fds = b"", []
        if said != REQUEST or len(fds) != self._descriptors or connection.fileno() in self._by_connection:
            _close(fds)
            self._on_hanging_up(connection)
            return None
        return self._asked(connection, fds)

    def _asked(self, connection: socket.socket, fds: list[int]) -> list[int] | None:
        """Fork, or say why not; in the forked process: what it was given."""
        refused = safety.unsafe()
        if not refused:
            try:
                return fds if self._fork(connection, fds) == 0 else None
            except OSError as error:
                refused = str(error)
        _close(fds)
        _say(connection, {"refused": refused})
        return None

    def _fork(self, connection: socket.socket, fds: list[int]) -> int:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or the child would write it once more
        pid = os.fork()
        if pid:
            _close(fds)
            child = _Child(pid, os.pidfd_open(pid), connection)
            self._by_pidfd[child.pidfd] = child
            self._by_connection[connection.fileno()] = child
            self._poll.register(child.pidfd, select.POLLIN)
            _say(connection, {"pid": pid})
        return pid

    def _on_end(self, child: _Child) -> None:
        result = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return
        self._poll.unregister(child.pidfd)
        del self._by_pidfd[child.pidfd]
        os.close(child.pidfd)
        child.ended = True
        if child.asked_by is None:
            os.waitpid(child.pid, 0)
            return
        killed = result.si_code != os.CLD_EXITED
        _say(child.asked_by, {"code": -result.si_status if killed else result.si_status})

    def _on_hanging_up(self, connection: socket.socket) -> None:
        """Its executor, if it lives, ends by its lifeline; it is reaped then."""
        self._poll.unregister(connection)
        del self._connections[connection.fileno()]
        child = self._by_connection.pop(connection.fileno(), None)
        if child is not None:
            child.asked_by = None
            if child.ended:
                os.waitpid(child.pid, 0)
        connection.close()


def be_executor(given: Given) -> int:
    """Be in this forked process what a spawned executor would be; the exit status.

    It waits for the first frame, by when it has been told all else. `random` has reseeded itself (the standard library
    does); numpy does not.
    """
    os.setsid()
    for stream in (1, 2):
        os.dup2(given.output, stream)
    keep = {0, 1, 2, given.sock, given.lifeline, given.pulse, given.setup}
    for number in safety.descriptors() - keep:
        os.close(number)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    executor = session.Executor(given.sock, given.lifeline, given.pulse, forked=True)
    select.select([given.sock], [], [])
    content = _content(given.setup)
    os.close(given.setup)
    if not content:
        return 0  # nobody had use for it
    setup = json.loads(content)
    for name in os.environ.keys() - setup["env"].keys():
        del os.environ[name]
    for name, value in setup["env"].items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    time.tzset()
    os.chdir(setup["cwd"])
    os.sched_setaffinity(0, setup["cores"])
    _enter(setup["group"])
    return executor.run(float(setup["lease_s"]), int(setup["start_ns"]))


def _enter(group: str) -> None:
    """Be counted and bounded with the worker whose executor this is, where that is in a control group of its own."""
    if group:
        try:
            with open(f"{group}/cgroup.procs", "w", encoding="ascii") as procs:  # noqa: PTH123 - as little as can be
                procs.write("0")
        except OSError as error:
            print(f"flashq: it is not held to its memory: {error}", file=sys.stderr)  # noqa: T201


def _content(fd: int) -> bytes:
    """A file from its beginning, wherever its offset is."""
    content = bytearray()
    while piece := os.pread(fd, 1 << 16, len(content)):
        content += piece
    return bytes(content)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _say(connection: socket.socket, said: dict[str, int | str]) -> None:
    with contextlib.suppress(OSError):  # it has hung up, which is seen next
        connection.send(json.dumps(said).encode())
