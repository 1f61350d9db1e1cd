"""What no policy can beat that lets nobody wait: the cheapest way to run a trace, knowing it beforehand. Pure."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq_autoscaler.simulate.trace import Trace


def opt0(trace: Trace, cold_s: float) -> tuple[float, int, int]:
    """GPU-seconds, starts and the most workers at once, with zero wait.

    A worker is started a cold start before it is needed, and kept through a gap where that is shorter than one.
    """
    return _cheapest(trace, start_s=cold_s, longest_gap_s=cold_s)


def contract_opt(trace: Trace, cold_s: float, idle_timeout_s: float) -> tuple[float, int, int]:
    """The same, where every worker that ends has to sit out `idle_timeout_s` first."""
    return _cheapest(trace, start_s=cold_s + idle_timeout_s, longest_gap_s=cold_s + idle_timeout_s)


def _cheapest(trace: Trace, *, start_s: float, longest_gap_s: float) -> tuple[float, int, int]:
    """A job takes the worker that was freed last: the cheapest, as what gaps cost is concave in their length."""
    busy: list[float] = []
    free: list[float] = []  # ascending: since when each is free
    total, starts, peak = trace.work_s, 0, 0
    for arrival, service in zip(trace.arrivals, trace.services, strict=True):
        while busy and busy[0] <= arrival:
            free.append(heapq.heappop(busy))
        gap = arrival - free[-1] if free else longest_gap_s
        if gap < longest_gap_s:
            total += gap
            free.pop()
        else:
            total += start_s
            starts += 1
        heapq.heappush(busy, arrival + service)
        peak = max(peak, len(busy))
    return total, starts, peak
