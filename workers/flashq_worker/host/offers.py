"""What this host has beside cores, memory and GPUs: Python versions, system packages, folders, a container engine.

An endpoint may require packages (`system_dependencies`), a folder (`volume`) and an engine (`image`): a start says so,
as "package ffmpeg", "folder /mnt/models" and "container engine". What turns out to be missing stands in the host's
record until it is there, so that nothing that requires it is sent here meanwhile. Nothing is installed or made.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from flashq.errors import EnvironmentBuildError
from flashq.model.host_command import CONTAINER_ENGINE
from flashq.model.parameters import SYSTEM_PACKAGE
from flashq_worker.containers import engine as engines
from flashq_worker.containers.engine import NoEngine
from flashq_worker.environments.index import Indexes
from flashq_worker.environments.uv import Uv
from flashq_worker.host import inventory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from flashq.store.command import Value

log = logging.getLogger("flashq.host")
_LOOK_EVERY_S = 600.0  # for Python versions, which costs a second of processor time where there are many
_FIRST_LOOK_S = 3.0  # not beside the first worker's start
_CHECK_EVERY_S = 1.0  # at most, for what was missing: heartbeats may come in quick succession
_ASK_S = 3.0  # how long the package manager may take
_ANSWER_S = 2.0  # how long a folder may
_MOST = 200  # of what is missing, that is remembered


class HostOffers:
    """Call it from one thread; a thread of its own looks for Python versions and a container engine."""

    def __init__(
        self,
        folder: Path,
        variables: Mapping[str, str],
        *,
        engine: str = "",
        look_after_s: float = _FIRST_LOOK_S,
    ) -> None:
        """`variables`: the operator's environment; `folder`: where uv is run; `engine`: that of containers, by name."""
        self._folder = folder
        self._engine_name = engine
        self._engine = ""
        self._variables = variables
        self._pythons: tuple[str, ...] = (inventory.PYTHON,)
        self._looking: threading.Thread | None = None
        self._look_at = time.monotonic() + look_after_s
        self._lacks: dict[str, str] = {}
        self._check_at = 0.0

    def fields(self) -> dict[str, Value]:
        """For the host's record, as of now."""
        now = time.monotonic()
        if self._lacks and now >= self._check_at:
            self._lacks = missing(self._lacks, self._variables, self._engine_name)
            self._check_at = now + _CHECK_EVERY_S
        if now >= self._look_at and (self._looking is None or not self._looking.is_alive()):
            self._look_at = now + _LOOK_EVERY_S
            self._looking = threading.Thread(target=self._look, name="offers", daemon=True)
            self._looking.start()
        return {
            "pythons": ",".join(self._pythons),
            "engine": self._engine,
            "lacks": json.dumps(self._lacks),
        }

    def lacking(self, requires: Iterable[str]) -> dict[str, str]:
        """Which of these are not here, and why; remembered."""
        requires = list(requires)
        found = missing(requires, self._variables, self._engine_name)
        if CONTAINER_ENGINE in requires and CONTAINER_ENGINE not in found:
            self._look_for_engine()  # it was asked just now, so this costs nothing
        self._lacks = dict([*self._lacks.items(), *found.items()][-_MOST:])
        return found

    def _look(self) -> None:
        try:
            uv = Uv(self._folder, self._variables, Indexes(), lambda line: None)
            self._pythons = tuple(sorted(uv.interpreters(), key=by_version))
        except (EnvironmentBuildError, OSError) as error:
            log.warning("only Python %s is known of: %s", inventory.PYTHON, error)
        self._look_for_engine()

    def _look_for_engine(self) -> None:
        try:
            self._engine = str(engines.find(self._variables, self._engine_name))
        except NoEngine:
            self._engine = ""  # said where one is required


def by_version(minor: str) -> list[int]:
    """Sorts "3.9" before "3.10"."""
    return [int(number) for number in minor.split(".")]


def missing(requires: Iterable[str], variables: Mapping[str, str], engine: str = "") -> dict[str, str]:
    """Which of these requirements are not met on this host, and why; `engine`: the one for containers, by name."""
    found: dict[str, str] = {}
    packages: list[str] = []
    for requirement in requires:
        kind, _, name = requirement.partition(" ")
        if kind == "folder":
            if why := _not_a_folder(name):
                found[requirement] = why
        elif requirement == CONTAINER_ENGINE:
            try:
                engines.find(variables, engine)
            except NoEngine as why:
                found[requirement] = str(why)
        elif kind == "package" and SYSTEM_PACKAGE.fullmatch(name):
            packages.append(name)
        else:
            found[requirement] = "this host's flashq does not know what that is"
    if packages:
        found |= {f"package {name}": why for name, why in _not_installed(packages, variables).items()}
    return found


class _Probe:
    """Looks whether there is a folder, in a thread: a share whose server is gone may never answer."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answered = threading.Event()
        self.why = ""
        threading.Thread(target=self._look, name="folder", daemon=True).start()

    def _look(self) -> None:
        try:
            with os.scandir(self.path):
                pass
        except OSError as error:
            self.why = error.strerror or str(error)
        self.answered.set()


_probes: dict[str, _Probe] = {}


def _not_a_folder(path: str) -> str:
    """Why this is no folder; empty where it is one. One that does not answer is waited for once."""
    probe, patience_s = _probes.get(path), 0.0
    if probe is None:
        probe = _probes[path] = _Probe(path)
        patience_s = _ANSWER_S
    if not probe.answered.wait(patience_s):
        return f"it does not answer within {_ANSWER_S:g} s"
    del _probes[path]
    return probe.why


def _not_installed(names: Sequence[str], variables: Mapping[str, str]) -> dict[str, str]:
    found = ((shutil.which(name, path=variables.get("PATH")), options) for name, options in _MANAGERS.items())
    command = next(([path, *options] for path, options in found if path), None)
    if command is None:
        why = f"nothing here tells what is installed: no {' and no '.join(_MANAGERS)}"
        return dict.fromkeys(names, why)
    try:
        told = subprocess.run(
            [*command, *names],
            env={"PATH": variables.get("PATH", ""), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return dict.fromkeys(names, f"it is not known whether that is installed: {error}")
    installed = {line.removeprefix("installed ") for line in told.stdout.splitlines()}
    return {name: "not installed" for name in names if name not in installed}


# Of those asked for, each that is installed is a line "installed NAME".
_MANAGERS = {
    "dpkg-query": ("--show", "--showformat=${db:Status-Status} ${Package}\\n"),
    "rpm": ("--query", "--queryformat=installed %{NAME}\\n"),
}
