"""R8: a job's claim, renewal and completion, each fenced and each a round trip, and what its signatures cost."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Any

from benchmarks.recovery.record import summary
from flashq import Endpoint
from flashq.store.records import Settlement
from scripts.measure import signing
from tests.rig import Rig

JOBS = 3000
_PAYLOAD = os.urandom(1024)
_LEASE_MS = 15_000
_WORKER = "priced-by-hand"


@Endpoint(name="priced", cpu="any")
def priced(value: bytes) -> bytes:
    """Never run: its jobs are claimed and completed by this program."""
    return value


def measure() -> dict[str, Any]:
    """Milliseconds by what is asked of the broker, microseconds of CPU for a signature."""
    with closing(Rig(lease_s=15.0)) as rig:
        _jobs(rig, 2 * JOBS)
        transitions = rig.broker.transitions
        rig.broker.run(
            transitions.join("priced", _WORKER, lease_ms=_LEASE_MS, booked=False, fields={"pid": 1})
        )
        rig.broker.run(transitions.ready("priced", _WORKER, {}))
        apart = summary([_apart(rig, n) for n in range(JOBS)])
        together = summary(_together(rig, JOBS))
    signed = {name: round(value, 1) for name, value in signing().items()}
    return {
        "claim + renew + complete, ms": apart,
        "complete and claim in one, ms": together,
        "sign + verify 1 kB, CPU µs": {**signed, "sum": round(sum(signed.values()), 1)},
    }


def _jobs(rig: Rig, count: int) -> None:
    rig.register(priced)
    calls = [priced(_PAYLOAD) for _ in range(count)]
    for call in calls:
        assert call.status().result(60).value == "IN_QUEUE"


def _apart(rig: Rig, number: int) -> float:
    """One job in three round trips; milliseconds."""
    run, transitions = rig.broker.run, rig.broker.transitions
    started = time.perf_counter()
    claimed = run(
        transitions.claim(
            "priced", _WORKER, f"apart-{number}", count=1, lease_ms=_LEASE_MS, start=1, holding=0, room=1
        )
    )
    (job,) = claimed.jobs
    renewed = run(
        transitions.renew("priced", _WORKER, lease_ms=_LEASE_MS, jobs=[(job.job, job.fence)], fields={})
    )
    assert renewed.jobs == ("ok",)
    assert run(transitions.finish(_done(job.job, job.fence))) == "ok"
    return (time.perf_counter() - started) * 1e3


def _together(rig: Rig, count: int) -> list[float]:
    """As workers do it: each step completes a job and claims the next; milliseconds of each step."""
    took: list[float] = []
    done: list[Settlement] = []
    for number in range(count):
        step = rig.broker.transitions.advance(
            "priced", _WORKER, f"together-{number}", done=done, begin=[], count=1, lease_ms=_LEASE_MS, start=1,
            holding=0, room=1,
        )  # fmt: skip
        started = time.perf_counter()
        advanced = rig.broker.run(step)
        took.append((time.perf_counter() - started) * 1e3)
        assert advanced.finished == ("ok",) * len(done)
        (job,) = advanced.claim.jobs
        done = [_done(job.job, job.fence)]
    return took[1:]


def _done(job: str, fence: int) -> Settlement:
    return Settlement(job, fence, "finished", outcome=_PAYLOAD, keep_s=60)
