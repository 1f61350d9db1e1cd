"""How many jobs a worker holds: few for long ones, some for short ones, and none ahead for those that print."""

from __future__ import annotations

import pytest

from flashq_worker.hand import Hand
from flashq_worker.pacing import Pace


@pytest.mark.parametrize(("seconds", "ahead"), [(2.0, 0), (0.01, 0), (0.004, 1), (0.001, 4), (0.000_01, 32)])
def test_only_short_jobs_are_claimed_ahead(seconds: float, ahead: int) -> None:
    pace = Pace()
    pace.observe(seconds)
    assert pace.ahead == ahead


def test_nothing_is_held_ahead_before_anything_is_known() -> None:
    assert (Pace().ahead, Pace().handed_ahead) == (0, 0)


def test_one_long_job_counts_at_once_and_short_ones_only_gradually() -> None:
    pace = Pace()
    for _ in range(20):
        pace.observe(0.000_1)
    pace.observe(1.0)
    assert pace.ahead == 0
    pace.observe(0.000_1)
    assert pace.ahead == 0


def test_what_the_autoscaler_is_told_follows_a_longer_job_most_of_the_way_and_shorter_ones_gradually() -> (
    None
):
    assert Pace().expected_s is None
    pace = Pace()
    pace.observe(1.0)
    pace.observe(11.0)
    assert pace.expected_s == pytest.approx(9.0)
    pace.observe(1.0)
    assert pace.expected_s == pytest.approx(7.4)
    assert pace.service_s == pytest.approx(9.0)


def test_tiny_jobs_are_handed_over_ahead_once_they_have_been_silent_for_a_while() -> None:
    pace = Pace()
    for _ in range(50):
        assert pace.handed_ahead == 0
        pace.observe(0.000_1)
    assert pace.handed_ahead == 4
    pace.silent = 0
    assert pace.handed_ahead == 0


def test_room_is_for_what_can_begin_not_for_what_is_held_ahead() -> None:
    hand = Hand(concurrency=2, ahead=4)
    assert (hand.room, hand.free, hand.backlog) == (2, 6, False)
