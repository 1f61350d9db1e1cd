"""What is wrong with what is on record: hosts, autoscalers, endpoints, jobs; and what to do. Pure.

Nothing here is known better than the broker knows it: a record may be older than what it tells of.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from flashq.doctor.finding import Finding, fail, ok, skipped, some, warn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flashq.store.queries_fleet import ListedEndpoint
    from flashq.store.queries_health import Fleet, Process, Stray
    from flashq.store.queries_queues import ListedQueue

LONG_WAIT_S = 60.0
"""A job that has waited for longer is told of."""


def hosts(fleet: Fleet) -> Finding:
    """Whether there is a machine that runs workers."""
    alive = [host for host in fleet.hosts if not host.silent]
    silent = [host.name for host in fleet.hosts if host.silent]
    if not fleet.hosts and fleet.workers:
        found = f"none; {len(fleet.workers)} worker(s) that somebody started (`flashq worker`)"
        return warn("hosts", found, "run `flashq host` where the number of workers shall follow the jobs")
    if not alive:
        which = f"; silent: {some(silent)}" if silent else ""
        return fail(
            "hosts", f"none: what is called waits{which}", "run `flashq host` on a machine with workers"
        )
    shown = ", ".join(_host(host) for host in alive)
    if silent:
        advice = "see `flashq hosts`: start it again, or wait until the autoscaler forgets it"
        return warn("hosts", f"{shown}; silent: {some(silent)}", advice)
    return ok("hosts", shown)


def _host(host: Process) -> str:
    counts = Counter(host.gpus)
    return host.name + "".join(f", {count} × {name}" for name, count in sorted(counts.items()))


def key_spread(ids: Sequence[str], fleet: Fleet) -> Finding:
    """Whether every process on record has the key that signs here."""
    telling = [process for process in fleet.processes if process.keys]
    if not ids or not telling:
        return skipped("key spread", "no key here" if not ids else "no process on record says its keys")
    lacking = [process.name for process in telling if ids[0] not in process.keys]
    if lacking:
        advice = "bring the same key file to every machine; to change keys, `flashq keys rotate`"
        return fail(
            "key spread", f"without {ids[0]}, so they refuse calls from here: {some(lacking)}", advice
        )
    return ok("key spread", f"{len(telling)} process(es) have {ids[0]}")


def versions(mine: str, fleet: Fleet) -> Finding:
    """Whether everybody runs the same flashq."""
    others = Counter(one.version for one in fleet.processes if one.version and one.version != mine)
    if others:
        named = ", ".join(f"{count} of {other}" for other, count in sorted(others.items()))
        return warn("versions", f"here {mine}; {named}", "they work together; upgrade the rest when you can")
    return ok("versions", mine)


def python(mine: str, wanted: Mapping[str, str], fleet: Fleet) -> Finding:
    """Whether hosts run the Python of this machine and that of each endpoint. `wanted`: by endpoint."""
    there = sorted({python for host in fleet.hosts if not host.silent for python in host.pythons})
    if not there:
        return skipped("python", f"{mine} here; no host says which it has")
    others = [f"{endpoint} ({python})" for endpoint, python in wanted.items() if python not in there]
    if mine in there and not others:
        return ok("python", f"{mine} here and on hosts")
    found = f"{mine} here; hosts run {', '.join(there)}"
    found += f"; endpoints of another: {some(others)}" if others else ""
    return warn(
        "python", found, "see that the hosts have that version installed too: uv has to find it there"
    )


def autoscaler(fleet: Fleet) -> Finding:
    """Whether somebody starts and stops workers."""
    if fleet.leader is None:
        tell = fail if fleet.hosts or not fleet.workers else warn  # those workers were started by somebody
        return tell("autoscaler", "none: no worker is started or ended", "run one: `flashq autoscaler`")
    if fleet.leader.silent:
        silent_s = fleet.leader.silent_s
        since = "" if silent_s is None else f" for {silent_s:,.0f} s"
        found = f"none{since}; {fleet.leader.name} was the last"
        return fail("autoscaler", found, "run one: `flashq autoscaler`")
    return ok("autoscaler", f"{fleet.leader.name} leads, {fleet.standbys} stand(s) by")


def stray_workers(found: Collection[Stray]) -> Finding:
    """Whether `rq worker`s listen on endpoints' queues."""
    if found:
        named = some([f"{one.name} on {', '.join(one.queues)}" for one in found])
        return warn(
            "stray workers", f"stock `rq worker`s: {named}", "stop them: they run nothing, and delay jobs"
        )
    return ok("stray workers", "none")


def endpoints(listed: Sequence[ListedEndpoint]) -> Finding:
    """Whether each endpoint has the workers it wants."""
    sick = [f"{one.name} ({one.reason})" for one in listed if one.unhealthy]
    lacking = [f"{one.name} ({one.reason})" for one in listed if one.throttled and not one.unhealthy]
    if sick:
        advice = "`flashq workers` and the host's logs say what their workers said last"
        return fail("endpoints", f"unhealthy: {some(sick + lacking)}", advice)
    if lacking:
        advice = "free what is lacking, add a host that has it, or ask for less"
        return warn("endpoints", f"throttled: {some(lacking)}", advice)
    return ok("endpoints", f"{len(listed)} registered, none lacks a worker")


def waiting(queues: Sequence[ListedQueue]) -> Finding:
    """Whether jobs are served."""
    long = [one for one in queues if (one.oldest_age_s or 0) > LONG_WAIT_S]
    paused = [f"{one.endpoint} ({one.queued})" for one in long if one.paused]
    late = [f"{one.endpoint} ({one.queued}, the oldest for {one.oldest_age_s:,.0f} s)" for one in long]
    late = [shown for shown, one in zip(late, long, strict=True) if not one.paused]
    if late:
        advice = "see `flashq endpoints` and `flashq workers`; raise max workers, or purge what nobody wants"
        return warn("waiting", f"jobs wait for long: {some(late + paused)}", advice)
    if paused:
        return warn(
            "waiting", f"paused, with jobs waiting: {some(paused)}", "`flashq resume` lets them go on"
        )
    return ok("waiting", f"{sum(one.queued for one in queues)} queued, none for long")


def dead_letters(queues: Sequence[ListedQueue]) -> Finding:
    """What failed for good and is kept."""
    kept = [f"{one.endpoint} ({one.failed})" for one in queues if one.failed]
    if kept:
        return ok("dead letters", f"{some(kept)}: see `flashq jobs --dead`, `flashq retry`, `flashq purge`")
    return ok("dead letters", "none")


def parked_jobs(queues: Sequence[ListedQueue]) -> Finding:
    """Whether others put jobs of their own on endpoints' queues."""
    found = [f"{one.endpoint} ({one.parked})" for one in queues if one.parked]
    if found:
        advice = "stock RQ programs enqueue there: give them queues of other names"
        return warn("parked jobs", f"no calls of flashq, put aside: {some(found)}", advice)
    return ok("parked jobs", "none")
