"""The older decorator."""

from flashq.compat.names import remote

__all__ = ["remote"]
