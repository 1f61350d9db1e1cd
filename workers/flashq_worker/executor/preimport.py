"""What a zygote imports ahead of its executors: what they imported before, as far as that is safe and can be afforded.

It is tried first, in a fork that is thrown away: a module that raises, ends or holds up the process, leaves a thread or
a descriptor behind, or opens a GPU is dropped, with all of its package, and remembered. What each costs in time and
memory is measured there; where not all of it can be afforded, what saves most for its memory goes first.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq_worker.executor import imports, safety

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BUDGET_KIB = 512 * 1024
"""Memory of its own that a zygote's imports may take."""
TRIAL_S = 90.0
_ROUNDS = 5
_WORTH_MS = 0.05


@dataclass(slots=True)
class Tried:
    """What came of trying, as it is remembered. `names`: what was tried; `dropped`: packages, each with the reason."""

    names: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    costs: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By module whose import was not implied by that of another: ms, KiB."""

    @classmethod
    def read(cls, file: Path) -> Tried:
        """What `write` wrote; nothing where it cannot be read."""
        try:
            found = json.loads(file.read_bytes())
            costs = {str(name): (float(ms), int(kib)) for name, (ms, kib) in found["costs"].items()}
            dropped = {str(name): str(why) for name, why in found["dropped"].items()}
            return cls([str(name) for name in found["names"]], dropped, costs)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls()

    def write(self, file: Path) -> None:
        """Remember it, where that can be done."""
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        content = {"names": self.names, "dropped": self.dropped, "costs": self.costs}
        with contextlib.suppress(OSError):
            aside.write_text(json.dumps(content, indent=1), "utf-8")
            aside.replace(file)


def run(modules: Path, memory: Path, budget_kib: int = BUDGET_KIB) -> None:
    """Import what is noted in `modules`; what came of trying is in `memory`.

    Raises SystemExit where this process could not fork afterwards; the next will import nothing.
    """
    names = imports.noted(modules)
    tried = Tried.read(memory)
    if tried.names != names:
        tried = _try(names, tried.dropped)
        tried.write(memory)
    for name in affordable(tried.costs, budget_kib):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    settle()
    if why := safety.unsafe():
        tried.dropped |= {_package(name): f"with others: {why}" for name in tried.costs}
        tried.costs = {}
        tried.write(memory)
        raise SystemExit(f"nothing is imported ahead any more: {why}")


def affordable(costs: Mapping[str, tuple[float, int]], budget_kib: int) -> list[str]:
    """What to import, in the order given: what saves most time for its memory, until that is used up. Pure."""
    worth = [name for name, (ms, _) in costs.items() if ms >= _WORTH_MS]
    chosen = set()
    for name in sorted(worth, key=lambda name: -costs[name][0] / max(1, costs[name][1])):
        if costs[name][1] <= budget_kib:
            budget_kib -= max(0, costs[name][1])
            chosen.add(name)
    return [name for name in worth if name in chosen]


def settle() -> None:
    """Fork once: libraries that know of forks (OpenBLAS) put their threads away, and make them anew where needed."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 0.2  # a thread that has been joined is listed a little longer
    while safety.threads() > 1 and time.monotonic() < deadline:
        time.sleep(0.005)


def _package(name: str) -> str:
    return name.partition(".")[0]


# -- the trial ---------------------------------------------------------------------------------------


def _try(names: Sequence[str], dropped: Mapping[str, str]) -> Tried:
    """Try them until nothing more is to be dropped."""
    tried = Tried(list(names), dict(dropped))
    for _ in range(_ROUNDS):
        left = [name for name in names if _package(name) not in tried.dropped]
        tried.costs, fresh = _trial(left)
        if not fresh:
            return tried
        for name, why in fresh.items():
            sys.stderr.write(f"not imported ahead: {name}: {why}\n")
        tried.dropped |= fresh
    tried.costs = {}
    return tried


def _trial(names: Sequence[str]) -> tuple[dict[str, tuple[float, int]], dict[str, str]]:
    """Import these in a fork of this process: what each costs, and packages that are no good."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _import_all(names, writer)
    os.close(writer)
    costs: dict[str, tuple[float, int]] = {}
    bad: dict[str, str] = {}
    begun = ""
    with os.fdopen(reader, "rb") as lines:
        deadline = time.monotonic() + TRIAL_S
        while select.select([lines], [], [], max(0.0, deadline - time.monotonic()))[0]:
            line = lines.readline()
            if not line:
                break
            said: dict[str, Any] = json.loads(line)
            begun = said["begun"]
            if said.get("why"):
                bad[_package(begun)] = said["why"]
            elif "ms" in said:
                costs[begun] = (said["ms"], said["kib"])
        late = time.monotonic() >= deadline
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if begun and (late or (begun not in costs and _package(begun) not in bad)):
        bad[_package(begun)] = f"it took over {TRIAL_S:g} s" if late else f"it ended the process ({status})"
    return {name: cost for name, cost in costs.items() if _package(name) not in bad}, bad


def _import_all(names: Sequence[str], writer: int) -> None:
    """In the fork: import each, and say what came of it."""
    status = 0
    try:
        os.nice(10)  # jobs may be running
        threads, descriptors = safety.threads(), safety.descriptors()
        for name in names:
            if name in sys.modules:
                continue
            _say(writer, begun=name)
            kib, started = _own_kib(), time.perf_counter()
            try:
                importlib.import_module(name)
                why = ""
            except BaseException as error:  # noqa: BLE001 - whatever a module raises, it is no good
                why = f"{type(error).__name__}: {error}"[:500]
            ms = round((time.perf_counter() - started) * 1000, 3)
            if safety.threads() > threads:
                settle()
            more = safety.descriptors() - descriptors
            if safety.threads() > threads:
                why = why or f"it leaves {safety.threads() - threads} thread(s) running"
            elif more:
                why = why or f"it leaves {len(more)} descriptor(s) open"
            threads, descriptors = safety.threads(), descriptors | more
            _say(writer, begun=name, ms=ms, kib=max(0, _own_kib() - kib), why=why)
    except BaseException:  # noqa: BLE001 - the pipe ends, and says enough
        status = 1
    finally:
        os._exit(status)


def _say(writer: int, **said: object) -> None:
    os.write(writer, json.dumps(said).encode() + b"\n")


def _own_kib() -> int:
    """Memory that is this process's alone, or would be copied for it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0
