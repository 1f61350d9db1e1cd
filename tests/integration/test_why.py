"""`flashq why JOB`, of real jobs; every cause is in tests/unit/test_causes.py."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.errors import BrokerRefused
from flashq.model.causes import TOLD, Cause
from flashq.store import held
from flashq_worker.environments import store as environment_store
from flashq_worker.environments.environment import environment_digest
from tests.acceptance.stage import PYTHON, Stage, environment, stage
from tests.integration.command_line import CommandLine
from tests.integration.environment_rig import make_wheel
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="asked-why", cpu="any", workers=(0, 1))
def asked(gate: str = "") -> str:
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    if gate == "":
        raise LookupError("nothing there")
    return "ran"


@Endpoint(name="asked-why-label", cpu="any", hosts="zone=nowhere")
def elsewhere() -> None: ...


@Endpoint(name="asked-why-built", cpu="any", dependencies=["tiny-a"])
def built() -> str:
    import tiny_a

    return str(tiny_a.__version__)


@pytest.fixture
def theatre() -> Iterator[Stage]:
    with stage() as made:
        yield made


def asked_for(cli: CommandLine, job: str) -> tuple[str, str]:
    """The cause, and its sentence."""
    (said,) = cli.rows("why", job)
    assert said["why"]
    assert said["what_to_do"]
    return str(said["cause"]), str(said["why"])


def test_from_submitted_to_ended(theatre: Stage, tmp_path: Path) -> None:
    cli, gate = CommandLine(theatre.server.url, tmp_path), tmp_path / "gate"

    def cause(job: str) -> str:
        return asked_for(cli, job)[0]

    first = asked.spawn(str(gate))
    assert cause(first.id) == "no_autoscaler"
    later = asked.with_options(delay_s=300).spawn(str(gate))
    assert cause(later.id) == "delayed"
    following = [sys.executable, "-m", "flashq", "logs", "--follow", later.id]
    with subprocess.Popen(following, stderr=subprocess.PIPE, env=environment(theatre), text=True) as process:
        try:
            assert process.stderr is not None
            assert f"{later.id} waits: its time, in" in process.stderr.readline()
        finally:
            process.kill()

    theatre.start_stack()
    wait_until(lambda: cause(first.id) == "running", 30)
    behind = asked.spawn()
    wait_until(lambda: cause(behind.id) == "behind", what="one that waits for the only worker there may be")
    nowhere = elsewhere.spawn()
    wait_until(lambda: cause(nowhere.id) == "no_label", what="one that no host may run")
    assert "zone=nowhere" in cli.rows("job", nowhere.id)[0]["waits_for"]

    gate.touch()
    assert first.result(30) == "ran"
    assert cause(first.id) == "completed"
    with pytest.raises(LookupError):
        behind.result(30)
    said = cli("why", behind.id).stdout
    assert "exception" in said
    assert "nothing there" in said
    cli("pause", "asked-why")
    kept, late = asked.spawn(), asked.with_options(delay_s=300).spawn()
    assert cause(kept.id) == "paused"
    theatre.broker.run(held.hold(theatre.broker.keys, "asked-why"))
    assert [cause(job.id) for job in (kept, late)] == ["held"] * 2
    assert "no job" in cli("why", "asked-why-nobody", code=3).stderr


def test_an_environment_that_is_being_built_and_where(
    theatre: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given somebody else who builds the same environment, expect its host, and for how long; then the value."""
    make_wheel(tmp_path, "tiny-a", "1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    environments = theatre.home / "environments"
    environments.mkdir(parents=True)
    other = environment_store.lock(environments / f"{environment_digest(['tiny-a'], PYTHON)}.lock")
    try:
        cli, job = CommandLine(theatre.server.url, tmp_path), built.spawn()
        theatre.worker(built)
        wait_until(lambda: asked_for(cli, job.id)[0] == "building", what="it is being built")
        assert "the environment is being built on host test for" in asked_for(cli, job.id)[1]
        (row,) = cli.rows("workers")
        assert (row["state"], row["reason"]) == ("initializing", "its environment is being built")
    finally:
        other.release()
    assert job.result(30) == "1.0"
    (row,) = cli.rows("workers")
    assert row["reason"] is None


def test_a_broker_whose_memory_is_full(theatre: Stage, tmp_path: Path) -> None:
    """Given a running and a waiting job, if the broker is at its maxmemory, expect that of both, with the numbers."""
    cli, gate = CommandLine(theatre.server.url, tmp_path), tmp_path / "gate"
    theatre.ready_worker(asked)
    running, waiting = asked.spawn(str(gate)), asked.spawn(str(gate))
    wait_until(lambda: asked_for(cli, running.id)[0] == "running")
    theatre.broker.execute("CONFIG", "SET", "maxmemory", 100_000)
    for job in (running, waiting):
        cause, why = asked_for(cli, job.id)
        assert cause == "broker_memory"
        assert "its limit is 0.1 MiB" in why

    # Expect both to be run all the same
    gate.touch()
    assert [job.result(30) for job in (running, waiting)] == ["ran", "ran"]
    assert asked_for(cli, waiting.id)[0] == "completed"


def test_a_broker_that_cannot_write(theatre: Stage, tmp_path: Path) -> None:
    """Given waiting jobs, if the broker's disk is full, expect that; once there is room, expect it no more."""
    cli = CommandLine(theatre.server.url, tmp_path)
    theatre.register(asked)
    theatre.server.disk_holds(20_000)
    taken: list[EndpointJob[str]] = []

    def call_for_ever() -> None:
        while True:
            taken.append(asked.spawn("gate"))

    with pytest.raises(BrokerRefused, match="disk"):
        call_for_ever()
    assert asked_for(cli, taken[0].id) == ("broker_disk", TOLD[Cause.BROKER_DISK].meaning)
    theatre.server.disk_holds(None)
    wait_until(lambda: asked_for(cli, taken[0].id)[0] == "no_autoscaler", what="it goes on")
