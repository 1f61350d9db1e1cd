"""What the reference says where the code does not say it of itself: meanings by name, checked to be complete."""

from __future__ import annotations

DEFAULTS = {
    "name": "the function's name",
    "gpu": "any GPU, unless `cpu` is given",
    "dependencies": "none",
    "datacenter": "any",
    "hosts": "any",
    "system_dependencies": "none",
    "env": "none",
    "python_version": "the caller's",
    "retries": "`0`",
}

PARAMETERS = {
    "name": "Names the endpoint and its queue: letters, digits, `_` and `-`, at most 64, no `--`. Same name, same"
    " settings: reused; same name, other settings: updated.",
    "id": "Client mode: the name of an endpoint that something else deployed, to be called by that name. Given alone;"
    " decorates nothing.",
    "gpu": "A `GpuGroup`, a `GpuType`, a string such as `'RTX 4090'`, or a list of these, the preferred first"
    " (`'any'` at its end: any other after them).",
    "cpu": "A CPU worker instead of a GPU worker: an instance name, or `'any'` (takes what the host leaves it).",
    "workers": "`(min, max)`, or `n` for `(0, n)`. Changing it replaces no worker.",
    "idle_timeout": "Seconds that a worker above `min` stays without a job. At most 30 days.",
    "dependencies": "Requirements (PEP 508) by name and version. Installed by uv into an environment that only this set"
    " of requirements and Python shares. Options, URLs and paths are refused.",
    "system_dependencies": "Names of system packages (dpkg's or rpm's) that a host has to have; flashq installs none. A"
    " host that lacks one gets no worker, and the endpoint is throttled with its name.",
    "accelerate_downloads": "`True` only: uv downloads in parallel.",
    "volume": "A folder by its path, the same on each host: of its disk, or where a share is mounted. A host that lacks"
    " it gets no worker. The function finds the path in `FLASHQ_VOLUME`, too.",
    "datacenter": "Name of a datacenter, or a list of names: workers go to hosts with one of these, by their label"
    " `datacenter=NAME` (`flashq host --label`).",
    "image": "A container image that the functions run in, as `podman` or `docker` name it; it has a `python3` of the"
    " caller's version ([more](../how-to/containers.md)). A host without either gets no worker.",
    "env": "Environment variables of the function's process, as a dict of strings. Encrypted in the broker, in no"
    " digest, shown as `***`.",
    "gpu_count": "GPUs that each worker holds, all on one host, and of one model where enough of one are free."
    " 1 to 128.",
    "min_cuda_version": "The oldest CUDA that the driver of its host must run, such as `'12.4'`; `None`: any.",
    "execution_timeout_ms": "Milliseconds one run may take; 0: as long as it likes.",
    "flashboot": "`True` only: processes are kept ready for all endpoints of a host; `flashq host --cold` keeps none.",
    "scaler_type": "`'QUEUE_DELAY'` or `'REQUEST_COUNT'`; unset: flashq's own rule ([scaling](scaling.md)).",
    "scaler_value": "QUEUE_DELAY: seconds of waiting; REQUEST_COUNT: jobs per worker. Refused without `scaler_type`.",
    "python_version": "The caller's minor version, such as `'3.11'`; another one is refused, since functions travel as"
    " bytecode.",
    "buffer": "Workers kept ready beside the busy ones while jobs wait or run, within `max`; none when there is nothing"
    " to do. Changing it replaces no worker.",
    "startup_timeout": "Seconds that loading may take: imports, the making of an instance, its `setup`. Then the "
    "worker gives up, and says where it was; after two such starts the jobs that wait fail with that.",
    "recycle_jobs": "Jobs after which a fresh process runs the next. `None`: never.",
    "recycle_gib": "Memory in GiB above which, after a job, a fresh process runs the next. `None`: none.",
    "batch": "`(max_size, wait_ms)`: calls gathered into one call of the function, which takes and returns lists "
    "([more](../how-to/batches.md)).",
    "max_concurrency": "Jobs that one worker runs at once; above 1 it needs an `async def` function. 1 to 1,000.",
    "retries": "Re-executions after an exception of the function: a number, a `Retries`, or a dict of its fields.",
    "priority": "-9 to 9; waiting jobs of a higher one always go first. Workers are started for all alike.",
    "result_ttl": "Whole seconds that a completed job and its value are kept. Jobs that ended without a value are kept"
    " at least 7 days.",
    "ttl": "Seconds from submit (or from the end of its delay) within which a job must have begun; later it is not run"
    " (`JobExpired`).",
    "delivery": "`'at_least_once'`, or `'at_most_once'`: once begun it is never run again, neither after the loss of"
    " its worker (`JobLost`) nor by a retry; refused together with `retries`.",
    "max_deliveries": "Begun runs that may be lost with their worker or process; with the last of them the job fails"
    " (`WorkerCrashed`). Counted apart from `retries`. 1 to 100.",
    "hosts": "Labels of which a host has to have all: `'zone=eu'`, a list, or a dict such as `{'zone': 'eu'}`; given by"
    " `flashq host --label`.",
    "max_queued": "Most jobs that may wait, delayed ones included; a call beyond it is refused (`QueueFull`). Unset: as"
    " many as the broker holds.",
}

