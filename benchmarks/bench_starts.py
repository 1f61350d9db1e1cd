"""Starts: cold starts with the stack up and from nothing, import time, memory of an idle worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.rig import Rig

_SCRIPT = """
import json, sys, time
started = time.time()
from flashq import Endpoint

def make(n):
    source = "def f%d():\\n    import time\\n    return time.time()\\n" % n
    space = {"__name__": "__main__"}
    exec(source, space)
    return Endpoint(name="cold%d-%s" % (n, sys.argv[2]), cpu="any", workers=(0, 1), idle_timeout=0.1)(space["f%d" % n])

took = []
for n in range(int(sys.argv[1])):
    f = make(n)
    called = time.time()
    took.append(f.remote() - called)
json.dump({"took": took, "whole": time.time() - started}, sys.stdout)
"""


def _run(script: str, *args: str, home: Path) -> str:
    environ = {**os.environ, "FLASHQ_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def cold_starts_with_stack_up(count: int) -> list[float]:
    """Seconds from `remote()` to the function's first line, zero workers, the stack up: a new endpoint each time."""
    import json

    with tempfile.TemporaryDirectory(prefix="fq-") as home:
        environ = {**os.environ, "FLASHQ_HOME": home}
        flashq = [sys.executable, "-m", "flashq"]
        subprocess.run([*flashq, "up", "--detach"], env=environ, check=True, capture_output=True)
        try:
            _run(_SCRIPT, "1", "warm", home=Path(home))  # bytecode and page cache, not the worker
            took: list[float] = json.loads(_run(_SCRIPT, str(count), "run", home=Path(home)))["took"]
            return took
        finally:
            subprocess.run([*flashq, "down", "--now"], env=environ, check=True, capture_output=True)


def cold_starts_from_nothing(count: int) -> list[float]:
    """The same with no broker, host agent or autoscaler running: each call starts them all."""
    import json

    took = []
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="fq-") as home:
            took += json.loads(_run(_SCRIPT, "1", "run", home=Path(home)))["took"]
    return took


def imports(count: int) -> tuple[list[float], list[float]]:
    """Seconds of a whole `python -c "import flashq"`, and of `python -c pass`, alternating."""
    took: dict[str, list[float]] = {"import flashq": [], "pass": []}
    for _ in range(count):
        for code, times in took.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - started)
    return took["import flashq"], took["pass"]


def idle_memory_mb(rig: Rig) -> dict[str, float]:
    """PSS in MB of an idle worker that has run one job: supervisor and executor."""
    from benchmarks.bench_jobs import PAYLOAD, noop

    worker = rig.ready_worker(noop, lease_s=15.0)
    try:
        noop.remote(PAYLOAD)
        supervisor = psutil.Process(worker.process.pid)
        executor = supervisor.children()[0]
        pss = {
            name: p.memory_full_info().pss / 1e6
            for name, p in (("supervisor", supervisor), ("executor", executor))
        }
    finally:
        worker.close()
        rig.broker.run(rig.broker.transitions.leave("noop", worker.id, "measured"))
    return pss
