"""Stands in for hosts and workers in one process: records that do what real ones would, one turn at a time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from flashq.store.records import Settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.store.records import Claimed
    from tests.integration.fleet_rig import FleetRig

LEASE_MS = 60_000
_nonces: Iterator[int] = itertools.count(1)


class Crew:
    """The workers of one endpoint: those ordered report in, those that drain end once they hold nothing."""

    def __init__(self, fleet: FleetRig, endpoint: str) -> None:
        self.fleet, self.endpoint = fleet, endpoint
        self.holds: dict[str, Claimed] = {}
        """What each worker runs."""

    def ordered(self) -> list[str]:
        """Those that are on record and have not reported in."""
        return [w for w in self.fleet.workers(self.endpoint) if "pid" not in self.fleet.worker_fields(w)]

    def report(self, worker: str) -> None:
        """A worker that was ordered reports in, is ready, and finds nothing to do."""
        run, made = self.fleet.broker.run, self.fleet.transitions
        joined = run(made.join(self.endpoint, worker, lease_ms=LEASE_MS, booked=True, fields={"pid": 1}))
        assert joined.verdict == "ok"
        assert run(made.ready(self.endpoint, worker, {"fq_cold_ms": 100})) == "ok"
        self._claim(worker, 0)

    def take(self, worker: str) -> bool:
        """Have it take and begin a job; whether there was one."""
        jobs = self._claim(worker, 1)
        if jobs:
            (self.holds[worker],) = jobs
        return bool(jobs)

    def _claim(self, worker: str, count: int) -> tuple[Claimed, ...]:
        claim = self.fleet.transitions.claim(
            self.endpoint,
            worker,
            str(next(_nonces)),
            count=count,
            lease_ms=LEASE_MS,
            start=count,
            holding=0,
            room=1,
        )
        return self.fleet.broker.run(claim).jobs

    def finish(self, worker: str) -> None:
        """What it runs ends well; it is idle then."""
        job = self.holds.pop(worker)
        done = Settlement(job.job, job.fence, "finished", outcome=b"outcome")
        assert self.fleet.broker.run(self.fleet.transitions.finish(done, worker)) == "ok"
        self._claim(worker, 0)

    def leave(self, worker: str, why: str = "left", *, before_ready: bool = False) -> None:
        """It ends; what it held is recovered."""
        self.holds.pop(worker, None)
        left = self.fleet.transitions.leave(self.endpoint, worker, why, before_ready=before_ready)
        self.fleet.broker.run(left)

    def turn(self) -> None:
        """Who was ordered reports in; who drains and holds nothing ends."""
        for worker in self.ordered():
            self.report(worker)
        for worker in self.fleet.workers(self.endpoint):
            if self.fleet.worker_fields(worker).get("fq_drain") == "1" and worker not in self.holds:
                self.leave(worker)
