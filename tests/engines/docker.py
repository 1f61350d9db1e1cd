"""A docker of the tests' own: a daemon in a folder, with the images that podman has, for the length of a block.

It runs on Debian 12, as root: apt-get install --no-install-recommends docker.io iptables
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.engines.podman import find_program, run
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("docker", "dockerd", "containerd", "iptables")


def missing_docker() -> str | None:
    """Why there is no docker here; None when there is one."""
    missing = [program for program in PROGRAMS if find_program(program) is None]
    if not missing:
        return None
    return f"no {', no '.join(missing)} on this machine (tests/engines/docker.py says what to install)"


class Docker:
    """A daemon that runs; `docker("ps", "-a")` asks it and returns what the command printed."""

    name = "docker"

    def __init__(self, folder: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
        }

    def __call__(self, *arguments: str | Path, timeout_s: float = 120.0) -> str:
        return run(["docker", *arguments], env=self.environment, timeout_s=timeout_s)

    def answers(self) -> bool:
        """Whether the daemon does."""
        command = ["docker", "version", "--format={{.Server.Version}}"]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def lines(self, *arguments: str) -> set[str]:
        """What a listing prints, line by line."""
        return set(self(*arguments).split())


@contextlib.contextmanager
def docker() -> Iterator[Docker]:
    """A daemon of docker, for the length of a block."""
    folder = Path(tempfile.mkdtemp(prefix="fq-docker-"))
    engine = Docker(folder)
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                "dockerd",
                f"--host=unix://{folder}/docker.sock",
                f"--data-root={folder}/data",
                f"--exec-root={folder}/exec",
                f"--pidfile={folder}/pid",
                "--oom-score-adjust=0",
            ],
            stdout=log,
            stderr=log,
            env=engine.environment,
        )
    try:
        wait_until(engine.answers, 60.0, "the daemon answers")
        yield engine
    finally:
        daemon.terminate()
        daemon.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
