"""Imports that executors are spared: noted by one, made ahead by a zygote, found by the next."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from flashq import Endpoint
from flashq_worker.executor import imports
from flashq_worker.executor.frames import FrameType
from flashq_worker.host import zygotes as host_zygotes
from flashq_worker.runtime import Phase
from flashq_worker.zygote_places import Kind
from tests.integration.executor_rig import Rig as ExecutorRig
from tests.integration.executor_rig import ZygoteProcess, until
from tests.integration.stack import Stack
from tests.integration.test_host_zygotes import Kept
from tests.integration.test_runtime import Worker
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.environment_rig import Site


def seen(*names: str) -> dict[str, bool]:
    """Which of these an executor has, and has not imported itself."""
    import sys

    return {name: name in sys.modules for name in names}


def use(name: str) -> None:
    import importlib

    importlib.import_module(name)


def test_a_zygote_imports_what_was_noted(tmp_path: Path) -> None:
    """Given an executor whose job imports a module, expect that to be noted when it ends, and found by the next."""
    notes = tmp_path / "own.modules"
    with ExecutorRig() as rig:
        rig.load(use, imports=notes)
        before = imports.noted(notes)
        assert "xml.dom.minidom" not in before
        rig.value("xml.dom.minidom")
        rig.process.stop()
        assert rig.until_closed() == "exited with code 0"
    assert "xml.dom.minidom" in imports.noted(notes)

    with ZygoteProcess(tmp_path, modules=notes.name) as zygote, ExecutorRig(zygote=zygote.place) as rig:
        assert rig.process.how == "fork"
        rig.load(seen)
        assert rig.value("xml.dom.minidom", "wave") == {"xml.dom.minidom": True, "wave": False}


NUMPYS = """
import time
seeded = 0
time.sleep(0.01)

def seed():
    global seeded
    seeded += 1
"""


def test_numpys_randomness_differs(tmp_path: Path, site: Site) -> None:
    """Given a zygote that has numpy.random, expect each executor to seed it anew."""
    built = site.ensure("tiny-a")
    packages = next(site.root.glob("*/lib/*/site-packages"))
    (packages / "numpy").mkdir()
    (packages / "numpy" / "__init__.py").write_text("import time; time.sleep(0.01)")
    (packages / "numpy" / "random.py").write_text(NUMPYS)
    (tmp_path / "x.modules").write_text('["numpy", "numpy.random"]')
    kept = Kept(site)

    def seeded() -> int:
        import numpy.random  # a stand-in

        return int(numpy.random.seeded)

    with (
        ZygoteProcess(tmp_path, python=built.python, inject=kept.inject, modules="x.modules") as zygote,
        ExecutorRig(zygote=zygote.place, python=built.python, inject=kept.inject) as rig,
    ):
        rig.load(seeded)
        assert rig.value() == 1


def test_a_shipped_module_is_not_taken_for_one_imported_ahead(tmp_path: Path) -> None:
    """Given a module shipped under the name of one that the zygote has, expect the forked executor not to load it."""
    (tmp_path / "x.modules").write_text('["wave"]')
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "wave.py").write_text("mine = True")
    with ZygoteProcess(tmp_path, modules="x.modules") as zygote, ExecutorRig(zygote=zygote.place) as rig:
        failed = rig.load(seen, sources=sources)
        assert failed.type is FrameType.FAILED
        assert "another module wave has been imported" in failed.meta["message"]


# -- on a host -----------------------------------------------------------------------------------------


@pytest.fixture
def kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(host_zygotes, "_LOOK_S", 0.0)
    made = Kept(site)
    yield made
    made.zygotes.close()


@pytest.fixture
def worker(kept: Kept, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    for name, value in site.variables.items():
        if not name.startswith(("FLASHQ_", "HOME", "PATH")):
            monkeypatch.setenv(name, value)
    made = Worker(kept.home, "tiny-a")
    yield made
    made.runtime.close()


def how(worker: Worker) -> str:
    """How the executor of its next start came to be."""
    runtime = worker.start()
    assert (runtime.phase, runtime.failure) == (Phase.READY, "")
    assert runtime.process is not None
    return runtime.process.how


def test_a_zygote_that_imports_more_takes_the_place_of_the_one_before(
    kept: Kept, worker: Worker, site: Site
) -> None:
    """Given a worker's imports, expect a zygote with them; its executors outlive the one that forked them."""
    assert how(worker) == "spawn"
    assert worker.runtime._environment is not None
    digest = worker.runtime._environment.digest
    notes = kept.places.modules(digest)
    assert notes is not None
    worker.runtime.end(lambda _: None)
    assert "tiny_a" in imports.noted(notes)

    ahead = kept.places.name(Kind(digest, ahead=True))
    assert ahead is not None
    until(lambda: ahead in kept.tend())
    assert how(worker) == "fork"
    first = kept.tend()[ahead]
    process = worker.runtime.process
    assert process is not None
    notes.write_text('["tiny_a", "wave"]')
    until(lambda: kept.tend().get(ahead, first) != first)
    assert process.alive
    process.stop()
    until(lambda: not process.alive)
    assert process.exit_description() == "exited with code 0", "its parent was there to tell"
    process.kill()
    until(lambda: kept.tend() and not kept.zygotes._retired)


