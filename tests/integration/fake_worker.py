"""Stands in for a worker: tells what it was told, joins, takes a job and holds it; its endpoint says how.

`crash`: dies before it joins. `slow`: does not come to that. `stubborn`: does not end on SIGTERM. Others leave on
SIGTERM, and when drained.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

from flashq.store.broker import Broker
from flashq_worker.config import WorkerConfig


def main() -> int:
    lifeline = int(sys.argv[sys.argv.index("--lifeline") + 1])
    first = sys.stdin.readline()
    while first.startswith('{"park":'):
        first = sys.stdin.readline()
    config = WorkerConfig.from_json(first)
    folder = config.home / "told"
    folder.mkdir(exist_ok=True)
    told = {
        "pid": os.getpid(),
        "endpoint": config.endpoint,
        "host": config.host,
        "gpus": config.gpu_uuids,
        "container": [config.cpus, config.memory_bytes, config.engine, list(config.engine_options)],
        "spawned_ns": config.spawned_ns,
        "keys": sorted(direction.value for direction in config.keys.keys),
        "keys_for": config.keys.endpoint,
        "variables": sorted(os.environ),
        "session": os.getsid(0) == os.getpid(),
    }
    fresh = folder / f"{config.worker}.new"
    fresh.write_text(json.dumps(told))
    fresh.rename(folder / f"{config.worker}.json")
    print("a line on stderr", file=sys.stderr, flush=True)
    if config.endpoint == "crash":
        os._exit(9)
    if config.endpoint == "slow":
        signal.pause()

    ending, wake = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    broker = Broker(config.url, prefix=config.prefix)
    transitions, lease_ms = broker.transitions, int(config.lease_s * 1000)
    broker.run(
        transitions.join(
            config.endpoint, config.worker, lease_ms=lease_ms, booked=True, fields={"pid": os.getpid()}
        )
    )
    broker.run(transitions.ready(config.endpoint, config.worker, {"fq_cold_ms": 5}))
    claim = transitions.claim(
        config.endpoint, config.worker, "1", count=1, lease_ms=lease_ms, start=1, holding=0, room=1
    )
    jobs = [(job.job, job.fence) for job in broker.run(claim).jobs]
    broker.close()
    while True:
        ready, _, _ = select.select([lifeline, ending], [], [], config.lease_s / 3)
        if lifeline in ready:
            return 3
        if ending in ready:
            os.read(ending, 64)
        renewed = broker.run(transitions.renew(config.endpoint, config.worker, lease_ms=lease_ms, jobs=jobs))
        if (ending in ready or renewed.verdict == "drain") and config.endpoint != "stubborn":
            for job, fence in jobs:
                broker.run(transitions.release(job, fence))
            broker.run(transitions.leave(config.endpoint, config.worker, "left"))
            return 0


if __name__ == "__main__":
    sys.exit(main())
