"""Where the zygotes of a host listen, and how a worker asks for one: files in ``<home>/zygotes``.

A zygote is of one environment as it was built once, and either imports nothing ahead or does for executors of one size:
``<name>.sock`` is its socket, and ``<name>.wish`` (its time of change when it was last wanted) is a worker's word that
one would have been of use, which the host agent goes by. ``<environment>.modules`` is what executors have imported,
and ``<name>.tried`` what came of importing that ahead. Built anew, an environment has another name, so no zygote
outlives what it imported.

This module owns `time.time`: beside times of files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from flashq_worker.environments import store as environment_store

OWN = "own"
"""Stands for the worker's own interpreter, with its packages."""
_PACKAGES = sorted({Path(sysconfig.get_paths()[name]) for name in ("purelib", "platlib")})
_DIGEST = re.compile(f"[0-9a-f]{{64}}|{OWN}")


def _own_identity() -> str:
    """Changes when packages are installed beside the worker's, which a zygote may have imported."""
    return "-".join(str(folder.stat().st_mtime_ns) for folder in _PACKAGES if folder.is_dir())


@dataclass(frozen=True, slots=True)
class Kind:
    """What executors a zygote is for, as far as modules find out when they are imported."""

    environment: str
    """Its digest, or OWN."""
    ahead: bool = False
    """Whether it imports ahead, once anything was noted; if not, the rest says nothing."""
    cpus: float = 0.0
    gpus: bool = False

    def to_json(self) -> str:
        """For a wish."""
        return json.dumps([self.environment, self.ahead, self.cpus, self.gpus])

    @classmethod
    def from_json(cls, text: str) -> Kind:
        """Reads `to_json`'s text. Raises ValueError."""
        try:
            environment, ahead, cpus, gpus = json.loads(text)
            if not _DIGEST.fullmatch(environment):
                raise ValueError(f"no environment: {environment!r:.80}")
            return cls(environment, bool(ahead), float(cpus), bool(gpus))
        except (TypeError, RecursionError) as error:
            raise ValueError(f"no wish: {text!r:.80}") from error


@dataclass(frozen=True, slots=True)
class Wish:
    """A zygote that somebody had use for."""

    name: str
    kind: Kind
    age_s: float
    """How long ago it was last wanted."""


class ZygotePlaces:
    """The folder of one home."""

    def __init__(self, home: Path, inject: Path) -> None:
        """`inject`: what zygotes have of flashq; one of another version is another's."""
        self.folder = home / "zygotes"
        self._environments = home / "environments"
        self._inject = inject

    def make(self) -> None:
        """The folder, for its owner alone. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def python(self, environment: str) -> Path:
        """The interpreter of an environment."""
        if environment == OWN:
            return Path(sys.executable)
        return self._environments / environment / "bin" / "python"

    def name(self, kind: Kind) -> str | None:
        """The name of such a zygote, as its environment is now; None where that is not there."""
        base = self._base(kind.environment)
        if base is None or not kind.ahead:
            return base
        return f"{base}-{kind.cpus:g}{'-gpu' if kind.gpus else ''}"

    def modules(self, environment: str) -> Path | None:
        """Where executors in this environment note what they import; None where it is not there."""
        base = self._base(environment)
        return None if base is None else self.folder / f"{base}.modules"

    def _base(self, environment: str) -> str | None:
        identity = (
            _own_identity()
            if environment == OWN
            else environment_store.identity(self._environments / environment)
        )
        if identity is None:
            return None
        of = "\0".join((str(self.python(environment)), identity, self._inject.name))
        return f"{environment[:12]}-{hashlib.sha256(of.encode()).hexdigest()[:12]}"

    def socket(self, name: str) -> Path:
        """Where a zygote of this name listens, if there is one."""
        return self.folder / f"{name}.sock"

    # -- a worker's side -----------------------------------------------------------------------------
    def wish(self, kind: Kind) -> Path | None:
        """Say that such a zygote is of use now; where one listens that will do. None where there is none."""
        name = self.name(kind)
        if name is None:
            return None
        with contextlib.suppress(
            OSError
        ):  # no host agent has made the folder, or the disk is full: no zygote then
            file = self.folder / f"{name}.wish"
            if not file.exists():
                fresh = self.folder / f"{name}.{os.getpid()}"
                fresh.write_text(kind.to_json(), "ascii")
                fresh.replace(file)
            os.utime(file)
        bare = self.name(Kind(kind.environment))
        places = [self.socket(found) for found in (name, bare) if found is not None]
        return next((place for place in places if place.exists()), None)

    # -- the host agent's side -----------------------------------------------------------------------
    def wishes(self) -> list[Wish]:
        """What was wished for, the newest first. Raises OSError."""
        found = []
        now = time.time()
        for file in self.folder.glob("*.wish"):
            with contextlib.suppress(OSError, ValueError):
                kind = Kind.from_json(file.read_text("ascii"))
                age_s = now - file.stat().st_mtime
                if self.name(kind) == file.stem:
                    found.append(Wish(file.stem, kind, age_s))
                    continue
            file.unlink(missing_ok=True)  # of an environment that is gone, or was built anew
        return sorted(found, key=lambda wish: wish.age_s)

    def forget(self, name: str) -> None:
        """There is no zygote of this name any more, and none is wished for."""
        for file in (self.socket(name), self.folder / f"{name}.wish"):
            file.unlink(missing_ok=True)

    def tidy(self, keep: set[str]) -> None:
        """Remove what was noted for environments of which no zygote is kept."""
        for ending in ("modules", "tried", "sock"):
            for file in self.folder.glob(f"*.{ending}"):
                if not any(name == file.stem or name.startswith(f"{file.stem}-") for name in keep):
                    file.unlink(missing_ok=True)
