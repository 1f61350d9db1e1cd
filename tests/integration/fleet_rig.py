"""Host agents as processes, signed words to them, and endpoints put on record without their code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq.model import host_command
from flashq.model import spec as specs
from flashq.model.envelope import Header, seal
from flashq.model.host_command import StartWorker
from flashq.model.keyring import Direction, Keyring
from flashq.model.spec import EndpointSpec
from flashq.store.broker import Broker
from flashq.store.command import text
from tests.rig import SECRET, BrokerServer, halt, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq.model.host_command import HostCommand
    from flashq.store.records import Term
    from tests.nvml.machine import Machine

HERE = Path(__file__).parent
FAKE_WORKER = (sys.executable, "-P", str(HERE / "fake_worker.py"))
REVISION = "r" * 64


class AgentProcess:
    """A host agent in a process of its own, with its log."""

    def __init__(
        self,
        url: str,
        home: Path,
        worker_command: Sequence[str] | None,
        *,
        name_is_lost: Path | None = None,
        machine: Machine | None = None,
        **options: Any,
    ) -> None:
        """`name_is_lost`: while there is such a file, the resolver takes its time over LOCAL_NAME, in vain.

        `machine`: where it finds its GPUs.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.log = home / "agent.log"
        given = {"url": url, "home": str(home), "worker_command": worker_command, "options": options}
        given["name_is_lost"] = None if name_is_lost is None else str(name_is_lost)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "agent_process.py"), json.dumps(given)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=HERE.parent.parent,
                env=None if machine is None else machine.environ(os.environ),
            )

    def signal(self, which: signal.Signals) -> None:
        if which is signal.SIGSTOP:
            halt(self.process.pid)
        else:
            self.process.send_signal(which)

    def logged(self, words: str) -> bool:
        """Whether the agent wrote these words."""
        return words in self.log.read_text("utf-8", "replace")

    def workers(self) -> dict[str, dict[str, Any]]:
        """What each fake worker was told, and its pid."""
        found = {}
        for file in (self.home / "told").glob("*.json"):
            found[file.stem] = json.loads(file.read_text())
        return found

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()


