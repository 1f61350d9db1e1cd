"""Endpoints, workers and jobs made through the store's transitions alone: data without any process."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashq.store.records import Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flashq.store.broker import Broker
    from flashq.store.records import Claimed

LEASE_MS = 15_000
CALL_DEFAULTS = {
    "execution_timeout_ms": 0,
    "retries": {"max": 0, "delay_s": 0, "backoff": 2.0, "max_delay_s": 600, "on": []},
    "priority": 0,
    "result_ttl": 600,
    "ttl": 0,
}


@dataclass
class Fabricated:
    """Fabricates what listings list, in one broker."""

    broker: Broker
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def endpoint(
        self,
        name: str = "embed",
        *,
        revision: str = "r1",
        resources: str = "res-1",
        workers: tuple[int, int] = (0, 3),
        call_defaults: Mapping[str, Any] | None = None,
    ) -> str:
        spec = {"name": name, "call_defaults": {**CALL_DEFAULTS, **(call_defaults or {})}}
        scaling = {"workers_min": workers[0], "workers_max": workers[1], "idle_timeout": 60}
        self.broker.run(
            self.broker.transitions.register(
                name,
                revision=revision,
                environment="env-1",
                resources=resources,
                spec=json.dumps(spec),
                scaling=json.dumps(scaling),
                program="program",
                record=b"record",
            )
        )
        return name

    def job(self, endpoint: str = "embed", *, revision: str = "r1", **options: Any) -> str:
        job = f"{endpoint}-{next(self._numbers):04d}"
        options = {"call": b"call", "description": f"{endpoint}(4 bytes)", **options}
        answer = self.broker.run(self.broker.transitions.submit(endpoint, job, revision=revision, **options))
        assert answer.verdict == "ok", answer
        return job

    def worker(self, endpoint: str = "embed", **fields: Any) -> str:
        """A worker that reported in and is still initializing."""
        worker = f"{endpoint}-worker-{next(self._numbers)}"
        fields = {"pid": 4242, "hostname": "box", "fq_host": "host-1", "fq_env": "res-1", **fields}
        join = self.broker.transitions.join(endpoint, worker, lease_ms=LEASE_MS, booked=False, fields=fields)
        assert self.broker.run(join).verdict == "ok"
        return worker

    def claim(self, worker: str, endpoint: str = "embed", count: int = 1, start: int = 1) -> list[Claimed]:
        """Whatever there is for it; with nothing it is idle."""
        nonce = f"n{next(self._numbers)}"
        claim = self.broker.run(
            self.broker.transitions.claim(
                endpoint, worker, nonce, count=count, lease_ms=LEASE_MS, start=start, holding=0, room=count
            )
        )
        assert claim.verdict == "ok"
        return list(claim.jobs)

    def idle_worker(self, endpoint: str = "embed", **fields: Any) -> str:
        worker = self.worker(endpoint, **fields)
        self.claim(worker, endpoint, count=0, start=0)
        return worker

    def finish(self, claimed: Claimed, state: str = "finished", **settled: Any) -> None:
        done = Settlement(claimed.job, claimed.fence, state, **settled)
        assert self.broker.run(self.broker.transitions.finish(done)) == "ok"

    def ended(self, state: str = "finished", endpoint: str = "embed", **settled: Any) -> str:
        """A job that ran and ended so. Make those that shall wait later: it would claim them."""
        worker = self.worker(endpoint)
        job = self.job(endpoint)
        (claimed,) = self.claim(worker, endpoint)
        assert claimed.job == job
        self.finish(claimed, state, **settled)
        self.broker.run(self.broker.transitions.leave(endpoint, worker, "drained"))
        return job

    def set(self, kind: str, subject: str, **fields: Any) -> None:
        """Write fields of a hash as they stand."""
        pairs = [part for pair in fields.items() for part in pair]
        self.broker.execute("HSET", self.broker.keys.of(kind, subject), *pairs)

    def get(self, kind: str, subject: str, name: str) -> str | None:
        value = self.broker.execute("HGET", self.broker.keys.of(kind, subject), name)
        return None if value is None else value.decode()
