"""Why a job stands where it stands: one cause of a closed list, and what to do about it. Pure.

Whoever asks gathers `Facts`; `explain` chooses. What stops more than this one job (nobody may start it) goes before
what only makes it wait (others are before it).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flashq.model.lifecycle import WAITING, JobState
from flashq.model.outcome import FailureKind


class Cause(StrEnum):
    """Every answer that there is."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXCEPTION = "exception"
    UNSERIALIZABLE = "unserializable"
    CRASH = "crash"
    LOST = "lost"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    REFUSED = "refused"
    CANNOT_START = "cannot_start"
    RUNNING = "running"
    STOPPING = "stopping"
    CLAIMED = "claimed"
    HELD = "held"
    DELAYED = "delayed"
    RETRYING = "retrying"
    UNDEPLOYED = "undeployed"
    PAUSED = "paused"
    BROKER_DISK = "broker_disk"
    BROKER_MEMORY = "broker_memory"
    NO_HOST = "no_host"
    NO_SLOT = "no_slot"
    NO_CPU = "no_cpu"
    HOST_MEMORY = "host_memory"
    FOREIGN_MEMORY = "foreign_memory"
    NO_GPU = "no_gpu"
    NO_PYTHON = "no_python"
    LACKING = "lacking"
    NO_LABEL = "no_label"
    BACKOFF = "backoff"
    GIVEN_UP = "given_up"
    NO_AUTOSCALER = "no_autoscaler"
    BUILDING = "building"
    STARTING = "starting"
    BEHIND = "behind"
    SOON = "soon"
    THRESHOLD = "threshold"
    UNHURRIED = "unhurried"
    TURN = "turn"


@dataclass(frozen=True, slots=True)
class Told:
    """What a cause means, and what to do."""

    meaning: str
    advice: str


TOLD: dict[Cause, Told] = {
    Cause.COMPLETED: Told("It returned.", "Nothing; its value is kept for `result_ttl`."),
    Cause.CANCELLED: Told("Somebody cancelled it.", "`flashq retry JOB` begins it anew."),
    Cause.EXCEPTION: Told(
        "Its function raised, and it has no retries left.",
        "`flashq job JOB` shows the traceback; mend the function, then `flashq retry JOB`.",
    ),
    Cause.UNSERIALIZABLE: Told(
        "It returned, or yielded, what cannot be pickled.",
        "Return plain data, or what its caller can import.",
    ),
    Cause.CRASH: Told(
        "The process that ran it died, as often as it may.",
        "`flashq logs JOB` shows what it printed last; memory and C extensions are the usual reasons.",
    ),
    Cause.LOST: Told(
        "Its workers fell silent, as often as it may be delivered.",
        "`flashq hosts` and `flashq doctor` show whether hosts keep dying; then `flashq retry JOB`.",
    ),
    Cause.TIMEOUT: Told(
        "It ran longer than its timeout.", "Raise `execution_timeout_ms`, or `timeout_s` of the call."
    ),
    Cause.EXPIRED: Told("It had not begun when its `ttl` was over.", "More workers, or a longer `ttl`."),
    Cause.REFUSED: Told(
        "Its call was completed, deleted, or not signed as it must be.",
        "Submit it again; see `flashq job JOB`.",
    ),
    Cause.CANNOT_START: Told(
        "Its endpoint cannot start: dependencies, loading or `setup` fail the same way each time.",
        "`flashq job JOB` shows how; mend that and call again.",
    ),
    Cause.RUNNING: Told("A worker runs it.", "`flashq logs JOB --follow` shows what it prints."),
    Cause.STOPPING: Told("It is told to stop.", "Nothing; it is killed where it does not."),
    Cause.CLAIMED: Told(
        "A worker has it and is about to begin: it loads its code, or ends what it runs.",
        "Nothing, as a rule.",
    ),
    Cause.HELD: Told(
        "An earlier run of the private broker left it.",
        "`flashq up --resume` runs it, `flashq cancel JOB` drops it.",
    ),
    Cause.DELAYED: Told("It was submitted for later.", "Wait, or `flashq cancel JOB`."),
    Cause.RETRYING: Told(
        "Its function raised, and it is tried again after a pause.", "`flashq job JOB` shows the error."
    ),
    Cause.UNDEPLOYED: Told("Its endpoint is not registered any more.", "Run the program that defines it."),
    Cause.PAUSED: Told("Its endpoint is paused.", "`flashq resume ENDPOINT`."),
    Cause.BROKER_DISK: Told(
        "The broker cannot write to its disk, and takes nothing until it can.",
        "Make room on the broker's disk; `flashq doctor` shows how its last writes went.",
    ),
    Cause.BROKER_MEMORY: Told(
        "The broker's memory is full: it takes no new calls, streamed values, progress or output. "
        "What is there already is run, and its outcome kept.",
        "Raise `maxmemory`, or remove what is kept: `flashq purge`, shorter `result_ttl`.",
    ),
    Cause.NO_HOST: Told(
        "No machine may run workers: none is connected, or all are silent or drained.",
        "`flashq host` on one; `flashq hosts` shows them; `flashq hosts resume HOST` uses a drained one.",
    ),
    Cause.NO_SLOT: Told(
        "Every host runs as many workers as it may.", "Raise `flashq host --slots`, or add a host."
    ),
    Cause.NO_CPU: Told(
        "No host has the cores free that `cpu=` asks for.",
        "Wait for other workers, ask for less, or add a host.",
    ),
    Cause.HOST_MEMORY: Told(
        "No host has the memory free that `cpu=` asks for.",
        "Wait for other workers, ask for less, or add a host.",
    ),
    Cause.FOREIGN_MEMORY: Told(
        "The GPUs that would do are in use by programs that are none of flashq's.", "End these, or add a GPU."
    ),
    Cause.NO_GPU: Told(
        "No host has such a GPU free, or any at all.",
        "Wait for other workers, allow other models in `gpu=`, or add one.",
    ),
    Cause.NO_PYTHON: Told("No host has its version of Python.", "Install it there, or set `python_version`."),
    Cause.LACKING: Told(
        "No host has the system packages or the volume that it names, or a container engine for its image.",
        "Install or mount them on a host.",
    ),
    Cause.NO_LABEL: Told(
        "No host has the labels that `hosts` or `datacenter` ask for.",
        "`flashq host --label`, or ask for others.",
    ),
    Cause.BACKOFF: Told(
        "Starts of its endpoint's workers fail, for reasons of the machine; the next is tried later.",
        "`flashq endpoints ENDPOINT --events` shows how; a new registration tries at once.",
    ),
    Cause.GIVEN_UP: Told(
        "Starts of its endpoint's workers failed for seven days.",
        "Mend the reason, then run its program again.",
    ),
    Cause.NO_AUTOSCALER: Told(
        "Nobody starts workers: no autoscaler leads.", "`flashq up`, or `flashq autoscaler`."
    ),
    Cause.BUILDING: Told(
        "The environment of a worker is made: its dependencies are installed, or its image is fetched.",
        "Wait: it is made once on each host. There `flashq logs WORKER` shows the installer's lines.",
    ),
    Cause.STARTING: Told("A worker is starting.", "Wait; `flashq workers` shows since when."),
    Cause.BEHIND: Told(
        "All workers that its endpoint may have are busy.",
        "Wait, or `flashq scale ENDPOINT --workers MIN,MAX`.",
    ),
    Cause.SOON: Told(
        "Busy workers will be free before another could be started.",
        "Nothing: by then, or after as long as a start takes, it begins.",
    ),
    Cause.THRESHOLD: Told("QUEUE_DELAY: it has not waited for `scaler_value` seconds yet.", "Wait."),
    Cause.UNHURRIED: Told(
        "It was submitted with `lowPriority`: no worker is started for it, and there is none.",
        "It is run when others have a worker started; `flashq scale NAME --workers 1,N` keeps one.",
    ),
    Cause.TURN: Told(
        "It was submitted just now, or is about to be taken.", "If that lasts: `flashq doctor`."
    ),
}

