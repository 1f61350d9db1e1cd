"""What the caller does around the endpoint: sort texts into batches, find the nearest vectors."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def batches(texts: Sequence[str], size: int) -> list[list[int]]:
    """Return the positions of `texts` in batches of at most `size`: like lengths together, the longest first.

    A batch is padded to its longest text, so mixed lengths would waste most of the work; and with the short
    ones last, no worker is left alone with a long batch at the end.
    """
    order = sorted(range(len(texts)), key=lambda position: (-len(texts[position]), position))
    return [order[start : start + size] for start in range(0, len(order), size)]


def spread(count: int, wanted: int) -> list[int]:
    """Return `wanted` positions out of `count`, evenly spread; all of them where there are no more."""
    wanted = min(wanted, count)
    return [position * count // wanted for position in range(wanted)]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors of length 1."""
    return 1 - math.dist(one, other) ** 2 / 2


class Index:
    """Unit vectors by name. A search compares all of them: 6,000 of 384 numbers take some 20 ms."""

    def __init__(self, entries: Iterable[tuple[str, Sequence[float]]]) -> None:
        self._entries = [(name, tuple(vector)) for name, vector in entries]

    def nearest(self, vector: Sequence[float], count: int = 5) -> list[tuple[str, float]]:
        """Return the `count` names nearest to `vector`, with their cosines, nearest first."""
        target = tuple(vector)
        # Between unit vectors distance and cosine order alike, and the library computes this one in C.
        distances = ((math.dist(target, known), name) for name, known in self._entries)
        return [(name, 1 - distance**2 / 2) for distance, name in heapq.nsmallest(count, distances)]
