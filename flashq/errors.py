"""Every error flashq raises on purpose, in one tree.

    FlashqError
    ├── ConfigurationError (ValueError)     something the caller wrote is wrong; nothing was sent
    │   ├── SpecError                       an Endpoint or with_options parameter
    │   │   └── NotSupportedError           valid, but not something this version can honour
    │   ├── SettingsError                   an environment variable or [tool.flashq]
    │   ├── EndpointExists                  two different endpoints of one name in one program
    │   └── UnsupportedCall                 this verb cannot be used here (inside a job, say)
    ├── BrokerError                         the broker refused, vanished or lost its data
    │   ├── BrokerUnreachable (ConnectionError)
    │   ├── BrokerUntrusted                 its certificate does not show that it is the one
    │   ├── BrokerRefused                   out of memory, read-only, disk full, wrong password
    │   │   └── Deposed                     an autoscaler acted after another had taken its place
    │   └── BrokerStateLost                 it came back without the data it had
    ├── SubmitError                         the call was not accepted; no job exists
    │   ├── SerializationError (TypeError)  an argument or the function cannot be pickled
    │   ├── PayloadTooLarge
    │   ├── PythonMismatch
    │   ├── QueueFull
    │   ├── SubmitBacklog                   too many calls of this process are on their way to the broker
    │   └── IdempotencyConflict
    ├── JobError                            the job exists and ended without a value
    │   ├── RemoteError                     the function raised something that cannot be rebuilt here
    │   │   └── ResultNotSerializable       its result cannot be pickled (or written as JSON)
    │   ├── WorkerCrashed                   the process running it died, more often than allowed
    │   │   └── JobLost                     it may begin only once, had begun, and its worker was lost
    │   ├── JobTimedOut (TimeoutError)      it ran past its execution timeout
    │   ├── JobExpired                      it waited in the queue past its ttl
    │   ├── JobCancelled
    │   ├── JobRefused                      the worker would not run it (signature, Python version)
    │   ├── EndpointFailed                  the endpoint cannot start (environment, load)
    │   ├── ResultExpired                   it completed, and its result was kept no longer
    │   └── JobNotFound
    ├── EndpointNotFound                    no endpoint of this name is registered
    ├── EnvironmentBuildError               dependencies could not be installed
    ├── BuildError                          a project could not be built into an artifact
    ├── ArtifactError                       an artifact is not what it claims to be, or was altered
    ├── DeployError                         what was deployed before stays as it is
    ├── EnvelopeError                       a signed record is not what it claims to be
    │   ├── MalformedEnvelope
    │   ├── UnknownKey
    │   ├── BadSignature
    │   ├── WrongBinding                    signed, but for another job, endpoint or direction
    │   └── EnvelopeExpired
    └── WaitTimeout (TimeoutError)          the wait ended; the job goes on

The exception a user's function raised is none of these: it is raised in the caller as its own type, with
the remote traceback attached as a note.
"""

from __future__ import annotations

from typing import Any


class FlashqError(Exception):
    """Base of every error flashq raises on purpose."""


# -- what the caller wrote ---------------------------------------------------------------------------


class ConfigurationError(FlashqError, ValueError):
    """Something given to flashq is wrong; nothing was sent anywhere."""


_UNSET: Any = object()


class SpecError(ConfigurationError):
    """A parameter of ``Endpoint(...)`` or ``with_options(...)`` is wrong; `parameter` names it."""

    def __init__(self, parameter: str, message: str, *, value: Any = _UNSET, where: str = "Endpoint") -> None:
        shown = "" if value is _UNSET else f"={value!r}"
        super().__init__(f"{where}({parameter}{shown}): {message}")
        self.parameter = parameter


class NotSupportedError(SpecError):
    """A valid parameter or value that this version of flashq cannot honour; it is refused, not ignored."""


class SettingsError(ConfigurationError):
    """An environment variable or a key of ``[tool.flashq]`` is missing or wrong."""


class EndpointExists(ConfigurationError):
    """Two different functions of one program claim the same endpoint name."""


class UnsupportedCall(ConfigurationError):
    """This verb cannot be used here."""


# -- the broker --------------------------------------------------------------------------------------


class BrokerError(FlashqError):
    """The broker (Redis or Valkey) could not do what was asked."""


class BrokerUnreachable(BrokerError, ConnectionError):
    """No connection to the broker could be made or kept."""


class BrokerUntrusted(BrokerError):
    """What answers at the broker's address does not show by its certificate that it is the broker."""


class BrokerRefused(BrokerError):
    """The broker answered with an error: out of memory, read-only, disk full, wrong password."""


class Deposed(BrokerRefused):
    """An autoscaler acted under an epoch that is over: another leads since, and nothing was changed."""


