"""The endpoint as the broker sees it, asked over the connection of this process's client."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from checks import Counts
from view import Snapshot

from flashq.client import current_client

if TYPE_CHECKING:
    from flashq.store.records import Observed


def look(endpoint: str) -> Snapshot:
    """Return the endpoint's queue and workers at this moment; nothing of either before its first call."""
    seen = _observe(endpoint)
    states = Counter(worker.fields["fq_state"] for worker in seen.workers)
    return Snapshot(queued=seen.queued, in_progress=len(seen.began_ms), workers=states)


def count(endpoint: str) -> Counts:
    """Return how many of the endpoint's jobs have completed, ended otherwise, and not ended."""
    seen = _observe(endpoint)
    ended = {
        state: int(seen.stats.get(state, 0)) for state in ("finished", "failed", "cancelled", "timed_out")
    }
    return Counts(
        completed=ended.pop("finished"),
        failed=sum(ended.values()),
        unfinished=seen.queued + seen.scheduled + len(seen.began_ms),
    )


def _observe(endpoint: str) -> Observed:
    broker = current_client().broker
    return broker.run(broker.transitions.observe(endpoint, oldest=0))
