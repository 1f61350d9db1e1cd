"""Bad luck of autoscalers and hosts, in single ticks on a real broker; workers are records (`stand_in_workers`).

scripts/scaling_luck.py lists these tests, and those elsewhere, by what happens.
"""

from __future__ import annotations

import itertools
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from flashq.store import gpu_leases
from flashq.store.broker import Broker
from flashq.store.records import Settlement
from flashq_autoscaler.loop import Autoscaler
from tests.integration.fleet_rig import REVISION
from tests.integration.stand_in_workers import Crew
from tests.integration.test_autoscaler_loop import Host, autoscaler, condition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.store.command import Command
    from tests.integration.fleet_rig import FleetRig

pytestmark = pytest.mark.requires("valkey")

T = TypeVar("T")
ACTIONS = frozenset({"lead", "worker_order", "worker_drain", "worker_leave", "set_condition", "fail_waiting"})
NEWER = "s" * 64
MINIMUM, MAXIMUM = 3, 4


# -- an autoscaler that dies -----------------------------------------------------------------------------


class Killed(BaseException):
    """The autoscaler's process is no more."""


class DyingBroker(Broker):
    """An autoscaler's connection: after so many commands that change something, its process is gone."""

    def __init__(self, url: str, commands: int) -> None:
        super().__init__(url, patience_s=0.5)
        self.left = commands

    def run(self, command: Command[T]) -> T:
        return self.run_all([command])[0]

    def run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        answers = []
        for command in commands:
            if command.script in ACTIONS:
                if self.left == 0:
                    raise Killed
                self.left -= 1
            answers += super().run_all([command])
        return answers


class Rollout:
    """Three workers, one of them busy, whose environment has just changed; judged at every step."""

    def __init__(self, fleet: FleetRig, name: str) -> None:
        self.fleet, self.name, self.crew = fleet, name, Crew(fleet, name)
        fleet.register(name, workers=(MINIMUM, MAXIMUM))
        autoscaler(fleet).tick()
        self.crew.turn()
        self.busy = fleet.workers(name)[0]
        fleet.submit(name)
        assert self.crew.take(self.busy)
        self.job = self.crew.holds[self.busy]
        fleet.register(name, NEWER, workers=(MINIMUM, MAXIMUM), dependencies=["numpy"])
        self.new = fleet.endpoint_fields(name)["resources"]

    def judge(self) -> None:
        """Never more than the maximum, never a batch less than the minimum, and a busy worker is let be."""
        workers = self.fleet.workers(self.name)
        fields = {worker: self.fleet.worker_fields(worker) for worker in workers}
        ready = [
            w for w in workers if fields[w]["fq_state"] != "initializing" and "fq_drain" not in fields[w]
        ]
        assert len(workers) <= MAXIMUM
        assert len(ready) >= MINIMUM - 1
        if self.busy in self.crew.holds:
            assert fields[self.busy]["fq_state"] == "running"
            job = self.fleet._hash("job", self.job.job)
            assert (job["fq_state"], int(job["fq_fence"])) == ("running", self.job.fence)

    @property
    def done(self) -> bool:
        """Whether all are new and idle, and as many as there should be."""
        fields = [self.fleet.worker_fields(worker) for worker in self.fleet.workers(self.name)]
        as_wanted = [("idle", self.new)] * MINIMUM
        return [(each["fq_state"], each["fq_env"]) for each in fields] == as_wanted

    def finish(self, left: Any, *, obeyed: bool = True) -> int:
        """Have autoscalers take turns, each with as many commands to live for as `left` says; how many died.

        `obeyed`: whether hosts had begun what a dead one ordered; else they heard of its successor first.
        """
        died = 0
        dying = DyingBroker(self.fleet.server.url, next(left))
        scaler = Autoscaler(dying, self.fleet.keyring, take_over=True)
        for step in range(100):
            try:
                scaler.tick()
            except Killed:
                died += 1
                dying.close()
                dying = DyingBroker(self.fleet.server.url, next(left))
                scaler = Autoscaler(dying, self.fleet.keyring, take_over=True)
                for worker in () if obeyed else self.crew.ordered():
                    self.crew.leave(worker, "its host did not start it: the word is of an earlier epoch")
            self.judge()
            self.crew.turn()
            self.judge()
            if step >= 8 and self.busy in self.crew.holds:
                self.crew.finish(self.busy)
            if self.done:
                dying.close()
                assert self.fleet._hash("job", self.job.job)["fq_attempts"] == "1"
                return died
        raise AssertionError(f"not finished: {self.fleet.states(self.name)}")


