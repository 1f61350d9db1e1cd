"""How many more workers a queue wants (R2–R4), by each of the three scaling rules. Pure.

A rule knows one queue and the workers that serve it; it does not know the hosts, the other endpoints, nor how
many workers may still be started: its answer may be more than there is room for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq_autoscaler.views import Withheld

if TYPE_CHECKING:
    from flashq_autoscaler.fleet import Group
    from flashq_autoscaler.views import EndpointView, Params

_LEAST_COLD_S = 0.001
_MANY = 10**9


@dataclass(frozen=True, slots=True)
class Queue:
    """The waiting jobs of one endpoint."""

    queued: int
    waits_s: tuple[float, ...]
    """Oldest first; jobs beyond its end count as just submitted."""

    @classmethod
    def of(cls, endpoint: EndpointView) -> Queue:
        """The queue of an endpoint."""
        queued = endpoint.queued
        return cls(queued if isinstance(queued, int) else 0, endpoint.waits_s)

    def wait_s(self, index: int) -> float:
        return self.waits_s[index] if index < len(self.waits_s) else 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """How many workers to start for a queue, why, and what is held back."""

    workers: int = 0
    reason: str = ""
    withheld: Withheld | None = None
    keep: int = 0
    """How many workers the rule wants in all, idle or not, where it says so."""


NONE = Demand()


def demand(endpoint: EndpointView, group: Group, now: float, params: Params) -> Demand:
    """What the endpoint's queue wants beyond `group`, the workers that serve it, by its scaling rule."""
    queue = Queue.of(endpoint)
    if endpoint.scaler_type == "REQUEST_COUNT":
        return _request_count(endpoint, queue, group)
    if queue.queued <= 0:
        return NONE
    group_slots = _Slots.of(endpoint, queue, group, now, params)
    if endpoint.scaler_type == "QUEUE_DELAY":
        return _queue_delay(endpoint, queue, group_slots, now)
    return _earliest_finish(endpoint, queue, group_slots, now, params)


@dataclass(frozen=True, slots=True)
class _Slots:
    """When the places for a job come free, in seconds from now."""

    cold_s: float
    free: int
    """Free now, on workers that can be counted on to take a job at once."""
    starting: tuple[float, ...]
    """One for each slot of the initializing workers."""
    busy: tuple[float, ...]
    """One for each running job of known service time."""

    @classmethod
    def of(cls, endpoint: EndpointView, queue: Queue, group: Group, now: float, params: Params) -> _Slots:
        cold_s = max(_LEAST_COLD_S, params.cold_default_s if endpoint.cold_s is None else endpoint.cold_s)
        width = endpoint.concurrency
        stuck = queue.wait_s(0) >= params.claim_grace_s
        idle = [w for w in group.idle if not (stuck and now - w.since >= params.claim_grace_s)]
        held = sum(min(worker.jobs, width) for worker in group.running)
        starting = [max(0.0, cold_s - (now - worker.since)) for worker in group.initializing]
        return cls(
            cold_s=cold_s,
            free=len(idle) * width + len(group.running) * width - held,
            starting=tuple(sorted(starting * width)),
            busy=_busy_until(endpoint, held),
        )

    @property
    def covered(self) -> int:
        """The jobs that have a place, now or on a worker that is starting."""
        return self.free + len(self.starting)


def _busy_until(endpoint: EndpointView, held: int) -> tuple[float, ...]:
    """When the running jobs' slots come free. Where some run on workers that do not serve: the youngest's."""
    service_s = endpoint.service_s
    if service_s is None:
        return ()
    return tuple(max(service_s - elapsed, service_s / 4) for elapsed in sorted(endpoint.elapsed_s)[:held])


