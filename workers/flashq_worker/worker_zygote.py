"""The zygote of workers (`python -m flashq_worker.worker_zygote CONTROL`): it forks supervisors, their imports done.

The host agent asks for them by CONTROL, a socket pair that nobody else has, and tells each what it is by its standard
input. It knows no key and no broker, and is closed to other processes of its user, as supervisors are.
"""

from __future__ import annotations

import gc
import os
import socket
import sys

from flashq import private
from flashq_worker import __main__ as worker
from flashq_worker import spare
from flashq_worker.executor.zygote import READY, Zygote
from flashq_worker.host.worker_zygote import CALLS

DESCRIPTORS = 4
"""Of a worker: its standard input, its log, its lifeline, its line for calls."""


def main(control_fd: int) -> int:
    """Fork until the host agent is gone; in a forked process: be a worker. The exit code."""
    private.keep()
    spare.get_ready()
    control = socket.socket(fileno=control_fd)
    gc.collect()
    gc.freeze()
    control.send(READY)
    zygote = Zygote(control, None, DESCRIPTORS)
    given = zygote.serve()
    if given is None:
        return 0
    zygote.leave_behind()
    os.setsid()
    stdin, log, lifeline, calls = given
    os.dup2(calls, CALLS, inheritable=False)
    for number, descriptor in enumerate((stdin, log, log)):
        os.dup2(descriptor, number)
    for descriptor in (stdin, log, calls):
        os.close(descriptor)
    return worker.run(lifeline)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
