"""Schedules of faults follow from their seed; every kind is there, and can be carried out."""

from __future__ import annotations

from collections import Counter

import pytest

from flashq.store.scripts import script_names
from flashq.verify.caller import Share
from flashq.verify.faults import ACTIONS
from flashq.verify.schedule import OWN_BROKER, SAFE, Planned, chosen, draw

ALL = (*SAFE, *OWN_BROKER)
DEAL = sum(kind.weight for kind in ALL)


def drawn(seed: int, faults: int = DEAL) -> list[Planned]:
    return draw(seed, faults, ALL, pace_s=0.5, lease_s=2.0)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1, DEAL) == drawn(1, 3 * DEAL)[:DEAL]


@pytest.mark.parametrize("seed", range(5))
def test_one_deal_has_every_kind_as_often_as_it_weighs(seed: int) -> None:
    assert Counter(planned.kind for planned in drawn(seed)) == {kind.name: kind.weight for kind in ALL}


@pytest.mark.parametrize("seed", range(5))
def test_faults_come_at_their_pace_and_last_within_their_bounds(seed: int) -> None:
    kinds = {kind.name: kind for kind in ALL}
    schedule = drawn(seed, 200)

    assert [planned.at_s for planned in schedule] == sorted(planned.at_s for planned in schedule)
    assert 99 <= schedule[-1].at_s <= 100
    for planned in schedule:
        kind = kinds[planned.kind]
        assert kind.lasts[0] * 2.0 <= planned.lasts_s <= kind.lasts[1] * 2.0
        assert 0 <= planned.pick < 1
        assert (planned.script in kind.calls) if kind.calls else planned.script == ""
        assert not kind.moments or planned.moment in kind.moments


def test_every_kind_can_be_carried_out_and_waits_for_calls_that_exist() -> None:
    assert {kind.name for kind in ALL} == ACTIONS.keys()
    assert {script for kind in ALL for script in kind.calls} <= set(script_names())


def test_a_broker_that_others_use_is_left_alone() -> None:
    assert not [kind.name for kind in SAFE if "broker" in kind.name]


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, "a"), (0.49, "a"), (0.5, "b"), (0.99, "b"), (1.0, "b")]
)
def test_a_fraction_points_to_one(fraction: float, expected: str) -> None:
    assert chosen(fraction, ["a", "b"]) == expected


def test_a_caller_that_was_away_is_behind_and_not_late_for_ever() -> None:
    """Given one of three callers, expect its calls due whenever it made the earlier ones."""
    share = Share(name="caller-1", folder="", first=1, step=3, calls=9, begun=100.0, every_s=2.0, lease_s=1.0)
    assert [share.due_at(number) for number in range(1, 9, 3)] == [100.0, 102.0, 104.0]
