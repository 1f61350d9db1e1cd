"""What a decision says: starts, drains, stops and conditions, each with its reason for people to read."""

from __future__ import annotations

from dataclasses import dataclass

# Not for type checkers alone: what writes plans down reads these annotations.
from flashq_autoscaler.views import Condition, Unknown, Withheld  # noqa: TC001


@dataclass(frozen=True, slots=True)
class Start:
    """Start one worker of `endpoint` on `host`."""

    endpoint: str
    host: str
    revision: str
    environment: str
    gpu_uuids: tuple[str, ...]
    """The GPUs it is bound to; empty for the CPU."""
    cpus: float
    memory_bytes: int
    ordinal: int
    """It becomes the endpoint's `ordinal`-th live worker: a start is void where that many live already."""
    reason: str
    requires: tuple[str, ...] = ()
    """What the host has to have beside (see `Needs.requires`)."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask a worker to take no more jobs and end. An idle one refuses by having taken a job in the meantime."""

    worker: str
    endpoint: str
    reason: str
    outdated: bool = False
    """It is replaced after an update, and shown so."""
    busy: bool = False
    """It may hold jobs: it finishes these and takes no more."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Give up on a worker silent for its lease: its jobs are requeued, its process is ended if found."""

    worker: str
    endpoint: str
    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class EndpointCondition:
    """The condition an endpoint is in."""

    endpoint: str
    condition: Condition


@dataclass(frozen=True, slots=True)
class Plan:
    """One decision. Tuples are sorted: the same snapshot, listed in another order, gives the same plan."""

    starts: tuple[Start, ...] = ()
    drains: tuple[Drain, ...] = ()
    stops: tuple[Stop, ...] = ()
    states: tuple[EndpointCondition, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    wake_at: float | None = None
    """The earliest moment at which time alone changes the decision; later than the snapshot's `now`."""
    unknown: tuple[Unknown, ...] = ()
    """What could not be found out; nothing was decided from it."""
    undecided: frozenset[str] = frozenset()
    """The endpoints whose queue is unknown: what is recorded of them stays."""
