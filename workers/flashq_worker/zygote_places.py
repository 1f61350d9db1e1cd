"""Where the zygotes of a host listen, and how a worker asks for one: files in ``<home>/zygotes``.

A zygote is of one environment as it was built once: ``<name>.sock`` is its socket, and ``<name>.wish`` (its content
the environment's digest; its time of change when it was last wanted) is a worker's word that one would have been of
use, which the host agent goes by. Built anew, an environment has another name, so no zygote outlives what it imported.

This module owns `time.time`: beside times of files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flashq_worker import environment_store

OWN = "own"
"""Stands for the worker's own interpreter, with its packages."""
_DIGEST = re.compile(f"[0-9a-f]{{64}}|{OWN}")


@dataclass(frozen=True, slots=True)
class Wish:
    """A zygote that somebody had use for."""

    name: str
    environment: str
    """Its environment's digest, or OWN."""
    python: Path
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

    def name(self, environment: str) -> str | None:
        """The name of a zygote of this environment as it is now; None where that is not there."""
        identity = "" if environment == OWN else environment_store.identity(self._environments / environment)
        if identity is None:
            return None
        of = "\0".join((str(self.python(environment)), identity, self._inject.name))
        return f"{environment[:12]}-{hashlib.sha256(of.encode()).hexdigest()[:12]}"

    def python(self, environment: str) -> Path:
        """The interpreter of an environment."""
        if environment == OWN:
            return Path(sys.executable)
        return self._environments / environment / "bin" / "python"

    def socket(self, name: str) -> Path:
        """Where a zygote of this name listens, if there is one."""
        return self.folder / f"{name}.sock"

    def wish(self, environment: str) -> Path | None:
        """Say that a zygote is of use now; where it listens, if it does. None where there is no environment for one."""
        name = self.name(environment)
        if name is None:
            return None
        with contextlib.suppress(
            OSError
        ):  # no host agent has made the folder, or the disk is full: no zygote then
            file = self.folder / f"{name}.wish"
            if not file.exists():
                fresh = self.folder / f"{name}.{os.getpid()}"
                fresh.write_text(environment, "ascii")
                fresh.replace(file)
            os.utime(file)
        return self.socket(name)

    def wishes(self) -> list[Wish]:
        """What was wished for, the newest first. Raises OSError."""
        found = []
        now = time.time()
        for file in self.folder.glob("*.wish"):
            with contextlib.suppress(OSError, ValueError):
                environment = file.read_text("ascii")
                age_s = now - file.stat().st_mtime
                if _DIGEST.fullmatch(environment) and self.name(environment) == file.stem:
                    found.append(Wish(file.stem, environment, self.python(environment), age_s))
                    continue
            file.unlink(missing_ok=True)  # of an environment that is gone, or was built anew
        return sorted(found, key=lambda wish: wish.age_s)

    def forget(self, name: str) -> None:
        """There is no zygote of this name any more, and none is wished for."""
        for file in (self.socket(name), self.folder / f"{name}.wish"):
            file.unlink(missing_ok=True)
