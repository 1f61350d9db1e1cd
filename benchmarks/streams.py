"""`python -m benchmarks.streams [--values N] [--output FILE]`: from `yield` on a worker to the reader's loop, here.

Paced: one value each 5 ms, as of a model that makes tokens; each carries the time at which it was yielded, of the same
machine's clock. At once: as many small values as come in a second or so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.about import about
from flashq import Endpoint
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator


@Endpoint(name="bench-stream", cpu="any", workers=(0, 1))
def ticks(count: int, pause_s: float) -> Iterator[int]:
    for _ in range(count):
        time.sleep(pause_s)
        yield time.monotonic_ns()


def measure(values: int) -> dict[str, Any]:
    """Milliseconds from yield to loop, and values a second."""
    with closing(Rig(lease_s=15.0)) as rig:
        rig.ready_worker(ticks)
        list(ticks.stream(50, 0.0))
        paced = sorted((time.monotonic_ns() - at) / 1e6 for at in ticks.stream(values, 0.005))
        began = time.perf_counter()
        count = sum(1 for _ in ticks.stream(20 * values, 0.0))
        took_s = time.perf_counter() - began
    return {
        "yield to loop, ms": {
            "n": len(paced),
            "p50": round(statistics.median(paced), 3),
            "p99": round(paced[int(0.99 * len(paced))], 3),
            "max": round(paced[-1], 3),
        },
        "values a second": round(count / took_s),
    }


def main() -> None:
    """Measure, print, and with --output keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found = {
        "about": about("python -m benchmarks.streams --output benchmarks/results/streams.json"),
        **measure(arguments.values),
    }
    print(json.dumps(found, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
