"""`flashq endpoints NAME --events`, with a real host agent, autoscaler and workers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.acceptance.stage import Stage, environment, stage
from tests.integration.command_line import CommandLine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="eventful", cpu="any", workers=(0, 1), idle_timeout=0.2)
def eventful() -> str:
    return "ran"


@Endpoint(name="eventful-too", cpu="any")
def another() -> str:
    return "ran"


@Endpoint(name="eventful-nowhere", cpu="any", hosts="zone=nowhere")
def nowhere() -> None: ...


@Endpoint(name="eventful-troubled", cpu="any")
class Troubled:
    def setup(self) -> None:
        raise OSError(28, "No space left on device")

    def go(self) -> None: ...


troubled: Any = Troubled


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        hosts = made.broker.keys.of("hosts")
        wait_until(lambda: made.broker.execute("ZCARD", hosts), 30, "a host is there")
        yield made


def test_what_happened_from_the_first_call_to_the_last_worker(theatre: Stage, tmp_path: Path) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    assert eventful.remote() == "ran"
    wait_until(lambda: cli.rows("endpoints", "eventful", "--events")[-1]["what"] == "worker-ended")

    rows = cli.rows("endpoints", "eventful", "--events")
    found = {row["what"]: row["why"] for row in rows}
    kinds = ["endpoint-created", "worker-ordered", "worker-ready", "worker-drained", "worker-ended"]
    assert list(dict.fromkeys(row["what"] for row in rows)) == kinds
    assert "1 queued" in found["worker-ordered"]
    assert "idle_timeout 0.2 s" in found["worker-drained"]
    assert len(cli.rows("endpoints", "eventful", "--events", "--limit", "2")) == 2

    cli("scale", "eventful", "--workers", "3")
    assert "workers_max" in cli.rows("endpoints", "eventful", "--events")[-1]["why"]


def test_what_is_lacking_is_written_down_once(theatre: Stage, tmp_path: Path) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    nowhere.spawn()
    wait_until(lambda: conditions(cli), what="it is throttled")
    another.remote()  # makes for further decisions
    (condition,) = conditions(cli)
    assert "NO_LABEL" in condition
    assert "zone=nowhere" in condition


def test_what_a_troubled_machine_does_to_an_endpoint_is_shown(theatre: Stage, tmp_path: Path) -> None:
    """Given a machine whose disk is full, expect state, reason, since when, the last lines, and the cause of a job."""
    cli = CommandLine(theatre.server.url, tmp_path)
    job = troubled().go.spawn()

    def shown() -> dict[str, Any]:
        return next(row for row in cli.rows("endpoints") if row["name"] == "eventful-troubled")

    wait_until(lambda: shown()["unhealthy"], 30, "it is unhealthy")
    assert "No space left on device" in shown()["reason"]
    assert "tried again in" in shown()["reason"]
    assert shown()["since"]
    assert cli.rows("why", job.id)[0]["cause"] == "backoff"
    lost = [
        row["why"]
        for row in cli.rows("endpoints", "eventful-troubled", "--events")
        if row["what"] == "worker-lost"
    ]
    assert "No space left on device" in lost[0]
    assert "Traceback" in lost[0]

    # Expect another endpoint to be served meanwhile, and the job to wait
    assert another.remote() == "ran"
    assert job.status().result() == "IN_QUEUE"


def conditions(cli: CommandLine) -> list[str]:
    rows = cli.rows("endpoints", "eventful-nowhere", "--events")
    return [row["why"] for row in rows if row["what"] == "endpoint-condition"]


def test_events_are_followed(theatre: Stage) -> None:
    theatre.register(another)
    command = [
        sys.executable,
        "-m",
        "flashq",
        "endpoints",
        "eventful-too",
        "--events",
        "--follow",
        "--json",
        "-n",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(theatre), text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["what"]
            theatre.broker.run(theatre.broker.transitions.pause("eventful-too"))
            while json.loads(process.stdout.readline())["what"] != "endpoint-paused":
                pass
        finally:
            process.kill()
            theatre.broker.run(theatre.broker.transitions.resume("eventful-too"))


def test_what_goes_with_what(theatre: Stage, tmp_path: Path) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    assert "need the name" in cli("endpoints", "--events", code=2).stderr
    assert "--events" in cli("endpoints", "eventful", "--follow", code=2).stderr
    assert "no endpoint nobody" in cli("endpoints", "nobody", "--events", code=3).stderr
