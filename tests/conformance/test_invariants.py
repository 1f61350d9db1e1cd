"""RELIABILITY's invariants I1–I8 under whatever order of commands, on real servers.

Every command goes through `World.run`, which judges it: one place for each job (I1), fences that rise (I2), one
result (I3), attempts (I5), ends that stay (I6), and nothing changed by a resend (I7). The rules here hold on to
every lease ever given, so that most of what they say is stale (I4); in the end healing must end every job (I8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flashq.model.lifecycle import LEASED, TERMINAL, JobState
from flashq.store import held as set_aside
from flashq.store.records import Settlement
from flashq.store.replies import handed_over
from tests.conformance import snapshot
from tests.conformance.test_strangers import stock_sets
from tests.conformance.world import EP, LEASE_MS, World

if TYPE_CHECKING:
    from flashq.store.broker import Broker

MOST_JOBS = 5
EXAMPLES = 40
Lease = tuple[str, int]


class Machine(RuleBasedStateMachine):
    """Callers, workers, reapers and a clock, all at once."""

    broker: ClassVar[Broker]
    jobs: Bundle[str] = Bundle("jobs")
    workers: Bundle[str] = Bundle("workers")
    leases: Bundle[Lease] = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        self.broker.execute("FLUSHALL")
        self.world = World(self.broker)
        self.world.held = True
        self.world.register()
        self.submitted: list[str] = []
        self.joined = 0
        self.steps = 0
        self.set_back_ms = 0
        self.paused = False
        self.outcomes: dict[tuple[str, str], bytes] = {}

    # -- callers -------------------------------------------------------------------------------------
    @precondition(lambda self: len(self.submitted) < MOST_JOBS)
    @rule(
        target=jobs,
        priority=st.sampled_from([0, 0, 4]),
        delay_ms=st.sampled_from([0, 0, 3000]),
        ttl_ms=st.sampled_from([0, 0, 8000]),
        own_ttl=st.booleans(),
        once=st.booleans(),
        losses=st.integers(1, 3),
    )
    def submit(
        self, priority: int, delay_ms: int, ttl_ms: int, own_ttl: bool, once: bool, losses: int
    ) -> str:
        terms: dict[str, Any] = {
            "max_deliveries": losses,
            "at_most_once": once,
            "priority": priority,
            "delay_ms": delay_ms,
            "ttl_ms": ttl_ms,
            "own_ttl": own_ttl or delay_ms > 0,
        }
        job = self.world.submit(**terms)
        self.submitted.append(job)
        return job

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        before = self.state(job)
        said = self.world.run(self.world.t.cancel(job))
        if before is None:
            assert said == "unknown"
        elif before in TERMINAL:
            assert said == before
        else:
            assert said == ("requested" if before in LEASED else "cancelled")

    @rule(job=jobs)
    def requeue(self, job: str) -> None:
        before = self.state(job)
        said = self.world.run(self.world.t.requeue(job))
        assert (said == "ok") == (before in TERMINAL - {JobState.FINISHED})

    @rule(job=jobs)
    def delete(self, job: str) -> None:
        before = self.state(job)
        said = self.world.run(self.world.t.delete(job))
        assert (said == "ok") == (before in TERMINAL)

    @rule()
    def purge(self) -> None:
        self.world.run(self.world.t.purge(EP))

    @rule()
    def fail_waiting(self) -> None:
        self.world.run(self.world.t.fail_waiting(EP, "r1", "it does not load"))

    @rule(requeue=st.booleans(), reason=st.sampled_from(["", "lost", "lost_once"]))
    def act_on_failed(self, requeue: bool, reason: str) -> None:
        transitions = self.world.t
        act = transitions.requeue_failed if requeue else transitions.purge_failed
        for queue in (EP, f"{EP}--p4"):
            looked, acted = self.world.run(act(EP, queue, before_ms=self.world.now_ms, reason=reason))
            assert acted <= looked

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        transitions = self.world.t
        assert self.world.run(transitions.pause(EP) if paused else transitions.resume(EP)) == "ok"
        self.paused = paused

    @rule(job=jobs, channel=st.sampled_from(["", "rq:fq:push:a", "rq:fq:push:b"]))
    def watch(self, job: str, channel: str) -> None:
        assert self.world.watch(job, channel).state == self.state(job)

    # -- workers -------------------------------------------------------------------------------------
    @rule(target=workers, takes=st.booleans())
    def join(self, takes: bool) -> str:
        self.joined += 1
        worker = f"w{self.joined % 3}"  # now and then one that was given up comes back under its name
        fields: dict[str, Any] = {"fq_takes": LEASE_MS} if takes else {}
        self.world.join(worker, **fields)
        return worker

    @rule(target=leases, worker=workers)
    def hear(self, worker: str) -> MultipleResults[Lease]:
        ring = self.world.redis.lpop(self.world.keys.of("bell", worker)) or b""
        if not ring.startswith(b"claim:"):
            return multiple()
        row = handed_over(ring.removeprefix(b"claim:"))
        return multiple((row.job, row.fence))

    @rule(target=leases, worker=workers, count=st.integers(1, 3), start=st.integers(0, 2))
    def claim(self, worker: str, count: int, start: int) -> MultipleResults[Lease]:
        answer = self.world.claim_as(worker, count=count, start=start)
        assert not (self.paused and answer.jobs)
        return multiple(*[(row.job, row.fence) for row in answer.jobs])

    @rule(
        target=leases,
        worker=workers,
        done=st.lists(leases, max_size=2, unique=True),
        began=st.lists(leases, max_size=2, unique=True),
        count=st.integers(0, 2),
    )
    def step(self, worker: str, done: list[Lease], began: list[Lease], count: int) -> MultipleResults[Lease]:
        self.steps += 1
        ends = [Settlement(job, fence, "finished", outcome=b"step") for job, fence in done]
        terms = {"count": count, "lease_ms": LEASE_MS, "start": 0, "holding": 0, "room": count}
        begin = [(job, fence, 5) for job, fence in began]
        answer = self.world.run(
            self.world.t.advance(EP, worker, f"step {self.steps}", done=ends, begin=begin, **terms)
        )
        for (job, fence), said in zip(done, answer.finished, strict=True):
            assert said != "ok" or self.world.job(job)["fq_done"] == str(fence)
        assert len(answer.claim.jobs) <= count
        assert not (self.paused and answer.claim.jobs)
        return multiple(*[(row.job, row.fence) for row in answer.claim.jobs])

    @rule(lease=leases)
    def start(self, lease: Lease) -> None:
        live = self.live(lease)
        said = self.world.run(self.world.t.start(*lease))
        assert (said == "stale") == (not live)

    @rule(
        lease=leases,
        state=st.sampled_from(["finished", "failed", "cancelled", "timed_out"]),
        data=st.binary(max_size=3),
    )
    def finish(self, lease: Lease, state: str, data: bytes) -> None:
        job, fence = lease
        live, before = self.live(lease), self.world.job(job)
        said = self.world.run(self.world.t.finish(Settlement(job, fence, state, outcome=data)))
        if live:
            run = (job, before.get("fq_gen", "0"))
            assert said == "ok"
            assert run not in self.outcomes, "a second outcome of one generation was accepted"
            self.outcomes[run] = data
        else:
            assert self.world.job(job) == before
            assert said == "gone" if not before else said in ("stale", "ok")
            assert said != "ok" or before["fq_done"] == str(fence)

    @rule(lease=leases, delay_ms=st.sampled_from([0, 2000]))
    def retry(self, lease: Lease, delay_ms: int) -> None:
        self.world.run(self.world.t.finish(Settlement(*lease, "retry", delay_ms=delay_ms)))

    @rule(lease=leases, begun=st.booleans())
    def release(self, lease: Lease, begun: bool) -> None:
        live, before = self.live(lease), self.world.job(lease[0])
        self.world.run(self.world.t.release(*lease, begun=begun))
        assert live or self.world.job(lease[0]) == before

    @rule(lease=leases)
    def crash(self, lease: Lease) -> None:
        live, before = self.live(lease), self.world.job(lease[0])
        said = self.world.run(self.world.t.crash(*lease, "killed", b"final", 60))
        assert live or self.world.job(lease[0]) == before
        assert not live or said == self.state(lease[0])

    @rule(worker=workers, held=st.lists(leases, max_size=3, unique=True))
    def renew(self, worker: str, held: list[Lease]) -> None:
        live = [self.live(lease) for lease in held]
        answer = self.world.run(self.world.t.renew(EP, worker, lease_ms=LEASE_MS, jobs=held))
        if answer.verdict != "gone":
            assert [said != "lost" for said in answer.jobs] == live

    @rule(worker=workers)
    def leave(self, worker: str) -> None:
        self.world.run(self.world.t.leave(EP, worker, "left"))

    @rule(worker=workers, force=st.booleans())
    def drain(self, worker: str, force: bool) -> None:
        self.world.run(self.world.t.drain(EP, worker, "surplus", force=force))

    # -- others --------------------------------------------------------------------------------------
    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        if held:
            self.world.run(set_aside.hold(self.world.keys, EP))
        else:
            self.world.run(set_aside.unhold(self.world.keys, EP))

    @rule()
    def restart(self) -> None:
        self.world.run(set_aside.restart(self.world.keys, EP))
        assert not [job for job in self.submitted if self.state(job) in LEASED]

    @rule(job=jobs, status=st.sampled_from(["failed", "canceled"]))
    def meddle(self, job: str, status: str) -> None:
        """A stock tool of RQ ends a job that waits in line; reapers take it back, or end it as one of ours."""
        origin = self.world.job(job).get("origin", "")
        if job not in self.world.listed("queue", origin):
            return
        with self.world.tampering():
            stock_sets(self.world, job, status, status)
            self.world.pass_ms(6000)
            self.world.reap(again=False)  # what is taken back past its ttl ends with the next
        self.world.reap()
        assert self.world.job(job)["status"] != "failed" or self.state(job) in TERMINAL
        assert status != "canceled" or self.state(job) in TERMINAL

    # -- time ----------------------------------------------------------------------------------------
    @rule(ms=st.sampled_from([0, 1, 1000, 3000, 7000, LEASE_MS, -60_000]))
    def reap_later(self, ms: int) -> None:
        self.set_back_ms += max(0, -ms)
        self.world.pass_ms(ms)
        self.world.reap()

    @rule()
    def fall_silent(self) -> None:
        self.world.silence()

    # -- checks --------------------------------------------------------------------------------------
    def state(self, job: str) -> JobState | None:
        found = self.world.state(job)
        return JobState(found) if found else None

    def live(self, lease: Lease) -> bool:
        """Whether this is the lease under which its job is held now."""
        job, fence = lease
        return self.state(job) in LEASED and self.world.job(job)["fq_fence"] == str(fence)

    def teardown(self) -> None:
        """A worker that does what it should, and time: every job ends."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.run(world.t.resume(EP))
        world.run(set_aside.unhold(world.keys, EP))
        for round_ in range(60 + self.set_back_ms // 4000):  # what is due at a time waits for that time
            if all(self.state(job) in {*TERMINAL, None} for job in self.submitted):
                break
            worker = f"healer-{round_}"
            world.join(worker)
            for held in world.claim_as(worker, count=MOST_JOBS, start=MOST_JOBS).jobs:
                assert world.finish(held) == "ok"
            world.pass_ms(4000)
            world.reap()
        ended = {job: self.state(job) for job in self.submitted}
        assert set(ended.values()) <= {*TERMINAL, None}, f"not healed: {ended}"
        assert not snapshot.leaks(world.snapshot())
        world.close()


@pytest.mark.parametrize(
    "broker", [pytest.param(s, marks=pytest.mark.requires(s)) for s in ("valkey", "redis")], indirect=True
)
def test_the_invariants_hold_in_every_order(broker: Broker) -> None:
    machine = type("Machine", (Machine,), {"broker": broker})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
