"""Environments built by the real uv out of tiny wheels made here: no network is needed."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import zipfile
from typing import TYPE_CHECKING

from flashq_worker.environments import environment
from flashq_worker.environments import store as environment_store
from flashq_worker.environments.expiry import Expired, Limits
from tests.integration.executor_rig import PYTHON

if TYPE_CHECKING:
    from pathlib import Path


def make_wheel(folder: Path, name: str, version: str, code: str = "", requires: str | None = None) -> None:
    """A wheel of one module, with a console script that prints the version."""
    module = name.replace("-", "_")
    dist_info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{module}.py": f"__version__ = {version!r}\ndef main(): print(__version__)\n{code}",
        f"{dist_info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{dist_info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{dist_info}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},"
        f"{len(text.encode())}"
        for path, text in files.items()
    ]
    files[f"{dist_info}/RECORD"] = "\n".join([*record, f"{dist_info}/RECORD,,", ""])
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def make_wheels(folder: Path) -> None:
    """tiny-a 1.0 and 2.0, tiny-b which needs tiny-a<2, and one that lacks a part."""
    make_wheel(folder, "tiny-a", "1.0")
    make_wheel(folder, "tiny-a", "2.0")
    make_wheel(folder, "tiny-b", "1.0", requires="tiny-a<2")
    make_wheel(folder, "tiny-broken", "1.0", requires="tiny-missing>=3")


class Site:
    """A host's folder of environments, with an operator who has only those wheels."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root = root / "environments"
        self.lines: list[str] = []
        self.variables = {
            "HOME": str(root),
            "PATH": os.environ["PATH"],
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_INDEX": "1",
            "UV_CACHE_DIR": str(root / "cache"),
            "FLASHQ_SECRET_KEY": "canary",
        }

    def ensure(self, *dependencies: str, python: str = PYTHON) -> environment.Environment:
        """The environment of these dependencies."""
        return environment.ensure(dependencies, python, self.root, self.lines.append, self.variables)

    def sweep(self, limits: Limits | None = None) -> list[Expired]:
        """Remove what is due; what was removed."""
        removed: list[Expired] = []
        environment_store.sweep(self.root, limits or Limits(), removed.append)
        return removed


def version_of(built: environment.Environment, module: str = "tiny_a") -> str:
    """The version of a module in an environment."""
    code = f"import {module}; print({module}.__version__)"
    return subprocess.run(
        [built.python, "-I", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
