"""Dramatiq on its defaults. It keeps no state of a message that could be asked for."""

from __future__ import annotations

import os

import dramatiq
import job
import talk
from dramatiq.brokers.redis import RedisBroker

QUEUES = 8
broker = RedisBroker(url=os.environ["RECOVERY_URL"])
dramatiq.set_broker(broker)


def work(record: str, number: int, stay_s: float) -> None:
    job.run(record, number, stay_s)


# An actor belongs to one queue: one a queue, so that each worker has its own.
ACTORS = {
    name: dramatiq.actor(actor_name=name, queue_name=name)(work)
    for name in [*(f"work-{n}" for n in range(QUEUES)), "probe"]
}


def submit(queue: str, record: str, number: int, stay_s: float) -> str:
    return str(ACTORS[queue].send(record, number, stay_s).message_id)


if __name__ == "__main__":
    talk.serve({"submit": submit, "state": lambda _: "other"})
