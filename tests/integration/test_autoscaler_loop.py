"""The autoscaler on a real broker: what wakes it, what it starts and ends, and what it does with bad news.

Where a test needs no process, it takes single ticks; the workers are then records only, or fakes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq.model import host_command
from flashq.model.envelope import open_sealed
from flashq.model.keyring import Direction
from flashq.store.broker import Broker
from flashq_autoscaler.apply import Applier
from flashq_autoscaler.decide import decide
from flashq_autoscaler.loop import Autoscaler
from flashq_autoscaler.observe import Observer
from flashq_autoscaler.plan import Stop
from flashq_autoscaler.reconcile import DeclareLost, reconcile
from flashq_autoscaler.record import FILE, Recorder, read
from flashq_autoscaler.views import Unknown
from tests.rig import SECRET, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.fleet_rig import FleetRig

pytestmark = pytest.mark.requires("valkey")

PROMPT_S = 0.5
"""A wake is followed by its order within milliseconds; this much is a busy machine's."""


class Host:
    """A host on record that nobody runs: its commands stay where they are."""

    def __init__(self, fleet: FleetRig, name: str = "host-1", lease_ms: int = 60_000, **fields: Any) -> None:
        self.fleet, self.name = fleet, name
        given = {
            "cpus": "8",
            "memory_bytes": str(1 << 36),
            "gpus": "[]",
            "fallback_cpu": "0",
            "draining": "0",
        }
        fleet.broker.run(fleet.transitions.host_beat(name, lease_ms=lease_ms, fields={**given, **fields}))

    def commands(self) -> list[Any]:
        """What it has been told, verified."""
        broker = self.fleet.broker
        raws = broker.execute("LRANGE", broker.keys.of("commands", self.name), 0, -1)
        opened = [
            open_sealed(
                raw,
                self.fleet.keyring,
                direction=Direction.HOST_COMMAND,
                host=self.name,
                now_ms=self.fleet.now_ms(),
            )
            for raw in raws
        ]
        assert all(0 < envelope.header.expires_ms - self.fleet.now_ms() <= 60_000 for envelope in opened)
        return [host_command.unpack(envelope.payload) for envelope in opened]


def autoscaler(fleet: FleetRig, **options: Any) -> Autoscaler:
    """One that leads at once, whoever led before."""
    options = {"lease_s": 2.0, "take_over": True, **options}
    return Autoscaler(Broker(fleet.server.url, patience_s=0.5), fleet.keyring, **options)


@contextlib.contextmanager
def running(fleet: FleetRig, **options: Any) -> Iterator[Autoscaler]:
    """An autoscaler that has looked once; it looks again only when woken, or when its plan says so."""
    scaler = autoscaler(fleet, **{"reconcile_s": 60.0, **options})
    thread = threading.Thread(target=scaler.run)
    thread.start()
    try:
        fleet.register("first-look", workers=(1, 1))
        wait_until(lambda: fleet.workers("first-look"), what="it looks")
        yield scaler
    finally:
        scaler.stop()
        thread.join(10)
        assert not thread.is_alive()


def condition(fleet: FleetRig, endpoint: str) -> str:
    return fleet.endpoint_fields(endpoint).get("condition", "")


# -- starts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fleet", ["valkey", pytest.param("redis", marks=pytest.mark.requires("redis"))], indirect=True
)
def test_first_job_starts_one_worker_at_once(fleet: FleetRig) -> None:
    host = Host(fleet)
    fleet.register("embed", workers=(0, 3))
    with running(fleet):
        (job,) = fleet.submit("embed")
        wait_until(lambda: fleet.workers("embed"), what="a worker is ordered")
        (worker,) = fleet.workers("embed")
        fields = fleet.worker_fields(worker)
        enqueued_ms = int(fleet._hash("job", job)["fq_enqueued"])
        assert int(fields["fq_ordered"]) - enqueued_ms < PROMPT_S * 1000
        assert (fields["fq_state"], fields["fq_host"]) == ("initializing", host.name)
        assert fields["fq_env"] == fleet.endpoint_fields("embed")["resources"]
        assert "1 queued" in fields["fq_why"]
    orders = {command.worker: command for command in host.commands()}
    assert orders[worker].endpoint == "embed"
    assert orders[worker].gpu_uuids == ()


