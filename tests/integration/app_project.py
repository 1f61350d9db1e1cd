"""A project on disk and the commands that build and deploy it, with tiny wheels in place of an index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OURS = ("FLASHQ_", "PIP_", "UV_")


class Project:
    """A folder, and `flashq` on it."""

    def __init__(self, folder: Path, wheels: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_INDEX": "1",
            "UV_CACHE_DIR": str(wheels / "cache"),
            **variables,
        }

    def write(self, **files: str) -> None:
        """Files by their paths: `__` stands for a slash, `_dot_` for a dot; without one they are Python."""
        for name, text in files.items():
            file = self.folder / name.replace("__", "/").replace("_dot_", ".")
            file = file if "." in file.name else file.with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))

    def begin(self, command: str, *options: str) -> subprocess.Popen[str]:
        """Start a command on it."""
        line = [sys.executable, "-m", "flashq", command, *options]
        return subprocess.Popen(
            line,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def run(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it."""
        with self.begin(command, *options) as process:
            out, err = process.communicate(timeout=50)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def done(self, command: str, *options: str) -> dict[str, Any]:
        """What it says in JSON."""
        done = self.run(command, "--json", *options)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def refused(self, command: str, *options: str) -> str:
        """What it says where it cannot be done."""
        done = self.run(command, *options)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr
