"""`flashq hosts drain` and `resume`, with a real host agent, autoscaler and workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from tests.acceptance.stage import Stage, stage
from tests.integration.command_line import CommandLine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="on-drained-host", cpu="any", workers=(0, 1), idle_timeout=60)
def patient(gate: str = "") -> str:
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    return "ran"


@pytest.fixture
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


def test_a_drained_host_finishes_what_it_has_and_is_used_again_when_told(
    theatre: Stage, tmp_path: Path
) -> None:
    cli, gate = CommandLine(theatre.server.url, tmp_path), tmp_path / "gate"
    job = patient.spawn(str(gate))
    wait_until(lambda: theatre.state(job.id) == "running")
    (host,) = cli.rows("hosts")

    # Given a job that runs, if its host is drained, expect the worker to take no other and to end after it
    assert cli("hosts", "drain", host["id"], "--reason", "new driver").stdout == f"{host['id']}: is drained\n"
    (told,) = cli.rows("hosts", host["id"])
    assert (told["state"], told["drain_reason"]) == ("draining", "new driver")
    wait_until(lambda: cli.rows("workers")[0]["draining"])
    later = patient.spawn()
    gate.touch()
    assert job.result(30) == "ran"
    assert (
        cli("hosts", "drain", host["id"], "--wait").stdout.splitlines()[-1]
        == f"{host['id']}: no worker is left"
    )

    # Expect what waits to say why, and to run once the host is used again
    wait_until(lambda: "drained" in (cli.rows("endpoints")[0]["reason"] or ""))
    assert later.status().result() == "IN_QUEUE"
    assert cli("hosts", "resume", host["id"]).stdout == f"{host['id']}: is used again\n"
    assert later.result(30) == "ran"
    assert cli.rows("hosts")[0]["state"] == "ready"


def test_hosts_that_are_not_there_are_named(theatre: Stage, tmp_path: Path) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    for words in (("drain", "nobody"), ("resume", "nobody"), ("nobody",)):
        assert "nobody" in cli("hosts", *words, code=3).stderr
