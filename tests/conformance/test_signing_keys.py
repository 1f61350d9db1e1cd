"""KEY USES, REKEY, and what REGISTER does under another key: which records bear which key's signature."""

from __future__ import annotations

from flashq.store.queries_keys import uses
from tests.conformance.world import EP, World

OLD, NEW = "0123456789abcdef", "fedcba9876543210"


def under(key_id: str, text: str = "record") -> bytes:
    """Bytes that say which key they are signed with, as records do in their header."""
    return f"kid {key_id} {text}".encode()


def test_jobs_that_await_and_those_in_hand_are_counted_by_their_key(world: World) -> None:
    # Given jobs of either key: waiting, at another priority, scheduled, in hand, and ended
    old = [world.submit(call=under(OLD)), world.submit(call=under(OLD), priority=2)]
    old += [world.submit(call=under(OLD), delay_ms=60_000, revision="r1")]
    world.submit(call=under(NEW))
    worker = world.worker()
    held = world.claim(worker, count=1)
    assert held[0].job == old[1]

    # Expect the old key's three, on whichever list they are
    assert world.run(world.t.key_uses(EP, OLD, [*old, "embed-none"])) == (3, {"r1"})
    assert (uses(world.broker, OLD).jobs, uses(world.broker, NEW).jobs) == ({EP: 3}, {EP: 1})  # type: ignore[arg-type]

    # If one ends so that it could be run again, expect it to count apart; if it completed, not at all
    assert world.finish(held[0], "failed", reason="exception") == "ok"
    found = uses(world.broker, OLD)  # type: ignore[arg-type]
    assert (found.jobs, found.ended) == ({EP: 2}, {EP: 1})
    (done,) = world.claim(worker)
    assert world.finish(done) == "ok"
    assert uses(world.broker, OLD).jobs == {EP: 1}  # type: ignore[arg-type]


def test_what_is_not_one_of_our_jobs_is_passed_over(world: World) -> None:
    world.redis.set(world.keys.of("job", "embed-text"), "text")
    assert world.run(world.t.key_uses(EP, OLD, ["embed-text"])) == (0, set())


def test_records_are_put_under_another_key(world: World) -> None:
    # Given an endpoint whose record and values are under the old key
    world.register(record=under(OLD), revision="r2", env_tag="t1", env=under(OLD, "values"), key_id=OLD)
    world.register("other", record=under(NEW), key_id=NEW)
    found = uses(world.broker, OLD)  # type: ignore[arg-type]
    assert (found.revisions, found.environments) == ([(EP, "r2")], [EP])

    # If both are put under the new one, expect nothing left under the old one
    record, env = under(NEW), (under(OLD, "values"), under(NEW, "values"))
    assert world.run(world.t.rekey(EP, "r2", OLD, record=record, env=env)) == 2
    assert world.resent == 0
    assert world.redis.get(world.keys.of("revision", EP, "r2")) == record
    assert world.hash("endpoint", EP)["env"] == env[1].decode()
    found = uses(world.broker, OLD)  # type: ignore[arg-type]
    assert (found.revisions, found.environments) == ([], [])


def test_what_a_stolen_key_signed_is_thrown_away(world: World) -> None:
    # Given two revisions, of which the stolen key signed the current one, and another endpoint that it did not touch
    world.register(record=under(NEW), revision="r2", key_id=NEW)
    world.register(record=under(OLD), revision="r3", env_tag="t1", env=under(NEW, "values"), key_id=OLD)
    world.register("other", record=under(NEW), key_id=NEW)

    # If it is renounced, expect the endpoint to be without a revision, and calls to have to register it again
    assert world.run(world.t.renounce(EP, OLD, ["r2", "r3", "none"])) == 1
    assert world.resent == 0
    assert world.redis.get(world.keys.of("revision", EP, "r3")) is None
    assert world.redis.get(world.keys.of("revision", EP, "r2")) == under(NEW)
    assert world.submit_as("embed-1", revision="r3").verdict == "unregistered"
    assert world.run(world.t.renounce("other", OLD, ["r1"])) == 0
    assert world.submit_as("other-1", "other").verdict == "ok"

    # and that to bring it back
    answer = world.register(
        record=under(NEW), revision="r3", env_tag="t1", env=under(NEW, "values"), key_id=NEW
    )
    assert answer.verdict == "code"
    assert world.submit_as("embed-1", revision="r3").verdict == "ok"
    assert world.hash("endpoint", EP)["env_tag"] == "t1"


def test_values_that_a_stolen_key_sealed_are_thrown_away(world: World) -> None:
    world.register(record=under(NEW), revision="r2", env_tag="t1", env=under(OLD, "values"), key_id=NEW)
    assert world.run(world.t.renounce(EP, OLD, ["r2"])) == 1
    assert world.hash("endpoint", EP)["env"] == ""
    assert world.submit_as("embed-1", revision="r2").verdict == "unregistered"


def test_what_changed_meanwhile_is_left_alone(world: World) -> None:
    world.register(record=under(NEW), revision="r2", env_tag="t2", env=under(OLD, "others"), key_id=NEW)
    env = (under(OLD, "values"), under(NEW, "values"))
    assert world.run(world.t.rekey(EP, "r2", OLD, record=under(NEW, "late"), env=env)) == 0
    assert world.redis.get(world.keys.of("revision", EP, "r2")) == under(NEW)
    assert world.hash("endpoint", EP)["env"] == under(OLD, "others").decode()


def test_a_revision_that_goes_in_a_week_still_does(world: World) -> None:
    world.register(record=under(OLD), revision="r2", key_id=OLD)
    world.register(record=under(OLD), revision="r3", key_id=OLD)
    assert world.run(world.t.rekey(EP, "r2", OLD, record=under(NEW))) == 1
    assert 6 * 86400 < world.redis.ttl(world.keys.of("revision", EP, "r2")) <= 7 * 86400


def test_registering_under_another_key_brings_record_and_values_under_it(world: World) -> None:
    world.register(record=under(OLD), revision="r2", env_tag="t1", env=under(OLD, "values"), key_id=OLD)
    answer = world.register(
        record=under(NEW), revision="r2", env_tag="t1", env=under(NEW, "values"), key_id=NEW
    )
    assert answer.verdict == "reused"
    assert world.redis.get(world.keys.of("revision", EP, "r2")) == under(NEW)
    assert world.hash("endpoint", EP)["env"] == under(NEW, "values").decode()
