"""The uv commands that make an environment, and the interpreters they can use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.errors import EnvironmentBuildError
from flashq_worker.scrub import scrubbed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flashq_worker.environments.index import Indexes

# What points uv at another environment or interpreter than the one it is told.
_MISLEADING = ("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT", "UV_WORKING_DIR")


_OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


class Unresolvable(EnvironmentBuildError):
    """These requirements cannot be had together, or at all: another try would end the same way."""


_UNRESOLVABLE = "No solution found"  # uv's words; and where it says these, it could not ask the index:
_UNASKED = ("network was disabled", "not found in the cache")


class Uv:
    """uv, run in `folder` (so that no project's files are taken for the operator's configuration)."""

    def __init__(
        self, folder: Path, variables: Mapping[str, str], indexes: Indexes, on_output: Callable[[str], None]
    ) -> None:
        """`on_output` gets each line uv prints. Raises EnvironmentBuildError where there is no uv."""
        self._folder = folder
        self._on_output = on_output
        self._indexes = indexes
        self._said_unresolvable = self._said_unasked = False
        self._binary = _find(variables)
        inherited = {name: value for name, value in scrubbed(variables).items() if name not in _MISLEADING}
        quiet = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
        self._variables = {**indexes.variables, **inherited, **quiet}

    def interpreter(self, version: str) -> Path:
        """A Python `version` ("3.11") of this host: the worker's own, or one that uv finds.

        Raises EnvironmentBuildError, naming those there are.
        """
        if version == _OWN:
            return Path(sys.executable)
        found = self.interpreters()
        if version in found:
            return found[version]
        there = sorted(found, key=lambda minor: [int(n) for n in minor.split(".")])
        raise EnvironmentBuildError(f"this host has no Python {version}; it has {', '.join(there)}")

    def interpreters(self) -> dict[str, Path]:
        """The Python versions of this host ("3.11"), the worker's own among them, and an interpreter of each.

        Raises EnvironmentBuildError where uv does not say.
        """
        command = [self._binary, "python", "list", "--only-installed", "--output-format", "json"]
        listing = subprocess.run(
            command,
            cwd=self._folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        found: dict[str, Path] = {_OWN: Path(sys.executable)}
        try:
            for entry in json.loads(listing.stdout):
                if entry["implementation"] == "cpython" and entry.get("variant", "default") == "default":
                    parts = entry["version_parts"]
                    found.setdefault(f"{parts['major']}.{parts['minor']}", Path(entry["path"]))
        except (ValueError, KeyError, TypeError) as error:
            said = listing.stderr.decode("utf-8", "replace").strip() or repr(error)
            raise EnvironmentBuildError(f"uv could not list this host's Python versions: {said}") from error
        return found

    def make(self, environment: Path, interpreter: Path) -> None:
        """Make an empty environment, which may be moved to another folder."""
        self._on_output(f"making an environment of {interpreter}")
        options = ("--quiet", "--relocatable", "--no-project", "--python", str(interpreter))
        if status := self._run("venv", *options, str(environment)):
            raise EnvironmentBuildError(f"could not make an environment: uv venv exited with status {status}")

    def install(self, environment: Path, requirements: Sequence[str], *, cached: bool = True) -> None:
        """Install the requirements. Packages are hard links into uv's cache where the file system allows.

        `cached`: whether what the cache has is taken.
        Raises Unresolvable; EnvironmentBuildError where it is the machine's or the index's trouble.
        """
        names = ", ".join(requirements)
        self._on_output(f"installing {names}")
        options = ("--python", str(environment / "bin" / "python"), *self._indexes.options)
        options = options if cached else ("--no-cache", *options)
        if status := self._run("pip", "install", *options, "--", *requirements):
            hopeless = self._said_unresolvable and not self._said_unasked
            kind = Unresolvable if hopeless else EnvironmentBuildError
            raise kind(f"could not install {names}: uv pip install exited with status {status}")

    def _run(self, *arguments: str) -> int:
        """Run uv; its exit status."""
        process = subprocess.Popen(
            [self._binary, *arguments],
            cwd=self._folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        with process:
            try:
                for line in process.stdout or ():
                    self._said_unresolvable |= _UNRESOLVABLE in line
                    self._said_unasked |= any(words in line for words in _UNASKED)
                    self._on_output(line.rstrip("\n"))
            except BaseException:
                process.kill()
                raise
        return process.returncode


def _find(variables: Mapping[str, str]) -> str:
    """The uv binary: the uv package's, or the one on PATH."""
    try:
        import uv
    except ImportError:
        on_path = shutil.which("uv", path=variables.get("PATH"))
    else:
        try:
            return uv.find_uv_bin()
        except FileNotFoundError:
            on_path = shutil.which("uv", path=variables.get("PATH"))
    if on_path is None:
        raise EnvironmentBuildError("this host has no uv, which installs dependencies: pip install uv")
    return on_path
