"""GPUs."""

from flashq.compat.names import (
    GpuGroup,
    GpuType,
)

__all__ = ["GpuGroup", "GpuType"]
