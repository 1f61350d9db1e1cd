"""Snapshot → plan: which workers to start, drain or give up on, and why. Pure.

`demand` says how many workers a queue wants, `health` whether failed starts allow any, `placement` where they
fit, `drains` which idle ones go; this module brings them together. It reads no clock, logs nothing and draws
nothing at random: the same snapshot, listed in any order, gives the same plan.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq_autoscaler.demand import NONE, Demand, demand, older_demand
from flashq_autoscaler.drains import (
    Outcome,
    batch_of,
    idle_drains,
    idle_expiry,
    orphan_drains,
    replacing,
    rollout_drains,
)
from flashq_autoscaler.fleet import Fleet, Group, fleet_of, is_live, is_silent
from flashq_autoscaler.health import Gate, gate_of
from flashq_autoscaler.placement import Ledger, Refusal
from flashq_autoscaler.plan import Drain, EndpointCondition, Plan, Start, Stop
from flashq_autoscaler.views import Condition, EndpointView, HostView, Params, Snapshot, Unknown, WorkerView

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flashq_autoscaler.views import Withheld

DEFAULTS = Params()
# What a refusal must be about for the end of an idle worker to help.
_FREED_BY_A_WORKER = frozenset({"NO_GPU", "NO_CPU", "HOST_MEMORY", "QUOTA"})


def decide(snapshot: Snapshot, params: Params = DEFAULTS) -> Plan:
    """The plan for this moment. With any part of the snapshot Unknown: nothing, and what was unknown."""
    endpoints, workers, hosts = snapshot.endpoints, snapshot.workers, snapshot.hosts
    if isinstance(endpoints, Unknown) or isinstance(workers, Unknown) or isinstance(hosts, Unknown):
        return Plan(unknown=tuple(part for part in (endpoints, workers, hosts) if isinstance(part, Unknown)))
    now = snapshot.now
    staff, stops = _staff(workers, now)
    cases = [
        _case(endpoint, staff.get(endpoint.name, ()), now, params)
        for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.name)
        if not isinstance(endpoint.queued, Unknown)
    ]
    starts, refusals = _grant(cases, hosts, workers, now)

    timers: list[float | None] = []
    orphans, orphan_at = orphan_drains(staff, {endpoint.name for endpoint in endpoints}, now, params)
    timers.append(orphan_at)
    drains = orphans
    states: list[EndpointCondition] = []
    started = Counter(start.endpoint for start in starts)
    for case in cases:
        refused = refusals.get(case.endpoint.name, _NOT_REFUSED)
        drains += _drains(case, started[case.endpoint.name], refused, timers, now, params)
        condition = _condition(case, refused, now)
        if condition is not None:
            states.append(EndpointCondition(case.endpoint.name, condition))
        timers.append(case.wake_at)

    unknown = sorted((e for e in endpoints if isinstance(e.queued, Unknown)), key=lambda e: e.name)
    return Plan(
        starts=tuple(starts),
        drains=tuple(sorted(drains, key=lambda drain: (drain.endpoint, drain.worker))),
        stops=tuple(sorted(stops, key=lambda stop: stop.worker)),
        states=tuple(states),
        withheld=tuple(case.withheld for case in cases if case.withheld is not None),
        wake_at=min((at for at in timers if at is not None and at > now), default=None),
        unknown=tuple(endpoint.queued for endpoint in unknown if isinstance(endpoint.queued, Unknown)),
        undecided=frozenset(endpoint.name for endpoint in unknown),
    )


def _staff(workers: Iterable[WorkerView], now: float) -> tuple[dict[str, list[WorkerView]], list[Stop]]:
    """The live workers of each endpoint, and those found silent."""
    staff: dict[str, list[WorkerView]] = {}
    stops: list[Stop] = []
    for worker in workers:
        if is_silent(worker, now):
            silent_s = now - worker.beat_at
            reason = f"silent for {silent_s:.1f} s while {worker.state}, its lease is {worker.lease_s:g} s"
            stops.append(Stop(worker.id, worker.endpoint, worker.host, reason))
        elif is_live(worker):
            staff.setdefault(worker.endpoint, []).append(worker)
    return staff, stops


@dataclass(frozen=True, slots=True)
class _Wish:
    """One worker that is wanted, and what it is for."""

    endpoint: EndpointView
    revision: str
    environment: str
    order: tuple[bool, bool, int, float, str, int]
    """Failing endpoints last; minimums first; then who has the fewest workers; then the oldest wait."""
    reason: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One endpoint, weighed on its own, before hosts are looked at."""

    endpoint: EndpointView
    fleet: Fleet
    gate: Gate
    wishes: tuple[_Wish, ...] = ()
    blocked: int = 0
    """Workers wanted that failed starts forbid."""
    crowded_out: bool = False
    """A job of an older environment wants a worker, and `maximum` leaves no room."""
    withheld: Withheld | None = None
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """Workers that one environment of an endpoint wants."""

    revision: str
    environment: str
    wait_s: float
    workers: int
    reason: str
    minimum: bool = False


