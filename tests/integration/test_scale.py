"""`flashq scale`, with a real host agent, autoscaler and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from tests.acceptance.stage import Stage, stage
from tests.integration.command_line import CommandLine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="set-to-size", cpu="any", workers=(0, 1), idle_timeout=60)
def sized() -> str:
    return "ran"


@pytest.fixture
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


def test_workers_come_and_go_as_the_operator_says_and_none_is_replaced(
    theatre: Stage, tmp_path: Path
) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    theatre.register(sized)
    assert cli("scale", "set-to-size", "--workers", "2,3").stdout == (
        "set-to-size: 0–1 workers, idle_timeout 60 s → 2–3 workers, idle_timeout 60 s\n"
    )
    wait_until(lambda: len(idle(cli)) == 2, 30, "the minimum")
    two = idle(cli)
    assert sized.remote() == "ran"
    assert cli.rows("endpoints", "set-to-size")[0]["scaled"] is True

    # If none is to stay, expect them to go; another comes for the next job
    cli("scale", "set-to-size", "--workers", "1", "--idle-timeout", "0.1")
    wait_until(lambda: idle(cli) == set(), 30, "idle ones went")
    assert sized.remote() == "ran"
    assert {event["subject"] for event in theatre.events("worker-ordered")} > two

    said = cli("scale", "set-to-size", "--reset").stdout
    assert said == "set-to-size: 0–1 workers, idle_timeout 0.1 s → 0–1 workers, idle_timeout 60 s\n"
    assert cli.rows("endpoints", "set-to-size")[0]["scaled"] is False


def idle(cli: CommandLine) -> set[str]:
    return {row["id"] for row in cli.rows("workers") if row["state"] == "idle"}


def test_nonsense_is_refused(theatre: Stage, tmp_path: Path) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    for workers in ("5,1", "1,2,3", "-1", "many", "0,0", "0", "1,99999999"):
        assert "--workers" in cli("scale", "set-to-size", f"--workers={workers}", code=2).stderr
    assert "--reset alone" in cli("scale", "set-to-size", code=2).stderr
    assert "--reset alone" in cli("scale", "set-to-size", "--reset", "--workers", "1", code=2).stderr
    assert "no endpoint set-to-size" in cli("scale", "set-to-size", "--workers", "1", code=3).stderr
