"""What the autoscaler sees: one immutable snapshot of endpoints, workers and hosts.

Every time is in seconds of the broker's clock, every duration in seconds, every size in bytes. Whatever could
not be found out is `Unknown(reason)`, never 0 and never an empty tuple: nothing is started or stopped because
of it. This module knows neither how a snapshot is read nor what is decided from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WorkerState = Literal["initializing", "idle", "running", "throttled", "outdated", "unhealthy"]
ScalerType = Literal["QUEUE_DELAY", "REQUEST_COUNT"]
ThrottleCode = Literal[
    "NO_HOST",
    "QUOTA",
    "NO_CPU",
    "HOST_MEMORY",
    "FOREIGN_MEMORY",
    "NO_GPU",
    "NO_PYTHON",
    "LACKING",
    "NO_LABEL",
]
UnhealthyCode = Literal["BACKOFF", "GIVEN_UP"]
WithheldCode = Literal["QUEUE_SOON_EMPTY", "QUEUE_DELAY"]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that could not be found out, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What one worker of an endpoint takes of a host. A zero is "not counted"."""

    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_models: tuple[str, ...] = ()
    """Acceptable NVML product names (see GpuRequest), the preferred first; empty: any."""
    gpu_others: bool = False
    """Any other model will do after those."""
    cuda: str = ""
    """The oldest CUDA that the driver must run, as "12.4"; empty: any."""
    labels: tuple[str, ...] = ()
    """Labels that a host has to have, all of them."""
    datacenters: tuple[str, ...] = ()
    """Of these it has to have one, as its label datacenter=NAME; empty: any."""
    python: str = ""
    """The version of Python ("3.11"); empty: any."""
    requires: tuple[str, ...] = ()
    """What a host has to have beside: "package NAME", "folder PATH"."""
    nested: bool = False
    """It is for jobs that other jobs wait for: it may have the places that those lend."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Why an endpoint has fewer workers than it wants, as its listing shows it."""

    state: Literal["throttled", "unhealthy"]
    code: ThrottleCode | UnhealthyCode
    detail: str
    """One sentence for people, with the numbers and who holds what."""
    workers: int
    """How many workers are wanted and not started for this reason."""
    retry_at: float | None = None
    """Unhealthy only: when the next start may be tried; None when flashq has given up."""

    def same_as(self, other: Condition | None) -> bool:
        """Whether `other` says the same, but for what moves all the time.

        That is `detail`, which names hosts and their numbers, and `workers` of an unhealthy endpoint, which follows its
        queue.
        """
        return (
            other is not None
            and (self.state, self.code, self.retry_at) == (other.state, other.code, other.retry_at)
            and (self.state == "unhealthy" or self.workers == other.workers)
        )


