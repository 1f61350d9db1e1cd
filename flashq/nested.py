"""Calls from inside a job: the same functions and jobs as elsewhere, sent through the job's worker.

A job's process holds neither the broker's address nor a key. What is called is handed to the supervisor, which has it
signed and submitted if the job's signed revision permits it (decision 0029). The executor, which imports nothing of
flashq, carries it; here it is looked up. No more than the standard library is needed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from flashq import errors
from flashq.failures import exception_for
from flashq.job import Call, EndpointJob, Reply
from flashq.kinds import UNPINNED
from flashq.model.lifecycle import JobState
from flashq.model.outcome import Ending, Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from flashq.client import Client
    from flashq.endpoint_function import EndpointFunction

_EXECUTOR = "flashq_worker.executor.calls"
DEPLOYED_AS: dict[str, str] = {}
"""In a deployed app's executor: what its endpoints are called in its environment, where that is something else."""


def current_caller() -> Client | JobCaller:
    """Who makes the calls of this process: its client, or in an executor the job that runs."""
    executor = sys.modules.get(_EXECUTOR)
    if executor is None or executor.CALLS is None:
        from flashq.client import current_client

        return current_client()
    return JobCaller.of(executor.CALLS)


@dataclass(frozen=True, slots=True)
class _Ended(Ending):
    failure: Failure | None = None


