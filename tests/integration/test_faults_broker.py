"""Rows 3, 4, 5, 8 and 32 of the failure matrix: a broker that is killed, empty, full, or cannot write to its disk."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, json_call
from flashq.errors import BrokerRefused, BrokerStateLost
from flashq.store.broker import Broker
from tests.acceptance.stage import Stage, stage
from tests.integration.fleet_rig import alive
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob

pytestmark = pytest.mark.timeout(120)

BOTH = pytest.mark.parametrize(
    "server", [pytest.param(name, marks=pytest.mark.requires(name)) for name in ("valkey", "redis")]
)
RECONNECT_S = 5.0
AWAY_S = 1.5
"""Long enough for every pause between two tries to have grown to its longest."""


@Endpoint(name="faults", cpu="any", workers=(0, 2), idle_timeout=60)
def act(what: str, *args: Any) -> Any:
    match what:
        case "echo":
            return args[0]
        case "note":
            with Path(args[0]).open("a") as file:
                file.write(f"{args[1]}\n")
        case "hold":
            Path(args[0]).with_suffix(".pid").write_text(str(os.getpid()))
            with Path(args[0]).open("a") as file:
                file.write("x")
            while not Path(args[1]).exists():
                time.sleep(0.01)
        case "make":
            return b"x" * args[0]
    return what


def exists(made: Rig, job: EndpointJob[Any]) -> bool:
    return bool(made.broker.execute("EXISTS", made.broker.keys.of("job", job.id)))


def numbers(notes: Path) -> list[int]:
    return sorted(map(int, notes.read_text().split()))


# -- killed ------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_what_was_acknowledged_survives_the_brokers_death(server: str, fsync: str, tmp_path: Path) -> None:
    """Rows 3 and 4. Given submits under way, if the broker is killed amid them, expect all that it acknowledged."""
    notes = tmp_path / "notes"
    with rig(server=server, appendonly=fsync) as made:
        made.register(act)
        jobs = [act("note", str(notes), n) for n in range(600)]
        wait_until(lambda: sum(job._call.acknowledged.done for job in jobs) >= 50)
        acknowledged = [job for job in jobs if job._call.acknowledged.done]
        if fsync == "everysec":  # amid an fsync it puts its next write off
            wait_until(lambda: b"aof_buffer_length:0\r" in made.broker.execute("INFO", "persistence"))
        made.server.kill()
        made.server.start()
        assert [job for job in acknowledged if not exists(made, job)] == []

        # Expect the others, which are sent again, as well; and each to run once
        made.worker(act)
        for job in jobs:
            job.result(60)
        assert numbers(notes) == list(range(600))


@pytest.fixture
def whole() -> Iterator[Stage]:
    """Broker, host agent, autoscaler, a worker that was started on their word, this program as the caller."""
    with stage(appendonly="always", lease_s=6.0) as made:
        made.start_stack()
        assert act.remote("echo", 1) == 1
        yield made


def started_workers(made: Stage) -> dict[str, int]:
    """The workers of our endpoint on record, and their pids."""
    key = made.broker.keys.of("endpoint_workers", act.name)
    names = [name.decode() for name in made.broker.execute("ZRANGE", key, 0, -1)]
    return {name: int(made.worker_field(name, "pid") or 0) for name in names}


def host_beat(made: Stage) -> int:
    """The latest heartbeat of any host, in ms of the broker's clock."""
    hosts = made.broker.execute("ZRANGE", made.broker.keys.of("hosts"), 0, -1)
    beats = [made.broker.execute("HGET", made.broker.keys.of("host", h.decode()), "beat") for h in hosts]
    return max((int(beat) for beat in beats if beat), default=0)


def now_ms(made: Stage) -> int:
    seconds, micros = map(int, made.broker.execute("TIME"))
    return seconds * 1000 + micros // 1000


