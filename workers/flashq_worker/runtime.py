"""What user code runs in: the environment built, the executor started in it, a revision loaded.

A small state machine driven by the supervisor's loop: `prepare` begins, `poll` and `on_frame` move it on, and
nothing here waits. Building an environment takes a thread; everything else is quick.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from flashq import codec
from flashq.apps import storage
from flashq.errors import ArtifactError, FlashqError, MalformedEnvelope, SpecError
from flashq.store.broker import Broker
from flashq_worker import inject, memory_group
from flashq_worker.apps import Apps, Prepared
from flashq_worker.breakdown import Start
from flashq_worker.containers import images, order
from flashq_worker.containers.container import Container, needs
from flashq_worker.environments import environment
from flashq_worker.environments import store as environment_store
from flashq_worker.environments import uv as environment_uv
from flashq_worker.executor.frames import Frame, FrameError, FrameType
from flashq_worker.executor_process import ExecutorProcess, Mode
from flashq_worker.executor_variables import variables
from flashq_worker.shipped_sources import ShippedSources
from flashq_worker.zygote_places import OWN, Kind, ZygotePlaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flashq.codec import Revision
    from flashq_worker.config import WorkerConfig
    from flashq_worker.containers.engine import Engine
    from flashq_worker.executor_start import Parked

log = logging.getLogger("flashq.worker")
_TEAR_DOWN_S = 10.0
DEFAULT_STARTUP_S = 600.0
_SHOWING_S = 1.0  # for the stack of an executor that hangs to arrive
_NO_MODULE = " (list its package in the endpoint's dependencies=[...])"
_LAST_NOTE_S = 1.0  # for an executor that has nothing to tear down
_READ_AT_ITS_BEGIN = ("LD_", "MALLOC_", "GLIBC_", "LANG", "LC_")
"""Beginnings of variables that a process reads when it begins, so that a forked one does not go by them."""

_HOPELESS = (environment_uv.Unresolvable, images.ImageUnknown, SpecError, ArtifactError)
"""Of what keeps an environment from being made: another try would end the same way."""
_NEWLINE = "\n"
_MODES: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}


class Phase(Enum):
    EMPTY = "empty"
    BUILDING = "building"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Runtime:
    """The executor of a worker.

    `failure` says why phase is FAILED, and `deterministic` whether another start would fail the same way; if not,
    it was this machine's trouble: its disk or memory, the way to the index.
    """

    def __init__(self, config: WorkerConfig, wake: Callable[[], None], parked: Parked | None = None) -> None:
        """`parked`: an executor for the first start, if it suits."""
        self._config = config
        self._wake = wake
        self.phase = Phase.EMPTY
        self.process: ExecutorProcess | None = None
        self.revision = ""
        self.failure = ""
        self.deterministic = False
        self.start: Start | None = None  # of what there is now, or is being made
        self._record: Revision | None = None
        self._env: Mapping[str, str] = {}
        self._built: Prepared | environment.Environment | FlashqError | OSError | None = None
        self._app: Prepared | None = None  # that the revision is of
        self._environment: environment.Environment | None = None  # what the executor runs in, if one was made
        self._image = ""  # what it runs in; empty: no container
        self._engine: Engine | None = None  # that runs it, once the image is there
        self._mend: bool | None = (
            None  # it is to be built anew; whether without what the installer's cache has
        )
        self._builds = 0
        self._builds_since = 0.0
        self._sources = ShippedSources(config.home / "sources")
        self._spawn_again = False  # what was forked did not load: whether a spawned one does is to be seen
        self._parked = parked
        self._killed_before = 0  # for want of memory, when the executor began
        self._unforkable: set[str] = set()  # revisions of which that is known
        self._hangs_at = float("inf")  # when loading will have taken too long
        self._shows = False  # the executor was told to show where it is

    def prepare(self, digest: str, record: Revision, env: Mapping[str, str]) -> None:
        """Begin to make `record` (revision `digest`) ready, in place of what is there."""
        self.close()
        self.revision, self._record, self._env = digest, record, env
        self.failure = ""
        self.start = Start(time.monotonic())
        self._image, self._engine = str(needs(record).get("image") or ""), None
        if (
            not self._image
            and not record.artifact
            and not record.dependencies
            and record.python == codec.PYTHON
        ):
            self._start(Path(sys.executable))
            return
        self._prepare_environment(record)

    def _prepare_environment(self, record: Revision, *, fresh: bool = False) -> None:
        self.phase = Phase.BUILDING
        self._built, self._builds_since = None, time.monotonic()
        self._builds += 1
        given = (record, self._builds, fresh)
        threading.Thread(target=self._build, args=given, name="environment", daemon=True).start()

    @property
    def building_since(self) -> float | None:
        """Since when its environment, or its image, has been under way; None where it is not."""
        return self._builds_since if self.phase is Phase.BUILDING and self.process is None else None

    @property
    def python(self) -> str:
        """The minor version of Python that runs, or will run, the revision: "3.11"."""
        return codec.PYTHON if self._record is None else self._record.python

    def kind_of(self, target: str) -> str | None:
        """The kind of what a call of this target runs; None where the revision has no such target."""
        record = self._record
        if record is None:
            return None
        if record.targets:
            return record.targets.get(target)
        return None if target else record.mode

    @property
    def batches(self) -> bool:
        """Whether jobs are run together."""
        return self._record is not None and self._record.batch_ms is not None

    @property
    def calls(self) -> Mapping[str, str]:
        """The endpoints that jobs may call, and their revisions."""
        return {} if self._record is None else self._record.calls

    @property
    def terms(self) -> Mapping[str, Any]:
        """What holds for the process: see `flashq.model.spec.process`."""
        return {} if self._record is None else self._record.process

    @property
    def due_at(self) -> float:
        """When to `poll` though nothing happens; infinity where that is of no use."""
        return self._hangs_at if self.phase is Phase.LOADING else float("inf")

    def restart(self) -> None:
        """A fresh executor for the same revision."""
        assert self._record is not None
        self.prepare(self.revision, self._record, self._env)

    def _build(self, record: Revision, number: int, fresh: bool) -> None:
        built: Prepared | environment.Environment | FlashqError | OSError
        try:
            engine = None
            if self._image:
                engine = images.provide(
                    self._image,
                    os.environ,
                    lambda line: log.info("image: %s", line),
                    engine=self._config.engine,
                )
            beside = record.serves and record.python != codec.PYTHON  # its executor is on the host
            if record.artifact:
                say = functools.partial(log.info, "app: %s")
                built = Apps(self._config.home, self._fetched).prepare(record, say, fresh=fresh)
            elif engine is None or record.dependencies or beside:
                built = environment.ensure(
                    record.dependencies,
                    record.python,
                    self._config.home / "environments",
                    lambda line: log.info("environment: %s", line),
                    fresh=fresh,
                )
            else:
                built = environment.none()
            self._engine = engine if number == self._builds else self._engine
        except (FlashqError, OSError) as error:
            built = error
        if number == self._builds:
            self._built = built
            self._wake()
        elif isinstance(built, Prepared):  # another is wanted by now
            built.release()
        elif isinstance(built, environment.Environment) and built.hold is not None:
            built.hold.release()

    def _fetched(self, artifact: str) -> Iterator[bytes]:
        with contextlib.closing(Broker(self._config.url, prefix=self._config.prefix)) as broker:
            yield from storage.chunks(broker, artifact)

    def poll(self) -> None:
        """Move on where the environment has been built, or is to be, or another executor is to be tried."""
        if self._spawn_again and self.process is not None:
            self._spawn_again = False
            self.process.kill()
            python = Path(sys.executable) if self._environment is None else self._environment.python
            self._start(python, again=True)
        if self._mend is not None and self._record is not None:
            fresh = self._mend
            self.close()
            self._prepare_environment(self._record, fresh=fresh)
        if self.phase is Phase.LOADING and time.monotonic() >= self._hangs_at:
            self._on_hanging()
        if self.phase is not Phase.BUILDING or self._built is None:
            return
        built = self._built
        if isinstance(built, Prepared):
            self._app = built
            made = built.environment
            # Where nothing is installed, it is the worker's own interpreter, and what such are forked from serves.
            self._environment = None if made.hold is None and not self._image else made
            self._start(made.python)
        elif isinstance(built, environment.Environment):
            self._environment = built
            self._start(built.python)
        else:
            self._fail(str(built), deterministic=isinstance(built, _HOPELESS))

    def _start(self, python: Path, *, again: bool = False) -> None:
        assert self._record is not None
        record, config = self._record, self._config
        mode = _MODES.get(record.mode)
        if mode is None:
            self._fail(f"its function is of a kind unknown here: {record.mode!r:.50}", deterministic=True)
            return
        assert self.start is not None
        parked, self._parked = self._parked, None
        if not again:
            self.start.environment_at = time.monotonic()
        try:
            sources = self._sources.place(record.bundle) if record.bundle else None
            sources = self._app.sources if self._app is not None else sources
            injected = inject.inject_folder(config.home)
            places = ZygotePlaces(config.home, injected)
            kind = self._zygote_kind()
            self.process = ExecutorProcess.start(
                python,
                lease_s=config.lease_s,
                env={
                    **variables(os.environ, config.home, config.cpus),
                    "CUDA_VISIBLE_DEVICES": ",".join(config.gpu_uuids),
                },
                cwd=self._folder,
                inject=injected,
                endpoint_env={**self._env, **_volume(record)},
                result_limit=config.payload_limit,
                zygote=None if kind is None else places.wish(kind),
                parked=parked,
                container=None
                if self._engine is None
                else Container.of(record, config, self._engine, self._environment, sources),
            )
        except OSError as error:
            self._fail(f"the executor cannot be started: {error}", deterministic=False)
            return
        except (MalformedEnvelope, ValueError) as error:
            self._fail(str(error), deterministic=True)
            return
        self.start.how = self.process.how
        self._killed_before = memory_group.kills(config.memory_group)
        self.process.load(
            record.function,
            mode=mode,
            concurrency=record.concurrency,
            endpoint=config.endpoint,
            revision=self.revision,
            python=record.python,
            targets=record.targets,
            batch_ms=record.batch_ms,
            texts=record.texts,
            sources=None if self._image else sources,
            imports=places.modules(kind.environment) if kind is not None and not self._env else None,
            types=record.types,
        )
        self.phase = Phase.LOADING
        self._hangs_at, self._shows = time.monotonic() + self._startup_timeout_s, False

    @property
    def _folder(self) -> Path:
        """Where user code starts: an app, among its own files."""
        if self._app is not None:
            return self._app.sources
        return Path.home() if Path.home().is_dir() else Path("/")

    def exit_description(self) -> str:
        """How the executor ended; and whether that was for want of the memory of its size."""
        assert self.process is not None
        how, config = self.process.exit_description(), self._config
        if "SIGKILL" in how and memory_group.kills(config.memory_group) > self._killed_before:
            how += f" (out of memory: its endpoint's size has {config.memory_bytes / 2**30:g} GiB)"
        return how

    @property
    def _startup_timeout_s(self) -> float:
        return float(self.terms.get("startup_timeout", DEFAULT_STARTUP_S))

    def _on_hanging(self) -> None:
        """Loading takes too long: first have the executor show where it is, then give it up."""
        assert self.process is not None
        if not self._shows:
            self._shows, self._hangs_at = True, time.monotonic() + _SHOWING_S
            self.process.show_stack()
            return
        self.process.read_output()
        limit, where = f"startup_timeout={self._startup_timeout_s:g} s", self.process.tail.text()
        why = f"loading the function took longer than {limit}. It was here:\n{where}"
        self._fail(why, deterministic=True)

    def _zygote_kind(self) -> Kind | None:
        """The zygote that would be of use; None where the executor is to be spawned."""
        if self._image or not self._config.booked or self.revision in self._unforkable:
            return None  # by hand there is no host agent that keeps any
        if any(name.startswith(_READ_AT_ITS_BEGIN) for name in self._env):
            return None
        environment = OWN if self._environment is None else self._environment.digest
        if self._env:  # modules may go by variables when they are imported
            return Kind(environment)
        return Kind(environment, ahead=True, cpus=self._config.cpus, gpus=bool(self._config.gpu_uuids))

    def on_frame(self, frame: Frame) -> None:
        """READY or FAILED: the answer to loading. Raises FrameError where nothing was asked."""
        if self.phase is not Phase.LOADING:
            raise FrameError(f"a {frame.type.name} frame, though nothing was to be loaded")
        if frame.type is FrameType.READY:
            self.phase = Phase.READY
            assert self.start is not None
            self.start.ready(frame.meta["import_ms"], frame.meta["setup_ms"], at=time.monotonic())
        elif frame.type is FrameType.FAILED:
            error = frame.meta
            hint = _NO_MODULE if error["type"] == "ModuleNotFoundError" else ""
            self._not_loaded(
                f"the function does not load: {error['type']}: {error['message']}{hint}\n{error['traceback']}",
                deterministic=not error["machine"],
            )

    def on_closed(self) -> None:
        """The executor ended while it was to load."""
        assert self.process is not None
        self.process.kill()
        how, tail = self.exit_description(), self.process.tail.text()
        deterministic = "SIGKILL" not in how  # out of memory, as a rule
        if self._image and self.process.exit_code in (order.TROUBLE, order.UNFIT):
            deterministic = self.process.exit_code == order.UNFIT
            self._not_loaded(
                f"no executor could be begun: {tail.strip().rpartition(_NEWLINE)[2]}\n{tail}",
                deterministic=deterministic,
            )
            return
        where = f" in image {self._image}" if self._image else ""
        self._not_loaded(
            f"the executor{where} {how} while it loaded the function\n{tail}", deterministic=deterministic
        )

    def _not_loaded(self, why: str, *, deterministic: bool) -> None:
        """The function did not load.

        In a forked executor that says little: it is tried in a spawned one. Where it may be the fault of its
        environment, which is damaged, that is built anew.
        """
        assert self.process is not None
        if self.process.how == "fork":
            log.warning("revision %s did not load in a forked executor: %s", self.revision[:12], why)
            self._unforkable.add(self.revision)
            self._spawn_again, self._built = True, None
            self.phase = Phase.BUILDING  # by `poll`: whoever reads this executor's frames goes on with it
            return
        found = self._environment
        if found is None or found.built:
            self._fail(why, deterministic=deterministic)
            return
        wrong, altered = environment_store.damage(found.place)
        if not wrong:
            self._fail(why, deterministic=deterministic)
            return
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        log.warning("environment %s is damaged and is built anew: %s%s", found.digest[:12], wrong[0], more)
        environment_store.forget(found.place)
        self._mend, self._built = (
            altered,
            None,
        )  # by `poll`: whoever reads this executor's frames goes on with it
        self.phase = Phase.BUILDING

    def _fail(self, why: str, *, deterministic: bool) -> None:
        self.failure, self.deterministic = why, deterministic
        self.phase = Phase.FAILED

    def end(self, echo: Callable[[bytes], None]) -> None:
        """Have it end in order, within a while, then `close`: an instance of a class is torn down, imports are noted.

        `echo`: takes what it prints.
        """
        if self.process is not None and self.phase is Phase.READY and self._record:
            self.process.stop()
            deadline = time.monotonic() + (_TEAR_DOWN_S if self._record.targets else _LAST_NOTE_S)
            while not self.process.wait(0.02) and time.monotonic() < deadline:
                self.process.flush()
                echo(self.process.read_output())
        self.close()

    def close(self) -> None:
        """Kill the executor and whatever it started. Safe to call twice."""
        if self.process is not None and not self.process.kill():
            log.error("executor %d does not die; it may hold its GPU", self.process.pid)
        self.process = None
        if self._environment is not None and self._environment.hold is not None:
            self._environment.hold.touch()
            self._environment.hold.release()
        if self._app is not None:
            self._app.hold.touch()
            self._app.hold.release()
        self._environment = self._app = None
        self._mend = None
        self._spawn_again = False
        self._builds += 1  # what is being built is wanted no more
        self.phase = Phase.EMPTY


def _volume(record: Revision) -> dict[str, str]:
    """The variable that tells a function where its volume is."""
    volume = needs(record).get("volume")
    return {"FLASHQ_VOLUME": str(volume)} if volume else {}
