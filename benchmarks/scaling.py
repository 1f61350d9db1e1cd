"""`python -m benchmarks.scaling`: the scaling rules on a real trace and on made ones, and what a decision costs.

Simulated: the same on any machine, but for the time that a decision takes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.about import about
from flashq_autoscaler.decide import decide
from flashq_autoscaler.simulate.engine import run
from flashq_autoscaler.simulate.report import POLICIES, Terms, rows
from flashq_autoscaler.simulate.shipped import Shipped
from flashq_autoscaler.simulate.trace import Trace, read
from flashq_autoscaler.views import EndpointView, HostView, Snapshot, WorkerView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HOUR = Path(__file__).parent / "traces" / "azure_llm_code_2023.csv"
CELLS = ((20.0, 60.0), (2.0, 30.0), (0.1, 5.0))
"""Cold start and idle_timeout, in seconds."""
MAXIMUM = 64
_LENGTH_S = 3600.0


def made(name: str, seed: int = 7) -> Trace:
    """An hour of made arrivals; jobs take about a second."""
    draw = random.Random(seed)  # noqa: S311 - it makes traces, no secrets
    rates: dict[str, Callable[[float], float]] = {
        "poisson": lambda _: 2.0,
        "daily": lambda at: 2.0 + 1.9 * math.sin(2 * math.pi * at / _LENGTH_S),
        "bursts": lambda at: 20.0 if at % 300 < 15 else 0.2,
        "sparse": lambda _: 1 / 60,
    }
    if name == "periodic":
        arrivals = [float(at) for at in range(0, int(_LENGTH_S), 30)]
    else:
        rate, most = rates[name], max(rates[name](at) for at in range(int(_LENGTH_S)))
        arrivals = [at for at in _poisson(draw, most) if draw.random() * most < rate(at)]
    return Trace(tuple(arrivals), tuple(draw.lognormvariate(0.0, 0.7) for _ in arrivals))


def _poisson(draw: random.Random, rate: float) -> Iterable[float]:
    at = draw.expovariate(rate)
    while at < _LENGTH_S:
        yield at
        at += draw.expovariate(rate)


def traces() -> dict[str, Trace]:
    """By name: the real one first."""
    names = ("poisson", "daily", "bursts", "sparse", "periodic")
    return {"azure code": read(HOUR), **{name: made(name) for name in names}}


def measure_policies() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, trace in traces().items():
        for cold_s, idle_s in CELLS:
            terms = Terms(cold_s=cold_s, idle_timeout_s=idle_s, maximum=MAXIMUM)
            for row in rows(trace, (*list(POLICIES)[:5], "OPT0", "CONTRACT_OPT"), terms)[0]:
                found.append({"trace": name, "cold_s": cold_s, "idle_timeout_s": idle_s, **asdict(row)})
    return found


def measure_safety(decisions: int) -> dict[str, int]:
    """How often the shipped rules ask for the end of a busy worker, in at least so many decisions."""
    asked = busy_stopped = seed = 0
    while asked < decisions:
        for scaler_type in (None, "REQUEST_COUNT", "QUEUE_DELAY"):
            draw = random.Random(seed)  # noqa: S311
            trace = made(("poisson", "bursts", "daily")[seed % 3], seed)
            cold_s, most = draw.choice((0.1, 2.0, 20.0)), draw.choice((2, 8, 64))
            policy = Shipped("shipped", cold_s, draw.choice((0.0, 1.0, 30.0)), scaler_type=scaler_type)
            asked += run(trace, policy, cold_s=cold_s, maximum=most).decisions
            busy_stopped += policy.busy_stopped
        seed += 1
    return {"decisions": asked, "busy workers stopped": busy_stopped}


def large(endpoints: int, workers: int, *, queued: int) -> Snapshot:
    """So many endpoints with so many workers in all on 50 hosts, half of them busy."""
    now, each = 1_800_000_000.0, workers // endpoints
    views = tuple(
        EndpointView(
            name=f"endpoint-{n}",
            revision="r",
            environment=f"e-{n}",
            minimum=0,
            maximum=2 * each,
            idle_timeout_s=60.0,
            queued=queued,
            waits_s=(0.01,) * queued,
            running=each // 2,
            elapsed_s=(0.5,) * (each // 2),
            service_s=1.0,
            cold_s=0.5,
        )
        for n in range(endpoints)
    )
    staff = tuple(
        WorkerView(
            id=f"endpoint-{n}-{k}",
            endpoint=f"endpoint-{n}",
            host=f"host-{(n * each + k) % 50}",
            state="running" if k % 2 else "idle",
            revision="r",
            environment=f"e-{n}",
            since=now - 1.0,
            beat_at=now,
            jobs=k % 2,
            cpus=1.0,
        )
        for n in range(endpoints)
        for k in range(each)
    )
    hosts = tuple(HostView(f"host-{h}", now, cpus=64.0) for h in range(50))
    return Snapshot(now, views, staff, hosts)


def measure_decide(rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one decision at 100 endpoints with 1,000 workers in all."""
    found = {}
    for name, queued in (("nothing to do", 0), ("20 jobs wait for each", 20)):
        snapshot = large(100, 1000, queued=queued)
        took, plan = [], decide(snapshot)
        for _ in range(rounds):
            began = time.perf_counter()
            decide(snapshot)
            took.append((time.perf_counter() - began) * 1000)
        found[name] = {
            "p50 ms": round(statistics.median(took), 3),
            "p99 ms": round(sorted(took)[int(0.99 * len(took))], 3),
            "starts": len(plan.starts),
        }
    return found


def main() -> None:
    """Measure, print, and with --output keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found = {
        "about": about("python -m benchmarks.scaling --output benchmarks/results/scaling.json"),
        "max": MAXIMUM,
        "policies": measure_policies(),
        "safety": measure_safety(arguments.decisions),
        "decide": measure_decide(arguments.rounds),
    }
    print(json.dumps(found, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
