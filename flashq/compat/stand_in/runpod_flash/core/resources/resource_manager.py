"""Refused."""

from flashq.compat.names import ResourceManager

__all__ = ["ResourceManager"]
