"""The means of the harder faults do what they say: a clock that jumps, a disk that is full, a network pulled out."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq.verify.own_broker import OwnBroker
from tests.chaos.means import HOUR_S, Clock, Disk, Network
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


def needs(what: type[Clock | Disk | Network]) -> pytest.MarkDecorator:
    """Skip, by name, where this machine lacks it."""
    why = what.why_not()
    return pytest.mark.skipif(bool(why), reason=f"{what.__name__.lower()}: {why}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the paths of sockets in it."""
    made = Path(tempfile.mkdtemp(prefix="fqm-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@needs(Clock)
def test_the_clock_of_a_program_is_shifted(folder: Path) -> None:
    """Given a program an hour behind, expect its wall clock to be so, and its clock for durations not."""
    clock = Clock(folder)
    clock.set(-HOUR_S)
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"],
        env=clock.whole_env,
        capture_output=True,
        text=True,
        check=True,
    )
    wall, steady = (float(number) for number in told.stdout.split())

    assert abs(time.time() - HOUR_S - wall) < 30
    assert abs(time.monotonic() - steady) < 30


@needs(Clock)
@pytest.mark.requires("valkey")
def test_the_clock_of_a_broker_jumps_while_it_runs(folder: Path) -> None:
    clock = Clock(folder)
    broker = OwnBroker(folder, env=clock.whole_env)

    def ahead_s() -> float:
        told = broker.call("TIME")
        assert isinstance(told, list)
        return int(told[0]) - time.time()

    try:
        for hours in (0, 1, -1, 0):
            clock.set(hours * HOUR_S)
            wait_until(lambda wanted=hours * HOUR_S: abs(ahead_s() - wanted) < 30)  # type: ignore[misc]  # it looks now and then
    finally:
        broker.close()


@needs(Disk)
def test_a_disk_can_be_filled_and_freed(folder: Path) -> None:
    with Disk.open(folder / "disk", megabytes=2) as disk:
        disk.fill()
        file = os.open(disk.folder / "more", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space left"):
            os.write(file, b"x")
        disk.free()
        assert os.write(file, b"x") == 1
        os.close(file)


@needs(Network)
def test_a_network_can_be_pulled_out_and_plugged_in(folder: Path) -> None:
    """Given a program in a namespace, expect it to reach us but while the wire is out, when it hears nothing."""
    with Network.open() as network, contextlib.closing(socket.create_server((network.here, 0))) as listener:
        address = listener.getsockname()
        connect = f"import socket, sys; socket.create_connection({address!r}, float(sys.argv[1]))"

        def reached(patience_s: float) -> bool:
            command = [*network.within, sys.executable, "-c", connect, str(patience_s)]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        assert reached(20)
        network.pull()
        assert not reached(0.5)
        network.plug()
        assert reached(20)
