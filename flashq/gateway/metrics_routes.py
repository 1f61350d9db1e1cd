"""`/metrics`: what Prometheus reads. All of it is of the whole deployment, and the same from any gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry
from starlette.requests import Request  # noqa: TC002 — FastAPI reads it at run time
from starlette.responses import Response

from flashq._version import __version__
from flashq.store.queries_metrics import RECENT, Numbers, numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flashq.store.queries_metrics import EndpointNumbers

router = APIRouter(tags=["probes"])
_PERCENTILES = (50, 90, 99)
_ENDED = {
    "finished": "COMPLETED",
    "failed": "FAILED",
    "timed_out": "TIMED_OUT",
    "cancelled": "CANCELLED",
}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Depth and age of queues, waits, executions, cold starts, workers by state, memory of GPUs."""
    state = request.app.state.gateway
    await state.access.check_all(request)
    return Response(exposition(await state.core.ask(numbers)), media_type=CONTENT_TYPE_LATEST)


def exposition(found: Numbers) -> bytes:
    """These numbers in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(found))
    return generate_latest(registry)


class _Collector:
    def __init__(self, found: Numbers) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "flashq_info", "Which version of flashq this gateway is of.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        yield from _queues(self._found.endpoints)
        yield from _counters(self._found.endpoints)
        yield from _fleet(self._found)


def _queues(endpoints: Sequence[EndpointNumbers]) -> Iterator[Metric]:
    gauges: dict[str, tuple[str, Callable[[EndpointNumbers], float]]] = {
        "flashq_queue_depth": ("Jobs that wait for a worker.", lambda one: one.queued),
        "flashq_queue_scheduled": ("Jobs that wait for their time.", lambda one: one.scheduled),
        "flashq_queue_oldest_age_seconds": (
            "For how long the oldest job in the queue has waited; 0: none waits.",
            lambda one: one.oldest_age_s,
        ),
        "flashq_queue_paused": ("1 where nothing is taken from the queue.", lambda one: int(one.paused)),
        "flashq_jobs_in_progress": ("Jobs that workers hold.", lambda one: one.in_progress),
    }
    for name, (about, value) in gauges.items():
        family = GaugeMetricFamily(name, about, labels=["endpoint"])
        for one in endpoints:
            family.add_metric([one.name], value(one))
        yield family
    recent: dict[str, tuple[str, Callable[[EndpointNumbers], list[float]]]] = {
        "flashq_recent_wait_seconds": ("waited until they began", lambda one: one.waits_s),
        "flashq_recent_execution_seconds": ("ran", lambda one: one.executions_s),
    }
    for name, (about, times) in recent.items():
        about = f"For how long the last {RECENT} completed jobs {about}: of so many of them at most so long."
        family = GaugeMetricFamily(name, about, labels=["endpoint", "percentile"])
        for one in endpoints:
            ordered = sorted(times(one))
            for percentile in _PERCENTILES if ordered else ():
                at = min(len(ordered) - 1, percentile * len(ordered) // 100)
                family.add_metric([one.name, str(percentile)], ordered[at])
        yield family


def _counters(endpoints: Sequence[EndpointNumbers]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "flashq_executions", "Jobs that have ended, by how.", labels=["endpoint", "status"]
    )
    retries = CounterMetricFamily("flashq_retries", "Runs after an exception.", labels=["endpoint"])
    cold = CounterMetricFamily(
        "flashq_cold_starts", "Jobs for which no worker was idle when they came.", labels=["endpoint"]
    )
    for one in endpoints:
        for counted, status in _ENDED.items():
            ended.add_metric([one.name, status], one.counters[counted])
        retries.add_metric([one.name], one.counters["retried"])
        cold.add_metric([one.name], one.counters["cold"])
    yield from (ended, retries, cold)


def _fleet(found: Numbers) -> Iterator[Metric]:
    workers = GaugeMetricFamily("flashq_workers", "Workers, by state.", labels=["endpoint", "state"])
    for one in found.endpoints:
        for state, count in one.workers.items():
            workers.add_metric([one.name, state], count)
    yield workers
    hosts = GaugeMetricFamily(
        "flashq_host_up", "1 where the host has been heard of lately.", labels=["host", "state"]
    )
    for host, state in found.hosts.items():
        hosts.add_metric([host, state], int(state != "silent"))
    yield hosts
    labels = ["gpu", "host", "model"]
    memory = GaugeMetricFamily("flashq_gpu_memory_bytes", "Memory of a GPU.", labels=labels)
    used = GaugeMetricFamily("flashq_gpu_memory_used_bytes", "Memory in use on a GPU.", labels=labels)
    busy = GaugeMetricFamily(
        "flashq_gpu_utilisation_ratio", "How much of the time a GPU ran something.", labels=labels
    )
    for gpu in found.gpus:
        names = [gpu.uuid, gpu.host, gpu.model]
        memory.add_metric(names, gpu.memory_bytes)
        used.add_metric(names, gpu.used_bytes)
        if gpu.utilisation is not None:
            busy.add_metric(names, gpu.utilisation / 100)
    yield from (memory, used, busy)