_CONDITIONS = {
    "NO_HOST": Cause.NO_HOST,
    "QUOTA": Cause.NO_SLOT,
    "NO_CPU": Cause.NO_CPU,
    "HOST_MEMORY": Cause.HOST_MEMORY,
    "FOREIGN_MEMORY": Cause.FOREIGN_MEMORY,
    "NO_GPU": Cause.NO_GPU,
    "NO_PYTHON": Cause.NO_PYTHON,
    "LACKING": Cause.LACKING,
    "NO_LABEL": Cause.NO_LABEL,
    "BACKOFF": Cause.BACKOFF,
    "GIVEN_UP": Cause.GIVEN_UP,
}
"""Of each code of an endpoint's condition."""

_FAILURES: dict[str, Cause] = {
    FailureKind.EXCEPTION: Cause.EXCEPTION,
    FailureKind.UNSERIALIZABLE: Cause.UNSERIALIZABLE,
    FailureKind.CRASH: Cause.CRASH,
    FailureKind.LOST: Cause.LOST,
    FailureKind.LOST_ONCE: Cause.LOST,
    FailureKind.TIMEOUT: Cause.TIMEOUT,
    FailureKind.EXPIRED: Cause.EXPIRED,
    FailureKind.REFUSED: Cause.REFUSED,
    FailureKind.START: Cause.CANNOT_START,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a job and of the endpoint that it is for."""

    state: JobState
    reason: str = ""
    """Of one that ended: its `FailureKind`."""
    error: str = ""
    """The same for people; of one that waits, what its last run raised."""
    worker: str = ""
    stopping: bool = False
    held: bool = False
    due_in_s: float | None = None
    """Of one that is scheduled: until it waits on its queue."""
    retries: int = 0
    ahead: int = 0
    """How many wait on its queue before it."""
    registered: bool = True
    paused: bool = False
    unhurried: bool = False
    """Whether no worker is started for it."""
    condition: str = ""
    """The code of its endpoint's condition, and `detail`, its sentence."""
    detail: str = ""
    withheld: str = ""
    """The sentence of a start that the autoscaler held back, which `withheld_code` sorts."""
    withheld_code: str = ""
    most: int | None = None
    """How many workers the endpoint may have; None: not known."""
    idle: int = 0
    busy: int = 0
    starting: int = 0
    building: str = ""
    """The host on which an environment of its endpoint, or of the worker that has it, is being made."""
    building_s: float = 0.0
    """For how long."""
    broker_disk: bool = False
    """Whether the broker's last write failed."""
    broker_memory: str = ""
    """How full the broker's memory is, where it takes no more."""
    autoscaler: bool = True
    """Whether one leads."""


@dataclass(frozen=True, slots=True)
class Why:
    """The answer. `detail`: of this job, with its numbers; what the cause means, where there is nothing to add."""

    cause: Cause
    detail: str
    advice: str
    waits: bool
    """Whether it has yet to begin."""


def explain(facts: Facts) -> Why:
    """The one cause."""
    cause, detail = _ended(facts) or _under_way(facts) or _kept_back(facts) or _lacking(facts)
    return Why(cause, detail or TOLD[cause].meaning, TOLD[cause].advice, facts.state in WAITING)


def _ended(facts: Facts) -> tuple[Cause, str] | None:
    match facts.state:
        case JobState.FINISHED:
            return Cause.COMPLETED, ""
        case JobState.CANCELLED:
            return Cause.CANCELLED, ""
        case JobState.FAILED | JobState.TIMED_OUT:
            other = Cause.TIMEOUT if facts.state is JobState.TIMED_OUT else Cause.EXCEPTION
            return _FAILURES.get(facts.reason, other), facts.error.partition("\n")[0]
    return None


def _under_way(facts: Facts) -> tuple[Cause, str] | None:
    if facts.state not in (JobState.RUNNING, JobState.CLAIMED):
        return None
    if facts.stopping:
        return Cause.STOPPING, f"worker {facts.worker} is told to stop it"
    if facts.broker_disk:
        return Cause.BROKER_DISK, ""
    if facts.broker_memory:
        return (
            Cause.BROKER_MEMORY,
            f"worker {facts.worker} has it; the broker's memory: {facts.broker_memory}",
        )
    if facts.building:
        return Cause.BUILDING, f"worker {facts.worker} has it; {_building(facts)}"
    if facts.state is JobState.RUNNING:
        return Cause.RUNNING, f"worker {facts.worker} runs it"
    return Cause.CLAIMED, f"worker {facts.worker} has it and is about to begin"


def _kept_back(facts: Facts) -> tuple[Cause, str] | None:
    """What would keep it waiting whatever workers there are."""
    if facts.held:
        return Cause.HELD, ""
    if facts.due_in_s is not None:
        left = f"in {max(0.0, facts.due_in_s):.1f} s"
        if facts.retries:
            last = facts.error.partition("\n")[0]
            return Cause.RETRYING, f"it is tried again {left}" + (f", after: {last}" if last else "")
        return Cause.DELAYED, f"its time, {left}"
    if not facts.registered:
        return Cause.UNDEPLOYED, ""
    if facts.paused:
        return Cause.PAUSED, ""
    if facts.broker_disk:
        return Cause.BROKER_DISK, ""
    return (Cause.BROKER_MEMORY, facts.broker_memory) if facts.broker_memory else None


def _lacking(facts: Facts) -> tuple[Cause, str]:
    """What it waits for as its turn comes: workers that are free, that are there at all, or that may be started."""
    live = facts.idle + facts.busy + facts.starting
    before = f"{facts.ahead} before it" if facts.ahead else "none before it"
    if facts.idle and not facts.ahead:
        return Cause.TURN, ""
    if facts.most is not None and facts.busy >= facts.most:
        return Cause.BEHIND, f"{facts.busy} of at most {_workers(facts.most)} busy; {before}"
    if facts.unhurried and not live:
        return Cause.UNHURRIED, ""
    if facts.condition in _CONDITIONS:
        return _CONDITIONS[facts.condition], facts.detail
    if facts.starting and facts.building:
        return Cause.BUILDING, f"{_building(facts)}; {before}"
    if facts.starting:
        return Cause.STARTING, f"{_workers(facts.starting)} starting; {before}"
    if not facts.autoscaler:
        more = f"; {_workers(facts.busy)} busy, {before}" if live else ""
        return Cause.NO_AUTOSCALER, TOLD[Cause.NO_AUTOSCALER].meaning.rstrip(".") + more
    if facts.withheld:
        return (Cause.THRESHOLD if facts.withheld_code == "QUEUE_DELAY" else Cause.SOON), facts.withheld
    if facts.busy:
        return Cause.BEHIND, f"{_workers(facts.busy)} busy; {before}"
    return Cause.TURN, before if facts.ahead else ""


def _building(facts: Facts) -> str:
    return f"the environment is being built on host {facts.building} for {facts.building_s:.0f} s"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
