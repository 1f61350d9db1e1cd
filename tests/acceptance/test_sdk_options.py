"""`with_options`: idempotency key, priority, delay, ttl and timeout of single calls; and the endpoint's own."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, EndpointJob, Status
from flashq.errors import IdempotencyConflict, JobExpired, JobTimedOut, WaitTimeout
from tests.acceptance.stage import Stage, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(30)]


@Endpoint(name="options", cpu="any")
def note(path: str, word: str) -> str:
    """Append a word to a file."""
    with Path(path).open("a") as file:
        file.write(f"{word}\n")
    return word


@Endpoint(name="options-hold", cpu="any", execution_timeout_ms=400)
def hold(gate: str, seconds: float = 30) -> str:
    for _ in range(int(seconds * 100)):
        if Path(gate).exists():
            return "let go"
        time.sleep(0.01)
    return "slept"


@Endpoint(name="options-order", cpu="any")
def order(path: str, word: str, gate: str = "") -> None:
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    with Path(path).open("a") as file:
        file.write(f"{word}\n")


@Endpoint(name="options-swallow", cpu="any")
def stubborn(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.05)
        except BaseException:  # noqa: BLE001 — it will not be told to stop
            continue
    return "slept"


@Endpoint(name="options-coroutine", cpu="any", max_concurrency=2)
async def wait(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@Endpoint(name="options-unserved", cpu="any")
def unserved() -> str:
    return "served"


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        for endpoint in (note, hold, order, stubborn, wait):
            made.worker(endpoint)
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file for which jobs hold; it comes with the end of the test at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def due(theatre: Stage, job: EndpointJob[str]) -> bool:
    """Whether a job's time has come: looks as an autoscaler would, which there is none of here."""
    theatre.broker.run(theatre.broker.transitions.reap(job.endpoint, lease_ms=15_000))
    return theatre.state(job.id) == "queued"


def words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_one_key_is_one_job(theatre: Stage, tmp_path: Path) -> None:
    # Given a key, used twice
    path = tmp_path / "words"
    keyed = note.with_options(key="doc-17")
    first = keyed.spawn(str(path), "first")
    second = keyed.spawn(str(path), "first")

    # Expect one job, run once, and its value to both
    assert first.id == second.id
    assert (first.result(10), second.result(10)) == ("first", "first")
    assert words(path) == ["first"]

    # If the key is used again after its end, expect the value of then
    assert keyed.spawn(str(path), "first").result(10) == "first"
    assert words(path) == ["first"]


def test_a_key_is_awaited_too(theatre: Stage, tmp_path: Path) -> None:
    async def twice() -> list[str]:
        keyed = note.with_options(key="awaited")
        jobs = [keyed(str(tmp_path / "w"), "a") for _ in range(2)]
        return [await job.wait(10) for job in jobs]

    assert asyncio.run(twice()) == ["a", "a"]
    assert words(tmp_path / "w") == ["a"]


