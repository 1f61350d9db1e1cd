"""What the harder faults need of the machine: a clock that can be set, a disk that can be filled, a network apart.

Each is asked for with `why_not`, which says what this machine lacks, and made with `open`, which gives it back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
HOUR_S = 3600


def _root() -> str:
    return "" if os.geteuid() == 0 else "needs root"


class Clock:
    """The wall clock of programs that are run with `env`: `set` shifts it while they run."""

    @staticmethod
    def why_not() -> str:
        """What is missing; '' where nothing is."""
        if sys.platform != "linux":
            return "needs Linux"
        return "" if shutil.which("cc") else "needs a C compiler (cc)"

    def __init__(self, folder: Path) -> None:
        library = folder / "skew.so"
        self._file = folder / f"skew-{secrets.token_hex(4)}"
        self.set(0)
        build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "skew.c"), "-ldl"]
        if not library.exists():
            subprocess.run(build, check=True)
        self.env = {"LD_PRELOAD": str(library), "SKEW_FILE": str(self._file)}

    @property
    def whole_env(self) -> dict[str, str]:
        """All variables of such a program."""
        return {**os.environ, **self.env}

    def set(self, seconds: int) -> None:
        """From now on the clock is so much ahead (or, negative, behind)."""
        self.ahead_s = seconds
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT)
        os.pwrite(descriptor, struct.pack("=q", seconds), 0)
        os.close(descriptor)


class Disk:
    """A small file system in memory, which can be full."""

    @staticmethod
    def why_not() -> str:
        """What is missing; '' where nothing is."""
        return _root() or ("" if shutil.which("mount") else "needs mount")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, megabytes: int) -> Iterator[Disk]:
        """Mounted at `folder` for the length of a block."""
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        subprocess.run(mount, check=True)
        try:
            yield cls(folder)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)

    def fill(self) -> None:
        """Leave not a byte."""
        with (self.folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for block in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * block)

    def free(self) -> None:
        """Take away what filled it."""
        (self.folder / "filler").unlink(missing_ok=True)


class Network:
    """A network namespace with one wire to this machine, which can be pulled out without anybody being told."""

    @staticmethod
    def why_not() -> str:
        """What is missing; '' where nothing is."""
        if why := _root() or ("" if shutil.which("ip") else "needs ip (iproute2)"):
            return why
        probe = f"fq{secrets.token_hex(3)}"
        if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
            return "needs the right to make network namespaces"
        subprocess.run(["ip", "netns", "del", probe], check=False)
        return ""

    def __init__(self, name: str, third: int) -> None:
        self.name = name
        self.here, self.there = f"10.213.{third}.1", f"10.213.{third}.2"
        """The addresses of the two ends of the wire."""
        self.within = ("ip", "netns", "exec", name)
        """What runs a program in it."""

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Network]:
        """Made for the length of a block."""
        name = f"fq{secrets.token_hex(3)}"
        made = cls(name, secrets.randbelow(250) + 1)
        steps = (
            ["netns", "add", name],
            ["link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b"],
            ["link", "set", f"{name}b", "netns", name],
            ["addr", "add", f"{made.here}/24", "dev", f"{name}a"],
            ["link", "set", f"{name}a", "up"],
            ["-n", name, "addr", "add", f"{made.there}/24", "dev", f"{name}b"],
            ["-n", name, "link", "set", f"{name}b", "up"],
            ["-n", name, "link", "set", "lo", "up"],
        )
        try:
            for step in steps:
                subprocess.run(["ip", *step], check=True)
            yield made
        finally:
            subprocess.run(["ip", "link", "del", f"{name}a"], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def pull(self) -> None:
        """No packet passes, and nobody is told."""
        subprocess.run(["ip", "link", "set", f"{self.name}a", "down"], check=True)

    def plug(self) -> None:
        """Packets pass again."""
        subprocess.run(["ip", "link", "set", f"{self.name}a", "up"], check=True)
