"""examples/gpu_check.py where there is no GPU; and, marked `gpu`, what only a real one can show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq_worker.gpus.nvml import Gpus
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "examples" / "gpu_check.py"
CHECK_AND_STAY = f"""
import runpy, sys
check = runpy.run_path({str(EXAMPLE)!r})["check"]
print(check(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fq-") as folder:
        yield folder


def run(home: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *arguments]
    env = {**os.environ, "FLASHQ_HOME": home}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=50)


@pytest.mark.requires("valkey")
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_without_a_gpu_it_runs_on_the_cpu_with_cuda_hidden_and_says_so(home: str) -> None:
    # Given a machine without a GPU, if the example is run with nothing configured
    done = run(home)

    # Expect it to have run on the CPU, and to be told by flashq and by itself
    assert done.returncode == 2, done.stderr
    assert done.stdout == "no GPU: it ran on the CPU, with CUDA hidden\n"
    assert "this machine has no GPU" in done.stderr


@pytest.mark.gpu
@pytest.mark.requires("valkey")
def test_a_real_gpu_is_bound_and_works(home: str) -> None:
    # Given a real GPU, if the example is run with nothing configured
    done = run(home)

    # Expect the worker to see the GPU that it was bound to, and no other
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^bound to (GPU|MIG)-", done.stdout)
    assert "256 MiB written and read" in done.stdout


@pytest.mark.gpu
def test_a_real_gpu_is_described() -> None:
    # Given a real GPU, if it is looked at, expect what every one can tell
    gpus = Gpus()
    found = gpus.sample()
    gpus.close()
    assert found.faults == ()
    assert found.gpus
    assert re.fullmatch(r"\d+\.\d", found.cuda)
    assert re.match(r"\d+\.\d+", found.driver)
    for gpu in found.gpus:
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert gpu.name
        assert gpu.memory_bytes > 1 << 30
        assert 0 <= gpu.used_bytes <= gpu.memory_bytes
        assert re.fullmatch(r"\d+\.\d", gpu.capability)
        assert gpu.fault == ""
        json.dumps(gpu.as_dict())


@pytest.mark.gpu
def test_a_real_gpu_is_foreign_while_another_program_computes_and_free_soon_after() -> None:
    # Given a real GPU that is free
    gpus = Gpus()
    free = next(gpu for gpu in gpus.sample().gpus if not gpu.foreign)

    # If another program computes there, expect that to be seen
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": free.uuid}
    command = [sys.executable, "-c", CHECK_AND_STAY]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert b"'sound': True" in other.stdout.readline()
        wait_until(lambda: getattr(gpus.sample().of(free.uuid), "foreign", False), 2.0, "it is seen")
        other.kill()

    # Expect it to be free within 2 s of that one's end
    wait_until(lambda: not getattr(gpus.sample().of(free.uuid), "foreign", True), 2.0, "it is free")
    gpus.close()