def test_one_hundred_threads_with_one_key_make_one_job(theatre: Stage, tmp_path: Path) -> None:
    # If one key is used from many threads at once
    path = tmp_path / "words"
    gate = threading.Barrier(100)
    jobs: list[Any] = []

    def call() -> None:
        gate.wait(20)
        jobs.append(note.with_options(key="rush").spawn(str(path), "one"))

    threads = [threading.Thread(target=call) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    # Expect one job, run once, all of them with its value
    assert len(jobs) == 100
    assert len({job.id for job in jobs}) == 1
    assert [job.result(10) for job in jobs] == ["one"] * 100
    assert words(path) == ["one"]


def test_different_keys_are_different_jobs_and_keys_are_the_endpoints_own(
    theatre: Stage, tmp_path: Path
) -> None:
    # If two keys are used, and one of them on two endpoints
    path = str(tmp_path / "words")
    first, second = (note.with_options(key=key).spawn(path, key) for key in ("k1", "k2"))
    other = order.with_options(key="k1")

    # Expect three jobs; or, on the other endpoint, a clear conflict, never the first one's value
    assert first.id != second.id
    try:
        assert other.spawn(path, "other").result(10) is None
    except IdempotencyConflict:
        return
    assert "other" in words(tmp_path / "words")


def test_a_key_in_another_process_gives_the_same_job(theatre: Stage, tmp_path: Path) -> None:
    # Given a program that calls with a key, and is run twice
    program = """
    from flashq import Endpoint

    @Endpoint(name="options-script", cpu="any")
    def note(path):
        with open(path, "a") as file:
            file.write("ran ")
        return "value"

    job = note.with_options(key="nightly").spawn(sys.argv[1])
    tell(id=job.id, value=job.result(20))
    """
    path = tmp_path / "words"
    said = [theatre.run(program, str(path), serve="options-script") for _ in range(2)]

    # Expect the second to get the first's job and value
    assert said[0] == said[1]
    assert said[0]["value"] == "value"
    assert words(path) == ["ran"]


def test_the_more_urgent_goes_first(theatre: Stage, tmp_path: Path, gate: Path) -> None:
    # Given a worker that is held, while jobs of several priorities come, the last the most urgent
    path = tmp_path / "words"
    first = order.spawn(str(path), "held", str(gate))
    wait_until(lambda: first.status().result() is Status.IN_PROGRESS, what="the worker is held")
    jobs = [order.spawn(str(path), f"normal-{n}") for n in range(3)]
    jobs += [order.with_options(priority=-5).spawn(str(path), "low")]
    jobs += [order.with_options(priority=5).spawn(str(path), f"high-{n}") for n in range(3)]
    jobs += [order.with_options(priority=9).spawn(str(path), "urgent")]

    # If it is let go, expect them by priority, and by age within each
    gate.touch()
    for job in jobs:
        job.result(20)
    done = words(path)
    # What a worker had at hand already may come before: one job at most.
    done.remove("held")
    rank = {
        "urgent": 0,
        "high-0": 1,
        "high-1": 2,
        "high-2": 3,
        "normal-0": 4,
        "normal-1": 5,
        "normal-2": 6,
        "low": 7,
    }
    assert [rank[word] for word in done if word != "normal-0"] == [0, 1, 2, 3, 5, 6, 7]
    assert done.index("normal-0") in (0, 4)


def test_a_delayed_job_runs_no_sooner(theatre: Stage, tmp_path: Path) -> None:
    # If a call is delayed
    path = tmp_path / "words"
    begun = time.monotonic()
    late = note.with_options(delay_s=1.0).spawn(str(path), "late")
    soon = note.spawn(str(path), "soon")
    assert soon.result(10) == "soon"

    # Expect it in the queue until then, and to run soon after
    assert late.status().result() is Status.IN_QUEUE
    assert not late.done
    assert late.result(10) == "late"
    assert 1.0 <= time.monotonic() - begun < 4.0
    assert words(path) == ["soon", "late"]


def test_a_delayed_job_knows_whether_it_was_cold_once_it_ran(theatre: Stage, tmp_path: Path) -> None:
    # Given an endpoint without a worker, and one with an idle one
    cold = unserved.with_options(delay_s=0.2).spawn()
    warm = note.with_options(delay_s=0.2).spawn(str(tmp_path / "words"), "warm")

    # If a delayed call is made of each, expect nothing said before its time, and the truth after
    assert (cold.cold_start, warm.cold_start) == (None, None)
    assert warm.result(20) == "warm"
    assert warm.cold_start is False
    wait_until(lambda: due(theatre, cold), what="its time has come")
    theatre.worker(unserved)
    assert cold.result(20) == "served"
    assert cold.cold_start is True
    startup = cold.timing.startup
    assert startup, "it waited for a start"
    assert startup["claim"] < 5


def test_a_ttl_counts_from_the_end_of_the_delay(theatre: Stage, tmp_path: Path, gate: Path) -> None:
    # If a call may wait for less long than it is delayed, expect it to run all the same
    short = note.with_options(delay_s=1.0, ttl_s=0.9)
    assert short.spawn(str(tmp_path / "words"), "in time").result(20) == "in time"

    # Unless nobody takes it within its ttl after the delay
    first = order.spawn(str(tmp_path / "order"), "held", str(gate))
    wait_until(lambda: first.status().result() is Status.IN_PROGRESS, what="the worker is held")
    late = order.with_options(delay_s=0.5, ttl_s=0.3).spawn(str(tmp_path / "order"), "late")
    with pytest.raises(JobExpired):
        late.result(20)
    assert late.timing.total_s is not None
    assert late.timing.total_s >= 0.8


def test_a_delayed_job_can_be_cancelled(theatre: Stage, tmp_path: Path) -> None:
    job = note.with_options(delay_s=3600).spawn(str(tmp_path / "w"), "never")
    job.cancel().result()
    assert job.status().result() is Status.CANCELLED


def test_a_job_that_waits_past_its_ttl_expires_unrun(theatre: Stage, tmp_path: Path, gate: Path) -> None:
    # Given a worker that is held, and a call with a short time to live behind it
    path = tmp_path / "words"
    first = order.spawn(str(path), "held", str(gate))
    wait_until(lambda: first.status().result() is Status.IN_PROGRESS, what="the worker is held")
    job = order.with_options(ttl_s=0.5).spawn(str(path), "expired")

    # If its time passes, expect JobExpired while the worker is still held, and a terminal state
    with pytest.raises(JobExpired):
        job.result(10)
    assert job.done
    status = job.status().result()
    assert status not in (Status.IN_QUEUE, Status.IN_PROGRESS, Status.COMPLETED)
    gate.touch()
    first.result(10)
    order.remote(str(path), "after")
    assert words(path) == ["held", "after"]
    assert job.status().result() is status


def test_a_ttl_does_not_end_a_job_that_runs(theatre: Stage, tmp_path: Path, gate: Path) -> None:
    # If a job is taken within its ttl and runs past it, expect its value
    path = tmp_path / "words"
    job = order.with_options(ttl_s=4).spawn(str(path), "ran", str(gate))
    wait_until(lambda: job.status().result() is Status.IN_PROGRESS, what="it runs")
    with pytest.raises(WaitTimeout):
        job.result(4.2)
    gate.touch()
    assert job.result(10) is None
    assert words(path) == ["ran"]


def test_the_calls_timeout_comes_before_the_endpoints(theatre: Stage, tmp_path: Path, gate: Path) -> None:
    # Given an endpoint with an execution timeout of 400 ms
    # If a call says nothing, expect the endpoint's; if it asks for more or less, expect that
    begun = time.monotonic()
    with pytest.raises(JobTimedOut):
        hold.remote(str(gate))
    assert 0.4 <= time.monotonic() - begun < 5
    with pytest.raises(JobTimedOut):
        hold.with_options(timeout_s=0.1).remote(str(gate))
    assert hold.with_options(timeout_s=5).remote(str(gate), 0.8) == "slept"


def test_a_timeout_counts_execution_not_the_queue(theatre: Stage, tmp_path: Path, gate: Path) -> None:
    # Given a held worker, and behind it a call that may run for half a second
    path = tmp_path / "words"
    first = order.spawn(str(path), "held", str(gate))
    wait_until(lambda: first.status().result() is Status.IN_PROGRESS, what="the worker is held")
    job = order.with_options(timeout_s=0.5).spawn(str(path), "quick")

    # If it waits for longer than that, expect it to run all the same
    with pytest.raises(WaitTimeout):
        job.result(0.8)
    gate.touch()
    assert job.result(10) is None


def test_a_timeout_ends_even_what_will_not_be_told(theatre: Stage) -> None:
    # If a function swallows every exception, expect its timeout to hold all the same, and the next call to run
    begun = time.monotonic()
    with pytest.raises(JobTimedOut):
        stubborn.with_options(timeout_s=0.3).remote(30)
    assert time.monotonic() - begun < 10
    assert stubborn.remote(0.01) == "slept"


def test_a_timeout_ends_one_coroutine_and_not_its_neighbour(theatre: Stage) -> None:
    # Given two coroutines side by side in one executor
    neighbour = wait.spawn(1.5)

    # If one is out of time, expect the other to complete, undisturbed
    with pytest.raises(JobTimedOut):
        wait.with_options(timeout_s=0.2).remote(30)
    assert neighbour.result(10) == "slept"
    assert neighbour.timing.attempts == 1


def test_options_of_a_map_hold_for_each_call(theatre: Stage, tmp_path: Path) -> None:
    path = str(tmp_path / "words")
    begun = time.monotonic()
    assert list(note.with_options(delay_s=0.5).map([path] * 3, ["a", "b", "c"])) == ["a", "b", "c"]
    assert time.monotonic() - begun >= 0.5


def test_with_a_key_a_map_would_be_one_job_so_it_is_refused(theatre: Stage, tmp_path: Path) -> None:
    # If a map is asked for with one key for all its calls, expect a refusal, not the first one's value thrice
    path = str(tmp_path / "words")
    with pytest.raises(ValueError, match="key"):
        list(note.with_options(key="all").map([path] * 3, ["a", "b", "c"]))
