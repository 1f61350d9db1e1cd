"""An environment's contents, put together from folders of packages that `collect` made elsewhere: no installer runs."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ANY_PYTHON = b"#!/usr/bin/env python\n"


def assemble(environment: Path, python: Path, packages: Iterable[Path]) -> None:
    """Put packages into an empty environment. `python`: its interpreter, where it will be. Raises OSError."""
    site = next((environment / "lib").glob("python3*/site-packages"))
    for package in packages:
        for place, _, names in os.walk(package):
            inside = os.path.relpath(place, package)
            scripts = inside == "bin"
            target = environment / "bin" if scripts else site / inside
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                source = package / inside / name
                if scripts:
                    _script(source, target / name, python)
                else:
                    _copy(source, target / name)


def _copy(source: Path, target: Path) -> None:
    """A copy of its own: what a job writes into its environment is not written into the app."""
    shutil.copyfile(source, target)
    if source.stat().st_mode & stat.S_IXUSR:
        target.chmod(0o755)


def _script(source: Path, target: Path, python: Path) -> None:
    raw = source.read_bytes()
    if raw.startswith(_ANY_PYTHON):
        raw = f"#!{python}\n".encode() + raw[len(_ANY_PYTHON) :]
    if not target.exists():  # an interpreter of the environment's own is not overwritten
        target.write_bytes(raw)
        target.chmod(0o755)
