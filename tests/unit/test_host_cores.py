"""Which cores a worker gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashq_worker.host.cores import choose


@pytest.mark.parametrize(
    ("cpus", "available", "taken", "expected"),
    [
        (0, range(4), [], ()),
        (1, range(4), [], (0,)),
        (2, range(4), [(0,)], (1, 2)),
        (0.5, range(4), [(0, 1), (2,)], (3,)),
        (1.5, {3, 5, 7}, [], (3, 5)),
        (2, range(4), [(0, 1), (2, 3), (0, 1)], (2, 3)),
        (4, range(4), [], ()),
        (9, range(4), [(1,)], ()),
        (1, [], [], ()),
    ],
)
def test_the_cores_that_the_fewest_have(
    cpus: float, available: list[int], taken: list[tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    assert choose(cpus, available, taken) == expected


@given(st.lists(st.integers(1, 3), max_size=8), st.integers(2, 8))
def test_while_there_is_room_no_two_workers_share_a_core(sizes: list[int], cores: int) -> None:
    taken: list[tuple[int, ...]] = []
    for size in sizes:
        chosen = choose(size, range(cores), taken)
        room = cores - len({core for each in taken for core in each})
        if chosen and size <= room:
            assert not {core for each in taken for core in each} & set(chosen)
        taken.append(chosen)
