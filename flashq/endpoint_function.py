"""A function whose calls run on workers: what the decorator makes of it, and each method of a class endpoint.

Inside a job the same names are there, but only `local` works.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar

from flashq.errors import UnsupportedCall
from flashq.kinds import STREAMS, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flashq.job import EndpointJob
    from flashq.mapping import Map
    from flashq.model.retry import Retries
    from flashq.model.spec import CallOptions, EndpointSpec
    from flashq.model.terms import Terms
    from flashq.queue import Queue
    from flashq.stream import Stream

P = ParamSpec("P")
R = TypeVar("R")


class EndpointFunction(Generic[P, R]):
    """A function whose calls run on workers. Its signature, name and docstring are the function's own."""

    deployed = False
    """Whether it stands for what something else registered, of which no code is here."""
    encoding = "pickle"
    """Of its calls' arguments and values: "pickle", or "json"."""

    def __init__(
        self,
        name: str,
        function: Callable[P, Any],
        spec: EndpointSpec | None,
        options: CallOptions | None = None,
        *,
        code: Callable[..., Any] | None = None,
        target: str = "",
        given: Mapping[str, Any] | None = None,
    ) -> None:
        """`code`: what workers load, if not the function itself; `target`: which method of that is called.

        `given`: what `with_options` was given, as it was given, of which `options` is the checked form.
        """
        self.name = name
        self.code: Callable[..., Any] = code or function
        self.target = target
        self.__flashq_endpoint__ = name
        self._function = function
        self._spec = spec
        self._options = options
        self.given_options = dict(given or {})
        self._terms: Terms | None = None
        functools.update_wrapper(self, function)
        targets: dict[str, str] = getattr(self.code, "__flashq_targets__", {})
        self._kind = targets[target] if target else kind_of(function)

    def __repr__(self) -> str:
        return f"<Endpoint {self.name!r}: {self.__wrapped__.__qualname__}>"

    if TYPE_CHECKING:
        __wrapped__: Callable[..., Any]
        __name__: str
        __qualname__: str

    def __reduce__(self) -> tuple[Any, ...]:
        # Inside a job an endpoint is its function and its name: its parameters are on record.
        given = (self.given_options,) if self.given_options else ()
        return _plain, (self.name, self._function, self.code, self.target, *given)

    @property
    def __flashq_function__(self) -> EndpointFunction[P, R]:
        return self

    @property
    def spec(self) -> EndpointSpec:
        """The validated parameters. Raises UnsupportedCall inside a job, where they are not known."""
        if self._spec is None:
            raise UnsupportedCall(f"the parameters of endpoint {self.name!r} are not known inside a job")
        return self._spec

    @property
    def queue(self) -> Queue:
        """What waits for it and what failed, to look after: pause, resume, requeue, purge."""
        from flashq.queue import Queue

        return Queue(self.name)

    @property
    def terms(self) -> Terms:
        """What the calls made through this object are submitted with."""
        if self._terms is None:
            from flashq.model.terms import terms_of

            self._terms = terms_of(self.spec, self._options)
        return self._terms

    @property
    def options(self) -> CallOptions | None:
        """What `with_options` set for the calls made through this object."""
        return self._options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> EndpointJob[R]:
        """Submit a call: `await f(x)` gives its value. It is sent at once and runs even if not awaited.

        Where the broker is slow and 10,000 calls of this process are on their way to it, this blocks until one has
        arrived; in an event loop it raises SubmitBacklog instead (`await f.aspawn(x)` waits).
        """
        from flashq.nested import current_caller

        self._check_returns()
        return current_caller().submit(self, args, kwargs, blocking=False)

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call and block for the value. Interrupted (Ctrl-C), it cancels the job.

        On a terminal, what the function prints is shown on stderr as it comes.
        """
        from flashq import shown

        job = self(*args, **kwargs)
        try:
            with shown.output(job):
                job._call.ended.wait()  # noqa: SLF001 — `result` would say that the job goes on
                return job.result()
        except KeyboardInterrupt as interrupt:
            job.cancel()
            interrupt.add_note(f"job {job.id} is cancelled")
            raise

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Stream[Any]:
        """Call a function that yields; iterate, with `for` or `async for`, for the values as they come.

        The call is submitted when iteration begins. Leaving the loop early cancels the job.
        """
        from flashq.nested import current_caller

        if not self._yields:
            raise UnsupportedCall(f"endpoint {self.name!r} yields nothing: call it with remote, or await it")
        client = current_caller()
        return client.stream(lambda: client.submit(self, args, kwargs, blocking=False), owned=True)

    @property
    def _yields(self) -> bool:
        return self._kind in STREAMS

    def _check_returns(self) -> None:
        if self._yields:
            raise UnsupportedCall(
                f"endpoint {self.name!r} yields its values: `for value in {self.name}.stream(...)` gives them as they "
                f"come; {self.name}.spawn(...) gives a job whose stream() does"
            )

    def spawn(self, *args: P.args, **kwargs: P.kwargs) -> EndpointJob[R]:
        """Submit a call and return once the broker has acknowledged it.

        Raises: SubmitError, BrokerError.
        """
        from flashq.nested import current_caller

        return current_caller().spawn(self, args, kwargs)

    async def aspawn(self, *args: P.args, **kwargs: P.kwargs) -> EndpointJob[R]:
        """Like `spawn`, for coroutines: awaits the broker's acknowledgement, and room where the broker is slow."""
        from flashq.nested import current_caller

        return await current_caller().aspawn(self, args, kwargs)

    def map(
        self,
        *inputs: Iterable[Any],
        kwargs: dict[str, Any] | None = None,
        order: bool = True,
        return_exceptions: bool = False,
        window: int | None = None,
        progress: bool | None = None,
    ) -> Map[R]:
        """Call for each item (or, of several iterables, for each tuple of items); iterate for the values.

        Works in `for` and in `async for`. At most `window` calls are under way or waiting to be taken, so an
        endless input needs bounded memory. `order=False` yields values as they come. With `return_exceptions`
        errors are yielded in place of values; else the first one is raised and what is under way is cancelled.
        `progress` shows a bar on stderr; by default where that is a terminal.
        """
        from flashq.mapping import Map

        self._check_returns()
        return Map(
            self,
            inputs,
            kwargs or {},
            order=order,
            return_exceptions=return_exceptions,
            window=window,
            progress=progress,
        )

    def in_json(self) -> EndpointFunction[P, Any]:
        """The same endpoint, its calls made in JSON, as they are over HTTP: arguments become what annotations say."""
        made = self.with_options()
        made.encoding = "json"
        return made

    def local(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function here, as if undecorated (a coroutine function gives a coroutine)."""
        return self._function(*args, **kwargs)

    def with_options(
        self,
        *,
        key: str | None = None,
        priority: int | None = None,
        delay_s: float | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
        retries: int | Retries | Mapping[str, Any] | None = None,
        delivery: Literal["at_least_once", "at_most_once"] | None = None,
    ) -> EndpointFunction[P, R]:
        """The same endpoint, its calls made with these options; those not given stay as they are.

        `key`: idempotency key: within a day, a second call with it is the first job. `priority`: higher goes
        first. `delay_s`: not before. `ttl_s`: expires unless begun so long after submit (or the delay).
        `timeout_s`: stopped after so long. `retries`, `delivery`: in place of the endpoint's.
        Raises: SpecError.
        """
        given = {
            "key": key,
            "priority": priority,
            "delay_s": delay_s,
            "ttl_s": ttl_s,
            "timeout_s": timeout_s,
            "retries": retries,
            "delivery": delivery,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        all_given = {**self.given_options, **changes}
        if self._spec is None:  # inside a job: they are checked where the call is signed
            return EndpointFunction(
                self.name, self._function, None, code=self.code, target=self.target, given=all_given
            )
        from flashq.model.spec import CallOptions
        from flashq.model.terms import terms_of

        options = (self._options or CallOptions()).merged(**changes)
        terms_of(self.spec, options)
        return EndpointFunction(
            self.name,
            self._function,
            self.spec,
            options,
            code=self.code,
            target=self.target,
            given=all_given,
        )


def _plain(
    name: str,
    function: Callable[..., Any],
    code: Callable[..., Any],
    target: str,
    given: Mapping[str, Any] | None = None,
) -> EndpointFunction[..., Any]:
    return EndpointFunction(name, function, None, code=code, target=target, given=given)
