"""The life of one executor: watch the supervisor, load the function, run jobs until told to stop."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import platform
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashq_worker.executor import (
    calls,
    delivery,
    frames,
    imports,
    outcome,
    output,
    run_batch,
    run_sync,
    texts,
    watchdog,
)
from flashq_worker.executor.frames import FrameError, FrameType
from flashq_worker.executor.run_batch import BatchInbox
from flashq_worker.executor.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq_worker.executor.frames import Frame


is_this_process = False
"""Whether this process is an executor: for modules of ours that are imported by what it loads."""

_ASYNC = ("async", "async_generator")
_WORTH_NOTING_MS = 20
_OOM = Path("/proc/self/oom_score_adj")


class PythonMismatch(Exception):
    """The function was made by another minor version of Python, whose bytecode this one cannot run."""


class Executor:
    """One executor: made of inherited descriptors, before it is known what it is to run; then `run`."""

    def __init__(self, sock_fd: int, lifeline: int, pulse: int, *, forked: bool = False) -> None:
        """Take this process over: it ends with its supervisor from now on. `forked`: by a zygote."""
        global is_this_process
        is_this_process = True
        for fd in (sock_fd, lifeline, pulse):
            os.set_inheritable(fd, False)
        self._forked = forked
        self._watchdog = watchdog.Watchdog(lifeline, pulse)
        _be_first_to_be_killed()
        output.set_up()
        faulthandler.enable(all_threads=False)  # a crash in C says where, in the last output
        self._sock = socket.socket(fileno=sock_fd)
        _keep_from_forks(self._sock, lifeline, pulse)
        self._inbox = BatchInbox(self._sock)
        signal.signal(signal.SIGUSR1, self._inbox.on_signal)

    def run(self, lease_s: float, start_ns: int) -> int:
        """Load the function and run jobs; the exit status: 0 after STOP, 1 where the function could not be loaded."""
        self._watchdog.lease(lease_s)
        try:
            return _serve(self._sock, self._inbox, start_ns, forked=self._forked)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            watchdog.end_group()


def _serve(sock: socket.socket, inbox: BatchInbox, start_ns: int, *, forked: bool) -> int:
    before = frozenset(sys.modules)
    load = inbox.next()
    if load.type is FrameType.STOP:
        return 0
    if load.type is not FrameType.LOAD:
        raise FrameError(f"a {load.type.name} frame, before LOAD")
    outcome.limit_blobs(load.meta["limit"])
    boot_ms = (time.monotonic_ns() - start_ns) / 1e6
    if load.meta["mode"] in _ASYNC and load.meta["concurrency"] > 1:
        output.tell_jobs_apart()
    faulthandler.register(
        signal.SIGUSR2, all_threads=False
    )  # where this hangs, if its supervisor wants to know
    started = time.perf_counter()
    try:
        function = _unpickled(load, forked=forked)
        if load.meta["mode"] in _ASYNC:
            import asyncio  # noqa: F401 - takes its time, which is that of imports
        import_ms = outcome.milliseconds_since(started)
        started = time.perf_counter()
        targets = Targets(function, load.meta["mode"], load.meta.get("targets", {}), _types(load))
    except BaseException as error:  # noqa: BLE001 - user code runs here: imports, __setstate__, sys.exit
        output.flush()
        said = {**outcome.described(error), "machine": outcome.of_machine(error)}
        frames.send(sock, FrameType.FAILED, said)
        return 1
    output.flush()
    faulthandler.unregister(signal.SIGUSR2)  # it is the user's from here on
    ready = {
        "pid": os.getpid(),
        "python": platform.python_version(),
        "boot_ms": round(boot_ms, 3),
        "import_ms": import_ms,
        "setup_ms": outcome.milliseconds_since(started),
    }
    frames.send(sock, FrameType.READY, ready)
    if import_ms >= _WORTH_NOTING_MS:  # and else in the end: a job may be waiting
        _note_imports(load, before)
    calls.CALLS = inbox.calls = calls.Calls(inbox, load.meta["limit"])
    delivery.LINE = inbox
    if load.meta["mode"] in _ASYNC:
        from flashq_worker.executor import run_async

        signal.signal(signal.SIGUSR1, _nothing_to_add)
        run_async.run(
            sock,
            *inbox.hand_over(),
            targets,
            load.meta["concurrency"],
            load.meta["endpoint"],
        )
    elif "batch_ms" in load.meta:
        wait_s = load.meta["batch_ms"] / 1000
        run_batch.run(inbox, targets, load.meta["endpoint"], load.meta["concurrency"], wait_s)
    else:
        run_sync.run(inbox, targets, load.meta["endpoint"])
    _note_imports(load, before)
    return _tear_down(targets)


def _tear_down(targets: Targets) -> int:
    """After STOP: what an instance holds is let go of in order. Its output says what went wrong with that."""
    try:
        targets.tear_down()
    except BaseException:  # noqa: BLE001 - user code: whatever it raises, the process ends here
        traceback.print_exc()
        return 1
    finally:
        output.flush()
    return 0


def _unpickled(load: Frame, *, forked: bool) -> Callable[..., Any]:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    theirs = load.meta["python"]
    if theirs != here:
        raise PythonMismatch(f"the function was pickled by Python {theirs}; this is Python {here}")
    if load.meta["sources"]:
        if forked:
            _refuse_hidden(Path(load.meta["sources"]))
        sys.path.insert(0, load.meta["sources"])
    texts.show(load.meta.get("texts", ()))
    function: Callable[..., Any] = pickle.loads(load.blob)  # reads no further than its end
    if not callable(function):
        raise TypeError(f"the endpoint's code is no function but a {type(function).__qualname__}")
    return function


def _types(load: Frame) -> bytes:
    """What follows the function."""
    return load.blob[load.meta["types_at"] :] if "types_at" in load.meta else b""


def _refuse_hidden(sources: Path) -> None:
    """What a zygote has imported would be taken for a module that was shipped under the same name."""
    for entry in sources.iterdir():
        name = entry.name.removesuffix(".py")
        if name in sys.modules:
            raise ImportError(
                f"another module {name} has been imported than the one that was shipped", name=name
            )


def _note_imports(load: Frame, before: frozenset[str]) -> None:
    """Of executors that zygotes are to import for."""
    if load.meta["imports"]:
        imports.note(Path(load.meta["imports"]), before)


def _be_first_to_be_killed() -> None:
    """Where memory runs out, the kernel is to kill user code before its supervisor, the broker or anything else."""
    with contextlib.suppress(OSError):  # Linux only
        adjustment = int(_OOM.read_text())
        _OOM.write_text(str(min(1000, adjustment + 500)))


def _nothing_to_add(signum: int, frame: object) -> None:
    """SIGUSR1 in async mode: the CANCEL frame before it says all. (Children would inherit SIG_IGN.)"""
    watchdog.answered()


def _keep_from_forks(sock: socket.socket, *pipes: int) -> None:
    """Close our descriptors in every child that user code forks, so that none speaks in our name."""

    def close() -> None:
        sock.close()
        for fd in pipes:
            os.close(fd)

    os.register_at_fork(after_in_child=close)
