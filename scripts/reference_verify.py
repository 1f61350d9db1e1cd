"""The tables of `flashq verify`: its faults, and what it counts as a violation (see reference.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.verify import schedule
from flashq.verify.check import KINDS
from scripts.reference_tables import table

if TYPE_CHECKING:
    from collections.abc import Callable


def faults() -> str:
    """Every kind of fault that users may meet, and how many there are in one round of them."""
    rows = [(kind.name, kind.meaning, str(kind.weight), "any") for kind in schedule.SAFE]
    rows += [(kind.name, kind.meaning, str(kind.weight), "private") for kind in schedule.OWN_BROKER]
    return table(("fault", "what happens", "in a round", "broker"), rows)


def violations() -> str:
    """Every promise that may be found broken."""
    return table(("violation", "meaning"), KINDS.items())


TABLES: dict[str, Callable[[], str]] = {"verify-faults": faults, "verify-violations": violations}
