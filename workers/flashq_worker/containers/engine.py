"""A container engine, podman or docker, as a program: whether there is one, and the words for what it is to do.

Nothing here knows what runs in a container, and nothing secret is among the words: command lines are public.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINES = ("podman", "docker")
"""The first that is there is used."""
REFUSED = 125
"""An engine's exit code where the container was not begun."""
NO_PROGRAM = (126, 127)
"""Its exit codes where the image has no such program, or one that does not run there.

And podman's wherever a message has "permission denied" or "no such file or directory" in it.
"""
LAST_LINES = 12
_ASK_S = 5.0
_KEPT_S = 60.0  # how long an answer is good
_SHM = "8g"  # of shared memory, at most: by default 64 MB, which several processes of PyTorch outgrow
# docker's daemon does what docker asks for, so it has to answer; podman needs none.
_VERSION = {"podman": "{{.Client.Version}}", "docker": "{{.Server.Version}}"}


class NoEngine(Exception):
    """There is no engine that answers; its text says why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One that answers."""

    name: str
    program: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host in a container."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A container to be run; zero or empty: not limited, none."""

    name: str
    image: str
    command: tuple[str, ...]
    """In place of the image's own start command; empty: that."""
    mounts: tuple[Mount, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    cpus: float = 0.0
    memory_bytes: int = 0
    options: tuple[str, ...] = ()
    """The operator's, after all others."""
    publish: int = 0
    """A port of the container that this machine, and no other, is to reach."""
    variables: tuple[str, ...] = ()
    """Names of variables of the engine's own environment that the container gets too."""


_found: dict[tuple[str, str], tuple[Engine, float]] = {}


def find(variables: Mapping[str, str], wanted: str = "") -> Engine:
    """The engine of this host; `wanted`: by name. Raises NoEngine."""
    names = (wanted,) if wanted else ENGINES
    for name in names:
        program = shutil.which(name, path=variables.get("PATH"))
        if program is not None:
            return _answering(name, program, variables)
    raise NoEngine(f"no {' and no '.join(names)} on PATH")


def _answering(name: str, program: str, variables: Mapping[str, str]) -> Engine:
    known, until = _found.get((name, program), (None, 0.0))
    if known is not None and time.monotonic() < until:
        return known
    try:
        told = subprocess.run(
            [program, "version", "--format", _VERSION.get(name, _VERSION["podman"])],
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEngine(f"{name} does not answer: {error}") from None
    if told.returncode:
        raise NoEngine(f"{name} does not answer: {last_lines(told.stderr, 2) or f'code {told.returncode}'}")
    engine = Engine(name, program, told.stdout.strip() or "of an unknown version")
    _found[name, program] = engine, time.monotonic() + _KEPT_S
    return engine


def run_words(engine: Engine, run: Run) -> list[str]:
    """The command line that runs a container in the foreground. Raises ValueError for a path that it cannot take."""
    words = [
        engine.program,
        "run",
        "--rm",
        "--name",
        run.name,
        "--pull=never",
        "--log-driver=none",
        "--security-opt=no-new-privileges",
        f"--shm-size={_SHM}",
    ]
    for mount in run.mounts:
        if "," in f"{mount.source}{mount.target}":
            raise ValueError(f"a folder with a comma in its name cannot be mounted: {mount.source}")
        words += ["--mount", f"type=bind,source={mount.source},target={mount.target}"]
        if not mount.writable:
            words[-1] += ",readonly"
    if run.cpus:
        words.append(f"--cpus={run.cpus:g}")
    if run.memory_bytes:
        words.append(f"--memory={run.memory_bytes}")
    words += _gpu_words(engine, run.gpu_uuids)
    if run.publish:
        words.append(f"--publish=127.0.0.1::{run.publish}")
    words += [f"--env={name}" for name in run.variables]
    if not run.command:
        return [*words, *run.options, run.image]
    program, *arguments = run.command
    return [*words, *run.options, f"--entrypoint={program}", run.image, *arguments]


def _gpu_words(engine: Engine, uuids: tuple[str, ...]) -> list[str]:
    if not uuids:  # where NVIDIA's runtime is the default, an image may ask for all there are
        return ["--env=NVIDIA_VISIBLE_DEVICES=void"]
    if engine.name == "docker":
        return ["--gpus", f'"device={",".join(uuids)}"']
    return [word for uuid in uuids for word in ("--device", f"nvidia.com/gpu={uuid}")]


def remove_words(engine: str, container: str) -> list[str]:
    """The command line that ends a container and removes it; it may complain where there is none."""
    at_once = (
        ("--time=0",) if Path(engine).name == "podman" else ()
    )  # it would wait 10 s for SIGTERM to be heeded
    return [engine, "rm", "--force", *at_once, container]


def inspect_words(engine: Engine, image: str) -> list[str]:
    """The command line that fails where the image is not on this host."""
    return [engine.program, "image", "inspect", "--format={{.Id}}", image]


def pull_words(engine: Engine, image: str) -> list[str]:
    """The command line that gets an image."""
    return [engine.program, "pull", image]


def last_lines(text: str, most: int = LAST_LINES) -> str:
    """The end of what an engine said."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-most:])
