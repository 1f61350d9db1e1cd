"""Stock RQ's tools on flashq's data: what they show is true, what they do is safe, no user code runs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import (
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result

from flashq.cli import flashq
from flashq.model.lifecycle import JobState, Status
from flashq.store import queries_jobs, queries_queues
from flashq.store.broker import Broker
from tests.integration.fabricated import LEASE_MS, Fabricated
from tests.rig import SECRET, BrokerServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def server() -> Iterator[BrokerServer]:
    with closing(BrokerServer(appendonly="no")) as server:
        yield server


@pytest.fixture
def broker(server: BrokerServer) -> Iterator[Broker]:
    with closing(Broker(server.url)) as broker:
        broker.execute("FLUSHALL")
        yield broker


@pytest.fixture
def made(broker: Broker) -> Fabricated:
    made = Fabricated(broker)
    made.endpoint()
    return made


@pytest.fixture
def stock(broker: Broker) -> Iterator[Redis]:
    with closing(broker.redis()) as connection:
        yield connection


def rq(broker: Broker, *args: str) -> str:
    """What the `rq` program prints."""
    program = Path(sys.executable).with_name("rq")
    done = subprocess.run(
        [program, args[0], "--url", broker.url, *args[1:]],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def state(broker: Broker, job: str) -> JobState | None:
    return broker.run(broker.transitions.watch([job]))[0].state


def reap(broker: Broker) -> int:
    """How many jobs the reaper took back or ended after what a tool of RQ did to them."""
    return broker.run(broker.transitions.reap("embed", lease_ms=LEASE_MS)).adopted


# -- looking -----------------------------------------------------------------------------------------


def test_rq_info_counts_queues_and_workers(broker: Broker, made: Fabricated) -> None:
    made.ended()
    made.ended("failed")
    made.job()
    worker = made.worker()
    made.claim(worker)
    made.job()
    made.job()
    idle = made.idle_worker()

    queues = rq(broker, "info", "--raw", "--only-queues").splitlines()
    workers = rq(broker, "info", "--only-workers")

    assert queues[0] == "queue embed 2, 1 executing, 1 finished, 1 failed"
    assert f"{worker}" in workers
    assert "busy" in workers
    assert f"{idle}" in workers
    assert "2 workers, " in workers


def test_job_fetch_tells_what_happened(made: Fabricated, stock: Redis) -> None:
    waiting_for = made.ended("finished")
    started = datetime.now(UTC)

    job = Job.fetch(waiting_for, connection=stock)

    assert job.get_status() is JobStatus.FINISHED
    assert (job.origin, job.description) == ("embed", "embed(4 bytes)")
    for at in (job.created_at, job.enqueued_at, job.started_at, job.ended_at):
        assert at is not None
        assert abs(at.replace(tzinfo=UTC) - started) < timedelta(minutes=1)
    result = job.latest_result()
    assert result is not None
    assert result.type is Result.Type.SUCCESSFUL
    assert job.return_value() is None


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("finished", JobStatus.FINISHED),
        ("failed", JobStatus.FAILED),
        ("timed_out", JobStatus.FAILED),
        ("cancelled", JobStatus.CANCELED),
    ],
)
def test_every_ending_has_a_status_of_rq(
    made: Fabricated, stock: Redis, ending: str, status: JobStatus
) -> None:
    job = Job.fetch(made.ended(ending), connection=stock)

    assert job.get_status() is status


def test_registries_hold_what_they_are_named_for(made: Fabricated, stock: Redis) -> None:
    finished, failed = made.ended(), made.ended("failed")
    timed_out, cancelled = made.ended("timed_out"), made.ended("cancelled")
    started = made.job()
    made.claim(made.worker())
    queued, scheduled = made.job(), made.job(delay_ms=3_600_000)

    def ids(registry: type[Any]) -> list[str]:
        return sorted(registry("embed", connection=stock).get_job_ids())

    assert Queue("embed", connection=stock).job_ids == [queued]
    assert ids(FinishedJobRegistry) == [finished]
    assert ids(FailedJobRegistry) == [failed, timed_out]
    assert ids(CanceledJobRegistry) == [cancelled]
    assert ids(StartedJobRegistry) == [started]
    assert ids(ScheduledJobRegistry) == [scheduled]


def test_workers_are_listed(broker: Broker, made: Fabricated, stock: Redis) -> None:
    worker = made.idle_worker()

    (found,) = Worker.all(queue=Queue("embed", connection=stock))

    assert found.name == worker
    assert found.get_state() == "idle"
    assert Worker.count(connection=stock) == 1


def test_a_look_with_stock_tools_changes_nothing(broker: Broker, made: Fabricated, stock: Redis) -> None:
    made.ended("failed")
    job = made.job()
    worker = made.worker()
    made.claim(worker)
    before = queries_jobs.jobs(broker)

    rq(broker, "info")
    for row in before:
        Job.fetch(row.id, connection=stock).get_status()
    StartedJobRegistry("embed", connection=stock).cleanup()

    assert queries_jobs.jobs(broker) == before
    assert state(broker, job) is JobState.RUNNING
    assert reap(broker) == 0


# -- acting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["failed", "timed_out"])
def test_requeue_begins_a_failed_job_anew(
    broker: Broker, made: Fabricated, stock: Redis, ending: str
) -> None:
    job = made.ended(ending)

    FailedJobRegistry("embed", connection=stock).requeue(job)
    (claimed,) = made.claim(made.worker())

    assert (claimed.job, claimed.generation) == (job, 1)
    assert broker.execute("TTL", broker.keys.of("job", job)) == -1
    made.finish(claimed)
    assert state(broker, job) is JobState.FINISHED


def test_the_requeue_command(broker: Broker, made: Fabricated) -> None:
    jobs = [made.ended("failed") for _ in range(3)]

    rq(broker, "requeue", "--queue", "embed", "--all")

    assert sorted(c.job for c in made.claim(made.worker(), count=5)) == jobs


def test_a_finished_job_that_is_requeued_stays_finished(
    broker: Broker, made: Fabricated, stock: Redis
) -> None:
    job = made.ended()

    Queue("embed", connection=stock).enqueue_job(Job.fetch(job, connection=stock))

    assert made.claim(made.worker()) == []
    assert state(broker, job) is JobState.FINISHED
    assert Job.fetch(job, connection=stock).get_status() is JobStatus.FINISHED


def test_cancel_ends_a_waiting_job(broker: Broker, made: Fabricated, stock: Redis) -> None:
    job, other = made.job(), made.job()

    Job.fetch(job, connection=stock).cancel()
    claimed = made.claim(made.worker(), count=2)

    assert [c.job for c in claimed] == [other]
    assert state(broker, job) is JobState.CANCELLED
    assert queries_jobs.job(broker, job).error == "cancelled with a tool of RQ"


def test_cancel_is_noticed_by_the_reaper(broker: Broker, made: Fabricated, stock: Redis) -> None:
    job = made.job()
    Job.fetch(job, connection=stock).cancel()

    assert reap(broker) == 1
    assert queries_jobs.job(broker, job).status is Status.CANCELLED


def test_cancel_of_a_running_job_reaches_its_worker(broker: Broker, made: Fabricated, stock: Redis) -> None:
    job, worker = made.job(), made.worker()
    (claimed,) = made.claim(worker)

    Job.fetch(job, connection=stock).cancel()
    renew = broker.transitions.renew("embed", worker, lease_ms=LEASE_MS, jobs=[(job, claimed.fence)])

    assert broker.run(renew).jobs == ("cancel",)


def test_a_finished_job_that_is_cancelled_keeps_its_outcome(
    broker: Broker, made: Fabricated, stock: Redis
) -> None:
    job = made.ended(outcome=b"signed")

    Job.fetch(job, connection=stock).cancel()
    reap(broker)

    (watched,) = broker.run(broker.transitions.watch([job]))
    assert (watched.state, watched.outcome) == (JobState.FINISHED, b"signed")


@pytest.mark.parametrize("running", [False, True])
def test_delete(broker: Broker, made: Fabricated, stock: Redis, running: bool) -> None:
    job, worker = made.job(), made.worker()
    held = made.claim(worker) if running else []

    Job.fetch(job, connection=stock).delete()

    with pytest.raises(NoSuchJobError):
        Job.fetch(job, connection=stock)
    assert made.claim(worker) == []
    assert queries_jobs.jobs(broker) == []
    assert state(broker, job) is None
    for claimed in held:
        renew = broker.transitions.renew("embed", worker, lease_ms=LEASE_MS, jobs=[(job, claimed.fence)])
        assert broker.run(renew).jobs == ("lost",)


def test_empty_removes_what_waits_and_nothing_else(broker: Broker, made: Fabricated, stock: Redis) -> None:
    running = made.job()
    made.claim(made.worker())
    waiting = [made.job() for _ in range(3)]
    sibling = made.job(priority=1)

    Queue("embed", connection=stock).empty()  # type: ignore[no-untyped-call]

    assert [state(broker, job) for job in waiting] == [None] * 3
    assert state(broker, running) is JobState.RUNNING
    assert [c.job for c in made.claim(made.worker(), count=5)] == [sibling]


def test_the_empty_command(broker: Broker, made: Fabricated) -> None:
    made.job()

    rq(broker, "empty", "embed")

    assert queries_queues.queues(broker)[0].queued == 0


# -- a stray worker ----------------------------------------------------------------------------------


def test_a_stray_rq_worker_runs_nothing_and_what_it_touched_is_taken_back(
    broker: Broker, made: Fabricated, stock: Redis
) -> None:
    jobs = [made.job() for _ in range(3)]

    said = rq(broker, "worker", "--burst", "embed")

    assert "start `flashq host` to run it, not `rq worker`" in said
    assert [Job.fetch(job, connection=stock).get_status() for job in jobs] == [JobStatus.FAILED] * 3
    assert [state(broker, job) for job in jobs] == [JobState.QUEUED] * 3
    assert reap(broker) == 3
    assert [Job.fetch(job, connection=stock).get_status() for job in jobs] == [JobStatus.QUEUED] * 3
    assert FailedJobRegistry("embed", connection=stock).get_job_ids() == []

    claimed = made.claim(made.worker(), count=5, start=5)

    assert sorted(c.job for c in claimed) == jobs
    assert [broker.execute("TTL", broker.keys.of("job", job)) for job in jobs] == [-1] * 3
    for one in claimed:
        made.finish(one)
    assert {state(broker, job) for job in jobs} == {JobState.FINISHED}


def test_an_event_names_the_stray_worker(broker: Broker, made: Fabricated) -> None:
    made.job()
    rq(broker, "worker", "--burst", "--name", "stray-1", "embed")

    reap(broker)

    kept: Any = broker.redis().xrange(broker.keys.of("events"))
    events = [fields for _, fields in kept]
    adopted = [event for event in events if event[b"kind"] == b"job-adopted"]
    assert [event[b"text"] for event in adopted] == [b"failed by a stray rq worker stray-1"]


# -- stock jobs and evil ones ------------------------------------------------------------------------


def test_a_stock_job_on_our_queue_is_parked_and_shown(broker: Broker, made: Fabricated, stock: Redis) -> None:
    stray = Queue("embed", connection=stock).enqueue("os.getcwd")
    job = made.job()

    claimed = made.claim(made.worker(), count=5)
    result = run("queues", "--json", broker=broker)

    assert [c.job for c in claimed] == [job]
    (row,) = json.loads(result)
    assert (row["parked"], row["queued"], row["in_progress"]) == (1, 0, 1)
    assert Job.fetch(stray.id, connection=stock).func_name == "os.getcwd"
    assert [row.id for row in queries_jobs.jobs(broker)] == [job]


def run(*args: str, broker: Broker, code: int = 0) -> str:
    """A flashq command's output."""
    environ = {"FLASHQ_REDIS_URL": broker.url, "FLASHQ_SECRET_KEY": SECRET.hex()}
    result = CliRunner().invoke(flashq, args, env=environ)
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


