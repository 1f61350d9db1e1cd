"""`python -m benchmarks.live_output [--lines N] [--output FILE]`: from `print` in a job to its reader here.

The job prints the time, of the same machine's clock, each 20 ms; the reader is `job.logs(follow=True)`, then the
command `flashq logs JOB --follow`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.about import about
from flashq import Endpoint
from tests.rig import SECRET, Rig

if TYPE_CHECKING:
    from collections.abc import Iterable


@Endpoint(name="bench-print", cpu="any", workers=(0, 1))
def clock(count: int) -> None:
    time.sleep(1.0)  # until somebody reads
    for _ in range(count):
        time.sleep(0.02)
        print(time.monotonic_ns())


@Endpoint(name="bench-prints", cpu="any", workers=(0, 1), max_concurrency=4)
async def clocks(count: int) -> None:
    import asyncio

    await asyncio.sleep(1.0)
    for _ in range(count):
        await asyncio.sleep(0.02)
        print(time.monotonic_ns())


def ages_ms(lines: Iterable[str]) -> list[float]:
    """How old each line is when it is read."""
    return [(time.monotonic_ns() - int(line)) / 1e6 for line in lines]


def by_command(rig: Rig, job: str) -> Iterable[str]:
    """The lines that `flashq logs JOB --follow` prints, as it prints them."""
    variables = {"FLASHQ_REDIS_URL": rig.server.url, "FLASHQ_SECRET_KEY": SECRET.hex()}
    command = [sys.executable, "-m", "flashq", "logs", job, "--follow"]
    with subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield from process.stdout


def measure(lines: int) -> dict[str, Any]:
    """Milliseconds from print to the reader."""
    found = {}
    with closing(Rig(lease_s=15.0)) as rig:
        for name, function in (("alone", clock), ("one of several", clocks)):
            rig.ready_worker(function)
            job = function.spawn(lines)
            found[f"job.logs, {name}"] = ages_ms(job.logs(follow=True))
            job = function.spawn(lines)
            found[f"flashq logs -f, {name}"] = ages_ms(by_command(rig, job.id))
    return {
        f"{what}, ms": {
            "n": len(ages),
            "p50": round(statistics.median(ages), 3),
            "p99": round(sorted(ages)[int(0.99 * len(ages))], 3),
            "max": round(max(ages), 3),
        }
        for what, ages in found.items()
    }


def main() -> None:
    """Measure, print, and with --output keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    command = "python -m benchmarks.live_output --output benchmarks/results/live_output.json"
    found = {"about": about(command), **measure(arguments.lines)}
    print(json.dumps(found, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