@pytest.mark.parametrize("obeyed", [True, False], ids=["hosts-obeyed", "hosts-refused"])
def test_an_autoscaler_killed_at_any_step_of_a_rollout(fleet: FleetRig, obeyed: bool) -> None:
    """Given a rollout, if the autoscaler dies after its nth command, whichever n, expect another one to finish it."""
    Host(fleet)
    for commands in itertools.count():
        rollout = Rollout(fleet, f"rolled-{commands}")
        if not rollout.finish(itertools.chain([commands], itertools.repeat(10_000)), obeyed=obeyed):
            break
    assert commands > 6, "a rollout of three workers has as many commands"


def test_every_autoscaler_of_a_rollout_dies_after_one_action(fleet: FleetRig) -> None:
    """Given a rollout, if no autoscaler lives for more than one command beside taking the lead, expect it to end."""
    Host(fleet)
    died = Rollout(fleet, "rolled-by-many").finish(itertools.repeat(2))
    assert died > 3


def test_two_autoscalers_that_take_the_lead_from_each_other_in_every_step_of_a_rollout(
    fleet: FleetRig,
) -> None:
    """Given a rollout, if each of two leads for one tick, expect it to end with the bounds kept."""
    Host(fleet)
    rollout = Rollout(fleet, "rolled-by-two")
    for step in range(60):
        autoscaler(fleet).tick()  # a new one, which leads at once
        rollout.judge()
        if step % 2:
            rollout.crew.turn()
        if step == 9:
            rollout.crew.finish(rollout.busy)
        if rollout.done:
            return
    raise AssertionError(fleet.states("rolled-by-two"))


# -- hosts that say what is not so --------------------------------------------------------------------------


def gpu_host(fleet: FleetRig) -> Host:
    gpu = '[{"uuid": "GPU-1", "name": "NVIDIA L4", "memory_bytes": 1, "foreign": false}]'
    return Host(fleet, gpus=gpu, frees="1")


def test_words_of_a_dead_worker_and_its_host_that_come_late_twice_and_in_any_order(fleet: FleetRig) -> None:
    """Given a worker that was given up, and another on its GPU with its job, if all that the first and its host may
    have said comes only now, in any order and twice, expect nothing of the second's to change."""
    host = gpu_host(fleet)
    fleet.register("embed", cpu=None, workers=(0, 1))
    (job,) = fleet.submit("embed")
    scaler, crew, made = autoscaler(fleet), Crew(fleet, "embed"), fleet.transitions
    scaler.tick()
    (dead,) = fleet.workers("embed")
    crew.report(dead)
    assert crew.take(dead)
    first = crew.holds[dead]
    crew.leave(dead, "its host is silent")
    fence = gpu_leases.of(fleet.broker, ["GPU-1"])["GPU-1"].fence
    assert fleet.broker.run(made.gpu_free("GPU-1", fence, host.name)) == "ok"
    scaler.tick()
    (alive,) = fleet.workers("embed")
    crew.report(alive)
    assert crew.take(alive)
    assert crew.holds[alive].fence == first.fence + 1

    def standing() -> tuple[Any, ...]:
        fields = fleet._hash("job", job)
        lease = gpu_leases.of(fleet.broker, ["GPU-1"])["GPU-1"]
        return (
            fleet.workers("embed"),
            fleet.states("embed"),
            [fields[name] for name in ("fq_state", "fq_fence", "fq_attempts", "worker_name")],
            (lease.worker, lease.fence, lease.why),
        )

    said: list[Command[Any]] = [
        made.join("embed", dead, lease_ms=60_000, booked=True, fields={"pid": 1, "fq_gpus": "GPU-1"}),
        made.ready("embed", dead, {}),
        made.renew("embed", dead, lease_ms=60_000, jobs=[(job, first.fence)]),
        made.finish(Settlement(job, first.fence, "finished", outcome=b"late"), dead),
        made.release(job, first.fence, dead),
        made.leave("embed", dead, "it was killed", before_ready=True),
        made.gpu_free("GPU-1", fence, host.name),
        made.gpu_free("GPU-1", fence, host.name, "memory in use"),
    ]
    before, orders = standing(), random.Random(7)
    for _ in range(40):
        fleet.broker.run_all(orders.sample(said, len(said)))
        fleet.broker.run_all(orders.choices(said, k=len(said)))
        assert standing() == before
    assert not scaler.tick()[0]
    assert "failures" not in fleet.endpoint_fields("embed")


