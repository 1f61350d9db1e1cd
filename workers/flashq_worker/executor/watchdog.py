"""Ends the executor, and everything it started, when its supervisor is gone or has lost its lease.

Two pipes whose write ends only the supervisor holds:

    lifeline  nothing is ever written to it; it ends when the supervisor does. The kernel itself then kills
              the process group (a signal-driven read end with SIGKILL as its signal), so that not even a job
              that holds the interpreter lock in C outlives its supervisor.
    pulse     one byte each time the lease was renewed. A thread that sees none for a lease kills the group.
              It needs the interpreter lock for that: a job that holds it in C while the supervisor is stopped
              ends when it lets go.
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

_F_SETSIG = getattr(fcntl, "F_SETSIG", None)  # Linux only
_leader: int | None = None  # the executor's process id, which is its group's


def start(lifeline: int, pulse: int, lease_s: float) -> None:
    """Watch both pipes from now on. To be called once, by the leader of its own process group."""
    global _leader
    _leader = os.getpid()
    _kill_at_end(lifeline)
    watch = threading.Thread(
        target=_watch, args=(lifeline, pulse, lease_s), name="flashq-watchdog", daemon=True
    )
    watch.start()


def end_group() -> NoReturn:
    """SIGKILL the executor's process group. A child that user code forked ends only itself."""
    if os.getpid() == _leader:
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


def _watch(lifeline: int, pulse: int, lease_s: float) -> None:
    poller = select.poll()
    poller.register(lifeline, select.POLLIN)
    poller.register(pulse, select.POLLIN)
    deadline = time.monotonic() + lease_s
    while ready := poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        if any(not os.read(fd, 4096) for fd, _ in ready):
            break
        deadline = time.monotonic() + lease_s
    end_group()
