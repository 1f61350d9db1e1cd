"""Loads the Lua scripts: as one function library on a server, or as single scripts where functions are missing.

A library's name carries the digest of its text, so that programs of different versions share a broker, each
with its own scripts. It is kept by the server (append-only file and replicas included) and needs no `eval`
right to be called. In-memory fakes for tests take the same scripts through EVAL.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from flashq.store.keys import HELD, NAMES

#: Scripts that must go on under memory pressure: they end jobs, keep leases, free memory, or start who does.
ALLOW_OOM = frozenset(
    "advance cancel claim crash delete fail_waiting finish gpu_free host_beat host_drain host_leave lead pause purge"
    " purge_failed reap recover rekey release renew renounce resign resume rollback scale set_condition start take"
    " undeploy watch worker_drain worker_join worker_leave worker_lend worker_order worker_ready".split()
)
NO_WRITES = frozenset({"epoch", "key_uses", "observe"})
_SHARED = ("basics", "jobs", "claims", "workers")  # in this order: each uses what comes before it
#: The server's own clock, as the scripts read it; only tests put another expression in its place.
CLOCK = "redis.call('TIME')"


@cache
def sources() -> dict[str, str]:
    """The text of each script, and as `lib` what they share."""
    folder = files("flashq.store") / "lua"
    found = {
        f.name.removesuffix(".lua"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".lua")
    }
    found["lib"] = "".join((folder / "shared" / f"{part}.lua").read_text("utf-8") for part in _SHARED)
    return dict(sorted(found.items()))


def script_names() -> list[str]:
    """Every script, by name."""
    return [name for name in sources() if name != "lib"]


def _shared(clock: str) -> str:
    names = ", ".join(f"{name} = '{key}'" for name, key in NAMES.items())
    return f"local N = {{{names}}}\nlocal HELD = '{HELD}'\n" + sources()["lib"].replace(CLOCK, clock)


@dataclass(frozen=True, slots=True)
class Library:
    """The scripts as one server-side library: `name`, its source, and the function that stands for each script."""

    name: str
    source: str

    def function(self, script: str) -> str:
        return f"{self.name}_{script}"


@cache
def library(clock: str = CLOCK) -> Library:
    """The function library. `clock` is a Lua expression giving {seconds, microseconds}; only tests replace it."""
    shared = _shared(clock)
    bodies = [(name, sources()[name]) for name in script_names()]
    digest = hashlib.sha256(repr([shared, bodies]).encode()).hexdigest()[:12]
    name = f"flashq_{digest}"
    parts = [f"#!lua name={name}", shared]
    for script, body in bodies:
        flags = [
            f"'{flag}'"
            for flag, holders in (("allow-oom", ALLOW_OOM), ("no-writes", NO_WRITES))
            if script in holders
        ]
        parts.append(
            f"redis.register_function{{function_name = '{name}_{script}', flags = {{{', '.join(flags)}}},\n"
            f"callback = function(KEYS, ARGV)\n{body}end}}"
        )
    return Library(name, "\n".join(parts))


@cache
def plain(script: str, clock: str = CLOCK) -> str:
    """One script for EVAL."""
    return _shared(clock) + sources()[script]
