"""Which workers go (R5, R6, R10). Pure. None loses a job: those that hold any finish them first.

Four reasons to go: its host is drained, it is above `maximum`, it has been idle for `idle_timeout`, or it is outdated
and its turn has come (under load none is ever idle, so that does not wait for idleness). Idleness never takes the
ready workers below `minimum`; a rollout in place may, by one batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flashq_autoscaler.plan import Drain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flashq_autoscaler.fleet import Fleet
    from flashq_autoscaler.views import EndpointView, Params, ThrottleCode, WorkerView


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an endpoint's wishes for workers in this decision."""

    started: int = 0
    unplaced: int = 0
    """Wanted, with room below `maximum`, but no host had a place."""
    obstacle: ThrottleCode | None = None
    """What such a place lacked."""
    keep: int = 0
    """Ready workers that the scaling rule keeps however long they are idle."""


NOTHING = Outcome()


def batch_of(endpoint: EndpointView, params: Params) -> int:
    """How many outdated workers may be in replacement at once: a tenth of `maximum`, and at least one."""
    return max(1, int(params.rollout_fraction * endpoint.maximum))


def replacing(fleet: Fleet) -> int:
    """How many replacements are under way: outdated workers ending, new ones not ready yet."""
    return fleet.draining_outdated + len(fleet.current.initializing)


def idle_drains(endpoint: EndpointView, fleet: Fleet, outcome: Outcome, now: float) -> list[Drain]:
    """Workers above `maximum`, idle ones first, and those idle too long.

    A busy one finishes its jobs and takes no more: else a queue that is never empty would keep it for ever.
    """
    over = fleet.serving - endpoint.maximum - fleet.lending
    if over <= 0 and not _expired((*fleet.current.idle, *fleet.outdated.idle), endpoint, now):
        return []
    idle = sorted(fleet.current.idle, key=_turn)
    if over > 0:
        reason = f"{fleet.serving} workers, at most {endpoint.maximum} wanted"
        running = (w for w in (*fleet.outdated.running, *fleet.current.running) if not w.lends)
        busy = sorted(running, key=_turn, reverse=True)
        surplus = (*sorted(fleet.outdated.idle, key=_turn), *idle, *busy)[:over]
        return [Drain(worker.id, endpoint.name, reason, busy=_is_busy(worker)) for worker in surplus]
    spare = idle[: max(0, len(idle) - _reserved(endpoint))]
    keep = max(endpoint.minimum, outcome.keep)
    expired = _expired(spare, endpoint, now)[: max(0, fleet.current.ready - keep)]
    left = max(0, _ready(fleet) - len(expired) - endpoint.minimum)
    expired += _expired(sorted(fleet.outdated.idle, key=_turn), endpoint, now)[:left]
    limit = f"idle_timeout {endpoint.idle_timeout_s:g} s"
    return [_drain(w, endpoint, f"idle for {now - w.since:.2f} s, {limit}") for w in expired]


def idle_expiry(endpoint: EndpointView, fleet: Fleet, drained: int, now: float) -> float | None:
    """When the next idle worker will have been idle too long, if any could go then."""
    if _ready(fleet) - drained <= endpoint.minimum:
        return None
    timeout_s = endpoint.idle_timeout_s
    later = [worker.since + timeout_s for worker in (*fleet.current.idle, *fleet.outdated.idle)]
    return min([at for at in later if at > now], default=None)


def _expired(workers: Iterable[WorkerView], endpoint: EndpointView, now: float) -> list[WorkerView]:
    timeout_s = endpoint.idle_timeout_s
    return [worker for worker in workers if now >= worker.since + timeout_s]


