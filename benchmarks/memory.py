"""`python -m benchmarks.memory [--workers N] [--output FILE]`: what idle workers take, and what they share.

A stack of its own with N idle workers, which have run a job each or none. RSS counts what processes share once in
each of them; PSS divides it among them, so that sums of PSS are what the machine gives; `own` is what nobody shares.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from benchmarks.about import about
from tests.rig import wait_until

_CALLER = """
import sys
from flashq import Endpoint

def idle():
    return None

count = int(sys.argv[1])
Endpoint(name="idle", cpu="any", workers=(count, count))(idle).remote()
"""
_KEEPER = "-m flashq.embedded"
_ROLES = {
    "flashq_worker.worker_zygote": "zygote of workers",
    "boot.py zygote": "zygote of executors",
    "-m flashq_worker --lifeline": "supervisor, spawned",
    "-m flashq host": "host agent",
    "-m flashq autoscaler": "autoscaler",
    _KEEPER: "keeper",
}
_FORKS = {"zygote of workers": "supervisor", "zygote of executors": "executor"}


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # also where it is a zombie
        return ""


def _role(process: psutil.Process) -> str:
    line = _line(process)
    role = next((role for part, role in _ROLES.items() if part in line), "")
    if role not in _FORKS:
        return role
    parent = process.parent()
    forked = parent is not None and _line(parent) == line
    return _FORKS[role] if forked else role


def _of_stack(home: str) -> list[psutil.Process]:
    keeper = next(one for one in psutil.process_iter() if home in (line := _line(one)) and _KEEPER in line)
    return [keeper, *keeper.children(recursive=True)]


def _count(home: str, *roles: str) -> int:
    return sum(_role(process) in roles for process in _of_stack(home))


def measure(workers: int) -> dict[str, dict[str, float]]:
    """By role: how many processes, and in MB the mean of their RSS, PSS and own memory."""
    with tempfile.TemporaryDirectory(prefix="fq-") as home:
        environ = {**os.environ, "FLASHQ_HOME": home}
        flashq = [sys.executable, "-m", "flashq"]
        subprocess.run(
            [*flashq, "up", "--detach", "--no-gateway"], env=environ, check=True, capture_output=True
        )
        try:
            script = Path(home) / "caller.py"
            script.write_text(_CALLER, "utf-8")
            subprocess.run([sys.executable, script, str(workers)], env=environ, check=True, timeout=120)
            wait_until(
                lambda: _count(home, "supervisor", "supervisor, spawned") > workers, 60, "a spare beside them"
            )
            wait_until(lambda: _count(home, "executor") >= workers, 60, "their executors")
            by_role: dict[str, list[tuple[float, float, float]]] = {}
            for process in _of_stack(home):
                if role := _role(process):
                    info = process.memory_full_info()
                    by_role.setdefault(role, []).append((info.rss / 1e6, info.pss / 1e6, info.uss / 1e6))
        finally:
            subprocess.run([*flashq, "down", "--now"], env=environ, check=True, capture_output=True)
    return {
        role: {
            "n": len(sizes),
            **{
                name: statistics.fmean(size[index] for size in sizes)
                for index, name in enumerate(("RSS", "PSS", "own"))
            },
        }
        for role, sizes in sorted(by_role.items())
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    record = {
        "about": about("python -m benchmarks.memory " + " ".join(sys.argv[1:])),
        "workers": arguments.workers,
        "MB": measure(arguments.workers),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
