"""Decisions in a loop: a small world of queues and workers that obeys every plan, and what must hold all along."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashq_autoscaler.decide import decide
from flashq_autoscaler.drains import batch_of
from flashq_autoscaler.reconcile import reconcile
from flashq_autoscaler.views import EndpointView, Params, Snapshot, WorkerView
from tests.unit.scaling_world import GPU, NOW, endpoint, host, simulate_apply

if TYPE_CHECKING:
    from flashq_autoscaler.plan import Plan
    from flashq_autoscaler.views import HostView

TICK_S = 0.1


@dataclass
class World:
    """Endpoints whose workers take `cold_s` to start and jobs `service_s` to run, on perfect hosts."""

    endpoints: dict[str, EndpointView]
    hosts: tuple[HostView, ...]
    cold_s: float = 0.5
    service_s: float = 1.0
    now: float = NOW
    workers: tuple[WorkerView, ...] = ()
    queues: dict[str, deque[float]] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    done: int = 0
    cold_starts: int = 0
    longest_wait_s: float = 0.0
    plans: list[Plan] = field(default_factory=list)

    def submit(self, name: str, jobs: int = 1) -> None:
        self.queues.setdefault(name, deque()).extend([self.now] * jobs)

    def update(self, name: str, **fields: Any) -> None:
        self.endpoints[name] = replace(self.endpoints[name], **fields)

    def live(self, name: str) -> list[WorkerView]:
        return [worker for worker in self.workers if worker.endpoint == name]

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self._decide()
            self.now += TICK_S
            self._let_workers_work()
            for name, view in self.endpoints.items():
                assert len(self.live(name)) <= view.maximum

    def _decide(self) -> None:
        before = Snapshot(
            self.now,
            tuple(self._view(view) for view in self.endpoints.values()),
            tuple(replace(worker, beat_at=self.now) for worker in self.workers),
            tuple(replace(host, beat_at=self.now) for host in self.hosts),
        )
        plan = decide(before)
        self.plans.append(plan)
        self.cold_starts += len(plan.starts)
        busy = {worker.id for worker in self.workers if worker.jobs}
        assert busy.isdisjoint(drain.worker for drain in plan.drains if not drain.busy)
        after = simulate_apply(before, reconcile(plan, before))
        assert isinstance(after.workers, tuple)
        # A worker's id is its own for good.
        named = {worker.id for worker in self.workers}
        self.workers = tuple(
            worker if worker.id in named else replace(worker, id=f"{worker.id}-{self.now:.1f}")
            for worker in after.workers
        )

    def _view(self, view: EndpointView) -> EndpointView:
        waits = tuple(self.now - at for at in self.queues.get(view.name, ()))
        mine = [worker for worker in self.live(view.name) if worker.jobs]
        return replace(
            view,
            queued=len(waits),
            waits_s=waits[:50],
            running=len(mine),
            elapsed_s=tuple(self.now - self.begun[worker.id] for worker in mine),
        )

    def _let_workers_work(self) -> None:
        moved = (self._step(worker) for worker in sorted(self.workers, key=lambda w: -w.since))
        self.workers = tuple(worker for worker in moved if worker is not None)

    def _step(self, worker: WorkerView) -> WorkerView | None:
        if worker.jobs and self.now - self.begun[worker.id] >= self.service_s:
            self.done += 1
            worker = replace(worker, state="idle", jobs=0, since=self.now)
        if worker.draining and not worker.jobs:
            return None
        if worker.state == "initializing" and self.now - worker.since >= self.cold_s:
            worker = replace(worker, state="idle", since=self.now)
        queue = self.queues.get(worker.endpoint)
        if worker.state == "idle" and not worker.draining and queue:
            self.longest_wait_s = max(self.longest_wait_s, self.now - queue.popleft())
            self.begun[worker.id] = self.now
            worker = replace(worker, state="running", jobs=1, since=self.now)
        return worker


def one(workers: tuple[int, int], **fields: Any) -> World:
    view = endpoint(workers=workers, idle_timeout_s=5.0, **fields)
    return World({"embed": view}, (host(),))


def test_from_zero_to_max_and_back_to_zero() -> None:
    world = one((0, 3))

    world.submit("embed", 12)
    world.run(1.0)
    assert len(world.live("embed")) == 3
    world.run(6.0)
    assert world.done == 12
    assert len(world.live("embed")) == 3
    world.run(5.0)

    assert world.live("embed") == []
    assert world.cold_starts == 3


def test_a_minimum_of_one_serves_warm_and_stays() -> None:
    world = one((1, 3))

    world.run(2.0)
    world.submit("embed")
    world.run(20.0)

    assert world.done == 1
    assert world.longest_wait_s < world.cold_s
    assert [worker.state for worker in world.live("embed")] == ["idle"]
    assert world.cold_starts == 1


def test_once_settled_nothing_happens_until_the_wake_up() -> None:
    world = one((0, 3), service_s=1.0, cold_s=0.5)

    world.submit("embed")
    world.run(3.0)

    last = world.plans[-1]
    assert (last.starts, last.drains, last.states) == ((), (), ())
    assert last.wake_at is not None
    assert last.wake_at == pytest.approx(world.live("embed")[0].since + 5.0)


@pytest.mark.parametrize("workers", [(1, 1), (1, 3), (4, 4), (10, 20), (20, 20)])
def test_a_rollout_replaces_all_a_batch_at_a_time(workers: tuple[int, int]) -> None:
    world = one(workers)
    world.run(3.0)
    world.update("embed", environment="env2", revision="r2")

    minimum, batch = workers[0], batch_of(world.endpoints["embed"], Params())
    for _ in range(round(30 * minimum / TICK_S)):
        world.run(TICK_S)
        ready = [w for w in world.live("embed") if w.state != "initializing" and not w.draining]
        replacing = [w for w in world.live("embed") if w.state == "initializing" or w.draining]
        assert len(ready) >= minimum - batch
        assert len(replacing) <= batch
        if all(worker.environment == "env2" for worker in ready) and len(ready) >= minimum:
            break

    world.run(10.0)
    assert [worker.environment for worker in world.live("embed")] == ["env2"] * minimum
    assert world.cold_starts == 2 * minimum


def test_a_rollout_on_one_gpu_replaces_in_place() -> None:
    world = one((1, 2), needs=GPU)
    world.hosts = (host(gpus=["GPU-1"]),)
    world.run(3.0)
    world.update("embed", environment="env2", revision="r2")

    world.run(5.0)

    assert [(worker.environment, worker.state) for worker in world.live("embed")] == [("env2", "idle")]


def test_busy_workers_finish_before_they_are_replaced() -> None:
    world = one((1, 1))
    world.service_s = 30.0
    world.submit("embed")
    world.run(5.0)
    world.update("embed", environment="env2", revision="r2")
    world.submit("embed")

    world.run(20.0)
    assert [worker.environment for worker in world.live("embed")] == ["env"]
    world.run(60.0)

    assert world.done == 2
    assert [worker.environment for worker in world.live("embed")] == ["env2"]


def test_two_endpoints_share_two_gpus() -> None:
    views = {name: endpoint(name, workers=(0, 2), idle_timeout_s=5.0, needs=GPU) for name in ("a", "b")}
    world = World(views, (host(gpus=["GPU-1", "GPU-2"]),))

    world.submit("a", 20)
    world.submit("b", 20)
    world.run(2.0)

    assert {worker.endpoint: worker.gpu_uuids for worker in world.workers} == {
        "a": ("GPU-1",), "b": ("GPU-2",)
    }  # fmt: skip


@settings(max_examples=20)
@given(
    minimum=st.integers(0, 2),
    more=st.integers(1, 4),
    cold_s=st.sampled_from([0.1, 0.5, 2.0]),
    service_s=st.sampled_from([0.1, 1.0, 3.0]),
    known=st.booleans(),
    bursts=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 40)), min_size=1, max_size=6),
    update_at=st.integers(0, 5),
)
def test_every_job_is_done_and_workers_return_to_the_minimum(
    minimum: int,
    more: int,
    cold_s: float,
    service_s: float,
    known: bool,
    bursts: list[tuple[int, int]],
    update_at: int,
) -> None:
    estimates = {"cold_s": cold_s, "service_s": service_s} if known else {}
    world = one((minimum, minimum + more), **estimates)
    world.cold_s, world.service_s = cold_s, service_s

    submitted = 0
    for index, (jobs, ticks) in enumerate(bursts):
        if index == update_at:
            world.update("embed", environment="env2", revision="r2")
        world.submit("embed", jobs)
        submitted += jobs
        world.run(ticks * TICK_S)
    for _ in range(40):
        if world.done == submitted:
            break
        world.run(6.0)
    assert world.done == submitted

    world.run(6.0 + 4 * (cold_s + 1.0))
    environment = world.endpoints["embed"].environment
    assert [worker.environment for worker in world.live("embed")] == [environment] * minimum
