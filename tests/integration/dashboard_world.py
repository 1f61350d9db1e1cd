"""A deployment for the dashboard to show, made through the store's transitions alone; parts of it are hostile text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.integration.fabricated import Fabricated

if TYPE_CHECKING:
    from flashq.store.broker import Broker

HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
HOSTILE_JOB = "hostile-<img src=x onerror=document.title='owned'>"
STARTUP = {
    "claim": 420,
    "environment": 35,
    "fork": 12,
    "imports": 1830,
    "setup": 2410,
    "first_job": 160,
}
GPUS = [
    {
        "uuid": "GPU-1",
        "name": "NVIDIA L4",
        "memory_bytes": 24 << 30,
        "used_bytes": 9 << 30,
        "utilisation": 71,
    },
    {"uuid": "GPU-2", "name": HOSTILE, "memory_bytes": 80 << 30, "used_bytes": 1 << 30, "utilisation": 0},
]


@dataclass(frozen=True, slots=True)
class World:
    """Ids in it."""

    running: str
    waiting: str
    failed: str
    cold: str
    hostile: str
    made: Fabricated


def world(broker: Broker, *, endpoints: int = 3, jobs: int = 10) -> World:
    """`endpoints` of them beside four that something is to be seen of; `jobs` that wait, spread over them."""
    made = Fabricated(broker)
    _hosts(broker)
    made.endpoint("dash-embed")
    made.endpoint("dash-hostile")
    made.endpoint("dash-paused")
    made.set("endpoint", "dash-paused", paused="1")
    cold = made.ended(endpoint="dash-embed", timing=json.dumps({"execution_ms": 160, "startup_ms": STARTUP}))
    failed = made.ended("failed", endpoint="dash-embed", reason="exception", text=f"ValueError: {HOSTILE}")
    worker = made.worker("dash-embed", fq_host="dash-h1")
    running = made.job("dash-embed")
    made.claim(worker, "dash-embed")
    broker.execute("XADD", broker.keys.of("logs", running), "*", "text", f"loading\n{HOSTILE}\ndone\n")
    waiting = made.job("dash-paused")
    hostile = HOSTILE_JOB
    submit = broker.transitions.submit(
        "dash-hostile", hostile, revision="r1", call=b"call", description=HOSTILE
    )
    assert broker.run(submit).verdict == "ok"
    made.set(
        "endpoint",
        "dash-hostile",
        condition=json.dumps({"code": "NO_GPU", "detail": HOSTILE}),
        condition_since="1",
    )
    names = [made.endpoint(f"dash-{number:03d}") for number in range(endpoints)]
    for number in range(jobs if names else 0):
        made.job(names[number % len(names)])
    return World(running, waiting, failed, cold, hostile, made)


def _hosts(broker: Broker) -> None:
    of = broker.keys.of
    told = {"hostname": "box", "cpus": "16", "memory_bytes": str(64 << 30), "gpus": json.dumps(GPUS)}
    for host in ("dash-h1", "dash-h2"):
        broker.execute("HSET", of("host", host), *(part for pair in told.items() for part in pair))
        broker.execute("ZADD", of("hosts"), "9e15", host)
