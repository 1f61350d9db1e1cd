"""Endpoints that share a GPU, on a whole deployment on a machine that is made up: host agent, autoscaler, workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.store import gpu_leases
from tests.acceptance.stage import Stage
from tests.nvml.machine import Device, Machine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey", "nvml"), pytest.mark.timeout(120)]

PATIENCE_S = 45


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    try:
        yield made
    finally:
        made.close()


def test_endpoints_take_turns_on_one_gpu_and_are_told_who_has_it(stage: Stage, tmp_path: Path) -> None:
    # Given a machine with an L4 and an A100, and endpoints of which one wants the A100, the other prefers it
    machine = Machine(tmp_path, Device("GPU-l4"), Device("GPU-a100", "NVIDIA A100-SXM4-80GB"))
    home = {"FLASHQ_HOME": str(stage.folder() / "h"), **machine.environ({})}
    host = stage.start(command=["-m", "flashq", "host"], env=home)
    stage.start(command=["-m", "flashq", "autoscaler"])

    @Endpoint(name="either", gpu=["A100", "any"], idle_timeout=1)
    def either() -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    @Endpoint(name="a100", gpu="A100", idle_timeout=1, min_cuda_version="12.4")
    def a100() -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    @Endpoint(name="newer", gpu="any", min_cuda_version="13.0")
    def newer() -> None: ...

    # If the one that would do with either is called first, expect it to get the preferred one, by its UUID
    assert either.spawn().result(PATIENCE_S) == "GPU-a100"

    # If the other is called then, expect it to wait with the reason, and to have its turn
    waiting = a100.spawn()
    wait_until(lambda: "GPU-a100 is held by worker either-" in stage.endpoint_field("a100", "condition"))
    assert waiting.result(PATIENCE_S) == "GPU-a100"

    # If CUDA is to be newer than the driver, expect the reason; and at the end nobody to hold a GPU
    job = newer.spawn()
    wait_until(lambda: "the driver of host" in stage.endpoint_field("newer", "condition"))
    assert job.cancel().result(PATIENCE_S) == "cancelled"
    leases = ["GPU-l4", "GPU-a100"]
    wait_until(lambda: all(lease.free for lease in gpu_leases.of(stage.broker, leases).values()), PATIENCE_S)
    host.process.terminate()
    assert host.ended() == 0
