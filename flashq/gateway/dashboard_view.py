"""What the broker's answers are in the dashboard's JSON: times as milliseconds, less what a key may not see. Pure."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.model.causes import Why
    from flashq.store.queries_dashboard import JobPage, Now
    from flashq.store.queries_fleet import ListedEndpoint
    from flashq.store.queries_jobs import ListedJob
    from flashq.store.queries_queues import ListedQueue


def plain(value: Any) -> Any:
    """Records as objects, times as milliseconds; numbers that JSON has not as none."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def now(found: Now, allows: Callable[[str], bool], *, whole: bool) -> dict[str, Any]:
    """What there is. `whole`: hosts too, which are of no endpoint."""
    return {
        "at": found.at_ms,
        "endpoints": [
            _endpoint(one, found.queues.get(one.name)) for one in found.endpoints if allows(one.name)
        ],
        "workers": [plain(one) for one in found.workers if allows(one.endpoint)],
        "hosts": [plain(one) for one in found.hosts] if whole else [],
        "autoscalers": [plain(one) for one in found.autoscalers] if whole else [],
        "whole": whole,
    }


def _endpoint(one: ListedEndpoint, queue: ListedQueue | None) -> dict[str, Any]:
    said = plain(one)
    return {
        "endpoint": said.pop("name"),
        **said,
        "queued": queue.queued if queue else 0,
        "scheduled": queue.scheduled if queue else 0,
        "in_progress": queue.in_progress if queue else 0,
        "failed": queue.failed if queue else 0,
        "oldest_age_s": queue.oldest_age_s if queue else None,
    }


def jobs(found: list[tuple[ListedJob, Why | None]]) -> list[dict[str, Any]]:
    """A list of jobs, each with why it stands as it does."""
    return [{**plain(row), "why": _why(why) if why else None} for row, why in found]


def job(found: JobPage) -> dict[str, Any]:
    """One job."""
    return {**plain(found.detail), "why": _why(found.why), "log": found.log, "log_cut": found.log_cut}


def _why(why: Why) -> dict[str, str]:
    return {"cause": why.cause.value, "detail": why.detail, "advice": why.advice}
