"""R5: jobs that hold the interpreter's lock in C at full CPU, longer than a lease: nobody may be reaped for it."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import closing
from typing import Any

from benchmarks.recovery.record import summary
from flashq import Endpoint
from tests.integration.stack import Stack
from tests.rig import Rig

LEASE_S = 15.0
WORKERS = 2 * (os.cpu_count() or 1)
_HOLD_S = 1.5 * LEASE_S


@Endpoint(name="held", cpu="any", workers=(0, WORKERS))
def hold(seconds: float) -> float:
    """Hold the lock for at least so long in one call of C that never lets go of it; how long it was."""
    import time

    count = 2_000_000
    while True:  # how many additions take that long, on a machine where others compute too
        started = time.monotonic()
        sum(range(count))
        took = time.monotonic() - started
        if took > 0.2:
            break
        count *= 2
    started = time.monotonic()
    sum(range(int(count * seconds / took * 1.3)))
    return time.monotonic() - started


def measure(seconds: float) -> dict[str, Any]:
    """Keep every worker at it for so long."""
    with closing(Rig(lease_s=LEASE_S)) as rig, closing(Stack(rig)):
        started = time.monotonic()
        jobs: list[Any] = []
        held: list[float] = []
        while time.monotonic() - started < seconds:
            waiting = [job for job in jobs if not job.done]
            jobs += [hold.spawn(_HOLD_S) for _ in range(WORKERS - len(waiting))]
            time.sleep(0.1)
        for job in jobs:
            held.append(job.result(600))
        attempts = Counter(job.timing.attempts for job in jobs)
        bad = {kind: len(rig.events(kind)) for kind in _BAD}
        lost = [event["text"][:200] for event in rig.events("worker-lost") if "left" not in event["text"]]
        load = os.getloadavg()[0]
    return {
        "seconds": round(time.monotonic() - started, 1),
        "workers": WORKERS,
        "lease_s": LEASE_S,
        "jobs": len(jobs),
        "held the lock in one call, s": summary(held),
        "longer than a lease": sum(value > LEASE_S for value in held),
        "attempts": {str(number): count for number, count in attempts.items()},
        "falsely reaped": bad,
        "workers lost": lost,
        "load_average_after": round(load, 2),
    }


_BAD = ("job-requeued", "job-lost", "stale-outcome")
