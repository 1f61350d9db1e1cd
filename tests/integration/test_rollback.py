"""`flashq endpoints NAME --rollback`, with a real host agent, autoscaler and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.acceptance.stage import Stage, stage
from tests.integration.command_line import CommandLine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


def version(said: str, cpu: str) -> Any:
    """The same endpoint, of other code and on other workers."""

    def rolled() -> str:
        return said

    return Endpoint(name="rolled-back", cpu=cpu, workers=(1, 2), idle_timeout=60)(rolled)


def test_after_a_rollback_the_earlier_code_is_current_and_runs_on_workers_as_they_were(
    theatre: Stage, tmp_path: Path
) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    first, second = version("first", "any"), version("second", "cpu3c-1-2")
    assert first.remote() == "first"
    (before,) = cli.rows("endpoints", "rolled-back")
    assert second.remote() == "second"
    (updated,) = cli.rows("endpoints", "rolled-back")
    assert updated["previous"] == before["revision"]

    # If it is rolled back, expect calls by name to get the earlier code, on workers that replace the others
    said = cli("endpoints", "rolled-back", "--rollback").stdout
    new, old = before["revision"][:12], updated["revision"][:12]
    assert said == f"rolled-back: revision {new} is current again, {old} no longer\n"
    assert cli("call", "rolled-back").stdout.strip() == '"first"'
    wait_until(lambda: {row["state"] for row in cli.rows("workers")} == {"idle"}, 30, "workers were replaced")
    assert cli.rows("endpoints", "rolled-back")[0]["outdated"] == 0

    # Expect a program that goes on calling to have the code that it has, and another rollback to lead forward
    assert second.remote() == "second"
    cli("endpoints", "rolled-back", "--rollback")
    assert cli("call", "rolled-back").stdout.strip() == '"second"'


def test_what_cannot_be_rolled_back_is_named(theatre: Stage, tmp_path: Path) -> None:
    cli = CommandLine(theatre.server.url, tmp_path)
    assert "no endpoint nobody" in cli("endpoints", "nobody", "--rollback", code=3).stderr
    assert "no endpoint nobody" in cli("endpoints", "nobody", code=3).stderr
    assert "name of an endpoint" in cli("endpoints", "--rollback", code=2).stderr
    theatre.register(version("first", "any"))
    assert "has not been updated" in cli("endpoints", "rolled-back", "--rollback", code=4).stderr
