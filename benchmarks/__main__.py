"""`python -m benchmarks [--rounds N] [--quick] [--output FILE]`: everything, interleaved with the floor.

Each round measures the floor and flashq one after the other on one private broker; the table shows medians over
rounds and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import bench_jobs, bench_starts
from benchmarks.about import about
from benchmarks.floor import Floor
from benchmarks.floor import worker as floor_worker
from tests.rig import rig

RESULTS = Path(__file__).parent / "results"
Round = dict[str, tuple[float, float]]  # what: (floor, flashq)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure_round(calls: int, many: int) -> Round:
    """One round, floor then flashq for each thing measured."""
    found: Round = {}
    with rig(lease_s=15.0) as made:
        floor = Floor(made.server.url)

        with floor_worker(made.server.url):
            floor.call()
            ours = [bench_jobs.timed(floor.call) for _ in range(calls)]
        floor.reset()
        with bench_jobs.one_worker(made):
            bench_jobs.round_trips(50)
            theirs = bench_jobs.round_trips(calls)
        for name, share in (("round trip p50 ms", 0.5), ("round trip p99 ms", 0.99)):
            found[name] = (percentile(ours, share) * 1e3, percentile(theirs, share) * 1e3)

        floor.enqueue(many)
        with floor_worker(made.server.url):
            time.sleep(0.3)  # it starts while the queue is full: measure from the first job
            before = many - int(floor._redis.llen("floor:queue"))
            seconds = floor.wait_drained(many)
        found_floor = (many - before) / seconds if seconds > 0.05 else float("nan")
        floor.reset()
        submitting = bench_jobs.enqueue(many)
        with bench_jobs.one_worker(made):
            seconds = bench_jobs.drained(made, many)
        found["throughput jobs/s"] = (found_floor, many / seconds)
        found["submits/s"] = (_submits(floor, many), many / submitting)
        floor.reset()

        with floor_worker(made.server.url):
            floor.call()
            started = time.perf_counter()
            floor.enqueue(many)
            floor.collect(many)
            floor_map = time.perf_counter() - started
        floor.reset()
        with bench_jobs.one_worker(made):
            bench_jobs.mapped(200)
            found[f"map of {many} s"] = (floor_map, bench_jobs.mapped(many))

        with floor_worker(made.server.url):
            started = time.perf_counter()
            ours = floor.in_flight(32, calls // 8, made.server.url)
            floor_rate = len(ours) / (time.perf_counter() - started)
        floor.reset()
        with bench_jobs.one_worker(made):
            bench_jobs.in_flight(32, 5)
            seconds, theirs = bench_jobs.in_flight(32, calls // 8)
        found["32 in flight calls/s"] = (floor_rate, len(theirs) / seconds)
        found["32 in flight p99 ms"] = (percentile(ours, 0.99) * 1e3, percentile(theirs, 0.99) * 1e3)
    return found


def _submits(floor: Floor, many: int) -> float:
    started = time.perf_counter()
    floor.enqueue(many)
    return many / (time.perf_counter() - started)


def starts(count: int) -> dict[str, dict[str, float]]:
    """What has no floor: starts, imports, memory."""
    up, nothing = (
        bench_starts.cold_starts_with_stack_up(count),
        bench_starts.cold_starts_from_nothing(max(3, count // 4)),
    )
    importing, bare = bench_starts.imports(count)
    with rig() as made:
        memory = bench_starts.idle_memory_mb(made)
    return {
        "cold start, stack up, s": {"median": statistics.median(up), "max": max(up), "n": len(up)},
        "cold start, from nothing, s": {
            "median": statistics.median(nothing),
            "max": max(nothing),
            "n": len(nothing),
        },
        "import flashq, ms": {
            "median": (statistics.median(importing) - statistics.median(bare)) * 1e3,
            "max": (max(importing) - min(bare)) * 1e3,
            "n": count,
        },
        "idle worker PSS, MB": {**memory, "sum": sum(memory.values())},
    }


def table(rounds: list[Round]) -> tuple[Table, dict[str, dict[str, float]]]:
    """The table people read, and the same as data."""
    shown = Table("what", "floor", "flashq", "flashq ÷ floor", title="medians over rounds, ratio per round")
    data = {}
    for what in rounds[0]:
        ours = statistics.median(r[what][0] for r in rounds)
        theirs = statistics.median(r[what][1] for r in rounds)
        ratio = statistics.median(r[what][1] / r[what][0] for r in rounds)
        data[what] = {"floor": ours, "flashq": theirs, "ratio": ratio}
        shown.add_row(what, f"{ours:,.2f}", f"{theirs:,.2f}", f"{ratio:.2f}")
    return shown, data


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small counts; for seeing that it runs")
    parser.add_argument("--no-starts", action="store_true", help="leave out what starts processes")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    calls, many, cold = (100, 500, 3) if arguments.quick else (1000, 5000, 20)
    rounds = [measure_round(calls, many) for _ in range(1 if arguments.quick else arguments.rounds)]
    shown, data = table(rounds)
    console = Console()
    console.print(shown)
    begun = {} if arguments.no_starts else starts(cold)
    for what, values in begun.items():
        console.print(f"{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
    if arguments.output:
        head = {**about("python -m benchmarks " + " ".join(sys.argv[1:])), "rounds": len(rounds)}
        record = {"about": head, "jobs": data, "starts": begun, "raw": rounds}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
