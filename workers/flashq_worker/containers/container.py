"""An executor's container: what it sees of the host, where, and what its runner is told.

An image that serves HTTP by itself sees nothing of flashq's: its executor is on the host, beside the container. Others
see flashq's own code, the endpoint's packages and modules, read-only; the host's model caches and the volume; and a
folder with one socket. Neither the broker's address nor a key is in any of them.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flashq_worker import executor, executor_child, inject
from flashq_worker.containers import engine as engines
from flashq_worker.containers.engine import Mount, Run
from flashq_worker.containers.order import Order
from flashq_worker.containers.runner import FIRST, PROGRAM, run_folder
from flashq_worker.executor_variables import variables
from flashq_worker.scrub import scrubbed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq.codec import Revision
    from flashq_worker.config import WorkerConfig
    from flashq_worker.containers.engine import Engine
    from flashq_worker.environments.environment import Environment
    from flashq_worker.executor_child import Child

ROOT = Path("/flashq")
"""Of all that is flashq's in a container."""
_CONTAINED = ROOT / "inject/flashq_worker/executor/contained.py"
_RUNNER = (sys.executable, "-P", "-m", "flashq_worker.containers.runner")


def needs(record: Revision) -> Mapping[str, Any]:
    """What a revision needs of a host: see `flashq.model.spec.resources`."""
    found: Mapping[str, Any] = json.loads(record.spec).get("resources", {})
    return found


def folders(home: Path) -> Path:
    """Where the containers of a host have their folders, one a worker, named by it."""
    return home / "containers"


def container_name(worker: str) -> str:
    """A worker's container: it has at most one."""
    return f"flashq-{worker}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What one executor is to run in."""

    engine: Engine
    image: str
    worker: str
    python: str
    """The version that the image has to have: "3.11"."""
    home: Path
    packages: Path | None = None
    """A `site-packages` of the endpoint's environment."""
    sources: Path | None = None
    """The modules that were shipped."""
    volume: str = ""
    gpu_uuids: tuple[str, ...] = ()
    cpus: float = 0.0
    memory_bytes: int = 0
    options: tuple[str, ...] = ()
    port: int = 0
    """Where the image's own server listens; 0: the executor is in the container."""
    interpreter: Path = Path(sys.executable)
    """Of the executor beside such a container."""

    @classmethod
    def of(
        cls,
        record: Revision,
        config: WorkerConfig,
        engine: Engine,
        environment: Environment | None,
        sources: Path | None,
    ) -> Self:
        """That of a revision with an image."""
        resources = needs(record)
        # One that was made for it: without packages of its own it has none, whatever the worker has.
        made = environment is not None and environment.hold is not None
        return cls(
            engine=engine,
            image=str(resources["image"]),
            worker=config.worker,
            python=record.python,
            home=config.home,
            packages=environment.packages if environment is not None and made else None,
            sources=sources,
            volume=str(resources.get("volume") or ""),
            gpu_uuids=config.gpu_uuids,
            cpus=config.cpus,
            memory_bytes=config.memory_bytes,
            options=config.engine_options,
            port=record.serves,
            interpreter=Path(sys.executable) if environment is None else environment.python,
        )

    def start(
        self, given: Sequence[int], output: int, *, lease_s: float, start_ns: int, env: Mapping[str, str]
    ) -> Child:
        """Start the runner that stands for the executor. Raises OSError; ValueError for a path that no engine takes."""
        models = self.home / "models"
        models.mkdir(parents=True, exist_ok=True)
        folder = folders(self.home) / self.worker
        order = Order(
            folder=folder,
            container=container_name(self.worker),
            image=self.image,
            engine=self.engine.program,
            words=tuple(engines.run_words(self.engine, self._server(env) if self.port else self.run(folder))),
            given=tuple(given),
            setup={
                "defaults": self.defaults,
                "env": {"CUDA_VISIBLE_DEVICES": ",".join(self.gpu_uuids), **env},
                "times": [str(lease_s), str(start_ns)],
            },
            memory_bytes=self.memory_bytes,
            port=self.port,
            executor=self._beside(given, lease_s, start_ns) if self.port else (),
            executor_env=self._environ if self.port else {},
        )
        told = os.memfd_create("order")  # a file that the runner alone reads: values of env= are in it
        try:
            rest = memoryview(order.to_json().encode())
            while rest:
                rest = rest[os.write(told, rest) :]
            os.lseek(told, 0, os.SEEK_SET)
            environ = self._environ if not self.port else {**self._environ, **self._variables(env)}
            return executor_child.spawn(_RUNNER, given, output, cwd=Path("/"), env=environ, stdin=told)
        finally:
            os.close(told)

    @property
    def _environ(self) -> dict[str, str]:
        return scrubbed(os.environ)  # noqa: TID251 - handed on to the engine, not read

    def _variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """Of a server: the endpoint's, and where it is asked to listen."""
        return {"PORT": str(self.port), **env}

    def _server(self, env: Mapping[str, str]) -> Run:
        """The container of an image that has its own server."""
        volume = (Mount(Path(self.volume), self.volume, writable=True),) if self.volume else ()
        return Run(
            name=container_name(self.worker),
            image=self.image,
            command=(),
            mounts=volume,
            gpu_uuids=self.gpu_uuids,
            cpus=self.cpus,
            memory_bytes=self.memory_bytes,
            options=self.options,
            publish=self.port,
            variables=tuple(self._variables(env)),
        )

    def _beside(self, given: Sequence[int], lease_s: float, start_ns: int) -> tuple[str, ...]:
        """The command line of the executor that passes requests on to the server."""
        injected = inject.inject_folder(self.home)
        boot = injected / "flashq_worker" / Path(executor.__file__).parent.name / "boot.py"
        fixed = (str(self.interpreter), "-I", str(boot), "executor", str(injected))
        return (*fixed, *map(str, given), str(lease_s), str(start_ns))

    def executor_pid(self) -> int:
        """The executor's process id on this host; 0 where it is not known."""
        try:
            first = int((folders(self.home) / self.worker / FIRST).read_text("ascii"))
            return int(Path(f"/proc/{first}/task/{first}/children").read_text("ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return 0

    @property
    def defaults(self) -> dict[str, str]:
        """Variables, unless the image has its own."""
        return variables({}, ROOT, self.cpus)

    def run(self, folder: Path) -> Run:
        """The container itself."""
        code = [Mount(place, str(ROOT / "inject" / name)) for name, place in inject.packages().items()]
        mounts = [*code, Mount(run_folder(folder), str(ROOT / "run"))]
        mounts.append(Mount(self.home / "models", str(ROOT / "models"), writable=True))
        if self.packages is not None:
            mounts.append(Mount(self.packages, str(ROOT / "packages")))
        if self.sources is not None:
            mounts.append(Mount(self.sources, str(ROOT / "sources")))
        if self.volume:
            mounts.append(Mount(Path(self.volume), self.volume, writable=True))
        return Run(
            name=container_name(self.worker),
            image=self.image,
            command=(PROGRAM, "-I", str(_CONTAINED), self.python),
            mounts=tuple(mounts),
            gpu_uuids=self.gpu_uuids,
            cpus=self.cpus,
            memory_bytes=self.memory_bytes,
            options=self.options,
        )
