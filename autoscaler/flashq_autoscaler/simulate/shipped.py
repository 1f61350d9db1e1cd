"""The shipped `decide` as a policy: it sees the simulated world as the snapshot that it sees in life. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq_autoscaler.decide import decide
from flashq_autoscaler.estimates import Estimates
from flashq_autoscaler.simulate.engine import Moves
from flashq_autoscaler.views import EndpointView, HostView, Params, Snapshot, WorkerView

if TYPE_CHECKING:
    from flashq_autoscaler.simulate.engine import SimulatedWorker, State
    from flashq_autoscaler.views import ScalerType, WorkerState

_NAME = "simulated"
_HOST = HostView("host", 0.0, lease_s=1e12)
_DATED = 32  # of the waiting jobs, at least so many are told with their age, as in life


@dataclass(frozen=True, slots=True)
class _Report:
    """What a worker reports of itself, as `Estimates` reads it."""

    id: str
    service_ms: float | None
    cold_ms: float | None


@dataclass(slots=True)
class Shipped:
    """`decide` with these settings, woken by jobs that find no idle worker, by its own timers, and each second."""

    name: str
    cold_s: float
    idle_timeout_s: float
    scaler_type: ScalerType | None = None
    scaler_value: float = 4.0
    params: Params = field(default_factory=Params)
    tick_s: float = 1.0
    on_arrival: bool = True
    busy_stopped: int = 0
    """How often it asked to stop a worker that was busy: the rules say never."""
    _estimates: Estimates = field(default_factory=Estimates)

    def moves(self, state: State) -> Moves:
        views = tuple(self._view(worker, state.now) for worker in state.workers.values())
        snapshot = Snapshot(state.now, (self._endpoint(state),), views, (_HOST,))
        plan = decide(snapshot, self.params)
        busy = {view.id for view in views if view.jobs}
        self.busy_stopped += sum(drain.worker in busy for drain in plan.drains) + len(plan.stops)
        stops = tuple(int(drain.worker) for drain in plan.drains)
        return Moves(len(plan.starts), stops, plan.wake_at)

    def _endpoint(self, state: State) -> EndpointView:
        self._estimates.learn(_NAME, [self._report(worker) for worker in state.workers.values()])
        running = [worker for worker in state.workers.values() if worker.busy]
        dated = max(_DATED, state.maximum)
        return EndpointView(
            name=_NAME,
            revision="r",
            environment="e",
            minimum=state.minimum,
            maximum=state.maximum,
            idle_timeout_s=self.idle_timeout_s,
            queued=len(state.queue),
            waits_s=tuple(state.now - state.queue[i][0] for i in range(min(dated, len(state.queue)))),
            running=len(running),
            elapsed_s=tuple(state.now - worker.since for worker in running),
            service_s=self._estimates.service_s(_NAME),
            cold_s=self._estimates.cold_s(_NAME),
            scaler_type=self.scaler_type,
            scaler_value=self.scaler_value,
        )

    def _report(self, worker: SimulatedWorker) -> _Report:
        service_ms = None if worker.service_s is None else worker.service_s * 1000
        return _Report(str(worker.number), service_ms, self.cold_s * 1000 if worker.ready else None)

    def _view(self, worker: SimulatedWorker, now: float) -> WorkerView:
        state: WorkerState = "running" if worker.busy else "idle" if worker.ready else "initializing"
        return WorkerView(
            id=str(worker.number),
            endpoint=_NAME,
            host=_HOST.id,
            state=state,
            revision="r",
            environment="e",
            since=worker.since,
            beat_at=now,
            draining=worker.leaves,
            jobs=int(worker.busy),
        )
