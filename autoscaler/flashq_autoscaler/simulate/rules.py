"""The rules of other systems, re-implemented from what their documentation says. Pure.

Each is as plain as that documentation; where it leaves something open, the kinder reading was taken.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq_autoscaler.simulate.engine import Moves

if TYPE_CHECKING:
    from flashq_autoscaler.simulate.engine import State


def _expired(state: State, idle_timeout_s: float, keep: int) -> tuple[int, ...]:
    """Workers idle for so long, while more than `keep` stay."""
    spare = max(0, len(state.staying) - keep)
    due = [worker.number for worker in state.idle if state.now - worker.since >= idle_timeout_s - 1e-9]
    return tuple(due[:spare])


@dataclass(slots=True)
class RequestCount:
    """Runpod's REQUEST_COUNT: `ceil((queued + running) / value)` workers, gone after `idle_timeout_s` of idleness.

    https://docs.runpod.io/serverless/endpoints/endpoint-configurations ("Auto-scaling type")
    """

    idle_timeout_s: float
    value: float = 1.0
    name: str = "REQUEST_COUNT"
    tick_s: float = 1.0
    on_arrival: bool = True

    def moves(self, state: State) -> Moves:
        wanted = math.ceil((len(state.queue) + state.running) / self.value)
        wanted = min(max(wanted, state.minimum), state.maximum)
        stops = _expired(state, self.idle_timeout_s, max(wanted, state.minimum))
        return Moves(max(0, wanted - len(state.staying)), stops)


@dataclass(slots=True)
class QueueDelay:
    """Runpod's QUEUE_DELAY: once the oldest wait is `threshold_s`, a worker for each job that no starting one covers.

    The step is not published; this is the fastest that the text allows (see `RequestCount`).
    """

    idle_timeout_s: float
    threshold_s: float = 4.0
    name: str = "QUEUE_DELAY"
    tick_s: float = 1.0
    on_arrival: bool = False

    def moves(self, state: State) -> Moves:
        stops = _expired(state, self.idle_timeout_s, state.minimum)
        starts = max(0, state.minimum - len(state.staying))
        if state.queue and state.now - state.queue[0][0] >= self.threshold_s - 1e-9:
            starting = sum(not worker.ready for worker in state.workers.values())
            starts = max(starts, len(state.queue) - starting)
        due = state.queue[0][0] + self.threshold_s if state.queue else None
        return Moves(starts, stops, due)


@dataclass(slots=True)
class KedaHpa:
    """KEDA's Redis scaler with a HorizontalPodAutoscaler, one job a pod (`listLength: 1`, in-flight jobs counted).

    0 ↔ 1 by a poll every 30 s and a cooldown of 300 s; 1 ↔ n every 15 s, up by at most 100 % or 4 pods, down to the
    highest that was wanted in 300 s. https://keda.sh/docs/latest/reference/scaledobject-spec/,
    https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/ (defaults)
    """

    poll_s: float = 30.0
    cooldown_s: float = 300.0
    stabilisation_s: float = 300.0
    name: str = "KEDA/HPA"
    tick_s: float = 15.0
    on_arrival: bool = False
    _active_at: float = -math.inf
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def moves(self, state: State) -> Moves:
        demand = len(state.queue) + state.running
        polls = state.now % self.poll_s < 1e-6
        if demand:
            self._active_at = state.now
        current = len(state.staying)
        if not current:
            return Moves(max(min(1, state.maximum), state.minimum) if demand and polls else 0)
        if not demand and polls and state.now - self._active_at >= self.cooldown_s and not state.minimum:
            self._wanted.clear()
            return self._down(state, 0)
        wanted = min(max(1, state.minimum, demand), state.maximum)
        if abs(wanted / current - 1) <= 0.1:  # the tolerance within which an HPA leaves things as they are
            wanted = current
        self._wanted.append((state.now, wanted))
        while self._wanted[0][0] < state.now - self.stabilisation_s:
            self._wanted.popleft()
        if wanted > current:
            return Moves(min(wanted - current, max(current, 4)))
        return self._down(state, min(current, max(count for _, count in self._wanted)))

    def _down(self, state: State, to: int) -> Moves:
        """Which pods go is not by idleness: the youngest, as a ReplicaSet chooses; a busy one ends its job."""
        pods = sorted(state.staying, key=lambda worker: worker.ordered, reverse=True)
        return Moves(stops=tuple(worker.number for worker in pods[: max(0, len(pods) - to)]))


@dataclass(slots=True)
class Knative:
    """Knative's KPA with one request a pod: the average over 60 s at 70 % utilisation, over 6 s in panic.

    Panic begins at twice the capacity, lasts 60 s, and forbids scaling down; the last pod goes 30 s after it is not
    wanted any more. https://knative.dev/docs/serving/autoscaling/kpa-specific/ (defaults)
    """

    stable_s: float = 60.0
    panic_s: float = 6.0
    utilisation: float = 0.7
    grace_s: float = 30.0
    name: str = "Knative KPA"
    tick_s: float = 2.0
    on_arrival: bool = False
    _areas: deque[tuple[float, float]] = field(default_factory=lambda: deque([(0.0, 0.0)]))
    _panic_until: float = -math.inf
    _panic_peak: int = 0
    _zero_since: float | None = None

    def moves(self, state: State) -> Moves:
        self._areas.append((state.now, state.area))
        while len(self._areas) > 2 and self._areas[1][0] <= state.now - self.stable_s:
            self._areas.popleft()
        current = len(state.staying)
        if not current and state.queue:  # the activator asks at once, not at the next tick
            return Moves(min(1, state.maximum))
        ready = max(1, sum(worker.ready for worker in state.staying))
        stable = math.ceil(self._average(state.now, self.stable_s) / self.utilisation - 1e-9)
        panic = math.ceil(self._average(state.now, self.panic_s) / self.utilisation - 1e-9)
        if panic / ready >= 2:
            if state.now >= self._panic_until:
                self._panic_peak = 0
            self._panic_until = state.now + self.stable_s
        wanted = stable
        if state.now < self._panic_until:
            self._panic_peak = max(self._panic_peak, panic, current)
            wanted = self._panic_peak
        return self._towards(state, min(max(wanted, state.minimum), state.maximum))

    def _towards(self, state: State, wanted: int) -> Moves:
        current = len(state.staying)
        if wanted > 0:
            self._zero_since = None
        elif current:
            self._zero_since = state.now if self._zero_since is None else self._zero_since
            wanted = 1 if state.now - self._zero_since < self.grace_s or state.queue or state.running else 0
        if wanted >= current:
            return Moves(wanted - current)
        pods = sorted(state.staying, key=lambda worker: worker.ordered, reverse=True)
        return Moves(stops=tuple(worker.number for worker in pods[: current - wanted]))

    def _average(self, now: float, window_s: float) -> float:
        """Jobs in the system, averaged over the last `window_s` (or as long as it is looked at)."""
        at, area = self._areas[0]
        for moment, there in reversed(self._areas):
            at, area = moment, there
            if moment <= now - window_s:
                break
        return (self._areas[-1][1] - area) / max(now - at, 1e-9) if now > at else 0.0
