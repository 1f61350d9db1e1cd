"""LEAD, RESIGN, and the fence: what an autoscaler asks for after another took over changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flashq.errors import Deposed
from flashq.model.lifecycle import JobState
from flashq.store.records import Beat, Term
from tests.conformance.test_workers import HOST, order
from tests.conformance.world import EP, LEASE_MS, World, holds

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.store.command import Command


def beat(world: World, **known: Any) -> Beat:
    return world.run(world.t.host_beat(HOST, lease_ms=LEASE_MS, fields={"cpus": 4}, **known))


# -- whose turn it is --------------------------------------------------------------------------------


def test_the_first_leads_and_the_second_stands_by(world: World) -> None:
    led = world.lead("a1")
    assert (led.term, led.since_ms, led.until_ms) == (Term(1, "a1"), world.now_ms, world.now_ms + LEASE_MS)
    assert world.resent == led

    world.pass_ms(10)
    told = world.lead("a2")
    assert (told.term, told.since_ms, told.until_ms) == (led.term, led.since_ms, led.until_ms)
    assert world.scores("standbys", "") == {"a2": world.now_ms + LEASE_MS}
    assert holds(world.hash("leader", ""), holder="a1", pid="1")
    assert [event for event in world.events() if event[0] == "leader"] == [("leader", "a1")]


def test_a_leader_that_renews_keeps_its_epoch(world: World) -> None:
    first = world.lead("a1")
    world.pass_ms(LEASE_MS - 1)
    second = world.lead("a1")
    world.pass_ms(LEASE_MS - 1)

    assert (second.term, second.since_ms) == (first.term, first.since_ms)
    assert second.until_ms == first.until_ms + LEASE_MS - 1
    assert world.lead("a2").term == first.term


def test_a_silent_leader_is_replaced_when_its_lease_ends_and_not_before(world: World) -> None:
    led = world.lead("a1")
    world.lead("a2")
    world.at(led.until_ms - 1)
    assert world.lead("a2").term == Term(1, "a1")
    world.at(led.until_ms)
    assert world.lead("a2").term == Term(2, "a2")
    assert world.scores("standbys", "") == {}
    assert world.lead("a1").term == Term(2, "a2")


def test_a_silent_leader_whom_nobody_replaced_goes_on(world: World) -> None:
    world.lead("a1")
    world.pass_ms(10 * LEASE_MS)
    assert world.lead("a1").term == Term(1, "a1")


def test_whoever_resigns_is_replaced_at_once_and_those_who_stand_by_are_rung_for(world: World) -> None:
    term = world.lead("a1").term
    world.lead("a2")
    assert world.run(world.t.resign("a1")) == 1
    assert world.resent == 0

    assert world.listed("bell", "a2") == ["lead"]
    with pytest.raises(Deposed):
        world.run(world.t.drain(EP, world.worker(), "why", term=term))
    assert world.lead("a2").term == Term(2, "a2")


def test_whoever_stands_by_and_resigns_changes_nothing_for_the_leader(world: World) -> None:
    world.lead("a1")
    world.lead("a2")
    assert world.run(world.t.resign("a2")) == 0
    assert world.scores("standbys", "") == {}
    assert world.lead("a1").term == Term(1, "a1")


def test_taking_over_raises_the_epoch_though_the_leader_is_well(world: World) -> None:
    world.lead("a1")
    assert world.lead("a2", take_over=True).term == Term(2, "a2")
    assert world.resent.term == Term(2, "a2")
    assert world.lead("a1").term == Term(2, "a2")


def test_a_clock_that_was_set_back_keeps_nobody_waiting_for_hours(world: World) -> None:
    world.lead("a1")
    world.pass_ms(-3_600_000)
    assert world.lead("a2").until_ms == world.now_ms + LEASE_MS
    world.pass_ms(LEASE_MS)
    assert world.lead("a2").term == Term(2, "a2")


# -- the fence ---------------------------------------------------------------------------------------


ACTIONS: dict[str, Callable[[World, Term], Command[Any]]] = {
    "order": lambda world, term: world.t.order(
        EP,
        "w9",
        host="another",  # the one above is overdue
        revision="r1",
        environment="env-1",
        most=9,
        patience_ms=1000,
        command=b"signed",
        term=term,
        fields={},
    ),
    "drain": lambda world, term: world.t.drain(EP, "w1", "idle", term=term),
    "drain a busy one": lambda world, term: world.t.drain(EP, "w1", "outdated", force=True, term=term),
    "declare lost": lambda world, term: world.t.leave(
        EP, "w1", "silent", term=term, host=HOST, command=b"kill"
    ),
    "set condition": lambda world, term: world.t.set_condition(EP, "condition", "{}", "NO_GPU", term=term),
    "note": lambda world, term: world.t.set_condition(EP, "withheld", "{}", "QUEUE_DELAY", term=term),
    "fail waiting": lambda world, term: world.t.fail_waiting(EP, "r1", "cannot start", term=term),
    "forget a host": lambda world, term: world.t.host_leave(HOST, only_overdue=True, term=term),
}


def ready_for_all_of_them(world: World) -> str:
    """A worker to drain or lose, a job to fail and a host to forget; the job's id."""
    beat(world)
    order(world, "w1")
    world.join("w1", booked=True)
    world.pass_ms(LEASE_MS)
    return world.submit()


