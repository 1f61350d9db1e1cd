"""The runtime of a worker: the environment built, the executor in it, and what is done where that is damaged."""

from __future__ import annotations

import os
import select
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import pytest

from flashq.codec import Revision
from flashq.model.keyring import Keyring
from flashq_worker.config import WorkerConfig
from flashq_worker.environments import store as environment_store
from flashq_worker.executor_variables import MODEL_CACHES
from flashq_worker.runtime import Phase, Runtime
from tests.integration.executor_rig import PYTHON, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.environment_rig import Site


class Worker:
    """A runtime with the loop that its supervisor would have."""

    def __init__(self, home: Path, *dependencies: str) -> None:
        def function() -> str:
            import tiny_a

            return str(tiny_a.__version__)

        function.__defaults__ = (Captured(),)
        self.record = Revision(
            function=cloudpickle.dumps(function),
            qualname="function",
            mode="sync",
            python=PYTHON,
            dependencies=dependencies,
            concurrency=1,
            environment="",
            spec="{}",
        )
        self.config = WorkerConfig(
            url="unix:///nowhere",
            prefix="rq",
            endpoint="tiny",
            worker=f"tiny-{uuid.uuid4()}",
            host="here",
            keys=Keyring([b"k" * 32]).for_endpoint("tiny"),
            home=home,
        )
        self.runtime = Runtime(self.config, lambda: None)

    def start(self) -> Runtime:
        """Load the revision; return when it is ready or has failed."""
        self.runtime.prepare("r" * 64, self.record, {})
        until(self._settled)
        return self.runtime

    def _settled(self) -> bool:
        runtime = self.runtime
        runtime.poll()
        process = runtime.process
        if process is not None and runtime.phase is Phase.LOADING:
            select.select(process.readers(), [], [], 0.05)
            for frame in process.frames():
                runtime.on_frame(frame)
            process.read_output()
            if process.closed and runtime.phase is Phase.LOADING:
                runtime.on_closed()
        return runtime.phase in (Phase.READY, Phase.FAILED)


class Captured:
    """Needs the whole of tiny_a when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("import tiny_a; tiny_a.main",))


@pytest.fixture
def worker(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    for name, value in site.variables.items():
        if not name.startswith(("FLASHQ_", "HOME", "PATH")):
            monkeypatch.setenv(name, value)
    made = Worker(site.root.parent, "tiny-a")
    yield made
    made.runtime.close()


def installed(site: Site) -> Path:
    return next(site.root.glob("*/lib/*/site-packages/tiny_a.py"))


def test_a_start_with_the_environment_built_adds_little(worker: Worker) -> None:
    """Given an environment that is built, expect the next start in it to wait for it less than 300 ms."""
    first = worker.start()
    assert (first.phase, first.failure) == (Phase.READY, "")
    assert first.start is not None
    assert first.start.environment_s > 0.05
    second = worker.start()
    assert second.phase is Phase.READY
    assert second.start is not None
    assert second.start.environment_s < 0.3


def test_thread_pools_are_as_large_as_the_workers_cores(worker: Worker) -> None:
    """Given a worker of 2 cores, expect the libraries in it to be told so, and the model caches to be the host's."""
    worker.runtime = Runtime(replace(worker.config, cpus=2.0), lambda: None)
    process = worker.start().process
    assert process is not None
    raw = Path(f"/proc/{process.pid}/environ").read_bytes()
    seen = dict(entry.split("=", 1) for entry in raw.decode().split("\0") if entry)
    assert {seen[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} == {"2"}
    models = worker.config.home / "models"
    for name, folder in MODEL_CACHES.items():
        assert seen[name] == (os.environ.get(name) or str(models / folder))


def test_an_operators_model_cache_is_kept(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/srv/huggingface")
    process = worker.start().process
    assert process is not None
    assert b"\0HF_HOME=/srv/huggingface\0" in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_an_environment_in_use_is_held_as_long(worker: Worker, site: Site) -> None:
    """Given a loaded revision, expect its environment to be in use until the runtime is closed."""
    worker.start()
    (stored,) = environment_store.stored(site.root)
    assert not environment_store.remove(site.root, stored.digest)
    worker.runtime.close()
    assert environment_store.remove(site.root, stored.digest)


@pytest.mark.parametrize("size", [0, 5], ids=["emptied", "cut off"])
def test_damage_that_keeps_a_function_from_loading_is_mended(worker: Worker, site: Site, size: int) -> None:
    """Given an environment whose package lost its contents, which uv's cache shares, expect a new one, and the job's
    function loaded in it; no failed start."""
    worker.start()
    worker.runtime.close()
    os.truncate(installed(site), size)

    again = worker.start()

    assert (again.phase, again.failure) == (Phase.READY, "")
    assert "__version__" in installed(site).read_text()


def test_a_function_that_does_not_load_in_a_whole_environment_fails(worker: Worker) -> None:
    """Given nothing wrong with the environment, expect the function's own error, which another start would not mend."""
    worker.record = replace(worker.record, function=b"no pickle")
    worker.start()
    assert (worker.start().phase, worker.runtime.deterministic) == (Phase.FAILED, True)
    assert "does not load" in worker.runtime.failure
