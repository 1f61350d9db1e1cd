"""What the listings read, on a real broker with fabricated data."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from rq import Queue

from flashq.errors import BrokerUnreachable, EndpointNotFound, HostNotFound, JobNotFound
from flashq.model.lifecycle import Status
from flashq.store import queries, queries_fleet, queries_jobs, queries_queues
from flashq.store.broker import Broker
from flashq.store.queries import job_logs, job_timing
from tests.integration.fabricated import Fabricated
from tests.rig import BrokerServer, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    return Fabricated(broker)


# -- where a job's time went -------------------------------------------------------------------------

TIMES = {"fq_state": "finished", "fq_enqueued": "1000", "fq_claimed": "1250", "fq_began": "1300"}
TIMES |= {"fq_ended": "2300", "fq_attempts": "1"}
REPORT = '{"execution_ms": 900.5, "startup_ms": {"spawn": 120, "load": 40.5}}'


def test_timing_of_a_job_that_ended() -> None:
    timing = queries.timing_of({**TIMES, "fq_timing": REPORT}, "j")

    assert timing == {
        "queued_s": 0.25,
        "claimed_s": 0.05,
        "execution_s": 0.9005,
        "total_s": 1.3,
        "attempts": 1,
        "startup": {"spawn": 0.12, "load": 0.0405},
    }


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"fq_state": "queued", "fq_ended": ""}, {"queued_s", "claimed_s", "execution_s", "total_s"}),
        ({"fq_state": "scheduled", "fq_ended": ""}, {"queued_s", "claimed_s", "execution_s", "total_s"}),
        ({"fq_state": "claimed", "fq_began": "", "fq_ended": ""}, {"claimed_s", "execution_s", "total_s"}),
        (
            {"fq_state": "claimed", "fq_began": "1100", "fq_ended": ""},
            {"claimed_s", "execution_s", "total_s"},
        ),
        ({"fq_state": "running", "fq_ended": ""}, {"execution_s", "total_s"}),
        ({"fq_state": "cancelled", "fq_claimed": "", "fq_began": ""}, {"queued_s", "claimed_s"}),
        ({"fq_timing": ""}, {"execution_s"}),
        ({"fq_timing": "no JSON"}, {"execution_s"}),
        ({"fq_timing": "[1]"}, {"execution_s"}),
        ({"fq_timing": '{"execution_ms": "soon", "startup_ms": {}}'}, {"execution_s"}),
        ({"fq_timing": '{"startup_ms": 5}'}, {"execution_s"}),
    ],
)
def test_what_is_not_known_of_a_time_is_none(changes: dict[str, str], unknown: set[str]) -> None:
    timing = queries.timing_of({**TIMES, "fq_timing": REPORT, **changes}, "j")

    assert {name for name, value in timing.items() if value is None} == unknown


def test_a_start_that_an_earlier_attempt_waited_for_is_not_shown_with_a_new_one() -> None:
    timing = queries.timing_of({**TIMES, "fq_state": "running", "fq_timing": REPORT}, "j")

    assert timing["startup"] == {}


def test_timing_reads_the_job(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.ended(timing=REPORT)

    timing = job_timing(broker, job)

    assert timing["execution_s"] == 0.9005
    assert timing["attempts"] == 1
    assert timing["total_s"] >= timing["queued_s"] >= 0


def test_timing_of_no_job_of_ours(broker: Broker) -> None:
    broker.execute("HSET", broker.keys.of("job", "stock"), "status", "queued")

    for job in ("stock", "none"):
        with pytest.raises(JobNotFound, match=job):
            job_timing(broker, job)


# -- what it printed ---------------------------------------------------------------------------------


def write(broker: Broker, job: str, *pieces: bytes) -> None:
    length = broker.execute("XLEN", broker.keys.of("logs", job))
    for number, piece in enumerate(pieces, length):
        broker.run(broker.transitions.log(job, 1, number, piece))


def test_output_is_put_together_from_pieces(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    smile = "☺".encode()
    write(broker, job, b"one\ntw", b"o ", smile[:1], smile[1:] + b"\n\n", b"\xff and the rest")

    assert list(job_logs(broker, job)) == ["one", "two ☺", "", "� and the rest"]


def test_output_of_many_pieces(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    write(broker, job, *(b"%d\n" % n for n in range(450)))

    assert list(job_logs(broker, job)) == [str(n) for n in range(450)]


def test_a_line_without_end_is_shown_in_parts(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    write(broker, job, *[b"x" * 50_000] * 3)

    assert [len(line) for line in job_logs(broker, job)] == [100_000, 50_000]


def test_output_of_a_job_that_printed_nothing(broker: Broker, made: Fabricated) -> None:
    made.endpoint()

    assert list(job_logs(broker, made.job())) == []


@pytest.mark.parametrize("follow", [False, True])
def test_output_of_no_job(broker: Broker, follow: bool) -> None:
    with pytest.raises(JobNotFound):
        next(job_logs(broker, "embed-none", follow=follow))


@pytest.mark.parametrize("follow", [False, True])
def test_output_outlives_its_job(broker: Broker, follow: bool) -> None:
    write(broker, "embed-gone", b"last words\n")

    assert list(job_logs(broker, "embed-gone", follow=follow)) == ["last words"]


def test_following_ends_with_the_job_and_misses_nothing(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    worker, job = made.worker(), made.job()
    (claimed,) = made.claim(worker)
    write(broker, job, b"first\n")
    lines = job_logs(broker, job, follow=True)
    assert next(lines) == "first"

    def later() -> None:
        write(broker, job, b"sec", b"ond\n", b"third")
        made.finish(claimed)

    thread = threading.Thread(target=later)
    thread.start()

    assert list(lines) == ["second", "third"]
    thread.join()


def test_following_an_ended_job_prints_what_there_is(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.ended()
    write(broker, job, b"done\n")

    assert list(job_logs(broker, job, follow=True)) == ["done"]


def test_last_lines(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    write(broker, job, b"1\n2\n", b"3\n4")

    assert queries.last_lines(broker, job, 3) == ["2", "3", "4"]
    assert queries.last_lines(broker, "embed-none", 3) == []


# -- queues ------------------------------------------------------------------------------------------


def queue(broker: Broker, endpoint: str = "embed") -> queries_queues.ListedQueue:
    (row,) = [row for row in queries_queues.queues(broker) if row.endpoint == endpoint]
    return row


def test_nothing_is_listed_of_an_empty_broker(broker: Broker) -> None:
    assert queries_queues.queues(broker) == []
    assert queries_fleet.endpoints(broker) == []
    assert queries_fleet.workers(broker) == []
    assert queries_fleet.hosts(broker) == []
    assert queries_jobs.jobs(broker) == []


def test_sibling_queues_count_with_their_endpoint(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    made.endpoint("embed-2")  # not a sibling, for all its name
    made.job()
    made.job(priority=5)
    made.endpoint(revision="r2")
    made.job(revision="r1")
    made.job("embed-2")

    assert queue(broker).queued == 3
    assert queue(broker, "embed-2").queued == 1


def test_a_queue_in_numbers(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    made.ended("failed")
    made.ended("timed_out")
    made.ended("finished")
    running = made.job()
    made.claim(made.worker())
    old = made.job()
    made.job(delay_ms=60_000)
    made.set("job", old, fq_enqueued=queries_fleet.now_ms(broker) - 90_000)
    made.job(priority=1)

    row = queue(broker)

    assert running
    assert (row.queued, row.in_progress, row.failed, row.scheduled, row.parked) == (2, 1, 2, 1, 0)
    assert row.oldest_age_s is not None
    assert 90 <= row.oldest_age_s < 150


def test_an_empty_queue_has_no_oldest(broker: Broker, made: Fabricated) -> None:
    made.endpoint()

    assert queue(broker).oldest_age_s is None


def test_failed_jobs_that_are_kept_no_longer_are_not_counted(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.ended("failed")
    broker.execute("ZADD", broker.keys.of("failed", "embed"), 1000, job)

    assert queue(broker).failed == 0


def test_failed_jobs_of_an_emptied_sibling_queue_are_counted(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    made.job(priority=3)
    worker = made.worker()
    (claimed,) = made.claim(worker)
    made.finish(claimed, "failed")
    made.claim(worker)  # finds the sibling empty, and forgets its rank

    assert queue(broker).failed == 1
    assert [row.status for row in queries_jobs.jobs(broker)] == [Status.FAILED]


def test_a_stock_job_is_counted_and_has_no_age_until_it_is_parked(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    Queue("embed", connection=broker.redis()).enqueue("os.getcwd")

    before = queue(broker)
    made.claim(made.worker())
    after = queue(broker)

    assert (before.queued, before.oldest_age_s, before.parked) == (1, None, 0)
    assert (after.queued, after.oldest_age_s, after.parked) == (0, None, 1)


# -- endpoints and workers ---------------------------------------------------------------------------


def test_workers_are_counted_by_state(broker: Broker, made: Fabricated) -> None:
    made.endpoint(workers=(1, 5))
    made.worker()
    made.idle_worker()
    made.idle_worker(fq_env="an older one")
    made.job()
    made.claim(made.worker())
    condition = '{"state": "throttled", "code": "NO_GPU", "detail": "2 GPUs, both taken", "workers": 2}'
    term = broker.run(broker.transitions.lead("a1", lease_ms=1000, fields={"pid": 1})).term
    broker.run(broker.transitions.set_condition("embed", "condition", condition, "", term=term))

    (row,) = queries_fleet.endpoints(broker)

    assert (row.name, row.revision, row.workers_min, row.workers_max) == ("embed", "r1", 1, 5)
    counts = {state: getattr(row, state) for state in queries_fleet.WORKER_STATES}
    assert counts == {
        "initializing": 1, "idle": 1, "running": 1, "throttled": 2, "outdated": 1, "unhealthy": 0
    }  # fmt: skip
    assert row.reason == "2 GPUs, both taken"


def test_endpoints_are_sorted_and_an_undeployed_one_is_gone(broker: Broker, made: Fabricated) -> None:
    for name in ("b", "a", "c"):
        made.endpoint(name)
    broker.run(broker.transitions.undeploy("b"))

    assert [row.name for row in queries_fleet.endpoints(broker)] == ["a", "c"]


def test_a_worker_in_its_row(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    worker, job = made.worker(), made.job()
    made.claim(worker)

    (row,) = queries_fleet.workers(broker)

    assert (row.id, row.endpoint, row.state) == (worker, "embed", "running")
    assert (row.host, row.pid, row.job, row.draining) == ("host-1", 4242, job, False)
    assert row.since is not None
    assert abs(row.since.timestamp() * 1000 - queries_fleet.now_ms(broker)) < 60_000


def test_of_several_jobs_at_once_a_worker_shows_the_one_begun_first(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    worker = made.worker()
    jobs = [made.job() for _ in range(3)]
    made.claim(worker, count=3, start=2)
    made.set("job", jobs[0], fq_began=2000)
    made.set("job", jobs[1], fq_began=1000)

    (row,) = queries_fleet.workers(broker)

    assert row.job == jobs[1]


def test_a_worker_drains(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    worker = made.idle_worker()
    broker.run(broker.transitions.drain("embed", worker, "idle long enough"))

    (row,) = queries_fleet.workers(broker)

    assert (row.state, row.draining, row.job) == ("idle", True, None)


def test_what_is_not_known_of_a_worker_is_none(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    worker = made.worker()
    broker.execute("DEL", broker.keys.of("worker", worker))

    (row,) = queries_fleet.workers(broker)

    assert row.id == worker
    assert (row.state, row.host, row.pid, row.since, row.job) == (None, None, None, None, None)


def test_a_worker_started_by_hand_shows_its_hostname(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    made.worker(fq_host="")

    (row,) = queries_fleet.workers(broker)

    assert row.host == "box"


# -- hosts -------------------------------------------------------------------------------------------

GPU = '[{"uuid": "GPU-1", "name": "NVIDIA H100", "memory_bytes": 85899345920, "foreign": false}]'
HOST = {"hostname": "box", "cpus": 16, "memory_bytes": 2**36, "gpus": GPU, "started_at": 1_700_000_000_000}


def beat(broker: Broker, host: str, **fields: Any) -> None:
    broker.run(broker.transitions.host_beat(host, lease_ms=15_000, fields=fields))


def test_a_host_in_its_row(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    beat(broker, "host-1", **HOST, gpu_faults='["GPU 1 is lost"]', driver="550.54.15", cuda="12.4")
    beat(broker, "host-1", pythons="3.11,3.12", lacks='{"package ffmpeg": "not installed"}')
    made.worker()

    (row,) = queries_fleet.hosts(broker)

    assert (row.id, row.hostname, row.cpus, row.memory, row.workers) == ("host-1", "box", 16, 2**36, 1)
    assert row.gpus == [
        {
            "uuid": "GPU-1",
            "name": "NVIDIA H100",
            "memory_bytes": 80 * 2**30,
            "foreign": False,
            "worker": None,
            "kept": None,
        }
    ]
    assert (row.gpu_faults, row.driver, row.cuda) == (["GPU 1 is lost"], "550.54.15", "12.4")
    assert row.since is not None
    assert row.since.isoformat() == "2023-11-14T22:13:20+00:00"
    assert row.state == "ready"
    assert (row.pythons, row.lacks) == (["3.11", "3.12"], ["package ffmpeg (not installed)"])


@pytest.mark.parametrize(
    ("lease", "worker", "kept"),
    [
        ("3 1700000000000 embed-1 embed host-1 ", "embed-1", None),
        ("3 1700000000000   host-1 FOREIGN_MEMORY 600 MiB", None, "FOREIGN_MEMORY 600 MiB"),
        ("nonsense", None, None),
    ],
)
def test_who_has_a_gpu_shows_with_its_host(
    broker: Broker, lease: str, worker: str | None, kept: str | None
) -> None:
    beat(broker, "host-1", **HOST)
    broker.execute("HSET", broker.keys.of("gpus"), "GPU-1", lease)

    (row,) = queries_fleet.hosts(broker)

    assert [(gpu["worker"], gpu["kept"]) for gpu in row.gpus] == [(worker, kept)]


def test_a_host_drains_or_is_silent(broker: Broker) -> None:
    beat(broker, "a", **HOST, draining="1")
    beat(broker, "b", **HOST)
    broker.execute("ZADD", broker.keys.of("hosts"), queries_fleet.now_ms(broker) - 1, "b")

    assert [(row.id, row.state) for row in queries_fleet.hosts(broker)] == [
        ("a", "draining"),
        ("b", "silent"),
    ]


def test_one_host_with_its_environments(broker: Broker, made: Fabricated) -> None:
    # Given a host that listed an environment which one of two endpoints wants
    made.endpoint()
    made.set("endpoint", "embed", environment="d" * 64)
    beat(broker, "host-1", **HOST)
    told = {
        "digest": "d" * 64,
        "python": "3.11",
        "requirements": ["numpy>=2"],
        "packages": ["numpy==2.3.1"],
        "size_bytes": 4096,
        "built_at": 1_700_000_000_000,
        "used_at": 1_700_000_001_000,
    }
    broker.execute("HSET", broker.keys.of("host_environments", "host-1"), "listed", json.dumps([told]))

    # If it is asked for, expect its row and what is installed there
    found = queries_fleet.host(broker, "host-1")
    assert (found.id, found.cpus) == ("host-1", 16)
    (one,) = found.environments
    assert (one.packages, one.size, one.endpoints) == (["numpy==2.3.1"], 4096, ["embed"])
    assert one.used_at is not None
    assert one.built_at is not None
    assert (one.used_at - one.built_at).total_seconds() == 1.0

    # Expect an error for another, and the list to go with the host
    with pytest.raises(HostNotFound, match="host-2"):
        queries_fleet.host(broker, "host-2")
    broker.run(broker.transitions.host_leave("host-1"))
    assert broker.execute("EXISTS", broker.keys.of("host_environments", "host-1")) == 0


# -- autoscalers -------------------------------------------------------------------------------------


def lead(broker: Broker, holder: str, lease_ms: int = 10_000) -> None:
    broker.run(broker.transitions.lead(holder, lease_ms=lease_ms, fields={"pid": 1}))


def test_who_leads_and_who_stands_by(broker: Broker) -> None:
    assert queries_fleet.autoscalers(broker) == []
    for holder in ("first", "third", "second"):
        lead(broker, holder)

    leader, *others = queries_fleet.autoscalers(broker)

    assert (leader.id, leader.state, leader.epoch) == ("first", "leads", 1)
    assert leader.since is not None
    assert [(other.id, other.state) for other in others] == [("second", "stands by"), ("third", "stands by")]


def test_a_leader_that_is_not_heard_of_is_silent_and_one_that_resigned_is_gone(broker: Broker) -> None:
    lead(broker, "first", lease_ms=1)
    wait_until(lambda: [row.state for row in queries_fleet.autoscalers(broker)] == ["silent"])
    broker.run(broker.transitions.resign("first"))
    assert queries_fleet.autoscalers(broker) == []


def test_what_is_not_known_of_a_host_is_none(broker: Broker) -> None:
    beat(broker, "a", version="1")

    (row,) = queries_fleet.hosts(broker)

    assert (row.hostname, row.cpus, row.memory, row.gpus, row.since) == (None, None, None, [], None)
    assert (row.gpu_faults, row.driver, row.cuda) == ([], None, None)


# -- jobs --------------------------------------------------------------------------------------------


def test_jobs_in_progress_come_first_then_those_waiting_then_those_that_ended(
    broker: Broker, made: Fabricated
) -> None:
    made.endpoint()
    made.endpoint("other")
    failed, done = made.ended("failed"), made.ended(endpoint="other")
    running = made.job()
    made.claim(made.worker())
    first, second, scheduled = made.job(), made.job("other"), made.job(delay_ms=60_000)
    for at, job in enumerate((first, second, scheduled, failed, done), start=1):
        made.set("job", job, fq_enqueued=at * 1000, fq_ended=at * 1000)

    rows = queries_jobs.jobs(broker)

    assert [row.id for row in rows] == [running, first, second, scheduled, done, failed]


def test_a_job_in_its_row(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    worker = made.worker()
    (claimed,) = made.claim(worker)
    made.finish(claimed)

    (row,) = queries_jobs.jobs(broker)

    assert (row.id, row.endpoint, row.status, row.attempts) == (job, "embed", Status.COMPLETED, 1)
    assert (row.worker, row.cold_start) == (worker, True)
    assert row.enqueued_at is not None
    assert row.started_at is not None
    assert row.ended_at is not None
    assert row.enqueued_at <= row.started_at <= row.ended_at


def test_what_is_not_known_of_a_job_is_none(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    made.job(delay_ms=60_000)

    (row,) = queries_jobs.jobs(broker)

    assert row.status is Status.IN_QUEUE
    assert (row.started_at, row.ended_at, row.worker, row.cold_start) == (None, None, None, None)
    assert row.attempts == 0


def test_a_warm_start(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    worker = made.worker()
    made.claim(worker)  # one with room and nothing to do
    made.job()

    (row,) = queries_jobs.jobs(broker)

    assert row.cold_start is False


@pytest.mark.parametrize("status", list(Status))
def test_jobs_of_one_status(broker: Broker, made: Fabricated, status: Status) -> None:
    made.endpoint()
    states = {
        made.ended("finished"): Status.COMPLETED,
        made.ended("failed"): Status.FAILED,
        made.ended("timed_out"): Status.TIMED_OUT,
        made.ended("cancelled"): Status.CANCELLED,
    }
    states[made.job()] = Status.IN_PROGRESS
    made.claim(made.worker())
    states[made.job()] = Status.IN_QUEUE

    rows = queries_jobs.jobs(broker, status=status)

    assert {row.id: row.status for row in rows} == {j: s for j, s in states.items() if s is status}


def test_jobs_of_one_endpoint(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    made.endpoint("other")
    made.job()
    job = made.job("other")

    assert [row.id for row in queries_jobs.jobs(broker, endpoint="other")] == [job]
    with pytest.raises(EndpointNotFound, match="nope"):
        queries_jobs.jobs(broker, endpoint="nope")


def test_the_listing_ends_at_its_limit(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    jobs = [made.job() for _ in range(7)]

    assert [row.id for row in queries_jobs.jobs(broker, limit=3)] == jobs[:3]
    assert len(queries_jobs.jobs(broker, status=Status.IN_QUEUE, limit=100)) == 7


def test_deleted_jobs_and_stock_jobs_are_passed_over(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    deleted, job = made.job(), made.job()
    broker.execute("DEL", broker.keys.of("job", deleted))
    Queue("embed", connection=broker.redis()).enqueue("os.getcwd")

    assert [row.id for row in queries_jobs.jobs(broker)] == [job]


def test_everything_about_a_job(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job = made.job(priority=2, ttl_ms=60_000)
    worker = made.worker()
    (claimed,) = made.claim(worker)
    write(broker, job, b"reading\nfailing\n")
    made.finish(claimed, "failed", reason="exception", text="KeyError: 'x'", timing=REPORT)

    row = queries_jobs.job(broker, job)

    assert (row.id, row.status, row.state, row.worker) == (job, Status.FAILED, "failed", worker)
    assert (row.revision, row.queue, row.priority, row.generation) == ("r1", "embed--p2", 2, 0)
    assert (row.attempts, row.losses, row.retries, row.cancel_requested) == (1, 0, 0, False)
    assert (row.reason, row.error, row.description) == ("exception", "KeyError: 'x'", "embed(4 bytes)")
    assert row.expires_at is not None
    assert row.claimed_at is not None
    assert row.timing["execution_s"] == 0.9005
    assert row.log == ["reading", "failing"]


def test_a_job_that_lost_its_worker(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    job, worker = made.job(), made.worker()
    made.claim(worker)
    broker.run(broker.transitions.leave("embed", worker, "killed"))

    row = queries_jobs.job(broker, job)

    assert (row.status, row.losses, row.attempts, row.worker) == (Status.IN_QUEUE, 1, 1, None)
    assert (row.claimed_at, row.started_at) == (None, None)


def test_nothing_about_no_job(broker: Broker) -> None:
    with pytest.raises(JobNotFound):
        queries_jobs.job(broker, "embed-none")


# -- what every query owes ---------------------------------------------------------------------------

QUERIES: list[Callable[[Broker], Any]] = [
    queries_fleet.endpoints,
    queries_queues.queues,
    queries_fleet.workers,
    queries_fleet.hosts,
    queries_jobs.jobs,
    lambda broker: queries_jobs.jobs(broker, status=Status.FAILED),
    lambda broker: queries_jobs.job(broker, "embed-0001"),
    lambda broker: job_timing(broker, "embed-0001"),
    lambda broker: list(job_logs(broker, "embed-0001")),
]
READS = frozenset(
    "exists hget hgetall hmget llen lrange smembers time"
    " xrevrange xread zcard zcount zrange zrevrange".split()
)


def test_queries_only_read_and_never_walk_the_key_space(broker: Broker, made: Fabricated) -> None:
    made.endpoint()
    made.job()
    made.claim(made.worker())
    beat(broker, "host-1", **HOST)
    broker.execute("CONFIG", "RESETSTAT")

    for query in QUERIES:
        query(broker)

    stats = broker.execute("INFO", "commandstats").decode()
    used = {line.removeprefix("cmdstat_").split(":")[0] for line in stats.splitlines() if "cmdstat" in line}
    assert used - {"config|resetstat", "info"} <= READS


def test_a_lost_broker_is_an_error_and_no_empty_list(broker: Broker) -> None:
    with closing(Broker("unix:///nowhere/at/all", patience_s=0)) as lost:
        for query in QUERIES:
            with pytest.raises(BrokerUnreachable):
                query(lost)