def test_burst_starts_up_to_the_maximum_without_a_second_look(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(0, 4))
    with running(fleet):
        fleet.submit("embed", 50)
        wait_until(lambda: len(fleet.workers("embed")) == 4, timeout_s=5, what="four workers")
        fleet.submit("embed", 50)
    assert len(fleet.workers("embed")) == 4


def test_minimum_starts_when_the_endpoint_is_registered(fleet: FleetRig) -> None:
    Host(fleet)
    with running(fleet):
        fleet.register("embed", workers=(2, 5))
        wait_until(lambda: len(fleet.workers("embed")) == 2, timeout_s=5, what="two workers")


def test_tick_after_tick_changes_nothing_more(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(1, 3))
    fleet.submit("embed", 2)
    scaler = autoscaler(fleet)
    assert scaler.tick()[0]
    for _ in range(3):
        assert not scaler.tick()[0]
    assert len(fleet.workers("embed")) == 2


def test_two_autoscalers_at_once_start_no_more_than_one_would(fleet: FleetRig) -> None:
    host = Host(fleet)
    fleet.register("embed", workers=(0, 3))
    fleet.submit("embed", 2)
    plans = []
    for _ in range(2):
        snapshot = Observer(fleet.broker, lease_ms=2000).look(reap=True).snapshot
        plans.append((reconcile(decide(snapshot), snapshot), snapshot))
    for actions, snapshot in plans:
        Applier(fleet.broker, fleet.keyring).apply(actions, snapshot, fleet.term)
    assert len(fleet.workers("embed")) == 2
    assert len(host.commands()) == 2


def test_stale_plan_never_exceeds_the_maximum(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(0, 2))
    fleet.submit("embed", 5)
    snapshot = Observer(fleet.broker, lease_ms=2000).look(reap=True).snapshot
    actions = reconcile(decide(snapshot), snapshot)
    for _ in range(3):
        Applier(fleet.broker, fleet.keyring).apply(actions, snapshot, fleet.term)
    assert len(fleet.workers("embed")) == 2


def test_a_burst_is_one_decision_or_two(fleet: FleetRig, tmp_path: Path) -> None:
    """Given no worker, if a hundred calls come at once, expect one decision on record that orders for all, or two."""
    Host(fleet)
    fleet.register("embed", workers=(0, 100))
    with running(fleet, recorder=Recorder(tmp_path)):
        fleet.submit("embed", 100)
        wait_until(lambda: len(fleet.workers("embed")) == 100, what="a worker for each")
    ordered = [
        sum(start["endpoint"] == "embed" for start in decision.plan["starts"])
        for decision in read(tmp_path / FILE)
    ]
    decisions = [count for count in ordered if count]
    assert sum(decisions) == 100
    assert len(decisions) <= 2


def test_calls_that_come_one_by_one_are_a_few_decisions(fleet: FleetRig, tmp_path: Path) -> None:
    """Given no worker, if calls come for a while, each by itself, expect each to be seen soon, by fewer decisions."""
    Host(fleet)
    fleet.register("embed", workers=(0, 500))
    with running(fleet, recorder=Recorder(tmp_path)):
        began, calls = time.monotonic(), 0
        while time.monotonic() < began + 0.2:
            fleet.submit("embed")
            calls += 1
        wait_until(lambda: len(fleet.workers("embed")) == min(calls, 500), what="a worker for each")
    decisions = [decision for decision in read(tmp_path / FILE) if decision.plan["starts"]]
    assert (
        len(decisions) <= 1 + 2 + 0.2 / 0.02 + 4
    )  # a first look, pauses of 5 and 10 ms, of 20 ms, and some to spare


# -- places --------------------------------------------------------------------------------------------


