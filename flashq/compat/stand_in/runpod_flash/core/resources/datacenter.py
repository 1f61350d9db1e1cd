"""Data centres."""

from flashq.compat.names import (
    CPU_DATACENTERS,
    DataCenter,
)

__all__ = ["CPU_DATACENTERS", "DataCenter"]
