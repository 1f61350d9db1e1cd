"""A project that is served while it is written: its files, and what of them is registered."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flashq.apps import discovery
from flashq.apps.ignore import Ignored
from flashq.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("flashq")
LOAD_S = 120.0


@dataclass(frozen=True, slots=True)
class LiveEndpoint:
    """One endpoint of the project."""

    file: str
    """Relative to the project."""
    function: str
    """The attribute of the module that has it."""
    name: str
    about: str
    """The first line of its docstring."""
    routes: dict[str, str] = field(default_factory=dict)
    """Of one with routes: each → the first line of its function's docstring."""


class Project:
    """The files of a folder, or one file."""

    def __init__(self, place: Path, *, provision: bool = False, compat: bool = False) -> None:
        self.folder = (place if place.is_dir() else place.parent).resolve()
        self._only = None if place.is_dir() else place.name
        self._provision, self._compat = provision, compat
        self._told: set[str] = set()
        self.printed = ""
        """What the files printed while they were imported last."""

    def _files(self) -> list[str]:
        return [self._only] if self._only else list(Ignored(self.folder).files())

    def stamp(self) -> frozenset[tuple[str, int, int]]:
        """Its Python files as they are now: when each was written, and its size."""
        found = set()
        for path in self._files():
            with suppress(OSError):  # it goes at this moment
                if path.endswith(".py"):
                    told = (self.folder / path).stat()
                    found.add((path, told.st_mtime_ns, told.st_size))
        return frozenset(found)

    def load(self) -> tuple[LiveEndpoint, ...]:
        """Import its files and register what they define. Raises BuildError, a line for each problem."""
        files = self._files()
        roots, modules = discovery.modules_of(self.folder, files)
        if not modules:
            raise BuildError(f"{self.folder} has no Python files")
        order = {
            "project": str(self.folder),
            "roots": roots,
            "modules": {
                name: path for name, path in modules.items() if discovery.may_define(self.folder / path)
            },
            "provision": self._provision,
            "compat": self._compat,
        }
        told, self.printed = discovery.ask("flashq.dev.live", order, LOAD_S)
        for line in told["notices"]:
            if line not in self._told:  # else it was said when the files were loaded before
                self._told.add(line)
                log.warning("%s", line)
        if told["problems"]:
            raise BuildError("\n".join(told["problems"]))
        if not told["endpoints"]:
            raise BuildError(f"{self.folder} defines no endpoint: decorate a function with @Endpoint(...)")
        return tuple(LiveEndpoint(**row) for row in told["endpoints"])
