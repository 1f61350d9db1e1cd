"""Workers and a queue on a heap of events: what a policy's moves come to. Pure.

Each worker takes `cold_s` to start and runs one job at a time; a job goes to the most recently idle worker. A worker
costs from its order to its end, whatever it does meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from flashq.model.pace import expected

if TYPE_CHECKING:
    from flashq_autoscaler.simulate.trace import Trace

_TICK = 1  # of a LOOK
_LONGEST_S = 7 * 86400.0  # after the last job: a policy that keeps workers for ever is cut off


class _What(IntEnum):
    """Events of one moment happen in this order."""

    END = 0
    READY = 1
    ARRIVAL = 2
    LOOK = 3


@dataclass(slots=True)
class SimulatedWorker:
    """One worker. Times in seconds of the trace."""

    number: int
    ordered: float
    since: float
    """When it began to be what it is: starting, idle or busy."""
    ready: bool = False
    busy: bool = False
    leaves: bool = False
    """It ends with its job."""
    served: int = 0
    service_s: float | None = None
    """What it would report as its estimate of a job."""


@dataclass(slots=True)
class Moves:
    """What a policy wants: so many starts, these workers gone; and when to be asked again (None: as always)."""

    starts: int = 0
    stops: tuple[int, ...] = ()
    wake_at: float | None = None


class Policy(Protocol):
    """How many workers there are to be."""

    name: str
    tick_s: float
    """It is asked at multiples of this, while there is anything to look after."""
    on_arrival: bool
    """It is asked at once when a job finds no idle worker."""

    def moves(self, state: State) -> Moves:
        """What to do now."""


@dataclass(slots=True)
class State:
    """All that a policy may know."""

    now: float = 0.0
    maximum: int = 1
    minimum: int = 0
    queue: deque[tuple[float, float]] = field(default_factory=deque)
    """Arrival and service of those that wait, oldest first."""
    workers: dict[int, SimulatedWorker] = field(default_factory=dict)
    area: float = 0.0
    """Integral of the jobs in the system (waiting or running) over time, until `now`."""

    @property
    def running(self) -> int:
        return sum(worker.busy for worker in self.workers.values())

    @property
    def staying(self) -> list[SimulatedWorker]:
        """Workers that are not on their way out."""
        return [worker for worker in self.workers.values() if not worker.leaves]

    @property
    def idle(self) -> list[SimulatedWorker]:
        """The longest idle first."""
        found = [worker for worker in self.workers.values() if worker.ready and not worker.busy]
        return sorted(found, key=lambda worker: (worker.since, worker.number))


@dataclass(frozen=True, slots=True)
class Run:
    """What a simulated run came to."""

    waits_s: tuple[float, ...]
    """Of each job, in order of arrival."""
    gpu_s: float
    starts: int
    useless: int
    """Starts of workers that served nothing."""
    peak: int
    decisions: int
    history: tuple[tuple[float, int, int], ...]
    """Time, live workers and waiting jobs, at each change."""


def run(trace: Trace, policy: Policy, *, cold_s: float, maximum: int, minimum: int = 0) -> Run:
    """Let the trace happen under this policy."""
    return _Engine(trace, policy, cold_s, State(maximum=maximum, minimum=minimum)).run()


class _Engine:
    def __init__(self, trace: Trace, policy: Policy, cold_s: float, state: State) -> None:
        self._trace, self._policy, self._cold_s, self._state = trace, policy, cold_s, state
        self._events: list[tuple[float, _What, int, int]] = []  # time, what, order, which job or worker
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._look_at = self._tick_at = math.inf  # when the policy is asked next: as it wished, as always
        self._waits: list[float] = [0.0] * len(trace)
        self._left = len(trace)
        self._begun = 0
        self._gpu_s = 0.0
        self._useless = self._peak = self._decisions = 0
        self._history: list[tuple[float, int, int]] = []

    def run(self) -> Run:
        state = self._state
        for job, at in enumerate(self._trace.arrivals):
            self._push(at, _What.ARRIVAL, job)
        self._look()
        while self._events and (self._left or state.workers):
            at, what, _, which = heapq.heappop(self._events)
            if not self._left and (
                at > self._trace.arrivals[-1] + _LONGEST_S or len(state.staying) <= state.minimum
            ):
                break
            self._advance(at)
            self._happen(what, which)
        for worker in list(state.workers.values()):
            self._end(worker)
        starts = next(self._numbers)
        return Run(
            tuple(self._waits),
            self._gpu_s,
            starts,
            self._useless,
            self._peak,
            self._decisions,
            tuple(self._history),
        )

    def _push(self, at: float, what: _What, which: int = 0) -> None:
        heapq.heappush(self._events, (at, what, next(self._order), which))

    def _advance(self, at: float) -> None:
        state = self._state
        state.area += (len(state.queue) + state.running) * (at - state.now)
        state.now = at

    def _happen(self, what: _What, which: int) -> None:
        state, look = self._state, False
        match what:
            case _What.ARRIVAL:
                look = self._policy.on_arrival and not state.idle
                state.queue.append((state.now, self._trace.services[which]))
            case _What.READY:
                worker = state.workers[which]
                worker.ready, worker.since = True, state.now
                self._leave_or_stay(worker)
            case _What.END:
                worker = state.workers[which]
                worker.busy, worker.since = False, state.now
                self._left -= 1
                self._leave_or_stay(worker)
            case _What.LOOK:
                look = state.now == (self._tick_at if which == _TICK else self._look_at)
        self._dispatch()
        if look:
            self._look()
        elif not state.now <= self._tick_at < math.inf:
            self._tick()
        self._history.append((state.now, len(state.workers), len(state.queue)))

    def _leave_or_stay(self, worker: SimulatedWorker) -> None:
        if worker.leaves:
            self._end(worker)

    def _dispatch(self) -> None:
        state = self._state
        while state.queue and (idle := state.idle):
            worker = idle[-1]
            arrival, service = state.queue.popleft()
            self._waits[self._begun] = state.now - arrival  # they begin in the order in which they come
            self._begun += 1
            worker.busy, worker.since = True, state.now
            worker.served += 1
            worker.service_s = expected(worker.service_s, service)
            self._push(state.now + service, _What.END, worker.number)

    def _look(self) -> None:
        state = self._state
        self._decisions += 1
        moves = self._policy.moves(state)
        for number in moves.stops:
            worker = state.workers[number]
            worker.leaves = True
            if worker.ready and not worker.busy:
                self._end(worker)
        for _ in range(min(moves.starts, state.maximum - len(state.workers))):
            worker = SimulatedWorker(next(self._numbers), state.now, state.now)
            state.workers[worker.number] = worker
            self._push(state.now + self._cold_s, _What.READY, worker.number)
        self._peak = max(self._peak, len(state.workers))
        self._look_at = math.inf
        if moves.wake_at is not None and moves.wake_at > state.now:
            self._look_at = moves.wake_at
            self._push(moves.wake_at, _What.LOOK)
        self._tick()

    def _tick(self) -> None:
        """The next tick, while there is anything to look after."""
        state, tick_s = self._state, self._policy.tick_s
        if not (state.queue or state.workers):
            self._tick_at = math.inf
            return
        at = (math.floor(state.now / tick_s + 1e-9) + 1) * tick_s
        if at != self._tick_at:
            self._tick_at = at
            self._push(at, _What.LOOK, _TICK)

    def _end(self, worker: SimulatedWorker) -> None:
        del self._state.workers[worker.number]
        self._gpu_s += self._state.now - worker.ordered
        self._useless += not worker.served
