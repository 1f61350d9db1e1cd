"""Where the executor process begins: ``python -I boot.py SOCKET LIFELINE PULSE LEASE_S START_NS INJECT``.

The first three are inherited descriptors; START_NS is the supervisor's time.monotonic_ns() when it started
this process; INJECT is a folder holding flashq, flashq_worker and cloudpickle for an environment that has
none of them, or "" where it has them. All else comes in a LOAD frame.
"""

from __future__ import annotations

import sys
import types


def main() -> int:
    """Load the function, run jobs until STOP; the exit status."""
    sock_fd, lifeline, pulse, lease_s, start_ns, inject = sys.argv[1:]
    if inject:
        sys.path.insert(0, inject)
    # User code finds a program of its own: no arguments, and a __main__ that is not this file.
    sys.argv = [""]
    sys.modules["__main__"] = types.ModuleType("__main__")

    from flashq_worker.executor import session

    return session.run(int(sock_fd), int(lifeline), int(pulse), float(lease_s), int(start_ns))


if __name__ == "__main__":
    _this_module = sys.modules["__main__"]  # kept alive while its code runs
    sys.exit(main())
