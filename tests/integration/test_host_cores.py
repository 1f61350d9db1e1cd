"""Workers of a `cpu=` size run on as many cores, processes that their jobs start included."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from tests.acceptance.stage import Stage, stage

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="of-one-core", cpu="cpu3c-1-2", workers=(0, 2))
def cores() -> tuple[set[int], str, str]:
    counted = "import os; print(len(os.sched_getaffinity(0)))"
    child = subprocess.run([sys.executable, "-c", counted], capture_output=True, text=True, check=True)
    return os.sched_getaffinity(0), child.stdout.strip(), os.environ["OMP_NUM_THREADS"]


@Endpoint(name="of-any-cores", cpu="any", workers=(0, 1))
def any_cores() -> set[int]:
    return os.sched_getaffinity(0)


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


def test_a_worker_of_one_core_runs_on_one(theatre: Stage) -> None:
    mine, childs, threads = cores.remote()
    assert (len(mine), childs, threads) == (1, "1", "1")
    assert mine <= os.sched_getaffinity(0)


def test_a_worker_of_any_size_runs_on_all(theatre: Stage) -> None:
    assert any_cores.remote() == os.sched_getaffinity(0)
