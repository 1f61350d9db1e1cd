"""What stock RQ makes of a worker that was given up and goes on (decision 0001; a part of scripts.measure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from rq import Queue, SimpleWorker
from rq.registry import FailedJobRegistry, StartedJobRegistry

if TYPE_CHECKING:
    from tests.rig import Rig


def run_twice(url: str, job_id: str) -> str:
    """A job of stock RQ that is found abandoned while it runs, requeued, and run by a second worker."""
    connection = redis.Redis.from_url(url, protocol=2)
    queue = Queue("stock", connection=connection)
    if connection.incr("measure:runs") > 1:
        return "the second run's"
    started = StartedJobRegistry(queue=queue)
    executions: list[Any] = connection.zrange(started.key, 0, -1)
    for execution in executions:
        connection.zadd(started.key, {execution: 1})  # as if its heartbeat had stopped long ago
    started.cleanup()
    FailedJobRegistry(queue=queue).requeue(job_id)
    SimpleWorker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
    job = queue.fetch_job(job_id)
    assert job is not None
    assert job.return_value() == "the second run's"
    return "the first run's, which was given up"


def overwritten(made: Rig, connection: redis.Redis) -> dict[str, str]:
    """Whose value a stock RQ job has in the end (decision 0001)."""
    queue = Queue("stock", connection=connection)
    job = queue.enqueue(run_twice, made.server.url, "twice", job_id="twice")
    SimpleWorker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
    return {"value of a stock RQ job that was run twice": str(job.return_value(refresh=True))}
