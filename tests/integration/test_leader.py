"""One of several autoscalers leads: who takes its place, how soon, and that nothing of an earlier leader's counts.

Rows 15 and 16 of the failure matrix, with `flashq autoscaler` as processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import Deposed
from flashq.store.broker import Broker
from flashq.store.queries_fleet import now_ms
from flashq_autoscaler import reconcile
from flashq_autoscaler.apply import Applier
from flashq_autoscaler.decide import decide
from flashq_autoscaler.loop import Autoscaler
from flashq_autoscaler.observe import Observer
from flashq_autoscaler.plan import Drain, Stop
from flashq_autoscaler.views import Condition, Withheld
from tests.chaos.proxy import Tripwire
from tests.conformance.snapshot import take as snapshot_of
from tests.integration.fleet_rig import REVISION
from tests.integration.stack import Peak, Stack
from tests.integration.test_autoscaler_loop import Host, join
from tests.rig import SECRET, Rig, halt, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flashq.store.records import Term
    from tests.integration.fleet_rig import FleetRig

pytestmark = pytest.mark.requires("valkey")

LEASE_S = 3.0
STANDBY_S = 15.0
"""Within which a standby acts, by the failure matrix, with the default lease."""


class Autoscalers:
    """`flashq autoscaler`, several times, on one broker."""

    def __init__(self, fleet: FleetRig) -> None:
        self.fleet = fleet
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *further: str, url: str = "", lease_s: float = LEASE_S) -> None:
        """Start one, to be called `name`."""
        variables = {
            "FLASHQ_REDIS_URL": url or self.fleet.server.url,
            "FLASHQ_SECRET_KEY": SECRET.hex(),
            "FLASHQ_LEASE_S": str(lease_s),
        }
        with self._log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "flashq", "autoscaler", *further],
                env={**os.environ, **variables},
                stderr=log,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self.fleet.folder / f"{name}.log"

    def says(self, name: str, words: str) -> None:
        """Wait until it has written these words."""
        wait_until(lambda: words in self._log(name).read_text(), what=f"{name} says {words!r}")

    def start_pair(self, **options: Any) -> None:
        """Two: "first" leads, "second" stands by."""
        self.start("first", **options)
        self.says("first", "leads, epoch 1")
        self.start("second", **{**options, "url": ""})
        self.says("second", "stands by: ")

    def signal(self, name: str, which: signal.Signals) -> None:
        self.processes[name].send_signal(which)

    def leader(self) -> str:
        """The process that leads by the broker's books; '' where none does."""
        holder = self.fleet._hash("leader", "").get("holder", "")
        pids = {str(process.pid): name for name, process in self.processes.items()}
        return pids.get(holder.split("-")[-2], "?") if holder else ""

    def epoch(self) -> int:
        return int(self.fleet._hash("leader", "").get("epoch", 0))

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@pytest.fixture
def scalers(fleet: FleetRig) -> Iterator[Autoscalers]:
    with contextlib.closing(Autoscalers(fleet)) as made:
        yield made


# -- who leads -----------------------------------------------------------------------------------------


def test_second_autoscaler_stands_by_and_says_so(fleet: FleetRig, scalers: Autoscalers) -> None:
    Host(fleet)
    scalers.start_pair()
    scalers.says("second", f"-{scalers.processes['first'].pid}-")
    scalers.says("second", "leads, epoch 1, since ")
    fleet.register("embed", workers=(1, 1))
    wait_until(lambda: fleet.workers("embed"), what="a worker is ordered")
    assert scalers.leader() == "first"


def test_leader_that_ends_in_order_is_replaced_at_once(fleet: FleetRig, scalers: Autoscalers) -> None:
    Host(fleet)
    scalers.start_pair(lease_s=300.0)
    scalers.signal("first", signal.SIGTERM)
    assert scalers.processes["first"].wait(10) == 0
    fleet.register("embed", workers=(1, 1))
    wait_until(lambda: fleet.workers("embed"), what="the other acts, though a lease is minutes here")
    assert (scalers.leader(), scalers.epoch()) == ("second", 2)


def test_one_that_is_told_to_takes_over_from_a_leader_that_is_well(
    fleet: FleetRig, scalers: Autoscalers
) -> None:
    scalers.start("first", lease_s=300.0)
    scalers.says("first", "leads, epoch 1")
    scalers.start("second", "--take-over", lease_s=300.0)
    scalers.says("second", "leads, epoch 2")
    wait_until(lambda: scalers.leader() == "second", what="the second leads")


