"""When a worker ends, and as what: pure.

Exit codes tell the host agent what happened, so that it need not ask the broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    LEFT = 0  # drained, or its endpoint is gone; it has left the broker in order
    LOST = 3  # the broker had given it up; what it held is somebody else's
    NOT_STARTED = 4  # it could not become ready, and has said why


@dataclass(frozen=True, slots=True)
class Standing:
    """What the decision depends on."""

    draining: bool = False
    gone: bool = False  # the broker says it does not know this worker (any more)
    start_failed: bool = False
    holding: int = 0  # jobs in hand
    unsettled: bool = False  # whether the broker has yet to confirm something


def exit_code(standing: Standing) -> ExitCode | None:
    """The code to end with, or None to go on. A draining worker finishes what it holds first."""
    if standing.gone:
        return ExitCode.LOST
    if standing.start_failed and not standing.unsettled:
        return ExitCode.NOT_STARTED
    if standing.draining and not standing.holding and not standing.unsettled:
        return ExitCode.LEFT
    return None
