"""Machines on a network of their own, for tests: namespaces with a name and an address each, wired to one bridge.

The test's own process, and what it starts without `within`, is the machine at the bridge's address. Needs root and
iproute2. What a killed run has left is removed by the next.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = ("ip", "nsenter", "unshare")
_BRIDGE = "fqlan"
_LOCK = Path("/run/fqlan.lock")
_NOBODY = "02:00:00:00:00:01"


def missing_lan() -> str | None:
    """Why there can be no such network here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    probe = f"{_BRIDGE}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "no network namespaces may be made here"
    _ip("netns", "del", probe)
    return None


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Machine:
    """One namespace. It can be cut off, or made deaf: what it says arrives, and no answer comes back."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.space, self.wire = f"{_BRIDGE}-{name}", f"{_BRIDGE}{name}"

    def attach(self) -> None:
        inside = f"{self.wire}-in"
        _ip("netns", "add", self.space)
        _ip("link", "add", self.wire, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self.space)
        _ip("link", "set", self.wire, "master", _BRIDGE, "up")
        _ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", inside)
        _ip("-n", self.space, "link", "set", inside, "up")
        _ip("-n", self.space, "link", "set", "lo", "up")

    def within(self, command: Sequence[str]) -> list[str]:
        """The command, to be run on this machine: its process is the same, without one between."""
        named = ["unshare", "--uts", "sh", "-ec", 'hostname "$1"; shift; exec "$@"', "sh", self.name]
        return ["nsenter", f"--net=/run/netns/{self.space}", *named, *command]

    def cut(self) -> None:
        """No packet passes, and nobody is told."""
        _ip("link", "set", self.wire, "down")

    def deafen(self) -> None:
        """What it sends arrives; what is sent to it does not."""
        _ip("neigh", "replace", self.address, "lladdr", _NOBODY, "nud", "permanent", "dev", _BRIDGE)

    def heal(self) -> None:
        """All packets pass again."""
        subprocess.run(["ip", "neigh", "del", self.address, "dev", _BRIDGE], capture_output=True, check=False)
        _ip("link", "set", self.wire, "up")

    def detach(self) -> None:
        """Away with it, if it is there."""
        for words in (("link", "del", self.wire), ("netns", "del", self.space)):
            subprocess.run(["ip", *words], capture_output=True, check=False)


class Lan:
    """The bridge and its machines."""

    def __init__(self, *names: str, network: str = "10.213.77", first: int = 10) -> None:
        """`first`: the number of the first machine's address; this one's is 254."""
        self.address = f"{network}.254"
        self._lock = _LOCK.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # the names are those of every run
        self.machines = {name: Machine(name, f"{network}.{first + n}") for n, name in enumerate(names)}
        self._clear()
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for machine in self.machines.values():
            machine.attach()

    def close(self) -> None:
        """Remove all of it."""
        self._clear()
        self._lock.close()

    def _clear(self) -> None:
        for machine in self.machines.values():
            machine.detach()
        subprocess.run(["ip", "link", "del", _BRIDGE], capture_output=True, check=False)
