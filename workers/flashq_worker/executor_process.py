"""The supervisor's side of an executor: starting it, talking to it without ever waiting, and ending it.

Made for a single-threaded loop that selects on `readers()` and `writers()` beside its broker connection.
Nothing here blocks but `wait` and `kill`: what the executor does not take at once is queued and leaves with
the next `flush`, so the two never stand each waiting for the other to read. Payloads are bytes here; nothing
is unpickled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from flashq_worker import executor_start
from flashq_worker.executor import frames, watchdog
from flashq_worker.executor.frames import Frame, FrameDecoder, FrameType
from flashq_worker.output_tail import OutputTail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flashq_worker.containers.container import Container
    from flashq_worker.executor_child import Child
    from flashq_worker.executor_start import Ends, Parked

Mode = Literal["sync", "async", "generator", "async_generator"]
DEFAULT_RESULT_LIMIT = 64 * 2**20
_READ_BYTES = 1 << 16
_READS_AT_ONCE = 16  # per read_output(), so that a job that prints without end does not hold the loop
_LAST_BREATH_S = 0.5  # how long an executor that closed its stream may take to exit by itself
_CONTAINERS_LAST_S = 10.0  # the same, and for its container to be gone


class _Unsent(NamedTuple):
    data: memoryview
    then_poke: bool  # SIGUSR1 when the last byte of it has left


class ExecutorProcess:
    """One executor. Made by `start`; `kill` must be called at its end, also when it exited by itself.

    Attributes:
        pid: its process id, and its process group's; in a container: those of what stands for it here.
        how: "fork" or "spawn", as it was started.
        ready: whether its READY frame was received.
        closed: whether its frame stream has ended; then it has exited, or is about to.
        tail: the last of its output.
    """

    def __init__(self, child: Child, ends: Ends, result_limit: int, container: Container | None) -> None:
        self._container = container
        self.pid = child.pid
        self.how = child.how
        self.ready = False
        self.closed = False
        self.tail = OutputTail()
        self._child = child
        self._sock = ends.sock
        self._lifeline = ends.lifeline
        self._pulse = ends.pulse
        self._pulse_closed = False
        self._pulse_lock = threading.Lock()
        self._output: int | None = ends.output
        self._result_limit = result_limit
        self._decoder = FrameDecoder(result_limit + 2 * frames.MAX_META_BYTES)
        self._unsent: deque[_Unsent] = deque()
        self._poke_when_ready = False
        self._killed = False

    @classmethod
    def start(
        cls,
        python: Path,
        *,
        lease_s: float,
        env: Mapping[str, str],
        cwd: Path,
        inject: Path | None = None,
        endpoint_env: Mapping[str, str] | None = None,
        result_limit: int = DEFAULT_RESULT_LIMIT,
        zygote: Path | None = None,
        parked: Parked | None = None,
        container: Container | None = None,
    ) -> Self:
        """Start an executor under the interpreter `python`; it then waits for `load`.

        `lease_s`: it ends itself when `keepalive` was not called for so long. `env`: the variables it
        inherits, less flashq's own; `endpoint_env`: the endpoint's, added as they are. `inject`: a folder as
        made by `inject.inject_folder`, for an interpreter that has no flashq. `result_limit`: bytes of one result;
        it keeps to that, and a frame that is much longer is none of its. `zygote`: where a zygote of that interpreter
        listens, if one does; without it, or where it does not fork, the executor is spawned. `parked`: one that is
        taken if it is of that zygote, and discarded if not. `container`: what it is to run in; `python`, `env`, `cwd`
        and `inject` mean nothing then. Raises OSError where it cannot be started.
        """
        child, ends = executor_start.start(
            python,
            lease_s=lease_s,
            env=env,
            cwd=cwd,
            inject=inject,
            endpoint_env=endpoint_env or {},
            zygote=zygote,
            parked=parked,
            container=container,
        )
        return cls(child, ends, result_limit, container)

    # -- what to select on ---------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor of the frame stream."""
        return self._sock.fileno()

    def output_fileno(self) -> int | None:
        """The descriptor of stdout and stderr; None once they have ended."""
        return self._output

    def readers(self) -> list[int]:
        """The descriptors to wait on for reading: when one is ready, call `frames()` and `read_output()`."""
        open_ones = [] if self.closed else [self._sock.fileno()]
        return open_ones if self._output is None else [*open_ones, self._output]

    def writers(self) -> list[int]:
        """The descriptors to wait on for writing: `flush()` is due when one is ready."""
        return [self._sock.fileno()] if self._unsent and not self.closed else []

    # -- what is received ----------------------------------------------------------------------------

    def frames(self) -> list[Frame]:
        """The frames that have arrived, without waiting; sets `closed` at the end of the stream.

        Raises FrameError where the executor sent what is no frame of its: nothing but `kill` is then of use.
        """
        if self.closed:
            return []
        received: list[Frame] = []
        try:
            received = self._decoder.receive(self._sock)
            while not received and self._decoder.mid_frame:  # a large one: all of it that is there
                received = self._decoder.receive(self._sock)
        except BlockingIOError:
            pass
        except (EOFError, ConnectionResetError):
            self.closed = True
        for frame in received:
            frames.check(frame)
            if frame.type is FrameType.READY:
                self.ready = True
                if self._poke_when_ready:
                    self._poke()
        return received

    def read_output(self) -> bytes:
        """What was written to stdout and stderr, without waiting; also kept in `tail`. May be empty."""
        parts: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while self._output is not None and len(parts) < _READS_AT_ONCE:
                part = os.read(self._output, _READ_BYTES)
                if not part:
                    os.close(self._output)
                    self._output = None
                    break
                parts.append(part)
                if len(part) < _READ_BYTES:
                    break
        data = b"".join(parts)
        self.tail.append(data)
        return data

    # -- what is sent --------------------------------------------------------------------------------

    def load(
        self,
        function: bytes,
        *,
        mode: Mode,
        concurrency: int,
        endpoint: str,
        revision: str,
        python: str,
        targets: Mapping[str, str] | None = None,
        batch_ms: int | None = None,
        sources: Path | None = None,
        imports: Path | None = None,
        types: bytes = b"",
        texts: Sequence[Sequence[Any]] = (),
    ) -> None:
        """Have it load the `function` cloudpickled by Python `python` ("3.11"). READY or FAILED follows.

        `targets`: it makes an instance, of which these methods (with their modes) may be called. `batch_ms`: jobs are
        run together, up to `concurrency` of those that come within so long.
        `sources`: a folder of modules that come before all others. `imports`: a file to note in what it imports.
        `types`: what calls in JSON are made values of.
        `texts`: lines for its tracebacks (see flashq.sources.Text).
        """
        meta: dict[str, Any] = {
            "mode": mode,
            "concurrency": concurrency,
            "endpoint": endpoint,
            "revision": revision,
            "python": python,
            "limit": self._result_limit,
            "sources": str(sources or ""),
            "imports": str(imports or ""),
        }
        if targets:
            meta["targets"] = dict(targets)
        if batch_ms is not None:
            meta["batch_ms"] = batch_ms
        if texts:
            meta["texts"] = texts
        if types:
            meta["types_at"] = len(function)
        self._send(FrameType.LOAD, meta, function + types)

    def run(
        self,
        job: str,
        payload: bytes,
        *,
        fence: int,
        encoding: Literal["pickle", "json"],
        attempt: int = 1,
        target: str = "",
        credit: int = 0,
    ) -> None:
        """Have it run a job, after those it was given before. An OUTCOME of that job and fence follows.

        Before it, CHUNKs, of a function that yields: at most `credit`, and as many more as `credit` says later.
        """
        meta: dict[str, Any] = {"job": job, "fence": fence, "attempt": attempt, "encoding": encoding}
        if target:
            meta["target"] = target
        if credit:
            meta["credit"] = credit
        self._send(FrameType.RUN, meta, payload)

    def credit(self, job: str, fence: int, chunks: int) -> None:
        """Let a running job send so many further CHUNKs."""
        self._send(FrameType.CREDIT, {"job": job, "fence": fence, "chunks": chunks})

    def reply(self, meta: Mapping[str, Any], blob: bytes) -> None:
        """Tell it what became of a CALL."""
        self._send(FrameType.REPLY, meta, blob)

    def show_stack(self) -> None:
        """Have it write to its output where each of its threads is, while it loads."""
        self._child.signal(signal.SIGUSR2)

    def terminate(self) -> None:
        """SIGTERM: it may let go in order of what it has outside of Python, and ends."""
        self._child.signal(signal.SIGTERM)

    def rss_bytes(self) -> int:
        """Its memory, as the kernel counts it; 0 where it is gone."""
        pid = self.pid if self._container is None else self._container.executor_pid()
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cancel(self, job: str, fence: int, reason: Literal["cancel", "timeout", "give-back"]) -> None:
        """Interrupt `job`. Its OUTCOME follows, unless the job resists: then `kill` after a grace.

        One that has not begun is dropped, and answered at once. "give-back" does that alone, and its OUTCOME
        is "skipped"; a job that has begun goes on.
        """
        self._send(FrameType.CANCEL, {"job": job, "fence": fence, "reason": reason}, then_poke=True)

    def stop(self) -> None:
        """Have it exit when it has run what it was given; `kill` after a grace where it does not."""
        self._send(FrameType.STOP, {})

    def keepalive(self) -> None:
        """Tell it that the lease was renewed, which lets it live for another `lease_s`. From any thread."""
        self._pulse_with(watchdog.BEAT)

    def flush(self) -> None:
        """Send what is still queued, as far as it goes without waiting."""
        while self._unsent:
            data, then_poke = self._unsent[0]
            count = self._send_some(data)
            if count < len(data):
                if self._unsent:
                    self._unsent[0] = _Unsent(data[count:], then_poke)
                if any(unsent.then_poke for unsent in self._unsent):
                    self._poke()  # it may be at a job and read nothing: have it make room for the CANCEL
                return
            self._unsent.popleft()
            if then_poke:
                self._poke()

    def _send(
        self, kind: FrameType, meta: Mapping[str, Any], blob: bytes = b"", *, then_poke: bool = False
    ) -> None:
        *before, last = frames.pieces(kind, meta, blob)
        if not before and not self._unsent:  # as a rule it leaves at once
            count = self._send_some(last)
            if count == len(last):
                if then_poke:
                    self._poke()
                return
            last = last[count:]
        self._unsent += [_Unsent(memoryview(piece), False) for piece in before]
        self._unsent.append(_Unsent(memoryview(last), then_poke))
        self.flush()

    def _send_some(self, data: bytes | memoryview) -> int:
        """How many bytes of `data` have left. For an executor that is gone nothing is kept."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            # What it sent before it died can still be read; its end is seen by frames().
            self._unsent.clear()
            return 0

    def _poke(self) -> None:
        """Have it look at its frames now. Before READY it might not survive the signal, and looks anyway."""
        if not self.ready:
            self._poke_when_ready = True
        elif not self._killed:
            self._pulse_with(watchdog.POKE)
            self._child.signal(signal.SIGUSR1)

    def _pulse_with(self, byte: bytes) -> None:
        with self._pulse_lock:  # the lease thread's word must not go where the number of a closed pipe leads
            if not self._pulse_closed:
                with contextlib.suppress(OSError):  # it is full of the like, or nobody reads it any more
                    os.write(self._pulse, byte)

    # -- its end -------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the process has not exited yet."""
        return not self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the process to exit, at most so long; whether it has. It is not reaped by this."""
        until = time.monotonic() + timeout_s
        while self._child.exit() is None:
            if time.monotonic() >= until:
                return False
            time.sleep(0.001)
        return True

    def kill(self, timeout_s: float = 5.0) -> bool:
        """SIGKILL the process and all its group, keep its last output in `tail`, reap and close everything.

        Frames that it sent before are lost unless `frames()` was called until `closed`. May be called twice.
        Returns whether it is gone: False where the kernel has not let go of it for `timeout_s` (in a driver,
        say); `kill` may then be called again.
        """
        if self.closed:
            last_s = _LAST_BREATH_S if self._container is None else _CONTAINERS_LAST_S
            self.wait(last_s)  # so that its own exit status is seen, not our SIGKILL
        if not self._killed:
            self._child.kill()
        gone = self.wait(timeout_s)
        if gone and not self._killed:
            self._killed = True
            self._child.reap()
            self.read_output()
            self._close()
        return gone

    @property
    def exit_code(self) -> int | None:
        """The code that it ended with; None: it has not, or that is not known."""
        ended = self._child.exit()
        return None if ended is None else ended.code

    def exit_description(self) -> str:
        """How it ended: "exited with code 3", "killed by SIGSEGV"; or "is still running"."""
        return str(self._child.exit() or "is still running")

    def _close(self) -> None:
        self.closed = True
        self._unsent.clear()
        self._sock.close()
        os.close(self._lifeline)
        with self._pulse_lock:
            self._pulse_closed = True
            os.close(self._pulse)
        if self._output is not None:
            os.close(self._output)
            self._output = None
