"""Snapshot → plan: which workers to start, drain or give up on, and why. Pure.

`demand` says how many workers a queue wants, `health` whether failed starts allow any, `placement` where they
fit, `drains` which idle ones go; this module brings them together. It reads no clock, logs nothing and draws
nothing at random: the same snapshot, listed in any order, gives the same plan.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flashq_autoscaler.drains import (
    NOTHING,
    Outcome,
    host_drains,
    idle_drains,
    idle_expiry,
    orphan_drains,
    rollout_drains,
)
from flashq_autoscaler.fleet import is_live, is_mute, is_silent
from flashq_autoscaler.placement import Ledger
from flashq_autoscaler.plan import EndpointCondition, Plan, Start, Stop
from flashq_autoscaler.views import Condition, Params, Snapshot, Unknown
from flashq_autoscaler.wishes import weigh

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from flashq_autoscaler.placement import Refusal
    from flashq_autoscaler.views import HostView, Needs, WorkerView
    from flashq_autoscaler.wishes import Case

DEFAULTS = Params()


def decide(snapshot: Snapshot, params: Params = DEFAULTS) -> Plan:
    """The plan for this moment. With any part of the snapshot Unknown: nothing, and what was unknown."""
    endpoints, workers, hosts = snapshot.endpoints, snapshot.workers, snapshot.hosts
    if isinstance(endpoints, Unknown) or isinstance(workers, Unknown) or isinstance(hosts, Unknown):
        return Plan(unknown=tuple(part for part in (endpoints, workers, hosts) if isinstance(part, Unknown)))
    now = snapshot.now
    staff, stops = _staff(workers, {host.id for host in hosts if is_mute(host, now)}, now)
    unknown = sorted((e for e in endpoints if isinstance(e.queued, Unknown)), key=lambda e: e.name)
    undecided = frozenset(endpoint.name for endpoint in unknown)
    drained = {host.id: host.drained for host in hosts if host.drained is not None}
    drains = host_drains({name: staff[name] for name in staff.keys() - undecided}, drained)
    cases = [
        weigh(endpoint, staff.get(endpoint.name, ()), now, params)
        for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.name)
        if not isinstance(endpoint.queued, Unknown)
    ]
    starts, refusals = _grant(cases, hosts, workers, now)
    started = Counter(start.endpoint for start in starts)

    orphans, orphan_at = orphan_drains(staff, {endpoint.name for endpoint in endpoints}, now, params)
    drains += orphans
    timers = [orphan_at, *(case.wake_at for case in cases)]
    states: list[EndpointCondition] = []
    for case in cases:
        name, refused = case.endpoint.name, refusals.get(case.endpoint.name)
        outcome = _outcome(case, started[name], refused)
        idle = idle_drains(case.endpoint, case.fleet, outcome, now)
        replaced = rollout_drains(case.endpoint, case.fleet, outcome, idle, params)
        drains += idle + replaced
        timers.append(idle_expiry(case.endpoint, case.fleet, len(idle) + len(replaced), now))
        condition = _condition(case, refused if outcome.unplaced > len(replaced) else None, now)
        if condition is not None:
            states.append(EndpointCondition(name, condition))

    return Plan(
        starts=tuple(starts),
        drains=tuple(sorted(drains, key=lambda drain: (drain.endpoint, drain.worker))),
        stops=tuple(sorted(stops, key=lambda stop: stop.worker)),
        states=tuple(states),
        withheld=tuple(case.withheld for case in cases if case.withheld is not None),
        wake_at=min((at for at in timers if at is not None and at > now), default=None),
        unknown=tuple(endpoint.queued for endpoint in unknown if isinstance(endpoint.queued, Unknown)),
        undecided=undecided,
    )


def _staff(
    workers: Iterable[WorkerView], mute: Set[str], now: float
) -> tuple[dict[str, list[WorkerView]], list[Stop]]:
    """The live workers of each endpoint, and those that are lost: silent, or only booked and their host is mute."""
    staff: dict[str, list[WorkerView]] = {}
    stops: list[Stop] = []
    for worker in workers:
        if not is_live(worker):
            continue
        if is_silent(worker, now):
            silent_s = now - worker.beat_at
            reason = f"silent for {silent_s:.1f} s while {worker.state}, its lease is {worker.lease_s:g} s"
            stops.append(Stop(worker.id, worker.endpoint, worker.host, reason))
        elif not worker.reported and worker.host in mute:
            reason = f"ordered {now - worker.since:.1f} s ago on host {worker.host}, which is silent"
            stops.append(Stop(worker.id, worker.endpoint, worker.host, reason))
        elif worker.endpoint in staff:
            staff[worker.endpoint].append(worker)
        else:
            staff[worker.endpoint] = [worker]
    return staff, stops


@dataclass(slots=True)
class _Refused:
    """The wishes of one endpoint that no host could take."""

    needs: Needs
    workers: int = 0
    refusal: Refusal | None = None


def _grant(
    cases: Iterable[Case], hosts: Iterable[HostView], workers: Iterable[WorkerView], now: float
) -> tuple[list[Start], dict[str, _Refused]]:
    """Places for the wishes, one worker at a time, in their order; and who got none."""
    live = {case.endpoint.name: case.fleet.live for case in cases}
    wishes = sorted((wish for case in cases for wish in case.wishes), key=lambda wish: wish.order)
    starts: list[Start] = []
    refusals: dict[str, _Refused] = {}
    if not wishes:
        return starts, refusals
    ledger = Ledger(hosts, workers, now)
    for wish in wishes:
        endpoint = wish.endpoint
        needs = replace(endpoint.needs, nested=True) if wish.nested else endpoint.needs
        place = ledger.grant(endpoint.name, needs, endpoint.environment)
        if place is None:
            refusals.setdefault(endpoint.name, _Refused(endpoint.needs)).workers += 1
            continue
        live[endpoint.name] += 1
        starts.append(
            Start(
                endpoint=endpoint.name,
                host=place.host,
                revision=endpoint.revision,
                environment=endpoint.environment,
                gpu_uuids=place.gpu_uuids,
                cpus=place.cpus,
                memory_bytes=place.memory_bytes,
                ordinal=live[endpoint.name],
                reason=wish.reason,
                requires=endpoint.needs.requires,
            )
        )
    for refused in refusals.values():
        refused.refusal = ledger.refusal(refused.needs)
    return starts, refusals


def _outcome(case: Case, started: int, refused: _Refused | None) -> Outcome:
    if not (case.wishes or case.keep):
        return NOTHING
    return Outcome(
        started=started,
        unplaced=refused.workers if refused else 0,
        obstacle=refused.refusal.code if refused and refused.refusal else None,
        keep=case.keep,
    )


def _condition(case: Case, refused: _Refused | None, now: float) -> Condition | None:
    """Why the endpoint has fewer workers than it wants: the hosts' reason before that of failed starts."""
    if refused is not None and refused.refusal is not None:
        return Condition("throttled", refused.refusal.code, refused.refusal.detail, refused.workers)
    blocked = case.blocked
    if blocked is None:
        return None
    gate, source = blocked.gate, case.endpoint
    last = source.last_failure_reason or "no reason given"
    failed = f"{source.failures} failed starts in a row, the last: {last}"
    if gate.given_up:
        first = now if source.first_failure_at is None else source.first_failure_at
        detail = f"{failed}; not tried again after {(now - first) / 86400:.1f} days"
        return Condition("unhealthy", "GIVEN_UP", detail, blocked.workers)
    left_s = max(0.0, (gate.retry_at or now) - now)
    detail = f"{failed}; tried again in {left_s:.0f} s" if left_s else f"{failed}; tried again now"
    return Condition("unhealthy", "BACKOFF", detail, blocked.workers, gate.retry_at)
