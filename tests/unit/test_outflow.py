"""How far a function that yields may run ahead of whoever reads it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flashq_worker.outflow import FIRST_CREDIT, MOST_UNREAD, MOST_UNREAD_BYTES, Outflow


def until_it_waits(flow: Outflow, size: int, credit: int) -> int:
    """Yield as long as there is credit; how many there were then."""
    while credit:
        flow.yielded(size)
        credit += flow.grant() - 1
    return flow.count


def test_it_waits_when_enough_is_unread_and_goes_on_when_some_was_taken() -> None:
    flow = Outflow()

    assert until_it_waits(flow, 10, FIRST_CREDIT) == MOST_UNREAD + FIRST_CREDIT - 1
    flow.taken(32)
    assert until_it_waits(flow, 10, flow.grant()) == MOST_UNREAD + FIRST_CREDIT - 1 + 32
    assert flow.grant() == 0


def test_large_values_wait_by_their_bytes_and_one_always_passes() -> None:
    flow = Outflow()

    assert until_it_waits(flow, 2 * MOST_UNREAD_BYTES, FIRST_CREDIT) == FIRST_CREDIT
    flow.taken(FIRST_CREDIT - 1)
    assert flow.grant() == 0
    flow.taken(FIRST_CREDIT)
    assert flow.grant() == FIRST_CREDIT


@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.booleans())))
def test_credit_is_neither_lost_nor_made(steps: list[tuple[int, bool]]) -> None:
    flow, credit, taken = Outflow(), FIRST_CREDIT, 0
    for size, reads in steps:
        if credit:
            assert flow.yielded(size) == flow.count
            credit -= 1
        if reads:
            taken = flow.count
            flow.taken(taken)
        credit += flow.grant()
        assert flow.count - taken <= MOST_UNREAD + FIRST_CREDIT
    flow.taken(flow.count)
    assert credit + flow.grant() == FIRST_CREDIT
