"""How many workers one endpoint wants now, for what, and what holds them back (R3, R4, R11). Pure.

An endpoint is weighed on its own here: its queues, its minimum, its maximum and its failed starts. Whether a
host has a place for a worker, and who comes first, is for `decide` to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq_autoscaler.demand import NONE, demand, older_demand
from flashq_autoscaler.drains import batch_of, replacing
from flashq_autoscaler.fleet import fleet_of
from flashq_autoscaler.health import gate_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq_autoscaler.demand import Demand
    from flashq_autoscaler.fleet import Fleet
    from flashq_autoscaler.health import Gate
    from flashq_autoscaler.views import Backlog, EndpointView, Needs, Params, Withheld, WorkerView


@dataclass(frozen=True, slots=True)
class Wish:
    """One worker that is wanted, and what it is for."""

    endpoint: str
    revision: str
    environment: str
    needs: Needs
    only_hope: bool
    """It is for jobs of an older environment that has no worker."""
    order: tuple[bool, bool, int, float, str, int]
    """Failing revisions last; minimums and only hopes first; then fewest workers; then the oldest wait."""
    reason: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """Workers wanted that failed starts forbid for now."""

    gate: Gate
    source: EndpointView | Backlog
    workers: int


@dataclass(frozen=True, slots=True)
class Case:
    """One endpoint, weighed on its own."""

    endpoint: EndpointView
    fleet: Fleet
    wishes: tuple[Wish, ...] = ()
    blocked: Blocked | None = None
    """Also where nothing is wanted, as long as the current revision's last start failed."""
    crowded_out: bool = False
    """A job of an older environment has no worker, and `maximum` leaves no room for one."""
    withheld: Withheld | None = None
    keep: int = 0
    """Ready workers that the scaling rule keeps however long they are idle."""
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """Workers that one environment of an endpoint wants."""

    source: EndpointView | Backlog
    needs: Needs
    gate: Gate
    under_way: int
    """Its workers that are starting already."""
    workers: int
    reason: str
    first: int = 0
    """Those of `workers` that go before the rest: the minimum, or an older environment's only worker."""
    first_reason: str = ""
    older: bool = False

    @property
    def wait_s(self) -> float:
        return self.source.waits_s[0] if self.source.waits_s else 0.0

    @property
    def allowed(self) -> int:
        """As many as it wants; after a failed start one at a time, once its retry is due."""
        if not self.gate.probing:
            return self.workers
        return min(self.workers, max(0, 1 - self.under_way)) if self.gate.open else 0


def weigh(endpoint: EndpointView, workers: Sequence[WorkerView], now: float, params: Params) -> Case:
    """The case of an endpoint with these live workers."""
    fleet = fleet_of(endpoint, workers)
    if not (
        endpoint.queued
        or endpoint.older
        or endpoint.failures
        or endpoint.scaler_type == "REQUEST_COUNT"
        or fleet.current.capacity < endpoint.minimum
    ):
        return Case(endpoint, fleet)
    wanted = NONE if endpoint.paused else demand(endpoint, fleet.current, now, params)
    current = _current_line(endpoint, fleet, wanted, now, params)
    older = [] if endpoint.paused else _older_lines(endpoint, fleet, now, params)
    lines = sorted([current, *older], key=_turn)

    room = max(0, endpoint.maximum + endpoint.waiting_parents - fleet.live)
    total = sum(line.workers for line in lines)
    withheld = wanted.withheld if total < room and not current.gate.probing else None
    wishes, blocked = _allot(endpoint, fleet, lines, room)
    served = {wish.environment for wish in wishes}
    if blocked is None and current.gate.probing:
        blocked = Blocked(current.gate, endpoint, 0)
    timers = [line.gate.retry_at for line in lines if line.workers and room and not line.gate.open]
    if withheld is not None:
        timers.append(withheld.due_at)
    return Case(
        endpoint=endpoint,
        fleet=fleet,
        wishes=wishes,
        blocked=blocked,
        crowded_out=any(
            line.first and line.allowed and line.source.environment not in served for line in older
        ),
        withheld=withheld,
        keep=wanted.keep,
        wake_at=min((at for at in timers if at is not None), default=None),
    )


def _current_line(endpoint: EndpointView, fleet: Fleet, wanted: Demand, now: float, params: Params) -> _Line:
    minimum = _minimum_starts(endpoint, fleet, params)
    return _Line(
        source=endpoint,
        needs=endpoint.needs,
        gate=gate_of(endpoint.name, endpoint, now, params),
        under_way=len(fleet.current.initializing),
        workers=max(minimum, wanted.workers),
        reason=wanted.reason,
        first=minimum,
        first_reason=f"minimum: {fleet.current.capacity} of {endpoint.minimum} workers",
    )


def _minimum_starts(endpoint: EndpointView, fleet: Fleet, params: Params) -> int:
    """Starts for the minimum: at once what no older worker stands in for, the rest a batch at a time."""
    minimum = min(endpoint.minimum, endpoint.maximum)
    missing = minimum - fleet.current.capacity
    batch = batch_of(endpoint, params)
    stand_ins = fleet.outdated.capacity + min(batch, fleet.leaving_outdated)
    if missing <= 0 or not stand_ins:
        return max(0, missing)
    return max(missing - stand_ins, min(missing, max(0, batch - replacing(fleet))))


def _older_lines(endpoint: EndpointView, fleet: Fleet, now: float, params: Params) -> list[_Line]:
    lines: list[_Line] = []
    for backlog in endpoint.older:
        group = fleet.older.get(backlog.environment)
        if group is None:
            continue
        wanted = older_demand(endpoint, backlog, group, now, params)
        if wanted.workers:
            name = f"{endpoint.name} {backlog.environment}"
            reason = f"older revision {backlog.revision}: {wanted.reason}"
            lines.append(
                _Line(
                    source=backlog,
                    needs=endpoint.needs if backlog.needs is None else backlog.needs,
                    gate=gate_of(name, backlog, now, params),
                    under_way=len(group.initializing),
                    workers=wanted.workers,
                    reason=reason,
                    first=0 if group.capacity else 1,
                    first_reason=reason,
                    older=True,
                )
            )
    return lines


def _turn(line: _Line) -> tuple[bool, bool, float, str]:
    """An environment without any worker before a minimum, since a job waits; then by the oldest wait."""
    return not line.first, not line.older, -line.wait_s, line.source.environment


def _allot(
    endpoint: EndpointView, fleet: Fleet, lines: Sequence[_Line], room: int
) -> tuple[tuple[Wish, ...], Blocked | None]:
    """The wishes there is room for below `maximum`, and the first line that failed starts hold back."""
    wishes: list[Wish] = []
    held = [line for line in lines if line.allowed < line.workers]
    for line in lines:
        for k in range(min(line.allowed, room - len(wishes))):
            index, first = len(wishes), k < line.first
            wishes.append(
                Wish(
                    endpoint=endpoint.name,
                    revision=line.source.revision,
                    environment=line.source.environment,
                    needs=line.needs,
                    only_hope=line.older and first,
                    order=(
                        line.gate.probing, not first, fleet.live + index, -line.wait_s, endpoint.name, index,
                    ),
                    reason=line.first_reason if first else line.reason,
                )
            )  # fmt: skip
    if not held:
        return tuple(wishes), None
    workers = min(sum(line.workers - line.allowed for line in held), room - len(wishes))
    return tuple(wishes), Blocked(held[0].gate, held[0].source, workers)