def test_no_host_throttles_with_the_reason_until_one_comes(fleet: FleetRig) -> None:
    fleet.register("embed")
    fleet.submit("embed")
    with contextlib.ExitStack() as stack:
        scaler = autoscaler(fleet)
        scaler.tick()
        assert '"code": "NO_HOST"' in condition(fleet, "embed")
        assert [event["subject"] for event in fleet.events("endpoint-condition")] == ["embed"]
        scaler.tick()
        assert len(fleet.events("endpoint-condition")) == 1
        stack.enter_context(running(fleet_with_host(fleet)))
        wait_until(lambda: fleet.workers("embed"), what="a worker is ordered")
        wait_until(lambda: not condition(fleet, "embed"), what="the condition is over")


def fleet_with_host(fleet: FleetRig) -> FleetRig:
    Host(fleet)
    return fleet


def test_gpu_endpoint_waits_for_a_gpu_or_a_host_that_falls_back(fleet: FleetRig) -> None:
    Host(fleet, "without")
    fleet.register("embed", cpu=None)
    fleet.submit("embed")
    scaler = autoscaler(fleet)
    scaler.tick()
    assert '"code": "NO_GPU"' in condition(fleet, "embed")
    falling_back = Host(fleet, "falling-back", fallback_cpu="1")
    scaler.tick()
    assert [command.gpu_uuids for command in falling_back.commands()] == [()]
    assert not condition(fleet, "embed")


def test_a_condition_names_the_host_that_there_is_now(fleet: FleetRig) -> None:
    """Given an endpoint throttled by a full host, if another full one takes its place, expect that to be named."""
    Host(fleet, "former", slots="0")
    fleet.register("embed")
    fleet.submit("embed")
    scaler = autoscaler(fleet)
    scaler.tick()
    assert "host former runs 0 workers of at most 0" in condition(fleet, "embed")
    since = fleet.endpoint_fields("embed")["condition_since"]
    fleet.broker.run(fleet.transitions.host_leave("former"))
    Host(fleet, "latter", slots="0")
    changed, _ = scaler.tick()
    assert "host latter runs 0 workers of at most 0" in condition(fleet, "embed")
    assert not changed
    assert fleet.endpoint_fields("embed")["condition_since"] == since
    assert len(fleet.events("endpoint-condition")) == 1


def test_gpus_are_given_to_one_worker_each_and_foreign_ones_to_none(fleet: FleetRig) -> None:
    gpu = '{"uuid": "GPU-%d", "name": "NVIDIA L4", "memory_bytes": 1, "foreign": %s}'
    gpus = f"[{gpu % (1, 'false')}, {gpu % (2, 'false')}, {gpu % (3, 'true')}]"
    host = Host(fleet, gpus=gpus)
    fleet.register("embed", cpu=None, workers=(0, 5))
    fleet.submit("embed", 5)
    autoscaler(fleet).tick()
    assert sorted(command.gpu_uuids for command in host.commands()) == [("GPU-1",), ("GPU-2",)]
    assert sorted(fleet.worker_fields(w)["fq_gpus"] for w in fleet.workers("embed")) == ["GPU-1", "GPU-2"]
    assert "GPU-3 has memory in use by another program" in condition(fleet, "embed")


def test_draining_and_silent_hosts_get_nothing(fleet: FleetRig) -> None:
    Host(fleet, "draining", draining="1")
    Host(fleet, "silent", lease_ms=-1)
    fleet.register("embed")
    fleet.submit("embed")
    autoscaler(fleet).tick()
    assert "1 are silent and 1 are draining" in condition(fleet, "embed")


def test_host_silent_for_long_is_forgotten(fleet: FleetRig) -> None:
    Host(fleet, "gone", lease_ms=-3000)
    Host(fleet, "late", lease_ms=-500)
    fleet.register("embed")
    autoscaler(fleet).tick()
    assert fleet.hosts() == ["late"]


# -- ends ----------------------------------------------------------------------------------------------


def join(fleet: FleetRig, worker: str, endpoint: str = "embed", *, lease_ms: int = 60_000) -> None:
    """A worker on record reports in, becomes ready and finds nothing to do."""
    run, made = fleet.broker.run, fleet.transitions
    assert run(made.join(endpoint, worker, lease_ms=lease_ms, booked=True, fields={"pid": 1})).verdict == "ok"
    run(made.ready(endpoint, worker, {"fq_cold_ms": 100}))
    run(made.claim(endpoint, worker, "1", count=0, lease_ms=lease_ms, start=0, holding=0, room=1))


