"""`python -m benchmarks.starts [--homes N] [--starts N] [--packages …] [--output FILE]`: starts with zero workers.

From the call to the function's first line, imports done, by the caller's and the function's clocks, which are one
machine's. In each of several homes, which begin with nothing but uv's cache: the first start and the second, 5 s later,
of a function without imports and of one with heavy ones; then, in the last home, many more of both. Heavy is a package
made here that takes half a second of computing to import; `--packages` adds others, such as numpy or torch, as an
index has them.
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
from typing import Any

from benchmarks.about import about
from tests.integration.environment_rig import make_wheel

HEAVY = """
import dataclasses
made = [dataclasses.make_dataclass(f"C{n}", [(f"f{i}", int, i) for i in range(6)]) for n in range(2400)]
"""
PROGRAM = """
import json, sys, time
from flashq import Endpoint

name, count, package = sys.argv[1], int(sys.argv[2]), sys.argv[3]
first = "import " + package if package else "pass"
source = f"def start():\\n    {first}\\n    import time\\n    return time.time()\\n"
space = {"__name__": "__main__"}
exec(source, space)
packages = [sys.argv[4]] if package else []
start = Endpoint(name=name, cpu="any", workers=(0, 1), idle_timeout=0.1, dependencies=packages)(space["start"])
for _ in range(count):
    called = time.time()
    job = start.spawn()
    began = job.result(300)
    timing = job.timing
    print(json.dumps({"ms": (began - called) * 1000, "cold": job.cold_start, "parts": timing.startup}), flush=True)
    time.sleep(float(sys.argv[5]))
"""


class Home:
    """A stack of its own, up for a while."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fqs-")
        self.environ = {**environ, "FLASHQ_HOME": self._folder.name}
        self._flashq("up", "--detach")

    def _flashq(self, *words: str) -> None:
        command = [sys.executable, "-m", "flashq", *words]
        subprocess.run(command, env=self.environ, check=True, capture_output=True)

    def starts(self, name: str, count: int, package: str = "", requirement: str = "") -> list[dict[str, Any]]:
        """So many starts of one endpoint, one after the other; each waits for the last one's worker to be gone."""
        pause_s = 5.0 if count == 2 else 2.0  # a zygote is made a little later, and nothing else waits here
        command = [sys.executable, "-c", PROGRAM, name, str(count), package, requirement, str(pause_s)]
        done = subprocess.run(command, env=self.environ, check=True, capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def close(self) -> None:
        self._flashq("down", "--now")
        self._folder.cleanup()


def summary(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Of starts that met no worker: their times, and the median of each part. All in ms."""
    cold = [start for start in starts if start["cold"]]
    times = sorted(start["ms"] for start in cold)
    parts: dict[str, list[float]] = {}
    for start in cold:
        for part, seconds in start["parts"].items():
            parts.setdefault(part, []).append(seconds * 1000)
    return {
        "n": len(times),
        "p50": round(statistics.median(times), 2),
        "p99": round(times[min(len(times) - 1, int(0.99 * len(times)))], 2),
        "max": round(times[-1], 2),
        "forked": sum("fork" in start["parts"] for start in cold),
        "parts": {part: round(statistics.median(spent), 2) for part, spent in parts.items()},
    }


def measure(homes: int, starts: int, packages: list[str]) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="fqs-wheels-") as wheels:
        make_wheel(Path(wheels), "fq-heavy", "1.0", HEAVY)
        found = [] if "PIP_FIND_LINKS" not in os.environ else [os.environ["PIP_FIND_LINKS"]]
        environ = {**os.environ, "PIP_FIND_LINKS": " ".join([wheels, *found])}
        kinds = {
            "plain": ("", ""),
            "heavy": ("fq_heavy", "fq-heavy"),
            **{name: (name, name) for name in packages},
        }
        first: dict[str, list[Any]] = {kind: [] for kind in kinds}
        second: dict[str, list[Any]] = {kind: [] for kind in kinds}
        later: dict[str, list[Any]] = {}
        for number in range(homes):
            home = Home(environ)
            for kind, (package, requirement) in kinds.items():
                one, two = home.starts(f"starts-{kind}", 2, package, requirement)
                if number or kind == "plain":  # the first home fills uv's cache
                    first[kind].append(one)
                    second[kind].append(two)
                if number == homes - 1:
                    later[kind] = home.starts(f"starts-{kind}", starts + 1, package, requirement)[1:]
            home.close()
    return {
        kind: {"first": summary(first[kind]), "second": summary(second[kind]), "later": summary(later[kind])}
        for kind in kinds
    }


def main() -> None:
    """Measure, print, and with --output keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--homes", type=int, default=6)
    parser.add_argument("--starts", type=int, default=60)
    parser.add_argument("--packages", nargs="*", default=[])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found = {
        "about": about("python -m benchmarks.starts " + " ".join(sys.argv[1:])),
        "ms from the call to the first line": measure(arguments.homes, arguments.starts, arguments.packages),
    }
    print(json.dumps(found, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
