"""One uv environment per set of dependencies and Python version: built once on a host, shared by its workers.

An environment is a folder ``<root>/<digest>``. It is built beside its place, marked as complete, then renamed
into place, all under a lock: whoever finds the folder finds a whole one, and what a killed build left behind
is removed by the next. While somebody uses it, it is not removed (`store`). It holds the dependencies
only; flashq's executor comes from `inject`.

The operator's uv configuration is in force (its variables and files; pip's indexes where uv has none). The
caller's words are requirements and nothing else. This module owns `os.environ`: what the installer is given.
"""

from __future__ import annotations

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
from flashq_worker.environments import assembled
from flashq_worker.environments import index as environment_index
from flashq_worker.environments import store as environment_store
from flashq_worker.environments.uv import Uv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flashq_worker.environments.store import Hold


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
    hold: Hold | None = None
    """Says that it is in use; to be released by who asked for it. None for the worker's own interpreter."""

    @property
    def place(self) -> Path:
        """Its folder."""
        return self.python.parent.parent

    @property
    def packages(self) -> Path:
        """Where what was installed is."""
        return next((self.place / "lib").glob("python3.*/site-packages"))


def none() -> Environment:
    """For what needs none: the worker's own interpreter, which nothing could mend."""
    return Environment(Path(sys.executable), "", built=True, build_ms=0.0, log=None)


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
    *,
    fresh: bool = False,
) -> Environment:
    """The environment of `dependencies` under Python `python_version` ("3.11"), built where it is not there.

    No dependencies and the worker's own Python version: the worker's own interpreter, with its packages.
    Blocks while it builds, or while another process does; `on_output` gets the installer's lines, without
    their ends. `variables` is the installer's environment, by default this process's; flashq's own are taken
    out. `fresh`: packages are fetched anew, should the installer's cache be damaged. Raises SpecError (see
    `requirements`), and with the installer's last lines Unresolvable, which another try would not change, or
    EnvironmentBuildError.
    """
    wanted = requirements(dependencies)
    digest = environment_digest(wanted, python_version)
    if not wanted and python_version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Environment(Path(sys.executable), digest, built=False, build_ms=0.0, log=None)
    place, log = root / digest, root / f"{digest}.log"
    return _ensured(_Order(wanted, python_version, place, log, fresh), on_output, variables)


def _ensured(
    order: _Order, on_output: Callable[[str], None], variables: Mapping[str, str] | None
) -> Environment:
    place, log, digest = order.place, order.log, order.place.name
    started = time.monotonic()
    hold: Hold | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        hold = environment_store.use(place.parent, digest)
        built = not environment_store.is_whole(place)
        if built:
            built = _build_once(order, on_output, variables)
    except BaseException as error:
        if hold is not None:
            hold.release()
        if isinstance(error, OSError):
            raise EnvironmentBuildError(
                f"the environment {place} cannot be built: {error}", _tail(log)
            ) from error
        raise
    build_ms = round((time.monotonic() - started) * 1000, 1)
    return Environment(place / "bin" / "python", digest, built, build_ms, log, hold)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an environment is made of whose packages are here already.

    `packages`: their folders, asked for when they are needed. `fetched`: hashed requirements that are installed beside.
    """

    digest: str
    python: str
    requirements: tuple[str, ...]
    packages: Callable[[], Iterable[Path]]
    fetched: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be put into it."""
        return not self.requirements


def ensure_made_of(
    parts: Parts,
    root: Path,
    on_output: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
    *,
    fresh: bool = False,
) -> Environment:
    """Like `ensure`, of packages that are here: no index is asked but for what is `fetched`."""
    if parts.empty and parts.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Environment(Path(sys.executable), parts.digest, built=False, build_ms=0.0, log=None)
    place, log = root / parts.digest, root / f"{parts.digest}.log"
    if fresh:
        environment_store.forget(place)
    return _ensured(_Order(parts.requirements, parts.python, place, log, fresh, parts), on_output, variables)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be built, and where."""

    requirements: tuple[str, ...]
    python: str
    place: Path
    log: Path
    fresh: bool
    parts: Parts | None = None


def _build_once(order: _Order, on_output: Callable[[str], None], variables: Mapping[str, str] | None) -> bool:
    """Build it, unless somebody else has by the time that the lock is ours; whether this call did."""

    def say() -> None:
        on_output("waiting for another worker that is building this environment")

    place = order.place
    with environment_store.lock(place.with_name(f"{place.name}.lock"), on_wait=say):
        if environment_store.is_whole(place):
            return False
        _build(order, on_output, os.environ if variables is None else variables)
    return True


def _build(order: _Order, on_output: Callable[[str], None], variables: Mapping[str, str]) -> None:
    """Build it; to be called under its lock."""
    place = order.place
    for leftover in (place, *place.parent.glob(f".{place.name}.*")):
        shutil.rmtree(leftover, ignore_errors=True)
    under_way = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        with order.log.open("w", encoding="utf-8", errors="backslashreplace") as lines:

            def keep(line: str) -> None:
                lines.write(line + "\n")
                lines.flush()
                on_output(line)

            indexes = environment_index.pip_indexes(variables, prefix=Path(sys.prefix))
            uv = Uv(place.parent, variables, indexes, keep)
            uv.make(under_way, uv.interpreter(order.python))
            if order.parts is not None:
                if order.parts.fetched:
                    uv.install_hashed(under_way, order.parts.fetched)
                assembled.assemble(under_way, place / "bin" / "python", order.parts.packages())
            elif order.requirements:
                uv.install(under_way, order.requirements, cached=not order.fresh)
        environment_store.complete(under_way, order.requirements, order.python)
        under_way.rename(place)
    except EnvironmentBuildError as error:
        raise type(error)(str(error), _tail(order.log)) from None
    finally:
        shutil.rmtree(under_way, ignore_errors=True)


def _tail(log: Path, lines: int = 40) -> str:
    """The last lines of the installer's output, as far as there is any."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
