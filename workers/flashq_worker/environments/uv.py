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

    def lock(self, folder: Path, requirements: Sequence[str], python: str, platform: str) -> str:
        """What these requirements come to on another machine, with hashes, of wheels alone: requirements as text.

        `python`: "3.11"; `platform`: in uv's words. Raises Unresolvable, EnvironmentBuildError.
        """
        wanted, locked = folder / "requirements.in", folder / "requirements.lock"
        wanted.write_text("".join(f"{one}\n" for one in requirements), encoding="utf-8")
        for_target = ("--only-binary", ":all:", "--python-version", python, "--python-platform", platform)
        said = ("--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--output-file", str(locked))
        options = (*said, *for_target, *self._indexes.options)
        if status := self._run("pip", "compile", *options, "--", str(wanted)):
            hopeless = self._said_unresolvable and not self._said_unasked
            kind = Unresolvable if hopeless else EnvironmentBuildError
            names = ", ".join(requirements)
            raise kind(f"no wheels of {names} for Python {python} on {platform}: uv exited with {status}")
        lines = locked.read_text("utf-8").splitlines()
        return "".join(
            f"{line}\n" for line in lines if not line.lstrip().startswith(("#", "-")) or "--hash" in line
        )

    def install_locked(self, folder: Path, target: Path, lock: str, python: str, platform: str) -> None:
        """Put the packages of a lock into a folder, for another machine. Raises EnvironmentBuildError."""
        wanted = folder / "wanted.lock"
        wanted.write_text(lock, encoding="utf-8")
        for_target = ("--only-binary", ":all:", "--python-version", python, "--python-platform", platform)
        said = ("--target", str(target), "--require-hashes", "--no-deps", "--link-mode", "copy")
        options = (*said, *for_target, "--python", sys.executable, *self._indexes.options)
        if status := self._run("pip", "install", *options, "-r", str(wanted)):
            raise EnvironmentBuildError(f"the packages cannot be fetched: uv exited with {status}")

    def install_hashed(self, environment: Path, lock: str) -> None:
        """Install what a lock says, no more and with these hashes. Raises EnvironmentBuildError."""
        wanted = environment / ".wanted.lock"
        wanted.write_text(lock, encoding="utf-8")
        options = ("--python", str(environment / "bin" / "python"), *self._indexes.options)
        status = self._run("pip", "install", *options, "--require-hashes", "--no-deps", "-r", str(wanted))
        wanted.unlink()
        if status:
            raise EnvironmentBuildError(
                f"what the app leaves to hosts cannot be installed: uv exited with {status}"
            )

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