class JobCaller:
    """What `Client` is elsewhere, for the jobs of one executor."""

    _one: JobCaller | None = None

    def __init__(self, calls: Any) -> None:
        """`calls`: the executor's end, `executor.calls.Calls`."""
        self._calls = calls
        self._numbers: dict[Call, int] = {}  # of those that have not ended
        self.waiting = self  # what a client keeps apart

    @classmethod
    def of(cls, calls: Any) -> JobCaller:
        """The one of this executor."""
        one = cls._one
        if one is None or not one.is_of(calls):
            one = cls._one = Reply.waiter = cls(calls)
        return one

    def is_of(self, calls: object) -> bool:
        """Whether it makes its calls by this."""
        return self._calls is calls

    # -- what EndpointFunction and Map ask for -------------------------------------------------------
    def submit(
        self,
        function: EndpointFunction[Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        blocking: bool = True,
    ) -> EndpointJob[Any]:
        """Make a call, which is cancelled should this job be, or be killed.

        Raises: SerializationError, PayloadTooLarge, UnsupportedCall.
        """
        return self._submit(function, args, kwargs, detached=False)

    async def asubmit(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """The same for coroutines."""
        return self.submit(function, args, kwargs)

    def spawn(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """Make a call that goes on whatever becomes of this job; returns once the broker has it."""
        job = self._submit(function, args, kwargs, detached=True)
        job._call.acknowledged.result(None)  # noqa: SLF001 — as in `Client`
        return job

    async def aspawn(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """The same for coroutines."""
        job = self._submit(function, args, kwargs, detached=True)
        await job._call.acknowledged  # noqa: SLF001
        return job

    def refused(self, function: EndpointFunction[Any, Any], error: errors.SubmitError) -> EndpointJob[Any]:
        """A job that was never sent, ended by the error that kept it from being."""
        call = Call("", function.name)
        call.acknowledged.fail(error)
        call.ended.fail(error)
        return self._job(call)

    def stream(self, *_: object, **__: object) -> NoReturn:
        """Refused."""
        raise errors.UnsupportedCall(
            "a job cannot read what another one yields as it comes: call a function that returns"
        )

    def _submit(
        self,
        function: EndpointFunction[Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        detached: bool,
    ) -> EndpointJob[Any]:
        if why := getattr(function.code, UNPINNED, ""):
            raise errors.UnsupportedCall(why)
        call = Call("", function.name)
        try:
            payload = self._calls.pickled(args, kwargs)
        except Exception as error:  # pickling runs user code: anything may come out of it
            raise errors.SerializationError(
                f"the arguments of {function.name} cannot be pickled: {type(error).__name__}: {error}"
            ) from error
        if len(payload) > self._calls.limit:
            raise errors.PayloadTooLarge(
                f"the arguments of {function.name} take {len(payload):,} bytes pickled; the limit is"
                f" {self._calls.limit:,}"
            )
        try:
            self._numbers[call] = self._calls.begin(
                DEPLOYED_AS.get(function.name, function.name),
                function.target,
                {name: _plain(value) for name, value in function.given_options.items()},
                payload,
                detached=detached,
                told=lambda meta, blob: self._told(call, meta, blob),
            )
        except ValueError as error:  # no job is current, or it cannot call
            raise errors.UnsupportedCall(str(error)) from None
        return self._job(call)

    def _job(self, call: Call) -> EndpointJob[Any]:
        return EndpointJob(cast("Client", self), call)

    # -- waiting (see flashq.job.Waiter) -------------------------------------------------------------
    def wait(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Block until `done()`. Raises UnsupportedCall where the executor cannot."""
        try:
            return bool(self._calls.wait(done, timeout_s))
        except ValueError as error:
            raise errors.UnsupportedCall(str(error)) from None

    def awaiting(self) -> AbstractContextManager[None]:
        """A task waits meanwhile. Raises UnsupportedCall where that would be in vain."""
        if not self._calls.awaits:
            raise errors.UnsupportedCall(
                "a plain function awaits nothing: f.remote(x), or f(x).result(), or make it `async def`"
            )
        return cast("AbstractContextManager[None]", self._calls.awaiting())

    # -- what EndpointJob asks for -------------------------------------------------------------------
    def cancel(self, call: Call) -> Reply[str]:
        """See EndpointJob.cancel."""
        reply: Reply[str] = Reply()
        number = self._numbers.get(call)
        if number is None:
            reply.set(call.ended.result(0).state.value if call.settled else "unknown")
        else:
            self._calls.cancel(number)
            reply.set("requested")
        return reply

    def decode(self, call: Call, ending: Ending) -> Any:
        """The value of an ended call; or raises why there is none."""
        failure = ending.failure if isinstance(ending, _Ended) else None
        if failure is not None:
            raise exception_for(failure, call.id, self._calls.unpickled)
        return self._calls.unpickled(ending.outcome)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise errors.UnsupportedCall("status, timing, logs and requeue of a call are not known inside a job")

    status = timing = progress = logs = requeue = _refuse

    # -- what the worker says ------------------------------------------------------------------------
    def _told(self, call: Call, meta: Mapping[str, Any], blob: bytes) -> None:
        if meta["what"] == "accepted":
            call.id, call.cold = meta["job"], meta["cold"]
            call.acknowledged.set(None)
            return
        self._numbers.pop(call, None)
        if meta["what"] == "refused":
            error = _error(meta)
            call.acknowledged.fail(error)
            call.ended.fail(error)
            return
        call.acknowledged.set(None)
        if meta["state"] == JobState.FINISHED:
            call.ended.set(_Ended(JobState.FINISHED, 0, outcome=blob))
            return
        said = meta["failure"]
        failure = Failure(**{**said, "kind": FailureKind(said["kind"]), "exception": blob})
        call.ended.set(_Ended(JobState(meta["state"]), 0, failure.kind, failure.message, failure=failure))


def _plain(option: Any) -> Any:
    """An option as JSON has it."""
    return (
        option.as_dict()
        if hasattr(option, "as_dict")
        else dict(option)
        if hasattr(option, "items")
        else option
    )


def _error(meta: Mapping[str, Any]) -> errors.FlashqError:
    """The error that kept a call from being accepted."""
    if meta["error"] == "QueueFull":
        return errors.QueueFull(meta["message"], endpoint=meta["endpoint"], waiting=meta["waiting"])
    kind = getattr(errors, meta["error"], None)
    if kind in (errors.EndpointNotFound, errors.UnsupportedCall, errors.BrokerError, errors.JobNotFound):
        return cast("errors.FlashqError", kind(meta["message"]))
    return errors.SubmitError(meta["message"])
