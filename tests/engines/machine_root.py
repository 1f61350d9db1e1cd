"""A machine of a test's own to type on: its /etc, /opt and /var/lib lie over this one's, and vanish with it.

What a package manager, a clone and pip would bring is there; `apt-get` does nothing. For systemd, which needs a machine
of its own, stands a `systemctl` that starts what a unit's ExecStart says, as its User, with what its
Environment and EnvironmentFile give, drop-ins included; `scp` copies to another machine of the test.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    from tests.engines.lan import Machine

TREE = Path(__file__).resolve().parents[2]
OWN = ("/etc", "/opt", "/var/lib", "/var/log")
PROGRAMS = ("openssl", "redis-server", "runuser", "useradd", "scp")
"""What the commands need of this machine, beside what Debian always has; `scp` is brought."""

SYSTEMCTL = """\
import os, pwd, subprocess, sys
from pathlib import Path

LOGS, KEPT = Path(sys.argv[1]), sys.argv[2].split()
units = [word for word in sys.argv[3:] if word not in ("enable", "restart", "--now")]
for unit in units:
    if unit == "redis-server":
        command, user, given = ["redis-server", "/etc/redis/redis.conf", "--daemonize", "no"], "redis", {}
    else:
        file = Path(f"/etc/systemd/system/{unit}.service")
        files = [file, *sorted(Path(f"{file}.d").glob("*.conf"))]
        lines = [line for one in files for line in one.read_text().splitlines() if not line.startswith("#")]
        pairs = [line.split("=", 1) for line in lines if "=" in line]
        found = dict(pairs)
        given = dict(value.split("=", 1) for name, value in pairs if name == "Environment")
        given |= dict(line.split("=", 1) for line in Path(found["EnvironmentFile"]).read_text().split())
        command, user = found["ExecStart"].split(), found["User"]
        state = Path("/var/lib", found["StateDirectory"])
        state.mkdir(exist_ok=True)
        state.chmod(0o700)
        os.chown(state, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    env = {"PATH": os.environ["PATH"], **{name: os.environ[name] for name in KEPT}, **given}
    with (LOGS / unit).open("ab") as log:
        process = subprocess.Popen(
            command, user=user, group=user, extra_groups=[], env=env, cwd="/", stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True, umask=0o077,
        )
    with (LOGS / "pids").open("a") as pids:
        print(process.pid, file=pids)
"""
SCP = """\
shift
target=${@: -1}
folder=$FQ_MACHINES/${target%%:*}
cp -p "${@:1:$#-1}" "$folder${target#*:}"
"""


class Root:
    """One machine, in a folder that any user may enter."""

    def __init__(self, machine: Machine, machines: Path, kept: Mapping[str, str]) -> None:
        """`machines`: where the folders of all of them are. `kept`: variables that what is started there sees."""
        self._machine, self._kept = machine, {**kept, "FQ_MACHINES": str(machines)}
        self.folder = machines / machine.name
        self._bin, self._logs, self._work = (self.folder / name for name in ("bin", "log", "work"))
        for path in (self._bin, self._logs, *(self._work / own[1:] for own in OWN)):
            path.mkdir(parents=True)
        for own in OWN:
            (self.folder / own[1:]).mkdir(parents=True)
        (self.folder / "systemctl.py").write_text(SYSTEMCTL, "utf-8")
        words = shlex.join([sys.executable, f"{self.folder}/systemctl.py", str(self._logs), " ".join(kept)])
        self._write(self._bin / "systemctl", f'{words} "$@"')
        self._write(self._bin / "scp", SCP)
        self._write(self._bin / "apt-get", "exit 0")
        programs = self.folder / "opt" / "flashq" / "bin"
        programs.mkdir(parents=True)
        for name in ("flashq", "python"):
            self._write(programs / name, f'exec {Path(sys.executable).parent / name} "$@"')
        (self.folder / "opt" / "flashq-source").symlink_to(TREE)

    @staticmethod
    def _write(file: Path, text: str) -> None:
        file.write_text(f"#!/bin/bash -e\n{text}\n", "utf-8")
        file.chmod(0o755)

    def type(self, script: str, timeout_s: float = 120.0) -> str:
        """Type these lines; what they print. Raises AssertionError where one fails, with what the services wrote."""
        over = [
            f"mount -t overlay overlay -o lowerdir={own},upperdir={self.folder}{own},workdir={self._work}{own} {own}"
            for own in OWN
        ]
        over += _open_to_everybody(Path(sys.base_prefix).resolve(), self.folder / "base")
        names = [f"export {name}={shlex.quote(value)}" for name, value in self._kept.items()]
        lines = [*over, *names, f"export PATH={self._bin}:$PATH", script]
        done = subprocess.run(
            self._machine.within(["unshare", "--mount", "/bin/bash", "-ec", "\n".join(lines)]),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """What the services have written."""
        files = [file for file in sorted(self._logs.iterdir()) if file.name != "pids"]
        return "".join(f"\n{file.name}: {file.read_text('utf-8', 'replace')[-2000:]}" for file in files)

    def end(self, how: signal.Signals) -> None:
        """Tell the services to end."""
        file = self._logs / "pids"
        for pid in file.read_text("ascii").split() if file.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), how)


def _open_to_everybody(python: Path, place: Path) -> list[str]:
    """Commands that let any user run the Python at `python`, where that lies in a folder of somebody's own."""
    closed = [parent for parent in reversed(python.parents) if not parent.stat().st_mode & stat.S_IXOTH]
    if not closed:
        return []
    place.mkdir(exist_ok=True)
    return [
        f"mount --bind {python} {place}",
        f"mount -t tmpfs -o mode=755 tmpfs {closed[0]}",
        f"mkdir -p {python}",
        f"mount --bind {place} {python}",
    ]
