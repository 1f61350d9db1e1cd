"""The scripts with a promise taken out, so that it is seen that tests and checkers find out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.store.scripts import library

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_FENCE = " and f.fence == fence\n    and (not worker or worker == '' or f.worker == worker)\n"
"""What of `live` tells one delivery of a job from another."""


def load_without_fence(broker: Broker) -> None:
    """Put scripts that let every outcome of a running job in in the place of the shipped ones, under their name."""
    shipped = library().source
    mutated = shipped.replace(_FENCE, "\n")
    assert mutated != shipped, "the mutation no longer applies"
    broker.execute("FUNCTION", "LOAD", "REPLACE", mutated)
