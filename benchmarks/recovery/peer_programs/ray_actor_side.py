"""Ray actors on their defaults: one a job, with a CPU to itself, and not restarted. Else as ray_side.py."""

from __future__ import annotations

from typing import Any

import job
import ray
import ray_side
import talk


@ray.remote(num_cpus=1)
class Actor:
    """Runs one job."""

    def run(self, record: str, number: int, stay_s: float) -> int:
        return int(job.run(record, number, stay_s))


ACTORS: list[Any] = []


def submit(queue: str, record: str, number: int, stay_s: float) -> str:
    actor = Actor.remote()  # type: ignore[attr-defined]  # what ray makes of the class
    ACTORS.append(actor)  # it ends with its last handle
    reference = actor.run.remote(record, number, stay_s)
    ray_side.RUNNING[reference.hex()] = reference
    return str(reference.hex())


if __name__ == "__main__":
    ray.init(address=ray_side.CLUSTER.address, log_to_driver=False)
    talk.serve({"node": ray_side.node, "submit": submit, "state": ray_side.state})
    ray.shutdown()
    ray_side.CLUSTER.shutdown()
