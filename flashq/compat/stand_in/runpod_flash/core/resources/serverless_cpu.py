"""Parameters in the cloud's spelling."""

from flashq.compat.names import CpuServerlessEndpoint

__all__ = ["CpuServerlessEndpoint"]
