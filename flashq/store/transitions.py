"""Every transition of the protocol as a command: one typed function per script."""

from __future__ import annotations

from flashq.store.transitions_fleet import FleetTransitions
from flashq.store.transitions_jobs import REAP_AGAIN_S, RQ_DATA, JobTransitions

__all__ = ["REAP_AGAIN_S", "RQ_DATA", "Transitions"]


class Transitions(JobTransitions, FleetTransitions):
    """Builds commands under one key prefix."""
