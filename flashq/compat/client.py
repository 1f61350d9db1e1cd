"""Flash's client: `run`, `runsync` and `cancel` of an endpoint by its name, with jobs as Flash has them.

An input is what the cloud hands to a function: a dict of its arguments; of a class, `method` names which of its
methods, if there are several. Values are Python's here, and not only JSON's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.errors import NotSupportedError, SpecError, UnsupportedCall, WaitTimeout
from flashq.model.lifecycle import Status

if TYPE_CHECKING:
    from flashq.deployed import DeployedFunction
    from flashq.endpoint_function import EndpointFunction
    from flashq.job import EndpointJob as FlashqJob


class EndpointJob:
    """A job of an endpoint that is called by name. What failed is told by `error`, and not raised."""

    def __init__(self, job: FlashqJob[Any]) -> None:
        self._job = job

    def __repr__(self) -> str:
        return f"EndpointJob(id={self.id!r})"

    @property
    def id(self) -> str:
        """Names it, in the broker and on the command line."""
        return self._job.id

    @property
    def done(self) -> bool:
        """True once it has ended."""
        return self._job.done

    @property
    def output(self) -> Any:
        """Its value once it completed, else None."""
        return self._job.output

    @property
    def error(self) -> str | None:
        """Why it has no value, once that is known, else None."""
        found = self._job.error
        return None if found is None else f"{type(found).__name__}: {found}"

    async def status(self) -> str:
        """Its state now: IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED, CANCELLED or TIMED_OUT."""
        return Status(await self._job.status()).value

    async def wait(self, timeout: float | None = None) -> EndpointJob:
        """Wait for its end, good or bad. Raises TimeoutError after so many seconds; the job goes on."""
        try:
            await self._job.wait(timeout)
        except WaitTimeout:
            raise
        except Exception:
            if not self._job.done:  # it was not accepted, or the broker is gone
                raise
        return self

    async def cancel(self) -> EndpointJob:
        """Have it stopped."""
        await self._job.cancel()
        return self


async def run(function: EndpointFunction[..., Any], given: Any, webhook: str | None) -> EndpointJob:
    """Submit a job. Raises: SpecError, NotSupportedError, EndpointNotFound, SubmitError, BrokerError."""
    if webhook is not None:
        raise NotSupportedError(
            "webhook", "a program that waits needs none; the gateway calls back", where="run"
        )
    if not isinstance(given, dict):
        raise SpecError("input", "must be a dict of the function's arguments", value=given, where="run")
    target, arguments = _target(function, dict(given))
    return EndpointJob(await target.aspawn(**arguments))


async def runsync(function: EndpointFunction[..., Any], given: Any, patience_s: float) -> EndpointJob:
    """Submit a job and wait for its end, at most so long."""
    job = await run(function, given, None)
    try:
        return await job.wait(patience_s)
    except WaitTimeout:
        return job


def job_of(job_id: str) -> EndpointJob:
    """The job of this id."""
    from flashq.queue import fetch_job

    return EndpointJob(fetch_job(job_id))


def _target(
    function: EndpointFunction[..., Any], arguments: dict[str, Any]
) -> tuple[EndpointFunction[..., Any], dict[str, Any]]:
    """What is called, and with what."""
    arguments.pop("__empty", None)  # how the cloud writes that there are none
    if not getattr(function, "deployed", False):
        return function, arguments
    found: DeployedFunction = function  # type: ignore[assignment]
    current = found._current()  # noqa: SLF001 -- client mode is one part
    if current is None or not current.targets:
        return function, arguments
    method = arguments.pop("method", None)
    if method is None and len(current.targets) > 1:
        raise UnsupportedCall(
            f"endpoint {found.name!r} is a class with several methods: name one in the input, as 'method'"
            f" ({', '.join(current.targets)})"
        )
    return found.method(method or next(iter(current.targets))), arguments