def rollout_drains(
    endpoint: EndpointView, fleet: Fleet, outcome: Outcome, drained: Iterable[Drain], params: Params
) -> list[Drain]:
    """The outdated workers whose turn it is, idle ones first; a busy one finishes its jobs and takes no more.

    One batch is in replacement at a time. While there is room and a place for new workers, these come first
    and ready workers stay at `minimum`; without, an old one makes way. The old revision keeps serving, all of
    it, where no host could take a new worker anyway, and after `rollout_failures` failed starts of the new.
    """
    if not fleet.outdated.capacity or endpoint.failures >= params.rollout_failures:
        return []
    gone = {drain.worker for drain in drained}
    outdated = (*fleet.outdated.idle, *fleet.outdated.initializing, *fleet.outdated.running)
    candidates = sorted((worker for worker in outdated if worker.id not in gone), key=_rollout_turn)
    if outcome.unplaced:
        candidates = [worker for worker in candidates if _makes_place(worker, outcome.obstacle)]
    batch = batch_of(endpoint, params)
    free = endpoint.maximum - fleet.live - outcome.started
    in_place = free <= 0 or outcome.unplaced > 0
    above = _ready(fleet) - len(gone) - endpoint.minimum
    least = -batch if in_place else 0
    allowed = batch - replacing(fleet) - outcome.started
    drains: list[Drain] = []
    for worker in candidates[: max(0, allowed)]:
        if worker.state != "initializing":
            above -= 1
        if above < least:
            break
        how = "in place" if above < 0 else "after its replacement"
        reason = f"outdated: revision {worker.revision} → {endpoint.revision}, {how}, {batch} at a time"
        drains.append(Drain(worker.id, endpoint.name, reason, outdated=True, busy=_is_busy(worker)))
    return drains


def host_drains(staff: dict[str, list[WorkerView]], drained: Mapping[str, str]) -> list[Drain]:
    """All workers on hosts that an operator drains: they finish what they hold. In `staff` they are draining now.

    So the same decision starts their replacements elsewhere, as far as `maximum` leaves room beside them.
    """
    drains: list[Drain] = []
    if not drained:
        return drains
    for endpoint, workers in staff.items():
        for index, worker in enumerate(workers):
            if worker.host in drained and not worker.draining:
                why = f": {drained[worker.host]}" if drained[worker.host] else ""
                reason = f"host {worker.host} is drained{why}"
                drains.append(Drain(worker.id, endpoint, reason, busy=_is_busy(worker)))
                workers[index] = replace(worker, draining=True)
    return drains


def orphan_drains(
    staff: dict[str, list[WorkerView]], known: set[str], now: float, params: Params
) -> tuple[list[Drain], float | None]:
    """Idle workers of endpoints that are gone, after a grace; and when the next one's grace ends."""
    drains: list[Drain] = []
    wake_at: float | None = None
    for endpoint, workers in staff.items():
        if endpoint in known:
            continue
        for worker in workers:
            if worker.draining or worker.jobs or worker.state == "running":
                continue
            due_at = worker.since + params.orphan_grace_s
            if now >= due_at:
                drains.append(Drain(worker.id, endpoint, f"endpoint {endpoint} is gone"))
            elif wake_at is None or due_at < wake_at:
                wake_at = due_at
    return drains, wake_at


def _ready(fleet: Fleet) -> int:
    """Ready workers that stand for the minimum: the current environment's and the outdated ones."""
    return fleet.current.ready + fleet.outdated.ready


def _makes_place(worker: WorkerView, obstacle: ThrottleCode | None) -> bool:
    """Whether a host that lacks this for one more worker may have it once `worker` has ended."""
    match obstacle:
        case "NO_GPU":
            return bool(worker.gpu_uuids)
        case "NO_CPU":
            return worker.cpus > 0
        case "HOST_MEMORY":
            return worker.memory_bytes > 0
        case _:
            return obstacle == "QUOTA"


def _reserved(endpoint: EndpointView) -> int:
    """Idle workers that queued jobs are about to take."""
    if endpoint.paused or not isinstance(endpoint.queued, int):
        return 0
    return -(-endpoint.queued // endpoint.concurrency)


def _drain(worker: WorkerView, endpoint: EndpointView, reason: str) -> Drain:
    return Drain(worker.id, endpoint.name, reason)


def _is_busy(worker: WorkerView) -> bool:
    return worker.state == "running" or worker.jobs > 0


def _rollout_turn(worker: WorkerView) -> tuple[bool, float, str]:
    return _is_busy(worker), worker.since, worker.id


def _turn(worker: WorkerView) -> tuple[float, str]:
    """The longest idle first: jobs go to the most recently idle (R12)."""
    return worker.since, worker.id
