"""`EndpointJob`: what it says before, while and after its function runs, and that an end is an end."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, EndpointJob, Status
from flashq.errors import JobCancelled, JobNotFound, JobTimedOut, WaitTimeout
from tests.acceptance.stage import Stage, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")

TERMINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT)


@Endpoint(name="jobs", cpu="any", workers=(0, 1))
def act(what: str, *args: Any) -> Any:
    match what:
        case "echo":
            return args[0]
        case "pid":
            return os.getpid()
        case "hold":  # until a file is there, at most 30 s
            for _ in range(3000):
                if Path(args[0]).exists():
                    return "let go"
                time.sleep(0.01)
        case "raise":
            print(*args[1:], end="")
            raise ValueError(args[0])
        case "print":
            print("to stdout")
            print("to stderr", file=sys.stderr)
            os.write(1, "straight to the descriptor, ünicode\n".encode())
            print("no newline at the end", end="")
        case "count":
            for n in range(args[0]):
                print("line", n, flush=True)
    return None


@Endpoint(name="jobs-unserved", cpu="any", workers=(0, 1))
def unserved(number: int = 0) -> int:
    return number


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(act)
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file for which jobs hold; it comes with the end of the test at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def idle(theatre: Stage) -> None:
    """Wait until the worker has nothing to do."""
    worker = theatre.workers[0]
    wait_until(lambda: theatre.worker_field(worker.id, "fq_state") == "idle", what="the worker is idle")


def held(theatre: Stage, gate: Path) -> EndpointJob[Any]:
    """A job that runs, and will until `gate` is there."""
    job = act.spawn("hold", str(gate))
    wait_until(lambda: job.status().result() is Status.IN_PROGRESS, what="the job runs")
    return job


def test_a_job_before_while_and_after_it_runs(theatre: Stage, gate: Path) -> None:
    # Given one that runs, and one behind it
    first = held(theatre, gate)
    second = act.spawn("echo", 2)

    # Expect the first in progress, the second in the queue, neither with an outcome
    assert (first.status().result(), second.status().result()) == (Status.IN_PROGRESS, Status.IN_QUEUE)
    assert [(job.done, job.output, job.error) for job in (first, second)] == [(False, None, None)] * 2

    # If the first is let go, expect both to complete, and to say so
    gate.touch()
    assert (first.result(10), second.result(10)) == ("let go", 2)
    assert [job.status().result() for job in (first, second)] == [Status.COMPLETED] * 2
    assert [(job.done, job.output, job.error) for job in (first, second)] == [
        (True, "let go", None),
        (True, 2, None),
    ]


def test_done_comes_true_without_anybody_asking(theatre: Stage) -> None:
    # If nobody waits for a job, expect `done` and `output` to be set all the same, pushed
    job = act.spawn("echo", "pushed")
    wait_until(lambda: job.done, what="done, unasked")
    assert job.output == "pushed"


def test_a_failed_job_says_why(theatre: Stage) -> None:
    # If a function raises
    job = act.spawn("raise", "no")
    with pytest.raises(ValueError, match="no"):
        job.result(10)

    # Expect its error as an exception, its status, and the same error each time
    assert isinstance(job.error, ValueError)
    assert job.output is None
    assert job.done
    assert job.status().result() is Status.FAILED
    with pytest.raises(ValueError, match="no"):
        job.result(0)


def test_reading_output_of_a_failed_job_raises_nothing(theatre: Stage) -> None:
    job = act.spawn("raise", "no")
    wait_until(lambda: job.done)
    assert job.output is None
    assert str(job.error) == "no"


def test_the_same_failure_is_raised_from_many_places_without_growing(theatre: Stage) -> None:
    # Given a job that failed, whose error is raised again and again
    job = act.spawn("raise", "again")
    for _ in range(20):
        with pytest.raises(ValueError, match="again"):
            job.result(10)

    # Expect one remote traceback on it, not twenty
    notes = "\n".join(getattr(job.error, "__notes__", []))
    assert notes.count("Traceback (most recent call last)") == 1


def test_waiting_with_a_timeout_leaves_the_job_alone(theatre: Stage, gate: Path) -> None:
    # Given a job that runs on
    job = held(theatre, gate)

    async def wait(timeout_s: float) -> Any:
        return await job.wait(timeout_s)

    # If waits end before it does, expect WaitTimeout (a TimeoutError), close to the time asked for
    begun = time.monotonic()
    with pytest.raises(WaitTimeout) as raised:
        job.result(0.2)
    assert isinstance(raised.value, TimeoutError)
    assert 0.2 <= time.monotonic() - begun < 2
    with pytest.raises(WaitTimeout):
        asyncio.run(wait(0.1))
    with pytest.raises(WaitTimeout):
        job.result(timeout=0)

    # Expect the job to go on, and the next wait to have its value
    assert job.status().result() is Status.IN_PROGRESS
    gate.touch()
    assert asyncio.run(wait(10)) == "let go"


def test_a_cancelled_await_can_be_taken_up_again(theatre: Stage, gate: Path) -> None:
    # Given a job that runs on
    job = held(theatre, gate)

    async def impatient() -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(_as_task(job)), 0.1)
        gate.touch()
        return await job

    async def _as_task(job: EndpointJob[Any]) -> Any:
        return await job

    # If asyncio's own timeout ends one wait, expect the next to get the value
    assert asyncio.run(impatient()) == "let go"


def test_a_queued_job_is_cancelled(theatre: Stage) -> None:
    # Given a job that no worker takes
    job = unserved.spawn()
    assert job.status().result() is Status.IN_QUEUE

    # If it is cancelled
    job.cancel().result()

    # Expect it to end so, for whoever waits, reads or asks
    with pytest.raises(JobCancelled):
        job.result(10)
    assert job.status().result() is Status.CANCELLED
    assert job.done
    assert isinstance(job.error, JobCancelled)
    assert theatre.state(job.id) == "cancelled"


def test_a_running_job_is_really_stopped(theatre: Stage, gate: Path, tmp_path: Path) -> None:
    # Given a job that runs
    job = held(theatre, gate)

    # If it is cancelled
    async def cancel() -> None:
        await job.cancel()

    asyncio.run(cancel())

    # Expect it to end as cancelled, and its worker to be free, though what it holds for never came
    with pytest.raises(JobCancelled):
        job.result(10)
    assert job.status().result() is Status.CANCELLED
    assert not gate.exists()
    assert act.remote("echo", "next") == "next"


def test_cancel_is_sent_even_if_nobody_awaits_it(theatre: Stage) -> None:
    # If a cancel is neither awaited nor asked for its answer, expect the job to be cancelled
    job = unserved.spawn()
    job.cancel()
    wait_until(lambda: theatre.state(job.id) == "cancelled", what="cancelled")


def test_cancelling_right_after_an_unawaited_call(theatre: Stage) -> None:
    # If a call is cancelled in the next line, before the broker can have answered
    jobs = [unserved(n) for n in range(50)]
    for job in jobs:
        job.cancel()

    # Expect every one of them to end as cancelled
    for job in jobs:
        with pytest.raises(JobCancelled):
            job.result(10)
    assert {theatre.state(job.id) for job in jobs} == {"cancelled"}


def test_an_end_is_an_end(theatre: Stage) -> None:
    # Given jobs that ended in each of three ways
    completed, failed, cancelled = act.spawn("echo", 1), act.spawn("raise", "x"), unserved.spawn()
    cancelled.cancel().result()
    for job in (completed, failed, cancelled):
        wait_until(lambda job=job: job.done)  # type: ignore[misc]
    before = [job.status().result() for job in (completed, failed, cancelled)]
    assert before == [Status.COMPLETED, Status.FAILED, Status.CANCELLED]

    # If each is cancelled (again)
    answers = [job.cancel().result() for job in (completed, failed, cancelled)]

    # Expect no state, value or error to change, and the answer to tell
    assert answers[0] != "cancelled"
    assert [job.status().result() for job in (completed, failed, cancelled)] == before
    assert completed.result(1) == 1
    with pytest.raises(ValueError, match="x"):
        failed.result(1)
    with pytest.raises(JobCancelled):
        cancelled.result(1)


def test_cancel_racing_with_the_end_has_one_winner_and_both_sides_agree(theatre: Stage) -> None:
    # If jobs are cancelled just when they may be ending
    for _ in range(100):
        job = act.spawn("echo", "value")
        job.cancel().result()
        try:
            ended = (Status.COMPLETED, job.result(10))
        except JobCancelled:
            ended = (Status.CANCELLED, None)

        # Expect the caller and the broker to say the same
        assert job.status().result() is ended[0]
    assert act.remote("echo", "alive") == "alive"


def test_status_never_goes_back(theatre: Stage) -> None:
    # Given the order of states
    order = [Status.IN_QUEUE, Status.IN_PROGRESS, *TERMINAL]

    # If a job is asked for its state until it has ended, and some times after that
    job = act("echo", 1)
    seen = [job.status().result()]
    while seen[-1] not in TERMINAL:
        seen.append(job.status().result())
    seen += [job.status().result() for _ in range(5)]

    # Expect the order to be kept, and the end to stay
    assert [order.index(status) for status in seen] == sorted(order.index(status) for status in seen)
    assert set(seen[-5:]) == {Status.COMPLETED}


def test_status_can_be_awaited(theatre: Stage) -> None:
    async def ask() -> Status:
        job = act("echo", 1)
        await job
        return await job.status()

    assert asyncio.run(ask()) is Status.COMPLETED


def test_states_are_spelt_as_documented() -> None:
    names = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
    assert [str(status.value) for status in Status] == names
    assert Status.COMPLETED == "COMPLETED"


def test_a_timed_out_job_says_so(theatre: Stage, gate: Path) -> None:
    # If a job runs past its timeout
    job = act.with_options(timeout_s=0.3).spawn("hold", str(gate))
    with pytest.raises(JobTimedOut, match=r"0\.3"):
        job.result(15)

    # Expect its state to be TIMED_OUT for good, the error a TimeoutError, the worker free
    assert job.status().result() is Status.TIMED_OUT
    assert isinstance(job.error, TimeoutError)
    job.cancel().result()
    assert job.status().result() is Status.TIMED_OUT
    assert act.remote("echo", 1) == 1


def test_timing_says_where_the_time_went(theatre: Stage, gate: Path) -> None:
    # Given a job that waited behind another for a known while
    first = held(theatre, gate)
    second = act.spawn("echo", 2)
    begun = time.monotonic()
    with pytest.raises(WaitTimeout):
        second.result(0.4)
    gate.touch()
    second.result(10)
    waited = time.monotonic() - begun

    # If both are asked
    timing, before = second.timing, first.timing

    # Expect the wait in the queue and the execution, each where it belongs, within the whole
    assert timing.queued_s is not None
    assert 0.35 <= timing.queued_s <= waited + 0.2
    assert timing.execution_s is not None
    assert timing.execution_s < 0.2
    assert before.execution_s is not None
    assert before.execution_s >= 0.3  # it is in progress from its claim on, a little before it runs
    assert timing.total_s is not None
    assert timing.total_s >= timing.queued_s + timing.execution_s - 0.01
    assert timing.attempts == 1


def test_timing_of_a_queued_job_has_gaps_not_zeros(theatre: Stage) -> None:
    job = unserved.spawn()
    assert job.timing.execution_s is None
    assert job.timing.attempts == 0
    job.cancel().result()


def test_warm_start_cold_start(theatre: Stage, gate: Path) -> None:
    # Given a worker that is idle
    idle(theatre)

    # If it takes a job, expect a warm start
    warm = act.spawn("hold", str(gate))
    assert warm.cold_start is False

    # If one is submitted while all are busy, and one to an endpoint without a worker, expect cold starts
    busy, none = act.spawn("echo", 1), unserved.spawn()
    assert busy.cold_start is True
    assert none.cold_start is True
    gate.touch()
    assert busy.result(10) == 1
    none.cancel().result()


def test_the_job_a_worker_was_started_for_knows_what_the_start_cost(theatre: Stage) -> None:
    # Given an endpoint without a worker, and a job for it
    @Endpoint(name="jobs-cold", cpu="any")
    def cold() -> str:
        return "done"

    job = cold.spawn()

    # If a worker is started
    theatre.worker(cold)
    assert job.result(20) == "done"

    # Expect a cold start, and the parts of the start-up with their times, in what the job waited
    timing = job.timing
    assert job.cold_start is True
    assert timing.startup
    assert all(seconds >= 0 for seconds in timing.startup.values())
    assert timing.queued_s is not None
    assert timing.queued_s > 0.1


def test_logs_hold_what_was_printed(theatre: Stage) -> None:
    # If a function prints in several ways
    job = act.spawn("print")
    job.result(10)

    # Expect its lines, in order for each stream, and nothing of another job
    lines = list(job.logs())
    assert "to stdout" in lines
    assert "to stderr" in lines
    assert "straight to the descriptor, ünicode" in lines
    assert "no newline at the end" in lines
    assert len(lines) == 4
    quiet = act.spawn("echo", 1)
    quiet.result(10)
    assert list(quiet.logs()) == []


def test_following_logs_ends_with_the_job(theatre: Stage) -> None:
    # If the logs of a running job are followed
    job = act.spawn("count", 100)
    lines = list(job.logs(follow=True))

    # Expect every line once, and the loop to end by itself
    assert lines == [f"line {n}" for n in range(100)]


def test_logs_of_a_failed_job_are_kept(theatre: Stage) -> None:
    job = act.spawn("raise", "x", "the last words")
    with pytest.raises(ValueError, match="x"):
        job.result(10)
    assert list(job.logs()) == ["the last words"]


def test_result_from_many_threads(theatre: Stage, gate: Path) -> None:
    # Given one job that 30 threads wait for
    job = held(theatre, gate)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(job.result(20))) for _ in range(30)]
    for thread in threads:
        thread.start()

    # If it ends, expect all of them to have its value
    gate.touch()
    for thread in threads:
        thread.join(20)
    assert got == ["let go"] * 30


def test_the_repr_of_a_job_names_it(theatre: Stage) -> None:
    job = act.spawn("echo", "secret-argument")
    job.result(10)
    assert job.id in repr(job)
    assert "secret-argument" not in repr(job)


def test_job_ids_are_the_endpoints_name_and_a_uuid(theatre: Stage) -> None:
    uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    assert re.fullmatch(f"jobs-{uuid}", act.spawn("echo", 1).id)


def test_a_deleted_job_is_told_to_who_waits(theatre: Stage) -> None:
    # Given a job that is waited for
    job = unserved.spawn()

    # If a stock tool deletes it
    stock = theatre.broker.redis()
    from rq.job import Job

    Job.fetch(job.id, connection=stock).delete()

    # Expect whoever waits to be told in seconds, not to wait for ever
    with pytest.raises((JobNotFound, JobCancelled)):
        job.result(20)
