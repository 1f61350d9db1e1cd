"""Every key name in the broker, made here and nowhere else.

RQ's own keys (`<prefix>:job:…`, queues, registries, workers) carry what people look at and manage; ours are
`<prefix>:fq:…`. The Lua scripts take their names from the same table (`NAMES`, put
before them by scripts.py), so that a name is spelt once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

#: Every kind of key: its name after the prefix; those ending in a colon go on with a job id, a queue's name,
#: an endpoint's, a worker's, a host's or a client's.
NAMES = {
    # RQ's
    "job": "job:",
    "results": "results:",
    "queues": "queues",
    "queue": "queue:",
    "wip": "wip:",
    "finished": "finished:",
    "failed": "failed:",
    "scheduled": "scheduled:",
    "canceled": "canceled:",
    "rq_workers": "workers",
    "queue_workers": "workers:",
    "worker": "worker:",
    # ours
    "epoch": "fq:epoch",  # string: names this broker's data set; gone or different means data was lost
    "endpoints": "fq:endpoints",  # set of endpoint names
    "endpoint": "fq:endpoint:",  # hash: the endpoint's record
    "revision": "fq:revision:",  # string (endpoint:digest): the signed revision record, stored once
    "endpoint_queues": "fq:queues:",  # zset: names of the endpoint's queues by rank; the plain one at 0
    "leases": "fq:leases:",  # zset: claimed jobs by the time their lease ends (ms)
    "ttls": "fq:ttls:",  # zset: jobs with a ttl by the time they must have begun (ms)
    "idle": "fq:idle:",  # zset: workers with room for a job by when they became so (ms)
    "endpoint_workers": "fq:workers:",  # zset: workers by the time their silence means they are lost (ms)
    "stats": "fq:stats:",  # hash: counters and estimates of an endpoint
    "clock": "fq:clock:",  # hash: when the endpoint was last reaped, until when leases are spared (ms)
    "spent": "fq:spent:",  # zset (endpoint:3 digits): calls that are not run again, by when they expire (ms)
    "parked": "fq:parked:",  # list: ids found on an endpoint's queues that are no jobs of ours
    "bell": "fq:bell:",  # list: what wakes a worker (job, cancel:<id>, drain) or a standby autoscaler (lead)
    "logs": "fq:logs:",  # stream: output of one job, capped
    "chunks": "fq:chunks:",  # stream: what one job has yielded and no reader has yet; ids are fence-number
    "idempotency": "fq:idem:",  # string (endpoint:digest): which job an idempotency key stands for
    "leader": "fq:leader",  # hash: which autoscaler may act, under which epoch, until when
    "standbys": "fq:standbys",  # zset: autoscalers that stand by, by when their word ends (ms)
    "wake": "fq:wake",  # list: at most one token, which wakes the autoscaler
    "events": "fq:events",  # stream: what happened, for people, capped
    "endpoint_events": "fq:events:",  # stream: the same of one endpoint, so that a busy one drives out no other's
    "hosts": "fq:hosts",  # zset: hosts by the time their silence means they are gone (ms)
    "host": "fq:host:",  # hash: a host's record
    "drains": "fq:drains",  # hash: hosts that are given no more workers → since when (ms), and why
    "host_environments": "fq:environments:",  # hash: the environments built on a host, as JSON
    "gpus": "fq:gpus",  # hash: a GPU's UUID → its lease (fence, since, worker, endpoint, host, why it is kept from all)
    "commands": "fq:commands:",  # list: signed commands for a host
    "api_keys": "fq:apikeys",  # hash: the gateway's API keys by id, as JSON with their digests
    "gateways": "fq:gateways",  # zset: gateways, each with where it listens, by when their word ends (ms)
    "webhooks": "fq:webhooks",  # hash: jobs whose end is to be told → by which gateway, and the address, as JSON
    "apps": "fq:apps",  # hash: <app>/<environment> → what is deployed, as JSON
    "artifact": "fq:artifact:",  # hash (digest): how many chunks there are; string (digest:number): one of them
    "deploying": "fq:deploying:",  # string (app/environment): who deploys it now; ends unless renewed
    "prepared": "fq:prepared:",  # hash (host): revisions of apps → whether it has all that they need, as JSON
    "push": "fq:push:",  # pub/sub channel: a client's outcomes
}

#: What the queue for an endpoint's held jobs is called after the endpoint (see held.py); `--` is reserved in names.
HELD = "--held"


#: What the kinds that end in a colon go on with, where that is not the name of an endpoint alone.
_SUBJECTS = {
    **dict.fromkeys(("job", "results", "logs", "chunks", "worker", "bell"), "id"),  # <endpoint>-<uuid>
    **dict.fromkeys(("queue", "wip", "finished", "failed", "scheduled", "canceled"), "queue"),
    **dict.fromkeys(("revision", "spent", "idempotency"), "part"),  # <endpoint>:…
    **dict.fromkeys(
        ("host", "host_environments", "commands", "push", "artifact", "deploying", "prepared"), "other"
    ),
}
_UUID = "?" * 36


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix (RQ's `RQ_KEY_PREFIX`, "rq" unless set)."""

    prefix: str = "rq"

    @property
    def root(self) -> str:
        """The prefix with its colon, as scripts take it."""
        return f"{self.prefix}:"

    def of(self, kind: str, *subject: str) -> str:
        """The key of this kind (a name in `NAMES`) for a subject: `of("job", job_id)`."""
        return f"{self.prefix}:{NAMES[kind]}{':'.join(subject)}"

    def patterns(self, kind: str, endpoint: str | None = None) -> list[str]:
        """Glob patterns for the keys of this kind: all of them, or what of them is of one endpoint.

        `embed-*` would match ids of `embed-large` too, so ids are given their length: 36 characters.
        """
        start = f"{self.prefix}:{NAMES[kind]}"
        if not NAMES[kind].endswith(":"):
            return [start]
        subject = _SUBJECTS.get(kind, "endpoint")
        if endpoint is None or subject == "other":
            return [f"{start}*"]
        match subject:
            case "id":
                return [f"{start}{endpoint}-{_UUID}"]
            case "queue":
                rests = ("", "--*", ":intermediate") if kind == "queue" else ("", "--*")
                return [f"{start}{endpoint}{rest}" for rest in rests]
            case "part":
                return [f"{start}{endpoint}:*"]
        return [f"{start}{endpoint}"]

    def idempotency(self, endpoint: str, key: str) -> str:
        """Where an idempotency key is kept; the key itself never shows."""
        return self.of("idempotency", endpoint, key_digest(key))


def key_digest(key: str) -> str:
    """What stands for an idempotency key in the broker."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def queue_name(endpoint: str, *, priority: int = 0, older: bool = False) -> str:
    """The queue for jobs of this kind: the endpoint's own, or a sibling (`--` is reserved in names).

    `older`: of a revision that is not the current one; all of those share one, so that their number costs nothing.
    """
    parts = []
    if priority:
        parts.append(f"p{priority}" if priority > 0 else f"m{-priority}")
    if older:
        parts.append("old")
    return f"{endpoint}--{'-'.join(parts)}" if parts else endpoint
