"""flashq: run Python functions on GPU machines you own. Put `@Endpoint` on a function and call it.

Names are loaded when first used, so that importing flashq costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flashq._version import __version__

if TYPE_CHECKING:
    from flashq.endpoint import Endpoint
    from flashq.endpoint_function import EndpointFunction
    from flashq.errors import FlashqError
    from flashq.inside import CurrentJob, current
    from flashq.job import EndpointJob, Timing
    from flashq.model.lifecycle import Status
    from flashq.model.resources import CpuInstanceType, GpuGroup, GpuType
    from flashq.model.retry import Retries
    from flashq.queue import Queue, fetch_job

_WHERE = {
    "CpuInstanceType": "flashq.model.resources",
    "CurrentJob": "flashq.inside",
    "Endpoint": "flashq.endpoint",
    "EndpointFunction": "flashq.endpoint_function",
    "EndpointJob": "flashq.job",
    "FlashqError": "flashq.errors",
    "GpuGroup": "flashq.model.resources",
    "GpuType": "flashq.model.resources",
    "Queue": "flashq.queue",
    "Retries": "flashq.model.retry",
    "Status": "flashq.model.lifecycle",
    "Timing": "flashq.job",
    "current": "flashq.inside",
    "fetch_job": "flashq.queue",
}

__all__ = [
    "CpuInstanceType",
    "CurrentJob",
    "Endpoint",
    "EndpointFunction",
    "EndpointJob",
    "FlashqError",
    "GpuGroup",
    "GpuType",
    "Queue",
    "Retries",
    "Status",
    "Timing",
    "__version__",
    "current",
    "fetch_job",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'flashq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