class BrokerStateLost(BrokerError):
    """The broker came back without the data it had acknowledged; waiting jobs are gone."""


# -- submitting --------------------------------------------------------------------------------------


class SubmitError(FlashqError):
    """The call was not accepted; no job exists."""


class SerializationError(SubmitError, TypeError):
    """An argument, or the function itself, cannot be pickled."""


class PayloadTooLarge(SubmitError):
    """The pickled arguments (or the function) are over the payload limit."""


class PythonMismatch(SubmitError):
    """Caller and worker have other versions of Python or cloudpickle, so code cannot travel between them."""


class QueueFull(SubmitError):
    """As many jobs wait for the endpoint as may (`max_queued`). `waiting` says how many, `endpoint` for which."""

    def __init__(self, message: str, *, endpoint: str = "", waiting: int = 0) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.waiting = waiting


class SubmitBacklog(SubmitError):
    """Too many calls of this process are on their way to a slow broker, and waiting would hold up the event loop."""


class IdempotencyConflict(SubmitError):
    """This idempotency key was used for another call. `job_id` names that one's job."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


# -- jobs that ended without a value -----------------------------------------------------------------


class JobError(FlashqError):
    """A job ended without a value. `job_id` names it; `log` holds its last output, where there is any."""

    def __init__(self, message: str, *, job_id: str | None = None, log: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
        self.log = log

    def __str__(self) -> str:
        text = super().__str__()
        if self.log:
            text += "\n--- last output ---\n" + self.log.rstrip("\n")
        return text


class RemoteError(JobError):
    """The function raised an exception that cannot be rebuilt here; its type, text and traceback are kept."""

    def __init__(
        self,
        message: str,
        *,
        type_name: str = "",
        traceback: str = "",
        job_id: str | None = None,
        log: str = "",
    ) -> None:
        super().__init__(message, job_id=job_id, log=log)
        self.type_name = type_name
        self.traceback = traceback


class ResultNotSerializable(RemoteError):
    """The function returned a value that cannot be pickled (or, for a JSON call, written as JSON)."""


class WorkerCrashed(JobError):
    """The process running the job died each time it was tried; says how (signal or exit code) and its last output."""


class JobLost(WorkerCrashed):
    """A job with `delivery="at_most_once"` had begun when its worker was lost: how far it came is not known."""


class JobTimedOut(JobError, TimeoutError):
    """The job ran past its execution timeout and was stopped."""


class JobExpired(JobError):
    """The job waited in the queue past its ttl and was not run."""


class JobCancelled(JobError):
    """The job was cancelled."""


class JobRefused(JobError):
    """The worker would not run the job: its signature, its binding or its Python version was wrong."""


class EndpointFailed(JobError):
    """The endpoint's workers cannot start: its environment does not install or its function does not load."""


class ResultExpired(JobError):
    """The job completed, but its result was kept only for `result_ttl` seconds."""


class StreamLost(JobError):
    """Of what a job yielded something cannot be read: it was begun anew meanwhile, or somebody else has read it."""


class JobNotFound(JobError):
    """The broker knows no such job: it never existed, was deleted, or expired long ago."""


class EndpointNotFound(FlashqError):
    """No endpoint of this name is registered."""


class HttpError(FlashqError):
    """The server of an endpoint's image answered with an error: `status` says which, `body` (bytes) what it said."""

    def __init__(self, message: str, status: int = 0, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class HostNotFound(FlashqError):
    """No host of this name is on record."""


# -- elsewhere ---------------------------------------------------------------------------------------


class EnvironmentBuildError(FlashqError):
    """An endpoint's dependencies could not be installed; `log_tail` holds the installer's last lines."""

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(f"{message}\n{log_tail.rstrip()}" if log_tail else message)
        self.log_tail = log_tail


class BuildError(FlashqError):
    """A project could not be built: a line for each thing that is wrong with it."""


class ArtifactError(FlashqError):
    """An artifact is not what it claims to be: it was altered, or nothing of flashq's made it."""


class DeployError(FlashqError):
    """An app could not be deployed, with the reason; what was deployed before stays as it is."""


class EnvelopeError(FlashqError):
    """A signed record is not what it claims to be; nothing of it was used."""


class MalformedEnvelope(EnvelopeError):
    """Not a flashq envelope: wrong shape, size, types or version."""


class UnknownKey(EnvelopeError):
    """Signed with a key (or an algorithm) this process does not accept."""


class BadSignature(EnvelopeError):
    """The signature or a digest does not match."""


class WrongBinding(EnvelopeError):
    """Correctly signed, but for another job, endpoint, namespace, generation or direction."""


class EnvelopeExpired(EnvelopeError):
    """Correctly signed, but too long ago."""


class WaitTimeout(FlashqError, TimeoutError):
    """The wait for a job ended before the job did; the job goes on."""
