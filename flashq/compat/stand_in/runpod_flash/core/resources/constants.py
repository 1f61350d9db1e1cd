"""Defaults."""

from flashq.compat.names import (
    DEFAULT_WORKERS_MAX,
    DEFAULT_WORKERS_MIN,
)

__all__ = ["DEFAULT_WORKERS_MAX", "DEFAULT_WORKERS_MIN"]
