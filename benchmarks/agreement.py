"""`python -m benchmarks.agreement`: the simulator beside the real stack, on a real trace made shorter.

Every fourth request of the ten minutes in examples/traces, ten times as fast, each sleeping for 0.4 of its time: a
broker, `flashq host`, `flashq autoscaler` and this program, which submits each call when its time comes. What the
simulator is told of a start is the median of those that were measured.
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
from flashq.store.queries_events import events
from flashq_autoscaler.simulate.engine import run
from flashq_autoscaler.simulate.report import POLICIES, Terms, quantile
from flashq_autoscaler.simulate.trace import Trace, read
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from flashq.store.queries_events import ListedEvent

SAMPLE = Path(__file__).parents[1] / "examples" / "traces" / "azure_llm_code_10min.csv"
IDLE_S, MAXIMUM = 2.0, 8


def make(name: str) -> Any:
    """An endpoint that sleeps."""

    def nap(seconds: float) -> None:
        import time

        time.sleep(seconds)

    return Endpoint(name=name, cpu="any", workers=(0, MAXIMUM), idle_timeout=IDLE_S)(nap)


def shortened() -> Trace:
    whole = read(SAMPLE)
    return Trace(tuple(at / 10 for at in whole.arrivals[::4]), tuple(0.4 * s for s in whole.services[::4]))


def real(name: str, trace: Trace, *host_options: str) -> dict[str, Any]:
    """What the stack made of it."""
    nap = make(name)
    with closing(Rig(lease_s=15.0)) as rig, closing(Stack(rig, *host_options)) as stack:
        wait_until(stack.hosts, 30, "a host")
        nap.remote(0.0)  # registered, and the first start, which learns, is over
        wait_until(lambda: not stack.workers(nap), 30, "its worker went")
        warmed = len(events(rig.broker, name, most=1000)[0])
        began, jobs = time.monotonic(), []
        for at, service in zip(trace.arrivals, trace.services, strict=True):
            time.sleep(max(0.0, began + at - time.monotonic()))
            jobs.append(nap.spawn(service))
        for job in jobs:
            job.result(120)
        waits = [(job.timing.queued_s or 0.0) + (job.timing.claimed_s or 0.0) for job in jobs]
        executions = [job.timing.execution_s or 0.0 for job in jobs]
        wait_until(lambda: not stack.workers(nap), 60, "all are gone")
        return {
            **lives(events(rig.broker, name, most=1000)[0][warmed:]),
            **said(waits),
            "work_s": sum(executions),
        }


def lives(seen: list[ListedEvent]) -> dict[str, float]:
    """Worker-seconds from order to end, and the median start, from an endpoint's events."""
    ordered: dict[str, float] = {}
    total, starts = 0.0, []
    for event in seen:
        assert event.at is not None
        at = event.at.timestamp()
        if event.what == "worker-ordered":
            ordered[event.subject] = at
        elif event.what == "worker-ready":
            starts.append(at - ordered[event.subject])
        elif event.what in ("worker-ended", "worker-lost"):
            total += at - ordered[event.subject]
    return {"gpu_s": total, "starts": len(ordered), "start_s": statistics.median(starts)}


def said(waits: list[float]) -> dict[str, float]:
    ordered = sorted(waits)
    return {
        "p50_wait_s": quantile(ordered, 0.5),
        "p90_wait_s": quantile(ordered, 0.9),
        "mean_wait_s": statistics.mean(waits),
    }


def compare(name: str, *host_options: str) -> dict[str, Any]:
    """Both, and the simulator's share of the real one."""
    trace = shortened()
    found = real(name, trace, *host_options)
    terms = Terms(cold_s=found["start_s"], idle_timeout_s=IDLE_S, maximum=MAXIMUM)
    done = run(trace, POLICIES["EARLIEST_FINISH"](terms), cold_s=terms.cold_s, maximum=MAXIMUM)
    simulated = {
        "gpu_s": done.gpu_s,
        "starts": done.starts,
        **said(list(done.waits_s)),
        "work_s": trace.work_s,
    }
    rounded = {
        part: {key: round(value, 4) for key, value in values.items()}
        for part, values in (("real", found), ("simulated", simulated))
    }
    return {
        "calls": len(trace),
        **rounded,
        "GPU-seconds, simulated / real": round(done.gpu_s / found["gpu_s"], 3),
    }


def main() -> None:
    """Measure, print, and with --output keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found = {
        "about": about("python -m benchmarks.agreement --output benchmarks/results/agreement.json"),
        "forked starts": compare("agreement"),
        "spawned starts (flashq host --cold)": compare("agreement-cold", "--cold"),
    }
    print(json.dumps(found, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