def test_with_values_of_env_nothing_is_imported_ahead(kept: Kept, worker: Worker) -> None:
    """Given variables of the endpoint's own, by which modules may go, expect a fork with nothing imported."""
    how(worker)
    worker.runtime.close()
    kept.tend()
    runtime = worker.runtime
    runtime._env = {"MODE": "x"}
    assert runtime._zygote_kind() == Kind("own")
    runtime._env = {"LD_PRELOAD": "x.so"}
    assert runtime._zygote_kind() is None


class ForksAreBad:
    """Does not load where it was forked: what is forked has asyncio imported."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import sys; assert 'asyncio' not in sys.modules, 'forked'",))


@pytest.mark.parametrize("loads", [True, False])
def test_what_does_not_load_in_a_fork_is_tried_in_a_spawned_one(
    kept: Kept, worker: Worker, caplog: pytest.LogCaptureFixture, *, loads: bool
) -> None:
    """Given code that fails in a fork, expect it spawned; given code that fails anywhere, the spawned one's word."""
    how(worker)
    assert worker.runtime._environment is not None
    kept.until_there(worker.runtime._environment.digest)

    def function() -> None: ...

    function.__defaults__ = (ForksAreBad() if loads else Broken(),)
    worker.record = replace(worker.record, function=cloudpickle.dumps(function))
    runtime = worker.start()
    assert "did not load in a forked executor" in caplog.text
    if loads:
        assert runtime.phase is Phase.READY
        assert runtime.process is not None
        assert runtime.process.how == "spawn"
        assert how(worker) == "spawn", "it is known by now"
    else:
        assert runtime.phase is Phase.FAILED
        assert runtime.deterministic
        assert "broken in" in runtime.failure


class Broken:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise ValueError('broken in any')",))


# -- a whole stack -------------------------------------------------------------------------------------


@Endpoint(name="heavy", cpu="any", workers=(0, 1), idle_timeout=0.1)
def heavy() -> bool:
    import sys

    found = "xml.dom.minidom" in sys.modules
    import xml.dom.minidom  # noqa: F401

    return found


@pytest.mark.requires("valkey")
def test_the_next_start_finds_imports_made() -> None:
    """Given a function that imports inside, expect a later start to find that done, and never to wait for it."""
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as stack:
        assert heavy.remote() is False
        wait_until(lambda: not stack.workers(heavy), what="it was idle")
        deadline = time.monotonic() + 30
        while not heavy.remote():
            assert time.monotonic() < deadline, "learned by then"
            wait_until(lambda: not stack.workers(heavy), what="it was idle")