def test_a_dead_worker_that_says_it_lives_is_told_that_it_does_not(fleet: FleetRig) -> None:
    """Given a worker that was given up and replaced, if it beats and joins anew, expect it to be refused."""
    Host(fleet)
    fleet.register("embed", workers=(1, 1))
    scaler, crew = autoscaler(fleet), Crew(fleet, "embed")
    scaler.tick()
    (dead,) = crew.ordered()
    crew.report(dead)
    crew.leave(dead, "silent")
    scaler.tick()
    run, made = fleet.broker.run, fleet.transitions
    assert run(made.renew("embed", dead, lease_ms=60_000, jobs=[])).verdict == "gone"
    joined = run(made.join("embed", dead, lease_ms=60_000, booked=True, fields={"pid": 1}))
    assert joined.verdict == "gone"
    assert dead not in fleet.workers("embed")
    assert len(fleet.workers("embed")) == 1


def test_beats_that_come_twice_and_of_an_earlier_epoch_change_no_plan(fleet: FleetRig) -> None:
    """Given a host that heard of an earlier leader last, if it beats again and again, expect the leader to stay."""
    Host(fleet)
    fleet.register("embed", workers=(2, 2))
    scaler = autoscaler(fleet)
    scaler.tick()
    leader = fleet._hash("leader", "")
    for epoch in (0, 0, int(leader["epoch"]) - 1, 0):
        beat = fleet.transitions.host_beat(
            "host-1", lease_ms=60_000, fields={}, epoch=epoch, refused_epoch=epoch
        )
        assert fleet.broker.run(beat).epoch == int(leader["epoch"])
    assert {name: fleet._hash("leader", "")[name] for name in ("holder", "epoch")} == {
        name: leader[name] for name in ("holder", "epoch")
    }
    assert not scaler.tick()[0]
    assert len(fleet.workers("embed")) == 2


# -- settings that do not fit what there is ------------------------------------------------------------------


def test_a_maximum_lowered_below_what_runs_stops_nothing_that_runs(fleet: FleetRig) -> None:
    """Given four busy workers, if only one may be, expect all four jobs to end and three workers to end after them."""
    Host(fleet)
    fleet.register("embed", workers=(0, 4))
    jobs = fleet.submit("embed", 4)
    scaler, crew = autoscaler(fleet), Crew(fleet, "embed")
    scaler.tick()
    crew.turn()
    assert all(crew.take(worker) for worker in fleet.workers("embed"))
    later = fleet.submit("embed", 2)
    fleet.register("embed", workers=(0, 1))
    for worker in list(crew.holds):
        scaler.tick()
        crew.turn()
        assert len(fleet.workers("embed")) >= len(crew.holds)
        assert [fleet.job_state(held.job) for held in crew.holds.values()] == ["running"] * len(crew.holds)
        crew.finish(worker)
    scaler.tick()
    crew.turn()
    scaler.tick()
    assert len(fleet.workers("embed")) == 1
    assert [fleet._hash("job", job)["fq_attempts"] for job in jobs] == ["1"] * 4
    assert [fleet.job_state(job) for job in later] == ["queued"] * 2


