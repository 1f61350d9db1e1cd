"""How many workers one endpoint wants now, for what, and what holds them back (R3, R4, R11). Pure.

An endpoint is weighed on its own here: its queue, its minimum, its maximum and its failed starts. Whether a
host has a place for a worker, and who comes first, is for `decide` to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq_autoscaler.demand import NONE, demand
from flashq_autoscaler.drains import batch_of, replacing
from flashq_autoscaler.fleet import Group, fleet_of, most
from flashq_autoscaler.health import gate_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq_autoscaler.fleet import Fleet
    from flashq_autoscaler.health import Gate
    from flashq_autoscaler.views import EndpointView, Params, Withheld, WorkerView


@dataclass(frozen=True, slots=True)
class Wish:
    """One worker that is wanted."""

    endpoint: EndpointView
    order: tuple[bool, bool, int, float, str, int]
    """Failing revisions last; minimums, and what jobs wait for, first; then fewest workers; then the oldest wait."""
    reason: str
    nested: bool = False
    """It is for a job that another one waits for."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Workers wanted that failed starts forbid for now."""

    gate: Gate
    workers: int


@dataclass(frozen=True, slots=True)
class Case:
    """One endpoint, weighed on its own."""

    endpoint: EndpointView
    fleet: Fleet
    wishes: tuple[Wish, ...] = ()
    blocked: Blocked | None = None
    """Also where nothing is wanted, as long as the last start failed."""
    withheld: Withheld | None = None
    keep: int = 0
    """Ready workers that the scaling rule keeps however long they are idle."""
    wake_at: float | None = None


def weigh(endpoint: EndpointView, workers: Sequence[WorkerView], now: float, params: Params) -> Case:
    """The case of an endpoint with these live workers."""
    fleet = fleet_of(endpoint, workers)
    if not (
        endpoint.queued
        or endpoint.failures
        or endpoint.buffer
        or endpoint.scaler_type == "REQUEST_COUNT"
        or fleet.current.capacity < endpoint.minimum
    ):
        return Case(endpoint, fleet)
    group, spares = _without_spares(endpoint, fleet.current)
    wanted = NONE if endpoint.paused else demand(endpoint, group, now, params)
    minimum = _minimum_starts(endpoint, fleet, params)
    workers_wanted = max(minimum, wanted.workers + spares)
    gate = gate_of(endpoint, now, params)
    room = max(0, most(endpoint, fleet) - fleet.live)
    allowed = min(_allowed(workers_wanted, gate, fleet), room)

    blocked = None
    if gate.probing:
        blocked = Blocked(gate, min(workers_wanted, room) - allowed)
    withheld = wanted.withheld if workers_wanted < room and not gate.probing else None
    timers = [gate.retry_at] if workers_wanted and room and not gate.open else []
    if withheld is not None:
        timers.append(withheld.due_at)
    first_reason = f"minimum: {fleet.current.capacity} of {endpoint.minimum} workers"
    later = [wanted.reason] * wanted.workers + [
        f"buffer: {endpoint.buffer} ready beside the busy ones"
    ] * spares
    reasons = [first_reason if index < minimum else later[index] for index in range(allowed)]
    wait_s = endpoint.waits_s[0] if endpoint.waits_s else 0.0
    nested = math.ceil(endpoint.nested / endpoint.concurrency)
    return Case(
        endpoint=endpoint,
        fleet=fleet,
        wishes=tuple(
            Wish(
                endpoint,
                (
                    gate.probing,
                    index >= minimum and index >= nested,
                    fleet.live + index,
                    -wait_s,
                    endpoint.name,
                    index,
                ),
                reason,
                nested=index < nested,
            )
            for index, reason in enumerate(reasons)
        ),
        blocked=blocked,
        withheld=withheld,
        keep=max(wanted.keep, _kept(endpoint, fleet)),
        wake_at=min((at for at in timers if at is not None), default=None),
    )


def _is_busy(endpoint: EndpointView, group: Group) -> bool:
    """Whether there is anything to do: then it has its spare workers."""
    return not endpoint.paused and bool(endpoint.queued or group.running)


def _without_spares(endpoint: EndpointView, group: Group) -> tuple[Group, int]:
    """The workers that its rule may count on, without the spare ones, and how many of these are lacking (R3).

    Those that are least ready are the spare ones, so that a job that comes is not kept from an idle worker.
    """
    if not endpoint.buffer or not _is_busy(endpoint, group):
        return group, 0
    starting = min(endpoint.buffer, len(group.initializing))
    idle = min(endpoint.buffer - starting, len(group.idle))
    rest = Group(group.idle[idle:], group.running, group.initializing[starting:])
    return rest, endpoint.buffer - starting - idle


def _kept(endpoint: EndpointView, fleet: Fleet) -> int:
    """Ready workers that stay for its buffer, however long they are idle."""
    busy = endpoint.buffer and _is_busy(endpoint, fleet.current)
    return len(fleet.current.running) + endpoint.buffer if busy else 0


def _minimum_starts(endpoint: EndpointView, fleet: Fleet, params: Params) -> int:
    """Starts for the minimum: at once what no older worker stands in for, the rest a batch at a time."""
    minimum = min(endpoint.minimum, endpoint.maximum)
    missing = minimum - fleet.current.capacity
    stand_ins = fleet.outdated.capacity + fleet.leaving_outdated
    if missing <= 0 or not stand_ins:
        return max(0, missing)
    batch = max(0, batch_of(endpoint, params) - replacing(fleet))
    return max(missing - stand_ins, min(missing, batch))


def _allowed(workers: int, gate: Gate, fleet: Fleet) -> int:
    """As many as it wants; after a failed start one at a time, once its retry is due."""
    if not gate.probing:
        return workers
    return min(workers, max(0, 1 - len(fleet.current.initializing))) if gate.open else 0
