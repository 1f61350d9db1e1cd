"""`flashq pause` and `resume`, with real workers, a host agent and an autoscaler."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint, Queue, Status
from flashq import waiting as waiting_side
from flashq.errors import EndpointNotFound
from tests.acceptance.stage import Stage, stage
from tests.integration.command_line import CommandLine
from tests.rig import rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="pausable", cpu="any", workers=(0, 1), idle_timeout=60)
def pausable(gate: str = "") -> str:
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    return "ran"


@Endpoint(name="scaled", cpu="any", workers=(0, 1), idle_timeout=60)
def scaled() -> str:
    return "ran"


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


@pytest.fixture
def cli(theatre: Stage, tmp_path: Path) -> CommandLine:
    return CommandLine(theatre.server.url, tmp_path)


def test_no_worker_is_started_for_a_paused_endpoint_and_one_is_at_once_when_it_goes_on(
    theatre: Stage, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theatre.register(scaled)
    assert cli("pause", "scaled").stdout == "scaled: paused\n"
    job = scaled.spawn()

    # Told in the listings, of the job, and to the caller
    (endpoint,) = [row for row in cli.rows("endpoints") if row["name"] == "scaled"]
    (queue,) = [row for row in cli.rows("queues") if row["endpoint"] == "scaled"]
    assert (endpoint["paused"], endpoint["reason"]) == (True, "paused")
    assert (queue["paused"], queue["queued"]) == (True, 1)
    assert cli.rows("job", job.id)[0]["waits_for"] == "Its endpoint is paused."
    monkeypatch.setattr(waiting_side, "CHECK_S", 0.0)
    with caplog.at_level(logging.WARNING):
        theatre.client.waiting.on_tick()
        wait_until(lambda: "scaled waits: paused" in caplog.text, what="the caller is told")

    # The autoscaler starts a worker for another endpoint, and none for it
    other = pausable.spawn()
    assert other.result(30) == "ran"
    assert not [row for row in cli.rows("workers") if row["endpoint"] == "scaled"]

    assert cli("resume", "scaled").stdout == "scaled: resumed\n"
    assert job.result(30) == "ran"
    assert job.cold_start is True


def test_what_runs_goes_on_and_an_idle_worker_takes_up_at_once(
    theatre: Stage, cli: CommandLine, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    running = pausable.spawn(str(gate))
    wait_until(lambda: running.status().result() is Status.IN_PROGRESS, 30, what="it runs")
    cli("pause", "pausable")
    waiting = pausable.spawn()
    gate.touch()
    assert running.result(10) == "ran"

    (worker,) = [row for row in cli.rows("workers") if row["endpoint"] == "pausable"]
    wait_until(lambda: theatre.worker_field(worker["id"], "fq_state") == "idle", what="its worker is idle")
    assert waiting.status().result() is Status.IN_QUEUE
    assert pausable.queue.paused
    pausable.queue.resume()
    assert waiting.result(10) == "ran"
    assert waiting.timing.claimed_s is not None


def test_all_at_once_and_what_is_not_there(theatre: Stage, cli: CommandLine) -> None:
    for endpoint in (pausable, scaled):
        theatre.register(endpoint)
    assert cli("pause", "--all").stdout.split("\n")[:2] == ["pausable: paused", "scaled: paused"]
    assert all(row["paused"] for row in cli.rows("queues"))
    said = cli("resume", "pausable", "nobody", "scaled", code=3)
    assert said.stdout == "pausable: resumed\nscaled: resumed\n"
    assert "no endpoint nobody is registered" in said.stderr
    assert cli("pause", code=2).stderr
    assert cli("resume", "pausable", "--all", code=2).stderr
    with pytest.raises(EndpointNotFound):
        Queue("nobody").pause()
    with pytest.raises(EndpointNotFound):
        _ = Queue("nobody").paused


def test_a_pause_outlives_the_broker_and_the_program(tmp_path: Path) -> None:
    with rig(appendonly="always") as made:
        made.register(scaled)
        scaled.queue.pause()
        job = scaled.spawn()
        made.server.kill()
        made.server.start()
        made.ready_worker(scaled)
        assert scaled.queue.paused
        assert len(scaled.queue) == 1
        scaled.queue.resume()
        assert job.result(20) == "ran"
