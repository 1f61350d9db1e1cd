"""Endpoints."""

from flashq.compat.names import (
    Endpoint,
    EndpointJob,
)

__all__ = ["Endpoint", "EndpointJob"]
