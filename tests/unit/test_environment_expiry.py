"""Which environments a host keeps no longer."""

from __future__ import annotations

import pytest

from flashq_worker.environments.expiry import FRESH_S, Aged, Limits, expired

NOW = 1_000_000_000.0
DAY = 86_400.0
GIB = 1 << 30
LIMITS = Limits(keep_s=30 * DAY, total_bytes=10 * GIB)


def aged(digest: str, unused_s: float, gib: float = 1.0) -> Aged:
    return Aged(digest, int(gib * GIB), NOW - unused_s)


def due(*environments: Aged, limits: Limits = LIMITS) -> list[str]:
    return [one.digest for one in expired(environments, limits, NOW)]


def test_nothing_is_removed_within_the_limits() -> None:
    assert due(aged("a", 29 * DAY), aged("b", DAY, 8)) == []


def test_the_long_unused_go_though_there_is_room() -> None:
    assert due(aged("a", 31 * DAY), aged("b", 29 * DAY), aged("c", 90 * DAY)) == ["c", "a"]


def test_of_too_many_the_longest_unused_go_until_the_rest_fits() -> None:
    # Given 14 GiB where 10 are allowed, expect the two longest unused (4 GiB) to go, and no more
    kept = (aged("c", 3 * DAY, 5), aged("d", DAY, 5))
    assert due(*kept, aged("b", 4 * DAY, 1), aged("a", 5 * DAY, 3)) == ["a", "b"]


def test_what_was_used_just_now_stays_whatever_the_limits() -> None:
    assert due(aged("a", FRESH_S - 1, 100), limits=Limits(0, 0)) == []
    assert due(aged("a", FRESH_S + 1, 100), limits=Limits(0, 0)) == ["a"]


def test_a_clock_that_was_set_back_removes_nothing() -> None:
    assert due(aged("a", -DAY, 100)) == []


def test_the_reason_has_the_numbers() -> None:
    (old,) = expired([aged("a", 40 * DAY)], LIMITS, NOW)
    assert old.reason == "unused for 40.0 days"
    (large,) = expired([aged("a", 7200, 12)], LIMITS, NOW)
    assert large.reason == "all take 12.0 of 10.0 GiB, and it is unused for 2.0 h"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_order_they_are_listed_in_does_not_matter(order: tuple[int, ...]) -> None:
    listed = (aged("a", 5 * DAY, 4), aged("b", 5 * DAY, 4), aged("c", DAY, 4))
    assert due(*(listed[n] for n in order)) == ["a"]
