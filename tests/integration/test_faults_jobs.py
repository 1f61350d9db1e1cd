"""Rows 18, 19, 20 and 23 of the failure matrix: jobs that never end, that kill, or that cannot be read."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, codec
from flashq.errors import EndpointFailed, JobRefused, JobTimedOut, WorkerCrashed
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(90)]

LEASE_S = 1.0
GRACE_S = 1.0
LATE_S = 3.0
"""How late a busy machine may be."""


@Endpoint(name="faulty", cpu="any", workers=(0, 2))
def act(what: str, *args: Any) -> Any:
    import ctypes

    if what in ("swallow", "hold the lock", "count in C", "die"):
        with Path(args[0]).open("a") as file:
            file.write("x")
    match what:
        case "swallow":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                try:
                    time.sleep(0.05)
                except BaseException:  # noqa: BLE001 — it swallows everything
                    continue
        case "hold the lock":
            # Called so, C code keeps the interpreter's lock: no thread runs, and no signal is looked at.
            ctypes.PyDLL(None).usleep(int(args[1] * 1_000_000))
        case "count in C":
            return sum(range(10**15))
        case "die":
            os._exit(9)
    return what


@pytest.fixture(scope="module")
def own() -> Iterator[Rig]:
    """Two workers: what is taken away from one would run on the other."""
    with rig(lease_s=LEASE_S) as made:
        made.worker(act, grace_s=GRACE_S)
        made.ready_worker(act, grace_s=GRACE_S)
        yield made


# -- without end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["swallow", "count in C"])
def test_a_job_that_will_not_end_is_killed_after_timeout_and_grace(
    own: Rig, tmp_path: Path, what: str
) -> None:
    """Rows 18 and 19. Given a timeout of some leases, expect the kill a grace after it, and no reaping before."""
    timeout_s = 2.5 * LEASE_S
    runs = tmp_path / "runs"
    job = act.with_options(timeout_s=timeout_s).spawn(what, str(runs))
    wait_until(runs.exists, what="it runs")
    began = time.monotonic()
    with pytest.raises(JobTimedOut, match="killed"):
        job.result(60)
    took = time.monotonic() - began

    # SIGTERM ends it after four fifths of the grace.
    assert timeout_s + 0.8 * GRACE_S - 0.2 <= took <= timeout_s + GRACE_S + LATE_S
    assert runs.read_text() == "x"
    assert (own.job_field(job.id, "fq_fence"), own.job_field(job.id, "fq_losses")) == ("1", "")
    assert act.remote("go on") == "go on"


def test_a_job_that_holds_the_interpreter_for_leases_is_not_taken_away(own: Rig, tmp_path: Path) -> None:
    """Row 19. Given a job without a timeout that holds the interpreter's lock for three leases, expect its value."""
    job = act.spawn("hold the lock", str(tmp_path / "runs"), 3 * LEASE_S)
    assert job.result(30) == "hold the lock"
    assert (tmp_path / "runs").read_text() == "x"
    assert own.job_field(job.id, "fq_fence") == "1"


# -- poison ------------------------------------------------------------------------------------------


def test_a_poison_job_ends_and_the_others_flow(own: Rig, tmp_path: Path) -> None:
    """Row 20. Given a job that takes its process with it, expect three runs of it, and the others' values."""
    jobs = [act(f"before {n}") for n in range(10)]
    poison = act("die", str(tmp_path / "runs"))
    jobs += [act(f"after {n}") for n in range(10)]

    with pytest.raises(WorkerCrashed, match="exited with code 9"):
        poison.result(60)
    assert [job.result(60).split()[0] for job in jobs] == ["before"] * 10 + ["after"] * 10
    assert (tmp_path / "runs").read_text() == "xxx"
    assert own.job_field(poison.id, "fq_losses") == "3"
    assert {own.job_field(job.id, "fq_attempts") for job in jobs} == {"1"}


# -- of another Python or cloudpickle ----------------------------------------------------------------


class Mark:
    """Leaves a mark where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


STRANGERS = {"Python 3.2": ("PYTHON", "3.2"), "cloudpickle 99.0": ("cloudpickle_version", lambda: "99.0")}


@pytest.mark.parametrize("busy", [False, True], ids=["handed over", "claimed"])
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_call_of_another_version_is_refused_unread_and_uncounted(
    own: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: str, busy: bool
) -> None:
    """Row 23. Given a caller of another version, expect JobRefused with both named, nothing unpickled, no attempt."""
    gates = [act("hold the lock", str(tmp_path / f"run-{n}"), 0.5) for n in range(2 * busy)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == len(gates))
    monkeypatch.setattr(codec, *STRANGERS[stranger])
    job = act.spawn("anything", Mark(tmp_path / "mark"))
    monkeypatch.undo()

    with pytest.raises(JobRefused, match=stranger):
        job.result(30)
    for gate in gates:
        gate.result(30)
    assert not (tmp_path / "mark").exists()
    assert own.job_field(job.id, "fq_attempts") in ("", "0")
    assert act.remote("go on") == "go on"


def stored(value: Any) -> Any:
    """Code that captures a value."""

    @Endpoint(name="faulty-code", cpu="any", workers=(0, 2))
    def code() -> Any:
        return value

    return code


def test_code_of_another_cloudpickle_is_refused_unread(
    own: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 23. Given code that a newer cloudpickle wrote, expect its calls refused, whoever is asked to load it."""
    before, after = stored(1), stored(Mark(tmp_path / "mark"))
    worker = own.worker(before)
    assert before.remote() == 1
    monkeypatch.setattr(codec, *STRANGERS["cloudpickle 99.0"])

    # If a worker of older code is to load it
    with pytest.raises(JobRefused, match=r"cloudpickle 99\.0"):
        after.remote()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0

    # If workers begin with it
    job = after.spawn()
    for _ in range(2):
        assert own.worker("faulty-code").wait(30) == 4
    with pytest.raises(EndpointFailed, match=r"cloudpickle 99\.0"):
        job.result(30)
    assert not (tmp_path / "mark").exists()
