"""The control group that holds a worker to its memory, as the worker sees it: entered, found, asked for what it killed.

The host agent makes it (see `host.memory`). Version 2 of control groups, and version 1's memory controller.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "flashq-worker-"
PROCS = "cgroup.procs"
_COUNTS = (("memory.events", "oom_kill "), ("memory.oom_control", "oom_kill "))


def enter(folder: str) -> None:
    """Move this process there; what it starts is there too. Raises OSError."""
    Path(folder, PROCS).write_text("0", "ascii")


def of_this_process(root: Path = ROOT, told: str | None = None) -> Path | None:
    """Where this process's memory is counted; None where that cannot be told. `told`: its /proc/self/cgroup."""
    try:
        lines = (Path("/proc/self/cgroup").read_text("ascii") if told is None else told).splitlines()
    except OSError:
        return None
    places = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, path in places.items():
        if "memory" in controllers.split(","):
            return _there(root / "memory", path)
    return _there(root, places[""]) if "" in places else None


def _there(base: Path, path: str) -> Path | None:
    """In a container the group may be the root of what is mounted, whatever its path is."""
    for folder in (base / path.lstrip("/"), base):
        if (folder / PROCS).exists():
            return folder
    return None


def own() -> str:
    """The worker's group that this process is in; '' where it is in none."""
    folder = of_this_process()
    return str(folder) if folder is not None and folder.name.startswith(PREFIX) else ""


def kills(folder: str) -> int:
    """How many processes the kernel has killed there for want of memory."""
    for name, word in _COUNTS if folder else ():
        try:
            lines = Path(folder, name).read_text("ascii").splitlines()
        except OSError:
            continue
        return next((int(line.removeprefix(word)) for line in lines if line.startswith(word)), 0)
    return 0
