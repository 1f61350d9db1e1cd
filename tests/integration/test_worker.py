"""What a worker does with jobs that behave badly, and with being stopped, on a real broker."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import CurrentJob, Endpoint
from flashq.errors import (
    JobCancelled,
    JobTimedOut,
    RemoteError,
    ResultNotSerializable,
    SerializationError,
    WaitTimeout,
    WorkerCrashed,
)
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="do", cpu="any", workers=(0, 2))
def do(what: str, *args: Any) -> Any:  # noqa: C901 — one endpoint for all, so that all share a worker
    import ctypes
    import subprocess

    match what:
        case "echo":
            return args[0]
        case "pid":
            return os.getpid()
        case "who":
            from flashq import current

            return current()
        case "exit":
            print("about to exit", flush=True)
            os._exit(7)
        case "segfault":
            ctypes.string_at(0)
        case "sleep":
            time.sleep(args[0])
            return "slept"
        case "stubborn":
            until = time.monotonic() + args[0]
            while True:
                try:
                    while time.monotonic() < until:  # within: an interrupt may come at any of these steps
                        time.sleep(0.05)
                    return "slept"
                except BaseException:  # noqa: BLE001 — swallowing everything is the point
                    continue
        case "lock":
            return lambda: __import__("threading").Lock()
        case "unpicklable":
            import threading

            return threading.Lock()
        case "raise":
            raise KeyError(args[0])
        case "raise-unpicklable":
            import threading

            class Odd(Exception):
                def __init__(self, lock: object) -> None:
                    super().__init__("odd")
                    self.lock = lock

            raise Odd(threading.Lock())
        case "print":
            print("x" * args[0])
            return args[0]
        case "fork":
            child = subprocess.Popen(["sleep", "60"])
            return child.pid
        case "environ":
            return {name: value for name, value in os.environ.items() if "FLASHQ" in name or "REDIS" in name}
    return None


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        made.ready_worker(do)
        yield made


def test_a_value_comes_back(shared: Rig) -> None:
    assert do.remote("echo", {"a": [1, 2.5, None]}) == {"a": [1, 2.5, None]}


def test_the_executor_is_kept_between_jobs(shared: Rig) -> None:
    assert do.remote("pid") == do.remote("pid")


def test_a_users_exception_is_raised_as_its_own_type_with_the_remote_traceback(shared: Rig) -> None:
    with pytest.raises(KeyError, match="no-such") as caught:
        do.remote("raise", "no-such")
    assert "raise KeyError(args[0])" in "".join(caught.value.__notes__)


def test_an_exception_that_cannot_be_pickled_comes_as_its_text(shared: Rig) -> None:
    with pytest.raises(RemoteError, match="odd") as caught:
        do.remote("raise-unpicklable")
    assert caught.value.type_name.endswith("Odd")


def test_a_result_that_cannot_be_pickled_is_said_so(shared: Rig) -> None:
    with pytest.raises(ResultNotSerializable, match="lock"):
        do.remote("unpicklable")


def test_an_argument_that_cannot_be_pickled_is_named_before_anything_is_sent(shared: Rig) -> None:
    import threading

    with pytest.raises(SerializationError, match="argument 2"):
        do.remote("echo", threading.Lock())


@pytest.mark.parametrize(("what", "how"), [("exit", "exited with code 7"), ("segfault", "SIGSEGV")])
def test_a_crash_is_tried_again_within_its_budget_and_then_said(shared: Rig, what: str, how: str) -> None:
    job = do.spawn(what)
    with pytest.raises(WorkerCrashed, match=how) as caught:
        job.result(30)
    assert shared.job_field(job.id, "fq_attempts") == "3"
    if what == "exit":
        assert "about to exit" in caught.value.log
    assert do.remote("echo", "alive") == "alive"


def test_a_cancel_really_stops_a_running_job(shared: Rig) -> None:
    job = do.spawn("sleep", 60)
    wait_until(lambda: job.status().result() == "IN_PROGRESS")
    assert job.cancel().result(5) == "requested"
    with pytest.raises(JobCancelled):
        job.result(5)
    assert do.remote("echo", 1) == 1


def test_a_waiting_job_is_cancelled_at_once(shared: Rig) -> None:
    running, waiting = do.spawn("sleep", 1), do.spawn("echo", 1)
    assert waiting.cancel().result(5) == "cancelled"
    with pytest.raises(JobCancelled):
        waiting.result(5)
    assert running.result(10) == "slept"


def test_a_job_past_its_timeout_is_stopped(shared: Rig) -> None:
    with pytest.raises(JobTimedOut, match=r"longer than 0\.3 s"):
        do.with_options(timeout_s=0.3).remote("sleep", 60)


def test_a_job_that_swallows_its_interrupt_is_killed_after_the_grace(shared: Rig) -> None:
    before = do.remote("pid")
    with pytest.raises(JobTimedOut, match="killed"):
        do.with_options(timeout_s=0.3).remote("stubborn", 60)
    assert do.remote("pid") != before


def test_megabytes_of_output_do_no_harm_and_are_kept_within_bounds(shared: Rig) -> None:
    assert do.remote("print", 5_000_000) == 5_000_000


def test_what_a_job_printed_can_be_read(shared: Rig) -> None:
    job = do.spawn("print", 3)
    job.result(10)
    wait_until(lambda: list(job.logs()) == ["xxx"])


def test_user_code_sees_neither_broker_nor_key(shared: Rig) -> None:
    assert do.remote("environ") == {}


def test_a_wait_that_ends_early_leaves_the_job_alone(shared: Rig) -> None:
    job = do.spawn("sleep", 0.5)
    with pytest.raises(WaitTimeout):
        job.result(0.01)
    assert job.result(10) == "slept"


def test_sigterm_finishes_what_runs_and_leaves(shared: Rig) -> None:
    with rig() as own:
        worker = own.ready_worker(do)
        running = do.spawn("sleep", 1)
        wait_until(
            lambda: own.job_field(running.id, "fq_state") == "running"
        )  # not claimed only: it would go back
        waiting = do.spawn("echo", "later")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert running.result(5) == "slept"
        assert waiting.status().result() == "IN_QUEUE"
        own.worker(do)
        assert waiting.result(15) == "later"
        assert own.job_field(waiting.id, "fq_attempts") == "1"


def test_a_second_sigterm_gives_the_running_job_back_uncounted(shared: Rig) -> None:
    with rig() as own:
        worker = own.ready_worker(do)
        job = do.spawn("sleep", 60)
        wait_until(lambda: own.job_field(job.id, "fq_state") == "running")
        while worker.process.poll() is None:
            worker.signal(signal.SIGTERM)  # again and again, to its very end: two at once would count as one
            time.sleep(0.01)
        assert worker.wait() == 0
        assert own.job_field(job.id, "fq_state") == "queued"
        assert own.job_field(job.id, "fq_attempts") == "0"


def test_a_worker_killed_outright_loses_nothing(shared: Rig) -> None:
    with rig(lease_s=1.0) as own:
        worker = own.ready_worker(do)
        job = do.spawn("sleep", 0.5)
        wait_until(lambda: own.job_field(job.id, "fq_state") == "running")
        worker.signal(signal.SIGKILL)
        own.worker(do)
        assert job.result(15) == "slept"
        assert own.job_field(job.id, "fq_losses") == "1"


def test_a_worker_that_was_stopped_for_two_leases_cannot_overwrite_the_outcome(shared: Rig) -> None:
    with rig(lease_s=1.0) as own:
        stopped = own.ready_worker(do)
        job = do.spawn("sleep", 0.8)
        wait_until(lambda: own.job_field(job.id, "fq_state") == "running")
        stopped.signal(signal.SIGSTOP)
        own.worker(do)
        assert job.result(20) == "slept"
        fence = own.job_field(job.id, "fq_fence")
        stopped.signal(signal.SIGCONT)
        assert stopped.wait() == 3
        assert own.job_field(job.id, "fq_fence") == fence


def test_the_broker_killed_and_back_costs_a_pause(shared: Rig) -> None:
    with rig(appendonly="always") as own:
        own.ready_worker(do)
        job = do.spawn("sleep", 1)
        wait_until(lambda: own.job_field(job.id, "fq_state") == "running")
        own.server.kill()
        own.server.start()
        assert job.result(20) == "slept"
        assert do.remote("echo", 5) == 5


@Endpoint(name="do-side-by-side", cpu="any", workers=(0, 1), max_concurrency=3)
async def side_by_side(expected: int, folder: str) -> CurrentJob:
    import asyncio
    from pathlib import Path

    from flashq import current

    me = current()
    (Path(folder) / me.id).touch()
    while len(list(Path(folder).iterdir())) < expected:
        await asyncio.sleep(0.01)
    assert current() == me
    return me


def test_a_job_knows_its_id_attempt_fence_and_endpoint(shared: Rig) -> None:
    job = do.spawn("who")
    assert job.result(15) == CurrentJob(job.id, attempt=1, fence=1, endpoint="do")


def test_coroutines_side_by_side_each_know_their_own_job(shared: Rig, tmp_path: Path) -> None:
    """Given three jobs at once in one process, expect each to know which it is, before and after waiting."""
    shared.ready_worker(side_by_side)
    jobs = [side_by_side.spawn(3, str(tmp_path)) for _ in range(3)]
    assert [job.result(15) for job in jobs] == [
        CurrentJob(job.id, attempt=1, fence=1, endpoint="do-side-by-side") for job in jobs
    ]
