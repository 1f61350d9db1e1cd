"""`f.stream(...)`: what a function yields, as it comes, in `for` and in `async for`.

Values are read from the broker over a connection of the stream's own, verified, and said to have been taken; the
function runs ahead of its reader by a bounded amount (see the worker's outflow.py). A reader sees the values of one
run, in order, each once; or an error.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flashq import codec
from flashq.errors import BrokerUnreachable, StreamLost
from flashq.model.lifecycle import JobState
from flashq.store.chunks import Chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from flashq.client import Client
    from flashq.job import Call, EndpointJob
    from flashq.model.envelope import Envelope
    from flashq.store.chunks import Chunk

R = TypeVar("R")
_WAIT_S = 0.5  # how long the server is asked to wait: so soon a reader sees that its job has ended otherwise
_PAUSE_S = 0.1
_PATIENCE_S = 30.0  # for the broker, once the job has ended
_TAKE_AFTER, _TAKE_AFTER_BYTES = 32, 1 << 20
_END: Any = object()


class Stream(Generic[R]):
    """The values of one job. Iterate it once, with `for` or with `async for`.

    Raises, where it is iterated: the function's own exception, after all that it yielded before; a JobError where it
    ended otherwise; StreamLost where values are missing; SubmitError, BrokerError.
    """

    def __init__(self, client: Client, begin: Callable[[], EndpointJob[Any]], *, owned: bool) -> None:
        """`begin`: submits the call, or gives its job; `owned`: to leave the loop early cancels the job."""
        self._client = client
        self._begin = begin
        self._owned = owned
        self._job: EndpointJob[Any] | None = None

    @property
    def job(self) -> EndpointJob[Any]:
        """The job that yields. Submitted now, if it was not yet."""
        if self._job is None:
            self._job = self._begin()
        return self._job

    def __iter__(self) -> Iterator[R]:
        reader = self._reader()
        try:
            while (value := reader.next()) is not _END:
                yield value
        finally:
            self._leave(reader)

    async def __aiter__(self) -> AsyncIterator[R]:
        loop, reader = asyncio.get_running_loop(), self._reader()
        thread = ThreadPoolExecutor(1, "flashq-stream")  # the loop's own threads are few, and this one waits
        try:
            while (value := await loop.run_in_executor(thread, reader.next)) is not _END:
                yield value
        finally:
            self._leave(reader)
            thread.shutdown(wait=False)

    def _reader(self) -> _Reader:
        return _Reader(self._client, self.job._call)  # noqa: SLF001 — job and stream are one part

    def _leave(self, reader: _Reader) -> None:
        reader.close()
        if self._owned and not self.job.done:
            self.job.cancel()


class _Reader:
    """Gives the values one by one. `close` may be called while another thread waits in `next`."""

    def __init__(self, client: Client, call: Call) -> None:
        self._client = client
        self._call = call
        self._chunks: Chunks | None = None
        self._fence, self._number = 0, 0  # of the last value that was given
        self._fetched = 0, 0  # the same of the last that was fetched
        self._pending: deque[Chunk] = deque()
        self._unsaid, self._unsaid_bytes = 0, 0  # taken, and not said yet
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> None:
        self._closed = True
        if self._lock.acquire(blocking=False):  # else whoever is in `next` does it
            self._let_go()
            self._lock.release()

    def next(self) -> Any:
        """The next value, waited for; _END after the last."""
        with self._lock:
            try:
                opened = self._next()
            except BaseException:
                self._let_go()
                raise
            if self._closed or opened is None:
                self._let_go()
                return _END
        return codec.load_value(opened)

    def _next(self) -> Envelope | None:
        self._call.acknowledged.result(None)
        while not self._pending and not self._closed:
            ended = self._call.ended.done  # asked first: what was yielded until then is there to be fetched
            rows = self._fetch(0.0 if ended else _WAIT_S)
            self._pending += rows
            if rows:
                self._fetched = rows[-1].fence, rows[-1].number
            elif ended:
                self._check_end()
                return None
        if self._closed:
            return None
        opened = self._verified(self._pending.popleft())
        self._took(opened)
        return opened

    def _fetch(self, wait_s: float) -> list[Chunk]:
        if self._chunks is None:
            self._chunks = Chunks(self._client.broker, self._call.id)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._chunks.after(*self._fetched, wait_s)
            except (
                BrokerUnreachable
            ):  # whoever waits for the job's end hears of it after the client's patience
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)

    def _verified(self, row: Chunk) -> Envelope:
        job = self._call.id
        if row.fence != self._fence:
            if self._number:
                raise StreamLost(
                    f"job {job} was begun anew, after {self._number} of its values were read", job_id=job
                )
            self._fence = row.fence
        if row.number != self._number + 1:
            raise StreamLost(
                f"values {self._number + 1} to {row.number - 1} of job {job} were taken by another reader",
                job_id=job,
            )
        opened = codec.open_chunk(
            row.raw,
            self._client.keyring,
            endpoint=self._call.endpoint,
            job=job,
            fence=row.fence,
            number=row.number,
            call_digest=self._call.digest,
        )
        self._number = row.number
        return opened

    def _took(self, opened: Envelope) -> None:
        """Say from time to time what was taken: the function may then yield more."""
        self._unsaid += 1
        self._unsaid_bytes += len(opened.payload)
        if self._unsaid >= _TAKE_AFTER or self._unsaid_bytes >= _TAKE_AFTER_BYTES:
            self._say_taken()

    def _say_taken(self) -> None:
        self._unsaid = self._unsaid_bytes = 0
        take = self._client.transitions.take(self._call.id, self._fence, self._number)
        self._client.send(take, _nothing)

    def _check_end(self) -> None:
        """Nothing more comes: raises why, unless all of it was read."""
        ending = self._call.ended.result(0)
        if self._number and ending.fence != self._fence:
            raise StreamLost(
                f"job {self._call.id} was begun anew, after {self._number} of its values were read; that run yielded"
                f" none, and ended: {ending.state.value}",
                job_id=self._call.id,
            )
        if self._unsaid:
            self._say_taken()
        opened = self._client.waiting.opened(self._call, ending)  # raises where it ended otherwise
        if ending.state is JobState.FINISHED and opened.header.chunks != self._number:
            raise StreamLost(
                f"job {self._call.id} yielded {opened.header.chunks} values, of which {self._number} are here: the"
                " others were taken by another reader, or are kept no longer",
                job_id=self._call.id,
            )

    def _let_go(self) -> None:
        if self._chunks is not None:
            self._chunks.close()
            self._chunks = None


def _nothing(answer: object, error: Exception | None) -> None:
    """A take that is lost is made up for by the next; the last one only frees memory early."""
