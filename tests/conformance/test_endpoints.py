"""REGISTER, SET CONDITION and UNDEPLOY: the record of an endpoint and its revisions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.world import EP, World


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "reused"),
        ({"scaling": '{"workers_max": 3}'}, "scaled"),
        ({"spec": '{"name": "embed"}'}, "scaled"),
        ({"env_tag": "t2", "env": b"sealed"}, "scaled"),
        ({"revision": "r2"}, "code"),
        ({"environment": "env-2"}, "replaced"),
        ({"resources": "res-2"}, "replaced"),
        ({"resources": "res-2", "revision": "r2"}, "replaced"),
    ],
)
def test_registering_again_says_what_differs(world: World, changes: dict[str, str], verdict: str) -> None:
    answer = world.register(**changes)

    assert answer.verdict == verdict
    assert answer.version == (1 if verdict == "reused" else 2)
    assert world.resent.verdict == "reused"
    assert world.hash("endpoint", EP)["revision"] == changes.get("revision", "r1")


def test_a_new_endpoint_is_created(world: World) -> None:
    answer = world.register("other")

    assert (answer.verdict, answer.version, answer.previous_program) == ("created", 1, "")
    assert world.redis.smembers(world.keys.of("endpoints")) == {b"embed", b"other"}
    assert world.keys.of("queue", "other").encode() in world.redis.smembers(world.keys.of("queues"))


def test_the_epoch_is_of_the_broker(world: World) -> None:
    assert world.register("other").epoch == world.register("third").epoch


def test_registration_is_compare_and_set(world: World) -> None:
    world.register(revision="r2", program="program-2", expected_version=1)
    late = world.register(revision="r3", expected_version=1)

    assert (late.verdict, late.version, late.previous_program) == ("moved", 2, "program-2")
    assert world.hash("endpoint", EP)["revision"] == "r2"


def test_the_first_bytes_of_a_revision_stay(world: World) -> None:
    world.register(record=b"other bytes of the same revision")

    assert world.redis.get(world.keys.of("revision", EP, "r1")) == b"record"


def test_a_revision_that_is_no_longer_current_stays_for_a_week(world: World) -> None:
    world.register(revision="r2")
    old, new = world.keys.of("revision", EP, "r1"), world.keys.of("revision", EP, "r2")
    assert 6 * 86400 < world.redis.ttl(old) <= 7 * 86400
    assert world.redis.ttl(new) == -1

    world.register(revision="r1")
    assert world.redis.ttl(old) == -1
    assert world.redis.ttl(new) > 0


def test_conditions_are_recorded_and_removed(world: World) -> None:
    assert (
        world.run(world.t.set_condition(EP, "condition", '{"state": "throttled"}', "no GPU", term=world.term))
        == 1
    )
    assert world.hash("endpoint", EP)["condition"] == '{"state": "throttled"}'
    assert world.run(world.t.set_condition(EP, "condition", "", "", term=world.term)) == 1
    assert "condition" not in world.hash("endpoint", EP)
    assert world.run(world.t.set_condition("nobody", "condition", "{}", "", term=world.term)) == 0
    assert world.events()[-1] == ("endpoint-condition", EP)


def test_undeploy_forgets_an_idle_endpoint(world: World) -> None:
    world.worker()
    world.claim(next(iter(world.scores("endpoint_workers"))))

    assert world.run(world.t.undeploy(EP)) == "ok"
    assert world.resent == "unknown"
    assert world.hash("endpoint", EP) == {}
    assert world.redis.smembers(world.keys.of("endpoints")) == set()
    assert world.submit_as("embed-x").verdict == "unregistered"


@pytest.mark.parametrize(
    "options", [{}, {"priority": 3}, {"delay_ms": 1000}, {"priority": 3, "delay_ms": 1000}]
)
def test_undeploy_refuses_while_jobs_wait(world: World, options: dict[str, Any]) -> None:
    world.submit(**options)

    assert world.run(world.t.undeploy(EP)) == "busy"


def test_undeploy_refuses_while_jobs_run(world: World) -> None:
    world.running()

    assert world.run(world.t.undeploy(EP)) == "busy"


def test_what_a_worker_does_after_undeploy_leaves_nothing(world: World) -> None:
    worker = world.worker()
    world.claim(worker)
    world.run(world.t.undeploy(EP))

    answer = world.claim_as(worker)
    world.reap()
    world.run(world.t.leave(EP, worker, "left"))
    world.reap()

    assert answer.verdict == "drain"
    left = {key for key, stored in world.snapshot().items() if not stored.expires and ":embed" in key}
    assert left <= {world.keys.of("finished", EP)}


# -- back to before the last update ----------------------------------------------------------------------


def roll_back(world: World, revision: str) -> tuple[str, str]:
    answer = world.run(world.t.rollback(EP, revision))
    assert world.resent == answer
    return answer


def test_a_rollback_goes_to_what_was_before_the_last_update_and_another_one_forward(world: World) -> None:
    before = world.hash("endpoint", EP)
    world.register(revision="r2", environment="env-2", resources="res-2", spec='{"n": 2}', record=b"record-2")
    world.register(
        revision="r2", environment="env-2", resources="res-2", spec='{"n": 2}', scaling='{"workers_max": 3}'
    )
    updated = world.hash("endpoint", EP)
    what = ("revision", "environment", "resources", "spec")

    assert roll_back(world, "r2") == ("ok", "r1")
    back = world.hash("endpoint", EP)
    assert [back[field] for field in what] == [before[field] for field in what]
    assert (back["scaling"], back["version"]) == ('{"workers_max": 3}', "4")
    assert world.redis.pttl(world.keys.of("revision", EP, "r1")) == -1
    assert world.redis.pttl(world.keys.of("revision", EP, "r2")) > 0

    assert roll_back(world, "r1") == ("ok", "r2")
    again = world.hash("endpoint", EP)
    assert [again[field] for field in what] == [updated[field] for field in what]


def test_a_rollback_that_cannot_be_changes_nothing(world: World) -> None:
    assert roll_back(world, "r1") == ("none", "r1")
    world.register(revision="r2")
    assert roll_back(world, "r1") == ("moved", "r2")
    world.redis.delete(world.keys.of("revision", EP, "r1"))
    assert roll_back(world, "r2") == ("gone", "r2")
    assert world.run(world.t.rollback("nobody", "r1")) == ("unknown", "")
    assert world.hash("endpoint", EP)["revision"] == "r2"


def test_a_rollback_tries_anew_what_could_not_start(world: World) -> None:
    world.register(revision="r2", environment="env-2")
    world.redis.hset(world.keys.of("endpoint", EP), mapping={"failures": 3, "failure": "no such package"})
    assert roll_back(world, "r2") == ("ok", "r1")
    assert "failures" not in world.hash("endpoint", EP)


# -- workers set by an operator --------------------------------------------------------------------------

DECLARED, SET = '{"workers_max": 3}', '{"workers_max": 7}'


def test_what_an_operator_sets_holds_until_the_program_says_something_else(world: World) -> None:
    world.register(scaling=DECLARED)
    assert world.run(world.t.scale(EP, DECLARED, SET)) == ("ok", SET)
    assert world.resent == ("ok", SET)

    # If the program is started again, as it is or with other code, expect it to hold
    assert world.register(scaling=DECLARED).verdict == "reused"
    assert world.register(scaling=DECLARED, revision="r2").verdict == "code"
    assert world.hash("endpoint", EP)["scaling"] == SET

    # If it says something else, expect that
    assert world.register(scaling='{"workers_max": 4}', revision="r2").verdict == "scaled"
    assert world.hash("endpoint", EP)["scaling"] == '{"workers_max": 4}'


def test_back_to_what_the_program_says(world: World) -> None:
    world.register(scaling=DECLARED)
    world.run(world.t.scale(EP, DECLARED, SET))
    assert world.run(world.t.scale(EP, SET, "")) == ("ok", DECLARED)
    assert world.run(world.t.scale(EP, "{}", SET)) == ("moved", DECLARED)
    assert world.run(world.t.scale("nobody", "{}", SET)) == ("unknown", "")


# -- since when --------------------------------------------------------------------------------------------


def test_a_condition_is_said_since_it_began_whatever_its_numbers_do(world: World) -> None:
    def condition(code: str, workers: int) -> str:
        written = f'{{"state": "throttled", "code": "{code}", "workers": {workers}}}' if code else ""
        world.run(world.t.set_condition(EP, "condition", written, "", term=world.term))
        return world.hash("endpoint", EP).get("condition_since", "")

    began = str(world.now_ms)
    assert condition("NO_GPU", 1) == began
    world.pass_ms(50)
    assert condition("NO_GPU", 2) == began
    assert condition("NO_CPU", 2) == str(world.now_ms)
    assert condition("", 0) == ""