class FleetRig:
    """A private broker, and what an autoscaler's operator would have around it."""

    def __init__(self, folder: Path, server: str = "valkey") -> None:
        self.folder = folder
        self.server = BrokerServer(server)
        self.broker = Broker(self.server.url)
        self.transitions = self.broker.transitions
        self.keyring = Keyring([SECRET])
        self._term: Term | None = None
        self.sent: dict[str, bytes] = {}
        """The signed word for each worker ordered."""
        self._agents: list[AgentProcess] = []

    def close(self) -> None:
        for agent in self._agents:
            agent.close()
        self.broker.close()
        self.server.close()

    # -- hosts ---------------------------------------------------------------------------------------
    def agent(
        self, home: str = "home", *, worker_command: Sequence[str] | None = FAKE_WORKER, **options: Any
    ) -> AgentProcess:
        """Start a host agent, with fake workers unless told otherwise (None: real ones)."""
        agent = AgentProcess(self.server.url, self.folder / home, worker_command, **options)
        self._agents.append(agent)
        return agent

    def host(self, agent: AgentProcess) -> str:
        """The id of an agent's host, once it is on record."""

        def found() -> str | None:
            for name in self.hosts():
                pid = self.broker.execute("HGET", self.broker.keys.of("host", name), "pid")
                if pid is not None and int(pid) == agent.process.pid:
                    return name
            return None

        return str(wait_until(found, what="the host on record"))

    def hosts(self) -> list[str]:
        """The hosts on record."""
        return [text(name) for name in self.broker.execute("ZRANGE", self.broker.keys.of("hosts"), 0, -1)]

    def host_fields(self, host: str) -> dict[str, str]:
        """A host's record."""
        return self._hash("host", host)

    # -- endpoints and workers -----------------------------------------------------------------------
    def register(
        self, endpoint: str, revision: str = REVISION, program: str = "test", **parameters: Any
    ) -> str:
        """Put an endpoint on record (a CPU one unless told otherwise); the verdict."""
        spec = EndpointSpec(**{"name": endpoint, "cpu": "any", **parameters})
        command = self.transitions.register(
            endpoint,
            revision=revision,
            environment=specs.environment_digest(spec),
            resources=specs.resource_digest(spec),
            needs=specs.needs_digest(spec),
            spec=specs.canonical_json(specs.public(spec)),
            scaling=specs.canonical_json(specs.scaling(spec)),
            program=program,
            record=b"record",
        )
        return self.broker.run(command).verdict

    def endpoint_fields(self, endpoint: str) -> dict[str, str]:
        """An endpoint's record."""
        return self._hash("endpoint", endpoint)

    def submit(self, endpoint: str, count: int = 1, revision: str = REVISION) -> list[str]:
        """Submit jobs that no worker will ever be able to verify; their ids."""
        jobs = [f"{endpoint}-{uuid.uuid4()}" for _ in range(count)]
        self.broker.run_all(
            [self.transitions.submit(endpoint, job, revision=revision, call=b"call") for job in jobs]
        )
        return jobs

    def job_state(self, job: str) -> str:
        """A job's `fq_state`."""
        return text(self.broker.execute("HGET", self.broker.keys.of("job", job), "fq_state"))

    def workers(self, endpoint: str) -> list[str]:
        """The workers of an endpoint on record."""
        key = self.broker.keys.of("endpoint_workers", endpoint)
        return [text(worker) for worker in self.broker.execute("ZRANGE", key, 0, -1)]

    def worker_fields(self, worker: str) -> dict[str, str]:
        """A worker's record."""
        return self._hash("worker", worker)

    def states(self, endpoint: str) -> list[str]:
        """The states of an endpoint's workers, sorted."""
        return sorted(self.worker_fields(worker).get("fq_state", "?") for worker in self.workers(endpoint))

    def events(self, kind: str) -> list[dict[str, str]]:
        """The events of a kind, oldest first."""
        entries = self.broker.execute("XRANGE", self.broker.keys.of("events"), "-", "+")
        rows = [
            {text(k): text(v) for k, v in zip(fields[::2], fields[1::2], strict=True)}
            for _, fields in entries
        ]
        return [row for row in rows if row["kind"] == kind]

    def _hash(self, kind: str, subject: str) -> dict[str, str]:
        flat = self.broker.execute("HGETALL", self.broker.keys.of(kind, subject))
        return {text(k): text(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}

    # -- the autoscaler's word -----------------------------------------------------------------------
    def now_ms(self) -> int:
        """The broker's clock."""
        seconds, micros = self.broker.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    @property
    def term(self) -> Term:
        """Under which this rig asks for things: it leads from the first time on."""
        if self._term is None:
            self._term = self.lead("rig")
        return self._term

    def new_term(self) -> Term:
        """Ask for things under a later epoch from here on, as another autoscaler would."""
        self._term = self.lead(f"rig-{self.term.epoch + 1}")
        return self._term

    def lead(self, holder: str, lease_ms: int = 60_000) -> Term:
        """Have `holder` lead in place of whoever does; its term."""
        command = self.transitions.lead(holder, lease_ms=lease_ms, fields={"pid": 1}, take_over=True)
        led = self.broker.run(command)
        assert led.term.holder == holder
        return led.term

    def sign(self, host: str, command: HostCommand, /, **changes: Any) -> bytes:
        """A signed command; `changes` are header fields, or `keyring`."""
        now = self.now_ms()
        header: dict[str, Any] = {
            "direction": Direction.HOST_COMMAND,
            "endpoint": getattr(command, "endpoint", ""),
            "host": host,
            "epoch": self.term.epoch,
            "created_ms": now,
            "expires_ms": now + 60_000,
        }
        keyring = changes.pop("keyring", self.keyring)
        return seal(Header(**{**header, **changes}), host_command.pack(command), keyring)

    def send(self, host: str, raw: bytes) -> None:
        """Put bytes on a host's list of commands."""
        self.broker.execute("RPUSH", self.broker.keys.of("commands", host), raw)

    def order(self, host: str, endpoint: str, most: int = 10, **changes: Any) -> str:
        """Book a worker and send its host the word; the worker's id."""
        worker = f"{endpoint}-{uuid.uuid4()}"
        environment = self.endpoint_fields(endpoint).get("resources", "environment")
        start = StartWorker(worker, endpoint, REVISION, environment, **changes)
        self.sent[worker] = self.sign(host, start)
        command = self.transitions.order(
            endpoint,
            worker,
            host=host,
            revision=REVISION,
            environment=environment,
            most=most,
            patience_ms=30_000,
            command=self.sent[worker],
            term=self.term,
            fields={"fq_gpus": ",".join(start.gpu_uuids)},
        )
        answer = self.broker.run(command)
        assert answer == "ok", answer
        return worker


def alive(pid: int) -> bool:
    """Whether a process lives (one that was not reaped does not)."""
    try:
        return f"{pid} (" in (stat := Path(f"/proc/{pid}/stat").read_text()) and ") Z " not in stat
    except OSError:
        return False
