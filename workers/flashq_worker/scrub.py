"""What of the worker's own environment variables other programs may see: user code, installers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = ("FLASHQ_", "RQ_", "REDIS_", "VALKEY_")
"""Beginnings of names that may hold the broker's address, its password or a signing key."""


def scrubbed(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` without those that are flashq's own."""
    return {name: value for name, value in variables.items() if not name.startswith(OURS)}
