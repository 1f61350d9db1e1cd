"""A podman of the tests' own: its images, containers, volumes and networks are apart from everyone else's.

It runs on Debian 12, as root:

    apt-get install --no-install-recommends podman netavark aardvark-dns runc iptables catatonit debootstrap

podman-compose is in the virtual environment, pinned with the rest. Where a registry answers, debootstrap is not needed.
What is worth keeping between runs (base images, wheels) lies in the cache folder, `~/.cache/flashq-engines` as a rule,
and may be deleted at any time while no test runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "flashq-engines")
RUN = Path("/run/flashq-engines")
"""What must not outlive a reboot, as podman wants it. A fixed place: podman refuses its images with another."""

# netavark calls iptables; catatonit is the init of containers that ask for one.
PROGRAMS = ("podman", "runc", "iptables", "catatonit", "podman-compose")
FOR_ONE_CONTAINER = ("podman", "runc")
"""Of these, what containers need that are no composition."""

# Limits above those of a plain container or VM are refused by the kernel; runc and cgroupfs do without systemd.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{run}/libpod"
[network]
network_backend = "netavark"
network_config_dir = "{run}/networks"
"""
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{cache}/podman"
runroot = "{run}/storage"
"""


def find_program(name: str) -> str | None:
    """A program beside the Python of this virtual environment, whose versions are pinned, or on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def missing_engine(programs: Sequence[str] = PROGRAMS) -> str | None:
    """Why there is no engine here; None when there is one, and these programs."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "podman's tests run as root on Linux"
    for program in programs:
        if find_program(program) is None:
            return f"no {program} on this machine (tests/engines/podman.py says what to install)"
    return None


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    errors_too: bool = False,
) -> str:
    """Run a program to its good end; its standard output, with `errors_too` followed by its standard error.

    Raises AssertionError with all it wrote when it fails. Its output goes to files, since what an engine leaves
    running in the background would keep a pipe open.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=env,
            cwd=cwd,
            timeout=timeout_s,
        )
        written = []
        for file in (output, errors):
            file.seek(0)
            written.append(file.read().decode("utf-8", "replace"))
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))}: exit code {done.returncode}\n{''.join(written)}"
    )
    return "".join(written) if errors_too else written[0]


class Podman:
    """The engine; `podman("ps", "-a")` runs it and returns what it printed."""

    name = "podman"

    def __init__(self) -> None:
        for folder in (CACHE, RUN):
            folder.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(Path.home()),
            "CONTAINERS_CONF": str(CACHE / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(CACHE / "storage.conf"),
        }
        for name, text in (("containers.conf", CONTAINERS_CONF), ("storage.conf", STORAGE_CONF)):
            (CACHE / name).write_text(text.format(cache=CACHE, run=RUN), encoding="utf-8")

    def __call__(self, *arguments: str | Path, timeout_s: float = 120.0) -> str:
        return run(["podman", *arguments], env=self.environment, timeout_s=timeout_s)

    def log(self, container: str) -> str:
        """What a container wrote: to its standard output, then to its standard error."""
        return run(["podman", "logs", container], env=self.environment, errors_too=True)

    def has(self, image: str) -> bool:
        """Whether the image is here."""
        command = ["podman", "image", "exists", image]
        return subprocess.run(command, env=self.environment, check=False).returncode == 0

    def pulled(self, image: str, timeout_s: float = 300.0) -> bool:
        """Get an image from its registry; False where none answers."""
        try:
            self("pull", "--quiet", image, timeout_s=timeout_s)
        except (AssertionError, subprocess.TimeoutExpired):
            return False
        return True

    def lines(self, *arguments: str) -> set[str]:
        """What a listing prints, line by line."""
        return set(self(*arguments).split())
