"""What is wrong with a broker, by what its server says of itself, and what to do. Pure: facts in, findings out."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.doctor.finding import Finding, fail, ok, some, unknown, warn
from flashq.model.durability import OLDEST, Durability, Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.address import Address

SLOW_MS = 20.0
"""A round trip above which the broker is most of what a short call takes."""
CLOCK_S = 60.0
"""Hosts' clocks do not matter to flashq; a difference of more than this confuses people and certificates."""
_FULL = 0.9


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
    if not server.role:
        return unknown("role", "the broker does not say whether it is a primary (INFO)")
    return ok("role", f"primary, {server.replicas or 0} replica(s)")


def disk(server: Server) -> Finding:
    """Whether it can write to its disk."""
    if not server.kind:
        return unknown("disk", "the broker does not say how its last writes went (INFO)")
    room = "make room on the broker's disk; its log says what went wrong"
    if server.writes_fail:
        return fail("disk", "its last write to the append-only file failed: it refuses calls", room)
    if server.snapshot_fails:
        found = (
            "its last snapshot (RDB) failed: if it makes any by itself, it refuses calls until one succeeds"
        )
        return fail(
            "disk", found, f'{room}; then `BGSAVE`, or `save ""` where the append-only file is enough'
        )
    if server.rewrite_fails:
        found = "it could not write its append-only file anew: the file grows"
        return warn("disk", found, f"{room} (often: no memory for a fork, `vm.overcommit_memory=1`)")
    return ok("disk", "its last writes succeeded")


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
    if server.maxmemory:
        share, of = server.used_memory / server.maxmemory, "its limit"
        advice = "calls are refused when it is full: raise `maxmemory`, or purge old jobs"
    elif server.machine_memory:
        share, of = server.used_memory / server.machine_memory, "the machine's, and no limit"
        advice = "the system ends it when there is no more: set `maxmemory`, and purge old jobs"
    else:
        return ok("memory", f"{used}, no limit")
    shown = f"{used}, {share:.0%} of {of}"
    return warn("memory", shown, advice) if share > _FULL else ok("memory", shown)


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
        return ok("rights", "this user may not read the broker's configuration")
    found = "this user may read the broker's configuration, which flashq does not need"
    if elsewhere:
        return warn("rights", found, "give each kind of process a user of its own: `flashq keys acl`")
    return ok("rights", f"{found}; the broker is on this machine")


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


@dataclass(frozen=True, slots=True)
class Functions:
    """The function libraries of flashq on a broker."""

    ours: str
    loaded: bool
    others: tuple[str, ...] | None = None
    """Of other versions, which may be in use; None where this user may not list them."""


def functions(found: Functions) -> Finding:
    """Whether the scripts are there."""
    beside = f"; of other versions: {some(found.others)}" if found.others else ""
    if found.loaded:
        return ok("functions", found.ours + beside)
    missing = f"{found.ours} is not there{beside}"
    if found.others is None:
        advice = "run `flashq doctor --load` as a user who may load functions (`flashq keys acl admin`)"
        return fail("functions", f"{missing}, and this user may not load it", advice)
    return warn("functions", missing, "the first call loads it; or `flashq doctor --load`")
