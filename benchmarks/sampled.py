"""`python -m benchmarks.sampled PYSPY [--seconds N] [--output FILE]`: what the threads of a warm call are busy with.

PYSPY is the program py-spy (`pip install py-spy` into an environment of its own). One caller, one worker, one call at
a time; stacks of caller, supervisor and executor are sampled, and those that wait for something are left out. Each
of the others is counted for the first of the groups below that it belongs to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks import bench_jobs
from benchmarks.about import about
from tests.rig import rig

_WAITS = (
    "Multiplexer._take_in",
    "Condition.wait ",
    "Supervisor._wait",
    "Watchdog._watch",
    "FrameDecoder.receive (flashq_worker/executor",
)
"""Innermost functions of a thread that has nothing to do. (Of the supervisor the last one reads; see `_group`.)"""
_GROUPS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "caller": (
        ("waking the I/O thread, or sending to the broker", ("Line.send", "Multiplexer._wake")),
        ("pickling and signing the call", ("Submission._make", "Submission._signed")),
        ("verifying and unpickling the outcome", ("Waiting.decode",)),
        ("commands and replies of the broker", ("/store/",)),
    ),
    "supervisor": (
        ("sending to the broker", ("Line.send",)),
        ("sending to the executor", ("ExecutorProcess._send_some",)),
        ("reading from either", ("Line._feed", "FrameDecoder.receive")),
        ("verifying the call", ("flashq_worker/assignment.py",)),
        ("signing the outcome", ("flashq_worker/outcomes.py",)),
        ("frames of the executor", ("executor/frames.py", "ExecutorProcess.run")),
        ("commands and replies of the broker", ("/store/",)),
    ),
    "executor": (
        ("sending to the supervisor", ("send (flashq_worker/executor/frames.py",)),
        ("arguments, function, value", ("_execute (",)),
        ("frames", ("executor/frames.py",)),
    ),
}
_ELSE = "books, and the loop"


def _group(process: str, stack: list[str]) -> str | None:
    innermost = stack[-1]
    reads = process == "supervisor" and innermost.startswith("FrameDecoder.receive")
    if innermost.startswith(_WAITS) and not reads:
        return None
    for group, parts in _GROUPS[process]:
        if any(part in frame for frame in stack for part in parts):
            return group
    return _ELSE


def _shares(process: str, sampled: Path) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for line in sampled.read_text("utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        if group := _group(process, stack.split(";")):
            counts[group] += int(count)
    return {group: count / counts.total() for group, count in counts.most_common()}


def measure(program: str, seconds: int) -> dict[str, dict[str, float]]:
    """By process, what share of its samples belongs to which group."""
    with rig(lease_s=15.0) as made, tempfile.TemporaryDirectory() as folder:
        worker = made.ready_worker(bench_jobs.noop, lease_s=15.0)
        bench_jobs.round_trips(300)
        supervisor = psutil.Process(worker.process.pid)
        places = {
            "caller": os.getpid(),
            "supervisor": supervisor.pid,
            "executor": supervisor.children()[0].pid,
        }
        words = ("--duration", str(seconds), "--rate", "500", "--format", "raw", "--threads")
        running = [
            subprocess.Popen(
                [program, "record", *words, "--output", Path(folder) / name, "--pid", str(pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name, pid in places.items()
        ]
        until = time.monotonic() + seconds + 1
        while time.monotonic() < until:
            bench_jobs.round_trips(50)
        for one in running:
            if one.wait():
                raise RuntimeError(f"{program} ended with code {one.returncode}")
        return {name: _shares(name, Path(folder) / name) for name in places}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.sampled", description=__doc__)
    parser.add_argument("program", metavar="PYSPY")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    record = {
        "about": about(f"python -m benchmarks.sampled py-spy --seconds {arguments.seconds}"),
        "shares": measure(arguments.program, arguments.seconds),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