CALL_OPTIONS = {
    "key": "Idempotency key: within 24 hours a second call of this endpoint with the same key is the first job"
    " ([more](../how-to/many-calls.md#the-same-call-once)).",
    "priority": "In place of the endpoint's `priority`.",
    "delay_s": "Seconds after which the job may begin.",
    "ttl_s": "In place of the endpoint's `ttl`; it counts from the end of `delay_s`.",
    "timeout_s": "In place of the endpoint's `execution_timeout_ms`; 0: as long as it likes.",
    "retries": "In place of the endpoint's `retries`.",
    "delivery": "In place of the endpoint's `delivery`. `'at_most_once'` on an endpoint with `retries` needs"
    " `retries=0` too.",
}

RETRIES = {
    "max": "Re-executions after the first run: `max=2` is at most three runs. 0 to 100.",
    "delay_s": "Bound of the first delay, in seconds; 0 retries at once.",
    "backoff": "Factor from one bound to the next.",
    "max_delay_s": "No bound is longer than this.",
    "on": "Exception types or names, subclasses included; empty: every exception. Names serve for types that are not"
    " installed where the call is made.",
    "never": 'The same, excepted from `on`, and from "every exception" too.',
    "jitter": "Whether each delay is drawn at random below its bound, so that jobs that failed at once do not"
    " come back at one moment; `False`: each is as long as its bound.",
}

TRANSITIONS = {
    "submit": "A call becomes a job.",
    "promote": "Its time has come (a part of REAP).",
    "claim": "A worker takes it, under a new fence and a lease. Jobs to be run at once begin in the same step.",
    "start": "It begins; this is where an attempt counts.",
    "finish": "Its worker stores an outcome, or sends it round again after an exception (a retry).",
    "release": "Its worker gives it back, uncounted: it drains, or had to kill the process that another job was in."
    " What may begin only once and has fails instead.",
    "cancel": "A waiting job ends. Of a leased one the worker is asked to stop it, and FINISH ends it.",
    "lose": "Its worker fell silent or its executor died: back to the queue until the budget of losses is spent.",
    "expire": "It waited past its ttl (a part of REAP).",
    "fail_waiting": "Its endpoint cannot start.",
    "refuse": "Its call was completed or deleted before, and somebody put the job back.",
    "requeue": "A person (or a tool of RQ) begins it anew, in the next generation.",
}

STATES = {
    "scheduled": "Waits for its time: a delay, or the pause before a retry.",
    "queued": "Waits for a worker.",
    "claimed": "Leased by a worker, not begun.",
    "running": "Leased and begun.",
    "finished": "Has a value, as long as `result_ttl`.",
    "failed": "Ended without a value.",
    "cancelled": "Ended because somebody asked.",
    "timed_out": "Ran past its timeout, or waited past its ttl.",
}

REQUIRED_FIELDS = (
    ("integer", "Version of the envelope: 1."),
    ("text", "Algorithm: `hs256` (HMAC-SHA256), the only one."),
    ("text", "Id of the root secret behind the key: 16 hex digits."),
    ("text", "What kind of record it is; see below."),
    ("text", "Namespace (`FLASHQ_NAMESPACE`)."),
    ("text", "Endpoint."),
    ("bytes", "SHA-256 of the payload."),
    ("integer", "Length of the payload in bytes."),
)

HEADER_FIELDS = {
    "job": "Job id.",
    "generation": "How often the job has been requeued.",
    "revision": "Digest of the revision to run, or of this revision record.",
    "target": "Method of a class endpoint; or an HTTP route, which is not used yet.",
    "encoding": "Of the payload: `pickle`, `json` or `failure`.",
    "python": "Minor version of the Python that pickled, such as `3.11`.",
    "cloudpickle": "Version of the cloudpickle that pickled, without its last part: `3.1`.",
    "delivery": "Delivery mode: `at_least_once` or `at_most_once`.",
    "priority": "Priority of the call.",
    "timeout_ms": "How long a run may take; 0: no bound.",
    "ttl_ms": "Within which time after submit, or its delay, it must have begun.",
    "not_before_ms": "Not to begin before; not used yet (the delay is kept by the broker).",
    "created_ms": "When it was signed.",
    "expires_ms": "When it is refused: 7 days after `iat`, and its delay and ttl; for a host command 60 s.",
    "parent": "Job that made the call; empty: none did.",
    "depth": "How many jobs are above the call.",
    "retry": "Retry policy as JSON; empty: none.",
    "keep_s": "How long the outcome is kept, in seconds.",
    "env_tag": "Which values of `env=` it was made with; empty: whichever are current.",
    "blob": "Where a payload lies that is not inline; not used yet.",
    "call_digest": "In outcomes: SHA-256 of the signature of the call that it answers.",
    "fence": "In outcomes: the claim's fence.",
    "attempt": "In outcomes: the number of the run, from 1.",
    "status": "In outcomes: the terminal state.",
    "chunks": "In outcomes: how many values the job yielded.",
    "sequence": "In chunks: its number, from 1.",
    "host": "In host commands: the host it is for.",
    "epoch": "In host commands: the leader's; the host refuses one that is older than the newest it knows.",
}

