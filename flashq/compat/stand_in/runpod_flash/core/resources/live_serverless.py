"""Parameters in the cloud's spelling."""

from flashq.compat.names import (
    CpuLiveLoadBalancer,
    CpuLiveServerless,
    LiveLoadBalancer,
    LiveServerless,
)

__all__ = ["CpuLiveLoadBalancer", "CpuLiveServerless", "LiveLoadBalancer", "LiveServerless"]
