"""What an earlier run of the private broker left: kept, counted, and run when asked for."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from flashq.embedded.places import Places
from flashq.model.lifecycle import JobState
from flashq.store.broker import Broker
from tests.integration.embedded_rig import EmbeddedRig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.embedded import Membership

pytestmark = pytest.mark.requires("valkey")

EP = "embed"


@pytest.fixture
def rig() -> Iterator[EmbeddedRig]:
    """A home of its own."""
    made = EmbeddedRig()
    try:
        yield made
    finally:
        made.close()


class Jobs:
    """Jobs of one endpoint, submitted and claimed without code."""

    def __init__(self, url: str) -> None:
        self.broker = Broker(url, patience_s=2.0)
        self.run, self.transitions = self.broker.run, self.broker.transitions

    def register(self) -> None:
        self.run(
            self.transitions.register(
                EP,
                revision="r1",
                environment="e",
                resources="r",
                spec="{}",
                scaling="{}",
                program="p",
                record=b"record",
            )
        )

    def submit(self, *names: str, **options: Any) -> None:
        for name in names:
            command = self.transitions.submit(EP, f"{EP}-{name}", revision="r1", call=b"call", **options)
            assert self.run(command).verdict == "ok"

    def claim(self, count: int = 100, *, begin: int = 0) -> list[str]:
        """What a new worker gets, without the endpoint's name."""
        worker = f"{EP}-w{os.urandom(4).hex()}"
        self.run(self.transitions.join(EP, worker, lease_ms=60_000, booked=False, fields={}))
        command = self.transitions.claim(
            EP, worker, "n", count=count, lease_ms=60_000, start=begin, holding=0, room=count
        )
        return [job.job.removeprefix(f"{EP}-") for job in self.run(command).jobs]

    def state(self, name: str) -> JobState | None:
        return self.run(self.transitions.watch([f"{EP}-{name}"]))[0].state

    def workers(self) -> int:
        return len(self.run(self.transitions.observe(EP)).workers)

    def promote(self) -> int:
        """Let jobs whose time has come wait on their queues; how many."""
        return self.run(self.transitions.reap(EP, lease_ms=60_000)).promoted


@contextlib.contextmanager
def jobs_of(membership: Membership) -> Iterator[Jobs]:
    """Jobs in the broker of a membership."""
    jobs = Jobs(membership.url)
    try:
        yield jobs
    finally:
        jobs.broker.close()


def an_earlier_run(rig: EmbeddedRig, *, end: signal.Signals | None = None) -> None:
    """A run that left jobs of every kind: a is running, b claimed, urgent of another priority, later delayed."""
    membership = rig.join()
    with jobs_of(membership) as jobs:
        jobs.register()
        jobs.submit("a", "b", "c", "d")
        jobs.submit("urgent", priority=5)
        jobs.submit("later", delay_ms=50)
        assert jobs.claim(1, begin=1) == ["urgent"]
        assert jobs.claim(2, begin=1) == ["a", "b"]
    if end is None:
        membership.leave()
    else:
        os.kill(membership.status["pid"], end)
    rig.await_nothing_left()
    forget(rig)


def forget(rig: EmbeddedRig) -> None:
    """Act as another process: one that was never a member of this home."""
    from flashq.embedded import membership

    membership._joined_before.discard((os.getpid(), str(rig.home)))


# -- a plain start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_plain_start_keeps_what_is_left_says_so_and_runs_new_jobs(
    rig: EmbeddedRig, capsys: pytest.CaptureFixture[str], end: signal.Signals | None
) -> None:
    an_earlier_run(rig, end=end)
    capsys.readouterr()

    membership = rig.join()

    said = capsys.readouterr().err.splitlines()
    assert said[1:] == [
        f"flashq: 6 unfinished jobs of an earlier run are kept in {rig.home}: `flashq up --resume` runs them"
    ]
    with jobs_of(membership) as jobs:
        jobs.register()
        jobs.submit("new")
        assert jobs.promote() == 0
        assert jobs.claim() == ["new"]
        assert jobs.state("a") is JobState.QUEUED
        assert jobs.state("later") is JobState.SCHEDULED
        assert jobs.broker.execute("SISMEMBER", "rq:queues", f"rq:queue:{EP}--held") == 1


def test_a_broker_whose_keeper_is_killed_writes_what_it_has(rig: EmbeddedRig) -> None:
    # While an fsync is slow that may be up to 2 s of what it acknowledged.
    an_earlier_run(rig, end=signal.SIGKILL)
    log = Places(rig.home).log("broker").read_text()
    assert "SIGTERM" in log, log
    assert "Calling fsync() on the AOF file" in log, log


def test_workers_and_hosts_of_an_earlier_run_are_forgotten(rig: EmbeddedRig) -> None:
    membership = rig.join()
    with jobs_of(membership) as jobs:
        jobs.register()
        jobs.claim()
        jobs.run(jobs.transitions.host_beat("host-1", lease_ms=60_000, fields={"hostname": "h"}))
        assert jobs.workers() == 1
    membership.leave()
    rig.await_nothing_left()

    with jobs_of(rig.join()) as jobs:
        assert jobs.workers() == 0
        assert jobs.broker.execute("ZCARD", "rq:fq:hosts") == 0
        assert jobs.broker.execute("EXISTS", "rq:fq:host:host-1") == 0


