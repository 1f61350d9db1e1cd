"""RQ on its defaults: its client, for the benchmark to talk to."""

from __future__ import annotations

import os

import talk
from redis import Redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job

CONNECTION = Redis.from_url(os.environ["RECOVERY_URL"])


def submit(queue: str, record: str, number: int, stay_s: float) -> str:
    return str(Queue(queue, connection=CONNECTION).enqueue("job.run", record, number, stay_s).id)


def state(job: str) -> str:
    """'failed', 'finished', 'gone', or whatever else RQ says."""
    try:
        return str(Job.fetch(job, connection=CONNECTION).get_status().value)
    except NoSuchJobError:
        return "gone"


if __name__ == "__main__":
    talk.serve({"submit": submit, "state": state})
