"""One uv environment per set of dependencies and Python version: built once on a host, shared by its workers.

An environment is a folder ``<root>/<digest>``. It is built beside its place, marked as complete, then renamed
into place, all under a lock: whoever finds the folder finds a whole one, and what a killed build left behind
is removed by the next. It holds the dependencies only; flashq's executor comes from `inject`.

The operator's uv configuration is in force (its variables and files; pip's indexes where uv has none). The
caller's words are requirements and nothing else. This module owns `os.environ`: what the installer is given.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.errors import EnvironmentBuildError, SpecError
from flashq.model import parameters
from flashq_worker import environment_index
from flashq_worker.environment_uv import Uv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_MARKER = ".flashq-environment.json"  # written last; a folder without it is not whole


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that is ready for use."""

    python: Path
    """Its interpreter."""
    digest: str
    built: bool
    """Whether this call built it; otherwise it was found."""
    build_ms: float
    """How long that took, waiting for another builder included; about 0 where it was found."""
    log: Path | None
    """The installer's output of when it was built; None for the worker's own interpreter."""


def requirements(dependencies: Sequence[str]) -> tuple[str, ...]:
    """The dependencies as PEP 508 requirements: normalised, sorted, without repeats.

    Raises SpecError, quoting the text, for anything else: options, URLs, paths, version control.
    """
    try:
        return parameters.dependencies(dependencies)
    except ValueError as error:
        raise SpecError("dependencies", str(error)) from error


def environment_digest(dependencies: Sequence[str], python: str) -> str:
    """SHA-256 (hex) of the set and the Python version ("3.11"): `flashq.model.spec.environment_digest`'s."""
    content = {"python": python, "requirements": list(requirements(dependencies))}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"flashq/environment/1\0{text}".encode()).hexdigest()


def ensure(
    dependencies: Sequence[str],
    python_version: str,
    root: Path,
    on_output: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
) -> Environment:
    """The environment of `dependencies` under Python `python_version` ("3.11"), built where it is not there.

    No dependencies and the worker's own Python version: the worker's own interpreter, with its packages.
    Blocks while it builds, or while another process does; `on_output` gets the installer's lines, without
    their ends. `variables` is the installer's environment, by default this process's; flashq's own are taken
    out. Raises SpecError (see `requirements`), and with the installer's last lines Unresolvable, which another try
    would not change, or EnvironmentBuildError.
    """
    wanted = requirements(dependencies)
    digest = environment_digest(wanted, python_version)
    if not wanted and python_version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Environment(Path(sys.executable), digest, built=False, build_ms=0.0, log=None)
    place, log = root / digest, root / f"{digest}.log"
    python = place / "bin" / "python"
    if _is_whole(place):
        return Environment(python, digest, built=False, build_ms=0.0, log=log)
    started = time.monotonic()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{digest}.lock", on_output):
            built = not _is_whole(place)
            if built:
                _build(
                    wanted,
                    python_version,
                    place,
                    log,
                    on_output,
                    os.environ if variables is None else variables,
                )
    except OSError as error:
        raise EnvironmentBuildError(
            f"the environment {place} cannot be built: {error}", _tail(log)
        ) from error
    return Environment(python, digest, built, round((time.monotonic() - started) * 1000, 1), log)


def _is_whole(place: Path) -> bool:
    """Whether the folder was completed, and its interpreter is still on this host."""
    return (place / _MARKER).exists() and (place / "bin" / "python").exists()


def _build(
    wanted: tuple[str, ...],
    python_version: str,
    place: Path,
    log: Path,
    on_output: Callable[[str], None],
    variables: Mapping[str, str],
) -> None:
    """Build `place`; to be called under its lock."""
    for leftover in (place, *place.parent.glob(f".{place.name}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    under_way = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        with log.open("w", encoding="utf-8", errors="backslashreplace") as lines:

            def keep(line: str) -> None:
                lines.write(line + "\n")
                lines.flush()
                on_output(line)

            indexes = environment_index.pip_indexes(variables, prefix=Path(sys.prefix))
            uv = Uv(place.parent, variables, indexes, keep)
            uv.make(under_way, uv.interpreter(python_version))
            if wanted:
                uv.install(under_way, wanted)
        marker = json.dumps({"requirements": wanted, "python": python_version}, indent=1)
        (under_way / _MARKER).write_text(marker, encoding="utf-8")
        under_way.rename(place)
    except EnvironmentBuildError as error:
        raise type(error)(str(error), _tail(log)) from None
    finally:
        shutil.rmtree(under_way, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, on_output: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on `path`; the kernel lets go of it when this process dies."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_output("waiting for another worker that is building this environment")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tail(log: Path, lines: int = 40) -> str:
    """The last lines of the installer's output, as far as there is any."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
