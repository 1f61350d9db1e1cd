"""The host agent on a real broker: what it obeys, what it sees die, how it ends. Its workers are fakes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flashq.model.host_command import CONTAINER_ENGINE, KillWorker, StartWorker
from flashq.model.keyring import Direction, Keyring
from flashq.store import queries_fleet
from flashq.store.broker import Broker
from flashq_worker.environments import store as environment_store
from tests.integration.agent_process import LOCAL_NAME, RESOLVER_S
from tests.integration.engine_stand_in import StandIn
from tests.integration.fleet_rig import FAKE_WORKER, AgentProcess, FleetRig, alive
from tests.rig import BrokerServer, wait_until

pytestmark = pytest.mark.requires("valkey")


ON_BOTH_SERVERS = pytest.mark.parametrize(
    "fleet", ["valkey", pytest.param("redis", marks=pytest.mark.requires("redis"))], indirect=True
)


@pytest.fixture
def agent(fleet: FleetRig) -> AgentProcess:
    return fleet.agent(lease_s=1.0, drain_s=2.0)


@pytest.fixture
def host(fleet: FleetRig, agent: AgentProcess) -> str:
    return fleet.host(agent)


def told(agent: AgentProcess, worker: str) -> dict[str, Any]:
    """What a fake worker was told, once it runs."""
    wait_until(lambda: worker in agent.workers(), what=f"{worker} runs")
    return agent.workers()[worker]


# -- what it says of itself ----------------------------------------------------------------------------


def test_host_on_record_says_what_it_has_and_beats(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fields = fleet.host_fields(host)
    assert fields["pid"] == str(agent.process.pid)
    assert float(fields["cpus"]) > 0
    assert int(fields["memory_bytes"]) > 1 << 26
    assert fields["draining"] == "0"
    assert {"hostname", "version", "gpus", "labels", "pythons", "fallback_cpu", "slots", "started_at"} <= set(
        fields
    )
    wait_until(lambda: int(fleet.host_fields(host)["beat"]) > int(fields["beat"]), what="another heartbeat")


def test_environments_are_listed_and_removed_when_due(fleet: FleetRig) -> None:
    """Given two environments of which one is unused for long, expect the other alone to stay, and to be listed."""
    root = fleet.folder / "home" / "environments"
    for digit, used_s in (("a", 0.0), ("b", 40 * 86_400.0)):
        place = root / (digit * 64)
        (place / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        environment_store.complete(place, (f"tiny-{digit}",), "3.11")
        (root / f"{digit * 64}.use").touch()
        os.utime(root / f"{digit * 64}.use", (time.time() - used_s, time.time() - used_s))
    agent = fleet.agent(lease_s=0.3)
    host = fleet.host(agent)

    def listed() -> list[str]:
        return [one.digest[0] for one in queries_fleet.host(fleet.broker, host).environments]

    wait_until(lambda: listed() == ["a"], what="the list of environments")
    assert not list(root.glob("b*"))
    assert agent.logged("unused for 40.0 days")
    agent.signal(signal.SIGTERM)
    agent.process.wait(10)
    assert fleet.broker.execute("EXISTS", fleet.broker.keys.of("host_environments", host)) == 0


def test_what_is_required_and_missing_is_said_until_it_is_there(fleet: FleetRig) -> None:
    """Given an order that requires a folder which is not there, expect a refusal by name, a record of it, and none once
    it is there."""
    fleet.register("embed")
    volume = fleet.folder / "volume"
    agent = fleet.agent(lease_s=0.3)
    host = fleet.host(agent)
    requires = (f"folder {volume}",)

    refused = fleet.order(host, "embed", requires=requires)

    wait_until(lambda: fleet.workers("embed") == [], what="the refused worker off the record")
    assert json.loads(fleet.host_fields(host)["lacks"]) == {requires[0]: "No such file or directory"}
    assert agent.logged(f"it lacks {requires[0]} (No such file or directory)")
    assert refused not in agent.workers()
    assert fleet.endpoint_fields("embed").get("failures", "0") == "0"

    volume.mkdir()
    wait_until(lambda: fleet.host_fields(host)["lacks"] == "{}", what="nothing lacking")
    told(agent, fleet.order(host, "embed", requires=requires))


def test_a_worker_is_told_how_its_host_runs_containers(
    fleet: FleetRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an order that requires an engine, expect the worker to be told of the one here, and of its limits."""
    engine = StandIn(tmp_path / "bin", "docker")
    monkeypatch.setenv("PATH", engine.variables["PATH"])
    fleet.register("embed")
    agent = fleet.agent(engine="docker", engine_options=["--network=host"])
    requires = (CONTAINER_ENGINE,)
    worker = fleet.order(fleet.host(agent), "embed", requires=requires, cpus=2.0, memory_bytes=2**30)
    assert told(agent, worker)["container"] == [2.0, 2**30, "docker", ["--network=host"]]