def test_epoch_rises_over_restarts_of_the_broker(fleet: FleetRig, scalers: Autoscalers) -> None:
    scalers.start("first")
    scalers.says("first", "leads, epoch 1")
    fleet.server.kill(signal.SIGTERM)
    fleet.server.start()
    scalers.start("second", "--take-over")
    scalers.says("second", "leads, epoch 2")


# -- row 15 --------------------------------------------------------------------------------------------


@Endpoint(name="steady", cpu="any", workers=(0, 2), idle_timeout=30)
def steady(seconds: float, value: int) -> int:
    import time

    time.sleep(seconds)
    return value


@Endpoint(name="later", cpu="any", workers=(0, 1))
def later() -> str:
    return "started by the standby"


@pytest.mark.timeout(120)
def test_autoscaler_killed_leaves_jobs_alone_and_a_standby_acts_within_15_s() -> None:
    """Row 15: with the default lease of 15 s."""
    with contextlib.closing(Rig(lease_s=15.0)) as rig, contextlib.closing(Stack(rig)) as stack:
        assert steady.spawn(0, 0).result(30) == 0
        stack.start("autoscaler", name="standby")
        wait_until(lambda: "stands by" in stack.log("standby"), what="a standby")
        running = steady.spawn(3.0, 1)
        wait_until(lambda: rig.job_field(running.id, "fq_state") == "running", what="a job runs")
        stack.autoscaler.kill()
        killed_ms = now_ms(rig.broker)
        waiting = [steady.spawn(0.0, value) for value in range(2, 12)]
        new = later.spawn()
        assert [job.result(30) for job in (running, *waiting)] == list(range(1, 12))
        assert new.result(30) == "started by the standby"
        _, takeover = stack.rig.events("leader")
        assert takeover["at_ms"] - killed_ms < STANDBY_S * 1000
        assert [rig.job_field(job.id, "fq_attempts") for job in (running, *waiting)] == ["1"] * 11


def test_silent_workers_are_recovered_though_nobody_leads(fleet: FleetRig, scalers: Autoscalers) -> None:
    """Row 15: REAP needs no leader; one that stands by does it too."""
    scalers.start("first", lease_s=300.0)
    scalers.says("first", "leads")
    scalers.start("second", lease_s=300.0)
    scalers.says("second", "stands by")
    Host(fleet)
    fleet.register("embed")
    (job,) = fleet.submit("embed")
    wait_until(lambda: fleet.workers("embed"), what="a worker is ordered")
    scalers.signal("first", signal.SIGKILL)
    (worker,) = fleet.workers("embed")
    join(fleet, worker, lease_ms=100)
    claim = fleet.transitions.claim("embed", worker, "2", count=1, lease_ms=100, start=1, holding=0, room=1)
    assert fleet.broker.run(claim).jobs
    wait_until(lambda: fleet.job_state(job) == "queued", what="the job is queued again")
    assert scalers.leader() == "first", "nobody has taken its place yet"


# -- row 16 --------------------------------------------------------------------------------------------


@Endpoint(name="crowd", cpu="any", workers=(0, 2), idle_timeout=1)
def crowd(seconds: float) -> int:
    import os
    import time

    time.sleep(seconds)
    return os.getpid()


@pytest.mark.timeout(120)
def test_two_autoscalers_at_once_never_have_more_workers_than_max() -> None:
    """Row 16: leaders are stopped in turn, past their lease, while jobs come in bursts and workers come and go."""
    with contextlib.closing(Rig(lease_s=LEASE_S)) as rig, contextlib.closing(Stack(rig)) as stack:
        both = (stack.autoscaler, stack.start("autoscaler", name="other"))
        jobs = []
        with Peak(stack, crowd) as peak:
            for turn in (1, 2):
                wait_until(lambda turn=turn: len(stack.rig.events("leader")) == turn, what="one leads")  # type: ignore[misc]
                holder = stack.rig.events("leader")[-1]["subject"]
                (leader,) = [process for process in both if f"-{process.pid}-" in holder]
                jobs += [
                    crowd.spawn(0.6) for _ in range(8)
                ]  # more than a start takes, whatever it takes here
                halt(leader.pid)
                for job in jobs:
                    job.result(30)
                wait_until(lambda: not stack.workers(crowd), 30, what="the other one has its workers go")
                leader.send_signal(signal.SIGCONT)
        assert peak.most == 2
        assert {rig.job_field(job.id, "fq_attempts") for job in jobs} == {"1"}
        assert len(stack.rig.events("leader")) == 3, "they took turns"