def test_what_is_left_adds_up_over_several_runs_in_order(
    rig: EmbeddedRig, capsys: pytest.CaptureFixture[str]
) -> None:
    for names in (("a", "b"), ("c",), ("d", "e")):
        forget(rig)
        membership = rig.join()
        with jobs_of(membership) as jobs:
            jobs.register()
            jobs.submit(*names)
        membership.leave()
        rig.await_nothing_left()

    membership = rig.join(resume=True)

    assert "3 unfinished jobs of an earlier run" in capsys.readouterr().err
    with jobs_of(membership) as jobs:
        assert jobs.claim() == ["a", "b", "c", "d", "e"]
    assert membership.status["held"] == 0


def test_a_job_cancelled_while_it_is_kept_is_neither_counted_nor_run(rig: EmbeddedRig) -> None:
    an_earlier_run(rig)
    membership = rig.join()
    with jobs_of(membership) as jobs:
        assert jobs.run(jobs.transitions.cancel(f"{EP}-c")) == "cancelled"
        assert jobs.run(jobs.transitions.cancel(f"{EP}-later")) == "cancelled"
    membership.leave()
    rig.await_nothing_left()
    forget(rig)

    membership = rig.join()
    assert membership.status["held"] == 4
    membership.leave()
    rig.await_nothing_left()

    with jobs_of(rig.join(resume=True)) as jobs:
        assert jobs.claim() == ["urgent", "a", "b", "d"]
        assert jobs.state("c") is JobState.CANCELLED


def test_a_cancelled_job_that_is_requeued_runs_without_the_others(rig: EmbeddedRig) -> None:
    an_earlier_run(rig)
    with jobs_of(rig.join()) as jobs:
        jobs.run(jobs.transitions.cancel(f"{EP}-c"))
        assert jobs.run(jobs.transitions.requeue(f"{EP}-c")) == "ok"
        assert jobs.claim() == ["c"]

    with jobs_of(rig.join(resume=True)) as jobs:
        jobs.promote()
        assert "c" not in jobs.claim()


def test_a_job_that_may_run_only_once_is_lost_with_its_run(rig: EmbeddedRig) -> None:
    membership = rig.join()
    with jobs_of(membership) as jobs:
        jobs.register()
        jobs.submit("once", at_most_once=True)
        jobs.claim(1, begin=1)
    membership.leave()
    rig.await_nothing_left()

    with jobs_of(rig.join(resume=True)) as jobs:
        assert jobs.state("once") is JobState.FAILED
        assert jobs.claim() == []


# -- running it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, signal.SIGKILL], ids=["stopped", "killed"])
def test_with_resume_everything_goes_on_where_it_was(rig: EmbeddedRig, end: signal.Signals | None) -> None:
    an_earlier_run(rig, end=end)

    with jobs_of(rig.join(resume=True)) as jobs:
        assert jobs.promote() == 1
        assert jobs.claim() == ["urgent", "a", "b", "c", "d", "later"]


def test_what_a_plain_start_kept_runs_when_somebody_asks_for_it_later(rig: EmbeddedRig) -> None:
    an_earlier_run(rig)
    with jobs_of(rig.join()) as jobs:
        jobs.submit("new")

        assert rig.join(resume=True).status["held"] == 0

        assert jobs.promote() == 1
        assert jobs.claim() == ["urgent", "a", "b", "c", "d", "new", "later"]
        assert jobs.broker.execute("SISMEMBER", "rq:queues", f"rq:queue:{EP}--held") == 0


def test_a_thousand_jobs_are_put_back_in_order(rig: EmbeddedRig) -> None:
    names = [f"{number:04}" for number in range(1203)]
    membership = rig.join()
    with jobs_of(membership) as jobs:
        jobs.register()
        jobs.broker.run_all(
            [jobs.transitions.submit(EP, f"{EP}-{name}", revision="r1", call=b"call") for name in names]
        )
    membership.leave()
    rig.await_nothing_left()
    forget(rig)

    assert rig.join().status["held"] == 1203
    with jobs_of(rig.join(resume=True)) as jobs:
        assert jobs.claim(1000) + jobs.claim(1000) == names


def test_jobs_of_an_endpoint_that_is_gone_stay_kept(rig: EmbeddedRig) -> None:
    an_earlier_run(rig)
    with jobs_of(rig.join()) as jobs:
        assert jobs.run(jobs.transitions.undeploy(EP)) == "ok"

        assert rig.join(resume=True).status["held"] == 6

        jobs.register()
        assert rig.join(resume=True).status["held"] == 0
        assert len(jobs.claim()) == 5


def test_a_script_whose_stack_ended_goes_on_with_its_own_jobs(rig: EmbeddedRig) -> None:
    """It waits for them; those of earlier runs stay where they are."""
    an_earlier_run(rig)
    membership = rig.join()
    with jobs_of(membership) as jobs:
        jobs.submit("mine")
    os.kill(membership.status["pid"], signal.SIGKILL)
    rig.await_nothing_left()

    again = rig.join()

    assert again.status["held"] == 6
    with jobs_of(again) as jobs:
        assert jobs.claim() == ["mine"]
