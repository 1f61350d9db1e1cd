"""Leases of GPUs: ORDER and JOIN take them, the end of a worker and FREE GPU give them back."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.store import gpu_leases
from flashq.store.gpu_leases import GpuLease
from tests.conformance.test_workers import HOST, order
from tests.conformance.world import EP, World


def leases(world: World) -> dict[str, GpuLease]:
    written = world.redis.hgetall(world.keys.of("gpus"))
    return gpu_leases.parse_all([part for pair in written.items() for part in pair])


def with_gpus(*uuids: str) -> dict[str, Any]:
    return {"most": 9, "fields": {"fq_gpus": ",".join(uuids)}}


def free(world: World, uuid: str, fence: int, why: str = "") -> str:
    return world.run(world.t.gpu_free(uuid, fence, HOST, why))


def leave(world: World, worker: str) -> None:
    world.run(world.t.leave(EP, worker, "done"))


@pytest.fixture
def host(world: World) -> str:
    """A host that gives leases back."""
    world.run(world.t.host_beat(HOST, lease_ms=15_000, fields={"frees": 1}))
    return HOST


def test_a_gpu_is_one_workers_on_all_hosts(world: World, host: str) -> None:
    assert order(world, "w1", **with_gpus("GPU-a", "GPU-b")) == "ok"
    assert world.resent == "ok"

    assert order(world, "w2", **with_gpus("GPU-b"), host="host-2") == "held"
    assert order(world, "w3", **with_gpus("GPU-c", "GPU-a")) == "held"

    mine: dict[str, Any] = {"since_ms": world.now_ms, "worker": "w1", "endpoint": EP, "host": HOST}
    assert leases(world) == {uuid: GpuLease(uuid, 1, **mine) for uuid in ("GPU-a", "GPU-b")}
    assert set(world.scores("endpoint_workers")) == {"w1"}
    assert world.listed("commands", "host-2") == []


def test_a_lease_outlives_its_worker_until_the_gpu_was_seen_free(world: World, host: str) -> None:
    order(world, "w1", **with_gpus("GPU-a"))
    assert free(world, "GPU-a", 1) == "held"

    leave(world, "w1")

    assert leases(world)["GPU-a"].worker == "w1"
    assert order(world, "w2", **with_gpus("GPU-a")) == "held"
    assert free(world, "GPU-a", 1) == "ok"
    assert world.resent == "ok"
    assert leases(world)["GPU-a"].free
    assert order(world, "w2", **with_gpus("GPU-a")) == "ok"
    assert (leases(world)["GPU-a"].worker, leases(world)["GPU-a"].fence) == ("w2", 2)


def test_word_of_an_earlier_holder_frees_nothing(world: World, host: str) -> None:
    order(world, "w1", **with_gpus("GPU-a"))
    leave(world, "w1")
    free(world, "GPU-a", 1)
    order(world, "w2", **with_gpus("GPU-a"))
    leave(world, "w2")

    assert free(world, "GPU-a", 1) == "stale"
    assert free(world, "GPU-z", 1) == "stale"
    assert leases(world)["GPU-a"].worker == "w2"


def test_a_worker_that_fell_silent_keeps_its_gpu_until_that_is_seen_free(world: World, host: str) -> None:
    order(world, "w1", **with_gpus("GPU-a"), patience_ms=1000)
    world.reap()
    world.pass_ms(1000)
    world.reap()

    assert leases(world)["GPU-a"].worker == "w1"
    assert free(world, "GPU-a", 1) == "ok"


def test_a_gpu_that_is_kept_is_nobodys(world: World, host: str) -> None:
    order(world, "w1", **with_gpus("GPU-a"))
    assert free(world, "GPU-a", 1, "FOREIGN_MEMORY 600 MiB") == "held"
    leave(world, "w1")

    assert free(world, "GPU-a", 1, "FOREIGN_MEMORY 600 MiB") == "ok"
    assert world.resent == "ok"
    assert (leases(world)["GPU-a"].worker, leases(world)["GPU-a"].why) == ("", "FOREIGN_MEMORY 600 MiB")
    assert order(world, "w2", **with_gpus("GPU-a")) == "held"
    assert free(world, "GPU-a", 1) == "ok"
    assert order(world, "w2", **with_gpus("GPU-a")) == "ok"


def test_a_host_that_does_not_give_back_has_leases_end_with_its_workers(world: World) -> None:
    world.run(world.t.host_beat(HOST, lease_ms=15_000, fields={"version": "0.0.9"}))
    order(world, "w1", **with_gpus("GPU-a"))
    assert order(world, "w2", **with_gpus("GPU-a")) == "held"
    leave(world, "w1")
    assert order(world, "w2", **with_gpus("GPU-a")) == "ok"
    assert (leases(world)["GPU-a"].worker, leases(world)["GPU-a"].fence) == ("w2", 2)


def test_a_booked_worker_joins_with_its_gpus_or_not_at_all(world: World, host: str) -> None:
    order(world, "w1", **with_gpus("GPU-a"))
    assert world.join("w1", booked=True, fq_gpus="GPU-a").verdict == "ok"
    order(world, "w2", **with_gpus("GPU-b"))

    answer = world.join("w2", booked=True, fq_gpus="GPU-a")

    assert (answer.verdict, answer.holder) == ("held", "GPU-a is held by worker w1")
    assert leases(world)["GPU-a"].fence == 1


def test_a_worker_ordered_before_there_were_leases_gets_its_own_when_it_joins(
    world: World, host: str
) -> None:
    order(world, "w1", fields={})
    assert world.join("w1", booked=True, fq_gpus="GPU-a").verdict == "ok"
    assert leases(world)["GPU-a"].worker == "w1"


def test_a_worker_started_by_hand_takes_gpus_of_nobody_who_lives(world: World, host: str) -> None:
    order(world, "w1", **with_gpus("GPU-a"))
    assert world.join("w2", fq_gpus="GPU-a").verdict == "held"
    assert "w2" not in world.scores("endpoint_workers")
    leave(world, "w1")
    assert world.join("w2", fq_gpus="GPU-a", fq_host="box").verdict == "ok"
    assert (leases(world)["GPU-a"].worker, leases(world)["GPU-a"].fence) == ("w2", 2)
    leave(world, "w2")
    assert order(world, "w3", **with_gpus("GPU-a")) == "ok"


def test_leases_that_somebody_scribbled_in_are_taken_anew(world: World, host: str) -> None:
    world.redis.hset(world.keys.of("gpus"), "GPU-a", "nonsense")
    assert leases(world) == {}
    assert free(world, "GPU-a", 0) in ("ok", "stale")
    assert order(world, "w1", **with_gpus("GPU-a")) == "ok"
    assert leases(world)["GPU-a"].worker == "w1"