def test_host_says_which_pythons_it_has(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert mine in fleet.host_fields(host)["pythons"].split(",")


def test_host_id_is_kept_with_its_home(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    agent.signal(signal.SIGTERM)
    agent.process.wait(10)
    assert fleet.host(fleet.agent()) == host


def test_second_agent_of_one_home_is_refused(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    other = fleet.agent()
    assert other.process.wait(10) != 0
    assert other.logged(f"a host agent (process {agent.process.pid})")
    assert agent.process.poll() is None


# -- commands ------------------------------------------------------------------------------------------


@ON_BOTH_SERVERS
def test_worker_starts_on_the_signed_word(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("embed")
    worker = fleet.order(host, "embed")
    config = told(agent, worker)
    assert (config["endpoint"], config["host"], config["gpus"]) == ("embed", host, [])
    assert config["keys_for"] == "embed"
    assert config["keys"] == ["call", "chunk", "environment", "outcome", "revision"]
    assert config["session"]
    assert not [name for name in config["variables"] if name.startswith(("FLASHQ_", "RQ_", "REDIS_"))]
    wait_until(lambda: fleet.states("embed") == ["idle"], what="the worker has joined")
    assert "a line on stderr" in (agent.home / "logs" / f"{worker}.log").read_text()


def test_forged_commands_are_refused_and_the_agent_lives(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    command = StartWorker("embed-forged", "embed")
    flipped = bytearray(fleet.sign(host, command))
    flipped[-1] ^= 1
    forged = {
        "UnknownKey": fleet.sign(host, command, keyring=Keyring([b"x" * 32])),
        "BadSignature: the signature does not match": bytes(flipped),
        "EnvelopeExpired": fleet.sign(host, command, expires_ms=1),
        "MalformedEnvelope: a command for a host must say when it expires": fleet.sign(
            host, command, expires_ms=0
        ),
        "WrongBinding: signed for endpoint 'other', to start one of 'embed'": fleet.sign(
            host, command, endpoint="other"
        ),
        "BadSignature: a signature has 32 bytes, not 0": b"\x93\xc4\x00\xc4\x00\xc4\x00",
        "MalformedEnvelope: not an envelope": b"\xc1",
        "MalformedEnvelope: 5000000 bytes are over the limit": b"x" * 5_000_000,
    }
    for why, raw in forged.items():
        fleet.send(host, raw)
        wait_until(lambda why=why: agent.logged(f"a command is refused: {why}"), what=f"refused: {why}")  # type: ignore[misc]
    for elsewhere in ({"host": "elsewhere-12345678"}, {"direction": Direction.CALL}):
        fleet.send(host, fleet.sign(host, command, **elsewhere))
    fleet.send(host, b"")
    refusals = len(forged) + 3
    wait_until(
        lambda: agent.log.read_text().count("a command is refused") == refusals, what="all are refused"
    )
    told(agent, fleet.order(host, "embed"))
    assert "embed-forged" not in agent.workers()


def test_replayed_command_is_ignored(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("embed")
    worker = fleet.order(host, "embed")
    pid = told(agent, worker)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), what="it is dead")
    fleet.send(host, fleet.sent[worker])
    wait_until(lambda: agent.logged("it was obeyed before"), what="ignored")
    assert told(agent, worker)["pid"] == pid


def test_kill_command_ends_a_worker(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("stubborn")
    worker = fleet.order(host, "stubborn")
    pid = told(agent, worker)["pid"]
    fleet.send(host, fleet.sign(host, KillWorker(worker)))
    wait_until(lambda: not alive(pid), what="it is dead")
    wait_until(lambda: fleet.workers("stubborn") == [], what="it is off the record")


def test_order_beyond_the_most_is_refused(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("embed")
    fleet.order(host, "embed", most=1)
    with pytest.raises(AssertionError):
        fleet.order(host, "embed", most=1)


def children(agent: AgentProcess) -> list[int]:
    """Its workers and its spare; not its zygotes."""
    pid = agent.process.pid
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if b"--lifeline" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_spare_process_becomes_the_next_worker(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("embed")
    (spare,) = wait_until(lambda: children(agent), what="a spare")
    worker = fleet.order(host, "embed")
    assert told(agent, worker)["pid"] == spare
    assert (agent.home / "logs" / f"{worker}.log").exists()
    wait_until(lambda: len(children(agent)) == 2, what="the next spare")
    pids = children(agent)
    agent.signal(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids), timeout_s=3.0, what="both ended with the agent")


def test_spare_that_dies_is_not_missed(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("embed")
    (spare,) = wait_until(lambda: children(agent), what="a spare")
    os.kill(spare, signal.SIGKILL)
    wait_until(lambda: agent.logged("no spare worker"), what="its death is seen")
    assert told(agent, fleet.order(host, "embed"))["pid"] != spare


# -- leaders -------------------------------------------------------------------------------------------


def hears_of_the_leader(fleet: FleetRig, host: str) -> None:
    """Wait for a heartbeat that was answered just now, and so told the newest epoch."""
    since = fleet.now_ms()
    wait_until(lambda: int(fleet.host_fields(host)["beat"]) > since, what="a heartbeat")
    since = fleet.now_ms()
    wait_until(lambda: int(fleet.host_fields(host)["beat"]) > since, what="it has read the answer")


def test_start_of_a_leader_that_was_replaced_is_refused_and_its_place_freed(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    worker = fleet.order("elsewhere", "embed")  # booked; the word for it comes here, and late
    late = fleet.sign(host, StartWorker(worker, "embed"))
    fleet.new_term()
    hears_of_the_leader(fleet, host)
    fleet.send(host, late)
    wait_until(lambda: fleet.workers("embed") == [], what="its place is free")
    assert worker not in agent.workers()
    (lost,) = fleet.events("worker-lost")
    assert "the word is of epoch 1, the newest is 2" in lost["text"]
    wait_until(lambda: fleet.events("command-refused"), what="it is noted")
    assert "failures" not in fleet.endpoint_fields("embed")
    told(agent, fleet.order(host, "embed"))


def test_kill_of_a_leader_that_was_replaced_is_refused_and_noted_once(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    late = [fleet.sign(host, KillWorker("embed-1"), created_ms=n) for n in range(2)]
    worker = fleet.order(host, "embed")
    late += [fleet.sign(host, KillWorker(worker)), fleet.sign(host, StartWorker(worker, "embed"))]
    pid = told(agent, worker)["pid"]
    fleet.new_term()
    told(agent, fleet.order(host, "embed"))  # known from this on, by a signed word
    for raw in late:
        fleet.send(host, raw)
    wait_until(
        lambda: agent.log.read_text().count("it is of epoch 1, the newest is 2") == 4, what="all are refused"
    )
    hears_of_the_leader(fleet, host)
    assert alive(pid)
    assert worker in fleet.workers("embed")
    assert [event["subject"] for event in fleet.events("command-refused")] == [host]


def test_newest_epoch_outlives_the_agent_and_the_brokers_data(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    late = fleet.sign(host, StartWorker("embed-late", "embed"))
    fleet.new_term()
    told(agent, fleet.order(host, "embed"))
    agent.signal(signal.SIGKILL)
    agent.process.wait()
    fleet.server.kill()
    fleet.server.wipe()
    fleet.server.start()

    fleet.send(host, late)
    successor = fleet.agent(lease_s=1.0)
    assert fleet.host(successor) == host
    wait_until(lambda: successor.logged("the word is of epoch 1, the newest is 2"), what="it is refused")
    assert "embed-late" not in successor.workers()

    assert fleet.lead("another").epoch == 3, "the broker has it from the host"
    fleet.register("embed")
    fleet.new_term()
    told(successor, fleet.order(host, "embed"))


# -- deaths --------------------------------------------------------------------------------------------


@ON_BOTH_SERVERS
def test_job_of_a_killed_worker_is_queued_again_within_a_second(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    (job,) = fleet.submit("embed")
    worker = fleet.order(host, "embed")
    wait_until(lambda: fleet.job_state(job) == "running", what="the job runs")
    killed_at = time.monotonic()
    os.kill(told(agent, worker)["pid"], signal.SIGKILL)
    wait_until(lambda: fleet.job_state(job) == "queued", what="the job is queued again")
    assert time.monotonic() - killed_at < 1.0
    (event,) = fleet.events("worker-lost")
    assert "killed by SIGKILL" in event["text"]
    assert "a line on stderr" in event["text"]
    assert "failures" not in fleet.endpoint_fields("embed")


def test_worker_that_dies_before_it_is_ready_counts_as_a_failed_start(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("crash")
    fleet.order(host, "crash")
    wait_until(lambda: fleet.endpoint_fields("crash").get("failures") == "1", what="the failure is counted")
    failure = fleet.endpoint_fields("crash")["failure"]
    assert "exited with code 9" in failure
    assert "a line on stderr" in failure
    assert fleet.workers("crash") == []


def test_worker_that_cannot_be_spawned_counts_as_a_failed_start(fleet: FleetRig) -> None:
    agent = fleet.agent(worker_command=["/nonexistent/python"])
    host = fleet.host(agent)
    fleet.register("embed")
    fleet.order(host, "embed")
    wait_until(lambda: fleet.endpoint_fields("embed").get("failures") == "1", what="the failure is counted")
    assert "cannot be started" in fleet.endpoint_fields("embed")["failure"]
    assert agent.process.poll() is None


def test_workers_end_with_their_agent(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("embed")
    pids = [told(agent, worker)["pid"] for worker in [fleet.order(host, "embed") for _ in range(2)]]
    wait_until(lambda: fleet.states("embed") == ["idle", "idle"], what="both have joined")
    agent.signal(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids), timeout_s=3.0, what="its workers ended")


def test_next_agent_reports_the_workers_of_one_that_was_killed(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    (job,) = fleet.submit("embed")
    fleet.order(host, "embed")
    wait_until(lambda: fleet.job_state(job) == "running", what="the job runs")
    agent.signal(signal.SIGKILL)
    agent.process.wait()
    fleet.host(fleet.agent())
    wait_until(lambda: fleet.job_state(job) == "queued", what="the job is queued again")


def _lose_word(fleet: FleetRig, host: str) -> None:
    """Have the next word for a host handed out on a connection that ends before it is read."""
    assert fleet.broker.execute("LPOP", fleet.broker.keys.of("commands", host)) is not None


def test_next_agent_gives_the_place_of_a_worker_back_that_nobody_will_start(fleet: FleetRig) -> None:
    """Given an order whose word was handed to an agent that died of it, and one that still waits on the list, if
    another agent begins, expect the place of the first free at once, and the second started."""
    agent = fleet.agent(lease_s=30.0)
    host = fleet.host(agent)
    fleet.register("embed")
    agent.signal(signal.SIGKILL)
    agent.process.wait()
    lost, waiting = fleet.order(host, "embed"), fleet.order(host, "embed")
    _lose_word(fleet, host)
    told(fleet.agent(lease_s=30.0), waiting)
    wait_until(lambda: fleet.workers("embed") == [waiting], what="the place is free")
    assert [event["subject"] for event in fleet.events("worker-lost")] == [lost]
    assert "failures" not in fleet.endpoint_fields("embed")


def test_word_lost_with_its_connection_gives_its_place_back(fleet: FleetRig) -> None:
    """Given an order whose word is lost on the wire, if the agent connects anew, expect its place free at once, and
    that of the worker that it has started kept."""
    agent = fleet.agent(lease_s=30.0)
    host = fleet.host(agent)
    fleet.register("embed")
    started = fleet.order(host, "embed")
    told(agent, started)
    agent.signal(signal.SIGSTOP)
    fleet.broker.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    lost = fleet.order(host, "embed")
    _lose_word(fleet, host)
    agent.signal(signal.SIGCONT)
    wait_until(lambda: fleet.workers("embed") == [started], what="the place is free")
    assert lost not in agent.workers()


def test_worker_given_up_by_the_broker_is_killed_where_it_stays(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("stubborn")
    worker = fleet.order(host, "stubborn")
    pid = told(agent, worker)["pid"]
    wait_until(lambda: fleet.states("stubborn") == ["idle"], what="it has joined")
    fleet.broker.run(fleet.transitions.leave("stubborn", worker, "lost, as far as the broker knows"))
    wait_until(lambda: not alive(pid), what="it is killed")


# -- its end -------------------------------------------------------------------------------------------


def test_sigterm_drains_and_leaves(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("embed")
    (job,) = fleet.submit("embed")
    worker = fleet.order(host, "embed")
    wait_until(lambda: fleet.job_state(job) == "running", what="the job runs")
    agent.signal(signal.SIGTERM)
    assert agent.process.wait(10) == 0
    assert fleet.hosts() == []
    assert fleet.workers("embed") == []
    assert fleet.job_state(job) == "queued"
    assert fleet.worker_fields(worker)["fq_drain"] == "1"
    assert fleet.broker.execute("EXISTS", fleet.broker.keys.of("commands", host)) == 0


def test_draining_host_says_so_and_starts_nothing(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("stubborn")
    fleet.register("embed")
    told(agent, fleet.order(host, "stubborn"))
    agent.signal(signal.SIGTERM)
    wait_until(lambda: fleet.host_fields(host)["draining"] == "1", what="it says so")
    fleet.order(host, "embed")
    wait_until(lambda: fleet.workers("embed") == [], what="the order is given back")
    assert "failures" not in fleet.endpoint_fields("embed")


def test_worker_that_hardly_began_when_its_host_ends_is_no_failed_start(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("slow")
    worker = fleet.order(host, "slow")
    told(agent, worker)
    agent.signal(signal.SIGTERM)
    assert agent.process.wait(30) == 0
    assert fleet.workers("slow") == []
    assert "failures" not in fleet.endpoint_fields("slow")


def test_second_sigterm_kills(fleet: FleetRig, agent: AgentProcess, host: str) -> None:
    fleet.register("stubborn")
    pid = told(agent, fleet.order(host, "stubborn"))["pid"]
    agent.signal(signal.SIGTERM)
    wait_until(lambda: fleet.host_fields(host)["draining"] == "1", what="it drains")
    agent.signal(signal.SIGTERM)
    assert agent.process.wait(5) == 1
    assert not alive(pid)
    assert fleet.workers("stubborn") == []


# -- the broker away -----------------------------------------------------------------------------------


def test_broker_outage_is_survived_and_deaths_meanwhile_are_reported(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.register("embed")
    (job,) = fleet.submit("embed")
    worker = fleet.order(host, "embed")
    wait_until(lambda: fleet.job_state(job) == "running", what="the job runs")
    fleet.server.kill(signal.SIGTERM)
    os.kill(told(agent, worker)["pid"], signal.SIGKILL)
    wait_until(lambda: agent.logged("trying again"), what="the outage is seen")
    fleet.server.start()
    wait_until(lambda: fleet.job_state(job) == "queued", what="the job is queued again")
    told(agent, fleet.order(host, "embed"))


def test_agent_ends_soon_though_its_brokers_name_takes_long_to_be_unknown(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lost = tmp_path / "lost"
    listening = ("--port", str(port), "--bind", "127.0.0.1")
    server = BrokerServer(arguments=listening)
    url = f"redis://{LOCAL_NAME}:{port}"
    agent = AgentProcess(url, tmp_path / "home", FAKE_WORKER, name_is_lost=lost, lease_s=1.0)
    try:
        with contextlib.closing(Broker(server.url)) as broker:
            wait_until(lambda: broker.execute("ZCARD", broker.keys.of("hosts")), what="the host on record")
            wait_until(
                lambda: b"cmd=blpop" in broker.execute("CLIENT", "LIST"), what="all its connections are made"
            )
        lost.touch()
        server.kill()
        wait_until(lambda: agent.logged("trying again"), what="it misses its broker")
        began = time.monotonic()
        agent.signal(signal.SIGTERM)
        assert agent.process.wait(RESOLVER_S) == 0
        assert time.monotonic() - began < RESOLVER_S / 2
    finally:
        agent.close()
        server.close()


def test_broker_that_lost_everything_gets_the_host_again(
    fleet: FleetRig, agent: AgentProcess, host: str
) -> None:
    fleet.server.kill()
    fleet.server.wipe()
    fleet.server.start()
    wait_until(lambda: fleet.hosts() == [host], what="the host is on record again")


def test_agent_started_before_its_broker_waits_for_it(fleet: FleetRig) -> None:
    fleet.server.kill(signal.SIGTERM)
    agent = fleet.agent()
    wait_until(lambda: agent.logged("trying again"), what="it waits")
    fleet.server.start()
    assert fleet.host(agent)