def _earliest_finish(
    endpoint: EndpointView, queue: Queue, slots: _Slots, now: float, params: Params
) -> Demand:
    """A worker for each job whose earliest slot is later than a start, or that has waited as long as a start.

    The slots are filled earliest first, as a heap would; how many jobs each takes before it is later than
    `alpha` cold starts is known without one.
    """
    limit_s, service_s = params.alpha * slots.cold_s, endpoint.service_s
    taken = slots.free * _fills(0.0, limit_s, service_s)
    taken += sum(max(1, _fills(slot, limit_s, service_s)) for slot in slots.starting)
    taken += sum(_fills(slot, limit_s, service_s) for slot in slots.busy)
    per_worker = endpoint.concurrency * max(1, _fills(slots.cold_s, limit_s, service_s))
    late = math.ceil(max(0, queue.queued - taken) / per_worker)

    overdue = sum(now + (slots.cold_s - wait) <= now for wait in queue.waits_s[: queue.queued])
    floor = math.ceil(max(0, overdue - slots.covered) / endpoint.concurrency)
    workers = max(late, floor)
    reason = _start_reason(queue, slots, overdue=late < floor) if workers else ""
    placed = slots.covered + workers * endpoint.concurrency
    if queue.queued <= placed:
        return Demand(workers, reason)
    due_at = now + (slots.cold_s - queue.wait_s(placed))
    detail = (
        f"{queue.queued} queued, {placed} of them with a slot: the queue will be empty in about "
        f"{_empty_in_s(queue.queued, slots, workers * endpoint.concurrency, service_s):.2f} s, "
        f"a start takes {slots.cold_s:.2f} s"
    )
    return Demand(workers, reason, Withheld(endpoint.name, "QUEUE_SOON_EMPTY", detail, due_at))


def _fills(free_s: float, limit_s: float, service_s: float | None) -> int:
    """How many jobs one after the other a slot that is free at `free_s` can begin by `limit_s`."""
    if free_s > limit_s:
        return 0
    if service_s is None:
        return 1
    if service_s * _MANY <= limit_s - free_s:
        return _MANY
    return int((limit_s - free_s) / service_s) + 1


def _empty_in_s(queued: int, slots: _Slots, new: int, service_s: float | None) -> float:
    """About when the last of `queued` jobs begins on the slots there are and `new` ones, in turns."""
    known = (*[0.0] * min(slots.free, queued), *slots.starting, *slots.busy, *[slots.cold_s] * new)
    free = sorted(known)[:queued]
    rounds = (queued - len(free)) / len(free)
    return max(free[-1] if queued == len(free) else 0.0, sum(free) / len(free) + rounds * (service_s or 0.0))


def _start_reason(queue: Queue, slots: _Slots, *, overdue: bool) -> str:
    oldest = f"{queue.queued} queued, the oldest for {queue.wait_s(0):.2f} s"
    if overdue:
        return f"{oldest}: as long as a start takes ({slots.cold_s:.2f} s)"
    known = (*[0.0] * slots.free, *slots.starting, *slots.busy)
    if not known:
        return f"{oldest}: no slot known to come free; a start takes {slots.cold_s:.2f} s"
    return (
        f"{oldest}: {len(known)} slots, the earliest free in {min(known):.2f} s, do not take them all "
        f"within a start ({slots.cold_s:.2f} s)"
    )


def _queue_delay(endpoint: EndpointView, queue: Queue, slots: _Slots, now: float) -> Demand:
    """Once the oldest wait reaches the threshold, a worker for every job without a slot; before, none."""
    uncovered = queue.queued - slots.covered
    if uncovered <= 0:
        return NONE
    threshold_s, oldest_s = endpoint.scaler_value, queue.wait_s(0)
    due_at = now + (threshold_s - oldest_s)
    waited = f"QUEUE_DELAY: the oldest of {queue.queued} queued has waited {oldest_s:.2f} s"
    if due_at <= now:
        reason = f"{waited}, {threshold_s:g} s or more"
        return Demand(math.ceil(uncovered / endpoint.concurrency), reason)
    detail = f"{waited}, less than {threshold_s:g} s"
    return Demand(withheld=Withheld(endpoint.name, "QUEUE_DELAY", detail, due_at))


def _request_count(endpoint: EndpointView, queue: Queue, group: Group) -> Demand:
    """`ceil((queued + running) / value)` workers."""
    target = math.ceil((queue.queued + endpoint.running) / endpoint.scaler_value)
    reason = (
        f"REQUEST_COUNT: ceil(({queue.queued} queued + {endpoint.running} running) / "
        f"{endpoint.scaler_value:g}) = {target} workers, {group.capacity} there"
    )
    return Demand(max(0, target - group.capacity), reason, keep=target)
