"""Retries, deliveries and at-most-once, on real workers: how often a function runs, and what its caller is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, Retries, Status
from flashq.errors import JobLost, RemoteError, WorkerCrashed
from tests.chaos.proxy import Tripwire
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq import EndpointFunction
    from flashq.job import EndpointJob
    from tests.chaos.proxy import Moment

pytestmark = pytest.mark.requires("valkey")


def _mark(record: str) -> int:
    with Path(record).open("a+") as file:
        file.write(".")
        file.seek(0)
        return len(file.read())


def _act(record: str, what: str = "", until: int = 99) -> int:
    """Count a run; on the first `until` of them do what is asked for."""
    runs = _mark(record)
    if what == "hold":
        while not Path(f"{record}.gate").exists():
            time.sleep(0.01)
    elif runs <= until:
        print("as far as this", flush=True)
        if what == "exit":
            os._exit(7)
        if what == "raise":

            class OnlyThere(ConnectionError):
                """A class that the caller cannot import."""

            raise OnlyThere("no")
        if what == "value":
            raise ValueError("no")
    return runs


@Endpoint(name="once", cpu="any", delivery="at_most_once")
def once(record: str, what: str = "") -> int:
    return _act(record, what)


@Endpoint(name="thrice", cpu="any", retries=Retries(2, delay_s=0.01, on=("OnlyThere", "KeyError")))
def thrice(record: str, what: str, until: int = 99) -> int:
    return _act(record, what, until)


@Endpoint(name="excepting", cpu="any", retries=Retries(2, delay_s=0, never=(ConnectionError,)))
def excepting(record: str, what: str) -> int:
    return _act(record, what)


@Endpoint(name="frail", cpu="any", max_deliveries=2)
def frail(record: str, what: str, until: int = 99) -> int:
    return _act(record, what, until)


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        for endpoint in (once, thrice, excepting, frail):
            made.worker(endpoint)
        yield made


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def runs(record: Path) -> int:
    return len(record.read_text()) if record.exists() else 0


# -- retries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "what", "attempts"),
    [
        (thrice, "raise", 3),  # by the name of a class that is not importable here
        (thrice, "value", 1),  # not listed
        (excepting, "value", 3),
        (excepting, "raise", 1),  # a subclass of what is excepted
        (thrice.with_options(retries=0), "raise", 1),
        (thrice.with_options(retries={"max": 1, "delay_s": 0}), "value", 2),
    ],
)
def test_what_is_retried_and_how_often(
    shared: Rig, record: Path, endpoint: EndpointFunction[..., int], what: str, attempts: int
) -> None:
    job = endpoint.spawn(str(record), what)
    with pytest.raises((RemoteError, ValueError, ConnectionError), match="no"):
        job.result(20)

    assert (runs(record), job.timing.attempts) == (attempts, attempts)


def test_the_value_of_a_retry_is_the_jobs(shared: Rig, record: Path) -> None:
    assert thrice.remote(str(record), "raise", until=2) == 3


# -- losses ------------------------------------------------------------------------------------------


def test_losses_have_a_budget_of_their_own(shared: Rig, record: Path) -> None:
    assert frail.remote(str(record), "exit", until=1) == 2
    job = frail.spawn(str(record) + "2", "exit")
    with pytest.raises(WorkerCrashed, match="exited with code 7") as caught:
        job.result(20)

    assert type(caught.value) is WorkerCrashed
    assert job.timing.attempts == 2


# -- at most once ------------------------------------------------------------------------------------


def test_what_may_begin_only_once_is_not_run_again_after_a_crash(shared: Rig, record: Path) -> None:
    job = once.spawn(str(record), "exit")
    with pytest.raises(JobLost, match="only once") as caught:
        job.result(20)

    assert caught.value.log.strip() == "as far as this"
    assert (runs(record), job.timing.attempts) == (1, 1)
    assert job.status().result() is Status.FAILED


def test_the_call_may_ask_for_it(shared: Rig, record: Path) -> None:
    with pytest.raises(JobLost):
        frail.with_options(delivery="at_most_once").remote(str(record), "exit")
    assert runs(record) == 1


def test_it_ends_well_like_any_other(shared: Rig, record: Path) -> None:
    assert once.remote(str(record)) == 1
    with pytest.raises(ValueError, match="no"):
        once.remote(str(record), "value")
    assert runs(record) == 2


def test_a_requeue_by_hand_may_begin_it_again(shared: Rig, record: Path) -> None:
    job = once.spawn(str(record), "exit")
    with pytest.raises(JobLost):
        job.result(20)
    again = job.requeue().result(10)
    with pytest.raises(JobLost):
        again.result(20)

    assert (again.id, runs(record)) == (job.id, 2)


def test_a_worker_that_has_to_go_does_not_pass_on_what_it_began(record: Path, tmp_path: Path) -> None:
    with rig() as made:
        worker = made.ready_worker(once, drain_s=0.2)
        job = once.spawn(str(record), "hold")
        waiting = once.spawn(str(tmp_path / "other"))
        wait_until(lambda: runs(record) == 1, what="it began")
        worker.signal(signal.SIGTERM)
        with pytest.raises(JobLost, match="had to give it up"):
            job.result(20)

        made.worker(once)
        assert waiting.result(20) == 1
        assert runs(record) == 1


def test_a_worker_that_is_killed_takes_what_it_began_with_it(record: Path) -> None:
    with rig(lease_s=1.0) as made:
        worker = made.ready_worker(once)
        job = once.spawn(str(record), "hold")
        wait_until(lambda: runs(record) == 1, what="it began")
        worker.close()
        made.worker(once)
        with pytest.raises(JobLost, match="silent for a lease"):
            job.result(20)
        assert runs(record) == 1


@pytest.mark.parametrize(("moment", "ran"), [("before", 1), ("after", 0)])
def test_nothing_of_it_runs_before_its_begin_is_on_record(record: Path, moment: Moment, ran: int) -> None:
    """Killed around the START: the broker has not heard of it, and it runs elsewhere; or it has, and it never runs."""
    with rig(lease_s=1.0) as made:
        wire = Tripwire(made.server.folder / "s", made.server.folder / "wire")
        worker = made.ready_worker(once, url=wire.url)
        wire.arm("start", moment, worker.close)
        job: EndpointJob[Any] = once.spawn(str(record))
        wait_until(lambda: worker.process.poll() is not None, what="the worker was killed")
        assert runs(record) == 0
        made.worker(once)
        if ran:
            assert job.result(20) == 1
        else:
            with pytest.raises(JobLost):
                job.result(20)
        assert runs(record) == ran
        wire.close()
