"""`python -m benchmarks.roundtrip [--calls N] [--rounds N] [--output FILE]`: where the time of a warm call goes.

One caller, one worker, one call at a time. Of each thread that a call passes, how long it runs (the scheduler's own
count, in ns) and how often it is woken, per call; of the broker also how long each script takes, by its own count.
What is left of the round trip is nobody's work: the time between one thread's waking and the next one's running.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks import bench_jobs
from benchmarks.about import about
from benchmarks.floor import Floor
from benchmarks.floor import worker as floor_worker
from tests.rig import rig

if TYPE_CHECKING:
    from tests.rig import Rig

Numbers = dict[str, dict[str, float]]
_STAGES = ("caller", "caller's I/O thread", "broker", "supervisor", "executor")


def _used(pid: int, task: int) -> tuple[int, int, int]:
    """Of one thread: ns that it ran, ns that it was ready and waited for a core, times that it slept."""
    folder = Path(f"/proc/{pid}/task/{task}")
    ran, waited, _ = folder.joinpath("schedstat").read_text().split()
    status = folder.joinpath("status").read_text().splitlines()
    slept = next(line for line in status if line.startswith("voluntary_ctxt_switches"))
    return int(ran), int(waited), int(slept.split()[1])


def _threads(made: Rig, supervisor: int) -> dict[str, tuple[int, int]]:
    here = psutil.Process().pid
    carrier = next(thread for thread in threading.enumerate() if thread.name == "flashq-io")
    executor = psutil.Process(supervisor).children()[0].pid
    assert carrier.native_id is not None
    places = (
        (here, threading.get_native_id()),
        (here, carrier.native_id),
        (made.server.pid, made.server.pid),
        (supervisor, supervisor),
        (executor, executor),
    )
    return dict(zip(_STAGES, places, strict=True))


def _scripts(made: Rig) -> tuple[int, int]:
    """Calls of scripts so far, and the µs that they took."""
    said = made.broker.execute("INFO", "commandstats").decode()
    line = next(line for line in said.splitlines() if line.startswith("cmdstat_fcall:"))
    fields = dict(pair.split("=") for pair in line.partition(":")[2].split(","))
    return int(fields["calls"]), int(fields["usec"])


def measure_round(made: Rig, calls: int) -> tuple[Numbers, dict[str, float]]:
    """By thread what a call takes of it; and the whole."""
    worker = made.ready_worker(bench_jobs.noop, lease_s=15.0)
    try:
        bench_jobs.round_trips(200)
        threads = _threads(made, worker.process.pid)
        scripts = _scripts(made)
        before = {stage: _used(*place) for stage, place in threads.items()}
        took = bench_jobs.round_trips(calls)
        after = {stage: _used(*place) for stage, place in threads.items()}
        count, microseconds = _scripts(made)
    finally:
        worker.close()
        made.broker.run(made.broker.transitions.leave("noop", worker.id, "measured"))
    found = {}
    for stage in threads:
        ran, waited, slept = (b - a for a, b in zip(before[stage], after[stage], strict=True))
        found[stage] = {
            "runs, µs": ran / calls / 1e3,
            "waits for a core, µs": waited / calls / 1e3,
            "wakes": slept / calls,
        }
    return found, {
        "round trip, mean µs": statistics.fmean(took) * 1e6,
        "round trip, median µs": statistics.median(took) * 1e6,
        "scripts a call": (count - scripts[0]) / calls,
        "in scripts, µs": (microseconds - scripts[1]) / calls,
    }


def _floor(made: Rig, calls: int) -> float:
    floor = Floor(made.server.url)
    with floor_worker(made.server.url):
        floor.call()
        took = [bench_jobs.timed(floor.call) for _ in range(calls)]
    floor.reset()
    return statistics.median(took) * 1e6


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.roundtrip", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    rounds = []
    with rig(lease_s=15.0) as made:
        for _ in range(arguments.rounds):
            floor = _floor(made, arguments.calls)
            found, whole = measure_round(made, arguments.calls)
            rounds.append((found, {**whole, "floor, median µs": floor}))
    stages = {
        stage: {
            what: statistics.median(found[stage][what] for found, _ in rounds) for what in rounds[0][0][stage]
        }
        for stage in _STAGES
    }
    whole = {what: statistics.median(one[what] for _, one in rounds) for what in rounds[0][1]}
    record = {
        "about": {**about("python -m benchmarks.roundtrip " + " ".join(sys.argv[1:])), "rounds": len(rounds)},
        "calls": arguments.calls,
        "stages": stages,
        "whole": whole,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