def test_idle_worker_is_drained_when_its_time_is_up_without_a_wake(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(0, 2), idle_timeout=1)
    fleet.submit("embed")
    with running(fleet, reconcile_s=0.4):
        wait_until(lambda: fleet.workers("embed"), what="a worker is ordered")
        (worker,) = fleet.workers("embed")
        fleet.broker.run(fleet.transitions.purge("embed"))
        join(fleet, worker)
        wait_until(lambda: fleet.worker_fields(worker).get("fq_drain"), what="it is drained")
    fields = fleet.worker_fields(worker)
    assert "idle_timeout 1 s" in fields["fq_drain_why"]
    idle_since = int(fields["fq_since"])
    (event,) = fleet.events("worker-drained")
    assert event["subject"] == worker
    assert fleet.now_ms() - idle_since >= 1000


def test_busy_worker_is_not_drained(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(0, 1), idle_timeout=1)
    fleet.submit("embed")
    scaler = autoscaler(fleet)
    scaler.tick()
    (worker,) = fleet.workers("embed")
    join(fleet, worker)
    fleet.broker.run(
        fleet.transitions.claim("embed", worker, "2", count=1, lease_ms=60_000, start=1, holding=0, room=1)
    )
    assert fleet.broker.run(fleet.transitions.drain("embed", worker, "why")) == "busy"
    assert not scaler.tick()[0]


def test_idle_workers_of_an_undeployed_endpoint_are_drained(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(1, 1))
    scaler = autoscaler(fleet)
    scaler.tick()
    (worker,) = fleet.workers("embed")
    join(fleet, worker)
    assert fleet.broker.run(fleet.transitions.undeploy("embed")) == "ok"

    def drained(scaler: Autoscaler) -> bool:
        scaler.tick()
        return fleet.worker_fields(worker).get("fq_drain") == "1"

    wait_until(lambda: drained(scaler), what="it is drained")
    fleet.broker.run(fleet.transitions.leave("embed", worker, "left"))
    assert not scaler.tick()[0]


def test_autoscaler_begun_after_an_undeploy_finds_its_workers(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(1, 1))
    autoscaler(fleet).tick()
    (worker,) = fleet.workers("embed")
    join(fleet, worker)
    fleet.broker.run(fleet.transitions.undeploy("embed"))
    snapshot = Observer(fleet.broker, lease_ms=2000).look(reap=True).snapshot
    assert not isinstance(snapshot.workers, Unknown)
    assert [seen.id for seen in snapshot.workers] == [worker]


def test_worker_declared_lost_is_off_the_record_and_its_host_told(fleet: FleetRig) -> None:
    host = Host(fleet)
    fleet.register("embed")
    (job,) = fleet.submit("embed")
    autoscaler(fleet).tick()
    (worker,) = fleet.workers("embed")
    join(fleet, worker)
    claim = fleet.transitions.claim(
        "embed", worker, "2", count=1, lease_ms=60_000, start=1, holding=0, room=1
    )
    assert fleet.broker.run(claim).jobs
    snapshot = Observer(fleet.broker, lease_ms=2000).look(reap=False).snapshot
    stop = Stop(worker, "embed", host.name, "silent for 3 s")
    Applier(fleet.broker, fleet.keyring).apply([DeclareLost(stop)], snapshot, fleet.term)
    assert fleet.workers("embed") == []
    assert fleet.job_state(job) == "queued"
    assert host.commands()[-1] == host_command.KillWorker(worker)
    assert fleet.broker.execute("PTTL", fleet.broker.keys.of("commands", host.name)) > 0


