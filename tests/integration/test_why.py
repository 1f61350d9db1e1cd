"""`flashq why JOB`, of real jobs; every cause is in tests/unit/test_causes.py."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from tests.acceptance.stage import Stage, environment, stage
from tests.integration.command_line import CommandLine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        yield made


def test_from_submitted_to_ended(theatre: Stage, tmp_path: Path) -> None:
    cli, gate = CommandLine(theatre.server.url, tmp_path), tmp_path / "gate"

    def cause(job: str) -> str:
        (said,) = cli.rows("why", job)
        assert said["why"]
        assert said["what_to_do"]
        return str(said["cause"])

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
    assert cause(asked.spawn().id) == "paused"
    assert "no job" in cli("why", "asked-why-nobody", code=3).stderr
