"""The units in docs/systemd: what they run exists, they give nothing away, and systemd has nothing to say of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from flashq import cli

UNITS = sorted((Path(__file__).parents[2] / "docs" / "systemd").glob("*.service"))
MOST_EXPOSED = {"flashq-autoscaler": 25, "flashq-gateway": 25, "flashq-host": 50}
"""What `systemd-analyze security` may find, of 100: a host runs its users' code, and needs devices."""

pytestmark = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def settings(unit: Path) -> dict[str, str]:
    """What a unit sets; of a name that it sets twice, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text("utf-8"), flags=re.MULTILINE))


def test_it_runs_a_command_that_there_is(unit: Path) -> None:
    program, name, *options = settings(unit)["ExecStart"].split()
    assert program == "/opt/flashq/bin/flashq"
    command = cli.flashq.get_command(click.Context(cli.flashq), name)
    assert command is not None
    known = {word for option in command.params for word in option.opts}
    assert {word for word in options if word.startswith("-")} <= known


def test_its_user_can_do_no_more_than_it_has_to(unit: Path) -> None:
    found = settings(unit)
    assert found["User"] != "root"
    assert found["NoNewPrivileges"] == found["ProtectHome"] == "yes"
    assert found["ProtectSystem"] == "strict"
    assert found["CapabilityBoundingSet"] == ""
    assert found["StateDirectoryMode"] == "0700"
    assert f"Environment=FLASHQ_HOME=/var/lib/{found['StateDirectory']}\n" in unit.read_text("utf-8")


def test_secrets_are_read_from_a_file_of_roots(unit: Path) -> None:
    text = unit.read_text("utf-8")
    assert settings(unit)["EnvironmentFile"] == "/etc/flashq/flashq.env"
    assert not re.search(r"^Environment=.*(KEY|URL|PASSWORD)", text, flags=re.MULTILINE)


def test_workers_have_time_to_end_before_they_are_killed(unit: Path) -> None:
    found = settings(unit)
    drain = re.search(r"--drain (\d+)", found["ExecStart"])
    assert int(found["TimeoutStopSec"]) > (int(drain[1]) if drain else 10)


def test_systemd_reads_it_and_finds_it_confined(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.split()[1]) < 250:
        pytest.skip("this machine's systemd-analyze cannot judge a file")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text("utf-8").replace("/opt/flashq/bin/flashq", sys.executable), "utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert unit.name not in verified.stdout + verified.stderr
    threshold = f"--threshold={MOST_EXPOSED[unit.stem]}"
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", threshold, "--no-pager", copy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-400:] + judged.stderr