def test_worker_that_never_reports_in_is_replaced(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed")
    fleet.submit("embed")
    scaler = autoscaler(fleet)
    scaler.tick()
    (first,) = fleet.workers("embed")
    workers = fleet.broker.keys.of("endpoint_workers", "embed")
    fleet.broker.execute("ZADD", workers, fleet.now_ms() - 1, first)

    def replaced() -> bool:
        scaler.tick()
        return first not in fleet.workers("embed")

    wait_until(replaced, what="it is given up")  # not within the pause after the last reaper
    assert len(fleet.workers("embed")) == 1


# -- what cannot start ---------------------------------------------------------------------------------


def fail_start(fleet: FleetRig, worker: str) -> None:
    why = "the function does not load: ModuleNotFoundError: nope\nTraceback"
    fleet.broker.run(fleet.transitions.leave("embed", worker, why, before_ready=True, deterministic=True))


def test_second_start_that_would_fail_again_fails_the_waiting_jobs(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed")
    (first,) = fleet.submit("embed")
    scaler = autoscaler(fleet)
    for _ in range(2):  # the second one at once: it is not machine trouble
        scaler.tick()
        (worker,) = fleet.workers("embed")
        fail_start(fleet, worker)
    scaler.tick()
    assert fleet.job_state(first) == "failed"
    error = fleet._hash("job", first)["fq_error"]
    assert error.startswith("endpoint embed cannot start: the function does not load")
    assert "Traceback" in error
    (later,) = fleet.submit("embed")
    scaler.tick()
    assert fleet.job_state(later) == "failed"
    assert fleet.workers("embed") == []
    assert '"state": "unhealthy"' in condition(fleet, "embed")


@pytest.mark.parametrize(
    "changes", [{}, {"revision": "s" * 64}, {"idle_timeout": 5}], ids=["same", "code", "scaling"]
)
def test_registering_anew_tries_anew(fleet: FleetRig, changes: dict[str, Any]) -> None:
    Host(fleet)
    fleet.register("embed")
    fleet.submit("embed")
    scaler = autoscaler(fleet)
    for _ in range(2):
        scaler.tick()
        fail_start(fleet, fleet.workers("embed")[0])
    scaler.tick()
    fleet.register("embed", program="another", **changes)
    assert not {"failures", "broken", "failure"} & set(fleet.endpoint_fields("embed"))
    fleet.submit("embed", revision=changes.get("revision", "r" * 64))
    scaler.tick()
    assert len(fleet.workers("embed")) == 1


def test_machine_trouble_holds_starts_back_and_fails_nothing(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed")
    (job,) = fleet.submit("embed")
    scaler = autoscaler(fleet)
    scaler.tick()
    (worker,) = fleet.workers("embed")
    fleet.broker.run(fleet.transitions.leave("embed", worker, "was killed by SIGKILL", before_ready=True))
    scaler.tick()
    assert fleet.workers("embed") == []
    assert fleet.job_state(job) == "queued"
    assert '"code": "BACKOFF"' in condition(fleet, "embed")


# -- bad news ------------------------------------------------------------------------------------------


def test_unreadable_record_stops_no_other_endpoint(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("bad", workers=(1, 1))
    fleet.register("worse", workers=(1, 1))
    fleet.register("good", workers=(1, 1))
    keys = fleet.broker.keys
    fleet.broker.execute("HSET", keys.of("endpoint", "bad"), "scaling", "nonsense")
    fleet.broker.execute("DEL", keys.of("endpoint", "worse"))
    fleet.broker.execute("SET", keys.of("endpoint", "worse"), "not a hash")
    autoscaler(fleet).tick()
    assert len(fleet.workers("good")) == 1
    assert fleet.workers("bad") == []


def test_unreadable_host_is_not_used(fleet: FleetRig) -> None:
    Host(fleet, "bad", gpus="nonsense")
    good = Host(fleet, "good")
    fleet.register("embed", workers=(1, 1))
    autoscaler(fleet).tick()
    assert len(good.commands()) == 1


def test_broker_away_is_unknown_and_nothing_is_done(fleet: FleetRig) -> None:
    observer = Observer(Broker(fleet.server.url, patience_s=0.1), lease_ms=2000)
    observer.look(reap=True)
    fleet.server.kill()
    snapshot = observer.look(reap=True).snapshot
    assert isinstance(snapshot.endpoints, Unknown)
    assert isinstance(snapshot.workers, Unknown)
    assert isinstance(snapshot.hosts, Unknown)
    assert reconcile(decide(snapshot), snapshot) == ()


def test_broker_restart_is_survived(fleet: FleetRig) -> None:
    Host(fleet)
    with running(fleet):
        fleet.server.kill(signal.SIGTERM)
        fleet.server.start()
        fleet.register("embed")
        fleet.submit("embed")
        wait_until(lambda: fleet.workers("embed"), what="a worker is ordered")


# -- the process ---------------------------------------------------------------------------------------


def start_process(fleet: FleetRig, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    variables = {"FLASHQ_REDIS_URL": fleet.server.url, "FLASHQ_SECRET_KEY": SECRET.hex()}
    with (fleet.folder / "autoscaler.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flashq_autoscaler", *arguments],
            env={**os.environ, **variables},
            stderr=log,
            start_new_session=True,
            **options,
        )


def test_process_scales_and_ends_on_sigterm(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("embed", workers=(1, 1))
    process = start_process(fleet)
    try:
        wait_until(lambda: fleet.workers("embed"), what="a worker is ordered")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()
    log = (fleet.folder / "autoscaler.log").read_text()
    assert "embed: start worker 1 on host-1: minimum: 0 of 1 workers [ok]" in log
    assert SECRET.hex() not in log


def test_process_ends_with_its_lifeline(fleet: FleetRig) -> None:
    ours, theirs = os.pipe()
    process = start_process(fleet, "--lifeline", str(ours), pass_fds=[ours])
    os.close(ours)
    try:
        os.close(theirs)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


# -- with a host agent ---------------------------------------------------------------------------------


def test_dead_worker_is_replaced(fleet: FleetRig) -> None:
    agent = fleet.agent(lease_s=1.0)
    fleet.host(agent)
    fleet.register("embed", workers=(1, 1))
    with running(fleet):
        wait_until(lambda: fleet.states("embed") == ["idle"], what="a worker is ready")
        (first,) = fleet.workers("embed")
        os.kill(agent.workers()[first]["pid"], signal.SIGKILL)
        wait_until(
            lambda: fleet.states("embed") == ["idle"] and fleet.workers("embed") != [first],
            what="its successor",
        )


@pytest.mark.parametrize("junk", [{"broken": "many"}, {"broken": "inf"}, {"failures": "9" * 400}])
def test_a_record_spoilt_after_it_was_read_stops_no_other_endpoint(
    fleet: FleetRig, junk: dict[str, str]
) -> None:
    Host(fleet)
    fleet.register("bad", workers=(1, 1))
    scaler = autoscaler(fleet)
    scaler.tick()
    for name, value in junk.items():
        fleet.broker.execute("HSET", fleet.broker.keys.of("endpoint", "bad"), name, value)
    fleet.register("good", workers=(1, 1))
    scaler.tick()
    assert len(fleet.workers("good")) == 1
    assert len(fleet.workers("bad")) == 1


def test_keys_of_the_wrong_type_are_passed_over(fleet: FleetRig) -> None:
    good = Host(fleet, "good")
    fleet.register("embed", workers=(1, 1))
    keys = fleet.broker.keys
    Host(fleet, "bad")
    for key in (keys.of("host", "bad"), keys.of("worker", "stranger")):
        fleet.broker.execute("DEL", key)
        fleet.broker.execute("SET", key, "no hash")
    fleet.broker.execute("SADD", keys.of("rq_workers"), keys.of("worker", "stranger"))
    for _ in range(2):
        autoscaler(fleet).tick()
    assert len(good.commands()) == 1


def test_a_worker_of_an_endpoint_that_is_gone_may_be_unreadable(fleet: FleetRig) -> None:
    Host(fleet)
    fleet.register("old", workers=(2, 2))
    scaler = autoscaler(fleet)
    scaler.tick()
    (first, _) = fleet.workers("old")
    fleet.broker.execute("HSET", fleet.broker.keys.of("worker", first), "fq_jobs", "some")
    fleet.broker.execute("DEL", fleet.broker.keys.of("endpoint", "old"))
    fleet.broker.execute("SREM", fleet.broker.keys.of("endpoints"), "old")
    fleet.register("embed", workers=(1, 1))
    scaler.tick()
    assert len(fleet.workers("embed")) == 1