def _case(endpoint: EndpointView, workers: Sequence[WorkerView], now: float, params: Params) -> _Case:
    fleet = fleet_of(endpoint, workers)
    gate = gate_of(endpoint, now, params)
    room = max(0, endpoint.maximum + endpoint.waiting_parents - fleet.live)
    wanted = NONE if endpoint.paused else demand(endpoint, fleet.current, now, params)
    lines = _lines(endpoint, fleet, wanted, now, params)
    total = sum(line.workers for line in lines)
    crowded_out = total > room and any(line.environment != endpoint.environment for line in lines)
    withheld = wanted.withheld if room > 0 and gate.open and not total else None
    wake_at = withheld.due_at if withheld is not None else None
    may = min(room, total)
    if gate.probing and may:
        if not gate.open:
            return _Case(endpoint, fleet, gate, blocked=may, wake_at=gate.retry_at)
        probes = min(may, max(0, 1 - fleet.initializing))
        wishes = _wishes(endpoint, fleet, gate, lines, probes)
        return _Case(endpoint, fleet, gate, wishes, may - probes)
    wishes = _wishes(endpoint, fleet, gate, lines, may)
    return _Case(endpoint, fleet, gate, wishes, 0, crowded_out, withheld, wake_at)


def _lines(endpoint: EndpointView, fleet: Fleet, wanted: Demand, now: float, params: Params) -> list[_Line]:
    """What each environment wants: the minimum first, then by the oldest wait."""
    lines: list[_Line] = []
    floor = _minimum_starts(endpoint, fleet, params)
    if floor:
        reason = f"minimum: {fleet.current.capacity} of {endpoint.minimum} workers"
        lines.append(_Line(endpoint.revision, endpoint.environment, 0.0, floor, reason, minimum=True))
    queues: list[_Line] = []
    if wanted.workers > floor:
        wait_s = endpoint.waits_s[0] if endpoint.waits_s else 0.0
        more = wanted.workers - floor
        queues.append(_Line(endpoint.revision, endpoint.environment, wait_s, more, wanted.reason))
    for backlog in () if endpoint.paused else endpoint.older:
        older = older_demand(endpoint, backlog, fleet.others.get(backlog.environment, Group()), now, params)
        if older.workers:
            wait_s = backlog.waits_s[0] if backlog.waits_s else 0.0
            reason = f"older revision {backlog.revision}: {older.reason}"
            queues.append(_Line(backlog.revision, backlog.environment, wait_s, older.workers, reason))
    return lines + sorted(queues, key=lambda line: (-line.wait_s, line.environment))


def _minimum_starts(endpoint: EndpointView, fleet: Fleet, params: Params) -> int:
    """Starts for the minimum: at once what no older worker stands in for, the rest a batch at a time."""
    minimum = min(endpoint.minimum, endpoint.maximum)
    missing = minimum - fleet.current.capacity
    if missing <= 0 or not fleet.others:
        return max(0, missing)
    batch = max(0, batch_of(endpoint, params) - replacing(fleet))
    return max(minimum - fleet.serving, min(missing, batch))


