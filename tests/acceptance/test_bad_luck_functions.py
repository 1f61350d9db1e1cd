"""Functions that fail: retries, results that expire, crashes, output without end, processes left behind."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, Retries, Status
from flashq.errors import JobCancelled, JobTimedOut, WorkerCrashed
from tests.acceptance.stage import Stage, stage
from tests.rig import halt, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(40)]


class Temporary(Exception):
    pass


class VeryTemporary(Temporary):
    pass


def count(path: str) -> int:
    """Note a run in a file; which one it is, from 1."""
    with Path(path).open("a") as file:
        file.write("x")
    return len(Path(path).read_text())


@Endpoint(name="fails-twice", cpu="any", retries=2)
def fails(path: str, times: int) -> int:
    run = count(path)
    print("run", run)
    if run <= times:
        raise Temporary(f"run {run}")
    return run


@Endpoint(name="fails-some", cpu="any", retries=Retries(max=3, on=(Temporary, "builtins.OSError")))
def fails_with(path: str, error: BaseException) -> None:
    count(path)
    raise error


@Endpoint(name="fails-later", cpu="any", retries=Retries(max=2, delay_s=0.5, backoff=1.0))
def fails_slowly(path: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{time.monotonic()}\n")
    raise Temporary("not yet")


@Endpoint(name="fails-brief", cpu="any", result_ttl=1)
def brief(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number


@Endpoint(name="fails-badly", cpu="any")
def bad(what: str, *args: Any) -> Any:
    match what:
        case "pid":
            return os.getpid()
        case "exit":
            count(args[0])
            print("about to leave", flush=True)
            os._exit(7)
        case "exit once":
            if count(args[0]) == 1:
                os._exit(7)
            return "second run"
        case "sys.exit":
            sys.exit("on purpose")
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "print":
            for _ in range(args[0]):
                print("x" * 1023)
            return "printed"
    return _worse(what, *args)


def _worse(what: str, *args: Any) -> Any:
    import subprocess

    match what:
        case "recurse":
            return _worse("recurse")
        case "terminate":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            time.sleep(args[0])
        case "lock":
            # holds the interpreter's lock in C: no signal is seen
            return sum(range(args[0]))
        case "fork":
            return subprocess.Popen(["sleep", "100"]).pid
        case "close":
            for descriptor in range(3, 256):
                try:
                    os.close(descriptor)
                except OSError:
                    continue
        case "stdin":
            return sys.stdin.read()
    return None


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        for endpoint in (fails, fails_with, fails_slowly, brief, bad):
            made.worker(endpoint)
        yield made


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("times", [0, 1, 2])
def test_retries_run_a_function_again_until_it_succeeds(theatre: Stage, runs: Path, times: int) -> None:
    # If a function with two retries fails at most twice
    job = fails.spawn(str(runs), times)

    # Expect its value, as many runs as it took, and one job
    assert job.result(20) == times + 1
    assert len(runs.read_text()) == times + 1
    assert job.timing.attempts == times + 1
    assert job.status().result() is Status.COMPLETED


def test_retries_end_and_the_last_exception_is_raised(theatre: Stage, runs: Path) -> None:
    # If it fails three times
    job = fails.spawn(str(runs), 99)
    with pytest.raises(Temporary, match="run 3"):
        job.result(20)

    # Expect three runs, no more, and the output of all of them
    assert len(runs.read_text()) == 3
    assert job.status().result() is Status.FAILED
    assert list(job.logs()) == ["run 1", "run 2", "run 3"]


def test_without_retries_a_function_runs_once(theatre: Stage, runs: Path) -> None:
    said = theatre.run(
        """
        from flashq import Endpoint

        @Endpoint(name="fails-once", cpu="any")
        def once(path):
            open(path, "a").write("x")
            raise ValueError("once")

        try:
            once.remote(sys.argv[1])
        except ValueError as error:
            tell(error=str(error))
        """,
        str(runs),
        serve="fails-once",
    )
    assert said["error"] == "once"
    assert runs.read_text() == "x"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Temporary("by type"), 4),
        (VeryTemporary("by its base"), 4),
        (OSError("by name"), 4),
        (FileNotFoundError("by its base's name"), 4),
        (ValueError("not listed"), 1),
        (KeyboardInterrupt("never"), 1),
    ],
    ids=repr,
)
def test_only_listed_exceptions_are_retried(
    theatre: Stage, runs: Path, error: BaseException, expected: int
) -> None:
    # If a function raises an exception that is or isn't listed, by type, by name, or by a base of it
    job = fails_with.spawn(str(runs), error)
    wait_until(lambda: job.done, 20, "it ended")

    # Expect as many runs
    assert len(runs.read_text()) == expected
    assert job.status().result() is Status.FAILED


def test_a_retry_waits_its_delay_and_the_job_is_in_the_queue_meanwhile(theatre: Stage, runs: Path) -> None:
    # If a function is retried with a delay of up to half a second
    job = fails_slowly.spawn(str(runs))
    with pytest.raises(Temporary, match="not yet"):
        job.result(20)

    # Expect three runs, none later than its delay allows
    starts = [float(line) for line in runs.read_text().split()]
    assert len(starts) == 3
    assert all(later - earlier < 3 for earlier, later in itertools.pairwise(starts))


def test_a_job_that_waits_for_its_retry_can_be_cancelled(theatre: Stage, runs: Path) -> None:
    # Given a job between two runs
    @Endpoint(name="fails-much-later", cpu="any", retries=Retries(max=5, delay_s=600, backoff=1.0))
    def fails_rarely(path: str) -> None:
        Path(path).touch()
        raise OSError("no")

    theatre.worker(fails_rarely)
    job = fails_rarely.spawn(str(runs))
    wait_until(
        lambda: runs.exists() and job.status().result() is Status.IN_QUEUE, what="it waits for its retry"
    )

    # If it is cancelled, expect it to end so
    job.cancel().result()
    with pytest.raises(JobCancelled):
        job.result(10)
    assert job.status().result() is Status.CANCELLED


def test_an_expired_result_is_an_error_of_its_own(theatre: Stage) -> None:
    # Given a program that hears of its job's end only after the result has expired, because it was stopped
    program = theatre.start(
        """
        from flashq import Endpoint
        from flashq.errors import ResultExpired

        @Endpoint(name="fails-stopped", cpu="any", result_ttl=1)
        def work(gate):
            while not os.path.exists(gate):
                time.sleep(0.01)
            return 5

        job = work.spawn(os.path.abspath("gate"))
        tell(id=job.id)
        try:
            tell(value=job.result(60))
        except ResultExpired as error:
            tell(expired=str(error))
        """,
        serve="fails-stopped",
    )
    job = program.wait_for("id")
    wait_until(lambda: theatre.state(job) == "running", what="it runs")
    halt(program.process.pid)

    # If the job ends, and its result expires, before the program goes on and its connection is found dead
    (program.folder / "gate").touch()
    wait_until(lambda: theatre.state(job) in ("finished", ""), what="it ended")
    theatre.broker.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: not theatre.broker.execute("HEXISTS", f"rq:job:{job}", "fq_outcome"), 15, "it expired")
    program.process.send_signal(signal.SIGCONT)

    # Expect ResultExpired, naming the job; not a wait without end
    said = program.end()
    assert job in said.get("expired", ""), said


def test_a_value_that_was_received_does_not_expire_here(theatre: Stage) -> None:
    # If a job completed and its caller looks at it after its result_ttl, expect the value
    job = brief.spawn(3)
    wait_until(lambda: job.done, what="done")
    key = theatre.broker.keys.of("job", job.id)
    wait_until(
        lambda: not theatre.broker.execute("HEXISTS", key, "fq_outcome"), 15, "the broker has dropped it"
    )
    assert job.result(1) == 3
    assert job.output == 3


def test_status_of_a_completed_job_whose_result_expired(theatre: Stage) -> None:
    # If the state of such a job is asked for, expect it to be COMPLETED still, or to be told that it is gone
    job = brief.spawn(4)
    assert job.result(10) == 4
    key = theatre.broker.keys.of("job", job.id)
    wait_until(
        lambda: not theatre.broker.execute("HEXISTS", key, "fq_outcome"), 15, "the broker has dropped it"
    )
    assert job.status().result() is Status.COMPLETED


@pytest.mark.parametrize(
    ("what", "sign"),
    [("exit", "7"), ("abort", "SIGABRT"), ("kill", "SIGKILL")],
    ids=["_exit", "abort", "kill"],
)
def test_a_function_that_takes_its_process_with_it(theatre: Stage, runs: Path, what: str, sign: str) -> None:
    # If a function ends its process each time it runs
    job = bad.spawn(what, str(runs))
    with pytest.raises(WorkerCrashed) as raised:
        job.result(30)

    # Expect WorkerCrashed with how it ended, after three runs at most; the worker goes on with the next job
    assert sign in str(raised.value)
    assert raised.value.job_id == job.id
    if what == "exit":
        assert "about to leave" in str(raised.value)
        assert 1 < len(runs.read_text()) <= 3
    assert job.status().result() is Status.FAILED
    assert bad.spawn("pid").result(10)


def test_a_crash_is_survived_within_its_budget(theatre: Stage, runs: Path) -> None:
    job = bad.spawn("exit once", str(runs))
    assert job.result(20) == "second run"


def test_sys_exit_ends_the_job_not_the_executor(theatre: Stage) -> None:
    pid = bad.remote("pid")
    job = bad.spawn("sys.exit")
    with pytest.raises(BaseException, match="on purpose"):
        job.result(10)
    assert bad.remote("pid") == pid


def test_infinite_recursion_is_a_recursion_error(theatre: Stage) -> None:
    pid = bad.remote("pid")
    with pytest.raises(RecursionError):
        bad.spawn("recurse").result(20)
    assert bad.remote("pid") == pid


def test_megabytes_of_output_neither_block_nor_fill_memory(theatre: Stage) -> None:
    # If a function prints 30 MB, expect it to end well, and what is kept of it to be bounded
    job = bad.spawn("print", 30_000)
    assert job.result(30) == "printed"
    lines = list(job.logs())
    assert lines
    assert sum(map(len, lines)) < 20_000_000
    used = theatre.broker.execute("MEMORY", "USAGE", theatre.broker.keys.of("logs", job.id))
    assert used < 20_000_000


def test_a_function_that_ignores_every_signal_is_stopped(theatre: Stage) -> None:
    with pytest.raises(JobTimedOut):
        bad.with_options(timeout_s=0.3).spawn("terminate", 60).result(20)
    assert bad.spawn("pid").result(10)


def test_a_function_that_holds_the_interpreters_lock_is_stopped(theatre: Stage) -> None:
    # If a function is deep in C code past its timeout, and past its worker's lease
    begun = time.monotonic()
    with pytest.raises(JobTimedOut):
        bad.with_options(timeout_s=2.5).spawn("lock", 10**11).result(30)

    # Expect it stopped in time, with one run: no false alarm that its worker was lost
    assert time.monotonic() - begun < 15
    assert bad.spawn("pid").result(10)


def test_a_process_that_a_function_left_behind_ends_with_its_executor(theatre: Stage, runs: Path) -> None:
    # Given a process that a function started and left
    child = bad.remote("fork")
    assert alive(child)

    # If the executor dies, expect that process to end too
    bad.spawn("exit once", str(runs)).result(20)
    wait_until(lambda: not alive(child), what="the left process ended")


def test_a_function_that_closes_every_descriptor_loses_nothing_but_itself(theatre: Stage) -> None:
    # If a function closes what the executor needs, expect its job to end, and the next to run
    job = bad.spawn("close")
    wait_until(lambda: job.done, 30, "it ended")
    assert bad.spawn("pid").result(10)


def test_standard_input_is_empty(theatre: Stage) -> None:
    assert bad.spawn("stdin").result(10) == ""
