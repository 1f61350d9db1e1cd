"""What a job tells of itself while it runs, and what it is told: progress, and that it is to stop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import flashq
from flashq import Endpoint
from flashq.errors import JobCancelled, PayloadTooLarge, SerializationError
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="steps", cpu="any", workers=(0, 1))
def steps(how: str, gate: str = "") -> Any:
    job = flashq.current()
    match how:
        case "many":
            for number in range(20_000):
                job.progress({"done": number})
        case "thread":
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(job.progress, "from a thread"))
            thread.start()
            thread.join()
        case "nan":
            job.progress(float("nan"))
        case "large":
            job.progress("x" * 5000)
        case "watched":
            _watch(Path(gate))
        case _:
            job.progress([how, None, 0.5])
    while gate and how != "watched" and not Path(gate).exists():
        time.sleep(0.01)
    return job.cancelled


def _watch(path: Path) -> None:
    """Sleep in the main thread; a thread of its own notes that the job is to stop."""

    def look() -> None:
        while not flashq.current().cancelled:
            time.sleep(0.01)
        path.write_text("stopped")

    thread = threading.Thread(target=contextvars.copy_context().run, args=(look,))
    thread.start()
    try:
        time.sleep(60)
    finally:
        thread.join()


@Endpoint(name="async-steps", cpu="any", workers=(0, 1), max_concurrency=4)
async def async_steps(who: str, gate: str) -> bool:
    job = flashq.current()
    job.progress(who)
    await asyncio.to_thread(job.progress, f"{who} from a thread")
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return job.cancelled


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        made.ready_worker(steps)
        made.ready_worker(async_steps)
        yield made


def test_progress_is_seen_while_the_job_runs_and_after(shared: Rig, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = steps.spawn("half", str(gate))
    wait_until(lambda: job.progress() == ["half", None, 0.5], what="its progress")
    assert not job.done
    gate.touch()
    assert job.result(20) is False
    assert job.progress() == ["half", None, 0.5]


def test_of_many_words_the_last_is_kept_and_few_are_sent(shared: Rig) -> None:
    before = commands(shared)
    job = steps.spawn("many")
    job.result(30)
    assert job.progress() == {"done": 19_999}
    assert commands(shared) - before < 5_000


def commands(made: Rig) -> int:
    info = made.broker.execute("INFO", "stats").decode()
    return int(
        next(line.split(":")[1] for line in info.splitlines() if line.startswith("total_commands_processed"))
    )


def test_a_thread_of_the_job_may_tell(shared: Rig) -> None:
    job = steps.spawn("thread")
    job.result(20)
    assert job.progress() == "from a thread"


def test_jobs_that_run_at_once_tell_apart(shared: Rig, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = {who: async_steps.spawn(who, str(gate)) for who in "abc"}
    for who, job in jobs.items():
        wait_until(lambda job=job, who=who: job.progress() == f"{who} from a thread", what="its progress")  # type: ignore[misc]
    gate.touch()
    assert [job.result(20) for job in jobs.values()] == [False] * 3


@pytest.mark.parametrize(("how", "error"), [("nan", SerializationError), ("large", PayloadTooLarge)])
def test_what_is_no_progress_is_refused(shared: Rig, how: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="progress"):
        steps.remote(how)


def test_a_thread_learns_that_its_job_is_to_stop(shared: Rig, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    job = steps.spawn("watched", str(seen))
    wait_until(lambda: shared.job_field(job.id, "fq_state") == "running", what="it runs")
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(20)
    assert seen.read_text() == "stopped"
