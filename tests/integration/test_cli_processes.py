"""`flashq host`, `flashq worker` and `flashq autoscaler` as a person runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq_worker.gpus.nvml import Gpus
from flashq_worker.gpus.records import Sample
from tests.integration.command_line import CommandLine
from tests.nvml.machine import Device, Machine
from tests.rig import SECRET, Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="double", cpu="any", workers=(0, 1))
def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def rig() -> Iterator[Rig]:
    with closing(Rig()) as rig:
        yield rig


def start(rig: Rig, *arguments: str) -> subprocess.Popen[bytes]:
    variables = {
        "FLASHQ_REDIS_URL": rig.server.url,
        "FLASHQ_SECRET_KEY": SECRET.hex(),
        "FLASHQ_HOME": str(rig.home),
    }
    with (rig.server.folder / "command.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flashq", *arguments],
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def test_worker_by_hand_takes_jobs_and_leaves_on_ctrl_c(rig: Rig) -> None:
    rig.register(double)
    process = start(rig, "worker", "double")
    try:
        assert double.remote(21) == 42
        workers = rig.broker.execute("ZRANGE", rig.broker.keys.of("endpoint_workers", "double"), 0, -1)
        assert rig.worker_field(workers[0].decode(), "pid") == str(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert rig.broker.execute("ZCARD", rig.broker.keys.of("endpoint_workers", "double")) == 0


def test_worker_of_an_endpoint_that_is_not_there(rig: Rig, tmp_path: Path) -> None:
    cli = CommandLine(rig.server.url, tmp_path)
    result = cli("worker", "nobody", code=3)
    assert "there is no endpoint nobody" in result.stderr


def test_worker_of_a_gpu_endpoint_without_a_gpu_says_so(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gpus, "sample", lambda self: Sample())

    @Endpoint(name="render", workers=(0, 1))
    def render() -> None:
        pass

    rig.register(render)
    cli = CommandLine(rig.server.url, tmp_path)
    result = cli("worker", "render", "--gpu", "GPU-1", "--cpu", code=2)
    assert "exclude each other" in result.stderr
    result = cli("worker", "render", code=1)
    assert "it wants 1 GPU(s) (any)" in result.stderr
    result = cli("worker", "render", "--gpu", "GPU-1", code=1)
    assert "there is no GPU GPU-1 here; there are: none" in result.stderr

    @Endpoint(name="render-none", cpu="any")
    def render_none() -> None: ...

    rig.register(render_none)
    result = cli("worker", "render-none", "--gpu", "GPU-1", code=1)
    assert "--gpu has no use for it" in result.stderr


@pytest.mark.requires("nvml")
def test_worker_by_hand_gets_a_gpu_that_is_nobodys(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, Device("GPU-a"), Device("GPU-b")).here(monkeypatch)
    monkeypatch.setenv("LD_LIBRARY_PATH", machine.environ({})["LD_LIBRARY_PATH"])

    @Endpoint(name="bound", workers=(0, 2))
    def bound() -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    rig.register(bound)
    other = rig.broker.transitions.join(
        "bound", "bound-1", lease_ms=60_000, booked=False, fields={"fq_gpus": "GPU-a"}
    )
    rig.broker.run(other)
    cli = CommandLine(rig.server.url, tmp_path)
    assert "GPU-a is held by worker bound-1" in cli("worker", "bound", "--gpu", "GPU-a", code=1).stderr
    process = start(rig, "worker", "bound")
    try:
        assert bound.remote() == "GPU-b"
        assert "of 2 such here 0 are free" in cli("worker", "bound", code=1).stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", ["host", "autoscaler"])
def test_without_a_broker_it_says_what_to_set(command: str, tmp_path: Path) -> None:
    cli = CommandLine("", tmp_path)
    result = cli(command, code=1)
    assert "FLASHQ_REDIS_URL" in result.stderr


def test_second_host_of_one_home_is_refused(rig: Rig) -> None:
    first = start(rig, "host")
    try:
        wait_until(lambda: rig.broker.execute("ZCARD", rig.broker.keys.of("hosts")), what="a host")
        assert start(rig, "host").wait(20) == 1
        assert f"a host agent (process {first.pid})" in (rig.server.folder / "command.log").read_text()
        first.terminate()
        assert first.wait(20) == 0
    finally:
        first.kill()
        first.wait()


def test_joining_without_a_token_says_where_to_get_one(tmp_path: Path) -> None:
    cli = CommandLine("", tmp_path)
    result = cli("host", "--join", "redis://127.0.0.1:6390", code=1)
    assert "flashq up --listen" in result.stderr
