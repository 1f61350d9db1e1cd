"""What is wrong with a request, as its answer says it: one place where errors become status codes.

Every answer that is an error is `{"error": text}`, with `field` where one thing in the request is to blame.
"""

from __future__ import annotations

from typing import Any

from flashq import errors


class Problem(Exception):
    """Ends a request. `field`: what of it is wrong, such as `input.prompt`."""

    def __init__(
        self, status: int, message: str, *, field: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        return {"error": self.message, **({"field": self.field} if self.field else {})}


RETRY_AFTER_S = 5
_STATUS: tuple[tuple[type[errors.FlashqError], int], ...] = (
    (errors.EndpointNotFound, 404),
    (errors.JobNotFound, 404),
    (errors.ResultExpired, 404),
    (errors.PayloadTooLarge, 413),
    (errors.QueueFull, 429),
    (errors.SubmitBacklog, 429),
    (errors.IdempotencyConflict, 409),
    (errors.UnsupportedCall, 400),
    (errors.ConfigurationError, 422),
    (errors.BrokerUnreachable, 503),
    (errors.BrokerError, 503),
    (errors.EnvelopeError, 502),
)


def of_error(error: errors.FlashqError) -> Problem:
    """The answer to a request that one of our errors ended."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    return Problem(status, str(error), headers=headers)
