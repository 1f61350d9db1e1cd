"""The broker's primary dies and a replica takes over: who was connected follows, and what is lost is said.

Rows 6 and 7 of the failure matrix, on real Sentinels. The stack is a host agent and an autoscaler as processes.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.client import Client, use_client
from flashq.errors import BrokerStateLost
from flashq.model.durability import Durability
from flashq.settings import SecretKey, Settings
from flashq.store.command import text
from flashq.store.records import Settlement
from tests.acceptance import stage as stages
from tests.rig import SECRET, wait_until
from tests.sentinels import FAILOVER_S, SentinelSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob
    from tests.acceptance.stage import Stage

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


@Endpoint(name="shift", cpu="any", workers=(0, 2), idle_timeout=60)
def shift(number: int) -> int:
    return number + 1


@Endpoint(name="after", cpu="any", workers=(0, 1), idle_timeout=60)
def after(number: int) -> int:
    return number + 2


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.requires(name)) for name in ("valkey", "redis")])
def behind(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stage before sentinels that watch a primary and its replica."""
    with stages.stage(server=SentinelSet(request.param), lease_s=5.0) as made:
        yield made


@pytest.fixture
def valkeys() -> Iterator[Stage]:
    """The same with two replicas, on Valkey alone."""
    with stages.stage(server=SentinelSet("valkey", replicas=2), lease_s=5.0) as made:
        yield made


def sentinels(made: Stage) -> SentinelSet:
    assert isinstance(made.server, SentinelSet)
    return made.server


def ending(job: EndpointJob[int]) -> int | str:
    try:
        return job.result(60)
    except BrokerStateLost as lost:
        return type(lost).__name__


@pytest.mark.requires("valkey")
def test_everybody_follows_a_failover_under_load(behind: Stage) -> None:
    # Given callers that keep calling, with workers that the autoscaler started
    servers = sentinels(behind)
    behind.start_stack()
    assert shift.remote(0) == 1
    jobs: list[EndpointJob[int]] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.wait(0.01):
            jobs.append(shift.spawn(len(jobs)))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        wait_until(lambda: len(jobs) > 50, what="load")

        # If the primary is killed, expect a replica in its place, and calls to go on
        took = servers.fail_over()
        count = len(jobs)
        wait_until(lambda: len(jobs) > count + 50, FAILOVER_S, what="load after the failover")
    finally:
        stop.set()
        caller.join(90)
    assert took < FAILOVER_S

    # Expect each call to have its value, or to be told that the broker lost it: nothing waits for ever
    endings = [ending(job) for job in jobs]
    wrong = [(n, found) for n, found in enumerate(endings) if found not in (n + 1, BrokerStateLost.__name__)]
    assert not wrong
    # Replication lags by little: what is lost is the exception.
    assert endings.count(BrokerStateLost.__name__) < 50

    # Expect autoscaler and host agent to have followed: an endpoint that is new gets a worker
    assert after.spawn(40).result(60) == 42


@pytest.mark.requires("valkey")
def test_what_a_replica_confirmed_survives_and_nothing_else_is_acknowledged(valkeys: Stage) -> None:
    # Given a caller for whom an acknowledged call has to survive the loss of the primary's machine
    servers = sentinels(valkeys)
    key = SecretKey(SECRET)
    client = Client(
        Settings(redis_url=servers.url, secret_key=key, home=valkeys.home, durability=Durability.REPLICA)
    )
    use_client(client)
    try:
        sure = [shift.spawn(n) for n in range(20)]
        assert worth(sure) == {Durability.REPLICA}

        # If the replicas hear nothing more, expect calls to wait for their word
        servers.cut_replication()
        unsure: EndpointJob[int] = client.submit(shift, (20,), {})
        wait_until(lambda: valkeys.job_field(unsure.id, "fq_state"), what="the primary has it")
        assert worth([unsure]) == {None}

        # If the primary dies then, and a replica that knows nothing of that call takes over,
        servers.fail_over()

        # expect all that was acknowledged to be there, and the other one to be sent again, and confirmed
        client.acknowledged(unsure)
        assert worth([unsure]) == {Durability.REPLICA}
        assert {text(state) for state in states(valkeys, [*sure, unsure])} == {"queued"}
        valkeys.worker(shift)
        assert [job.result(30) for job in [*sure, unsure]] == [n + 1 for n in range(21)]
    finally:
        use_client(valkeys.client)
        client.close()


def worth(jobs: list[EndpointJob[int]]) -> set[Durability | None]:
    """What the acknowledgement of these jobs is worth."""
    return {job.durability for job in jobs}


def states(made: Stage, jobs: list[EndpointJob[int]]) -> list[bytes]:
    return made.broker.execute_all([("HGET", made.broker.keys.of("job", job.id), "fq_state") for job in jobs])


@pytest.mark.requires("valkey")
def test_a_failover_that_loses_tells_callers_and_refuses_the_old_primarys_worker(valkeys: Stage) -> None:
    # Given a job on record with every server, and replicas that hear no more of what follows
    servers, broker = sentinels(valkeys), valkeys.broker
    kept = shift.spawn(1)
    everywhere = partial(servers.on_record, f"rq:job:{kept.id}")
    wait_until(everywhere, what="replicated")
    servers.cut_replication()

    # If a worker claims it with the old primary, and another call is acknowledged by that alone
    first, second = f"{shift.name}-{'1' * 36}", f"{shift.name}-{'2' * 36}"
    claimed = claim(valkeys, first)
    assert claimed == (kept.id, 1)
    lost = shift.spawn(2)
    assert lost.durability is Durability.FSYNC

    # and the primary dies, and a replica takes over and gives the job to another worker
    servers.fail_over()
    assert claim(valkeys, second) == (kept.id, 1)  # the fence that the old primary gave out too

    # Expect the caller of the lost one to be told
    with pytest.raises(BrokerStateLost, match=lost.id):
        lost.result(FAILOVER_S)

    # Expect the first worker to be refused in whatever it says, and the second to be believed
    transitions = broker.transitions
    late = Settlement(kept.id, 1, "failed", reason="exception", text="late")
    renewed = broker.run(transitions.renew(shift.name, first, lease_ms=5000, jobs=[claimed]))
    assert renewed.verdict == "gone" or renewed.jobs == ("lost",)
    assert broker.run(transitions.finish(late, first)) == "stale"
    assert broker.run(transitions.finish(Settlement(kept.id, 1, "failed", text="second"), second)) == "ok"
    assert broker.run(transitions.finish(late, first)) == "stale"
    assert valkeys.job_field(kept.id, "fq_error") == "second"


def claim(made: Stage, worker: str) -> tuple[str, int]:
    """What a worker that has just joined is given: a job and its fence."""
    transitions = made.broker.transitions
    made.broker.run(transitions.join(shift.name, worker, lease_ms=5000, booked=False, fields={}))
    made.broker.run(transitions.ready(shift.name, worker, {}))
    taken = made.broker.run(
        transitions.claim(shift.name, worker, "n", count=1, lease_ms=5000, start=1, holding=0, room=1)
    )
    (row,) = taken.jobs
    return row.job, row.fence
