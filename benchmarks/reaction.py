"""`python -m benchmarks.reaction`: from a submit to the autoscaler's start commands, and what a large fleet costs it.

A real broker and `flashq autoscaler`; the hosts are this program, which reads the commands and starts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.about import about
from flashq_autoscaler.record import FILE
from tests.integration.fleet_rig import FleetRig
from tests.rig import SECRET, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "bench-host"
LEASE_MS = 600_000


@contextmanager
def autoscaler(fleet: FleetRig, home: Path) -> Iterator[psutil.Process]:
    """A running autoscaler that leads."""
    variables = {
        "FLASHQ_REDIS_URL": fleet.server.url,
        "FLASHQ_SECRET_KEY": SECRET.hex(),
        "FLASHQ_HOME": str(home),
    }
    with (home / "autoscaler.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flashq", "autoscaler"], env={**os.environ, **variables}, stderr=log
        )
    try:
        leader = fleet.broker.keys.of("leader")
        wait_until(lambda: fleet.broker.execute("HGET", leader, "holder"), 30, "it leads")
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def commands_ms(fleet: FleetRig, count: int, began: float) -> float:
    """Milliseconds from `began` until the host has so many commands; they are taken."""
    key = fleet.broker.keys.of("commands", HOST)
    taken = 0
    while taken < count:
        if fleet.broker.execute("BLPOP", key, 5) is None:
            raise RuntimeError(f"{taken} of {count} commands came")
        taken += 1
    return (time.perf_counter() - began) * 1000


def end_workers(fleet: FleetRig, endpoint: str) -> None:
    """All that was ordered is given up, and what waits is cancelled."""
    made = fleet.transitions
    fleet.broker.run_all([made.purge(endpoint)])
    fleet.broker.run_all([made.leave(endpoint, worker, "left") for worker in fleet.workers(endpoint)])


def decisions(home: Path) -> list[int]:
    """How many workers each decision ordered that is on record, in their order; they are off it then."""
    file = home / "logs" / FILE
    if not file.exists() or not (lines := file.read_text()).endswith("\n"):
        return []
    file.unlink()
    starts = [len(json.loads(line)["plan"]["starts"]) for line in lines.splitlines()]
    return [count for count in starts if count]


def reactions(fleet: FleetRig, home: Path, rounds: int, burst: int) -> tuple[list[float], Counter[int]]:
    """From a submit of `burst` calls to all of their start commands, each from zero workers; ms.

    And how often so many decisions were made for that, by what the autoscaler recorded.
    """
    name = f"react-{burst}"
    fleet.register(name, workers=(0, burst))
    found: list[float] = []
    made: Counter[int] = Counter()
    for number in range(rounds + 3):
        began = time.perf_counter()
        fleet.submit(name, burst)
        took = commands_ms(fleet, burst, began)
        orders: list[int] = []
        while sum(orders) < burst:  # until it is written down
            orders += decisions(home)
            time.sleep(0.01)
        if number >= 3:
            found.append(took)
            made[len(orders)] += 1
        end_workers(fleet, name)
        time.sleep(0.05)  # what that wakes is over
    return found, made


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "n": len(values),
        "p50": round(statistics.median(values), 2),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
        "max": round(ordered[-1], 2),
    }


def measure_reaction(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fqb-") as folder, closing(FleetRig(Path(folder))) as fleet:
        beat(fleet, HOST)
        with autoscaler(fleet, Path(folder)):
            one, _ = reactions(fleet, Path(folder), rounds, 1)
            many, made = reactions(fleet, Path(folder), max(20, rounds // 5), 100)
            return {
                "one call, ms": quantiles(one),
                "a burst of 100, ms": {
                    **quantiles(many),
                    "decisions": {str(count): times for count, times in sorted(made.items())},
                },
            }


def beat(fleet: FleetRig, host: str) -> None:
    fields: dict[str, str | bytes | int | float] = {"hostname": host, "frees": 1, "gpus": "[]"}
    fleet.broker.run(fleet.transitions.host_beat(host, lease_ms=LEASE_MS, fields=fields))


def measure_fleet(endpoints: int, workers: int, seconds: float) -> dict[str, Any]:
    """CPU and memory of an autoscaler with so many endpoints and workers, none of which has anything to do."""
    each = workers // endpoints
    with tempfile.TemporaryDirectory(prefix="fqb-") as folder, closing(FleetRig(Path(folder))) as fleet:
        for n in range(50):
            beat(fleet, f"bench-host-{n}")
        for n in range(endpoints):
            name = f"fleet-{n}"
            fleet.register(name, workers=(0, 2 * each), idle_timeout=3600)
            resources = fleet.endpoint_fields(name)["resources"]
            made, ids = fleet.transitions, [f"{name}-{k:036d}" for k in range(each)]
            places = (f"bench-host-{(n * each + k) % 50}" for k in range(each))
            fleet.broker.run_all(
                [
                    made.join(
                        name,
                        one,
                        lease_ms=LEASE_MS,
                        booked=False,
                        fields={"fq_host": place, "fq_env": resources},
                    )
                    for one, place in zip(ids, places, strict=True)
                ]
            )
            fleet.broker.run_all([made.ready(name, one, {"fq_state": "idle"}) for one in ids])
        with autoscaler(fleet, Path(folder)) as process:
            time.sleep(3.0)  # its first looks
            before, began = process.cpu_times(), time.perf_counter()
            time.sleep(seconds)
            after, took = process.cpu_times(), time.perf_counter() - began
            cpu = (after.user + after.system - before.user - before.system) / took
            on_record = sum(len(fleet.workers(f"fleet-{n}")) for n in range(endpoints))
            assert on_record == workers, "workers were lost"
            return {
                "endpoints": endpoints,
                "workers": workers,
                "CPU, % of a core": round(100 * cpu, 1),
                "memory, MiB": round(process.memory_info().rss / 2**20, 1),
            }


def main() -> None:
    """Measure, print, and with --output keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--bursts", type=Path, help="measure only how many decisions a burst of 100 is, into this file"
    )
    arguments = parser.parse_args()
    if arguments.bursts is not None:
        reaction = measure_reaction(arguments.rounds)
        about_it = about("python -m benchmarks.reaction --bursts benchmarks/results/bursts.json")
        kept = {"about": about_it, "decisions": reaction["a burst of 100, ms"]["decisions"]}
        arguments.bursts.write_text(json.dumps(kept, indent=1) + "\n")
        return
    found = {
        "about": about("python -m benchmarks.reaction --output benchmarks/results/reaction.json"),
        "reaction": measure_reaction(arguments.rounds),
        "fleet": [measure_fleet(10, 100, arguments.seconds), measure_fleet(100, 1000, arguments.seconds)],
    }
    print(json.dumps(found, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
