"""`flashq top`: once, as JSON, and live on a terminal until Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from tests.integration.command_line import CommandLine
from tests.rig import rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig import Rig

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="top-busy", cpu="any")
def busy(seconds: float) -> None:
    time.sleep(seconds)


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig(lease_s=10.0) as made:
        yield made


def test_what_runs_and_waits_is_shown_live_once_and_as_json(shared: Rig, tmp_path: Path) -> None:
    cli = CommandLine(shared.server.url, tmp_path)
    assert "nothing yet" in cli("top").stderr
    worker = shared.ready_worker(busy)
    jobs = [busy.spawn(60) for _ in range(3)]
    wait_until(lambda: shared.worker_field(worker.id, "fq_state") == "running", what="a job to run")

    told = json.loads(cli("top", "--json").stdout)
    (endpoint,) = told["endpoints"]
    assert (endpoint["endpoint"], endpoint["queued"], endpoint["in_progress"], endpoint["running"]) == (
        "top-busy",
        2,
        1,
        1,
    )
    assert [row["worker"] for row in told["workers"]] == [worker.id]
    lines = cli("top", "--once").stdout.splitlines()
    assert lines[0].startswith("endpoint\tqueued")
    assert lines[1].startswith("top-busy\t2\t1")

    assert "top-busy" in live(shared, tmp_path)
    for job in jobs:
        job.cancel()


def live(shared: Rig, home: Path) -> str:
    """What a terminal shows of it, until Ctrl-C."""
    ours, theirs = pty.openpty()
    environ = CommandLine(shared.server.url, home).environ
    command = [sys.executable, "-m", "flashq", "top", "--every", "0.2"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"top-busy") < 3:  # it looks again
        shown += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    os.close(ours)
    return shown.decode("utf-8", "replace")
