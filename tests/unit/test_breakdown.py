"""The breakdown of a start: its parts follow each other, and sum to what the job waited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq_worker.breakdown import Start

PARTS = ["claim", "environment", "fork", "imports", "setup", "first_job"]


def start(*, how: str = "fork") -> Start:
    """Known at 10, its environment at 11, begun to load at 12, imported at 15, ready at 16."""
    made = Start(10.0, environment_at=11.0, how=how)
    made.ready(3000, 1000, at=16.0)
    return made


def test_a_job_that_waited_for_all_of_it() -> None:
    parts = start().parts(submitted_at=8.0, ended_at=18.5)
    assert parts == {
        "claim": 2000,
        "environment": 1000,
        "fork": 1000,
        "imports": 3000,
        "setup": 1000,
        "first_job": 2500,
    }
    assert "spawn" in start(how="spawn").parts(8.0, 18.5)


def test_what_was_over_when_it_was_submitted_is_none_of_its() -> None:
    parts = start().parts(submitted_at=13.0, ended_at=18.5)
    assert list(parts.values()) == [0, 0, 0, 2000, 1000, 2500]
    assert list(parts) == PARTS


@pytest.mark.parametrize("submitted_at", [16.0, 20.0])
def test_a_job_submitted_when_it_was_ready_waited_for_no_start(submitted_at: float) -> None:
    assert start().parts(submitted_at, ended_at=21.0) == {}


def test_a_start_that_is_not_over_has_no_parts() -> None:
    assert Start(10.0).parts(8.0, 11.0) == {}
    assert Start(10.0).environment_s == 0
    assert Start(10.0, environment_at=11.0).parts(8.0, 12.0) == {}


TIMES = st.floats(0, 1e4)


@given(st.tuples(TIMES, TIMES, TIMES, TIMES), TIMES, TIMES, TIMES)
def test_parts_sum_to_the_wait(
    spans: tuple[float, float, float, float], import_s: float, setup_s: float, before: float
) -> None:
    """Given any times, and whatever the executor says of itself, expect no negative part and no gap."""
    known = 1000.0
    environment, ready, ended = known + spans[0], known + spans[0] + spans[1], known + sum(spans[:3])
    made = Start(known, environment_at=environment, how="fork")
    made.ready(import_s * 1000, setup_s * 1000, at=ready)
    submitted = ended - before
    parts = made.parts(submitted, ended)
    if submitted >= ready:
        assert parts == {}
    else:
        assert list(parts) == PARTS
        assert min(parts.values()) >= 0
        assert sum(parts.values()) == pytest.approx((ended - submitted) * 1000, abs=0.01)