@pytest.mark.requires("valkey")
def test_every_process_outlives_the_brokers_death_and_is_back_in_five_seconds(
    whole: Stage, tmp_path: Path
) -> None:
    """Row 3. Given a whole deployment at work, if its broker is killed and back, expect all of it to go on."""
    runs, gate, notes = tmp_path / "runs", tmp_path / "gate", tmp_path / "notes"
    (worker,) = started_workers(whole).values()
    held = act.spawn("hold", str(runs), str(gate))
    wait_until(lambda: runs.exists() and runs.read_text() == "x", what="it runs")
    queued = [act.spawn("note", str(notes), n) for n in range(20)]

    # If the broker is away until everybody's patience between two tries is at its longest
    whole.server.kill()
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + AWAY_S)
    whole.server.start()
    back, back_ms = time.monotonic(), now_ms(whole)

    # Expect the host to beat, the autoscaler to have a second worker started, the first one's outcome, and a new
    # call, each soon
    waited = {
        "autoscaler": lambda: len(started_workers(whole)) == 2,
        "host agent": lambda: host_beat(whole) >= back_ms,
        "caller and worker": lambda: act.spawn("echo", 2).result(20) == 2,
    }
    took: dict[str, float] = {}
    for what, is_back in waited.items():
        wait_until(is_back, 30, what)
        took[what] = time.monotonic() - back
    assert max(took.values()) <= RECONNECT_S, took

    # Expect every value, each job run once, and the same processes
    gate.touch()
    for job in (held, *queued):
        job.result(30)
    assert runs.read_text() == "x"
    assert numbers(notes) == list(range(20))
    assert worker in started_workers(whole).values()
    assert [part.process.poll() for part in whole._stack] == [None, None]


# -- empty -------------------------------------------------------------------------------------------


@pytest.mark.requires("valkey")
def test_a_whole_deployment_works_again_after_its_broker_came_back_empty(
    whole: Stage, tmp_path: Path
) -> None:
    """Row 5. Given jobs that run and wait, if the broker comes back empty, expect that told, and new calls to work."""
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    before = started_workers(whole)
    running = act.spawn("hold", str(runs), str(gate))
    wait_until(lambda: runs.exists() and runs.read_text() == "x", what="it runs")
    executor = int(runs.with_suffix(".pid").read_text())
    queued = act.spawn("echo", 1)
    whole.server.kill()
    whole.server.wipe()
    whole.server.start()

    # Expect whoever waits to be told in time
    since = time.monotonic()
    for job in (running, queued):
        with pytest.raises(BrokerStateLost):
            job.result(30)
    assert time.monotonic() - since <= RECONNECT_S

    # Expect what nobody knows of any more to end: the old worker, and what it ran
    wait_until(lambda: not alive(executor), what="the executor's end")
    wait_until(lambda: not any(map(alive, before.values())), what="the worker's end")

    # Expect new calls to find everything anew: endpoint, host, worker
    gate.touch()
    again = [act.spawn("echo", n) for n in range(3)]
    assert [job.result(40) for job in again] == [0, 1, 2]
    assert not before.keys() & started_workers(whole).keys()
    assert [part.process.poll() for part in whole._stack] == [None, None]


@pytest.mark.requires("valkey")
def test_data_that_vanishes_without_a_lost_connection_is_told_too() -> None:
    """Row 5. Given a call that waits, if somebody empties the broker, expect BrokerStateLost all the same."""
    with rig() as made:
        made.register(act)
        job = act.spawn("echo", 1)
        made.broker.execute("FLUSHALL")
        with pytest.raises(BrokerStateLost):
            job.result(30)


@pytest.mark.requires("valkey")
def test_a_call_in_json_is_told_that_the_broker_came_back_empty() -> None:
    """Row 5. Given a call of `flashq call` that waits, if the broker comes back empty, expect BrokerStateLost."""
    with rig() as made, closing(Broker(made.server.url)) as broker, ThreadPoolExecutor(1) as threads:
        made.register(act)
        call = json_call.submit(broker, made.keyring, act.name, ["echo", 1], payload_limit=1000)
        told = threads.submit(json_call.wait, broker, made.keyring, call, 30)
        watched = made.broker.keys.of("job", call.job)
        wait_until(lambda: made.broker.execute("HGET", watched, "fq_watch"), what="somebody waits for it")
        made.server.kill()
        made.server.wipe()
        made.server.start()
        with pytest.raises(BrokerStateLost):
            told.result()