def test_a_minimum_over_what_the_hosts_have_is_met_as_far_as_they_go_and_said(fleet: FleetRig) -> None:
    """Given places for two, if five are to be kept, expect two, the reason, no further try, and the rest with room."""
    Host(fleet, slots="2")
    fleet.register("embed", workers=(5, 5))
    fleet.register("other", workers=(0, 1))
    fleet.submit("other")
    scaler, crew = autoscaler(fleet), Crew(fleet, "embed")
    scaler.tick()
    crew.turn()
    for _ in range(5):
        assert not scaler.tick()[0]
    assert fleet.states("embed") == ["idle", "idle"]
    assert '"code": "QUOTA"' in condition(fleet, "embed")
    assert '"workers": 3' in condition(fleet, "embed")
    assert '"code": "QUOTA"' in condition(fleet, "other")
    Host(fleet, slots="9")
    scaler.tick()
    assert (len(fleet.workers("embed")), len(fleet.workers("other"))) == (5, 1)
    assert not condition(fleet, "embed")


# -- workers and queues out of the ordinary ------------------------------------------------------------------


def test_workers_that_exit_at_once_take_nothing_from_others(fleet: FleetRig) -> None:
    """Given an endpoint whose workers die at once, if its queue is long, expect one start, and the other endpoint's."""
    Host(fleet, slots="1")
    fleet.register("dying", workers=(0, 5))
    fleet.register("well", workers=(0, 1))
    fleet.submit("dying", 50)
    scaler = autoscaler(fleet)
    scaler.tick()
    fleet.submit("well")
    for _ in range(20):
        for worker in fleet.workers("dying"):
            Crew(fleet, "dying").leave(worker, "its process was killed by SIGKILL", before_ready=True)
        scaler.tick()
    assert (
        len([event for event in fleet.events("worker-ordered") if event["subject"].startswith("dying-")]) == 1
    )
    assert '"code": "BACKOFF"' in condition(fleet, "dying")
    assert len(fleet.workers("well")) == 1


def test_ten_thousand_jobs_at_once_are_one_decision(fleet: FleetRig) -> None:
    """Given one worker's jobs by the ten thousand, if one tick sees them, expect the maximum of workers and no more."""
    Host(fleet, cpus="64")
    fleet.register("embed", workers=(0, 20))
    scaler = autoscaler(fleet)
    scaler.tick()
    for _ in range(20):
        fleet.submit("embed", 500)
    began = time.monotonic()
    assert scaler.tick()[0]
    took_s = time.monotonic() - began
    assert len(fleet.workers("embed")) == 20
    assert not scaler.tick()[0]
    assert took_s < 5, "of which most is a busy machine's"


def test_an_endpoint_removed_with_jobs_in_flight(fleet: FleetRig) -> None:
    """Given a job that runs and one that waits, if the endpoint is removed, expect that to be refused; if its record
    is taken away all the same, expect the running job to end, its worker to be let be until then, and no other."""
    Host(fleet)
    fleet.register("embed", workers=(1, 2))
    (running,) = fleet.submit("embed")
    scaler, crew = autoscaler(fleet), Crew(fleet, "embed")
    scaler.tick()
    (worker,) = fleet.workers("embed")
    crew.report(worker)
    assert crew.take(worker)
    fleet.submit("embed")
    assert fleet.broker.run(fleet.transitions.undeploy("embed")) == "busy"
    assert fleet.endpoint_fields("embed")["revision"] == REVISION

    fleet.broker.execute("DEL", fleet.broker.keys.of("endpoint", "embed"))
    fleet.broker.execute("SREM", fleet.broker.keys.of("endpoints"), "embed")
    for _ in range(3):
        scaler.tick()
    assert fleet.workers("embed") == [worker]
    assert "fq_drain" not in fleet.worker_fields(worker)
    crew.finish(worker)
    assert fleet.job_state(running) == "finished"
    orders = len(fleet.events("worker-ordered"))
    assert orders == 1