class Evil:
    """Unpickling one leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_an_evil_pickle_is_never_loaded_by_our_tools(
    broker: Broker, made: Fabricated, stock: Redis, tmp_path: Path
) -> None:
    trace = tmp_path / "loaded"
    evil = pickle.dumps(Evil(trace))
    failed, waiting, stray = (
        made.ended("failed"),
        made.job(),
        Queue("embed", connection=stock).enqueue("f").id,
    )
    for job in (failed, waiting, stray):
        made.set("job", job, data=evil, meta=evil, fq_call=evil, fq_outcome=evil, result=evil)
        stock.xadd(broker.keys.of("results", job), {"type": 1, "return_value": evil})
        broker.run(broker.transitions.log(job, 1, 0, evil))
    made.set("endpoint", "embed", env=evil)

    for command in ("endpoints", "queues", "jobs", "workers", "hosts"):
        run(command, broker=broker)
        run(command, "--json", broker=broker)
    for job in (failed, waiting):
        run("job", job, broker=broker)
        run("logs", job, broker=broker)
    run("job", stray, broker=broker, code=3)
    run("retry", failed, broker=broker)
    run("cancel", waiting, broker=broker)
    made.claim(made.worker(), count=5)
    reap(broker)

    assert not trace.exists()
    pickle.loads(evil)
    assert trace.exists()