@pytest.mark.parametrize("action", ACTIONS)
def test_the_leaders_word_is_taken(world: World, action: str) -> None:
    ready_for_all_of_them(world)
    before = world.snapshot()
    world.run(ACTIONS[action](world, world.term))
    assert world.snapshot() != before


@pytest.mark.parametrize("action", ACTIONS)
def test_what_was_decided_before_another_took_over_changes_nothing(world: World, action: str) -> None:
    job = ready_for_all_of_them(world)
    stale = world.term
    newer = world.lead("a2", take_over=True).term
    before = world.snapshot()
    for _ in range(2):
        with pytest.raises(Deposed, match=r"1 a1 is over, now 2 a2"):
            world.run(ACTIONS[action](world, stale))
    after = world.snapshot()

    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    events = {world.keys.of("events"), world.keys.of("endpoint_events", EP)}
    assert changed - events == {world.keys.of("leader")}
    assert changed & events
    assert [subject for kind, subject in world.events() if kind == "leader-refused"] == ["a1"]
    assert world.state(job) == JobState.QUEUED
    world.run(ACTIONS[action](world, newer))


@pytest.mark.parametrize("action", ["drain", "declare lost", "fail waiting", "forget a host"])
def test_workers_and_hosts_speak_for_themselves_whoever_leads(world: World, action: str) -> None:
    ready_for_all_of_them(world)
    world.lead("a2", take_over=True)
    command = ACTIONS[action](world, Term(0, ""))
    by_itself = tuple("" if arg == "0 " else arg for arg in command.args)
    before = world.snapshot()
    world.run(type(command)(command.script, command.key, by_itself, command.parse))
    assert world.snapshot() != before


def test_a_term_of_a_broker_that_lost_its_data_is_over(world: World) -> None:
    term = world.lead("a1").term
    with world.tampering() as redis:
        redis.delete(world.keys.of("leader"))
    with pytest.raises(Deposed):
        world.run(world.t.set_condition(EP, "condition", "{}", "", term=term))


@pytest.mark.parametrize("scribbled", ["", "x", "-1", "1.5", "1e300"])
def test_an_epoch_that_somebody_scribbled_is_put_right(world: World, scribbled: str) -> None:
    world.lead("a1")
    with world.tampering() as redis:
        redis.hset(world.keys.of("leader"), mapping={"epoch": scribbled, "until": scribbled, "lease": "?"})
    assert beat(world).epoch == 0
    term = world.lead("a1").term
    assert term == Term(1, "a1")
    assert world.run(world.t.set_condition(EP, "condition", "{}", "", term=term)) == 1
    assert beat(world, epoch=5).epoch == 5
    assert world.lead("a1").term == Term(6, "a1")


# -- what hosts know ---------------------------------------------------------------------------------


def test_a_heartbeat_tells_the_host_the_newest_epoch(world: World) -> None:
    assert beat(world).epoch == 0
    world.lead("a1")
    world.lead("a2", take_over=True)
    assert beat(world).epoch == 2


def test_a_broker_that_forgot_the_newest_leaders_learns_their_epoch_from_a_host(world: World) -> None:
    term = world.lead("a1").term
    assert beat(world, epoch=7).epoch == 7

    assert ("leader-unknown", HOST) in world.events()
    with pytest.raises(Deposed):
        world.run(world.t.set_condition(EP, "condition", "{}", "", term=term))
    assert world.lead("a1").term == Term(8, "a1")
    assert beat(world, epoch=7).epoch == 8


def test_a_command_that_a_host_refused_is_noted_once(world: World) -> None:
    for refused in (None, 4, 4, 6):
        beat(world, epoch=6, refused_epoch=refused)
    assert [event for event in world.events() if event[0] == "command-refused"] == [
        ("command-refused", HOST)
    ] * 2
