"""The version of flashq: read by the build, the wire's records and `flashq --version`."""

from __future__ import annotations

__version__ = "0.1.0"
