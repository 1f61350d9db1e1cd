"""Scripts that use the private broker, with small processes in place of host agent and autoscaler."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flashq import embedded
from flashq.embedded.plan import Plan
from flashq.settings import Settings
from flashq.store.broker import Broker
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

GONE_S = 10.0
"""Within this time nothing of a stack may be left: a broker that ends syncs its file, on a busy disk."""

STAND_IN = ["/bin/sh", "-c", 'exec cat "/dev/fd/$2"', "stand-in"]
"""In place of a process beside the broker: ends when its lifeline does."""
STAND_INS = {"host": STAND_IN, "autoscaler": STAND_IN}

SCRIPT = """
import json, os, signal, sys, time
from flashq import embedded
from flashq.settings import Settings

settings, plan = Settings.load(), embedded.Plan.load(sys.argv[1])
member = embedded.join(settings, plan=plan)

def tell(**what):
    print(json.dumps(what), flush=True)

tell(url=member.url, keeper=member.status["pid"], started=member.started)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "alive":
        tell(alive=member.alive)
    elif word == "join":
        member = embedded.join(settings, plan=plan)
        tell(url=member.url, keeper=member.status["pid"], started=member.started)
    elif word == "leave":
        member.leave(int(rest[0]))
        tell(left=True)
    elif word == "fork":
        pid = os.fork()
        if not pid:
            time.sleep(60)
            os._exit(0)
        tell(child=pid)
"""


def processes_of(home: Path) -> dict[int, str]:
    """Every process that has to do with a home, by what its environment or its command line says: pid → command."""
    found = {}
    mark = os.fsencode(home)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            command = (folder / "cmdline").read_bytes()
            if command and (mark in command or mark in (folder / "environ").read_bytes()):
                found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


class Script:
    """A running script that has joined; asked over its standard input."""

    def __init__(self, process: subprocess.Popen[str], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr
        self.joined: dict[str, Any] = {}

    def wait_joined(self) -> Self:
        """Until it has joined; what it said is in `joined`."""
        self.joined = self._read()
        return self

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the script ended: {self.stderr}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def stderr(self) -> str:
        """What the person at the terminal saw."""
        return self._stderr.read_text()

    def end(self, how: signal.Signals | None = None) -> int:
        """End it: of itself (end of its input), or by a signal."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if how is not None:
            self.process.send_signal(how)
        self.process.stdin.close()
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


class EmbeddedRig:
    """A home of its own, and the scripts that use it."""

    def __init__(self, folder: Path | None = None) -> None:
        # Not under pytest's long temporary paths: a unix socket's path has about 100 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="fqe-"))
        self.home = self._folder / "home" if folder is None else self._folder / folder
        self.settings = Settings(home=self.home)
        self._scripts: list[Script] = []
        self._memberships: list[embedded.Membership] = []

    def plan(self, **changes: Any) -> Plan:
        """A stack whose processes beside the broker are stand-ins."""
        return Plan.of(self.settings, **{"commands": STAND_INS} | changes)

    def join(self, *, up: bool = False, resume: bool = False, **changes: Any) -> embedded.Membership:
        """Make this process a member."""
        membership = embedded.join(self.settings, plan=self.plan(**changes), up=up, resume=resume)
        self._memberships.append(membership)
        return membership

    def script(
        self, plan: Plan | None = None, program: str = SCRIPT, arguments: Sequence[str] = ()
    ) -> Script:
        """A script; it has not joined yet."""
        number = len(self._scripts)
        stderr = self._folder / f"stderr-{number}"
        file = self._folder / f"script-{number}.py"
        file.write_text(program)
        with stderr.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, str(file), (plan or self.plan()).dump(), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                env={**os.environ, "FLASHQ_HOME": str(self.home), "FLASHQ_SECRET_KEY": "of-the-script-" * 4},
                start_new_session=True,
            )
        script = Script(process, stderr)
        self._scripts.append(script)
        return script

    def broker(self, url: str) -> Broker:
        return Broker(url, patience_s=2.0)

    def processes(self) -> dict[int, str]:
        """What runs for this home, scripts apart."""
        scripts = {script.process.pid for script in self._scripts}
        return {pid: command for pid, command in processes_of(self.home).items() if pid not in scripts}

    def await_nothing_left(self, within_s: float = GONE_S) -> None:
        """Nothing may run for this home."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.processes(), within_s)
        assert self.processes() == {}

    def close(self) -> None:
        """End everything; fails where something would have stayed."""
        for membership in self._memberships:
            membership.leave()
        for script in self._scripts:
            if script.process.poll() is None:
                script.end(signal.SIGKILL)
            for stream in (script.process.stdin, script.process.stdout):
                if stream is not None:
                    stream.close()
        try:
            self.await_nothing_left()
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self._folder, ignore_errors=True)