def test_leader_stopped_in_the_middle_of_a_tick_applies_nothing_of_its_plan(
    fleet: FleetRig, scalers: Autoscalers
) -> None:
    """Row 16: what it saw wants a worker; when it goes on, another leads, and nothing wants one any more."""
    host = Host(fleet)
    fleet.register("embed", workers=(0, 3))
    fleet.submit("embed")
    stopped, let_go = threading.Event(), threading.Event()

    def stop_before_it_reads_what_it_asked_for() -> None:
        scalers.signal("first", signal.SIGSTOP)
        stopped.set()
        let_go.wait(60)

    wire = Tripwire(fleet.server.folder / "s", fleet.server.folder / "p")
    with contextlib.closing(wire):
        wire.arm("observe", "late", stop_before_it_reads_what_it_asked_for)
        scalers.start("first", url=wire.url)
        assert stopped.wait(30)
        assert scalers.leader() == "first"
        scalers.start("second")
        scalers.says("second", "leads, epoch 2")
        wait_until(lambda: fleet.workers("embed"), what="the second orders a worker for the job")
        fleet.broker.run(fleet.transitions.purge("embed"))
        (ordered,) = fleet.workers("embed")
        fleet.broker.run(fleet.transitions.leave("embed", ordered, "not wanted"))

        let_go.set()
        scalers.signal("first", signal.SIGCONT)
        scalers.says("first", "deposed in the middle of a plan")
        scalers.says("first", "stands by: ")

    assert fleet.workers("embed") == []
    assert [command.worker for command in host.commands()] == [ordered]
    assert len(fleet.events("leader-refused")) == 1
    assert len(fleet.events("worker-ordered")) == 1


def test_plan_of_an_earlier_epoch_is_refused_action_by_action(fleet: FleetRig) -> None:
    """Row 16: whatever an autoscaler does, it does not do it once another leads."""
    host = Host(fleet)
    Host(fleet, "gone", lease_ms=-3000)
    fleet.register("embed", workers=(0, 9))
    fleet.register("broken")
    fleet.submit("broken")
    workers = [fleet.order(host.name, "embed") for _ in range(3)]
    for worker in workers:
        join(fleet, worker)
    fleet.submit("embed", 9)
    stale = fleet.term
    snapshot = Observer(fleet.broker, lease_ms=2000).look(reap=True).snapshot
    starts = [
        action for action in reconcile.reconcile(decide(snapshot), snapshot) if _is_start_of(action, "embed")
    ]
    assert starts
    actions: list[reconcile.Action] = [
        starts[0],
        reconcile.DrainWorker(Drain(workers[0], "embed", "idle")),
        reconcile.DrainWorker(Drain(workers[1], "embed", "outdated", outdated=True, busy=True)),
        reconcile.DeclareLost(Stop(workers[2], "embed", host.name, "silent")),
        reconcile.SetCondition("embed", Condition("throttled", "NO_GPU", "none", 1)),
        reconcile.Note(Withheld("embed", "QUEUE_SOON_EMPTY", "soon", 0.0)),
    ]
    applier = Applier(fleet.broker, fleet.keyring)

    def applied(action: reconcile.Action) -> Callable[[Term], object]:
        return lambda term: applier.apply([action], snapshot, term)

    steps: list[Callable[[Term], object]] = [
        *map(applied, actions),
        lambda term: applier.fail_waiting("broken", REVISION, "why", term),
        lambda term: applier.forget_hosts(["gone"], term),
    ]
    newer = fleet.lead("another")

    for step in steps:
        before = everything(fleet)
        with pytest.raises(Deposed, match="term 1 rig is over, now 2 another"):
            step(stale)
        assert everything(fleet) == before
    assert [event["subject"] for event in fleet.events("leader-refused")] == ["rig"]
    for step in steps:
        before = everything(fleet)
        step(newer)
        assert everything(fleet) != before


def _is_start_of(action: reconcile.Action, endpoint: str) -> bool:
    return isinstance(action, reconcile.StartWorker) and action.start.endpoint == endpoint


def everything(fleet: FleetRig) -> dict[str, Any]:
    """All that the broker holds, but for what is said of refusals."""
    with contextlib.closing(fleet.broker.redis()) as redis:
        found = snapshot_of(redis)
    refusals = ("rq:fq:leader", "rq:fq:events")
    return {key: held for key, held in found.items() if not key.startswith(refusals)}


def test_leader_finds_out_at_its_next_step_and_stands_by(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed")
    with contextlib.closing(Broker(fleet.server.url)) as broker:
        scaler = Autoscaler(broker, fleet.keyring, lease_s=300.0)
        scaler.tick()
        fleet.lead("another")
        fleet.submit("embed")
        with pytest.raises(Deposed):
            scaler.tick()
    assert fleet.workers("embed") == []
