"""What a host says of its cores and memory, and what it keeps on disk."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from flashq.errors import SettingsError
from flashq_worker.host import inventory
from flashq_worker.host.home import LOG_LIMIT_BYTES, LOGS_KEPT, HostHome

if TYPE_CHECKING:
    from pathlib import Path


def test_cores_and_memory_are_limited_by_the_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inventory, "_CGROUP", tmp_path)
    unlimited = inventory.cores(), inventory.memory_bytes()
    assert unlimited[0] >= 1
    assert unlimited[1] > 0
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    assert (inventory.cores(), inventory.memory_bytes()) == (0.5, 1 << 20)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (inventory.cores(), inventory.memory_bytes()) == unlimited


def test_host_id_is_made_once(tmp_path: Path) -> None:
    home = HostHome(tmp_path)
    first = home.host_id("box")
    assert re.fullmatch(r"box-[0-9a-f]{8}", first)
    assert HostHome(tmp_path).host_id("box") == first
    assert HostHome(tmp_path).host_id("renamed") == first.replace("box", "renamed")
    (tmp_path / "host-id").write_text("nonsense")
    assert re.fullmatch(r"box-[0-9a-f]{8}", home.host_id("box"))


def test_lock_is_one_agents_and_free_after_it(tmp_path: Path) -> None:
    home = HostHome(tmp_path / "home")
    with home.lock(), pytest.raises(SettingsError, match=rf"process {os.getpid()}\b"), home.lock():
        pass
    with home.lock():
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_logs_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    home = HostHome(tmp_path)
    home.logs.mkdir()
    workers = [f"embed-00000000-0000-0000-0000-{n:012}" for n in range(LOGS_KEPT + 3)]
    for age, worker in enumerate(workers):
        home.log_file(worker).write_text("a line\n")
        os.utime(home.log_file(worker), (age, age))
    with home.log_file(workers[0]).open("ab") as log:
        log.truncate(LOG_LIMIT_BYTES + 1)
    (home.logs / "host.log").write_text("somebody else's\n")
    home.tidy_logs(frozenset({workers[0]}))
    assert home.log_file(workers[0]).stat().st_size == 0
    assert not home.log_file(workers[1]).exists()
    assert not home.log_file(workers[2]).exists()
    assert home.log_file(workers[3]).exists()
    assert (home.logs / "host.log").exists()


def test_tail_is_the_last_lines(tmp_path: Path) -> None:
    home = HostHome(tmp_path)
    assert home.tail("embed-1") == ""
    home.logs.mkdir()
    home.log_file("embed-1").write_bytes(b"".join(b"line %d\n" % n for n in range(1000)) + b"\xff\n")
    assert home.tail("embed-1", lines=2) == "line 999\n�"
    assert len(home.tail("embed-1", lines=10_000).encode()) <= 4096 + 2
