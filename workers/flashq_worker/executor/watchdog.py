"""The executor's one thread beside the main one: it ends what has lost its supervisor, and passes on pokes.

Two pipes whose write ends only the supervisor holds:

    lifeline  nothing is ever written to it; it ends when the supervisor does. The kernel itself then kills
              the process group (a signal-driven read end with SIGKILL as its signal), so that not even a job
              that holds the interpreter lock in C outlives its supervisor.
    pulse     BEAT each time the lease was renewed. Without one for a lease the group is killed. (The thread
              needs the interpreter lock for that: a job that holds it in C while the supervisor is stopped
              ends when it lets go.) POKE each time the supervisor sent SIGUSR1: see `answered`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import threading
import time
from typing import NoReturn

BEAT = b"."
POKE = b"!"

_F_SETSIG = getattr(fcntl, "F_SETSIG", None)  # Linux only
_FIRST_REPEAT_S = 0.02
_LAST_REPEAT_S = 1.0

_leader: int | None = None  # the executor's process id, which is its group's
_poked = False  # a POKE came, and the signal's handler has not run since


class Watchdog:
    """The thread. To be made once, by the leader of its own process group."""

    def __init__(self, lifeline: int, pulse: int) -> None:
        """Watch both pipes from now on."""
        global _leader
        _leader = os.getpid()
        _kill_at_end(lifeline)
        self._lifeline, self._pulse = lifeline, pulse
        self._lease_s = float("inf")
        self._told, self._tell = os.pipe2(os.O_CLOEXEC)
        threading.Thread(target=self._watch, name="flashq-watchdog", daemon=True).start()

    def lease(self, lease_s: float) -> None:
        """From now on: end the group where no BEAT comes for so long. To be called once."""
        self._lease_s = lease_s
        os.close(self._tell)

    def _watch(self) -> None:
        global _poked
        main_thread = threading.main_thread().ident or 0
        poller = select.poll()
        for fd in (self._lifeline, self._pulse, self._told):
            poller.register(fd, select.POLLIN)
        deadline = float("inf")
        repeat_s = _FIRST_REPEAT_S
        while True:
            remaining = deadline - time.monotonic()
            wait = min(remaining, repeat_s) if _poked else remaining
            ready = poller.poll(None if wait == float("inf") else max(0.0, wait) * 1000)
            if not ready and wait == remaining:
                end_group()
            received = b""
            for fd, _ in ready:
                if fd == self._told:
                    poller.unregister(fd)
                    os.close(fd)
                    deadline = time.monotonic() + self._lease_s
                    continue
                data = os.read(fd, 4096)
                if not data:
                    end_group()
                received += data
            if BEAT in received:
                deadline = time.monotonic() + self._lease_s
            if POKE in received:
                _poked = True
                repeat_s = _FIRST_REPEAT_S
            elif _poked:
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                repeat_s = min(2 * repeat_s, _LAST_REPEAT_S)


def answered() -> None:
    """The handler of SIGUSR1 runs.

    A signal that arrives just before the main thread enters a blocking system call is noted by the
    interpreter, but its handler would only run when that call returns, which may be never. So the thread
    repeats the signal until it has been answered: the next one ends the call.
    """
    global _poked
    _poked = False


def end_group() -> NoReturn:
    """SIGKILL the executor's process group. A child that user code forked ends only itself."""
    if os.getpid() == _leader:
        with contextlib.suppress(OSError):  # whatever becomes of the group, this process ends
            os.killpg(_leader, signal.SIGKILL)
    os._exit(137)


def _kill_at_end(lifeline: int) -> None:
    """Have the kernel SIGKILL this process group at the end of the pipe. Where it cannot, the thread does."""
    if _F_SETSIG is None:
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
