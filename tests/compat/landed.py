"""The last landed version's tree, from this clone's own history, and programs run in it or in the working tree.

landed.txt names the commit (CONTRIBUTING.md says when it moves). Programs of both versions run in one Python
environment; PYTHONPATH says whose code they import.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LANDED = (HERE / "landed.txt").read_text().strip()
_PACKAGES = ("flashq", "workers/flashq_worker", "autoscaler/flashq_autoscaler")


class Version(NamedTuple):
    """One of the two: its name in reports, and the folder of its code."""

    name: str
    tree: Path

    def environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        """What a process of this version is started with."""
        places = (self.tree, self.tree / "workers", self.tree / "autoscaler")
        return {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(map(str, places))}

    def ask(self, code: str, *, stdin: str = "") -> str:
        """What a few lines of Python print, with this version's modules."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=self.environ({}),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def made(self, path: str) -> bool:
        """Whether a module's file is this version's."""
        return Path(path).is_relative_to(self.tree)


class Program:
    """A process of one version, its output in files."""

    def __init__(self, version: Version, folder: Path, settings: Mapping[str, str], *arguments: str) -> None:
        self.version = version
        self.name = (
            f"{version.name}-{'-'.join(Path(a).name for a in arguments)}-{len(list(folder.iterdir()))}"
        )
        self.out, self.err = folder / f"{self.name}.out", folder / f"{self.name}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                env=version.environ(settings),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def finish(self, timeout_s: float = 40.0) -> str:
        """What it printed, once it has ended well."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        code = self.process.returncode
        how = f"did not end within {timeout_s:g} s" if code is None else f"ended with {code}"
        assert code == 0, f"{self.name} {how}:\n{self.err.read_text()}"
        return self.out.read_text()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def extract(into: Path) -> Version:
    """Write the landed version's packages to a folder; where the history lacks it: skip, and in CI fail."""
    archived = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", LANDED, *_PACKAGES],
        capture_output=True,
        check=False,
    )
    if archived.returncode != 0:
        why = archived.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        reason = f"no version to stand beside: {LANDED[:12]} is not in this clone's history ({why})"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI skips nothing: it needs a full clone", pytrace=False)
        pytest.skip(reason)
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as packed:
        packed.extractall(into, filter="data")
    return Version("landed", into)
