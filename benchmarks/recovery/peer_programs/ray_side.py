"""Ray tasks on their defaults (three retries of what a lost process ran), on a cluster of this machine.

A node is a raylet and what it starts; the head runs no task. To be run where only the loopback interface is there:
Ray listens on the host's address otherwise.
"""

from __future__ import annotations

from typing import Any

import job
import ray
import talk
from ray.cluster_utils import Cluster

CLUSTER = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
RUNNING: dict[str, Any] = {}


@ray.remote  # type: ignore[untyped-decorator]
def work(record: str, number: int, stay_s: float) -> int:
    return int(job.run(record, number, stay_s))


def node(cpus: int) -> int:
    """Add a node; the pid of its raylet."""
    added = CLUSTER.add_node(num_cpus=cpus)
    CLUSTER.wait_for_nodes()
    return int(added.all_processes["raylet"][0].process.pid)


def submit(queue: str, record: str, number: int, stay_s: float) -> str:
    """Submit a task; the queue is for others: a free CPU is where it goes."""
    reference = work.options(name=queue).remote(record, number, stay_s)
    RUNNING[reference.hex()] = reference
    return str(reference.hex())


def state(task: str) -> str:
    ready, _ = ray.wait([RUNNING[task]], timeout=0)
    if not ready:
        return "other"
    try:
        ray.get(ready[0])
    except ray.exceptions.RayError:
        return "failed"
    return "finished"


if __name__ == "__main__":
    ray.init(address=CLUSTER.address, log_to_driver=False)
    talk.serve({"node": node, "submit": submit, "state": state})
    ray.shutdown()
    CLUSTER.shutdown()
