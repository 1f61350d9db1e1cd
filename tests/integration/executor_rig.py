"""An executor under test, with the select loop that its supervisor would have."""

from __future__ import annotations

import pickle
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import cloudpickle

from flashq_worker import executor
from flashq_worker.executor.frames import Frame, FrameType
from flashq_worker.executor.zygote import READY
from flashq_worker.executor_process import ExecutorProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flashq_worker.executor_start import Parked

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PATIENCE_S = 30.0
"""How long a test waits for what must happen; on a busy machine things take their time."""


def until(happened: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Wait for a condition; AssertionError where it does not come true in time."""
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


class ZygoteProcess:
    """A zygote that listens at `place`, as a host agent would start it."""

    def __init__(
        self,
        folder: Path,
        *,
        python: Path | None = None,
        inject: Path | None = None,
        code: str = "",
        modules: str = "",
    ) -> None:
        """`code`: what is to run in it before all else; `modules`: a file in `folder` of what it imports ahead."""
        folder.mkdir(exist_ok=True)
        self.place = folder / "z.sock"
        self.control, theirs = socket.socketpair()
        package = Path(executor.__file__).parent if inject is None else inject / "flashq_worker" / "executor"
        boot = package / "boot.py"
        if code:
            boot = folder / "boot_after.py"
            boot.write_text(
                f"{code}\nimport runpy\nrunpy.run_path({str(package / 'boot.py')!r}, run_name='__main__')"
            )
        arguments = ["zygote", str(inject or ""), str(theirs.fileno()), self.place.name, modules]
        with (folder / "zygote.log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(python or sys.executable), "-I", str(boot), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                cwd=folder,
                start_new_session=True,
            )
        theirs.close()
        self.control.settimeout(PATIENCE_S)
        assert self.control.recv(1) == READY, (folder / "zygote.log").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()

    def children(self) -> list[int]:
        """The processes that it has forked and not reaped."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Rig:
    """One executor: jobs go in by `submit`, outcomes come out by `outcome`."""

    def __init__(
        self,
        *,
        lease_s: float = 60.0,
        env: Mapping[str, str] | None = None,
        python: Path | None = None,
        inject: Path | None = None,
        zygote: Path | None = None,
        parked: Parked | None = None,
    ) -> None:
        self.process = ExecutorProcess.start(
            python or Path(sys.executable),
            lease_s=lease_s,
            env=env or {},
            cwd=Path(tempfile.gettempdir()),
            inject=inject,
            zygote=zygote,
            parked=parked,
        )
        self.frames: list[Frame] = []
        self._submitted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.kill()

    def load(
        self,
        function: Any,
        *,
        mode: Literal["sync", "async"] = "sync",
        concurrency: int = 1,
        python: str = PYTHON,
        sources: Path | None = None,
        imports: Path | None = None,
    ) -> Frame:
        """Load the function; READY or FAILED."""
        self.process.load(
            cloudpickle.dumps(function),
            mode=mode,
            concurrency=concurrency,
            endpoint="e",
            revision="r",
            python=python,
            sources=sources,
            imports=imports,
        )
        return self.await_frame(lambda frame: frame.type in (FrameType.READY, FrameType.FAILED))

    def submit(self, *args: Any, **kwargs: Any) -> str:
        """Have it run a job with these arguments; its id."""
        return self.submit_payload(cloudpickle.dumps((args, kwargs)), "pickle")

    def submit_payload(self, payload: bytes, encoding: Literal["pickle", "json"]) -> str:
        """Have it run a job with this payload; its id."""
        self._submitted += 1
        job = f"e-{self._submitted}"
        self.process.run(job, payload, fence=1, encoding=encoding)
        return job

    def outcome(self, job: str, within_s: float = PATIENCE_S) -> Frame:
        """The OUTCOME of a job."""
        return self.await_frame(
            lambda frame: frame.type is FrameType.OUTCOME and frame.meta["job"] == job, within_s
        )

    def call(self, *args: Any, **kwargs: Any) -> Frame:
        """The OUTCOME of a job with these arguments."""
        return self.outcome(self.submit(*args, **kwargs))

    def value(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns for these arguments."""
        frame = self.call(*args, **kwargs)
        assert frame.meta["status"] == "ok", frame.meta
        return pickle.loads(frame.blob)

    def await_frame(self, wanted: Callable[[Frame], bool], within_s: float = PATIENCE_S) -> Frame:
        """The first frame of a kind; AssertionError where the executor ends or is silent."""
        deadline = time.monotonic() + within_s
        while not (found := [frame for frame in self.frames if wanted(frame)]):
            assert not self.process.closed, f"the executor ended:\n{self.process.tail.text()}"
            assert time.monotonic() < deadline, f"no such frame came; output:\n{self.process.tail.text()}"
            self.turn()
        self.frames.remove(found[0])
        return found[0]

    def turn(self, wait_s: float = 0.05) -> None:
        """One turn of the loop: wait, send, receive."""
        select.select(self.process.readers(), self.process.writers(), [], wait_s)
        self.process.flush()
        self.frames += self.process.frames()
        self.process.read_output()

    def until(self, happened: Callable[[], object]) -> None:
        """Turn the loop until a condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, f"it did not happen; output:\n{self.process.tail.text()}"
            self.turn()

    def until_closed(self) -> str:
        """Turn the loop until the executor is gone; how it ended."""
        self.until(lambda: self.process.closed)
        assert self.process.wait(PATIENCE_S)
        self.process.read_output()
        return self.process.exit_description()
