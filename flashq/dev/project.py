"""A project that is served while it is written: its files, and what of them is registered."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashq.apps import discovery
from flashq.apps.ignore import Ignored
from flashq.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("flashq")
LOAD_S = 120.0
_TAIL_LINES = 20


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

    def load(self) -> tuple[LiveEndpoint, ...]:
        """Import its files and register what they define. Raises BuildError, a line for each problem."""
        files = [self._only] if self._only else list(Ignored(self.folder).files())
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
        told, self.printed = _ask(order)
        for line in told["notices"]:
            if line not in self._told:  # else it was said when the files were loaded before
                self._told.add(line)
                log.warning("%s", line)
        if told["problems"]:
            raise BuildError("\n".join(told["problems"]))
        if not told["endpoints"]:
            raise BuildError(f"{self.folder} defines no endpoint: decorate a function with @Endpoint(...)")
        return tuple(LiveEndpoint(**row) for row in told["endpoints"])


def _ask(order: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Have `live` do it; its answer, and what was printed. Like any program it has this process's own settings."""
    answer, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "flashq.dev.live", str(theirs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(theirs,),
        start_new_session=True,
    )
    os.close(theirs)
    with os.fdopen(answer, "rb") as said:
        told: list[bytes] = []
        reader = threading.Thread(target=lambda: told.append(said.read()), daemon=True)
        reader.start()
        try:
            output, _ = process.communicate(json.dumps(order).encode(), timeout=LOAD_S)
        except subprocess.TimeoutExpired:
            _end(process)
            raise BuildError(
                f"importing the project's files took longer than {LOAD_S:g} s: what a file does when it is run belongs"
                " under `if __name__ == '__main__':`"
            ) from None
        except BaseException:  # Ctrl-C: what they are doing ends too
            _end(process)
            raise
        finally:
            reader.join(5.0)
    printed = output.decode("utf-8", "replace")
    try:
        found: dict[str, Any] = json.loads(b"".join(told))
    except ValueError:
        tail = "\n".join(printed.splitlines()[-_TAIL_LINES:])
        raise BuildError(
            f"the process that imports the project's files ended before it was done\n{tail}"
        ) from None
    return found, printed


def _end(process: subprocess.Popen[bytes]) -> None:
    """It, and what the files started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
