"""The endpoint as the broker sees it, asked over the connection of this process's client."""

from __future__ import annotations

from collections import Counter

from checks import Counts
from view import Snapshot

from flashq import Status
from flashq.client import current_client
from flashq.store import queries_fleet, queries_jobs, queries_queues

STATES = ("initializing", "idle", "running", "throttled", "outdated", "unhealthy")


def look(name: str) -> Snapshot:
    """Return the endpoint's queue and workers at this moment; nothing of either before its first call."""
    broker = current_client().broker
    queued, in_progress, workers = 0, 0, dict.fromkeys(STATES, 0)
    for queue in queries_queues.queues(broker):
        if queue.endpoint == name:
            queued, in_progress = queue.queued, queue.in_progress
    for endpoint in queries_fleet.endpoints(broker):
        if endpoint.name == name:
            workers = {state: getattr(endpoint, state) for state in STATES}
    return Snapshot(queued, in_progress, workers)


def count(name: str, first_job: str) -> Counts:
    """Return how the endpoint's jobs stand, from the first job of this run on."""
    listed = queries_jobs.jobs(current_client().broker, endpoint=name, limit=queries_jobs.REACH)
    began = next((job.enqueued_at for job in listed if job.id == first_job), None)
    ours = Counter(job.status for job in listed if began and job.enqueued_at and job.enqueued_at >= began)
    return Counts(
        completed=ours[Status.COMPLETED],
        failed=ours[Status.FAILED] + ours[Status.TIMED_OUT] + ours[Status.CANCELLED],
        unfinished=ours[Status.IN_QUEUE] + ours[Status.IN_PROGRESS],
    )