# -- full --------------------------------------------------------------------------------------------


def taken_until_refused(what: str, *args: Any, why: str) -> list[EndpointJob[Any]]:
    """Submit, each call with its number last, until the broker refuses; the jobs it took."""
    taken: list[EndpointJob[Any]] = []

    def submit_for_ever() -> None:
        while True:
            taken.append(act.spawn(what, *args, len(taken)))

    with pytest.raises(BrokerRefused, match=why):
        submit_for_ever()
    return taken


@BOTH
def test_a_broker_out_of_memory_refuses_calls_and_takes_outcomes(server: str) -> None:
    """Row 8. Given a broker at its maxmemory, expect calls refused, outcomes stored, none evicted, and calls again."""
    with stage(server=server) as made:
        made.register(act)
        used = int(info(made, "memory")["used_memory"])
        made.broker.execute("CONFIG", "SET", "maxmemory", used + 2_000_000)
        taken = taken_until_refused("make", 20_000, why="memory")
        assert len(taken) > 500

        # If host agent and autoscaler come now, expect workers to be started, and every outcome to fit
        made.start_stack()
        for job in taken:
            assert len(job.result(60)) == 20_000

        # Expect it to say no to more, and yes once there is room, by itself
        assert int(info(made, "stats")["evicted_keys"]) == 0
        taken_until_refused("echo", b"x" * 100_000, why="memory")
        made.broker.execute("CONFIG", "SET", "maxmemory", 0)
        assert act.remote("echo", 2) == 2


def info(made: Rig, section: str) -> dict[str, str]:
    lines = made.broker.execute("INFO", section).decode().split()
    return dict(line.split(":", 1) for line in lines if ":" in line)


# -- a disk that is full -----------------------------------------------------------------------------


@BOTH
def test_a_broker_that_cannot_write_acknowledges_nothing_and_recovers(server: str, tmp_path: Path) -> None:
    """Row 32. Given a full disk, expect no call acknowledged, nothing lost that was, and both well by itself later."""
    runs, gate, notes = tmp_path / "runs", tmp_path / "gate", tmp_path / "notes"
    with rig(server=server, lease_s=15.0) as made:
        made.ready_worker(act)
        held = act.spawn("hold", str(runs), str(gate))
        wait_until(lambda: runs.exists() and runs.read_text() == "x", what="it runs")
        made.server.disk_holds(50_000)
        taken = taken_until_refused("note", str(notes), why="disk")
        gate.touch()
        with pytest.raises(BrokerRefused, match="disk"):
            act.spawn("note", str(notes), -1)

        # If there is room again, expect the running job's outcome, every accepted job, and new calls
        made.server.disk_holds(None)
        assert held.result(30) == "hold"
        for job in taken:
            job.result(30)
        wait_until(accepted, what="calls are accepted")
        assert runs.read_text() == "x"
        assert numbers(notes) == list(range(len(taken)))

        # Expect it all to be on the disk
        made.server.kill()
        made.server.start()
        assert all(exists(made, job) for job in taken)


def accepted() -> bool:
    try:
        return bool(act.remote("echo", 1))
    except BrokerRefused:
        return False


@BOTH
def test_a_broker_that_always_syncs_ends_itself_on_a_full_disk_and_loses_nothing(
    server: str, tmp_path: Path
) -> None:
    """Row 32. Given `appendfsync always` and a full disk, expect its own end, and nothing lost."""
    notes = tmp_path / "notes"
    with rig(server=server, appendonly="always") as made:
        made.register(act)
        made.server.disk_holds(50_000)
        jobs = [act("note", str(notes), n) for n in range(200)]
        made.server.ends()
        acknowledged = [job for job in jobs if job._call.acknowledged.done]
        assert len(acknowledged) < len(jobs)
        made.server.start()
        assert all(exists(made, job) for job in acknowledged)
        made.worker(act)
        for job in jobs:
            job.result(60)
        assert numbers(notes) == list(range(len(jobs)))
