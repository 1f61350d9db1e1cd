"""Workers of a `cpu=` size are held to its memory, where this machine lets a host agent make control groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.errors import WorkerCrashed
from flashq_worker import memory_group
from flashq_worker.host.memory import MemoryGroups
from tests.acceptance.stage import Stage, stage

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="of-two-gib", cpu="cpu3c-1-2", workers=(0, 1), max_deliveries=1)
def of_two_gib(mib: int) -> tuple[str, int]:
    from pathlib import Path

    filled = bytearray(b"x" * (mib << 20))
    return Path("/proc/self/cgroup").read_text(), len(filled)


def can_be_made() -> bool:
    groups = MemoryGroups()
    made = bool(groups.make("a-probe", 1 << 30))
    groups.tidy(())
    return made


@pytest.fixture
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.start_stack()
        yield made


def test_what_takes_more_than_its_size_is_killed_and_told_why(theatre: Stage) -> None:
    where, taken = of_two_gib.remote(1)
    assert taken == 1 << 20
    if f"/{memory_group.PREFIX}of-two-gib-" not in where:
        assert not can_be_made(), where
        pytest.skip("no control groups can be made here")
    with pytest.raises(WorkerCrashed, match=r"out of memory: its endpoint's size has 2 GiB"):
        of_two_gib.remote(3 << 10)
    assert of_two_gib.remote(1)[1] == 1 << 20


def test_this_process_is_in_no_workers_group() -> None:
    assert memory_group.own() == ""
