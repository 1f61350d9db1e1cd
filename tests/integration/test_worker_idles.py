"""A supervisor that waits takes no time from those it waits for: its executor, its broker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.rig import Rig, halt, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
LOAD_S = 3.0


def doze(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class Slow:
    """Takes its time to be unpickled, as a model does."""

    def __reduce__(self) -> Any:
        return doze, (LOAD_S,)


MODEL = Slow()


@Endpoint(name="patient", cpu="any")
def patient() -> str:
    return repr(MODEL)


@pytest.fixture
def own() -> Iterator[Rig]:
    with rig(lease_s=20.0) as made:
        yield made


def cpu_s(pid: int) -> float:
    """The processor's time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def executor_of(pid: int) -> bool:
    return any(task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children"))


def test_while_its_code_loads(own: Rig) -> None:
    """Given code that takes seconds to load, expect its supervisor to sleep meanwhile."""
    worker = own.worker(patient)
    wait_until(lambda: executor_of(worker.process.pid), what="the executor was started")
    before = cpu_s(worker.process.pid)

    wait_until(lambda: own.worker_field(worker.id, "fq_state") == "idle", what="it is ready")

    assert cpu_s(worker.process.pid) - before < LOAD_S / 4
    assert patient.remote() == repr(LOAD_S)


def test_while_its_broker_is_slow(own: Rig) -> None:
    """Given a broker that answers nothing for seconds, expect an idle supervisor to sleep meanwhile."""
    worker = own.ready_worker(patient)
    halt(own.server.pid)
    try:
        before, since = cpu_s(worker.process.pid), time.monotonic()
        wait_until(lambda: time.monotonic() > since + 4.0)
        spent = cpu_s(worker.process.pid) - before
    finally:
        os.kill(own.server.pid, signal.SIGCONT)

    assert spent < 1.0
    assert patient.remote() == repr(LOAD_S)
