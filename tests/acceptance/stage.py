"""What the acceptance tests of the SDK and of bad luck stand on: user programs, and a place to run them.

A *program* is a user's script, in a folder and a process of its own, that knows the deployment only by its
environment variables. Everything a program tells its test it prints as one line of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq.client import Client, use_client
from tests.packages import require_packages
from tests.rig import SECRET, Rig, WorkerProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flashq import EndpointFunction

TREE = Path(__file__).resolve().parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor + 1}"

SMALL_PACKAGE = "iniconfig==2.0.0"
"""A package of 6 kB without requirements of its own: what environments are tried with."""

PREAMBLE = """\
import json, os, sys, time

def tell(**what):
    print(json.dumps(what), flush=True)

"""

STATES = """
local rows = {}
for n, key in ipairs(redis.call('KEYS', ARGV[1] .. ARGV[2])) do
  rows[n] = {string.sub(key, #ARGV[1] + 1), redis.call('HGET', key, 'fq_state')}
end
return rows
"""
"""The state of every job whose id matches a pattern. For tests only: no program of flashq's uses KEYS."""


def require_index() -> None:
    """Skip the test where no package index can be reached; fail it in CI."""
    require_packages(SMALL_PACKAGE)


def environment(rig: Rig, **changes: str | None) -> dict[str, str]:
    """The variables of a program that uses the rig's deployment; None takes one away."""
    made = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHQ_", "RQ_"))}
    made["FLASHQ_REDIS_URL"] = rig.server.url
    if rig.key_file is None:
        made["FLASHQ_SECRET_KEY"] = SECRET.hex()
    else:
        made["FLASHQ_SECRET_KEY_FILE"] = str(rig.key_file)
    made |= {"FLASHQ_HOME": str(rig.home), "FLASHQ_LEASE_S": f"{rig.lease_s:g}"}
    made |= {"FLASHQ_PAYLOAD_LIMIT": str(rig.settings.payload_limit), "FLASHQ_ALLOW_PLAINTEXT": "1"}
    for name, value in changes.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = value
    return made


class Program:
    """A user's script, running. `said()` is what it has told so far."""

    def __init__(self, command: list[str], folder: Path, env: Mapping[str, str], stdin: str | None) -> None:
        self.folder = folder
        self._output = (folder / "output").open("wb+")
        self._errors = (folder / "errors").open("wb+")
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin.encode())
            self.process.stdin.close()

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text("utf-8", "replace")

    @property
    def errors(self) -> str:
        return (self.folder / "errors").read_text("utf-8", "replace")

    def said(self) -> dict[str, Any]:
        """Everything told so far, the later word over the earlier."""
        told: dict[str, Any] = {}
        for line in self.output.splitlines():
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    told |= json.loads(line)
        return told

    def wait_for(self, word: str, timeout_s: float = 30.0) -> Any:
        """Wait until it has told `word`; fail at once where it ended without."""

        def told() -> bool:
            if word in self.said():
                return True
            assert self.process.poll() is None, f"it ended: {self.output}\n{self.errors}"
            return False

        wait_until(told, timeout_s, f"the program tells {word!r}: {self.output}\n{self.errors}")
        return self.said()[word]

    def end(self, timeout_s: float = 45.0) -> dict[str, Any]:
        """Wait for a good end; what it told."""
        assert self.ended(timeout_s) == 0, f"{self.output}\n{self.errors}"
        return self.said()

    def ended(self, timeout_s: float = 45.0) -> int:
        """Wait for its end, good or bad; the exit code."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()
        self._errors.close()


class Stage(Rig):
    """A rig that can also run users' programs, and starts one worker for each endpoint name."""

    def __init__(self, *, payload_limit: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._payload_limit = payload_limit
        if payload_limit is not None:
            self.client.close()
            self.settings = dataclasses.replace(self.settings, payload_limit=payload_limit)
            self.client = Client(self.settings)
            use_client(self.client)
        self._served: set[str] = set()
        self._programs: list[Program] = []
        self._stack: list[Program] = []
        self._folder = Path(tempfile.mkdtemp(prefix="programs-", dir=self.server.folder))

    def worker(self, endpoint: EndpointFunction[Any, Any] | str, **changes: Any) -> WorkerProcess:
        """Start a worker of an endpoint, under this deployment's payload limit."""
        if self._payload_limit is not None:
            changes.setdefault("payload_limit", self._payload_limit)
        return super().worker(endpoint, **changes)

    def serve(self, name: str, **changes: Any) -> None:
        """See that an endpoint has a worker, as soon as it is on record."""
        if name not in self._served:
            wait_until(lambda: self.endpoint_field(name, "revision"), what=f"{name} is on record")
            self._served.add(name)
            self.worker(name, **changes)

    def start_stack(self) -> None:
        """Start what a deployment has: a host agent and an autoscaler. Workers need no hand then."""
        for part in ("host", "autoscaler"):
            command = [sys.executable, "-m", "flashq", part]
            self._stack.append(Program(command, self.folder(), environment(self), None))

    def folder(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(prefix="p-", dir=self._folder))

    def start(
        self,
        source: str = "",
        *arguments: str,
        modules: Mapping[str, str] | None = None,
        command: list[str] | None = None,
        stdin: str | None = None,
        env: Mapping[str, str | None] | None = None,
        name: str = "script.py",
        folder: Path | None = None,
        serve: str | None = None,
    ) -> Program:
        """Start a program from its source; `modules` are other files beside it.

        With `command`, those words follow `python` in the place of the script. `serve` names an endpoint
        that the program calls: it gets a worker.
        """
        folder = self.folder() if folder is None else folder
        for file, text in {**(modules or {}), name: PREAMBLE + textwrap.dedent(source)}.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(textwrap.dedent(text), "utf-8")
        words = command if command is not None else [name, *arguments]
        program = Program([sys.executable, *words], folder, environment(self, **(env or {})), stdin)
        self._programs.append(program)
        if serve is not None:
            wait_until(lambda: program.process.poll() is not None or self.endpoint_field(serve, "revision"))
            assert not program.process.poll(), f"{program.output}\n{program.errors}"
            self.serve(serve)
        return program

    def run(self, source: str = "", *arguments: str, **options: Any) -> dict[str, Any]:
        """Run a program to its good end; what it told."""
        return self.start(source, *arguments, **options).end()

    def endpoint_field(self, name: str, field: str) -> str:
        value = self.broker.execute("HGET", self.broker.keys.of("endpoint", name), field)
        return value.decode("utf-8", "replace") if value is not None else ""

    def state(self, job_id: str) -> str:
        """Where a job is, by the broker's own record."""
        return self.job_field(job_id, "fq_state")

    def states(self, name: str) -> dict[str, str]:
        """Every job of an endpoint that the broker knows, with its state."""
        prefix = self.broker.keys.of("job", "")
        answer = self.broker.execute("EVAL", STATES, 0, prefix, f"{name}-{'?' * 36}")
        return {job_id.decode(): (state or b"").decode() for job_id, state in answer}

    def close(self) -> None:
        for program in self._programs:
            program.close()
        for _ in range(2):  # the second signal ends what still runs on the host
            for part in reversed(self._stack):
                part.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    part.ended(5)
        for part in self._stack:
            part.close()
        super().close()


@contextlib.contextmanager
def stage(**options: Any) -> Iterator[Stage]:
    """A `Stage` for the length of a block."""
    made = Stage(**options)
    try:
        yield made
    finally:
        made.close()
