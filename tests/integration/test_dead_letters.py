"""Jobs that failed for good: listed, begun anew, deleted, from the command line and from Python. Row 30."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from rq import Queue as RqQueue
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from flashq import Endpoint, Queue, Status
from flashq.errors import EndpointNotFound, JobNotFound, UnsupportedCall, WorkerCrashed
from tests.integration.command_line import CommandLine
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="mortal", cpu="any", max_deliveries=1)
def mortal(what: str, mended: str = "") -> str:
    """Fails as asked, until the file is there."""
    if mended and Path(mended).exists():
        return "well"
    if what == "exit":
        os._exit(9)
    if what == "raise":
        raise ValueError("no\nand a second line")
    return what


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        made.ready_worker(mortal)
        yield made


@pytest.fixture
def cli(shared: Rig, tmp_path: Path) -> CommandLine:
    mortal.queue.purge(failed=True)
    return CommandLine(shared.server.url, tmp_path)


def fail(what: str, mended: str = "", **options: Any) -> str:
    """A job that failed; its id."""
    job = mortal.with_options(**options).spawn(what, mended)
    wait_until(lambda: job.done, what="it failed")
    assert job.error is not None
    return job.id


def finished(made: Rig, *jobs: str) -> None:
    wait_until(
        lambda: {made.job_field(job, "fq_state") for job in jobs} == {"finished"}, what="they completed"
    )


def test_the_list_says_why_and_after_how_many_runs(cli: CommandLine) -> None:
    raised, crashed = fail("raise"), fail("exit", priority=3)
    rows = cli.rows("jobs", "--dead")

    assert [row["id"] for row in rows] == [crashed, raised], "the latest first, whatever their queue"
    assert {k: rows[0][k] for k in ("reason", "status", "attempts", "losses", "retries")} == {
        "reason": "lost",
        "status": "FAILED",
        "attempts": 1,
        "losses": 1,
        "retries": 0,
    }
    assert (rows[1]["reason"], rows[1]["error"]) == ("exception", "ValueError: no\nand a second line")
    assert [row["id"] for row in cli.rows("jobs", "--dead", "--reason", "exception")] == [raised]
    assert cli.rows("jobs", "--dead", "--endpoint", "mortal", "--limit", "1")[0]["id"] == crashed
    assert "no dead jobs" in cli("jobs", "--dead", "--reason", "timeout").stderr
    for wrong in (["--dead", "--status", "failed"], ["--reason", "lost"]):
        cli("jobs", *wrong, code=2)


def test_one_or_all_or_those_of_a_reason_are_begun_anew(
    cli: CommandLine, shared: Rig, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    jobs = [fail("raise", str(mended)) for _ in range(3)]
    crashed = fail("exit", str(mended))
    mended.touch()

    assert cli("retry", jobs[0]).stdout == f"{jobs[0]}: queued again\n"
    assert (
        cli("retry", "--endpoint", "mortal", "--reason", "exception").stdout
        == "mortal: 2 failed jobs queued again\n"
    )
    finished(shared, *jobs)
    assert cli("retry", "--endpoint", "mortal").stdout == "mortal: 1 failed job queued again\n"
    finished(shared, crashed)
    assert cli.rows("jobs", "--dead") == []
    for wrong in ([], [jobs[0], "--endpoint", "mortal"], [jobs[0], "--reason", "lost"]):
        cli("retry", *wrong, code=2)
    cli("retry", "--endpoint", "nobody", code=3)


def test_failed_jobs_are_purged_and_what_waits_stays(cli: CommandLine, shared: Rig) -> None:
    jobs = [fail("raise"), fail("raise"), fail("exit")]
    mortal.queue.pause()
    waiting = mortal.spawn("x")
    assert cli("purge", "mortal", "--failed", "--reason", "lost").stdout == "mortal: 1 failed job deleted\n"
    assert cli("purge", "mortal", "--failed").stdout == "mortal: 2 failed jobs deleted\n"
    cli("purge", "mortal", "--reason", "lost", code=2)
    assert waiting.status().result() is Status.IN_QUEUE
    assert not any(shared.job_field(job, "fq_state") for job in jobs)
    assert cli("purge", "mortal").stdout == "mortal: 1 waiting job cancelled\n"
    mortal.queue.resume()
    cli("job", jobs[0], code=3)


def test_from_python_a_queue_is_looked_after_alike(cli: CommandLine, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    job = mortal.spawn("exit", str(mended))
    with pytest.raises(WorkerCrashed):
        job.result(20)
    (dead,) = Queue("mortal").failed()
    assert (dead.id, dead.reason, dead.losses) == (job.id, "lost", 1)
    mended.touch()

    again = job.requeue().result(10)
    assert again.result(20) == "well"
    assert (job.status().result(), again.id) == (Status.FAILED, job.id), "a handle keeps the end that it had"
    with pytest.raises(UnsupportedCall, match="finished"):
        again.requeue().result(10)

    other = fail("raise")
    assert mortal.queue.failed(reason="lost") == []
    assert mortal.queue.requeue() == 1
    wait_until(lambda: [dead.id for dead in mortal.queue.failed()] == [other], what="it failed again")
    assert mortal.queue.purge(failed=True, reason="exception") == 1
    with pytest.raises(ValueError, match="failed=True"):
        mortal.queue.purge(reason="lost")
    with pytest.raises(EndpointNotFound):
        Queue("nobody").failed()


def test_what_was_deleted_cannot_be_requeued(cli: CommandLine) -> None:
    job = mortal.spawn("raise")
    wait_until(lambda: job.done, what="it failed")
    mortal.queue.purge(failed=True)
    with pytest.raises(JobNotFound):
        job.requeue().result(10)
    assert re.search("never there, or deleted", cli("retry", job.id, code=3).stderr)


def test_requeueing_all_while_they_run_and_fail_again_loses_none(cli: CommandLine, shared: Rig) -> None:
    """Three people requeue the same failed jobs while a worker fails them again: each is there, failed, once."""
    jobs = {fail("raise") for _ in range(60)}
    counts: list[int] = []
    people = [
        threading.Thread(target=lambda: counts.extend(Queue("mortal").requeue() for _ in range(5)))
        for _ in range(3)
    ]
    for person in people:
        person.start()
    for person in people:
        person.join(60)

    assert sum(counts) >= 60
    wait_until(
        lambda: len(mortal.queue) == 0 and not shared.broker.execute("ZCARD", "rq:fq:leases:mortal"), 60
    )
    found = mortal.queue.failed(limit=1000)
    assert sorted(row.id for row in found) == sorted(jobs)
    generations = [int(shared.job_field(job, "fq_gen")) for job in jobs]
    assert sum(generations) == sum(counts), "each count is one beginning anew"


def test_stock_rq_requeues_what_failed(cli: CommandLine, shared: Rig, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    jobs = [fail("raise", str(mended)) for _ in range(2)]
    mended.touch()
    with Redis.from_url(shared.server.url) as connection:
        queue = RqQueue("mortal", connection=connection, serializer=JSONSerializer)
        registry = FailedJobRegistry(queue=queue)
        assert set(registry.get_job_ids()) == set(jobs)
        for job in jobs:
            registry.requeue(job)
        finished(shared, *jobs)
        assert set(registry.get_job_ids()) == set()
    assert mortal.queue.failed() == []
