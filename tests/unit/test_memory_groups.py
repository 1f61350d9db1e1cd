"""Control groups that hold workers to their memory: the folders and files, of both versions."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from flashq_worker import memory_group
from flashq_worker.host.memory import MemoryGroups

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MINE = str(os.getpid())


def version_1(root: Path) -> tuple[Path, str]:
    """A memory controller of version 1, and what /proc/self/cgroup says."""
    own = root / "memory" / "system" / "agent"
    own.mkdir(parents=True)
    for name in ("cgroup.procs", "memory.limit_in_bytes"):
        (own / name).write_text("")
    return own, "9:name=systemd:/\n4:memory:/system/agent\n0::/\n"


def version_2(
    root: Path, *, procs: str, shared: str = "", controllers: str = "cpu memory"
) -> tuple[Path, str]:
    own = root / "system" / "agent"
    own.mkdir(parents=True)
    told = {"cgroup.procs": procs, "cgroup.controllers": controllers, "cgroup.subtree_control": shared}
    for name, text in told.items():
        (own / name).write_text(text)
    return own, "0::/system/agent\n"


def test_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, told = version_1(tmp_path)
    groups = MemoryGroups(tmp_path, told)
    # the kernel makes a group's files with its folder
    monkeypatch.setattr("pathlib.Path.mkdir", made_with("memory.limit_in_bytes", "cgroup.procs"))
    folder = groups.make("embed-1", 2 << 30)
    assert folder == str(own / "flashq-worker-embed-1")
    assert (own / "flashq-worker-embed-1" / "memory.limit_in_bytes").read_text() == str(2 << 30)
    assert groups.make("embed-2", 0) == ""


def made_with(*names: str) -> object:
    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        os.makedirs(self, exist_ok=exist_ok)  # noqa: PTH103 - what is replaced is Path's own
        for name in names:
            (self / name).touch()

    return mkdir


def test_version_2_moves_the_agent_below_and_shares_its_memory_out(tmp_path: Path) -> None:
    own, told = version_2(tmp_path, procs=MINE)
    groups = MemoryGroups(tmp_path, told)
    assert groups.lacking == ""
    assert (own / "flashq-agent" / "cgroup.procs").read_text() == MINE
    assert (own / "cgroup.subtree_control").read_text() == "+memory"
    folder = groups.make("embed-1", 1 << 30)
    assert (own / "flashq-worker-embed-1" / "memory.max").read_text() == str(1 << 30)
    assert folder == str(own / "flashq-worker-embed-1")

    # If another agent looks after it, which begins below, expect the same parent
    (own / "cgroup.subtree_control").write_text("memory")
    again = MemoryGroups(tmp_path, "0::/system/agent/flashq-agent\n")
    assert again.make("embed-2", 1 << 30) == str(own / "flashq-worker-embed-2")


def test_where_none_can_be_made_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, told = version_2(tmp_path, procs=f"{MINE}\n1\n2")
    groups = MemoryGroups(tmp_path, told)
    assert "2 other processes are in its control group" in groups.lacking
    with caplog.at_level(logging.WARNING):
        assert [groups.make("embed-1", 1 << 30), groups.make("embed-2", 1 << 30)] == ["", ""]
    assert caplog.text.count("workers are not held to the memory of their size") == 1

    assert (
        "memory controller is not there"
        in MemoryGroups(tmp_path / "b", version_2(tmp_path / "b", procs=MINE, controllers="cpu")[1]).lacking
    )
    assert "no control group" in MemoryGroups(tmp_path / "nowhere", "0::/x\n").lacking


def test_groups_of_workers_that_are_gone_go(tmp_path: Path) -> None:
    own, told = version_2(tmp_path, procs=MINE, shared="memory")
    groups = MemoryGroups(tmp_path, told)
    for worker in ("gone", "runs"):
        assert groups.make(worker, 1 << 30)
        (own / f"flashq-worker-{worker}" / "memory.max").unlink()  # the kernel's files go with their folder
    groups.tidy({"runs"})
    assert [folder.name for folder in own.glob("flashq-worker-*")] == ["flashq-worker-runs"]


def test_groups_that_another_agent_has_just_made_stay(tmp_path: Path) -> None:
    own, told = version_2(tmp_path, procs=MINE, shared="memory")
    for worker in ("fresh", "left-over"):
        (own / f"flashq-worker-{worker}").mkdir()
    os.utime(own / "flashq-worker-left-over", (0, 0))
    MemoryGroups(tmp_path, told).tidy(set())
    assert [folder.name for folder in own.glob("flashq-worker-*")] == ["flashq-worker-fresh"]


def test_what_the_kernel_killed_is_counted(tmp_path: Path) -> None:
    assert memory_group.kills("") == 0
    assert memory_group.kills(str(tmp_path)) == 0
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert memory_group.kills(str(tmp_path)) == 3
    (tmp_path / "memory.events").write_text("low 0\noom 5\noom_kill 4\noom_group_kill 0\n")
    assert memory_group.kills(str(tmp_path)) == 4
