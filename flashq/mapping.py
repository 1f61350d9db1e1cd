"""`f.map(...)`: many calls, their values in order, in bounded memory, in `for` and in `async for`.

A full queue (QueueFull) is no error here: the call is made again once some of those before it have ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sized
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flashq.errors import ConfigurationError, SubmitError
from flashq.flight import Flight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from flashq.endpoint_function import EndpointFunction
    from flashq.job import EndpointJob

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
        most = DEFAULT_WINDOW if window is None else window
        if type(most) is not int or most < 1:
            raise ConfigurationError(f"map(window={window!r}): must be a whole number of at least 1")
        self._function = function
        self._kwargs = kwargs
        self._calls = zip(*inputs, strict=False)
        self._total = min((len(i) for i in inputs if isinstance(i, Sized)), default=None)
        self._return_exceptions = return_exceptions
        self._progress = progress
        self._flight = Flight(most, order)

    # -- for -----------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[R]:
        flight = self._flight
        with self._bar() as advance:
            try:
                while self._fill(flight.most) or not flight.empty:
                    if flight.wait():
                        yield self._take(flight.pop(), advance)
            finally:
                flight.cancel()

    # -- async for -----------------------------------------------------------------------------------
    async def __aiter__(self) -> AsyncIterator[R]:
        flight = self._flight
        with self._bar() as advance:
            try:
                while (more := await self._afill(_AT_ONCE)) or not flight.empty:
                    if more and not flight.ready:
                        await asyncio.sleep(0)  # other tasks get their turn while the window fills
                    elif await flight.await_():
                        yield self._take(flight.pop(), advance)
            finally:
                flight.cancel()

    def _fill(self, most: int) -> bool:
        """Submit up to `most` calls, within the window; False where nothing was left to submit, or no room."""
        from flashq.nested import current_caller

        client, made = current_caller(), 0
        while made < most and (call := self._flight.next_call(self._calls)) is not None:
            try:
                job = client.submit(self._function, call.args, self._kwargs)
            except SubmitError as error:  # takes its place among the values, like any other failure
                job = client.refused(self._function, error)
            self._flight.add(call, job)
            made += 1
        return made > 0

    async def _afill(self, most: int) -> bool:
        """The same, awaiting where too much is on its way to the broker."""
        from flashq.nested import current_caller

        client, made = current_caller(), 0
        while made < most and (call := self._flight.next_call(self._calls)) is not None:
            try:
                job = await client.asubmit(self._function, call.args, self._kwargs)
            except SubmitError as error:
                job = client.refused(self._function, error)
            self._flight.add(call, job)
            made += 1
        return made > 0

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
