"""A textual change of the scripts. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake that somebody might make, where it shows, and which check has to notice it.

    `old` stands once in the library; `new` takes its place. `caught_by` begins the name of the problem (judge.py).
    """

    name: str
    old: str
    new: str
    caught_by: str
    scope: str
    jobs: int = 1
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A change that no one can notice, why, and where it was searched for all the same."""

    name: str
    old: str
    new: str
    why: str
    scope: str
    jobs: int = 1
    workers: int = 1