DIRECTIONS = {
    "call": "the caller → a call's arguments",
    "outcome": "the worker's supervisor → a value, or a failure",
    "chunk": "the worker's supervisor → a part of a stream; not used yet",
    "revision": "the caller → code and environment, stored once per digest",
    "host": "the autoscaler → a command to a host agent",
    "environment": "the caller → the key that encrypts values of `env=` (ChaCha20-Poly1305; not an envelope)",
}

FAILURES = {
    "exception": "its own exception; `RemoteError` where it cannot be rebuilt",
    "unserializable": "`ResultNotSerializable`",
    "crash": "`WorkerCrashed`",
    "lost": "`WorkerCrashed`",
    "lost_once": "`JobLost`",
    "timeout": "`JobTimedOut`",
    "expired": "`JobExpired`",
    "cancelled": "`JobCancelled`",
    "refused": "`JobRefused`",
    "start": "`EndpointFailed`",
}

RQ_KEYS = {
    "job": "hash: a job; RQ's fields, and ours as `fq_…`",
    "results": "stream: how a job ended, as RQ reads it; never a value",
    "queues": "set: keys of all queues",
    "queue": "list: ids of waiting jobs",
    "wip": "sorted set: claimed jobs as `id:fence`, at +inf, so that RQ's clean-up leaves them alone",
    "finished": "sorted set: completed jobs by when they are forgotten (s)",
    "failed": "sorted set: failed and timed-out jobs by when they are forgotten (s)",
    "scheduled": "sorted set: jobs by when their time comes (s)",
    "canceled": "sorted set: cancelled jobs by when they are forgotten (s)",
    "rq_workers": "set: keys of all workers",
    "queue_workers": "set: keys of a queue's workers",
    "worker": "hash: a worker; RQ's fields, and ours as `fq_…`",
}

WORKER_STATES = {
    "initializing": "Started, or ordered to be: installing dependencies, loading the function.",
    "idle": "Ready, nothing to do.",
    "running": "Holds at least one job.",
    "throttled": "Wanted, and no host has what it needs; counted per endpoint, with the reason.",
    "outdated": "Of an earlier environment or of other resources; finishes its jobs, then is replaced.",
    "unhealthy": "Wanted, and held back after failed starts; counted per endpoint, with the reason.",
}

OBSTACLES = {
    "NO_HOST": "No host is connected, or all are silent or draining.",
    "QUOTA": "The host runs as many workers as `--slots` allows.",
    "NO_CPU": "Not enough cores left.",
    "HOST_MEMORY": "Not enough memory left.",
    "FOREIGN_MEMORY": "The GPUs that would do are in use by other programs, or not clean after their last worker.",
    "NO_GPU": "No GPU that would do is free or sound, or there is none.",
    "NO_LABEL": "No host has the labels that `hosts` or `datacenter` asks for.",
    "NO_PYTHON": "No host has the Python version; those there are, are named.",
    "LACKING": "The host lacks a system package or the folder of `volume`; it says so until that is there.",
    "BACKOFF": "Starts failed; the next one is tried later.",
    "GIVEN_UP": "Starts have failed for 7 days; none is tried until the endpoint is registered anew.",
    "QUEUE_SOON_EMPTY": "By the estimates the queue will be empty before a new worker could help.",
    "QUEUE_DELAY": "QUEUE_DELAY's threshold is not reached yet.",
}

OPTIONS = {
    "jobs --status": "Only jobs of this status.",
    "jobs --limit": "At most so many.",
}

SCALING = {
    "rollout_fraction": "Share of `max` that may be in replacement at a time; at least one worker.",
    "retry_base_s": "Pause after the first failed start; doubled with each further one.",
    "retry_cap_s": "The longest such pause.",
    "give_up_s": "After failing for so long, starts are not tried any more.",
}

TIMING = {
    "queued_s": "From submit (or requeue) to the last claim.",
    "claimed_s": "From the claim to the begin of the run.",
    "execution_s": "Inside the function, by the executor's clock.",
    "total_s": "From submit to the end.",
    "attempts": "How many runs have begun.",
    "startup": "What this job waited for, by part, where it waited for a start; empty where it waited for none.",
}
