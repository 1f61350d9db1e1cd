"""Where an executor or a zygote begins:

    python -I boot.py executor INJECT SOCKET LIFELINE PULSE LEASE_S START_NS [FOLDER…]
    python -I boot.py zygote INJECT CONTROL NAME MODULES

INJECT is a folder holding flashq, flashq_worker and cloudpickle for an environment that has none of them, or "" where
it has them. SOCKET, LIFELINE, PULSE and CONTROL are inherited descriptors; START_NS is the supervisor's
time.monotonic_ns() when it started this process; NAME is where a zygote listens, and MODULES a file
of what it imports ahead, or "". FOLDERs hold modules that come before the interpreter's own, as in `site-packages`.
All else comes in a LOAD frame.
"""

from __future__ import annotations

import sys
import types


def main() -> int:
    """Load the function, run jobs until STOP; or fork those that do. The exit status."""
    role, inject, *given = sys.argv[1:]
    if role == "executor":
        given, folders = given[:5], given[5:]
        _prefer(folders)
    if inject:
        sys.path.insert(0, inject)
    # User code finds a program of its own: no arguments, and a __main__ that is not this file.
    sys.argv = [""]
    sys.modules["__main__"] = types.ModuleType("__main__")

    if role == "zygote":
        from flashq_worker.executor import zygote

        control, name, modules = given
        return zygote.run(int(control), name, modules)

    from flashq_worker.executor import session

    sock_fd, lifeline, pulse, lease_s, start_ns = given
    executor = session.Executor(int(sock_fd), int(lifeline), int(pulse))
    return executor.run(float(lease_s), int(start_ns))


def _prefer(folders: list[str]) -> None:
    """Have modules of these folders found first, and what their .pth files name next."""
    import site

    own = list(sys.path)
    for folder in folders:
        site.addsitedir(folder)
    sys.path[:] = [*sys.path[len(own) :], *own]


if __name__ == "__main__":
    _this_module = sys.modules["__main__"]  # kept alive while its code runs
    sys.exit(main())