def _wishes(
    endpoint: EndpointView, fleet: Fleet, gate: Gate, lines: Sequence[_Line], may: int
) -> tuple[_Wish, ...]:
    wishes: list[_Wish] = []
    for line in lines:
        for _ in range(min(line.workers, may - len(wishes))):
            index = len(wishes)
            order = (
                gate.probing, not line.minimum, fleet.live + index, -line.wait_s, endpoint.name, index,
            )  # fmt: skip
            wishes.append(_Wish(endpoint, line.revision, line.environment, order, line.reason))
    return tuple(wishes)


@dataclass(slots=True)
class _Refused:
    """The wishes of one endpoint that no host could take."""

    workers: int = 0
    older: int = 0
    refusal: Refusal | None = None


_NOT_REFUSED = _Refused()


def _grant(
    cases: Iterable[_Case], hosts: Iterable[HostView], workers: Iterable[WorkerView], now: float
) -> tuple[list[Start], dict[str, _Refused]]:
    """Places for the wishes, one worker at a time, in their order."""
    live = {case.endpoint.name: case.fleet.live for case in cases}
    wishes = sorted((wish for case in cases for wish in case.wishes), key=lambda wish: wish.order)
    starts: list[Start] = []
    refusals: dict[str, _Refused] = {}
    ledger = Ledger(hosts, workers, now) if wishes else None
    for wish in wishes:
        assert ledger is not None  # noqa: S101 - for the type checker
        endpoint = wish.endpoint
        place = ledger.grant(endpoint.needs, wish.environment)
        if isinstance(place, Refusal):
            refused = refusals.setdefault(endpoint.name, _Refused(refusal=place))
            refused.workers += 1
            refused.older += wish.environment != endpoint.environment
            continue
        live[endpoint.name] += 1
        starts.append(
            Start(
                endpoint=endpoint.name,
                host=place.host,
                revision=wish.revision,
                environment=wish.environment,
                gpu_uuids=place.gpu_uuids,
                cpus=place.cpus,
                memory_bytes=place.memory_bytes,
                ordinal=live[endpoint.name],
                reason=wish.reason,
            )
        )
    return starts, refusals


def _drains(
    case: _Case, started: int, refused: _Refused, timers: list[float | None], now: float, params: Params
) -> list[Drain]:
    endpoint, fleet = case.endpoint, case.fleet
    freed = refused.refusal is not None and refused.refusal.code in _FREED_BY_A_WORKER
    outcome = Outcome(started, refused.workers, older_short=case.crowded_out or (freed and refused.older > 0))
    drains = idle_drains(endpoint, fleet, outcome, now)
    timers.append(idle_expiry(endpoint, fleet, len(drains), now))
    return drains + rollout_drains(endpoint, fleet, outcome, drains, params)


def _condition(case: _Case, refused: _Refused, now: float) -> Condition | None:
    """Why the endpoint has fewer workers than it wants, the most telling reason."""
    endpoint, gate = case.endpoint, case.gate
    if refused.refusal is not None:
        return Condition("throttled", refused.refusal.code, refused.refusal.detail, refused.workers)
    if not gate.probing:
        return None
    last = endpoint.last_failure_reason or "no reason given"
    failed = f"{endpoint.failures} failed starts in a row, the last: {last}"
    if gate.given_up:
        first = endpoint.first_failure_at
        since = f" over {(now - first) / 86400:.1f} days" if first is not None else ""
        return Condition("unhealthy", "GIVEN_UP", f"{failed}{since}; not tried again", case.blocked)
    retry_s = max(0.0, (gate.retry_at or now) - now)
    detail = f"{failed}; tried again in {retry_s:.0f} s" if retry_s else f"{failed}; being tried again"
    return Condition("unhealthy", "BACKOFF", detail, case.blocked, gate.retry_at)
