"""The kinds of functions that workers run."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS = ("generator", "async_generator")
UNPINNED = "__flashq_unpinned__"
"""Attribute of what may not be called from the job that made it: why."""


def kind_of(function: Callable[..., Any] | None) -> str:
    """ "sync", "async", "generator" or "async_generator"."""
    if inspect.isasyncgenfunction(function):
        return "async_generator"
    if inspect.isgeneratorfunction(function):
        return "generator"
    return "async" if inspect.iscoroutinefunction(function) else "sync"
