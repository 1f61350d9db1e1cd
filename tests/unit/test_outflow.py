"""How far a function that yields may run ahead of whoever reads it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flashq_worker.executor.frames import chunk_cost
from flashq_worker.outflow import FIRST_CREDIT, MOST_UNREAD, MOST_UNREAD_BYTES, Outflow

MIB = 1 << 20


def until_it_waits(flow: Outflow, size: int, credit: int) -> int:
    """Yield as long as there is credit; how many there were then."""
    while credit > 0:
        flow.yielded(size)
        credit += flow.grant() - chunk_cost(size)
    return flow.count


def test_it_waits_when_enough_is_unread_and_goes_on_when_some_was_taken() -> None:
    flow = Outflow()

    assert until_it_waits(flow, 10, FIRST_CREDIT) == MOST_UNREAD + FIRST_CREDIT - 1
    flow.taken(32)
    assert until_it_waits(flow, 10, flow.grant()) == MOST_UNREAD + FIRST_CREDIT - 1 + 32
    assert flow.grant() == 0


def test_large_values_wait_by_their_bytes_and_one_always_passes() -> None:
    flow = Outflow()

    assert until_it_waits(flow, 2 * MOST_UNREAD_BYTES, FIRST_CREDIT) == 1
    flow.taken(1)
    assert flow.grant() == chunk_cost(2 * MOST_UNREAD_BYTES)


@given(st.lists(st.tuples(st.sampled_from([0, 10, MIB, 5 * MIB, 40 * MIB]), st.booleans())))
def test_credit_is_neither_lost_nor_made_and_what_is_unread_is_bounded(steps: list[tuple[int, bool]]) -> None:
    flow, credit, unread = Outflow(), FIRST_CREDIT, []
    for size, reads in steps:
        if credit > 0:
            assert flow.yielded(size) == flow.count
            credit -= chunk_cost(size)
            unread.append(size)
        if reads:
            flow.taken(flow.count)
            unread.clear()
        credit += flow.grant()
        assert len(unread) <= MOST_UNREAD + FIRST_CREDIT
        assert sum(unread) <= MOST_UNREAD_BYTES + FIRST_CREDIT * MIB + 40 * MIB
    flow.taken(flow.count)
    assert credit + flow.grant() == FIRST_CREDIT