@dataclass(frozen=True, slots=True)
class Withheld:
    """A start that the rules hold back for now, though jobs wait."""

    endpoint: str
    code: WithheldCode
    detail: str
    due_at: float
    """When the oldest of those jobs gets a worker whatever the estimates say."""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint: its settings, its queue and what its past starts and jobs took."""

    name: str
    revision: str
    environment: str
    """Digest of environment and resources: a worker with another one is outdated; new code keeps it."""
    minimum: int
    maximum: int
    idle_timeout_s: float
    queued: int | Unknown
    """Jobs that wait, of every priority and revision. Unknown: nothing is decided for it."""
    nested: int = 0
    """Of those, jobs that jobs called."""
    waits_s: tuple[float, ...] = ()
    """How long they have waited, oldest first; at least the oldest `maximum * concurrency` of them."""
    running: int = 0
    """Jobs in progress."""
    elapsed_s: tuple[float, ...] = ()
    """How long each running job has run; one entry a job."""
    service_s: float | None = None
    """Median execution time of a job; None until one has finished."""
    cold_s: float | None = None
    """Median time from a start to ready; None until one has succeeded."""
    scaler_type: ScalerType | None = None
    scaler_value: float = 4.0
    buffer: int = 0
    """Workers to be ready beside those that the rule wants, while jobs wait or run."""
    concurrency: int = 1
    """Jobs that one worker runs at once."""
    needs: Needs = Needs()
    paused: bool = False
    failures: int = 0
    """Consecutive failed starts of the current revision that were not the code's fault."""
    first_failure_at: float | None = None
    last_failure_at: float | None = None
    last_failure_reason: str = ""
    condition: Condition | None = None
    """The condition the broker has on record."""
    withheld: Withheld | None = None
    """The last withheld start the broker has on record; spent once `due_at` has passed."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker on record. It is on record from the moment its start is sent, as `initializing`."""

    id: str
    endpoint: str
    host: str
    state: WorkerState
    revision: str
    environment: str
    since: float
    """When it entered `state`."""
    beat_at: float
    """Its last heartbeat; before the first one, when its start was sent."""
    lease_s: float = 15.0
    """A worker silent for longer is lost."""
    draining: bool = False
    """It takes no new job and ends when it has none."""
    jobs: int = 0
    """Jobs it holds."""
    lends: bool = False
    """All its jobs wait for what they called: its place may be had by that."""
    reported: bool = True
    """Its process has been heard of; False: it is booked, and that is all."""
    gpu_uuids: tuple[str, ...] = ()
    """The GPUs it holds, in every state, until its host has seen them free."""
    cpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GpuView:
    """One GPU (or MIG slice) of a host."""

    uuid: str
    name: str
    memory_bytes: int
    foreign: bool = False
    """Its memory is in use by something that is not a worker on record."""
    fault: str = ""
    """Why nothing can run on it; empty: it is sound."""
    leased: str = ""
    """The worker that has its lease, on record or not; empty: none."""
    kept: str = ""
    """Why it is kept from workers until its host has seen it free; empty: it is not."""


@dataclass(frozen=True, slots=True)
class HostView:
    """One machine that can run workers. Totals: what is free follows from the workers on it."""

    id: str
    beat_at: float
    lease_s: float = 15.0
    cpus: float | None = None
    """Cores to give to workers; None: not limited."""
    memory_bytes: int | None = None
    """Memory to give to workers; None: not limited."""
    gpus: tuple[GpuView, ...] = ()
    gpu_faults: tuple[str, ...] = ()
    """What it cannot tell of its GPUs: there may be more."""
    cuda: str = ""
    """The newest CUDA that its driver runs; empty: not known."""
    fallback_cpu: bool = False
    """Having no GPU at all, it runs `gpu=` endpoints on the CPU."""
    draining: bool = False
    """It starts nothing more."""
    drained: str | None = None
    """Why its workers are to end, by an operator's word, which may be empty; None: they are not."""
    labels: frozenset[str] = frozenset()
    pythons: tuple[str, ...] = ()
    """Versions of Python that it has; empty: it does not say."""
    lacks: tuple[tuple[str, str], ...] = ()
    """What was required of it and is not there (see `Needs.requires`), and why."""
    slots: int | None = None
    """Workers it runs at once, at most; None: not limited."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision may depend on."""

    now: float
    endpoints: tuple[EndpointView, ...] | Unknown
    workers: tuple[WorkerView, ...] | Unknown
    hosts: tuple[HostView, ...] | Unknown


@dataclass(frozen=True, slots=True)
class Params:
    """The operator's knobs; the defaults are those of the documentation."""

    alpha: float = 1.0
    """A start pays when the earliest slot is later than `alpha` cold starts: 1 is cheap, 0 a worker a job."""
    cold_default_s: float = 1.0
    """The cold start assumed until one was measured."""
    claim_grace_s: float = 6.0
    """A worker idle this long beside a job waiting this long is not counted on: it should have taken it."""
    orphan_grace_s: float = 5.0
    """How long a worker of an endpoint that is not in the snapshot may stay idle."""
    rollout_fraction: float = 0.1
    rollout_failures: int = 2
    """Failed starts of the new revision that pause its rollout."""
    retry_base_s: float = 10.0
    retry_cap_s: float = 6 * 3600.0
    retry_jitter: float = 0.1
    """A retry comes up to this fraction of its delay later, by a hash of the endpoint's name."""
    give_up_s: float = 7 * 86400.0
