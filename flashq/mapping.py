"""`f.map(...)`: many calls, their values in order, in bounded memory, in `for` and in `async for`."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Sized
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flashq.errors import ConfigurationError, SubmitError
from flashq.job import EndpointJob, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from flashq.endpoint import EndpointFunction

R = TypeVar("R")
DEFAULT_WINDOW = 1000
_AT_ONCE = 16  # calls submitted in one go in an event loop: a millisecond or two


class Map(Generic[R]):
    """The calls of one `map`. Iterate it once, with `for` or with `async for`.

    Leaving the loop early (break, an exception, Ctrl-C) cancels what is under way.
    """

    def __init__(
        self,
        function: EndpointFunction[Any, R],
        inputs: tuple[Iterable[Any], ...],
        kwargs: dict[str, Any],
        *,
        order: bool,
        return_exceptions: bool,
        window: int | None,
        progress: bool | None,
    ) -> None:
        if not inputs:
            raise ConfigurationError("map() needs at least one iterable")
        if function.options is not None and function.options.key:
            raise ConfigurationError(
                "map() makes many calls, and a key stands for one: call with_options(key=…) for each"
            )
        self._window = DEFAULT_WINDOW if window is None else window
        if type(self._window) is not int or self._window < 1:
            raise ConfigurationError(f"map(window={window!r}): must be a whole number of at least 1")
        self._function = function
        self._kwargs = kwargs
        self._calls = zip(*inputs, strict=False)
        self._total = min((len(i) for i in inputs if isinstance(i, Sized)), default=None)
        self._order = order
        self._return_exceptions = return_exceptions
        self._progress = progress
        self._flight = _Flight(order)

    # -- for -----------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[R]:
        with self._bar() as advance:
            try:
                while self._fill(self._window) or not self._flight.empty:
                    yield self._take(self._flight.next_blocking(), advance)
            finally:
                self._flight.cancel()

    # -- async for -----------------------------------------------------------------------------------
    async def __aiter__(self) -> AsyncIterator[R]:
        with self._bar() as advance:
            try:
                while (more := self._fill(_AT_ONCE)) or not self._flight.empty:
                    if more and not self._flight.ready:
                        await asyncio.sleep(0)  # other tasks get their turn while the window fills
                    else:
                        yield self._take(await self._flight.next_async(), advance)
            finally:
                self._flight.cancel()

    def _fill(self, most: int) -> bool:
        """Submit up to `most` calls, within the window; False where nothing was left to submit, or no room."""
        from flashq.client import current_client

        client = current_client()
        room = min(most, self._window - len(self._flight))
        before = len(self._flight)
        for args in islice(self._calls, room):
            try:
                job = client.submit(self._function, args, self._kwargs)
            except SubmitError as error:  # takes its place among the values, like any other failure
                job = client.refused(self._function, error)
            self._flight.add(job)
        return len(self._flight) > before

    def _take(self, job: EndpointJob[R], advance: Callable[[], None]) -> Any:
        advance()
        if self._return_exceptions and job.error is not None:
            return job.error
        return job.result(0)

    def _bar(self) -> AbstractContextManager[Callable[[], None]]:
        shown = sys.stderr.isatty() if self._progress is None else self._progress
        if not shown:
            return nullcontext(lambda: None)
        from flashq.progress import progress_bar

        return progress_bar(self._function.name, self._total)


class _Flight:
    """The jobs under way: taken in order, or as they end."""

    def __init__(self, order: bool) -> None:
        self._jobs: deque[EndpointJob[Any]] = deque()
        self._order = order
        self._ended: deque[EndpointJob[Any]] = deque()
        self._woken: Reply[None] = Reply()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def empty(self) -> bool:
        return not self._jobs

    @property
    def ready(self) -> bool:
        """Whether the next one can be taken without waiting."""
        return self._jobs[0].done if self._order and self._jobs else bool(self._ended)

    def add(self, job: EndpointJob[Any]) -> None:
        self._jobs.append(job)
        if not self._order:
            job._call.ended.on_done(lambda: self._landed(job))  # noqa: SLF001 — a part of the SDK

    def _landed(self, job: EndpointJob[Any]) -> None:
        self._ended.append(job)
        self._woken.set(None)

    def next_blocking(self) -> EndpointJob[Any]:
        if self._order:
            self._jobs[0]._call.ended.wait()  # noqa: SLF001
            return self._jobs.popleft()
        while not self._ended:
            self._woken.wait()
            self._woken = Reply()
        return self._pop_ended()

    async def next_async(self) -> EndpointJob[Any]:
        if self._order:
            await self._jobs[0]._call.ended.until_done()  # noqa: SLF001
            return self._jobs.popleft()
        while not self._ended:
            await self._woken.until_done()
            self._woken = Reply()
        return self._pop_ended()

    def _pop_ended(self) -> EndpointJob[Any]:
        job = self._ended.popleft()
        self._jobs.remove(job)
        return job

    def cancel(self) -> None:
        """Cancel what has not ended."""
        while self._jobs:
            job = self._jobs.popleft()
            if not job.done:
                job.cancel()
